"""What a user asks for: one frozen config class a method, checked when it is made.

:class:`MethodConfig` is what they have in common. KernelWarehouse's stands here, because planning needs it; every
other method's stands beside its layers, in ``dynaconv/nn``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Any, ClassVar, Literal, Self, get_args

from dynaconv.errors import DynaconvError

SharingRange = Literal["model", "stage", "block", "layer", "none"]
Partition = Literal["full", "channel", "none"]
Assignment = Literal["one-to-one", "all", "several", "pairs", "none"]
AttentionFunction = Literal["contrasting", "softmax", "sigmoid", "nonnegative"]
Normaliser = Literal["unit", "paper"]
BranchNorm = Literal["batch", "layer"]

MAX_BUDGET = 64
OVERRIDABLE = ("budget", "cell_scale", "partition", "reduction", "nonlocal_basis_ratio", "assignment")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        DynaconvError: which names them.
    """
    if value not in choices:
        raise DynaconvError(f"{name}={value!r} is not known; expected one of {', '.join(map(repr, choices))}")


def check_range(name: str, value: Any, low: float, high: float, unit: str = "") -> None:
    """Refuse a value that is no number above ``low`` and at most ``high``.

    Raises:
        DynaconvError: which says what arrived.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
        raise DynaconvError(
            f"{name}={value!r} is out of range; expected a number above {low:g}, at most {high:g}{unit}"
        )


def check_not_negative(name: str, value: Any) -> None:
    """Refuse a value that is no finite number of at least 0.

    Raises:
        DynaconvError: which says what arrived.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise DynaconvError(f"{name}={value!r}; expected a number of at least 0")


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Refuse a value that is no whole number of at least ``minimum``.

    Raises:
        DynaconvError: which says what arrived.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise DynaconvError(f"{name}={value!r}; expected a whole number of at least {minimum}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False, such as the text "false".

    Raises:
        DynaconvError: which says what arrived.
    """
    if not isinstance(value, bool):
        raise DynaconvError(f"{name}={value!r}; expected True or False")


def as_tuple(config: Any, name: str) -> None:
    """Let a field of a config that is being made be a tuple, also if a list was given."""
    value = getattr(config, name)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise DynaconvError(f"{name}={value!r}; expected several values, as a list or tuple")
    object.__setattr__(config, name, tuple(value))


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Base of every method's config: plain fields, a name, and the schedule of its temperature, if it has one."""

    method: ClassVar[str] = ""
    shared_branch = False  # whether layers of a block share a branch; a field, where a method leaves the choice

    def temperature(self, progress: float) -> float | None:
        """Temperature after a share (0 to 1) of its schedule; None for a method without temperature."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON or YAML."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {"method": self.method, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            DynaconvError: on unknown fields; it names the nearest.
        """
        return cls(**cls._given(values))

    @classmethod
    def _given(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        if values.get("method", cls.method) != cls.method:
            raise DynaconvError(f"method={values['method']!r}; the method of {cls.__name__} is {cls.method!r}")
        known = {f.name for f in fields(cls)}
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "method"}
        unknown = sorted(map(str, set(given) - known))
        if unknown:
            close = get_close_matches(unknown[0], known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {sorted(known)}"
            raise DynaconvError(f"unknown fields {unknown} for {cls.__name__}{hint}")
        return given


def parse_params(value: Any) -> int | float:
    """How many parameters are asked for: a whole number of them, or a share of a network's.

    Args:
        value: a whole number, a share as a float (0.6), or either as text, with k, M or B for thousands, millions,
            thousand millions ("4M", "850k", "4.03M").

    Raises:
        DynaconvError: if it is none of these.

    Example:
        >>> parse_params("4.03M"), parse_params(850_000), parse_params(0.6)
        (4030000, 850000, 0.6)
    """
    text = re.sub("[_,]", "", str(value).strip().lower())
    unit = {"k": 10**3, "m": 10**6, "b": 10**9}.get(text[-1:])
    try:
        number = Decimal(text if unit is None else text[:-1])
    except InvalidOperation:
        number = Decimal(0)
    if unit is None and "." in text and 0 < number <= MAX_BUDGET:
        return float(number)
    count = number * (unit or 1)
    if not count.is_finite() or count < 1 or count != int(count):
        raise DynaconvError(
            f"params={value!r}; expected a number of parameters (4_000_000, '4M', '850k') or a share of the network's "
            f"(0.6), at most {MAX_BUDGET}"
        )
    return int(count)


def linear_fall(progress: float, start: float, end: float) -> float:
    """From ``start`` to ``end`` as progress goes from 0 to 1; before and beyond it stays at its ends."""
    return start + (end - start) * min(1.0, max(0.0, progress))


@dataclass(frozen=True, kw_only=True)
class KernelWarehouseConfig(MethodConfig):
    """KernelWarehouse: cells shared by layers, mixed per sample by a signed attention.

    Args:
        budget: b = n / m_t, cells in a warehouse per mixture that draws on it: 1/4 ... 4 in the paper. Parameters
            scale with it; below 1 some mixtures start from the zero cell.
        params: instead of a budget, how many parameters the whole network may have, static layers and attention
            branches included: 4_000_000, ``"4M"``, ``"850k"``, or a share of the static network's, 0.6. The plan finds
            the budget, and the cell_scale unless it is given, that come closest from below (see
            :mod:`dynaconv.planning.solve`); its config says which, and is what checkpoints hold.
        cell_scale: size of a cell relative to the greatest common divisor of the sharing layers' channels, one
            number or (out, in). None is the paper's choice where it pays: 1 for b >= 1; below, 1/2 unless the
            attention branches, which small cells make larger, would hold more than half the cells' parameters.
        partition: ``"full"`` cuts kernels along channels and space (cells are 1x1 in space), ``"channel"`` keeps the
            spatial kernel whole, ``"none"`` makes a cell of the whole kernel.
        sharing: which layers share a warehouse: a range (``"stage"`` is the paper's; ``"model"``, ``"block"``,
            ``"layer"``, and ``"none"`` = every mixture its own cells), or a mapping from layer-name patterns to
            warehouse names, or a function from :class:`dynaconv.planning.LayerSpec` to a warehouse name.
        handover: hand each stage's first layers, those that still have the previous stage's width, to the warehouse
            of the previous stage (the paper's rule, range ``"stage"`` only).
        split_pointwise: separate warehouses for point-wise layers that widen and that narrow (MobileNetV2, b = 4).
        stage_splits: stage index -> number of equal runs of blocks to cut that stage into (ConvNeXt: ``{2: 3}``).
        assignment: how attention starts, beta: ``"one-to-one"`` (paper), ``"all"`` (every cell to every mixture),
            ``"several"`` (b cells to every mixture, b > 1), ``"pairs"`` (1/b mixtures share a cell, b < 1),
            ``"none"`` (no start: temperature has no effect).
        attention: function from logits to attention: ``"contrasting"`` is z / sum abs z, the paper's; the
            others are those of its ablation.
        normaliser: what logits are divided by, eps = 1e-3 in both: ``"unit"`` is max(sum abs z, eps), the paper's
            eq. 4 with a bound on its gradient, with which a network made from trained kernels is exact at every
            temperature; ``"paper"`` is the authors' code, sum abs z + eps, with which its kernels are 0.1 % smaller.
        branch_start: logit of the assigned cells at the start, in units of a mixture's n + 1 logits: the last bias of
            the attention branch. Kernels then stay one-to-one when temperature falls, and leave that the more slowly
            the larger it is, as attention is a ratio of logits; below b = 1, mixtures of the zero cell borrow a cell.
            0 is the authors' zero bias, with which kernels become random mixtures. ``"softmax"`` and ``"sigmoid"``
            always start from 0. Measured in ``docs/from-scratch.md``.
        reduction: hidden width of the attention branch relative to its input channels.
        min_hidden: smallest hidden width of the branch.
        norm: normalisation in the branch: ``"batch"`` (default) or ``"layer"`` (ConvNeXt).
        branch_limit: where a range would cut layers of unlike widths into cells so small that the attention branches
            hold more than this many times the cells' parameters, layers of equal width share instead.
        nonlocal_basis_ratio: below 1, cells of other layers are addressed through a low-rank basis of this relative
            size (ResNet50 at b = 1/2: 1/16). It shrinks the branches where warehouses are large.
        overrides: warehouse-name pattern (as in :mod:`fnmatch`) -> fields that differ there; one of
            ``budget, cell_scale, partition, reduction, nonlocal_basis_ratio, assignment``.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "kernel_warehouse"

    budget: float = 1.0
    params: int | float | str | None = None
    cell_scale: float | tuple[float, float] | None = None
    partition: Partition = "full"
    sharing: SharingRange | Mapping[str, str] | Callable[[Any], str] = "stage"
    handover: bool = True
    split_pointwise: bool = False
    stage_splits: Mapping[int, int] = field(default_factory=dict)
    assignment: Assignment = "one-to-one"
    attention: AttentionFunction = "contrasting"
    normaliser: Normaliser = "unit"
    branch_start: float = 4.0
    reduction: float = 1 / 16
    min_hidden: int = 16
    norm: BranchNorm = "batch"
    branch_limit: float = 4.0
    nonlocal_basis_ratio: float = 1.0
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range("budget", self.budget, 0, MAX_BUDGET)
        if self.params is not None:
            parse_params(self.params)
            if self.budget != 1:
                raise DynaconvError(
                    f"budget={self.budget:g} and params={self.params!r} both say how large the network gets; give one"
                )
        for scale in self.cell_scales or ():
            check_range("cell_scale", scale, 0, 1)
        check_choice("partition", self.partition, get_args(Partition))
        if isinstance(self.sharing, str):
            check_choice("sharing", self.sharing, get_args(SharingRange))
        elif not (isinstance(self.sharing, Mapping) or callable(self.sharing)):
            raise DynaconvError(
                f"sharing is a {type(self.sharing).__name__}; expected one of {get_args(SharingRange)}, a mapping "
                "{layer pattern: warehouse name}, or a function from LayerSpec to a warehouse name"
            )
        for name, value in (("stage_splits", self.stage_splits), ("overrides", self.overrides)):
            if not isinstance(value, Mapping):
                raise DynaconvError(f"{name}={value!r}; expected a mapping")
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in self.stage_splits.values()):
            raise DynaconvError(f"stage_splits={dict(self.stage_splits)}; expected whole numbers of at least 1")
        check_choice("assignment", self.assignment, get_args(Assignment))
        check_choice("attention", self.attention, get_args(AttentionFunction))
        check_choice("normaliser", self.normaliser, get_args(Normaliser))
        check_not_negative("branch_start", self.branch_start)
        check_range("reduction", self.reduction, 0, 1)
        check_range("min_hidden", self.min_hidden, 0, 65536, " channels")
        if not isinstance(self.min_hidden, int):
            raise DynaconvError(f"min_hidden={self.min_hidden!r}; expected a whole number")
        check_range("branch_limit", self.branch_limit, 0, math.inf)
        check_choice("norm", self.norm, get_args(BranchNorm))
        check_range("nonlocal_basis_ratio", self.nonlocal_basis_ratio, 0, 1)
        for pattern, values in self.overrides.items():
            if not isinstance(values, Mapping):
                raise DynaconvError(f"overrides[{pattern!r}]={values!r}; expected a mapping from field to value")
            unknown = sorted(set(values) - set(OVERRIDABLE))
            if unknown:
                raise DynaconvError(
                    f"overrides[{pattern!r}] sets {unknown}; only {OVERRIDABLE} may differ by warehouse"
                )
            replace(self, params=None, overrides={}, **values)

    def __hash__(self) -> int:
        """By the plain fields; equal configs have equal ones."""
        return hash((self.budget, self.partition, self.assignment, self.attention, self.norm, self.reduction))

    @property
    def cell_scales(self) -> tuple[float, float] | None:
        """The cell's scale as (out, in), or None for the paper's."""
        if self.cell_scale is None:
            return None
        if isinstance(self.cell_scale, int | float):
            return (self.cell_scale, self.cell_scale)
        if len(self.cell_scale) != 2:
            raise DynaconvError(f"cell_scale={self.cell_scale!r}; expected one number or a pair (out, in)")
        return (self.cell_scale[0], self.cell_scale[1])

    def temperature(self, progress: float) -> float:
        """Temperature tau after a share of its schedule: linear from 1 to 0 (section 3.3 of the paper).

        Args:
            progress: share of the schedule that has passed, 0 to 1; before and beyond it stays at its ends.
        """
        return linear_fall(progress, 1.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON or YAML.

        Raises:
            DynaconvError: if ``sharing`` is a function, which no file can hold.
        """
        if callable(self.sharing):
            raise DynaconvError(
                "sharing is a function, which a file can not hold; give a mapping {pattern: name} instead"
            )
        return super().to_dict()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            DynaconvError: on unknown fields.
        """
        given = cls._given(values)
        if "overrides" in given:
            given["overrides"] = {
                pattern: {k: tuple(v) if isinstance(v, list) else v for k, v in changed.items()}
                for pattern, changed in given["overrides"].items()
            }
        if "stage_splits" in given:
            given["stage_splits"] = {int(k): v for k, v in given["stage_splits"].items()}
        return cls(**given)
