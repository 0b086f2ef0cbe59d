"""A comparison tells what its runs' own files tell, repeats nothing that is done, and loses nothing that was."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import mean

import pytest
import yaml

import dynaconv.training.comparison.compare as compare
import dynaconv.training.comparison.measures as compare_measures
import dynaconv.training.comparison.results as compare_results
import dynaconv.training.comparison.runs as compare_runs
import dynaconv.training.comparison.work as compare_work
import dynaconv.training.runs.lock as run_lock
from dynaconv.errors import DynaconvError, UnknownModelError
from dynaconv.training import LoaderConfig, RunConfig, ScheduleConfig
from dynaconv.training.comparison.compare import results_of, run_compare
from dynaconv.training.comparison.contenders import (
    Contender,
    check_contenders,
    contender_of,
    every_method,
    read_contenders,
)
from dynaconv.training.comparison.memory import measure_peak, peak_of_steps
from dynaconv.training.comparison.picture import PANELS, points, save_picture
from dynaconv.training.comparison.runs import Comparison, open_comparison
from dynaconv.training.comparison.table import HEADER, markdown, notes, table_rows
from dynaconv.training.comparison.timing import Workload, make_fabric, make_steps
from dynaconv.training.comparison.work import seconds_left
from dynaconv.training.runs.classification import build_model
from dynaconv.training.runs.lock import owner, try_lock, wait_lock
from tests.training.tiny import BACKBONE, static_recipe, tiny_recipe

SEEDS = (0, 1)
RECIPE = static_recipe(schedule=ScheduleConfig(epochs=1, warmup_epochs=0))
STATIC = Contender(label="static", model="resnet18", backbone=BACKBONE)
SE = Contender(label="se 1/4", model="resnet18", method={"method": "se"}, backbone=BACKBONE)
BROKEN = Contender(label="broken", model="resnet18", backbone={**BACKBONE, "no_such_argument": 1})


def quick(out: Path, contenders=(STATIC, SE), seeds=SEEDS, recipe=RECIPE, **options):
    return run_compare(contenders, seeds, recipe, out, **{"rounds": 0, **options})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The whole way once, with everything measured but memory, whose processes take long to start."""
    out = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_measures, "measure_peak", lambda recipe, workload: 5 * 2**20)
        return out, quick(out, rounds=3)


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Pictures take a second each, and are drawn where they are the matter."""
    if "finished" not in request.fixturenames:
        monkeypatch.setattr(compare_results, "save_picture", lambda values, path: None)


@pytest.fixture
def trained(monkeypatch):
    """Folders of the runs that are really trained."""
    seen: list[Path] = []
    fit, resume = compare_runs.fit, compare_runs.resume

    def noted(train):
        def run(*arguments, **options):
            seen.append(Path(arguments[-1]))
            return train(*arguments, **options)

        return run

    monkeypatch.setattr(compare_runs, "fit", noted(fit))
    monkeypatch.setattr(compare_runs, "resume", noted(resume))
    return seen


def last_top1(out: Path, folder: str, seed: int) -> float:
    with (out / folder / f"seed{seed}" / "metrics.csv").open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["val_top1"])


def test_figures_are_those_of_the_runs_own_files(finished):
    out, result = finished
    for entry, folder in zip(result.values["contenders"], ("static", "se-1-4"), strict=True):
        expected = [last_top1(out, folder, seed) for seed in SEEDS]
        assert [run["last_top1"] for run in entry["runs"]] == expected
        assert entry["top1_mean"] == mean(expected)
        assert (entry["top1_lowest"], entry["top1_highest"]) == (min(expected), max(expected))
    static, se = result.values["contenders"]
    assert static["gain"] == 0
    assert se["gain"] == pytest.approx(se["top1_mean"] - static["top1_mean"])


def test_table_shows_the_figures(finished):
    _, result = finished
    se = result.values["contenders"][1]
    rows = table_rows(result.values)
    assert [len(row) for row in rows] == [len(HEADER)] * 2
    assert rows[1][0] == "se 1/4"
    assert rows[1][1] == f"{se['parameters']:,}"
    assert rows[1][2] == f"{se['madds']:,}"
    low, middle, high = (100 * se[f"top1_{name}"] for name in ("lowest", "mean", "highest"))
    assert rows[1][3] == f"{middle:.2f} ({low:.2f} – {high:.2f})"
    assert rows[1][4] == f"{100 * se['gain']:+.2f}"
    assert rows[0][4] == "–"
    assert rows[0][5].endswith("ms (1.00x)")
    assert rows[1][5].endswith(f"({se['step_seconds']['ratio']:.2f}x)")
    assert rows[1][7] == "5 MiB"
    text = result.markdown.read_text()
    assert text == markdown(result.values, result.picture.name)
    assert text.count("\n| ") == 3
    assert text.count("```sh") == 1
    assert result.values["command"] in text
    assert "not the best epoch's" in text
    assert any("3 rounds" in line for line in notes(result.values))


def test_the_best_epoch_is_not_what_counts(tmp_path):
    quick(tmp_path, (STATIC,), (0,))
    run = Comparison(tmp_path, (STATIC,), (0,), RECIPE).run(STATIC, 0)
    rows = run.rows()
    better = {**rows[0], "epoch": 1, "val_top1": 0.9}
    worse = {**rows[0], "epoch": 2, "val_top1": 0.4}
    with (run.folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(better))
        writer.writeheader()
        writer.writerows([better, worse])
    entry = results_of(tmp_path).values["contenders"][0]
    assert entry["top1_mean"] == 0.4
    assert (entry["runs"][0]["best_top1"], entry["runs"][0]["best_epoch"]) == (0.9, 1)


def test_json_is_complete(finished):
    out, result = finished
    values = json.loads(result.json.read_text())
    assert values == result.values
    assert values["seeds"] == [0, 1]
    assert values["recipe"]["optimizer"]["lr"] == RECIPE.optimizer.lr
    assert "model" not in values["recipe"]
    assert set(values["environment"]["versions"]) >= {"python", "torch", "torchvision", "timm", "lightning", "dynaconv"}
    assert set(values["environment"]["hardware"]) >= {"cpu", "cores", "threads", "ram_bytes", "gpu"}
    assert all(values["environment"]["versions"].values())
    assert values["command"]
    assert values["date"].endswith("+00:00")
    assert values["measured"]["rounds"] == 3
    assert values["measured"]["input_size"] == [1, 16, 16]
    se = values["contenders"][1]
    assert se["method"] == {"method": "se", **{k: v for k, v in se["method"].items() if k != "method"}}
    assert "reduction" in se["method"]  # with its defaults
    assert se["madds"] == sum(se[f"madds_{part}"] for part in ("convolution", "mixing", "attention"))
    assert [row["epoch"] for row in se["runs"][0]["epochs"]] == [1]
    for name in ("step_seconds", "inference_seconds_per_image"):
        assert 0 < se[name]["lowest"] <= se[name]["median"] <= se[name]["highest"]
    assert se["errors"] == []
    assert not list(out.rglob("*lock*"))
    assert not list(out.rglob("*.tmp"))


def test_picture(finished, tmp_path):
    _, result = finished
    shown = points(result.values)
    assert {panel: len(found) for panel, found in shown.items()} == dict.fromkeys(PANELS, 2)
    static, se = shown["step_seconds"]
    assert (static.static, se.static) == (True, False)
    assert se.cost == result.values["contenders"][1]["step_seconds"]["median"]
    assert se.lowest <= se.top1 <= se.highest
    assert result.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert result.picture.stat().st_size > 10_000
    untimed = json.loads(json.dumps(result.values))
    del untimed["contenders"][1]["step_seconds"]
    assert [len(found) for found in points(untimed).values()] == [2, 2, 1]
    assert save_picture(untimed, tmp_path / "again.png").is_file()


def test_results_again_without_training(finished, trained):
    out, result = finished
    before = {path: path.read_bytes() for path in out.glob("results-*")}
    again = results_of(out)
    assert trained == []
    assert again.json != result.json
    assert {path: path.read_bytes() for path in before} == before
    assert again.values["measured"] == {**result.values["measured"], "results": result.json.name}
    assert table_rows(again.values) == table_rows(result.values)
    assert again.picture.is_file()


def test_finished_runs_are_not_repeated_and_results_not_overwritten(tmp_path, trained):
    first = quick(tmp_path, seeds=(0,))
    assert len(trained) == 2
    kept = first.json.read_bytes()
    second = quick(tmp_path)  # one more seed
    assert [path.name for path in trained[2:]] == ["seed1", "seed1"]
    third = quick(tmp_path)
    assert len(trained) == 4
    assert len({first.json, second.json, third.json}) == 3
    assert first.json.read_bytes() == kept
    assert len(list(tmp_path.glob("results-*.md"))) == 3
    assert [run["seed"] for run in third.values["contenders"][0]["runs"]] == [0, 1]


def test_an_interrupted_comparison_goes_on(tmp_path, trained):
    recipe = static_recipe(schedule=ScheduleConfig(epochs=2, warmup_epochs=0))
    third = dataclasses.replace(STATIC, label="again")
    whole = quick(tmp_path / "whole", (SE,), (0,), recipe=recipe)
    trained.clear()

    def stop(row):
        if len(trained) == 2 and row["epoch"] == 2:  # the second run, whose first epoch is saved
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        quick(cut, (STATIC, SE, third), (0,), recipe=recipe, report=stop)
    assert not list(cut.glob("results-*"))
    assert not list(cut.rglob("lock"))
    starts, rows = [], []
    result = quick(cut, (STATIC, SE, third), (0,), recipe=recipe, start=starts.append, report=rows.append)
    assert [(start.label, start.number, start.resumed) for start in starts] == [
        ("se 1/4", 2, True),
        ("again", 3, False),
    ]
    assert starts[0].seconds_left > 0
    assert [row["epoch"] for row in rows] == [2, 1, 2]
    static, se, again = (entry["runs"][0]["last_top1"] for entry in result.values["contenders"])
    assert se == whole.values["contenders"][0]["runs"][0]["last_top1"]
    assert static == again


def test_a_failure_is_told_and_leaves_the_others(tmp_path, trained, monkeypatch):
    noted = []
    result = quick(tmp_path, (STATIC, BROKEN, SE), (0,), note=noted.append)
    static, broken, se = result.values["contenders"]
    assert "no_such_argument" in broken["errors"][0]
    assert broken["errors"][0].startswith("seed 0: DynaconvError: timm")
    assert list(result.failed) == ["broken"]
    assert broken["top1_mean"] is None
    assert static["top1_mean"] is not None
    assert se["gain"] is not None
    assert table_rows(result.values)[1][3] == "failed"
    assert notes(result.values)[0].startswith("broken: seed 0: DynaconvError")
    assert any("broken, seed 0 failed, the others go on: DynaconvError" in text for text in noted)
    assert [len(found) for found in points(result.values).values()] == [2, 2, 0]
    assert "Traceback" in json.loads((tmp_path / "broken" / "seed0" / "error.json").read_text())["traceback"]
    trained.clear()
    quick(tmp_path, (STATIC, BROKEN, SE), (0,))
    assert [path.parent.name for path in trained] == ["broken"]  # tried again, the others not


def test_a_failed_measurement_leaves_the_others(tmp_path, monkeypatch):
    make = compare_measures.make_steps

    def fail_for_se(recipe, workload, fabric):
        if recipe.method is not None:
            raise RuntimeError("out of memory")
        return make(recipe, workload, fabric)

    monkeypatch.setattr(compare_measures, "make_steps", fail_for_se)
    monkeypatch.setattr(compare_measures, "measure_peak", lambda recipe, workload: 1)
    static, se = quick(tmp_path, seeds=(0,), rounds=1).values["contenders"]
    assert static["step_seconds"]["ratio"] == 1
    assert se["errors"] == ["timing: RuntimeError: out of memory"]
    assert se["top1_mean"] is not None
    assert "step_seconds" not in se


def test_another_recipe_is_refused(tmp_path):
    quick(tmp_path, (STATIC,), (0,))
    other = dataclasses.replace(RECIPE, schedule=ScheduleConfig(epochs=3, warmup_epochs=0))
    with pytest.raises(DynaconvError, match=r"schedule.epochs is 1 there and 3 now\. .*another --out"):
        quick(tmp_path, (STATIC,), (0,), recipe=other)
    wider = dataclasses.replace(STATIC, backbone={"channels": [16, 16, 32, 64]})
    with pytest.raises(DynaconvError, match=r"backbone.channels is \[16, 16, 32, 32\] there"):
        quick(tmp_path, (wider,), (0,))
    assert open_comparison(tmp_path).contenders == (STATIC,)


def test_contenders_are_added_to_a_folder(tmp_path):
    quick(tmp_path, (STATIC,), (0,))
    quick(tmp_path, (SE,), (1,))
    both = open_comparison(tmp_path)
    assert [contender.label for contender in both.contenders] == ["static", "se 1/4"]
    assert both.seeds == (0, 1)
    rows = table_rows(results_of(tmp_path).values)
    assert [row[3].endswith("1 of 2 seeds") for row in rows] == [True, True]
    assert rows[1][4] == "–"  # no seed in common


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"contenders": ()}, "no contenders"),
        ({"seeds": ()}, "no seeds"),
        ({"seeds": (1, 0, 1)}, "seed 1 is given more than once"),
        ({"seeds": (-1,)}, r"seeds \[-1\] are negative"),
        ({"contenders": (STATIC, STATIC)}, "contender static is given more than once"),
        ({"contenders": (SE, dataclasses.replace(SE, label="se 1:4"))}, "folder of contender se-1-4 is given more"),
        ({"rounds": -1}, "rounds=-1"),
        ({"recipe": dataclasses.replace(RECIPE, run=RunConfig(devices=2))}, "run.devices=2; a comparison trains on"),
        ({"recipe": dataclasses.replace(RECIPE, run=RunConfig(num_nodes=2))}, "run.num_nodes=2; a comparison trains"),
        ({"recipe": dataclasses.replace(RECIPE, run=RunConfig(precision="7-true"))}, "Lightning refuses run=.*7-true"),
        ({"recipe": dataclasses.replace(RECIPE, data="nowhere")}, "data='nowhere'"),
        ({"contenders": (dataclasses.replace(SE, model="kw1x_resnet18"),)}, "is a preset with a method of its own"),
    ],
)
def test_requests_that_can_not_be_met(tmp_path, changes, text):
    with pytest.raises(DynaconvError, match=text):
        quick(tmp_path / "none", **changes)
    assert not (tmp_path / "none").exists()


def test_unknown_network():
    with pytest.raises(UnknownModelError, match="did you mean resnet18"):
        check_contenders([dataclasses.replace(STATIC, model="resnet1800")], [0])


def test_no_comparison_in_the_folder(tmp_path):
    with pytest.raises(DynaconvError, match=r"has no compare\.yaml"):
        results_of(tmp_path)


def test_methods_as_text():
    contender = contender_of("kernel_warehouse:budget=0.5,cell_scale=[1, 0.5]", "resnet18", "layer4.*", {})
    assert contender.method == {"method": "kernel_warehouse", "budget": 0.5, "cell_scale": [1, 0.5]}
    assert contender.label == "kernel_warehouse:budget=0.5,cell_scale=[1, 0.5]"
    assert contender.recipe(RECIPE, 3).method["partition"] == "full"
    assert contender.recipe(RECIPE, 3).run.seed == 3
    assert contender.folder == "kernel_warehouse-budget=0.5,cell_scale=-1,-0.5-"
    assert contender_of("static", "resnet18", "layer4.*", {}).where is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("odcnov", "did you mean odconv"),
        ("static:budget=1", "a static network has no fields"),
        ("odconv:kernels", "can not be read"),
        ("odconv:num_kernel=2", "unknown fields"),
        ("odconv:num_kernels=0", "num_kernels=0"),
    ],
)
def test_methods_that_can_not_be_read(text, message):
    with pytest.raises(DynaconvError, match=message):
        contender_of(text, "resnet18", None, {})


@pytest.mark.parametrize("method", every_method())
def test_every_method_makes_a_small_resnet(method):
    contender = contender_of(method, "resnet18", None, BACKBONE)
    workload = Workload(batch_size=4, in_chans=1, image_size=16, num_classes=10)
    steps = make_steps(contender.recipe(RECIPE, 0), workload, make_fabric(RECIPE))
    steps.train()
    steps.infer()


def test_contenders_from_a_file(tmp_path):
    path = tmp_path / "contenders.yaml"
    path.write_text(
        "- {label: plain}\n"
        "- {label: gate, method: se, where: layer4.*}\n"
        "- {label: half, method: {method: kernel_warehouse, budget: 0.5}, backbone: {}}\n"
        "- {label: paper, model: kw1x_resnet18}\n"
    )
    plain, gate, half, paper = read_contenders(path, "resnet18", BACKBONE)
    assert (plain.method, plain.backbone) == (None, BACKBONE)
    assert (gate.method, gate.where) == ({"method": "se"}, "layer4.*")
    assert half.backbone == {}
    assert (paper.model, paper.backbone) == ("kw1x_resnet18", {})
    path.write_text(yaml.safe_dump({"contenders": [half.to_dict()], "recipe": {}}))
    assert read_contenders(path, "other", {})[0].recipe(RECIPE, 0) == half.recipe(RECIPE, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label: x", "expected a list"),
        ("- {method: se}", "expected a mapping with a label"),
        ("- {label: x, metod: se}", "unknown fields"),
        ("- {label: x, method: 3}", "method=3"),
        ("- {label: x, method: sse}", "did you mean se"),
        ("- {label: x, where: layer4}", "is static, and has where"),
        ("- {label: ..}", "expected a name with letters"),
        ("- {label: [", "can not be read as YAML"),
    ],
)
def test_files_of_contenders_that_can_not_be_read(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(DynaconvError, match=message):
        read_contenders(tmp_path / "x.yaml", "resnet18", {})


def test_steps_leave_the_network_as_it_is(monkeypatch):
    import torch

    from dynaconv.training.comparison import timing

    built = timing.build_model(tiny_recipe(), 10, 1)[0]
    before = [parameter.detach().clone() for parameter in built.parameters()]
    steps = timing.steps_of(built, tiny_recipe(), Workload(8, 1, 16, 10), make_fabric(RECIPE))
    for _ in range(3):
        steps.train()
    for old, new in zip(before, built.parameters(), strict=True):
        torch.testing.assert_close(old, new.detach(), rtol=0, atol=1e-6)


def test_peak_memory_grows_with_the_batch():
    recipe = dataclasses.replace(RECIPE, loader=LoaderConfig(image_size=64))
    small, large = (peak_of_steps(recipe, Workload(batch, 1, 64, 10)) for batch in (16, 128))
    assert large - small > 112 * 64 * 64 * 4  # the images alone


def test_peak_memory_of_a_fresh_process():
    """Not that of the parent, which holds far more than the little network needs."""
    parameters = 4 * sum(p.numel() for p in build_model(RECIPE, 10, 1)[0].parameters())
    assert 4 * parameters < measure_peak(RECIPE, Workload(16, 1, 64, 10)) < 50e6


def test_time_left():
    assert seconds_left({}, {}) is None
    assert seconds_left({"a": 2, "new": 3}, {"a": 1.0, "b": 3.0}) == 2 * 1 + 3 * 2
    assert seconds_left({"a": 2}, {"a": 1.0}, workers=2) == 1


def test_lock_keeps_others_out(tmp_path):
    path = tmp_path / "folder" / "lock"
    with try_lock(path) as got:
        assert got
        assert str(os.getpid()) in owner(path)
        with try_lock(path) as again:
            assert not again
        assert path.is_file()
    assert not path.exists()
    assert owner(path) is None


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    path = tmp_path / "lock"
    code = "import os, runpy, sys; from pathlib import Path\n"  # the file alone, without torch
    code += "with runpy.run_path(sys.argv[1])['try_lock'](Path(sys.argv[2])): os._exit(0)"
    subprocess.run([sys.executable, "-c", code, run_lock.__file__, str(path)], check=True)
    assert path.is_file()
    assert owner(path) is None
    with try_lock(path) as got:
        assert got
    path.write_text("{")  # torn, and young
    with try_lock(path) as got:
        assert not got
    os.utime(path, (0, 0))  # torn, and old
    with try_lock(path) as got:
        assert got
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_lock_of_a_dead_process_that_nobody_waits_for_is_taken_over(tmp_path):
    """In a container without an init process it stays a zombie, which signals reach."""
    path = tmp_path / "lock"
    code = "import os, runpy, sys; from pathlib import Path\n"
    code += "with runpy.run_path(sys.argv[1])['try_lock'](Path(sys.argv[2])): print(flush=True); os._exit(0)"
    command = [sys.executable, "-c", code, run_lock.__file__, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"\n"  # to the end: it is dead, and not waited for
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        os.kill(process.pid, 0)
        assert owner(path) is None
        with try_lock(path) as got:
            assert got


def test_lock_of_another_machine_counts_as_alive(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"pid": 1, "born": None, "host": "elsewhere", "token": "x"}))
    with try_lock(path) as got:
        assert not got
    with try_lock(path, here=True) as got:
        assert got
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_can_not_be_written_is_not_there(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(run_lock.json, "dump", full)
    with pytest.raises(OSError, match="No space"), try_lock(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_for_a_lock(tmp_path):
    order = []

    def hold():
        with wait_lock(tmp_path / "lock", 0.01):
            order.append("in")
            time.sleep(0.05)
            order.append("out")

    threads = [threading.Thread(target=hold) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order == ["in", "out"] * 3


def test_runs_of_a_living_process_are_left_to_it(tmp_path, trained, monkeypatch):
    """Another process holds a run: the others are trained first, then it is waited for and gathered."""
    monkeypatch.setattr(compare_work, "POLL_SECONDS", 0.01)
    comparison = Comparison(tmp_path, (STATIC, SE), (0,), RECIPE)
    theirs = comparison.run(STATIC, 0)
    noted = []
    with try_lock(theirs.folder / "lock") as got:
        assert got
        waiter = threading.Thread(target=lambda: quick(tmp_path, seeds=(0,), note=noted.append), daemon=True)
        # Lightning handles signals in the main thread alone; here the other run is trained beforehand.
        comparison.run(SE, 0).train(None, False)
        waiter.start()
        while not noted:
            assert waiter.is_alive()
            time.sleep(0.01)
        assert not list(tmp_path.glob("results-*"))
        theirs_done = tmp_path / "elsewhere"
        other = quick(theirs_done, (STATIC,), (0,))
        for path in (theirs_done / "static" / "seed0").iterdir():
            if path.is_file():
                (theirs.folder / path.name).write_bytes(path.read_bytes())
    waiter.join(240)
    assert not waiter.is_alive()
    assert f"waiting for 1 run(s) of process {os.getpid()}" in noted[0]
    values = json.loads(next(tmp_path.glob("results-*.json")).read_text())
    assert values["contenders"][0]["top1_mean"] == other.values["contenders"][0]["top1_mean"]


def test_results_of_a_process_beside_this_one_are_taken(tmp_path, monkeypatch):
    """Of two processes with the same request, the second to finish shows what the first has written."""
    quick(tmp_path, seeds=(0,))
    began = time.time()
    first = quick(tmp_path, seeds=(0,))
    comparison = Comparison(tmp_path, (STATIC, SE), (0,), RECIPE)
    found = compare.newest_since(comparison, began, measured=False)
    assert found == first
    assert compare.newest_since(comparison, began, measured=True) is None
    assert compare.newest_since(comparison, time.time() + 1, measured=False) is None
