"""Files that can not be written, or are not what they were: a clear error, and what was saved before stays."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import shutil
import sys

import pytest
import torch

from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import CheckpointError, DynaconvError, RunWarning, StorageError
from dynaconv.files import replacing, write_text
from dynaconv.training import OptimizerConfig, RunConfig, ScheduleConfig, evaluate, fit, resume
from dynaconv.training._lightning import Callback
from dynaconv.training.runs.fitting import fit_or_resume, load_recipe, save_recipe
from dynaconv.training.runs.sealed import SEAL_BYTES, read_sealed
from tests.training.likeness import run_differences
from tests.training.tiny import static_recipe

RECIPE = static_recipe(
    run=RunConfig(accelerator="cpu", checkpoint_every=1), schedule=ScheduleConfig(epochs=2, warmup_epochs=1.0)
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(RECIPE, folder)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A finished run of one's own."""
    return shutil.copytree(whole, tmp_path / "run")


class From(Callback):
    """Does something once, when an iteration begins."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.act()


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["last.ckpt", "best.safetensors", "metrics.csv"])
def test_a_full_disk(whole, tmp_path, monkeypatch, name):
    """Every kind of file that a run writes; when there is room again, the run goes on as if nothing had been."""

    def fill():
        if name == "last.ckpt":
            monkeypatch.setattr("dynaconv.training.runs.sealed._Sealing.write", full_at_once)
        elif name == "best.safetensors":
            monkeypatch.setattr("dynaconv.checkpoints.tensors.save_file", full)
        else:
            monkeypatch.setattr("csv.DictWriter.writeheader", full)

    def full_at_once(sealing, block):
        sealing.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise sealing.error

    message = r"(last\.ckpt|last\.safetensors|metrics\.csv) can not be written: No space left on device; what was saved"
    with pytest.raises(StorageError, match=message):
        fit(RECIPE, tmp_path, callbacks=(From(2, fill),))
    monkeypatch.undo()
    assert read_sealed(tmp_path / "last.ckpt")["global_step"] == 2
    assert not list(tmp_path.glob(".*.tmp"))
    resume(tmp_path)
    assert run_differences(whole, tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits")
def test_a_limit_of_the_system(whole, tmp_path):
    """The system itself refuses: files of this process may not be longer than half a checkpoint."""
    size, before = (whole / "last.ckpt").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))

    try:
        with pytest.raises(StorageError, match=r"last.ckpt can not be written: File too large; what was saved before"):
            fit(RECIPE, tmp_path, callbacks=(From(3, limit),))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_sealed(tmp_path / "last.ckpt")["global_step"] in (2, 3)
    resume(tmp_path)
    assert run_differences(whole, tmp_path) == []


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(
        StorageError, match=r"run is not there any more: the folder was moved or deleted during the run"
    ):
        fit(RECIPE, tmp_path / "run", callbacks=(From(1, lambda: (tmp_path / "run").rename(tmp_path / "away")),))
    assert read_sealed(tmp_path / "away" / "last.ckpt")["global_step"] == 1
    assert resume(tmp_path / "away").rows[-1]["epoch"] == 2


def test_a_folder_that_can_not_be_written(tmp_path, monkeypatch):
    """Root may write anywhere: the system's refusal is put in its place."""

    def refuse():
        def replace(self, target):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

        monkeypatch.setattr("pathlib.Path.replace", replace)

    with pytest.raises(StorageError, match=r"previous.ckpt can not be written: Permission denied.*Look for room and p"):
        fit(RECIPE, tmp_path, callbacks=(From(1, refuse),))
    monkeypatch.undo()
    assert read_sealed(tmp_path / "last.ckpt")["global_step"] == 1


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "runs").touch()
    with pytest.raises(StorageError, match=r"one can not be written: Not a directory"):
        fit(RECIPE, tmp_path / "runs" / "one")


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path):
    write_text(tmp_path / "a", "old")

    def fail():
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old\n"


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unseal(path) -> None:
    path.write_bytes(path.read_bytes()[:-SEAL_BYTES])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (damage, "its checksum is not that of its content"),
        (cut, "damaged, or no checkpoint of a run: File is not a zip file"),
        (unseal, "its end, with the checksum, is missing"),
        (lambda path: path.unlink(), "last.ckpt is not there"),
    ],
    ids=["a bit", "cut", "seal", "missing"],
)
def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(whole, run, spoil, reason):
    spoil(run / "last.ckpt")
    (run / ".last.ckpt.0123.tmp").touch()
    with pytest.warns(RunWarning, match=f"{reason}; going on from the one before it, optimiser step 5"):
        resume(run)
    assert run_differences(whole, run) == []
    assert (run / "damaged.ckpt").exists() == (spoil.__name__ != "<lambda>")
    assert not list(run.glob(".*.tmp"))


def test_processes_that_do_not_know_their_rank_touch_nothing(run, tmp_path, monkeypatch):
    """Before there is a Trainer, each may be the first one; what looks unfinished is what another is writing."""

    def refuse(*_):
        raise DynaconvError("no trainer")

    monkeypatch.setattr("dynaconv.training.runs.fitting.make_trainer", refuse)
    damage(run / "last.ckpt")
    new = tmp_path / "new"
    new.mkdir()
    for folder in (run, new):
        (folder / ".data.json.0123.tmp").touch()
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    with pytest.warns(RunWarning, match="going on from the one before it"), pytest.raises(DynaconvError, match="no tr"):
        resume(run)
    with pytest.raises(DynaconvError, match="no trainer"):
        fit(RECIPE, new)
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_both_damaged(run):
    for name in ("last.ckpt", "previous.ckpt"):
        damage(run / name)
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged.*previous.ckpt is damaged"):
        resume(run)


def test_where_there_are_no_hard_links(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", full)
    fit(RECIPE, tmp_path)
    assert run_differences(whole, tmp_path) == []
    assert read_sealed(tmp_path / "previous.ckpt")["global_step"] == 5


def test_files_of_before_there_were_seals(whole, run):
    """A run that an earlier version left: no checksum, no recipe inside, no sums of an unfinished epoch."""
    content = torch.load(run / "last.ckpt", weights_only=True)
    del content["dynaconv"]
    torch.save(content, run / "last.ckpt")
    assert len(resume(run).rows) == 2
    damage(run / "last.ckpt")
    (run / "previous.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged"):
        resume(run)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "resnet34"}, "model is 'resnet18' there and 'resnet34' now"),
        ({"method": {"method": "dyconv"}}, "method is None there and None now; method.method is None there and 'dycon"),
        ({"data": "mnist5k"}, "data is 'digits' there and 'mnist5k' now"),
        ({"optimizer": OptimizerConfig(lr=0.1)}, "optimizer.lr is 0.004 there and 0.1 now"),
        ({"run": RunConfig(seed=1, accelerator="cpu")}, "run.seed is 0 there and 1 now"),
    ],
    ids=["model", "method", "data", "edited config", "another run"],
)
def test_a_checkpoint_of_another_run(run, change, field):
    """Copied in, or the recipe edited: both are the checkpoint's recipe against the folder's."""
    save_recipe(dataclasses.replace(load_recipe(run / "config.yaml"), **change), run / "config.yaml")
    with pytest.raises(DynaconvError, match=r"last.ckpt in .* was made with another recipe than its config.yaml: "):
        resume(run)
    with pytest.raises(DynaconvError, match="holds a run of another recipe"):
        fit_or_resume(RECIPE, run)


def test_what_does_not_change_the_numbers_may_change(run):
    recipe = load_recipe(run / "config.yaml")
    save_recipe(dataclasses.replace(recipe, run=RunConfig(accelerator="cpu", checkpoint_every=7)), run / "config.yaml")
    assert len(resume(run).rows) == 2


def test_other_images_an_iteration(run):
    recipe = load_recipe(run / "config.yaml")
    save_recipe(
        dataclasses.replace(recipe, loader=dataclasses.replace(recipe.loader, batch_size=8)), run / "config.yaml"
    )
    with pytest.raises(DynaconvError, match=r"with 16 images an iteration \(16 on each of 1\); here are 8"):
        resume(run)


def test_what_is_no_run(run):
    with pytest.raises(DynaconvError, match=r"last.ckpt is a file; expected the folder of a run"):
        resume(run / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*last.ckpt"):
        load_checkpoint(run / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"no checkpoint at"):
        evaluate(run)
    shutil.copy(run / "best.safetensors", run / "last.ckpt")
    shutil.copy(run / "best.safetensors", run / "previous.ckpt")
    with pytest.raises(CheckpointError, match=r"last.ckpt is damaged, or no checkpoint of a run"):
        resume(run)
    torch.save({"state_dict": {}}, run / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"last.ckpt is no checkpoint of a run"):
        resume(run)
