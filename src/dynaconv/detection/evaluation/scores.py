"""COCO's scores of a detector, as one value that prints as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynaconv.detection.evaluation.coco import SUMMARY, Kind, Measured
from dynaconv.planning.table import align

NAMES: dict[Kind, str] = {"bbox": "box", "segm": "mask"}
"""pycocotools' words for what is judged, and ours."""
HEADER = ("AP", "AP50", "AP75", "AP small", "medium", "large", "AR1", "AR10", "AR100", "AR small", "medium", "large")


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, shares of 1.

    Args:
        name: of the class.
        category_id: of the data set.
        objects: that were to be found; crowds are not counted.
        box_ap: AP of the boxes; None without objects.
        box_ap50: at IoU 0.5.
        mask_ap: AP of the masks; None without objects or masks.
        mask_ap50: at IoU 0.5.
    """

    name: str
    category_id: int
    objects: int
    box_ap: float | None = None
    box_ap50: float | None = None
    mask_ap: float | None = None
    mask_ap50: float | None = None


@dataclass(frozen=True, kw_only=True)
class DetectionScores:
    """COCO's scores, shares of 1. None stands where there is no object to find, or nothing was judged.

    ``ap`` is the mean over ten thresholds of intersection over union (IoU), 0.5 to 0.95, ``ap50`` and ``ap75`` are at
    one; ``ar1`` to ``ar100`` are recalls with that many detections an image. Small objects have an area below 32²
    pixels of the original image, large ones above 96².

    Args:
        images: that were judged.
        objects: that were to be found; crowds are not counted.
        detections: that were judged.
        classes: scores of each class.
        unreadable: images that were left out because they could not be read.
        precision: for "bbox" and "segm", precision at 101 recalls for each of the ten thresholds, mean over the classes
            that have objects, shape ``(10, 101)``, for pictures.
    """

    box_ap: float | None = None
    box_ap50: float | None = None
    box_ap75: float | None = None
    box_ap_small: float | None = None
    box_ap_medium: float | None = None
    box_ap_large: float | None = None
    box_ar1: float | None = None
    box_ar10: float | None = None
    box_ar100: float | None = None
    box_ar_small: float | None = None
    box_ar_medium: float | None = None
    box_ar_large: float | None = None
    mask_ap: float | None = None
    mask_ap50: float | None = None
    mask_ap75: float | None = None
    mask_ap_small: float | None = None
    mask_ap_medium: float | None = None
    mask_ap_large: float | None = None
    mask_ar1: float | None = None
    mask_ar10: float | None = None
    mask_ar100: float | None = None
    mask_ar_small: float | None = None
    mask_ar_medium: float | None = None
    mask_ar_large: float | None = None
    images: int
    objects: int
    detections: int
    classes: tuple[ClassScores, ...]
    unreadable: int = 0
    precision: Mapping[Kind, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was judged: "box", "mask" or both."""
        return tuple(name for kind, name in NAMES.items() if kind in self.precision)

    def metrics(self, prefix: str = "val_") -> dict[str, float]:
        """The overall figures for a log, where a metric must be a number.

        The ``ap`` of what was judged is always there, 0 if there is no object at all; other figures are left out where
        there is nothing to find.

        Args:
            prefix: of every name.
        """
        always = {f"{kind}_ap": 0.0 for kind in self.kinds}
        found = {name: value for name, value in self._overall().items() if value is not None}
        return {prefix + name: value for name, value in (always | found).items()}

    def to_dict(self) -> dict[str, Any]:
        """All figures of what was judged as plain types: the overall ones by name, and a list of the classes."""
        left_out = tuple(f"{name}_" for name in NAMES.values() if name not in self.kinds)
        classes = [
            {name: value for name, value in vars(entry).items() if not name.startswith(left_out)}
            for entry in self.classes
        ]
        counts = {name: getattr(self, name) for name in ("images", "unreadable", "objects", "detections")}
        return {**counts, **self._overall(), "classes": classes}

    def table(self) -> str:
        """All figures in percent, as text: a row for boxes and one for masks, then a row a class."""
        overall = [
            ("boxes" if kind == "box" else "masks", *(_percent(getattr(self, f"{kind}_{name}")) for name in SUMMARY))
            for kind in self.kinds
        ]
        figures = [(kind, figure) for kind in self.kinds for figure in ("ap", "ap50")]
        by_class = [
            (entry.name, f"{entry.objects:,}", *(_percent(getattr(entry, "_".join(names))) for names in figures))
            for entry in self.classes
        ]
        header = ("class", "objects", *(f"{kind} {figure.upper()}" for kind, figure in figures))
        left_out = f" ({self.unreadable:,} unreadable left out)" if self.unreadable else ""
        counts = f"{self.images:,} images{left_out}, {self.objects:,} objects, {self.detections:,} detections"
        return "\n\n".join(
            [_ruled([("", *HEADER), *overall]), _ruled([header, *by_class]), f"{counts}; figures in percent"]
        )

    def __str__(self) -> str:
        return self.table()

    def _overall(self) -> dict[str, float | None]:
        return {f"{kind}_{name}": getattr(self, f"{kind}_{name}") for kind in self.kinds for name in SUMMARY}


def collect_scores(
    measured: Mapping[Kind, Measured], truth: Any, category_ids: Sequence[int], detections: int
) -> DetectionScores:
    """One value of all that was measured.

    Args:
        measured: of boxes, masks or both, by :func:`dynaconv.detection.evaluation.coco.measure`.
        truth: what they were compared with, of :func:`dynaconv.detection.evaluation.coco.index_truth`.
        category_ids: the classes, in the order in which they were measured.
        detections: how many were judged.
    """
    objects = Counter(entry["category_id"] for entry in truth.dataset["annotations"] if not entry["iscrowd"])
    overall: dict[str, Any] = {}
    by_class: list[dict[str, float | None]] = [{} for _ in category_ids]
    for kind, name in NAMES.items():
        found = measured.get(kind)
        overall |= {f"{name}_{figure}": None if found is None else found.summary[figure] for figure in SUMMARY}
        for place, figures in enumerate(by_class):
            figures[f"{name}_ap"] = None if found is None else found.class_ap[place]
            figures[f"{name}_ap50"] = None if found is None else found.class_ap50[place]
    classes = [
        ClassScores(truth.cats[identifier]["name"], identifier, objects[identifier], **figures)
        for identifier, figures in zip(category_ids, by_class, strict=True)
    ]
    return DetectionScores(
        **overall,
        images=len(truth.imgs),
        objects=sum(entry.objects for entry in classes),
        detections=detections,
        classes=tuple(classes),
        precision={kind: found.precision for kind, found in measured.items()},
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _ruled(rows: list[tuple[str, ...]]) -> str:
    header, *lines = align(rows, left=1)
    return "\n".join([header, "-" * max(map(len, [header, *lines])), *lines])
