"""The page: figures through templates into one file that needs nothing else, and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from dynaconv.analysis.table import format_count
from dynaconv.errors import require
from dynaconv.planning.table import format_shape
from dynaconv.training.report import chart
from dynaconv.training.report.gather import Figures
from dynaconv.training.report.judging import Example, as_pixels
from dynaconv.training.report.sheets import Matrix, Sheet

THUMBNAIL = 128
"""Largest side in pixels."""
SMALL = 64
"""Up to this side, pictures are kept to the pixel; others are JPEGs."""
SCRIPTS = ("common.js", "charts.js", "maps.js")
ATTENDING = "KernelWarehouse, ODConv, DY-Conv and CondConv"


def render(figures: Figures) -> str:
    """The whole page.

    Everything that comes from data is escaped, and the page's own policy forbids the browser to run any other script
    than the page's, and to fetch anything.

    Args:
        figures: of :func:`dynaconv.training.report.gather.gather`.
    """
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("dynaconv.training.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {
        "count": lambda value: f"{value:,}",
        "short": format_count,
        "percent": lambda value, digits=2: f"{100 * value:.{digits}f} %",
        "milliseconds": lambda seconds: f"{1000 * seconds:.4g}",
        "shape": lambda sizes: format_shape(sizes).replace("x", " × "),
        "change": lambda after, before: f"{after / before - 1:+.1%}".replace("%", " %") if before else "–",
    }
    script = "\n".join(_text(templates, name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    curves = figures.curves
    charts = [] if curves is None else [chart.lay_out(panel, curves.epochs) for panel in curves.panels]
    sheets = figures.attention.sheets if figures.attention else ()
    return templates.get_template("page.html").render(
        figures=figures,
        style=Markup(_text(templates, "page.css")),
        script=Markup(script),
        script_digest=digest,
        charts=charts,
        chart=chart,
        sure_right=[(one, _picture(one, figures)) for one in figures.judged.sure_right],
        sure_wrong=[(one, _picture(one, figures)) for one in figures.judged.sure_wrong],
        attending=ATTENDING,
        content={
            "charts": [{"title": one.title, "xs": one.xs, "texts": one.texts} for one in charts],
            "sheets": [_sheet(one) for one in sheets],
            "classes": figures.attention.classes if figures.attention else (),
            "images": figures.attention.images if figures.attention else 0,
        },
    )


def _text(templates: jinja2.Environment, name: str) -> str:
    """A file that is taken as it is."""
    loader = templates.loader
    assert loader is not None
    return loader.get_source(templates, name)[0]


def _picture(example: Example, figures: Figures) -> str:
    """An image as a data URI, no larger than a thumbnail."""
    pixels = as_pixels(example.image, figures.mean, figures.std).permute(1, 2, 0).numpy()
    image = require("PIL.Image", "train").fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "PNG" if max(image.size) <= SMALL else "JPEG"
    file = io.BytesIO()
    image.save(file, format=kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _sheet(sheet: Sheet) -> Mapping[str, Any]:
    """A map as JSON."""
    return {
        "name": sheet.name,
        "shared": sheet.shared,
        "layers": sheet.layers,
        "columns": sheet.columns,
        "mean": _matrix(sheet.mean),
        "assigned": [(row, column, float(f"{value:.4g}")) for row, column, value in sheet.assigned],
        "bound": sheet.bound,
        "byClass": [_matrix(one) for one in sheet.by_class],
        "classBound": sheet.class_bound,
    }


def _matrix(matrix: Matrix) -> Mapping[str, Any]:
    return {
        "values": base64.b64encode(matrix.values).decode(),
        "steps": [float(f"{step:.4g}") for step in matrix.steps],
    }
