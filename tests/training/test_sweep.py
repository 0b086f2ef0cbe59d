"""A grid is every combination, a job trains what nobody else trains, and what is done is in results.jsonl."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import threading
import time
from pathlib import Path

import pytest
import submitit
import yaml

import dynaconv.training.comparison.executors as executors
import dynaconv.training.comparison.launch as launching
import dynaconv.training.comparison.runs as compare_runs
import dynaconv.training.runs.lock as run_lock
from dynaconv.errors import DynaconvError, MissingExtraError
from dynaconv.files import write_text
from dynaconv.training import ScheduleConfig
from dynaconv.training.comparison.compare import begin, results_of
from dynaconv.training.comparison.contenders import Contender
from dynaconv.training.comparison.executors import Job, cuda_devices, submit_ray, submit_slurm
from dynaconv.training.comparison.launch import Launch, Work, describe
from dynaconv.training.comparison.lines import LINES_FILE, write_lines
from dynaconv.training.comparison.runs import Comparison, open_comparison
from dynaconv.training.comparison.work import Watcher, progress_of, train_runs
from dynaconv.training.runs.lock import owner, try_lock
from dynaconv.training.sweep.grid import cross, parse_grid
from dynaconv.training.sweep.sweep import HEADER, run_sweep, sweep_of, sweep_rows
from tests.training.tiny import BACKBONE, static_recipe

RECIPE = static_recipe(schedule=ScheduleConfig(epochs=1, warmup_epochs=0))
STATIC = Contender(label="static", model="resnet18", backbone=BACKBONE)
BROKEN = dataclasses.replace(STATIC, label="broken", backbone={**BACKBONE, "no_such_argument": 1})
RATES = {"optimizer.lr": [1e-3, 4e-3]}


def lines_of(out: Path):
    return [json.loads(line) for line in (out / LINES_FILE).read_text().splitlines()]


def test_grid_as_text():
    assert parse_grid(["optimizer.lr=1e-3,4e-3,2", "optimizer.name=sgd,lamb", "ema.decay=null,0.9"]) == {
        "optimizer.lr": [0.001, 0.004, 2],
        "optimizer.name": ["sgd", "lamb"],
        "ema.decay": [None, 0.9],
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optimizer.lr"], "grid 'optimizer.lr' can not be read; expected FIELD=VALUE"),
        (["optimizer.lr="], "can not be read"),
        (["=1"], "can not be read"),
        (["optimizer.lr=[1"], "can not be read"),
        (["optimizer.lr=1", "optimizer.lr=2"], "given twice"),
        (["optimizer.lr=1,2,1"], "has 1 more than once"),
        (["method.budget=1,2"], "give --methods"),
        (["run.seed=1,2"], "give --seeds"),
        (["run.devices=1,2"], "give --jobs"),
    ],
)
def test_grids_that_can_not_be_read(texts, message):
    with pytest.raises(DynaconvError, match=message):
        parse_grid(texts)


def test_every_combination():
    se = dataclasses.replace(STATIC, label="se", method={"method": "se"})
    grid = {"optimizer.lr": [1e-3, 4e-3], "schedule.epochs": [1, 2], "backbone.drop_rate": [0.1]}
    crossed = cross([STATIC, se], grid, RECIPE)
    assert len({contender.label for contender in crossed}) == 8
    assert crossed[1].label == "static optimizer.lr=0.001 schedule.epochs=2 backbone.drop_rate=0.1"
    recipe = crossed[6].recipe(RECIPE, 3)
    assert (recipe.optimizer.lr, recipe.schedule.epochs, recipe.run.seed) == (4e-3, 1, 3)
    assert recipe.backbone == {**BACKBONE, "drop_rate": 0.1}
    assert recipe.method["method"] == "se"
    assert recipe.augment == RECIPE.augment
    assert Contender(**crossed[6].to_dict()).recipe(RECIPE, 3) == recipe  # by way of the folder's file
    assert cross([STATIC], {}, RECIPE) == [STATIC]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"optimizer.rate": [1]}, r"unknown fields \['rate'\]"),
        ({"optimizer.lr": [0]}, "optimizer.lr=0"),
        ({"schedule.epochs": ["many"]}, "schedule.epochs='many'"),
        ({"no.such": [1]}, "no field no.such"),
        ({"data.deep": [1]}, "no field data.deep"),
    ],
)
def test_combinations_that_are_no_recipe(grid, message):
    with pytest.raises(DynaconvError, match=message):
        cross([STATIC], grid, RECIPE)


def test_a_sweep_here(tmp_path, monkeypatch):
    """Failed runs are noted and tried again by the next call, which trains nothing else."""
    trained = []
    fit = compare_runs.fit
    monkeypatch.setattr(
        compare_runs, "fit", lambda recipe, *rest, **options: trained.append(recipe) or fit(recipe, *rest, **options)
    )
    contenders = [*cross([STATIC], RATES, RECIPE), BROKEN]
    result = run_sweep(contenders, (0,), RECIPE, tmp_path)
    assert [recipe.optimizer.lr for recipe in trained] == [1e-3, 4e-3, RECIPE.optimizer.lr]
    assert list(result.failed) == ["broken, seed 0"]
    assert "no_such_argument" in result.failed["broken, seed 0"]
    assert result.runs == lines_of(tmp_path)
    first = result.runs[0]
    assert first["grid"] == {"optimizer.lr": 1e-3}
    assert first["seed"] == 0
    assert (tmp_path / first["folder"] / "metrics.csv").is_file()
    assert first["last_top1"] == first["metrics"]["val_top1"]
    assert first["parameters"] > 10_000
    assert first["seconds"] > 0
    assert first["environment"]["versions"]["torch"]
    rows = sweep_rows(result)
    assert all(len(row) == len(HEADER) for row in rows)
    assert rows[-1][0] == "broken"
    assert float(rows[0][2]) >= float(rows[1][2])
    trained.clear()
    run_sweep(contenders, (0,), RECIPE, tmp_path)
    assert len(trained) == 1
    assert sweep_of(tmp_path).runs == result.runs
    values = results_of(tmp_path).values
    assert values["contenders"][0]["changes"] == {"optimizer.lr": 1e-3}
    with pytest.raises(DynaconvError, match="holds a sweep, whose recipes differ"):
        results_of(tmp_path, rounds=1)


def test_data_that_can_not_be_opened_are_no_sweep(tmp_path):
    contenders = cross([STATIC], {"data": ["digits", "nowhere"]}, RECIPE)
    with pytest.raises(DynaconvError, match="data='nowhere'"):
        run_sweep(contenders, (0,), RECIPE, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def pretend(run, top1=0.5):
    """Leave what a finished run leaves, as it does: others read whole files or none."""
    closing = {"date": "now", "command": "me", "seconds": 6.0, "epochs": 1, "parameters": 3, "environment": {}}
    write_text(run.folder / "metrics.csv", f"epoch,val_top1\n1,{top1}\n")
    write_text(run.folder / "run.json", json.dumps(closing))


def registered(out, contenders=(STATIC,), seeds=range(6)):
    comparison = Comparison(out, tuple(contenders), tuple(seeds), RECIPE)
    comparison.register()
    return comparison


def test_lines_of_several_writers(tmp_path):
    comparison = registered(tmp_path)
    (tmp_path / LINES_FILE).write_text('{"torn')

    def finish(run):
        pretend(run)
        write_lines(tmp_path)

    threads = [threading.Thread(target=finish, args=(run,)) for run in comparison.runs()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [line["seed"] for line in lines_of(tmp_path)] == list(range(6))
    (comparison.runs()[2].folder / "run.json").unlink()  # to be trained again
    assert [line["seed"] for line in write_lines(tmp_path)] == [0, 1, 3, 4, 5]
    assert not list(tmp_path.glob("*.lock"))
    assert not list(tmp_path.glob(".*.tmp"))


def test_progress(tmp_path):
    runs = registered(tmp_path, seeds=range(4)).runs()
    pretend(runs[0])
    runs[1].folder.mkdir()
    (runs[1].folder / "error.json").write_text(json.dumps({"error": "no memory", "time": time.time()}))
    with try_lock(runs[2].folder / "lock"):
        progress = progress_of(runs, since=0.0)
        assert (progress.finished, progress.failed, progress.running, progress.waiting) == (1, 1, 1, 1)
        assert progress.seconds_left == 12  # two of an epoch, one worker
        assert describe(progress) == "1 of 4 runs finished, 1 running, 1 waiting, 1 failed; about 12 s left"
    assert progress_of(runs, since=time.time() + 1).failed == 0


def test_work_does_not_wait_for_others(tmp_path, monkeypatch):
    runs = registered(tmp_path, seeds=range(3)).runs()
    seen = []
    monkeypatch.setattr(compare_runs.Run, "train", lambda run, *_: (seen.append(run.seed), pretend_here(run)))

    def pretend_here(run):
        write_text(run.folder / "run.json", json.dumps({"epochs": 1, "seconds": 1.0}))

    finished = []
    with try_lock(runs[1].folder / "lock"):
        train_runs(runs, 0.0, Watcher(finished=finished.append), wait=False)
    assert seen == [0, 2]
    assert [run.seed for run in finished] == [0, 2]


def test_lock_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.02)
    path = tmp_path / "lock"
    with try_lock(path):
        os.utime(path, (0, 0))
        deadline = time.time() + 10
        while path.stat().st_mtime < 1 and time.time() < deadline:
            time.sleep(0.01)
        assert time.time() - path.stat().st_mtime < 10


def test_lock_of_a_silent_machine_is_taken_over(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 1, "born": None, "host": "elsewhere", "token": "x"}))
    assert owner(path) == "process 1 on elsewhere"
    past = time.time() - run_lock.SILENT_SECONDS - 1
    os.utime(path, (past, past))
    assert owner(path) is None
    with try_lock(path) as got:
        assert got


def test_two_local_jobs(tmp_path):
    """For real: two processes of submitit's share four runs, of which two fail."""
    contenders = [*cross([STATIC], RATES, RECIPE), BROKEN, dataclasses.replace(BROKEN, label="broken too")]
    noted: list[str] = []
    result = run_sweep(contenders, (0,), RECIPE, tmp_path, launch=Launch(jobs=2), watcher=Watcher(note=noted.append))
    assert [line["grid"] for line in result.runs] == [{"optimizer.lr": 1e-3}, {"optimizer.lr": 4e-3}]
    assert sorted(result.failed) == ["broken too, seed 0", "broken, seed 0"]
    assert noted[0].startswith("4 runs to train by process ")
    assert noted[-1] == "2 of 4 runs finished, 0 running, 0 waiting, 2 failed"
    assert sum("failed, the others go on: DynaconvError" in text for text in noted) == 2
    assert result.runs[0]["environment"]["hardware"]["threads"] == int(os.environ.get("OMP_NUM_THREADS", 1))
    assert "_submit" not in result.runs[0]["command"]
    assert len(list((tmp_path / "jobs").rglob("*_0_log.out"))) == 2
    assert not list(tmp_path.rglob("lock"))


@pytest.fixture
def work(tmp_path):
    comparison = registered(tmp_path / "out", seeds=(0,))
    return Work(str(comparison.out), ("static",), (0,), 0.0, None, ("dynaconv", "sweep"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # this executor leaves its logs open
def test_a_job_in_submitits_debug_executor(work, tmp_path):
    job = submitit.AutoExecutor(tmp_path / "logs", cluster="debug").submit(work)
    assert job.result() is None
    assert open_comparison(work.out).runs()[0].finished
    again = work.checkpoint()
    assert (again.function, again.args) == (work, ())


def test_jobs_that_end_before_their_runs(tmp_path, monkeypatch):
    comparison = begin([STATIC], (0, 1), RECIPE, tmp_path)
    pretend(comparison.runs()[0])
    dead = Job("process 7", lambda: True, lambda: "out of memory", lambda: None)
    monkeypatch.setattr(launching, "submit_local", lambda *_: [dead])
    with pytest.raises(DynaconvError, match=r"1 runs are not finished; process 7: out of memory\. Call it again"):
        launching.train_comparison(comparison, 0.0, Launch(jobs=2), Watcher())


def test_ctrl_c_ends_local_jobs(tmp_path, monkeypatch):
    comparison = begin([STATIC], (0, 1), RECIPE, tmp_path)
    ended = []

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "submit_local", lambda *_: [Job("a", lambda: False, str, lambda: ended.append("a"))])
    monkeypatch.setattr(launching, "progress_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launching.train_comparison(comparison, 0.0, Launch(jobs=2), Watcher())
    assert ended == ["a"]


def test_what_slurm_is_given(work, tmp_path, monkeypatch):
    """The file for sbatch, and the job in it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"sbatch": f'cp "$1" {tmp_path}/job.sh; echo Submitted batch job 71', "srun": ""}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    parameters = {"partition": "gpu", "time": 60, "gpus_per_node": 1}
    jobs = submit_slurm(work, 3, tmp_path / "jobs", parameters)
    assert [job.name for job in jobs] == [f"SLURM job 71_{index}" for index in range(3)]
    assert jobs[0].outlives
    lines = (tmp_path / "job.sh").read_text().splitlines()
    for line in ("job-name=dynaconv", "partition=gpu", "time=60", "gpus-per-node=1", "array=0-2%3", "signal=USR2@90"):
        assert f"#SBATCH --{line}" in lines
    command = next(line for line in lines if line.startswith("srun "))
    assert "submitit.core._submit" in command
    assert str(tmp_path / "jobs") in command
    pickled = sorted((tmp_path / "jobs").rglob("*submitted.pkl"))
    assert len(pickled) == 3
    assert pickle.loads(pickled[0].read_bytes()).function == work
    subprocess.run(["sh", "-n", tmp_path / "job.sh"], check=True)
    with pytest.raises(DynaconvError, match="Unavailable parameter"):
        submit_slurm(work, 1, tmp_path / "jobs", {"partitoin": "gpu"})


def test_slurm_elsewhere(work, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DynaconvError, match="needs the command sbatch, which is not on this machine"):
        submit_slurm(work, 1, tmp_path / "jobs", {})


def test_ray_is_optional(work, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"dynaconv\[ray\]"):
        submit_ray(work, 1, "auto")


@pytest.mark.parametrize(
    ("visible", "accelerator", "expected"),
    [(None, "auto", [0, 1, 2]), ("2,0", "gpu", [2, 0]), ("2,0", "cpu", []), ("GPU-8932", "auto", None)],
)
def test_devices_of_jobs(monkeypatch, visible, accelerator, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if expected is None:
        with pytest.raises(DynaconvError, match="give numbers, such as 0,1"):
            cuda_devices(accelerator)
    else:
        assert cuda_devices(accelerator) == expected


def test_local_jobs_have_a_device_each(tmp_path, monkeypatch):
    given = []

    class Executor:
        def __init__(self, folder):
            pass

        def update_parameters(self, **parameters):
            given.append((parameters["gpus_per_node"], parameters["visible_gpus"]))

        def submit(self, work):
            return submitit.LocalJob(tmp_path, str(len(given)))

    monkeypatch.setattr(submitit, "LocalExecutor", Executor)
    executors.submit_local(print, 3, tmp_path, [4, 6])
    executors.submit_local(print, 1, tmp_path, [])
    assert given == [(1, [4]), (1, [6]), (1, [4]), (0, [])]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"launcher": "pbs"}, "launcher='pbs' is not known"),
        ({"jobs": 0}, "jobs=0"),
        ({"slurm": {"time": 60}}, "expected launcher 'slurm'"),
    ],
)
def test_launches_that_can_not_be(fields, message):
    with pytest.raises(DynaconvError, match=message):
        Launch(**fields)


def test_folders_of_before_know_newer_fields_by_their_defaults(tmp_path):
    comparison = registered(tmp_path)
    path = tmp_path / "compare.yaml"
    values = yaml.safe_load(path.read_text())
    del values["recipe"]["run"]["accumulate"]
    path.write_text(yaml.safe_dump(values))
    comparison.register()
    values["recipe"]["run"]["precision"] = "bf16-mixed"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(DynaconvError, match=r"run\.precision is 'bf16-mixed' there"):
        comparison.register()
