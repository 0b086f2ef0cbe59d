"""A folder in COCO's layout whose images are told apart by their brightness."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_validation(root: Path, truth: Mapping[str, Any]) -> Path:
    """Annotations and images of the validation split; every pixel of an image is its id."""
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(truth))
    for image in truth["images"]:
        pixels = np.full((image["height"], image["width"], 3), image["id"], dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val2017" / image["file_name"])
    return root
