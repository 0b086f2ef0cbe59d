"""Counts agree with arithmetic on the layers of MMDetection's detectors, and with what papers print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynaconv.cli.detection.models import run
from dynaconv.detection.models.counting import count_detector
from dynaconv.detection.models.page import as_json, table_row
from dynaconv.detection.models.papers import PAPERS
from dynaconv.errors import DynaconvError, UnknownModelError

DATA = Path(__file__).parents[2] / "data"
WHOLE = json.loads((DATA / "papers-parameters.json").read_text())["parameters"]
PRINTED = json.loads((DATA / "papers-detectors.json").read_text())["detectors"]
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "mobilenetv2_100": (24, 32, 96, 1280),
}
SIZES = ((200, 320), (100, 160), (50, 80), (25, 40), (13, 20))
STATIC_RESNET50_224 = 4_089_184_256  # multiply-adds of a ResNet50 at 224 pixels, classifier included


def parameters_by_hand(backbone: str, channels: tuple[int, ...], masks: bool) -> int:
    """With 80 classes, and the backbone's whole classification network."""
    pyramid = sum(c * 256 + 256 for c in channels) + 4 * (9 * 256 * 256 + 256)
    proposals = (9 * 256 * 256 + 256) + (256 * 3 + 3) + (256 * 12 + 12)
    box = (256 * 49 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 81 + 81) + (1024 * 320 + 320)
    mask = 4 * (9 * 256 * 256 + 256) + (4 * 256 * 256 + 256) + (256 * 80 + 80)
    return WHOLE[backbone] + pyramid + proposals + box + mask * masks


def madds_by_hand(masks: bool) -> int:
    """Of the static ResNet50's detector, 81 outputs of every predictor as torchvision's."""
    body = (STATIC_RESNET50_224 - 2048 * 1000) * (25 * 40) // (7 * 7)
    pixels = [height * width for height, width in SIZES]
    pyramid = sum(n * (c * 256 + 9 * 256 * 256) for n, c in zip(pixels, CHANNELS["resnet50"], strict=False))
    proposals = sum(pixels) * (9 * 256 * 256 + 256 * 15)
    box = 1000 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * 81 * 5)
    mask = 100 * 14 * 14 * (4 * 9 * 256 * 256 + 4 * 256 * 256 + 4 * 256 * 81)
    return body + pyramid + proposals + box + mask * masks


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_the_static_resnet50(kind):
    masks = kind == "mask_rcnn"
    count = count_detector(kind, "resnet50")
    assert count.as_papers == parameters_by_hand("resnet50", CHANNELS["resnet50"], masks)
    assert count.madds == madds_by_hand(masks)
    assert (count.method, count.added, count.added_madds, count.mixing, count.attention) == (None, 0, 0, 0, 0)
    stem_and_first = 9_408 + 128 + 215_808
    assert count.parameters - count.trained == stem_and_first
    # The papers' 207.1 and 260.1 G: MMDetection's counter adds norms, ReLUs, pools and biases.
    every = (count.madds + count.elementwise) / 1e9
    assert every == pytest.approx({"faster_rcnn": 207.1, "mask_rcnn": 260.1}[kind], abs=0.1)


def test_a_dynamic_backbone():
    kind, backbone, twin = "mask_rcnn", "od4x_resnet18", "resnet18"
    count = count_detector(kind, backbone)
    assert count.as_papers == parameters_by_hand(backbone, CHANNELS[twin], masks=True)
    assert count.added == WHOLE[backbone] - WHOLE[twin]
    assert count.added_madds == count.mixing + count.attention > 0
    assert count.madds == count.convolution + count.mixing + count.attention


@pytest.mark.parametrize("row", PRINTED, ids=lambda row: f"{row['kind']}-{row['backbone']}")
def test_printed_figures_follow_from_the_layers(row):
    """Parameters by hand, which equal the library's count, round to what papers print; but for one, see the data."""
    kind, backbone = row["kind"], row["backbone"]
    rows = [paper for paper in PAPERS if (paper.kind, paper.backbone) == (kind, backbone)]
    assert row["millions"] in [paper.millions for paper in rows]
    twin = backbone if backbone in CHANNELS else backbone.partition("_")[2]
    count = parameters_by_hand(backbone, CHANNELS[twin], kind == "mask_rcnn")
    assert count == row["parameters"]
    assert (round(count / 1e6, 2) == row["millions"]) == ("unexplained" not in row)


def test_additions_that_papers_print():
    for paper in PAPERS:
        if paper.added_millions is not None and paper.backbone != "cond8x_resnet50":  # whose classifier is static there
            added = (WHOLE[paper.backbone] - WHOLE["resnet50"]) / 1e6
            assert added == pytest.approx(paper.added_millions, abs=0.051), paper


def test_the_committed_page_is_what_the_command_writes():
    results = DATA.parents[1] / "docs" / "results"
    rows = json.loads((results / "detectors.json").read_text())
    lines = (results / "detectors.md").read_text().splitlines()
    for kind in ("faster_rcnn", "mask_rcnn"):
        count = count_detector(kind, "resnet50")
        assert as_json(count) in rows
        assert f"| {' | '.join(table_row(count))} |" in lines
    assert [(row["kind"], row["backbone"]) for row in rows] == list(dict.fromkeys((p.kind, p.backbone) for p in PAPERS))


def test_command(capsys):
    run(["resnet50", "--detector", "faster_rcnn", "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["as_papers"] == 43_802_056
    assert [paper["box_ap"] for paper in row["papers"]] == [37.4, 37.2]
    run(["resnet50", "--detector", "mask_rcnn"])
    text = capsys.readouterr().out
    assert text.startswith("Mask R-CNN\n")
    assert "44,400,693" in text
    assert "Faster" not in text
    run(["resnet50", "--markdown"])
    text = capsys.readouterr().out
    assert "`dynaconv detect models resnet50 --markdown`" in text
    assert "| resnet50 | 44,400,693 |" in text
    with pytest.raises(UnknownModelError):
        run(["resnet51"])
    with pytest.raises(DynaconvError, match="is no backbone for a detector"):
        run(["kw1x_deit_tiny"])
