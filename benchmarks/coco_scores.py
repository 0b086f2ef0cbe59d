"""How long COCO's scores take, by pycocotools and by packages that offer the same, and whether they agree.

    pip install faster-coco-eval hotcoco
    python benchmarks/coco_scores.py                 # the size of COCO's validation: 5,000 images, 36,000 objects
    python benchmarks/coco_scores.py --images 500 --rounds 3

Random objects on 640x480 pixels, and 100 detections an image, some of them near objects. Times are the
processor's, of all threads, from files to figures.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pycocotools import mask as coder

EVALUATORS = {"pycocotools": "COCOeval", "faster_coco_eval": "COCOeval_faster", "hotcoco": "COCOeval"}
HEIGHT, WIDTH, CLASSES, DETECTIONS, OBJECTS = 480, 640, 80, 100, 7.2
ANGLES = np.linspace(0, 2 * np.pi, 20, endpoint=False)


def random_box(generator: np.random.Generator) -> list[float]:
    """Left, top, width, height; sides of 8 to 300 pixels, small ones more often."""
    width, height = np.exp(generator.uniform(np.log(8), np.log(300), 2))
    x, y = generator.uniform(0, WIDTH - width), generator.uniform(0, HEIGHT - height)
    return [round(float(value), 2) for value in (x, y, width, height)]


def mask_in(box: list[float], generator: np.random.Generator) -> dict[str, Any]:
    """A rough ellipse of twenty corners, as run lengths."""
    x, y, width, height = box
    radius = 1 - 0.2 * generator.random(len(ANGLES))
    corners = [x + width / 2 * (1 + radius * np.cos(ANGLES)), y + height / 2 * (1 + radius * np.sin(ANGLES))]
    code = coder.frPyObjects([np.stack(corners, 1).ravel().tolist()], HEIGHT, WIDTH)[0]
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}


def write_files(folder: Path, images: int) -> None:
    """``truth.json``, ``bbox.json`` and ``segm.json``."""
    generator = np.random.default_rng(0)
    objects: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        own = []
        for _ in range(generator.poisson(OBJECTS)):
            box, category = random_box(generator), int(generator.integers(1, CLASSES + 1))
            own.append({"image_id": image, "category_id": category, "bbox": box})
            crowd, area = int(generator.random() < 0.02), box[2] * box[3]
            more = {"id": len(objects) + 1, "iscrowd": crowd, "area": area, "segmentation": mask_in(box, generator)}
            objects.append(own[-1] | more)
        for number in range(DETECTIONS):
            if number < 2 * len(own):
                near = own[number % len(own)]
                sides = np.array(near["bbox"][2:] * 2)
                moved = np.array(near["bbox"]) + generator.normal(0, 0.06, 4) * sides
                box, category = np.maximum(moved, [0, 0, 2, 2]).round(2).tolist(), near["category_id"]
            else:
                box, category = random_box(generator), int(generator.integers(1, CLASSES + 1))
            score = round(float(generator.beta(3, 2) if number < 2 * len(own) else generator.beta(1, 6)), 4)
            found.append({"image_id": image, "category_id": category, "score": score, "bbox": box})
    pictures = [{"id": n, "height": HEIGHT, "width": WIDTH, "file_name": f"{n}.jpg"} for n in range(1, images + 1)]
    names = [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)]
    truth = {"info": {}, "images": pictures, "annotations": objects, "categories": names}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "bbox.json").write_text(json.dumps(found))
    masks = [{**entry, "segmentation": mask_in(entry.pop("bbox"), generator)} for entry in found]
    (folder / "segm.json").write_text(json.dumps(masks))


def judge(package: str, folder: Path, kind: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Seconds of the processor, the twelve figures, and the precision of every class, threshold and recall."""
    if package == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        module = importlib.import_module(package)
        COCO, Evaluation = module.COCO, getattr(module, EVALUATORS[package])
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        evaluation = Evaluation(truth, truth.loadRes(str(folder / f"{kind}.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    seconds = time.process_time() - start
    return seconds, np.array(evaluation.stats[:12], dtype=float), np.ravel(evaluation.eval["precision"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    values = parser.parse_args()
    installed = [name for name in EVALUATORS if importlib.util.find_spec(name)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, values.images)
        for kind in ("bbox", "segm"):
            seconds: dict[str, list[float]] = {package: [] for package in installed}
            figures = {}
            for _ in range(values.rounds):
                for package in installed:
                    taken, *figures[package] = judge(package, folder, kind)
                    seconds[package].append(taken)
            for package in installed:
                pairs = zip(figures[package], figures["pycocotools"], strict=True)
                differences = [float(np.abs(one - other).max()) for one, other in pairs]
                times = seconds[package]
                spread = f"{median(times):6.1f} s ({min(times):.1f} to {max(times):.1f})"
                print(f"{kind} {package:16} {spread}  largest difference {max(differences):.1e}", flush=True)


if __name__ == "__main__":
    main()
