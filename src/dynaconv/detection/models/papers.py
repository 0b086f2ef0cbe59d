"""What papers report of detectors on COCO with these backbones. Figures are theirs, none was measured here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["faster_rcnn", "mask_rcnn"]

ODCONV = "ODConv README (object_detection)"
KERNEL_WAREHOUSE = "KernelWarehouse README (detection)"
FDCONV = "FDConv README"


@dataclass(frozen=True, kw_only=True)
class PaperDetector:
    """A row of a paper's table, on 80 classes.

    Args:
        kind: of the detector.
        backbone: a preset's name, or timm's of a static network.
        millions: parameters in millions, as printed.
        added_millions: parameters in millions beside the static backbone's, as printed.
        giga: operations in billions, as printed; 1280 x 800 pixels by MMDetection's habit.
        added_giga: operations in billions beside the static backbone's, as printed.
        box_ap: in percent.
        mask_ap: in percent.
        source: where the figures stand.
    """

    kind: Kind
    backbone: str
    millions: float | None = None
    added_millions: float | None = None
    giga: float | None = None
    added_giga: float | None = None
    box_ap: float
    mask_ap: float | None = None
    source: str


def _faster(backbone: str, box_ap: float, source: str, **figures: float) -> PaperDetector:
    return PaperDetector(kind="faster_rcnn", backbone=backbone, box_ap=box_ap, source=source, **figures)  # pyright: ignore[reportArgumentType]


def _mask(backbone: str, box_ap: float, mask_ap: float, source: str, **figures: float) -> PaperDetector:
    return PaperDetector(
        kind="mask_rcnn",
        backbone=backbone,
        box_ap=box_ap,
        mask_ap=mask_ap,
        source=source,
        **figures,  # pyright: ignore[reportArgumentType]
    )


PAPERS = (
    _faster("resnet50", 37.4, ODCONV, millions=43.80),
    _faster("resnet50", 37.2, FDCONV, millions=43.80, giga=207.1),
    _faster("cond8x_resnet50", 38.1, FDCONV, added_millions=90.0, added_giga=0.01),
    _faster("dy4x_resnet50", 38.3, FDCONV, added_millions=75.3, added_giga=0.16),
    _faster("dcd_resnet50", 38.1, FDCONV, added_millions=4.3, added_giga=0.13),
    _faster("od4x_resnet50", 39.4, ODCONV, millions=108.91),
    _faster("od4x_resnet50", 39.2, FDCONV, added_millions=65.1, added_giga=0.35),
    _faster("mobilenetv2_100", 31.8, ODCONV, millions=21.13),
    _faster("od4x_mobilenetv2_100", 35.5, ODCONV, millions=29.14),
    _mask("resnet50", 38.2, 34.6, ODCONV, millions=46.45),
    _mask("resnet50", 39.6, 36.4, KERNEL_WAREHOUSE),
    _mask("resnet50", 39.6, 36.4, FDCONV, millions=46.5, giga=260.1),
    _mask("dy4x_resnet50", 39.6, 36.6, FDCONV, added_millions=75.3),
    _mask("od4x_resnet50", 40.2, 36.1, ODCONV, millions=111.56),
    _mask("od4x_resnet50", 42.1, 38.6, FDCONV, added_millions=65.1),
    _mask("kw1x_resnet50", 41.8, 38.4, KERNEL_WAREHOUSE),
    _mask("kw1x_resnet50", 41.8, 38.4, FDCONV, added_millions=2.5),
    _mask("kw4x_resnet50", 42.4, 38.9, KERNEL_WAREHOUSE),
    _mask("kw4x_resnet50", 42.4, 38.9, FDCONV, added_millions=76.5),
    _mask("mobilenetv2_100", 32.4, 29.8, ODCONV, millions=23.78),
    _mask("mobilenetv2_100", 33.8, 31.7, KERNEL_WAREHOUSE),
    _mask("od4x_mobilenetv2_100", 36.0, 33.0, ODCONV, millions=31.80),
    _mask("kw1x_mobilenetv2_100", 36.4, 33.7, KERNEL_WAREHOUSE),
    _mask("kw4x_mobilenetv2_100", 38.0, 34.9, KERNEL_WAREHOUSE),
    _mask("convnext_tiny", 43.4, 39.7, KERNEL_WAREHOUSE),
    _mask("kw1x_convnext_tiny", 44.7, 40.6, KERNEL_WAREHOUSE),
)


def reported(kind: Kind, backbone: str) -> list[PaperDetector]:
    """The rows about a detector on a backbone."""
    return [paper for paper in PAPERS if (paper.kind, paper.backbone) == (kind, backbone)]
