"""The KernelWarehouse paper's ablations (arXiv 2406.07879, ICML 2024): settings, and what is known of their figures.

A figure is here only if it was read, or follows from what was read; where the paper's number is known from memory
alone, or not at all, there is none. Parameters are counts of the authors' networks (ResNet18, ResNet50, 1,000 classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dynaconv.errors import DynaconvError
from dynaconv.models.kernel_warehouse import README

Trust = Literal["read", "derived"]

V1_TEXT = "arXiv 2308.08361 (v1), from its text"
ICML_TEXT = "arXiv 2406.07879, from its text"
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """What the paper reports of a setting, on ImageNet.

    Args:
        top1: accuracy in percent; None where it is not known for certain.
        trust: ``"read"`` in a primary source, ``"derived"`` from a difference that the text states; None without one.
        source: where.
        params: of the authors' network, counted.
        says: what the text says where it has no number that is known for certain.
    """

    top1: float | None = None
    trust: Trust | None = None
    source: str = ""
    params: int | None = None
    says: str = ""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of a table.

    Args:
        name: short; variants of one name and backbone are one network in all tables.
        setting: the paper's words for it.
        fields: of KernelWarehouse's config, over the paper's setting; None for the static network.
        same_place: layers share within their stage with those at the same place of other blocks alone.
        paper: what is known of the paper's figure.
        note: what a reader must know of the row.
    """

    name: str
    setting: str
    fields: Mapping[str, Any] | None = field(default_factory=dict)
    same_place: bool = False
    paper: PaperFigure = field(default_factory=PaperFigure)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """An ablation.

    Args:
        name: on the command line.
        title: what is varied.
        model: the paper's backbone.
        variants: the first is the paper's choice, to which the others are related.
    """

    name: str
    title: str
    model: str
    variants: tuple[Variant, ...]


def _read(top1: float, params: int) -> PaperFigure:
    return PaperFigure(top1=top1, trust="read", source=README, params=params)


def _derived(top1: float, source: str, params: int) -> PaperFigure:
    return PaperFigure(top1=top1, trust="derived", source=source, params=params)


FULL = _read(74.77, 11_932_148)
STATIC = Variant(name="static", setting="static network", fields=None, paper=_read(70.44, 11_689_512))
STATIC_50 = Variant(name="static", setting="static network", fields=None, paper=_read(78.44, 25_557_032))


def _paper_choice(setting: str, paper: PaperFigure = FULL) -> Variant:
    return Variant(name="KW 1x", setting=setting, paper=paper)


TABLES: dict[str, AblationTable] = {
    table.name: table
    for table in (
        AblationTable(
            name="sharing-range",
            title="range in which layers share a warehouse, KW (1x)",
            model="resnet18",
            variants=(
                _paper_choice("within a stage"),
                Variant(
                    name="KW 1x, sharing=layer",
                    setting="within a layer",
                    fields={"sharing": "layer"},
                    paper=PaperFigure(params=11_805_134),
                ),
                Variant(
                    name="KW 1x, sharing=none",
                    setting="no sharing: every mixture has a cell of its own",
                    fields={"sharing": "none"},
                    paper=PaperFigure(params=11_782_094),
                ),
                STATIC,
            ),
        ),
        AblationTable(
            name="kernel-dims",
            title="sharing between kernels of different dimensions, KW (1x)",
            model="resnet50",
            variants=(
                _paper_choice("kernels of any dimensions share", _read(80.38, 28_052_310)),
                Variant(
                    name="KW 1x, same place",
                    setting="kernels of the same dimensions share",
                    same_place=True,
                    paper=PaperFigure(params=26_949_052, says="lower", source=V1_TEXT),
                    note=(
                        "one warehouse for every place in a block (conv1 with the shortcut, conv2, conv3) in a stage, "
                        "as counted from the authors' code"
                    ),
                ),
                STATIC_50,
            ),
        ),
        AblationTable(
            name="partition",
            title="kernel partition, KW (1x)",
            model="resnet18",
            variants=(
                _paper_choice("with"),
                Variant(
                    name="KW 1x, partition=none",
                    setting="without: a cell is a whole kernel",
                    fields={"partition": "none"},
                    paper=_derived(70.49, V1_TEXT, 11_777_580),
                ),
                STATIC,
            ),
        ),
        AblationTable(
            name="attention",
            title="attention function, KW (1x)",
            model="resnet18",
            variants=(
                _paper_choice("z / sum |z| (contrasting-driven)"),
                Variant(
                    name="KW 1x, attention=softmax",
                    setting="softmax",
                    fields={"attention": "softmax"},
                    paper=_derived(72.67, V1_TEXT, 11_932_148),
                ),
                Variant(
                    name="KW 1x, attention=sigmoid",
                    setting="sigmoid",
                    fields={"attention": "sigmoid"},
                    paper=_derived(72.09, V1_TEXT, 11_932_148),
                ),
                Variant(
                    name="KW 1x, attention=nonnegative",
                    setting="max(z, 0) / sum |z|",
                    fields={"attention": "nonnegative"},
                    paper=_derived(72.74, V1_TEXT, 11_932_148),
                    note="the paper's figure is of its third function, whose formula is not known for certain",
                ),
                STATIC,
            ),
        ),
        AblationTable(
            name="init-b1",
            title="how attention starts, KW (1x)",
            model="resnet18",
            variants=(
                _paper_choice("one cell to one mixture"),
                Variant(
                    name="KW 1x, assignment=all",
                    setting="all cells to every mixture",
                    fields={"assignment": "all"},
                    paper=_derived(73.36, ICML_TEXT, 11_932_148),
                ),
                Variant(
                    name="KW 1x, assignment=none",
                    setting="none: no temperature, no beta",
                    fields={"assignment": "none"},
                    paper=_derived(73.39, V1_TEXT, 11_932_148),
                ),
                STATIC,
            ),
        ),
        AblationTable(
            name="init-b4",
            title="how attention starts with more cells than mixtures, KW (4x)",
            model="resnet18",
            variants=(
                Variant(
                    name="KW 4x",
                    setting="one cell to one mixture",
                    fields={"budget": 4},
                    paper=_read(76.05, 45_862_085),
                ),
                Variant(
                    name="KW 4x, assignment=several",
                    setting="four cells to one mixture, none twice",
                    fields={"budget": 4, "assignment": "several"},
                    paper=PaperFigure(params=45_862_085, says="lower", source=ICML_TEXT),
                ),
                STATIC,
            ),
        ),
        AblationTable(
            name="init-b1d2",
            title="how attention starts with fewer cells than mixtures, KW (1/2x)",
            model="resnet18",
            variants=(
                Variant(
                    name="KW 1/2x",
                    setting="one cell to one mixture, the others to the zero cell",
                    fields={"budget": 0.5, "cell_scale": 0.5},
                    paper=_read(73.33, 7_431_044),
                ),
                Variant(
                    name="KW 1/2x, assignment=pairs",
                    setting="one cell to two mixtures",
                    fields={"budget": 0.5, "cell_scale": 0.5, "assignment": "pairs"},
                    paper=PaperFigure(params=7_431_044, says="lower", source=ICML_TEXT),
                ),
                STATIC,
            ),
        ),
    )
}


def find_tables(name: str) -> list[AblationTable]:
    """The table of that name, or all of them.

    Raises:
        DynaconvError: if there is none.
    """
    if name == ALL:
        return list(TABLES.values())
    if name not in TABLES:
        raise DynaconvError(f"ablation '{name}' is not known; expected one of {', '.join([*TABLES, ALL])}")
    return [TABLES[name]]
