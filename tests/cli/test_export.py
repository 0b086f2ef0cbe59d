from __future__ import annotations

import json

import pytest
import torch

import dynaconv
from dynaconv.checkpoints.native import save_checkpoint
from dynaconv.cli.main import main
from dynaconv.export import parity
from dynaconv.export.onnx_file import read_properties
from tests.cli.test_json_text import strictly

BACKBONE = {"channels": [8, 8, 8, 8]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a small network, with what a run says of its images."""
    torch.manual_seed(0)
    model = dynaconv.create_model("resnet18", num_classes=3, in_chans=1, **BACKBONE)
    arguments = {"name": "resnet18", "config": None, "where": None, "num_classes": 3, "in_chans": 1}
    said = {"classes": ["a", "b", "c"], "image_size": 32, "mean": [0.5], "std": [0.25]}
    path = tmp_path_factory.mktemp("run") / "best"
    save_checkpoint(path, model, {"model": {**arguments, "backbone_kwargs": BACKBONE}, **said})
    return path


def test_a_checkpoint_becomes_a_file_beside_it(checkpoint, capsys):
    assert main(["export", str(checkpoint), "--json", "--dynamic-batch", "--opset", "18"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["path"] == f"{checkpoint}.onnx"
    assert report["passed"]
    assert report["opset"] == 18
    assert report["inputs"] == {"images": "float32 (batch, 1, 32, 32)"}
    assert report["size"]["total"] == checkpoint.with_suffix(".onnx").stat().st_size
    assert any("norms multiply by zero" in note for note in report["notes"])
    assert "running the file in onnxruntime and openvino" in err
    assert json.loads(read_properties(f"{checkpoint}.onnx")["classes"]) == ["a", "b", "c"]


def test_a_file_that_is_there_is_told(checkpoint, tmp_path, capsys):
    out = tmp_path / "net.pt2"
    out.write_text("of before")
    assert main(["export", str(checkpoint), str(out), "--format", "torch-export"]) == 0
    said = capsys.readouterr()
    assert "net.pt2 is there already; it is replaced if the new file passes" in said.err
    assert "-> logits" in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--opset", "7"], "opset=7; expected one of"),
        (["--tolerance", "-1"], "tolerance=-1.0; expected a number above 0"),
        (["--format", "aoti", "--opset", "18"], "opset=18 is for format 'onnx'"),
        (["--format", "torch-export", "--target", "tensorrt"], "target"),
        (["--method", "odconv"], "is a checkpoint, which knows its method"),
        (["net.pt2"], "files of onnx end in .onnx"),
        (["--image-size", "0"], "input_size=(1, 0, 0); expected channels and sides"),
    ],
)
def test_requests_that_can_not_be_met(checkpoint, capsys, flags, text):
    assert main(["export", str(checkpoint), *flags]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("name", ["runs/x/best", "best.safetensors"])
def test_a_checkpoint_that_does_not_exist(name, capsys):
    assert main(["export", name]) == 2
    said = capsys.readouterr().err
    assert f"no checkpoint at {name.removesuffix('.safetensors')}" in said
    assert "preset" not in said


def test_the_help_names_what_may_be_asked_for(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    text = capsys.readouterr().out
    assert "lambda" not in text
    for choice in ("torch-export", "tensorrt", "int8"):
        assert choice in text


def test_a_folder_takes_the_file(checkpoint, tmp_path, monkeypatch):
    places = []

    def export(model, out, **settings):
        places.append((out, settings["input_size"]))
        raise dynaconv.DynaconvError("seen enough")

    monkeypatch.setattr(dynaconv, "export", export)
    assert main(["export", str(checkpoint), str(tmp_path)]) == 2
    assert main(["export", str(checkpoint), f"{tmp_path}/new/"]) == 2
    assert places == [(tmp_path / "best.onnx", (1, 32, 32)), (tmp_path / "new" / "best.onnx", (1, 32, 32))]


def test_a_model_that_does_not_exist(capsys):
    assert main(["export", "resnet81"]) == 2
    assert "resnet18" in capsys.readouterr().err


def test_the_report_of_a_file_that_is_refused_is_json(checkpoint, tmp_path, monkeypatch, capsys):
    def refuse(*arguments):
        raise RuntimeError("not today")

    monkeypatch.setattr(parity, "open_session", refuse)
    assert main(["export", str(checkpoint), str(tmp_path / "net.pt2"), "--format", "torch-export", "--json"]) == 1
    report = strictly(capsys.readouterr().out)
    assert [(run["error"], run["refused"]) for run in report["comparisons"]] == [(None, "not today")]
    assert not report["passed"]
