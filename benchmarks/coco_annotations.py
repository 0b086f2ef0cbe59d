"""How long annotations of COCO's size take to be read, checked and served, and how much memory they need.

    python benchmarks/coco_annotations.py --images 118287 --objects 860001

Polygons of 6 to 50 points, one object in ten of two; image files are one JPEG of 640 x 480 pixels, linked as often as
needed. Every step is a process of its own; time is the process's own (CPU), memory its peak.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dynaconv.analysis.environment import describe, environment

WIDTH, HEIGHT = 640, 480
LINKS = 30_000  # of one file; file systems limit them
SHAPES = 5_000  # of objects, which are repeated


def make_set(root: Path, images: int, objects: int) -> None:
    """The layout of COCO; validation is a twentieth of training."""
    draw = np.random.default_rng(0)
    shapes = [make_shape(number, draw) for number in range(SHAPES)]
    file = io.BytesIO()
    Image.fromarray(draw.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(file, "JPEG")
    (root / "annotations").mkdir()
    for split, share in (("train", 1), ("val", 20)):
        folder = root / f"{split}2017"
        folder.mkdir()
        count = max(1, images // share)
        names = [f"{number:012}.jpg" for number in range(1, count + 1)]
        for number, name in enumerate(names):
            if number % LINKS == 0:
                (folder / name).write_bytes(file.getvalue())
            else:
                os.link(folder / names[number - number % LINKS], folder / name)
        content = {
            "images": [
                {
                    "id": i,
                    "file_name": name,
                    "height": HEIGHT,
                    "width": WIDTH,
                    "license": 1,
                    "coco_url": f"http://{name}",
                }
                for i, name in enumerate(names, start=1)
            ],
            "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
            "annotations": [
                {"id": i, "image_id": i % count + 1, "category_id": i % 80 + 1, "iscrowd": 0, **shapes[i % SHAPES]}
                for i in range(1, max(1, objects // share) + 1)
            ],
        }
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def make_shape(number: int, draw: np.random.Generator) -> dict:
    polygons = []
    x, y, radius = draw.uniform(60, WIDTH - 60), draw.uniform(60, HEIGHT - 60), draw.uniform(5, 55)
    for _ in range(1 + (number % 10 == 0)):
        angles = np.sort(draw.uniform(0, 2 * np.pi, draw.integers(6, 51)))
        points = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
        polygons.append(np.round(points, 2).ravel().tolist())
    every = np.concatenate(polygons).reshape(-1, 2)
    low, high = every.min(0), every.max(0)
    box = np.round([*low, *(high - low)], 2).tolist()
    return {"bbox": box, "area": box[2] * box[3], "segmentation": polygons}


def memory() -> float:
    """The largest this process has been, in gigabytes; getrusage would count what started it, too."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def parse(root: Path) -> str:
    json.loads((root / "annotations/instances_train2017.json").read_bytes())
    return ""


def read(root: Path, masks: bool = True) -> str:
    from dynaconv.detection import read_annotations

    read_annotations(root / "annotations/instances_train2017.json", root / "train2017", masks)
    return ""


def read_boxes(root: Path) -> str:
    return read(root, masks=False)


def set_up(root: Path) -> str:
    from dynaconv.detection import DetectionDataModule

    module = DetectionDataModule(str(root))
    module.setup()
    started = time.process_time()
    count = sum(len(batch) for batch in module.train_dataloader().batch_sampler)
    return f"order of {count:,} images {time.process_time() - started:.1f} s"


def check(root: Path) -> str:
    from dynaconv.cli.detection.check import run

    sys.stdout = io.StringIO()
    code = run([str(root)])
    last = sys.stdout.getvalue().splitlines()[-1]
    return f"exit code {code}, {last}"


STEPS: dict[str, Callable[[Path], str]] = {
    "JSON alone": parse,
    "read_annotations, boxes": read_boxes,
    "read_annotations, masks": read,
    "data module, masks": set_up,
    "dynaconv detect check": check,
}


def measured(step: Callable[[Path], str], root: Path, out: multiprocessing.Queue) -> None:
    import dynaconv.detection.data.datamodule  # noqa: F401  (imports are no part of it)

    before, started = memory(), time.process_time()
    note = step(root)
    out.put((time.process_time() - started, memory(), before, note))


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--images", type=int, default=118_287)
    flags.add_argument("--objects", type=int, default=860_001)
    values = flags.parse_args()
    print(describe(environment()))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_set(root, values.images, values.objects)
        size = (root / "annotations/instances_train2017.json").stat().st_size
        print(f"{values.images:,} images, {values.objects:,} objects, {size / 1e6:.0f} MB of JSON")
        for name, step in STEPS.items():
            queue = context.Queue()
            process = context.Process(target=measured, args=(step, root, queue))
            process.start()
            seconds, peak, before, note = queue.get()
            process.join()
            print(f"{name:<24} {seconds:6.1f} s  {peak:5.2f} GB ({before:.2f} before)  {note}", flush=True)


if __name__ == "__main__":
    main()
