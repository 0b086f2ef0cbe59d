"""Figures of a saved network, against those that its tensors give by themselves."""

from __future__ import annotations

import json

import pytest
import torch

import dynaconv
from dynaconv import DynaconvError
from dynaconv.analysis.attention.collect import attention_to
from dynaconv.training import LoaderConfig
from dynaconv.training.report import gather as gathering
from dynaconv.training.report import speed
from dynaconv.training.report.gather import gather
from tests.training.report.test_sheets import read
from tests.training.saved import save_network
from tests.training.tiny import METHOD

LOADER = LoaderConfig(batch_size=16, image_size=16)
LIMIT = 40


def saved(folder, method=None):
    model, data = save_network(folder / "net", method, LOADER)
    images, labels = zip(*data.val_dataloader(), strict=True)
    return model.eval(), torch.cat(images)[:LIMIT], torch.cat(labels)[:LIMIT]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    return folder, *saved(folder, METHOD)


@torch.no_grad()
def test_a_network_that_attends(network, monkeypatch):
    folder, model, images, labels = network
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    (folder / "run.json").write_text(json.dumps({"environment": dynaconv.analysis.environment.environment()}))
    counted = []

    class Bar:
        def __init__(self, text, total):
            counted.append([text, total, 0])

        def __enter__(self):
            def step():
                counted[-1][2] += 1

            return step

        def __exit__(self, *error):
            pass

    options = {"loader": LOADER, "limit": LIMIT, "classes": ["3", "7"]}
    found = gather(folder / "net.safetensors", counting=Bar, **options)
    (folder / "run.json").unlink()
    logits = model(images)
    assert found.judged.images == LIMIT
    assert found.judged.top1 == float((logits.argmax(1) == labels).double().mean())
    assert found.judged.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    maps = attention_to(model, images)
    sheet = found.attention.sheets[-1]
    mean = torch.cat([maps[layer, "cells"].double().mean(0) for layer, _ in sheet.layers])
    shown = read(sheet.mean, sheet.columns)
    for row, column, value in sheet.assigned:
        shown[row, column] = value
    torch.testing.assert_close(shown, mean, atol=1e-4, rtol=1e-4)
    sevens = torch.cat([maps[layer, "cells"].double()[labels == 7].mean(0) for layer, _ in sheet.layers])
    apart = read(sheet.by_class[1], sheet.columns, torch.int8)
    torch.testing.assert_close(apart, sevens - mean, atol=0.01 * sheet.class_bound, rtol=0)
    assert found.attention.classes == ("3", "7")
    assert found.network.cost.parameters == sum(p.numel() for p in model.parameters())
    assert [timing.batch for timing in found.timings] == [1, 8]
    assert set(found.timings[0].seconds) == {speed.OURS, speed.STATIC}
    assert counted == [["images", 3, 3], ["speed, batch 1", None, 0], ["speed, batch 8", None, 0]]
    assert (found.limited, found.unreadable, found.data) == (359, 0, "digits")
    assert (found.trained["epoch"], found.trained["top1"], found.trained["data"]) == (3, 0.5, "digits")
    assert "torch" in found.trained["environment"]
    assert found.curves is None
    assert "There is no metrics.csv" in found.no_curves


def test_a_static_network(tmp_path):
    model, images, labels = saved(tmp_path)
    found = gather(tmp_path / "net", loader=LOADER, limit=LIMIT, speed=False)
    with torch.no_grad():
        assert found.judged.top1 == float((model(images).argmax(1) == labels).double().mean())
    assert (found.attention, found.timings, found.load, found.network.method) == (None, (), None, None)
    assert found.trained["environment"] is None
    assert found.notes == ()


def test_what_takes_too_much_room_is_said(network, monkeypatch):
    monkeypatch.setattr(gathering, "classes_that_fit", lambda model: 1)
    found = gather(network[0] / "net", loader=LOADER, limit=LIMIT, speed=False)
    assert found.attention.classes == ("0",)
    assert found.notes == ("averages by class of 9 of 10 classes, which would take too much room",)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"limit": 0}, "limit=0; expected at least one image"),
        ({"classes": ["ten"]}, "there is no class 'ten'"),
        ({"device": "moon"}, "device 'moon' can not be used here"),
    ],
)
def test_what_can_not_be_done_is_said(network, options, text):
    with pytest.raises(DynaconvError, match=text):
        gather(network[0] / "net", **{"speed": False, "loader": LOADER, **options})
