"""What two processes run: the same recipe with DDP, with FSDP, and with FSDP in two parts."""

from __future__ import annotations

from pathlib import Path

from dynaconv.training import LoaderConfig, RunConfig, ScheduleConfig, fit, resume
from dynaconv.training._lightning import Callback
from tests.training.tiny import METHOD, tiny_recipe


class Interrupted(Exception):
    pass


class Stop(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, trainer.global_step) == (1, 3):
            raise Interrupted


def recipe(strategy: str):
    return tiny_recipe(
        method={**METHOD, "norm": "layer"},
        loader=LoaderConfig(image_size=16, batch_size=32, limit=192),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=1, temperature_epochs=1.5),
        run=RunConfig(accelerator="cpu", devices=2, strategy=strategy, checkpoint_every=1),
    )


def main(out: Path) -> None:
    for strategy in ("ddp", "fsdp"):
        fit(recipe(strategy), out / strategy)
    try:
        fit(recipe("fsdp"), out / "resumed", callbacks=(Stop(),))
    except Interrupted:
        print("interrupted")
        resume(out / "resumed")
