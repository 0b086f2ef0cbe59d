"""Two kinds of rectangles in COCO's format, and a Mask R-CNN that is small enough to learn them in seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dynaconv.detection import CocoLoaderConfig, DetectionAugmentConfig, DetectionRecipe, DetectorConfig
from dynaconv.training import OptimizerConfig, RunConfig, ScheduleConfig

HEIGHT, WIDTH = 64, 80
COLOURS = ((255, 60, 60), (60, 255, 60))
CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]
TINY_BACKBONE: dict[str, Any] = {"channels": [8, 16, 24, 32], "stem_width": 8, "stem_type": "", "avg_down": False}
TINY = DetectorConfig(
    image_size=64,
    max_size=96,
    pyramid_channels=16,
    box_channels=64,
    mask_channels=16,
    anchor_size=16,
    proposals=64,
    box_samples=32,
)


def make_shapes(root: Path, *, repeats: int = 1, empty: int = 0) -> Path:
    """Two images of two rectangles each, to train on ``repeats`` times beside empty ones; the two are judged."""
    draw = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    images, entries = [], []
    for number in (1, 2):
        pixels = draw.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for place, (x, y, w, h) in enumerate([(4 + 2 * number, 6, 28, 32), (38 + 2 * number, 20, 36, 30)]):
            kind = (place + number) % 2
            pixels[y : y + h, x : x + w] = COLOURS[kind]
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            entry = {"category_id": CATEGORIES[kind]["id"], "bbox": [x, y, w, h], "segmentation": [corners]}
            entries.append({"image_id": number, "area": w * h, "iscrowd": 0, **entry})
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
    write(root / "val.json", images, entries)
    copies = [(image | {"id": image["id"] + 10 * turn}) for turn in range(repeats) for image in images]
    copied = [entry | {"image_id": entry["image_id"] + 10 * turn} for turn in range(repeats) for entry in entries]
    for number in range(empty):
        name = f"empty{number}.png"
        Image.new("RGB", (40, 70), (40, 40, 60)).save(root / "images" / name)
        copies.append({"id": 1000 + number, "file_name": name, "width": 40, "height": 70})
    write(root / "train.json", copies, copied)
    return root


def write(path: Path, images: list[dict], entries: list[dict]) -> None:
    numbered = [{"id": number, **entry} for number, entry in enumerate(entries, 1)]
    path.write_text(json.dumps({"images": images, "annotations": numbered, "categories": CATEGORIES}))


def shapes_recipe(root: Path, **changes: Any) -> DetectionRecipe:
    recipe = DetectionRecipe(
        model="resnet10t",
        method={"method": "kernel_warehouse"},
        backbone=TINY_BACKBONE,
        detector=TINY,
        data=str(root),
        loader=shapes_loader(),
        augment=DetectionAugmentConfig(flip=0.0),
        optimizer=OptimizerConfig(lr=5e-3, weight_decay=0.0, clip_norm=5.0),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0.5, temperature_epochs=1),
        run=RunConfig(accelerator="cpu"),
    )
    return dataclasses.replace(recipe, **changes)


def shapes_loader(**changes: Any) -> CocoLoaderConfig:
    paths = {"train_images": "images", "val_images": "images"}
    files = {"train_annotations": "train.json", "val_annotations": "val.json"}
    return CocoLoaderConfig(**{"batch_size": 2, "workers": 0, **paths, **files, **changes})
