"""Detectors' counts beside the papers' figures: as rows of a table, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynaconv.detection.models.counting import DetectorCount
from dynaconv.detection.models.papers import PaperDetector, reported

HEADER = (
    "backbone",
    "parameters",
    "trained",
    "added",
    "as papers count",
    "papers'",
    "MAdds G",
    "added",
    "all G",
    "papers'",
    "papers' AP box (mask)",
)
NAMES = {"faster_rcnn": "Faster R-CNN", "mask_rcnn": "Mask R-CNN"}
NOTES = (
    "Detectors of 80 classes on an image of 1280 x 800 pixels, pyramid of 256 channels; the box head runs on 1,000 "
    "regions, the mask head on 100.",
    "trained: parameters that learn with norms 'eval' and one stage frozen, as in the papers' detectors. Cells that a "
    "frozen and a trained stage share are trained.",
    "added: beside the static backbone.",
    "as papers count: with the unused classifier of 1,000 classes that the authors' backbones keep, without the "
    "outputs for the background that torchvision's predictors have more.",
    "all G: with what MMDetection's counter adds: two operations a value that a norm gives, one a value that a ReLU "
    "gives, a pool takes or a bias is added to.",
    "papers': their figures on COCO, not measured here; parameters in millions, operations in G.",
)
DIFFERENCES = """## Where printed figures differ

- 108.91 is the sum of 43.80 and 65.11, rounded before; the sum itself, 108,915,912, rounds to 108.92.
- 31.80 is 0.016 M more than the count. The same README has 29.14 for the same backbone's Faster R-CNN, to which a mask
  head adds 2.64; no count tried gives 31.80.
- +90.0 of CondConv is the backbone with a static classifier, as here. +4.3 of DCD is the whole network with its dynamic
  classifier (4,278,024); without it, it is +4,049,032.
- 260.1 comes out as 260.18: MMDetection's heads have outputs less, and its region proposals' ReLUs are functions that
  its counter does not see; with both it would be 260.15.
- Operations that methods add are counted here with the making of kernels, which a counter of modules does not see:
  +0.01 of CondConv is near its branches alone (0.008 here), without mixing (0.103). For +0.16 of DY-Conv, +0.13 of DCD
  (whose code applies its residual at every pixel, and is counted so) and +0.35 of ODConv no rule was found.
- +4 of KernelWarehouse on ConvNeXt-Tiny (box AP 44.8 in the FDConv README, not in the table) is near the ICML text's
  network, whose own count no source gives; what is built here is the public code's."""


def table_row(count: DetectorCount) -> tuple[str, ...]:
    """A count as cells below :data:`HEADER`."""
    papers = reported(count.kind, count.backbone)
    return (
        count.backbone,
        f"{count.parameters:,}",
        f"{count.trained:,}",
        f"{count.added:+,}" if count.method else "-",
        f"{count.as_papers:,}",
        _printed(papers, "millions", "added_millions"),
        f"{count.madds / 1e9:.2f}",
        f"{count.added_madds / 1e9:+.2f}" if count.method else "-",
        f"{(count.madds + count.elementwise) / 1e9:.2f}",
        _printed(papers, "giga", "added_giga"),
        "; ".join(dict.fromkeys(map(_ap, papers))) or "-",
    )


def _ap(paper: PaperDetector) -> str:
    return f"{paper.box_ap}" if paper.mask_ap is None else f"{paper.box_ap} ({paper.mask_ap})"


def _printed(papers: Sequence[PaperDetector], total: str, added: str) -> str:
    """What papers print: totals as they are, additions with a sign."""
    figures = []
    for paper in papers:
        if (value := getattr(paper, total)) is not None:
            figures.append(f"{value:g}")
        if (value := getattr(paper, added)) is not None:
            figures.append(f"+{value:g}")
    return "; ".join(dict.fromkeys(figures)) or "-"


def as_json(count: DetectorCount) -> dict[str, Any]:
    """A count and what papers report, as plain types."""
    papers = [
        {key: value for key, value in asdict(paper).items() if value is not None and key not in ("kind", "backbone")}
        for paper in reported(count.kind, count.backbone)
    ]
    return {**asdict(count), "papers": papers}


def page(counts: Sequence[DetectorCount], command: str, versions: str) -> str:
    """A page in Markdown.

    Args:
        counts: in the order of the page.
        command: that wrote it.
        versions: of the packages that counted.
    """
    lines = ["# Detectors: parameters and multiply-adds", "", f"Written by `{command}` ({versions}).", ""]
    lines += [f"- {note}" for note in NOTES]
    for kind, name in NAMES.items():
        chosen = [count for count in counts if count.kind == kind]
        if chosen:
            lines += ["", f"## {name}", "", _line(HEADER), _line(["---"] + ["---:"] * (len(HEADER) - 1))]
            lines += [_line(table_row(count)) for count in chosen]
    sources = dict.fromkeys(paper.source for count in counts for paper in reported(count.kind, count.backbone))
    if sources:
        lines += ["", f"Papers' figures: {'; '.join(sources)}.", "", DIFFERENCES]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
