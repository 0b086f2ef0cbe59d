"""What a detector of torchvision's says of an image, as COCO's results entries: small enough to keep for all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dynaconv.errors import DynaconvError, require

MASK_THRESHOLD = 0.5
"""A pixel belongs to an object above this probability."""
DECIMALS = 3
"""Boxes are kept to a thousandth of a pixel: files are half as long, and no score changes visibly."""


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Binary masks as COCO's compressed run lengths.

    Args:
        masks: booleans, shape ``(N, H, W)``, on any device.

    Returns:
        One ``{"size": [H, W], "counts": text}`` a mask.
    """
    encoder = require("pycocotools.mask", "detection")
    if not len(masks):
        return []
    # pycocotools reads column by column; transposed where the masks are, no copy is needed here.
    columns = masks.byte().transpose(1, 2).contiguous().cpu().numpy().transpose(2, 1, 0)
    codes = encoder.encode(columns)
    return [{"size": list(code["size"]), "counts": code["counts"].decode("ascii")} for code in codes]


def encode_output(
    image_id: int, output: Mapping[str, Tensor], category_ids: Sequence[int], masks: bool
) -> list[dict[str, Any]]:
    """One image's detections as COCO's results entries, best first as torchvision gives them.

    Args:
        image_id: of the data set.
        output: ``boxes`` (N, 4) as x1, y1, x2, y2 in pixels of the original image, ``labels`` (N,) from 1 on,
            ``scores`` (N,), and for masks ``masks`` (N, 1, H, W), probabilities.
        category_ids: the data set's number of each label.
        masks: encode masks, too.

    Raises:
        DynaconvError: if the output lacks something, or has a label that the data set does not.
    """
    needed = ("boxes", "labels", "scores", *(["masks"] if masks else []))
    if missing := [name for name in needed if name not in output]:
        raise DynaconvError(
            f"the detector's output has {', '.join(sorted(output)) or 'nothing'} and no {', '.join(missing)}; "
            f"expected those of {'Mask R-CNN' if masks else 'a detector'} in evaluation mode"
        )
    labels = output["labels"].tolist()
    if wrong := [label for label in labels if not 1 <= label <= len(category_ids)]:
        raise DynaconvError(
            f"the detector found label {wrong[0]}; expected 1 to {len(category_ids)}, one for each class of the data"
        )
    codes = encode_masks(output["masks"][:, 0] > MASK_THRESHOLD) if masks else []
    entries = []
    for place, (box, label, score) in enumerate(
        zip(output["boxes"].cpu().double().tolist(), labels, output["scores"].tolist(), strict=True)
    ):
        x1, y1, x2, y2 = box
        entry = {
            "image_id": image_id,
            "category_id": category_ids[label - 1],
            "bbox": [round(value, DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": score,
        }
        entries.append({**entry, "segmentation": codes[place]} if masks else entry)
    return entries
