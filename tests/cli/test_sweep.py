"""`dynaconv sweep` and `dynaconv ablate` from end to end, on networks that train in a second."""

from __future__ import annotations

import json

import pytest

import dynaconv.training.comparison.launch as launching
import dynaconv.training.runs.fitting as fitting
from dynaconv.cli.main import main
from tests.training.tiny import BACKBONE

TINY = [
    "--model", "resnet18", *(f"--backbone.{name}={values}" for name, values in BACKBONE.items()),
    "--data", "digits", "--image-size", "16",
    "--batch-size", "16", "--loader.limit", "48", "--epochs", "1", "--run.accelerator", "cpu",
    "--schedule.temperature_epochs", "1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch):
    monkeypatch.setattr(fitting, "save_curves", lambda runs, path, panels: path)


def test_a_grid(tmp_path, capsys):
    out = tmp_path / "out"
    grid = ["--grid", "optimizer.lr=1e-3,4e-3", "--grid=schedule.epochs=1,2"]
    assert main(["sweep", *TINY, "--methods", "static", *grid, "--seeds", "3", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert f"4 networks, 1 seeds; everything goes to {out}" in text
    assert "[4/4] static optimizer.lr=0.004 schedule.epochs=2, seed 3" in text
    assert "  epoch 2  loss" in text
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["grid"] for line in lines] == [
        {"optimizer.lr": rate, "schedule.epochs": epochs} for rate in (1e-3, 4e-3) for epochs in (1, 2)
    ]
    best = max(lines, key=lambda line: line["last_top1"])
    table = text[text.index("network  ") :].splitlines()
    assert table[2].startswith(best["label"])
    assert f"{100 * best['last_top1']:.2f}" in table[2]
    assert main(["sweep", "--from", str(out)]) == 0
    assert "\n".join(table[:6]) in capsys.readouterr().out


def test_a_failed_run_is_an_error_at_the_end(tmp_path, capsys):
    arguments = [*TINY, "--backbone.no_such", "1", "--methods", "static", "--seeds", "0", "--out", str(tmp_path)]
    assert main(["sweep", *arguments]) == 2
    text, error = capsys.readouterr()
    assert "0 of 1" in text
    assert not (tmp_path / "results.jsonl").exists()
    assert error.startswith("dynaconv sweep: 1 failed (static, seed 0: DynaconvError")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "--grid", "optimizer.rate=1"], r"unknown fields ['rate']"),
        (["sweep", "--jobs", "0"], "jobs=0"),
        (["sweep", "--slurm.partition", "gpu"], "expected launcher 'slurm'"),
        (["ablate", "sharing"], "ablation 'sharing' is not known"),
        (["ablate", "attention", "--run.seed", "1"], "takes --seeds"),
        (["ablate", "attention", "--launcher", "pbs"], "launcher='pbs'"),
    ],
)
def test_requests_that_can_not_be_met(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--data", "digits", "--out", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_flags_of_jobs_arrive(tmp_path, monkeypatch):
    seen = []

    def refuse(work, count, folder, parameters):
        seen.append((count, dict(parameters)))
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "submit_slurm", refuse)
    slurm = ["--launcher", "slurm", "--jobs", "2", "--slurm.partition", "gpu", "--slurm.time", "60"]
    for command in (["sweep", "--methods", "static"], ["ablate", "partition"]):
        assert main([*command, *TINY, *slurm, "--seeds", "0", "1", "--out", str(tmp_path / command[0])]) == 130
    assert seen == [(2, {"partition": "gpu", "time": 60})] * 2


def test_an_ablation(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["ablate", "partition", *TINY, "--seeds", "0", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "[3/3] resnet18 static, seed 0" in text
    heading = "partition: kernel partition, KW (1x), on resnet18"
    table = text[text.index(heading) :].splitlines()
    assert table[5].startswith("without: a cell is a whole kernel")
    assert "too few seeds" in table[5]
    assert "70.49 (-4.28), derived" in table[5]
    assert "results-" in table[-1]
    assert main(["ablate", "all", "--from", str(out)]) == 0
    assert "\n".join(table[:6]) in capsys.readouterr().out


def test_without_a_model_networks_are_narrow(tmp_path, monkeypatch):
    from dynaconv.training.ablation import ablate

    seen = []

    def stop(tables, backbone, seeds, recipe, *_, **__):
        seen.append((backbone, recipe))
        raise KeyboardInterrupt

    monkeypatch.setattr(ablate, "run_ablation", stop)
    assert main(["ablate", "all"]) == 130
    assert main(["ablate", "all", "--model", "resnet26", "--method.branch_start", "4"]) == 130
    assert main(["ablate", "all", "--backbone.drop_rate", "0.1"]) == 130
    narrow, named, own = (backbone for backbone, _ in seen)
    assert (narrow.model, narrow.arguments["channels"]) == (None, [8, 16, 32, 64])
    assert (named.model, named.arguments, named.fields) == ("resnet26", {}, {"branch_start": 4})
    assert own.arguments == {"drop_rate": 0.1}
    assert (seen[0][1].data, seen[0][1].optimizer.lr) == ("mnist5k", 4e-3)
