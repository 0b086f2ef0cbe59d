"""Scores against pycocotools called by hand on files, and against an oracle from the definition."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from pycocotools import mask as coder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dynaconv.detection.evaluation.coco import SUMMARY
from dynaconv.detection.evaluation.encoding import encode_masks
from dynaconv.detection.evaluation.scorer import CocoScorer, score_results
from dynaconv.errors import DynaconvError
from tests import oracles_detection as oracle
from tests.detection.evaluation.random_results import CATEGORIES, random_outputs, random_truth


def scored(truth, outputs, masks=True):
    scorer = CocoScorer(truth, CATEGORIES, masks=masks)
    for number, output in outputs.items():
        scorer.add([number], [output])
    return scorer, scorer.scores()


@pytest.mark.parametrize("seed", range(6))
def test_equals_pycocotools_on_files(seed, tmp_path, capsys):
    truth = random_truth(seed)
    scorer, scores = scored(truth, random_outputs(truth, seed + 100))
    assert capsys.readouterr().out == ""
    (tmp_path / "truth.json").write_text(json.dumps({"info": {}, **truth}))
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        key = {"bbox": "bbox", "segm": "segmentation"}[kind]
        keys = ("image_id", "category_id", "score", key)
        (tmp_path / "results.json").write_text(json.dumps([{k: entry[k] for k in keys} for entry in scorer.results()]))
        coco = COCO(str(tmp_path / "truth.json"))
        reference = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        for figure, value in zip(SUMMARY, reference.stats, strict=True):
            assert getattr(scores, f"{name}_{figure}") == (None if value == -1 else value), (name, figure)
        for place, entry in enumerate(scores.classes):
            values = reference.eval["precision"][:, :, place, 0, 2]
            expected = None if values.mean() == -1 else pytest.approx(values.mean(), abs=1e-12)
            assert getattr(entry, f"{name}_ap") == expected
            at_half = reference.eval["precision"][0, :, place, 0, 2].mean()
            assert getattr(entry, f"{name}_ap50") == (None if at_half == -1 else at_half)


@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_definition(kind, seed):
    truth = random_truth(seed)
    outputs = random_outputs(truth, seed + 200)
    scorer, scores = scored(truth, outputs)

    def shaped(entry, area):
        code = entry["segmentation"]
        shape = entry["bbox"] if kind == "box" else coder.decode(code).astype(bool)
        return {"shape": shape, "area": area(entry), "crowd": bool(entry.get("iscrowd")), "score": entry.get("score")}

    def images(category):
        def of(entries, image, area):
            return [shaped(e, area) for e in entries if (e["image_id"], e["category_id"]) == (image["id"], category)]

        own = (lambda e: e["bbox"][2] * e["bbox"][3]) if kind == "box" else (lambda e: coder.area(e["segmentation"]))
        return [
            (of(scorer.results(), image, own), of(truth["annotations"], image, lambda e: e["area"]))
            for image in truth["images"]
        ]

    iou = {"box": oracle.box_iou, "mask": oracle.mask_iou}[kind]
    for size, suffix in (("all", ""), ("small", "_small"), ("medium", "_medium")):
        table = [[oracle.average_precision(images(c), t, iou, size) for t in oracle.THRESHOLDS] for c in CATEGORIES]
        found = [row for row in table if row[0] is not None]
        expected = [np.mean([[cell[which] for cell in row] for row in found]) for which in (0, 1)] if found else None
        recall = "ar100" if size == "all" else f"ar{suffix}"
        for which, figure in enumerate((f"ap{suffix}", recall)):
            value = getattr(scores, f"{kind}_{figure}")
            assert (value is None) if expected is None else math.isclose(value, expected[which], abs_tol=1e-12), figure
        if size == "all":
            assert len(found) == 2
            for row, entry in zip(table, scores.classes, strict=True):
                ap = getattr(entry, f"{kind}_ap")
                assert (ap is None) == (row[0] is None)
                assert ap is None or math.isclose(ap, np.mean([cell[0] for cell in row]), abs_tol=1e-12)


def test_perfect_detections_reach_one_whatever_the_numbers_of_annotations():
    """pycocotools takes a match with annotation 0 for none, and some tools count from 0."""
    truth = random_truth(0)
    truth["annotations"] = [a | {"iscrowd": 0, "id": n} for n, a in enumerate(truth["annotations"])]
    results = [{**a, "score": 1.0} for a in truth["annotations"]]
    before = json.dumps(truth)
    scores = score_results(truth, results, ["bbox", "segm"])
    assert scores.box_ap == pytest.approx(1)
    assert scores.mask_ap == pytest.approx(1)
    assert json.dumps(truth) == before


def test_annotations_without_area_and_crowd():
    truth = random_truth(2)
    filled = [a | {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3]} for a in truth["annotations"]]
    bare = [{k: v for k, v in a.items() if k not in ("iscrowd", "area")} for a in filled]
    outputs = random_outputs(truth, 3)
    _, expected = scored(truth | {"annotations": filled}, outputs)
    _, scores = scored(truth | {"annotations": bare}, outputs)
    assert scores == expected


def test_results_are_the_data_sets_numbers_and_original_pixels():
    truth = random_truth(0)
    scorer = CocoScorer(truth, CATEGORIES, masks=True)
    mask = torch.zeros(1, 1, 120, 150)
    mask[0, 0, 10:30, 40:90] = 0.51
    mask[0, 0, 30:60, 40:90] = 0.5
    output = {
        "boxes": torch.tensor([[40.0, 10.12345, 90.0, 30.0]]),
        "labels": torch.tensor([2]),
        "scores": torch.tensor([0.75]),
        "masks": mask,
    }
    scorer.add([torch.tensor(12)], [output])
    (entry,) = scorer.results()
    code = entry.pop("segmentation")
    assert entry == {"image_id": 12, "category_id": 7, "bbox": [40.0, 10.123, 50.0, 19.877], "score": 0.75}
    assert (coder.decode(code) == (mask[0, 0] > 0.5).numpy()).all()
    json.dumps(code)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_masks_are_packed_exactly(count):
    masks = torch.rand(count, 13, 7, generator=torch.Generator().manual_seed(0)) > 0.6
    codes = encode_masks(masks)
    assert len(codes) == count
    for mask, code in zip(masks, codes, strict=True):
        assert (torch.from_numpy(coder.decode(code)) == mask).all()


def test_nothing_found_is_zero():
    truth = random_truth(3)
    outputs = {n: {k: v[:0] for k, v in o.items()} for n, o in random_outputs(truth, 0).items()}
    scorer, scores = scored(truth, outputs)
    assert scorer.results() == []
    assert (scores.box_ap, scores.mask_ar100, scores.detections) == (0, 0, 0)
    assert scores.images == 8
    assert scores.objects == sum(not a["iscrowd"] for a in truth["annotations"])


def test_nothing_to_find_is_none_and_zero_in_the_log():
    truth = random_truth(3)
    outputs = random_outputs(truth, 0)
    _, scores = scored(truth | {"annotations": []}, outputs)
    assert scores.box_ap is None
    assert scores.mask_ar100 is None
    assert scores.metrics() == {"val_box_ap": 0.0, "val_mask_ap": 0.0}
    assert "–" in scores.table()


def test_only_images_that_were_added_are_judged():
    truth = random_truth(4)
    outputs = random_outputs(truth, 5)
    few = dict(list(outputs.items())[2:5])
    _, scores = scored(truth, few)
    part = {
        "images": [i for i in truth["images"] if i["id"] in few],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in few],
        "categories": truth["categories"],
    }
    _, expected = scored(part, few)
    assert scores == expected
    assert scores.images == 3


def test_an_image_counts_once():
    truth = random_truth(6)
    outputs = random_outputs(truth, 7)
    scorer, scores = scored(truth, outputs)
    first = next(iter(outputs))
    empty = {k: v[:0] for k, v in outputs[first].items()}
    scorer.add([first], [empty])
    assert scorer.scores() == scores


def test_boxes_alone():
    truth = random_truth(8)
    outputs = random_outputs(truth, 9)
    for output in outputs.values():
        del output["masks"]
    _, scores = scored(truth, outputs, masks=False)
    assert scores.mask_ap is None
    assert not any("mask" in name for name in scores.to_dict() | scores.to_dict()["classes"][0] | scores.metrics())
    assert "mask" not in scores.table()


def test_scores_as_text_and_plain_types():
    truth = random_truth(10)
    _, scores = scored(truth, random_outputs(truth, 11))
    values = json.loads(json.dumps(scores.to_dict()))
    assert values["box_ap"] == scores.box_ap
    assert [entry["name"] for entry in values["classes"]] == [f"class {n}" for n in CATEGORIES]
    lines = str(scores).splitlines()
    assert lines[2].split()[:2] == ["boxes", f"{100 * scores.box_ap:.1f}"]
    assert any(line.split()[:3] == ["class", "20", "0"] for line in lines)
    assert scores.metrics("val_")["val_mask_ap50"] == scores.mask_ap50


@pytest.mark.parametrize(
    ("ids", "change", "words"),
    [
        ([99], {}, "image id 99 is none of the 8"),
        ([10, 11], {}, "1 outputs came with 2 image ids"),
        ([10], {"labels": torch.tensor([5])}, "label 5; expected 1 to 4"),
        ([10], {"masks": None}, "no masks"),
    ],
)
def test_errors(ids, change, words):
    scorer = CocoScorer(random_truth(0), CATEGORIES, masks=True)
    output = {
        "boxes": torch.zeros(1, 4),
        "labels": torch.tensor([1]),
        "scores": torch.ones(1),
        "masks": torch.zeros(1, 1, 120, 150),
    }
    output = {name: value for name, value in (output | change).items() if value is not None}
    with pytest.raises(DynaconvError, match=words):
        scorer.add(ids, [output])
    with pytest.raises(DynaconvError, match="no image"):
        scorer.scores()
