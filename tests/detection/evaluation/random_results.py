"""Random truths and detections, with all that is special: crowds, ties, empty images, classes without objects."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coder

HEIGHT, WIDTH = 120, 150
CATEGORIES = (3, 7, 8, 20)  # gaps in the numbers; 20 has no object, 8 crowds alone


def random_box(generator):
    width, height = generator.uniform(6, 70, 2)
    x, y = generator.uniform(0, WIDTH - width), generator.uniform(0, HEIGHT - height)
    return [round(float(value), 2) for value in (x, y, width, height)]


def mask_of(box):
    """An ellipse in the box."""
    x, y, width, height = box
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return ((columns - x - width / 2) / (width / 2)) ** 2 + ((rows - y - height / 2) / (height / 2)) ** 2 <= 1


def encode(mask):
    code = coder.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode()}


def random_truth(seed, images=8):
    """A mapping in COCO's format; the last image is empty."""
    generator = np.random.default_rng(seed)
    annotations = []
    for image in range(images - 1):
        for _ in range(generator.integers(1, 6)):
            category = int(generator.choice([3, 3, 7, 8]))
            box = random_box(generator)
            mask = mask_of(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + image,
                    "category_id": category,
                    "bbox": box,
                    "area": int(mask.sum()),
                    "iscrowd": int(category == 8 or generator.random() < 0.2),
                    "segmentation": encode(mask),
                }
            )
    return {
        "images": [{"id": 10 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": number, "name": f"class {number}"} for number in CATEGORIES],
    }


def random_outputs(truth, seed):
    """torchvision's outputs by image id: near objects, twice, elsewhere, with ties in score; image 11 has none."""
    generator = np.random.default_rng(seed)
    outputs = {}
    for image in truth["images"]:
        boxes, labels = [], []
        for annotation in truth["annotations"]:
            if annotation["image_id"] == image["id"]:
                for _ in range(generator.integers(0, 3)):
                    boxes.append(np.array(annotation["bbox"]) + generator.normal(0, 2.5, 4))
                    labels.append(CATEGORIES.index(annotation["category_id"]) + 1)
        for _ in range(generator.integers(0, 4)):
            boxes.append(np.array(random_box(generator)))
            labels.append(int(generator.integers(1, 5)))
        if image["id"] == 11:
            boxes, labels = [], []
        scores = np.sort(np.round(generator.random(len(boxes)), 1))[::-1].copy()
        corners = [[x, y, x + max(w, 1), y + max(h, 1)] for x, y, w, h in boxes]
        masks = [mask_of([x1, y1, x2 - x1, y2 - y1]) for x1, y1, x2, y2 in corners]
        outputs[image["id"]] = {
            "boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(scores, dtype=torch.float32),
            "masks": torch.tensor(np.array(masks).reshape(-1, 1, HEIGHT, WIDTH), dtype=torch.float32) * 0.8,
        }
    return outputs
