"""What every dynamic layer is, and a branch with a temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.errors import DynaconvError
from dynaconv.nn.following import FoldedNorm
from dynaconv.nn.prepared import OutputNorm, Prepared
from dynaconv.ops import Madds, average
from dynaconv.planning import LayerSpec


class TemperedBranch(nn.Module):
    """An attention branch with a temperature: a buffer, saved with the weights.

    Subclasses set the ends of its schedule.
    """

    temperature: Tensor
    coldest: float
    hottest: float

    def register_temperature(self, value: float, device: torch.device | str | None) -> None:
        """Add the buffer."""
        self.register_buffer("temperature", torch.full((), value, device=device))

    def check_temperature(self, value: float) -> None:
        """Refuse a temperature out of the method's range.

        Raises:
            DynaconvError: which says what the range is.
        """
        if not self.coldest <= value <= self.hottest:
            raise DynaconvError(
                f"temperature {value!r} is out of range; expected {self.coldest:g} to {self.hottest:g} for "
                f"{type(self).__name__}; a network that mixes methods has dynaconv.schedule_temperature"
            )

    def set_temperature(self, value: float) -> None:
        """Set the temperature.

        Raises:
            DynaconvError: if it is out of the method's range.
        """
        self.check_temperature(value)
        self.temperature.fill_(value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Half precision would round a falling temperature to a few steps: only the device changes.
        before = self.temperature
        super()._apply(fn, recurse)
        if self.temperature.dtype != before.dtype:
            self.temperature = before.to(self.temperature.device)
        return self


@dataclass(frozen=True)
class LayerStart:
    """How far a layer started from the trained kernel that it took over, in squared norms.

    Args:
        lost: of the difference, 0 where it is exact.
        norm: of the kernel.
        weighted_lost: the same weighted by the inputs that calibration saw; None without.
        weighted_norm: of the kernel, weighted alike.
        warehouse: that its cells are in, if it has one.
    """

    lost: float
    norm: float
    weighted_lost: float | None = None
    weighted_norm: float | None = None
    warehouse: str | None = None


Attentions = dict[str, Tensor]
"""What a layer attends with, by kind, see :func:`dynaconv.nn.observing.watching`."""


class DynamicLayer(nn.Module):
    """Base of every layer that depends on its input in another way than through its static weights alone."""

    config: Any  # the config class of the method
    layer_name: str = "<its name>"
    """Name of the layer in the network it was made for."""
    start: LayerStart | None = None
    """What was kept of a trained kernel, if it started from one."""

    def __getattr__(self, name: str) -> Any:
        """Say why there is no ``weight``, for parents that read their children's (some timm attention blocks)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name != "weight":
                raise
        raise AttributeError(
            f"{type(self).__name__} has no static weight: its kernel depends on the input. "
            f"If another module reads this layer's weight, leave the layer static: where='!{self.layer_name}'"
        )

    @classmethod
    def refuses(cls, spec: LayerSpec, config: Any) -> str | None:
        """Why the method can not, or by its paper should not, take the place of such a layer; None if it does."""
        return None

    def borrowed_parts(self) -> dict[str, nn.Module]:
        """Modules that this layer shares with others and does not own, by name."""
        return {}

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds of the method's formula, as its paper writes it, whatever the order they run in here.

        Args:
            size: shape of the input, batch first.
        """
        raise NotImplementedError

    # What was prepared for inference lives outside of parameters and buffers: it is neither saved nor copied, and goes
    # with whatever may make it wrong.
    _prepared: Prepared | None = None

    # Who looks at attention, or puts another in its place; see :mod:`dynaconv.nn.observing`.
    shows_attention: ClassVar[bool] = False
    """Whether the layer mixes kernels by attention, and tells of it."""
    watcher: Callable[[Attentions], Attentions | None] | None = None

    def show(self, **attentions: Tensor) -> Attentions:
        """Attention as it is to be used: as computed, or what its watcher puts in its place."""
        found = None if self.watcher is None else self.watcher(attentions)
        return attentions if found is None else found

    def prepare(self) -> Prepared | None:
        """Compute beforehand what inference can; None where that is nothing. See :mod:`dynaconv.nn.inference`."""
        return None

    def keep_prepared(self, prepared: Prepared | None) -> None:
        """Compute with that from now on, where gradients are not wanted; None: as ever."""
        self._prepared = prepared

    def current_preparation(self) -> Prepared | None:
        """What is prepared, unless the layer has changed since."""
        found = self._prepared  # read once: another thread may take it away
        if found is not None and not found.watch.holds():
            self._prepared = found = None
        return found

    def prepared(self) -> Prepared | None:
        """What the layer is to compute with now: what is prepared, in evaluation and where gradients are not wanted."""
        found = self._prepared
        if found is None or self.watcher is not None or self.training or torch.is_grad_enabled():
            return None
        return found if torch.compiler.is_compiling() else self.current_preparation()

    # The BatchNorm that follows, or why it is not computed here; see :mod:`dynaconv.nn.following`.
    folds_norm: ClassVar[bool] = False
    """Whether the layer can compute the norm that follows it: it takes ``norm`` beside its input."""
    norm_pays: ClassVar[bool] = False
    """Whether that was measured to be faster, by ``benchmarks/norms.py``."""

    _norm: FoldedNorm | str | None = None

    def fold_output(self, scale: Tensor, shift: Tensor) -> OutputNorm:
        """What the layer computes with to give ``scale * y + shift`` in place of y.

        Args:
            scale: shape ``(O,)``, in float64.
            shift: shape ``(O,)``, in float64.
        """
        raise NotImplementedError

    def parts_of_output(self) -> list[nn.Module]:
        """Modules whose own parameters :meth:`fold_output` reads."""
        return [self]

    def keep_norm(self, norm: FoldedNorm | str | None) -> None:
        """Compute that norm from now on, where gradients are not wanted; or why there is none."""
        self._norm = norm

    def current_norm(self) -> FoldedNorm | None:
        """The norm that is folded, unless it or the layer has changed since."""
        norm = self._norm  # read once: another thread may take it away
        if not isinstance(norm, FoldedNorm):
            return None
        if not norm.holds():
            self._norm = None
            return None
        return norm

    def norm_for(self, x: Tensor) -> FoldedNorm | None:
        """The norm that the layer is to compute for an input; its output then needs the mark."""
        norm = self._norm
        if norm is None or isinstance(norm, str) or self.training or torch.is_grad_enabled():
            return None
        # A compiler joins norm and convolution by itself.
        return norm if not torch.compiler.is_compiling() and norm.serves(self, x) else None

    def _forget(self) -> None:
        self._prepared = self._norm = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode; training forgets what was prepared for inference."""
        if mode:
            self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._forget()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def _replicate_for_data_parallel(self) -> Self:
        replica = super()._replicate_for_data_parallel()  # pyright: ignore[reportAttributeAccessIssue]
        replica._forget()  # what was prepared is another device's
        return replica

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_prepared", "_norm", "watcher")}

    def _tempered(self) -> TemperedBranch | None:
        return next((child for child in self.children() if isinstance(child, TemperedBranch)), None)

    def check_temperature(self, value: float) -> None:
        """Refuse a temperature out of the method's range."""
        branch = self._tempered()
        if branch is not None:
            branch.check_temperature(value)

    def set_temperature(self, value: float) -> None:
        """Set the temperature of this layer's attention; a layer without one is left as it is."""
        branch = self._tempered()
        if branch is not None:
            self._forget()
            branch.set_temperature(value)

    def get_temperature(self) -> float | None:
        """The temperature of this layer's attention; None if it has none."""
        branch = self._tempered()
        return None if branch is None else float(branch.temperature)

    def temperature_at(self, progress: float) -> float | None:
        """The method's schedule: temperature after a share (0 to 1) of its length; None without one."""
        return self.config.temperature(progress)


def pool_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average to so many positions, ``(B, C, *any)`` -> ``(B, C, *size)``, in float32 at least.

    PyTorch's own adaptive pooling adds up in half precision where the input is in it. Graphs hold a product with a
    matrix an axis: runtimes have no pooling into so many parts of any size.
    """
    if torch.compiler.is_exporting():
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        for axis, parts in enumerate(size, start=2):
            y = F.linear(y.movedim(axis, -1), _averages(y.shape[axis], parts, y)).movedim(-1, axis)
        return y.to(x.dtype)
    pooling = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(size) - 1]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return pooling(wide, list(size)).to(x.dtype)  # pyright: ignore[reportArgumentType]


def _averages(n: int, parts: int, like: Tensor) -> Tensor:
    """The matrix that averages n positions over so many parts, which may overlap by one, shape ``(parts, n)``."""
    place = torch.arange(n, device=like.device)
    part = torch.arange(parts, device=like.device).unsqueeze(1)
    inside = (place >= part * n // parts) & (place < ((part + 1) * n + parts - 1) // parts)
    return inside.to(like.dtype) / inside.sum(dim=1, keepdim=True)


def pool(x: Tensor) -> Tensor:
    """Average over all positions, shape ``(B, C, *size)`` -> ``(B, C)``."""
    return average(x, tuple(range(2, x.dim())))
