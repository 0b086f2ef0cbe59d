"""From a saved detector and a folder of data to scores and files; and the same by several processes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from PIL import Image

from dynaconv.cli.main import main
from dynaconv.detection import CocoLoaderConfig, evaluate
from dynaconv.errors import DynaconvError
from tests.detection.evaluation import gathering
from tests.detection.evaluation.coco_folder import write_validation
from tests.detection.evaluation.random_results import CATEGORIES, random_outputs, random_truth
from tests.detection.evaluation.test_scorer import scored
from tests.detection.stand_in import Knowing
from tests.forked import run_together

LOADER = CocoLoaderConfig(val_batch_size=3, workers=0, max_bad=1)
NAMES = [f"class {number}" for number in CATEGORIES]


@pytest.fixture
def data(tmp_path) -> Path:
    """Eight images that are known by their brightness, in COCO's layout."""
    return write_validation(tmp_path / "data", random_truth(40))


@pytest.fixture
def outputs(data):
    truth = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    return truth, random_outputs(truth, 41)


@pytest.fixture
def described(data):
    """What the checkpoint says."""
    return {
        "classes": NAMES,
        "category_ids": list(CATEGORIES),
        "data": str(data),
        "detector": {"kind": "mask_rcnn"},
    }


@pytest.fixture
def checkpoint(monkeypatch, tmp_path, outputs, described):
    """A checkpoint that holds a detector with those outputs."""

    def load(path):
        return Knowing(outputs[1]).eval(), described

    monkeypatch.setattr("dynaconv.detection.evaluation.evaluate.load_detector", load)
    return tmp_path / "best"


def test_scores_are_those_of_the_outputs(checkpoint, outputs, tmp_path):
    scores = evaluate(checkpoint, loader=LOADER, out=tmp_path / "out", accelerator="cpu")
    scorer, expected = scored(*outputs)
    assert scores == expected
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == expected.to_dict()
    (first, *_) = json.loads((tmp_path / "out" / "results-bbox.json").read_text())
    assert first == {key: value for key, value in scorer.results()[0].items() if key != "segmentation"}
    with Image.open(tmp_path / "out" / "precision-recall.png") as picture:
        assert picture.width > picture.height > 300
    with pytest.raises(DynaconvError, match="of before; choose another folder"):
        evaluate(checkpoint, loader=LOADER, out=tmp_path / "out", accelerator="cpu")


def test_a_limit_is_whole_batches(checkpoint, outputs):
    scores = evaluate(checkpoint, loader=LOADER, limit=4, accelerator="cpu")
    few = {number: outputs[1][number] for number in sorted(outputs[1])[:6]}
    assert scores == scored(outputs[0], few)[1]


def test_unreadable_images_are_left_out_and_counted(checkpoint, data, outputs, caplog):
    (data / "val2017" / "2.png").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        scores = evaluate(checkpoint, loader=LOADER, accelerator="cpu")
    assert "2.png" in caplog.text
    assert (scores.images, scores.unreadable) == (7, 1)
    assert "7 images (1 unreadable left out)" in scores.table()
    rest = {number: output for number, output in outputs[1].items() if number != 12}
    assert scores.box_ap == scored(outputs[0], rest)[1].box_ap


def test_command(checkpoint, outputs, capsys):
    arguments = ["detect", "eval", str(checkpoint), "--batch-size", "4", "--workers", "0", "--accelerator", "cpu"]
    assert main(arguments) == 0
    expected = scored(*outputs)[1]
    assert capsys.readouterr().out == f"{expected.table()}\neverything is in {checkpoint}-eval\n"
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == expected.to_dict()
    names = ["precision-recall.png", "results-bbox.json", "results-segm.json", "scores.json"]
    assert sorted(path.name for path in Path(f"{checkpoint}-eval-2").iterdir()) == names


def test_errors(checkpoint, described, data):
    with pytest.raises(DynaconvError, match="limit=0"):
        evaluate(checkpoint, limit=0)
    with pytest.raises(DynaconvError, match="Trainer refuses accelerator='abacus'"):
        evaluate(checkpoint, loader=LOADER, accelerator="abacus")
    path = data / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace("class 7", "another"))
    with pytest.raises(DynaconvError, match=r"class 3, another, .*expected the same names"):
        evaluate(checkpoint, loader=LOADER)
    del described["data"]
    with pytest.raises(DynaconvError, match="does not say what it was trained on"):
        evaluate(checkpoint, loader=LOADER)


@pytest.mark.xdist_group("processes")
def test_two_processes_judge_as_one(tmp_path):
    run_together(gathering.main, [(rank, tmp_path) for rank in range(2)], tmp_path)
    truth = random_truth(30)
    scorer, scores = scored(truth, random_outputs(truth, 31))
    expected = {"scores": scores.to_dict(), "results": scorer.results()}
    assert [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)] == [expected, expected]


def test_of_an_image_that_several_judged_the_first_process_counts(monkeypatch):
    truth = random_truth(6)
    outputs = random_outputs(truth, 7)
    mine, _ = scored(truth, outputs)
    first = sorted(outputs)[0]
    theirs = {first: [], 99: []}

    def all_gather(parts, own):
        parts[:] = [theirs, own] if theirs_first else [own, theirs]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather)
    before = mine.results()
    theirs_first = False
    mine.gather()
    assert mine.results() == before
    theirs_first = True
    mine.gather()
    assert mine.results() == [entry for entry in before if entry["image_id"] != first]
