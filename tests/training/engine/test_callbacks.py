"""Temperature against the formula of the paper's code: tau = max(0, (T - t) / T), t = iteration + 1."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.training import RunConfig, ScheduleConfig, TemperatureCallback, fit
from dynaconv.training._lightning import Callback, Trainer
from tests.training.tiny import BATCH, IMAGES, static_recipe, tiny_recipe

PER_EPOCH = IMAGES // BATCH


class Watch(Callback):
    """Notes temperature and place of every iteration, after its step."""

    def __init__(self):
        self.taus, self.steps = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.taus.append(dynaconv.get_temperature(pl_module))
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(("accumulate", "epochs", "length"), [(1, 3, 2), (2, 3, 2), (3, 2, 1.5), (1, 2, 0), (2, 2, 2)])
def test_temperature_follows_iterations_not_steps(tmp_path, accumulate, epochs, length):
    recipe = tiny_recipe(
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=0, temperature_epochs=length),
        run=RunConfig(accelerator="cpu", accumulate=accumulate),
    )
    watch = Watch()
    result = fit(recipe, tmp_path, callbacks=(watch,))
    total = length * PER_EPOCH
    expected = [max(0.0, (total - t) / total) if total else 0.0 for t in range(1, epochs * PER_EPOCH + 1)]
    assert watch.taus == pytest.approx(expected, abs=1e-6)
    assert watch.steps[-1] == epochs * -(-PER_EPOCH // accumulate)
    assert [row["tau"] for row in result.rows] == pytest.approx(expected[PER_EPOCH - 1 :: PER_EPOCH], abs=1e-6)


def test_a_static_network_has_no_temperature(tmp_path):
    watch = Watch()
    result = fit(dataclasses.replace(static_recipe(), schedule=ScheduleConfig(epochs=1)), tmp_path, callbacks=(watch,))
    assert watch.taus == [None] * PER_EPOCH
    assert result.rows[0]["tau"] is None


def test_the_saved_network_has_the_temperature_of_its_epoch(tmp_path):
    saved = []

    class Read(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch:
                saved.append(dynaconv.get_temperature(load_checkpoint(tmp_path / "last")[0]))

    recipe = tiny_recipe(schedule=ScheduleConfig(epochs=4, warmup_epochs=0, temperature_epochs=4))
    fit(recipe, tmp_path, callbacks=(Read(),))
    assert saved == pytest.approx([0.75, 0.5, 0.25])


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers.*")
def test_works_in_any_lightning_module():
    from lightning.pytorch import LightningModule

    class Own(LightningModule):
        def __init__(self):
            super().__init__()
            network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3))
            self.network = dynaconv.convert(network, dynaconv.KernelWarehouseConfig(sharing="layer"), where="1")

        def training_step(self, batch, batch_idx):
            return self.network(batch).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    watch = Watch()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TemperatureCallback(epochs=2), watch],
    )
    trainer.fit(Own(), DataLoader(torch.rand(8, 1, 8, 8), batch_size=4))
    assert watch.taus == pytest.approx([0.75, 0.5])
