"""COCO's scores from their definition, in plain Python floats: slow, and independent of pycocotools."""

from __future__ import annotations

import math

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
RECALLS = np.linspace(0, 1, 101).tolist()  # as COCO has them: 0.7000000000000001 is one of them
SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}


def box_iou(found, true, crowd):
    """Intersection over union of x, y, w, h; of a crowd, over what was found."""
    width = min(found[0] + found[2], true[0] + true[2]) - max(found[0], true[0])
    height = min(found[1] + found[3], true[1] + true[3]) - max(found[1], true[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / (found[2] * found[3] + (0 if crowd else true[2] * true[3] - both))


def mask_iou(found, true, crowd):
    """The same of boolean arrays."""
    both = int((found & true).sum())
    union = int(found.sum()) + (0 if crowd else int(true.sum()) - both)
    return both / union if union else 0.0


def match(found, true, threshold, iou, lowest, highest):
    """Of one image and class: (score, hit) for each detection that counts, and how many objects were to be found."""
    ignored = [t["crowd"] or not lowest <= t["area"] <= highest for t in true]
    taken = [False] * len(true)
    marks = []
    for detection in sorted(found, key=lambda d: -d["score"])[:100]:
        best = None
        for wanted in (False, True):  # objects that are to be found come before those that are not judged
            for place, t in enumerate(true):
                if ignored[place] != wanted or (taken[place] and not t["crowd"]):
                    continue
                overlap = iou(detection["shape"], t["shape"], t["crowd"])
                if overlap >= threshold and (best is None or overlap >= best[1]):
                    best = (place, overlap)
            if best is not None:
                break
        if best is not None:
            taken[best[0]] = True
            if not ignored[best[0]]:
                marks.append((detection["score"], True))
        elif lowest <= detection["area"] <= highest:
            marks.append((detection["score"], False))
    return marks, ignored.count(False)


def average_precision(images, threshold, iou, size="all"):
    """(AP, recall) of one class over images, each a pair (found, true); None without objects."""
    marks, objects = [], 0
    for found, true in images:
        own, count = match(found, true, threshold, iou, *SIZES[size])
        marks, objects = marks + own, objects + count
    if not objects:
        return None
    marks.sort(key=lambda mark: -mark[0])
    hits = [sum(hit for _, hit in marks[: n + 1]) for n in range(len(marks))]
    points = [(hit / objects, hit / (n + 1)) for n, hit in enumerate(hits)]
    best = [max((precision for recall, precision in points if recall >= r), default=0.0) for r in RECALLS]
    return math.fsum(best) / len(best), (hits[-1] / objects if hits else 0.0)
