"""Judged and used from its files: a saved detector, without a stand-in."""

from __future__ import annotations

import json

from dynaconv.checkpoints.native import save_checkpoint
from dynaconv.cli.main import main
from dynaconv.detection import score_files
from dynaconv.detection.checkpoints import describe_detector
from tests.detection.evaluation.coco_folder import write_validation
from tests.detection.evaluation.random_results import CATEGORIES, random_truth
from tests.detection.models.tiny import KW, settings, tiny_detector


def test_eval_and_predict(tmp_path, capsys):
    data, best = write_validation(tmp_path / "data", random_truth(50, images=3)), tmp_path / "best"
    asked = settings(score_threshold=0.0, detections=5)
    detector = tiny_detector(num_classes=4, detector=asked, config=KW)
    model = {"name": "test_resnet", "num_classes": 7, "config": KW.to_dict()}
    classes = {"classes": [f"class {n}" for n in CATEGORIES], "category_ids": list(CATEGORIES)}
    save_checkpoint(best, detector, describe_detector(detector, asked, model, classes) | {"data": str(data)})

    judging = ["--workers", "0", "--accelerator", "cpu", "--json"]
    assert main(["detect", "eval", str(best), *judging]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores == json.loads((tmp_path / "best-eval" / "scores.json").read_text())
    assert (scores["images"], scores["detections"]) == (3, 15)
    assert 0 <= scores["mask_ap"] <= 1

    image = str(data / "val2017" / "1.png")
    assert main(["detect", "predict", image, "--checkpoint", str(best), "--out", str(tmp_path), "--score", "0"]) == 0
    (entry,) = json.loads((tmp_path / "detections.json").read_text())
    judged = json.loads((tmp_path / "best-eval" / "results-bbox.json").read_text())
    expected = [found for found in judged if found["image_id"] == 11]
    keys = ("category_id", "bbox", "score")
    assert [[found[key] for key in keys] for found in entry["detections"]] == [
        [e[key] for key in keys] for e in expected
    ]
    assert (tmp_path / "1.png").is_file()
    truth = data / "annotations" / "instances_val2017.json"
    assert score_files(tmp_path / "best-eval" / "results-segm.json", truth).mask_ap == scores["mask_ap"]
