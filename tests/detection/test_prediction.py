"""From image files to lists and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coder

from dynaconv.cli.main import main
from dynaconv.detection import predict
from dynaconv.detection.prediction import find_objects
from dynaconv.errors import DynaconvError
from tests.detection.stand_in import description, tiny_detector


@pytest.fixture
def checkpoint(monkeypatch):
    """A checkpoint of that name holds the tiny detector."""

    def load(path):
        assert str(path) == "best"
        return tiny_detector(), description()

    monkeypatch.setattr("dynaconv.detection.prediction.load_detector", load)
    return "best"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_objects_are_those_of_the_detector(checkpoint, photo):
    (found,) = predict(checkpoint, [photo], score=0.0)
    pixels = torch.from_numpy(np.asarray(Image.open(photo)).copy()).permute(2, 0, 1) / 255
    with torch.inference_mode():
        expected = tiny_detector()([pixels])[0]
    assert len(found.detections) == len(expected["scores"]) > 2
    assert (found.image, found.width, found.height, found.error) == (str(photo), 90, 60, None)
    for detection, box, label, score, mask in zip(found.detections, *expected.values(), strict=True):
        assert detection.category == ["cat", "dog", "tree"][label - 1]
        assert detection.category_id == [2, 5, 9][label - 1]
        assert detection.score == score.item()
        x, y, width, height = detection.bbox
        assert torch.allclose(torch.tensor([x, y, x + width, y + height]), box, atol=2e-3)
        assert (coder.decode(detection.segmentation) == (mask[0] > 0.5).numpy()).all()


def test_low_scores_are_left_out(checkpoint, photo):
    (everything,) = predict(checkpoint, [photo], score=0.0)
    middle = everything.detections[2].score
    (some,) = predict(checkpoint, [photo], score=middle - 1e-6)
    assert some.detections == everything.detections[:3]
    told = description()
    ((some, picture),) = find_objects(
        tiny_detector(), [photo], classes=told["classes"], category_ids=told["category_ids"], score=middle, draw=False
    )
    assert some.detections == everything.detections[:3]
    assert picture is None


def test_files_are_written(checkpoint, photo, tmp_path):
    predictions = predict(checkpoint, [photo], score=0.0, out=tmp_path / "out")
    assert predictions[0].picture == str(tmp_path / "out" / "photo.png")
    with Image.open(predictions[0].picture) as picture:
        assert picture.size == (90, 60)
        assert (np.asarray(picture) != np.asarray(Image.open(photo))).any()
    (entry,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert entry == json.loads(json.dumps(predictions[0].to_dict()))
    assert entry["detections"][0].keys() == {"category", "category_id", "score", "bbox", "segmentation"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["detections.json", "photo.png"]


def test_nothing_is_replaced_not_even_the_input(checkpoint, photo, tmp_path):
    other = tmp_path / "b" / "photo.jpg"
    other.parent.mkdir()
    Image.open(photo).save(other)
    before = photo.read_bytes()
    predictions = predict(checkpoint, [photo, other], out=tmp_path)
    assert photo.read_bytes() == before
    assert [Path(p.picture).name for p in predictions] == ["photo-2.png", "photo-3.png"]
    predict(checkpoint, [photo], out=tmp_path)
    assert (tmp_path / "photo-4.png").is_file()
    assert (tmp_path / "detections-2.json").is_file()


def test_nothing_found_is_the_plain_picture(checkpoint, photo, tmp_path):
    (found,) = predict(checkpoint, [photo], score=1.0, out=tmp_path / "out")
    assert found.detections == ()
    assert (np.asarray(Image.open(found.picture)) == np.asarray(Image.open(photo))).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_gray_images(checkpoint, depth, tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (60, 90))
    Image.fromarray((gray << (depth - 8)).astype({8: np.uint8, 16: np.uint16}[depth])).save(tmp_path / "gray.png")
    Image.fromarray(np.repeat(gray[:, :, None], 3, axis=2).astype(np.uint8)).save(tmp_path / "color.png")
    found, expected = predict(checkpoint, [tmp_path / "gray.png", tmp_path / "color.png"], score=0.0)
    assert found.detections == expected.detections != ()


def test_unreadable_files_are_told_and_the_others_searched(checkpoint, photo, tmp_path, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:200])
    arguments = ["detect", "predict", str(broken), str(photo), "--checkpoint", "best", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--score", "0"]) == 1
    captured = capsys.readouterr()
    assert f"dynaconv detect predict: {broken} can not be read as an image" in captured.err
    lines = captured.out.splitlines()
    assert lines[0].startswith(f"{photo}  ")
    assert "%  " in lines[0]
    assert lines[-1] == f"everything is in {tmp_path / 'out'}"
    first, second = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert first.keys() == {"image", "error"}
    assert second["detections"]


def test_command(checkpoint, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["detect", "predict", str(photo), "--checkpoint", "best"]
    assert main([*arguments, "--score", "0", "--no-masks", "--no-pictures", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert "picture" not in entry
    assert "segmentation" not in entry["detections"][0]
    assert [path.name for path in (tmp_path / "detections").iterdir()] == ["detections.json"]
    assert main([*arguments, "--score", "1"]) == 0
    assert "nothing of score 1 or more" in capsys.readouterr().out
    assert (tmp_path / "detections-2" / "photo.png").is_file()


@pytest.mark.parametrize(("options", "words"), [({"score": 1.5}, "score=1.5"), ({"device": "nowhere"}, "nowhere")])
def test_errors(checkpoint, photo, options, words):
    with pytest.raises(DynaconvError, match=words):
        predict(checkpoint, [photo], **options)
