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
NOTE = """Detectors of 80 classes, pyramid of 256 channels, an image of 1280 x 800 pixels; box head on 1,000 regions,
mask head on 100. trained: with norms "eval" and one stage frozen, as in the papers' detectors; cells that a frozen and
a trained stage share are trained. added: beside the static backbone. as papers count: with the unused classifier of
1,000 classes that the authors' backbones keep, without the outputs for the background that torchvision's predictors
have more. all: with two operations a value that a norm gives and one a value that a ReLU gives, a pool takes or a bias
is added to, as MMDetection's counter. Papers' figures are theirs, on COCO, not measured here; in millions, and in G."""


def table_row(count: DetectorCount) -> tuple[str, ...]:
    """A count as cells below :data:`HEADER`."""
    papers = reported(count.kind, count.backbone)
    return (
        count.backbone,
        f"{count.parameters:,}",
        f"{count.trained:,}",
        f"{count.added:+,}" if count.method else "-",
        f"{count.as_papers:,}",
        _printed(papers, "millions", "added_millions", 2),
        f"{count.madds / 1e9:.2f}",
        f"{count.added_madds / 1e9:+.2f}" if count.method else "-",
        f"{(count.madds + count.elementwise) / 1e9:.2f}",
        _printed(papers, "giga", "added_giga", 1),
        "; ".join(dict.fromkeys(map(_ap, papers))) or "-",
    )


def _ap(paper: PaperDetector) -> str:
    return f"{paper.box_ap}" if paper.mask_ap is None else f"{paper.box_ap} ({paper.mask_ap})"


def _printed(papers: Sequence[PaperDetector], total: str, added: str, digits: int) -> str:
    """What papers print: totals as they are, additions with a sign."""
    figures = []
    for paper in papers:
        if (value := getattr(paper, total)) is not None:
            figures.append(f"{value:.{digits}f}")
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
    lines = ["# Detectors: parameters and multiply-adds", "", f"Written by `{command}` ({versions}).", "", NOTE]
    for kind, name in NAMES.items():
        chosen = [count for count in counts if count.kind == kind]
        if chosen:
            lines += ["", f"## {name}", "", _line(HEADER), _line(["---"] + ["---:"] * (len(HEADER) - 1))]
            lines += [_line(table_row(count)) for count in chosen]
    sources = dict.fromkeys(paper.source for count in counts for paper in reported(count.kind, count.backbone))
    return "\n".join([*lines, "", f"Papers' figures: {'; '.join(sources)}." if sources else ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
