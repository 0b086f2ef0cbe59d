from __future__ import annotations

import subprocess
import sys
import time

import pytest

from dynaconv._version import __version__
from dynaconv.cli.detect import COMMANDS as DETECT_COMMANDS
from dynaconv.cli.main import COMMANDS, main


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dynaconv {__version__}\n"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


def test_nothing_asked_is_help_and_an_error(capsys):
    assert main([]) == 2
    assert "usage: dynaconv" in capsys.readouterr().out


def test_unknown_command(capsys):
    assert main(["trian"]) == 2
    assert "no command 'trian'; expected one of demo, train" in capsys.readouterr().err
    assert main(["detect", "trian"]) == 2
    assert "dynaconv detect: no command 'trian'; expected one of train, eval" in capsys.readouterr().err


def exit_code(arguments):
    """What the process ends with: argparse stops it itself when it has shown help."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("command", [*COMMANDS, *(f"detect {name}" for name in DETECT_COMMANDS)])
def test_help_of_every_command_has_examples(command, capsys):
    assert exit_code([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: dynaconv {command} ")
    assert f"\n  dynaconv {command}" in text.partition("examples:")[2]


def test_help_of_detect_names_every_command(capsys):
    assert main(["detect", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in DETECT_COMMANDS)
    assert main(["detect"]) == 2
    assert capsys.readouterr().out == text


def test_help_of_train_shows_defaults_and_the_methods_fields(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "default: adamw" in text
    assert "partition=full" in text
    assert "--epochs = --schedule.epochs" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--no.such.flag", "1"],
        ["train", "--schedule.epochs", "many"],
        ["predict", "x.png"],
        ["eval"],
    ],
)
def test_wrong_flags_exit_with_two(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "--model", "resnet1800"], "dynaconv train: 'resnet1800' is neither a preset"),
        (["train", "--data", "nowhere"], "dynaconv train: data='nowhere'"),
        (["train", "--epochs", "0"], "dynaconv train: schedule.epochs=0; expected at least 1"),
        (["train", "--resume", "/no/such/run"], "dynaconv train: --resume /no/such/run: there is no config.yaml"),
        (["eval", "/no/such/best"], "dynaconv eval: no checkpoint at /no/such/best"),
        (["predict", "x.png", "--checkpoint", "/no/best"], "dynaconv predict: no checkpoint at /no/best"),
        (["plan", "kw1x_resnet18", "--method.budget", "2"], "dynaconv plan: 'kw1x_resnet18' is a preset"),
        (["plan", "resnet18", "--method.budget", "-2"], "dynaconv plan: budget=-2"),
        (["models", "nothing*"], "dynaconv models: no preset matches 'nothing*'"),
        (["demo", "--data", "folder:x"], "dynaconv demo: --data folder:x"),
        (["demo", "--epochs", "0"], "dynaconv demo: --epochs 0"),
    ],
)
def test_errors_of_the_project_are_one_line(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(text)
    assert error.count("\n") == 1


def test_help_and_flags_need_no_heavy_package():
    code = (
        "import sys; from dynaconv.cli.main import main; main(['--help']);"
        "heavy = {'timm', 'lightning', 'torchvision', 'matplotlib', 'sklearn', 'onnx', 'jsonargparse'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "import dynaconv.training.config, dynaconv.cli.train as train; train.parser();"
        "heavy -= {'jsonargparse'}; assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.perf_counter() - began < 60
