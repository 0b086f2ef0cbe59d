from __future__ import annotations

import json

import pytest

from dynaconv.cli.main import main

SMALL = ["--backbone.channels", "[8,8,16,16]", "--image-size", "32", "--batch-size", "2"]


def test_tables(capsys):
    assert main(["scale", "--model", "resnet18", *SMALL, "--gpus", "1", "8", "--budget", "0.5", "1"]) == 0
    text = capsys.readouterr().out
    assert text.count("resnet18 b=0.5") == 3
    assert "kernels/image" in text
    assert "norms" in text


def test_json_and_picture(capsys, tmp_path):
    picture = tmp_path / "new" / "scale.png"
    flags = ["--batch-size", "2", "4", "--optimizer", "sgd", "--ema", "--json", "--out", str(picture)]
    assert main(["scale", "resnet18", *SMALL[:4], *flags, "--method", "odconv", "--gpus", "2"]) == 0
    two, four = json.loads(capsys.readouterr().out)
    assert (two["batch_size"], four["batch_size"]) == (2, 4)
    assert two["optimizer_bytes"] == two["weight_bytes"] < two["average_bytes"]
    assert two["on"][0]["ddp_sent"] == two["gradient_bytes"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert [path.name for path in picture.parent.iterdir()] == ["scale.png"]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["resnet18", "--gpus", "0"], "--gpus [0]"),
        (["od1x_resnet18", "--budget", "1"], "--budget is KernelWarehouse's; od1x_resnet18 is converted to odconv"),
    ],
)
def test_requests_that_can_not_be_met(capsys, flags, text):
    assert main(["scale", *flags]) == 2
    assert text in capsys.readouterr().err
