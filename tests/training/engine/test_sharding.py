"""FSDP2 over two processes, as SLURM starts them, on the CPU: what DDP computes, resumable, and saved whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import DynaconvError
from dynaconv.training import EmaConfig, RunConfig, TuneConfig, fit
from dynaconv.training.engine.sharding import block_names
from tests.distributed.processes import as_slurm
from tests.forked import run_together
from tests.training import sharded_runs
from tests.training.likeness import differences
from tests.training.tiny import BACKBONE, tiny_recipe

pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("sharded")
    texts = run_together(sharded_runs.main, [(out,)] * 2, tmp_path_factory.mktemp("texts"), as_slurm(2))
    assert all("interrupted" in text for text in texts)
    return out


def checkpoint(folder: Path):
    return torch.load(folder / "last.ckpt", weights_only=True)


def test_sharded_equals_replicated(runs):
    replicated, sharded = checkpoint(runs / "ddp")["state_dict"], checkpoint(runs / "fsdp")["state_dict"]
    assert list(replicated) == list(sharded)
    for name, tensor in replicated.items():
        torch.testing.assert_close(sharded[name], tensor, msg=name)
    assert any("warehouses" in name for name in sharded)


def test_a_sharded_run_resumes_exactly(runs):
    whole, broken = checkpoint(runs / "fsdp"), checkpoint(runs / "resumed")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert differences(whole[part], broken[part]) == []


def test_what_a_sharded_run_saves_is_whole(runs):
    models = [load_checkpoint(runs / name / "last")[0] for name in ("ddp", "fsdp")]
    images = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(models[1](images), models[0](images))


def test_units_are_blocks():
    model = timm.create_model("resnet18", channels=BACKBONE["channels"])
    assert block_names(model) == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    transformer = timm.create_model("vit_tiny_patch16_224", depth=2)
    dynaconv.convert(transformer, dynaconv.KernelWarehouseConfig(), where="blocks.*")
    assert block_names(transformer) == ["blocks.0", "blocks.1"]
    assert block_names(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))) == []


def test_one_process_has_nothing_to_shard(tmp_path):
    with pytest.raises(DynaconvError, match="one process has nothing to shard"):
        fit(tiny_recipe(run=RunConfig(accelerator="cpu", devices=1, strategy="fsdp")), tmp_path)
    torch.distributed.destroy_process_group()  # of one; runs after it would take themselves for distributed


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ema": EmaConfig(decay=0.9)}, "ema.decay=0.9; expected null beside run.strategy='fsdp'"),
        ({"tune": TuneConfig(source="timm")}, "expected ddp or auto for fine-tuning"),
    ],
)
def test_what_does_not_go_with_it(changes, text):
    with pytest.raises(DynaconvError, match=text):
        tiny_recipe(run=RunConfig(strategy="fsdp"), **changes)


def test_precision_that_does_not_go_with_it():
    with pytest.raises(DynaconvError, match="expected 32-true, bf16-mixed or bf16-true beside"):
        RunConfig(strategy="fsdp", precision="16-mixed")
