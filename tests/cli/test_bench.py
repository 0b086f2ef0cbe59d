"""`dynaconv bench` from its flags to its tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dynaconv.benchmark.measures as measures
import dynaconv.benchmark.roofline as roofline
from dynaconv.benchmark.kinds import Kind
from dynaconv.cli.main import main

SAMPLE = Path(__file__).parents[1] / "data" / "bench-sample.json"
RUNTIMES_SAMPLE = SAMPLE.with_name("bench-runtimes-sample.json")


@pytest.fixture
def measured(monkeypatch):
    """What would be measured; the figures are of the sample."""
    sample, seen = json.loads(SAMPLE.read_text()), []

    def measure(network, settings, machine, note):
        seen.append((network, settings))
        note("  measured")
        return {**sample["networks"][0], "name": network}

    monkeypatch.setattr(measures, "measure_network", measure)
    monkeypatch.setattr(roofline, "measure_machine", lambda device: sample["machine"])
    monkeypatch.setattr(Kind, "save_picture", lambda kind, values, path: path)
    return seen


def test_flags_become_settings(measured, tmp_path, capsys):
    arguments = ["se_resnet18", "kw4x_resnet*", "--image-size", "32", "--rounds", "3", "--threads", "1", "--compile"]
    arguments += ["--inference-batches", "2", "8", "--training-batches", "--patience", "5", "--no-memory"]
    assert main(["bench", *arguments, "--max-extra-mb", "7", "--out", str(tmp_path)]) == 0
    assert [network for network, _ in measured] == ["se_resnet18", "kw4x_resnet18", "kw4x_resnet50"]
    settings = measured[0][1]
    assert (settings.inference_batches, settings.training_batches) == ((2, 8), ())
    assert (settings.image_size, settings.rounds, settings.threads, settings.patience) == (32, 3, 1, 5)
    assert (settings.compiled, settings.memory, settings.max_extra_mb) == (True, False, 7)
    text = capsys.readouterr().out
    assert text.startswith(f"3 network(s); results go to {tmp_path}\nmeasuring what the machine can do\n")
    assert "\n[1/3] se_resnet18\n  measured\n" in text
    assert "[3/3] kw4x_resnet50  (about " in text
    (file,) = tmp_path.glob("bench-*.json")
    assert f"results: {file}, {file.stem}.md, {file.stem}.png" in text


def test_all(measured, tmp_path):
    import dynaconv

    assert main(["bench", "--all", "--out", str(tmp_path)]) == 0
    assert [network for network, _ in measured] == dynaconv.list_models()


def test_from_prints_the_tables_again(tmp_path, capsys):
    path = tmp_path / "bench-x.json"
    path.write_bytes(SAMPLE.read_bytes())
    assert main(["bench", "--from", str(path)]) == 0
    text = capsys.readouterr().out
    values = json.loads(SAMPLE.read_text())
    ratio = values["networks"][0]["timings"][0]["contenders"]["ours"]["seconds_per_image"]["ratio"]
    line = next(line for line in text.splitlines() if line.startswith(values["networks"][0]["name"]))
    assert f" {ratio:.2f}x (" in line
    assert "excess / textbook's" in text
    assert f"results: {path}, bench-x.md, bench-x.png" in text
    assert (tmp_path / "bench-x.png").is_file()


def test_page(tmp_path, capsys):
    (tmp_path / "bench-x.json").write_bytes(SAMPLE.read_bytes())
    page = tmp_path / "page.md"
    page.write_text("<!-- table: bench-x.json -->\n<!-- end of table -->\n")
    assert main(["bench", "--page", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}: {tmp_path / 'bench-x.json'}\n"
    assert "| network |" in page.read_text()


def test_an_interruption_says_where_the_figures_are(measured, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(measures, "measure_network", interrupted)
    assert main(["bench", "se_resnet18", "--out", str(tmp_path)]) == 130
    assert f"is in the newest file of {tmp_path}; `dynaconv bench --from` shows it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["kw1x_resnet180"], "no preset 'kw1x_resnet180'; did you mean kw1x_resnet18"),
        (["resnet18"], "no preset 'resnet18'; did you mean"),
        (["x*"], "no preset matches 'x*'"),
        (["--all", "se_resnet18"], "--all and names of networks are both given"),
        (["--inference-batches", "0"], "inference_batches: 0; expected a whole number, at least 1"),
        (["--inference-batches", "--training-batches"], "inference_batches and training_batches are both empty"),
        (["--rounds", "0"], "rounds: 0"),
        (["--threads", "0"], "threads: 0"),
        (["--device", "tpu"], "device='tpu'"),
        (["--from", "nowhere.json"], "nowhere.json can not be read as JSON"),
        (["--page", "nowhere.md"], "nowhere.md can not be read"),
    ],
)
def test_errors_are_one_line(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dynaconv bench: {text}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--rounds", "many"], ["--inference-batches", "x"], ["--no-such-flag"]])
def test_flags_that_can_not_be_read(arguments):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert stop.value.code == 2


def test_runtimes(monkeypatch, measured, tmp_path, capsys):
    import dynaconv.benchmark.runtimes.measures as runtime_measures

    sample, seen = json.loads(RUNTIMES_SAMPLE.read_text()), []

    def measure(network, settings, note):
        seen.append((network, settings))
        return {**sample["networks"][0], "name": network}

    monkeypatch.setattr(runtime_measures, "measure_network", measure)
    arguments = ["kw1x_resnet18", "--runtime", "onnxruntime", "aoti", "--inference-batches", "2", "--threads", "1"]
    assert main(["bench", *arguments, "--no-dynamic-batch", "--max-extra-mb", "7", "--out", str(tmp_path)]) == 0
    ((network, settings),) = seen
    assert network == "kw1x_resnet18"
    assert (settings.runtimes, settings.batches) == (("eager", "onnxruntime", "aoti"), (2,))
    assert (settings.threads, settings.dynamic_batch, settings.max_extra_mb) == (1, False, 7)
    text = capsys.readouterr().out
    assert "minutes on two cores" in text
    assert "onnxruntime" in text.split("static, ms/image")[1]
    (file,) = tmp_path.glob("bench-runtimes-*.json")
    assert main(["bench", "--from", str(file)]) == 0
    assert f"results: {file}, {file.stem}-2.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--runtime", "tensorrt"], "runtime='tensorrt' is not known"),
        (["--runtime"], "runtime: none is given"),
        (["--runtime", "aoti", "--training-batches", "3"], "--training-batches is not for --runtime"),
        (["--runtime", "aoti", "--compile"], "--compile is not for --runtime"),
        (["--no-dynamic-batch"], "--no-dynamic-batch is for --runtime"),
    ],
)
def test_flags_of_runtimes_alone(arguments, text, capsys):
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"dynaconv bench: {text}")
