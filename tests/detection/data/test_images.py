"""Targets against pycocotools, and images that are not what the annotations say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from dynaconv.detection import read_annotations
from dynaconv.detection.data.images import CocoImages
from dynaconv.errors import DynaconvError, ImageError
from tests.detection.data.coco_sets import make_content, write_json, write_set

LABELS = {3: 1, 7: 2, 90: 3}


def opened(root, masks=True, **options):
    annotations = read_annotations(root / "annotations/instances_train2017.json", root / "train2017", masks)
    return CocoImages(annotations, masks=masks, **options)


@pytest.mark.parametrize("masks", [True, False])
def test_targets_are_the_annotations(tmp_path, masks):
    content = make_content(8)
    content["annotations"][2]["iscrowd"] = 1
    images = opened(write_set(tmp_path, content), masks)
    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    assert len(images) == 8
    for index, (image, target) in enumerate(images[i] for i in range(8)):
        info = content["images"][index]
        entries = [e for e in content["annotations"] if e["image_id"] == info["id"] and not e["iscrowd"]]
        assert image.size == (info["width"], info["height"])
        assert np.asarray(image)[0, 0, 2] == index
        assert (target["image_id"], target["size"]) == (info["id"], (info["height"], info["width"]))
        assert target["labels"].tolist() == [LABELS[e["category_id"]] for e in entries]
        expected = [[x, y, x + w, y + h] for x, y, w, h in (e["bbox"] for e in entries)]
        assert target["boxes"].tolist() == expected
        assert (target["boxes"].shape, target["boxes"].dtype) == ((len(entries), 4), torch.float32)
        assert ("masks" in target) == masks
        if masks:
            assert (target["masks"].shape, target["masks"].dtype) == ((len(entries), *target["size"]), torch.uint8)
            for mask, entry in zip(target["masks"], entries, strict=True):
                np.testing.assert_array_equal(mask.numpy(), truth.annToMask(entry))


def test_boxes_end_at_the_edge(tmp_path):
    content = make_content(2)
    content["annotations"][0]["bbox"] = [-0.75, 20, 8, 20.5]
    assert opened(write_set(tmp_path, content))[1][1]["boxes"].tolist() == [[0, 20, 7.25, 40]]


def test_masks_without_a_pixel_are_left_out(tmp_path):
    content = make_content(3)
    content["annotations"][1]["segmentation"] = [[5, 5, 5.01, 5, 5.01, 5.01]]
    target = opened(write_set(tmp_path, content))[2][1]
    assert len(target["boxes"]) == len(target["labels"]) == len(target["masks"]) == 1


def test_which_images_are_kept(tmp_path):
    root = write_set(tmp_path, make_content(9))
    with_objects = opened(root, empty=False)
    assert [with_objects.record(i).name for i in range(len(with_objects))] == [f"{i}.png" for i in (1, 2, 3, 5, 6, 7)]
    assert with_objects.wide.tolist() == [h <= w for _, _, h, w in (with_objects.record(i)[:4] for i in range(6))]
    few = opened(root, limit=4)
    names = [few.record(i).name for i in range(4)]
    assert names == [opened(root, limit=4).record(i).name for i in range(4)] == sorted(set(names))
    assert len(opened(root, limit=100)) == 9


def test_only_images_without_objects(tmp_path):
    content = make_content(2)
    content["annotations"][0]["iscrowd"] = 1
    root = write_set(tmp_path, content)
    with pytest.raises(DynaconvError, match="no image with objects"):
        opened(root, empty=False)
    assert opened(root)[1][1]["masks"].shape == (0, 40, 30)


def test_images_that_can_not_be_used(tmp_path):
    root = write_set(tmp_path)
    images = opened(root)
    Image.new("RGB", (30, 40)).save(root / "train2017" / "0.png")
    (root / "train2017" / "1.png").write_bytes(b"")
    (root / "train2017" / "2.png").unlink()
    Image.new("RGB", (10, 40)).save(root / "train2017" / "3.png")
    texts = [
        "it is 30x40 pixels, and 40x30 in the annotations; turned by EXIF",
        "it is empty",
        "there is no such file",
        "10x40 pixels, and 40x30 in the annotations$",
    ]
    for index, text in enumerate(texts):
        with pytest.raises(ImageError, match=text):
            images[index]


def test_names_that_no_system_knows(tmp_path):
    content = make_content(3)
    root = write_set(tmp_path, content)
    content["images"][1]["file_name"] = "\ud800.png"
    content["images"][2]["file_name"] = "x" * 5000
    write_json(root / "annotations/instances_train2017.json", content)
    for index in (1, 2):
        with pytest.raises(ImageError):
            opened(root)[index]
