"""`dynaconv compare` from end to end, on networks that train in a second."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import dynaconv.training.comparison.measures as compare_measures
from dynaconv.cli.main import main
from dynaconv.cli.options import duration
from tests.training.tiny import BACKBONE, static_recipe

TINY = [
    "compare", "--model", "resnet18", *(f"--backbone.{name}={values}" for name, values in BACKBONE.items()),
    "--data", "digits", "--image-size", "16",
    "--batch-size", "16", "--loader.limit", "48", "--epochs", "1", "--run.accelerator", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("compare")
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_measures, "measure_peak", lambda recipe, workload: 2**20)
        patch.setattr("builtins.print", lambda *parts, **options: lines.append(" ".join(map(str, parts))))
        assert main([*TINY, "--methods", "static", "eca", "--seeds", "0", "1", "--rounds", "2", "--out", str(out)]) == 0
    return out, "\n".join(lines)


def test_it_says_what_it_does(finished):
    out, text = finished
    assert text.startswith(f"2 networks, 2 seeds on digits; everything goes to {out}")
    assert "[1/4] static, seed 0\n" in text
    assert "[4/4] eca, seed 1  (about " in text
    assert "  epoch 1/1  loss" in text
    assert "timing steps and inference of 2 contenders in turn, 2 rounds" in text


def test_it_prints_the_table_of_its_file(finished):
    out, text = finished
    file = next(out.glob("results-*.json"))
    values = json.loads(file.read_text())
    line = next(line for line in text.splitlines() if line.startswith("eca "))
    eca = values["contenders"][1]
    assert f"{100 * eca['top1_mean']:.2f} (" in line
    assert f"({eca['step_seconds']['ratio']:.2f}x)" in line
    assert f"results: {file}, {file.stem}.md, {file.stem}.png" in text
    assert eca["method"]["method"] == "eca"
    assert eca["backbone"] == BACKBONE


def test_from(finished, capsys):
    out, text = finished
    assert main(["compare", "--from", str(out)]) == 0
    again = capsys.readouterr().out
    assert len(list(out.glob("results-*.png"))) == 2
    assert "epoch" not in again.partition("Top-1")[0]
    for name in ("static ", "eca "):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert line in again


def test_contenders_and_recipe_from_files(tmp_path, capsys):
    recipe = static_recipe().to_dict()
    recipe["schedule"]["epochs"] = 5
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "contenders.yaml").write_text("- {label: plain}\n- {label: broken, backbone: {no_such: 1}}\n")
    arguments = ["--contenders", str(tmp_path / "contenders.yaml"), "--recipe", str(tmp_path / "recipe.yaml")]
    arguments += ["--epochs", "1", "--seeds", "3", "--no-timing", "--out", str(tmp_path / "out")]
    assert main(["compare", *arguments]) == 2
    text, error = capsys.readouterr()
    assert "epoch 1/1" in text
    assert "broken, seed 3 failed, the others go on: DynaconvError" in text
    assert next(line for line in text.splitlines() if line.startswith("broken ")).split()[3] == "failed"
    assert error.startswith("dynaconv compare: 1 failed (broken: seed 3: DynaconvError")
    assert "Call it again to retry" in error
    values = json.loads(next((tmp_path / "out").glob("results-*.json")).read_text())
    assert [len(entry["runs"]) for entry in values["contenders"]] == [1, 0]
    assert values["recipe"]["loader"]["batch_size"] == 16
    assert values["measured"] is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--methods", "static", "odcnov"], "method 'odcnov' is not known; did you mean odconv?"),
        (["--seeds", "1", "1"], "seed 1 is given more than once"),
        (["--methods", "se", "se"], "contender se is given more than once"),
        (["--rounds", "0"], "--rounds 0: expected at least 1"),
        (["--rounds", "3", "--no-timing"], "--rounds 3: expected at least 1, and no --no-timing"),
        (["--run.seed", "1"], "a comparison takes --methods and --seeds"),
        (["--method.budget", "1"], "a comparison takes --methods and --seeds"),
        (["--methods", "static", "--contenders", "x.yaml"], "--methods and --contenders are both given"),
        (["--contenders", "x.yaml"], "x.yaml can not be read as YAML"),
        (["--from", "nowhere"], "nowhere has no compare.yaml"),
        (["--model", "resnet1800"], "'resnet1800' is neither a preset"),
        (["--model", "kw1x_resnet18"], "model 'kw1x_resnet18' is a preset with a method of its own"),
        (["--data", "nowhere"], "data='nowhere'"),
        (["--devices", "2"], "run.devices=2; a comparison trains on one device"),
    ],
)
def test_errors_are_one_line(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dynaconv compare: {text}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--seeds"], ["--methods"], ["--seeds", "x"]])
def test_empty_lists(arguments):
    with pytest.raises(SystemExit) as stop:
        main(["compare", *arguments])
    assert stop.value.code == 2


@pytest.mark.parametrize(("seconds", "text"), [(20, "20 s"), (600, "10 min"), (9000, "2.5 h")])
def test_duration(seconds, text):
    assert duration(seconds) == text
