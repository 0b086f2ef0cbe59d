"""Batches whose gradients are accumulated are one large batch, where no batch statistics are involved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynaconv.training import AugmentConfig, LoaderConfig, OptimizerConfig, RunConfig, ScheduleConfig, fit
from tests.distributed.networks import joint_batch, make_network, network_names
from tests.training.tiny import BACKBONE, METHOD, tiny_recipe


@pytest.mark.parametrize("name", [name for name in network_names() if name.endswith(("static", "0.3", " 0.0"))])
def test_every_method(name):
    images, labels = joint_batch()
    model = make_network(name)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    gradients = []
    for parts in ([slice(None)], [slice(0, 3), slice(3, 4), slice(4, None)]):
        model.zero_grad()
        for part in parts:
            share = len(labels[part]) / len(labels)
            (share * nn.functional.cross_entropy(model(images[part]), labels[part])).backward()
        gradients.append([p.grad for p in model.parameters()])
    for (key, _), whole, sum_of_parts in zip(model.named_parameters(), *gradients, strict=True):
        assert (whole - sum_of_parts).abs().max() <= 1e-12 * whole.abs().max().clamp(min=1e-3), key


def test_a_run_with_a_last_window_that_is_shorter(tmp_path):
    """Five batches of eight in steps of two are two batches of sixteen and one of eight."""

    def run(batch_size: int, accumulate: int):
        recipe = tiny_recipe(
            method={**METHOD, "norm": "layer"},
            backbone={**BACKBONE, "norm_layer": "groupnorm1"},
            augment=AugmentConfig(shift=0, rotate_degrees=0, zoom=0),
            loader=LoaderConfig(image_size=16, batch_size=batch_size, limit=40, drop_last=False),
            optimizer=OptimizerConfig(name="sgd", lr=0.05),
            schedule=ScheduleConfig(epochs=2, warmup_epochs=0, temperature_epochs=0),
            run=RunConfig(accelerator="cpu", precision="64-true", accumulate=accumulate),
        )
        result = fit(recipe, tmp_path / str(accumulate))
        return result, torch.load(result.run_dir / "last.ckpt", weights_only=True)["state_dict"]

    (large, expected), (small, found) = run(16, 1), run(8, 2)
    assert [row["step"] for row in small.rows] == [row["step"] for row in large.rows] == [3, 6]
    for key, value in expected.items():
        assert (found[key] - value).abs().max() <= 1e-10 * value.abs().max().clamp(min=1e-3), key
    assert small.rows[-1]["train_loss"] == pytest.approx(large.rows[-1]["train_loss"], rel=1e-6)
