"""Results files: there and back, as pycocotools reads them, and everything that can be wrong with one."""

from __future__ import annotations

import contextlib
import io
import json

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynaconv.cli.main import main
from dynaconv.detection import score_files
from dynaconv.detection.evaluation.results import write_results
from dynaconv.errors import DynaconvError
from tests.detection.evaluation.random_results import CATEGORIES, encode, mask_of, random_outputs, random_truth
from tests.detection.evaluation.test_scorer import scored


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(random_truth(20)))
    return path


def test_there_and_back(truth, tmp_path):
    content = json.loads(truth.read_text())
    scorer, scores = scored(content, random_outputs(content, 21))
    boxes, masks = write_results(tmp_path / "out", scorer.results(), ["bbox", "segm"])
    assert [path.name for path in (boxes, masks)] == ["results-bbox.json", "results-segm.json"]
    for path, name in ((boxes, "box"), (masks, "mask")):
        again, values = score_files(path, truth), scores.to_dict()
        kept = {key for key in values if key.startswith(name)}
        assert len(kept) == 12
        assert {key: value for key, value in again.to_dict().items() if key.startswith(("box", "mask"))} == {
            key: values[key] for key in kept
        }
    coco = COCO()
    coco.dataset = {"info": {}, **content}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        for path, kind, value in ((boxes, "bbox", scores.box_ap_small), (masks, "segm", scores.mask_ap_small)):
            evaluation = COCOeval(coco, coco.loadRes(str(path)), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert evaluation.stats[3] == value


def test_boxes_and_masks_in_one_file(truth, tmp_path):
    content = json.loads(truth.read_text())
    scorer, scores = scored(content, random_outputs(content, 22))
    (tmp_path / "both.json").write_text(json.dumps(scorer.results()))
    assert score_files(tmp_path / "both.json", truth) == scores


def test_an_empty_list_misses_everything(truth, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    scores = score_files(tmp_path / "none.json", truth)
    assert (scores.images, scores.box_ap, scores.mask_ap) == (8, 0, None)


GOOD = {"image_id": 10, "category_id": 3, "score": 0.5, "bbox": [1, 2, 30, 40]}
MASK = encode(mask_of(GOOD["bbox"]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "can not be read"),
        ("{", "no JSON"),
        ({"annotations": []}, "holds a dict; expected a list"),
        ([GOOD, 7], "list of other things"),
        ([{**GOOD, "bbox": None}], "entry 0 has bbox=None"),
        ([{k: v for k, v in GOOD.items() if k != "bbox"}], "no entry has a bbox or a segmentation"),
        ([GOOD, {**GOOD, "image_id": 99}], "entry 1 has image_id=99; expected one of the 8 images"),
        ([{**GOOD, "image_id": [1]}], r"image_id=\[1\]"),
        ([{**GOOD, "category_id": 4}], "category_id=4; expected one of the truth's: 3, 7, 8, 20"),
        ([{**GOOD, "score": None}], "score=None; expected a number"),
        ([{**GOOD, "score": float("nan")}], "score=nan"),
        ([{**GOOD, "bbox": [1, 2, 3]}], r"bbox=\[1, 2, 3\]; expected left, top"),
        ([{**GOOD, "bbox": [1, 2, -3, 4]}], "expected left, top"),
        ([GOOD, {**GOOD, "segmentation": MASK}], "entry 0 has segmentation=None"),
        ([{**GOOD, "segmentation": [[1, 2, 3, 4, 5, 6]]}], "expected compressed run lengths"),
        ([{**GOOD, "segmentation": {**MASK, "size": [150, 120]}}], r"add up to size \[120, 150\]"),
        ([{**GOOD, "segmentation": {**MASK, "counts": "0"}}], r"add up to size \[120, 150\]"),
    ],
)
def test_errors(content, words, truth, tmp_path):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DynaconvError, match=words) as error:
        score_files(path, truth)
    assert "results.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_command(truth, tmp_path, capsys):
    content = json.loads(truth.read_text())
    scorer, scores = scored(content, random_outputs(content, 23))
    (tmp_path / "results.json").write_text(json.dumps(scorer.results()))
    arguments = ["detect", "eval", "--results", str(tmp_path / "results.json"), "--truth", str(truth)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == scores.table() + "\n"
    assert main([*arguments, "--json", "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out) == scores.to_dict()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["precision-recall.png", "scores.json"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "has scores.json, precision-recall.png of before" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["best", "--results", "a", "--truth", "b"], ["--results", "a"], ["best", "--truth", "b"]]
)
def test_command_wants_one_thing_to_judge(arguments, capsys):
    assert main(["detect", "eval", *arguments]) == 2
    assert "either a checkpoint, or both" in capsys.readouterr().err


def test_categories_of_the_helper_are_those_of_its_truth(truth):
    assert tuple(entry["id"] for entry in json.loads(truth.read_text())["categories"]) == CATEGORIES
