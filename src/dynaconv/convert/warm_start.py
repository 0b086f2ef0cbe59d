"""Starting from trained kernels: the converted network computes what the static one did.

Exact for every method that can hold any kernel; KernelWarehouse with fewer cells than mixtures (b < 1) and FDConv with
a cut spectrum start from their best approximation, and say how far it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dynaconv.config import check_range
from dynaconv.convert.moments import input_moments
from dynaconv.errors import DynaconvError
from dynaconv.nn import DynamicLayer, LayerStart, Noise
from dynaconv.planning.table import align

Init = Literal["auto", "pretrained", "scratch"]
EXACT = 1e-5
"""Relative error that is rounding."""


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """How a converted network takes over trained kernels; ``init="pretrained"`` means these defaults.

    Args:
        noise: standard deviation, relative to the kernel's, by which equal parts (experts, kernels, values) differ at
            the start. Their weighted sum is the trained kernel whatever it is; at 0 equal parts get equal gradients and
            stay equal for ever, but for KernelWarehouse, DCD, CGC and gates, which have none.
        calibration: batches of inputs, a few are enough. KernelWarehouse with b < 1 then approximates what kernels give
            on such inputs: squared errors are weighted by the mean square of every input channel.
        seed: of the noise.

    Raises:
        DynaconvError: if ``noise`` is negative or no number.
    """

    noise: float = 0.1
    calibration: Iterable[Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.noise != 0:
            check_range("noise", self.noise, 0, 100)


@dataclass(frozen=True)
class WarmStart:
    """What handlers need to take over trained kernels.

    Args:
        noise: what makes equal parts differ.
        moments: layer -> mean square of every input channel, shape ``(C,)``; empty without calibration.
    """

    noise: Noise
    moments: Mapping[str, Tensor]


def holds_trained_weights(model: nn.Module) -> bool:
    """Whether a network's normalisations have learned: statistics that moved, or scales that differ by channel.

    Freshly made ones hold constants (weight 1 or 0, bias 0, mean 0, variance 1). A network without normalisation gives
    no sign, and counts as untrained.
    """
    norms = (m for m in model.modules() if isinstance(m, nn.GroupNorm | nn.LayerNorm) or hasattr(m, "running_mean"))
    for norm in norms:
        values = (getattr(norm, name, None) for name in ("running_mean", "running_var", "weight", "bias"))
        held = (v.detach() for v in values if isinstance(v, Tensor) and v.numel() and not v.is_meta)
        if any(bool((v != v.flatten()[0]).any()) for v in held):
            return True
    return False


def resolve_init(init: Init | Pretrained, model: nn.Module) -> Pretrained | None:
    """How to start: from trained kernels, or afresh (None).

    Raises:
        DynaconvError: if it is none of the known ways.
    """
    if isinstance(init, Pretrained):
        return init
    if init not in get_args(Init):
        known = ", ".join(map(repr, get_args(Init)))
        raise DynaconvError(f"init={init!r}; expected one of {known}, or dynaconv.Pretrained(...)")
    if init == "pretrained" or (init == "auto" and holds_trained_weights(model)):
        return Pretrained()
    return None


def begin(options: Pretrained, model: nn.Module, names: Iterable[str]) -> WarmStart:
    """Run the calibration, if there is one, and set up the noise.

    Args:
        options: as the user gave them.
        model: the static network.
        names: of the layers to be converted.
    """
    if any(p.is_meta for p in model.parameters()):
        raise DynaconvError("the network is on the meta device and holds no weights to start from; use init='scratch'")
    moments = {} if options.calibration is None else input_moments(model, names, options.calibration)
    return WarmStart(Noise(options.noise, torch.Generator().manual_seed(options.seed)), moments)


@dataclass(frozen=True)
class WarmStartReport:
    """What was kept of the trained kernels; prints as a table where anything was lost.

    Args:
        layers: layer -> what it kept, in module order.
    """

    layers: Mapping[str, LayerStart]

    @property
    def exact(self) -> bool:
        """Whether every layer is the static one, up to rounding."""
        return all(start.lost <= EXACT**2 * start.norm for start in self.layers.values())

    @property
    def errors(self) -> dict[str, float]:
        """Relative error of every layer's kernel: norm of the difference by norm of the kernel."""
        return {name: _relative([start]) for name, start in self.layers.items()}

    @property
    def weighted_errors(self) -> dict[str, float]:
        """The same with elements weighted by the inputs that calibration saw; empty without calibration."""
        return {n: _relative([s], weighted=True) for n, s in self.layers.items() if s.weighted_lost is not None}

    @property
    def warehouse_errors(self) -> dict[str, float]:
        """The same over all layers of every warehouse."""
        return {name: _relative(starts) for name, starts in self._by_warehouse().items()}

    def _by_warehouse(self) -> dict[str, list[LayerStart]]:
        houses: dict[str, list[LayerStart]] = {}
        for start in self.layers.values():
            if start.warehouse is not None:
                houses.setdefault(start.warehouse, []).append(start)
        return houses

    def __str__(self) -> str:
        """One line if all is exact; else the error of every warehouse and layer, as shares of the kernels' norm."""
        if self.exact:
            return f"{len(self.layers)} layers start as the trained ones, exactly"
        weighted = any(start.weighted_lost is not None for start in self.layers.values())
        rows: list[tuple[str, ...]] = [("", "kernel error", "weighted by inputs") if weighted else ("", "kernel error")]
        for house, starts in self._by_warehouse().items():
            rows.append(_row(house, starts, weighted))
            rows += [_row(f"  {name}", [s], weighted) for name, s in self.layers.items() if s.warehouse == house]
        rows += [_row(name, [s], weighted) for name, s in self.layers.items() if s.warehouse is None]
        rows.append(_row("all", list(self.layers.values()), weighted))
        return "\n".join(align(rows, left=1))


def _relative(starts: list[LayerStart], weighted: bool = False) -> float:
    lost = sum((s.weighted_lost or 0.0) if weighted else s.lost for s in starts)
    norm = sum((s.weighted_norm or 0.0) if weighted else s.norm for s in starts)
    return (lost / norm) ** 0.5 if norm else 0.0


def _row(name: str, starts: list[LayerStart], weighted: bool) -> tuple[str, ...]:
    errors = (f"{_relative(starts, kind):.3f}" for kind in ((False, True) if weighted else (False,)))
    return (name, *errors)


def warm_start_report(model: nn.Module) -> WarmStartReport:
    """What a network kept of the trained kernels that it was converted from.

    Args:
        model: a network whose layers started from trained kernels.

    Raises:
        DynaconvError: if none of its layers did.
    """
    layers = {n: m.start for n, m in model.named_modules() if isinstance(m, DynamicLayer) and m.start is not None}
    if not layers:
        raise DynaconvError(
            f"no layer of {type(model).__name__} started from a trained kernel; convert it with init='pretrained'"
        )
    return WarmStartReport(layers)
