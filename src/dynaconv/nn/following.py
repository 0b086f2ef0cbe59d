"""The BatchNorm that follows a layer: what it is in evaluation, and how the layer computes it in its place.

In evaluation a BatchNorm is y -> scale * y + shift, a number of each for every channel. A layer that has them computes
them with its output, and marks the output with a name that this norm alone knows; the norm hands a marked tensor
through, takes the mark off, and normalises every other. Who computes is so decided once, by the layer, for every call
and every tensor anew: never twice, and never not at all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from dynaconv.nn.dressing import dress, is_dressed, plain_class, undress
from dynaconv.nn.prepared import OutputNorm, Watch
from dynaconv.nn.scope import Scope

MARK = "_normalised_mark"
_numbers = itertools.count()


@dataclass(frozen=True)
class NormKind:
    """A class of norms that can be folded.

    Args:
        dims: spatial dimensions of the inputs that it takes; 0 is ``(B, C)``.
        finish: what it does after normalising.
    """

    dims: tuple[int, ...]
    finish: Callable[[Any, Tensor], Tensor] | None = None


def _drop_and_act(norm: Any, y: Tensor) -> Tensor:
    return norm.act(norm.drop(y))


def _drop_and_act_if_any(norm: Any, y: Tensor) -> Tensor:
    y = norm.drop(y) if hasattr(norm, "drop") else y
    return norm.act(y) if hasattr(norm, "act") else y


TORCH_NORMS: dict[type, NormKind] = {
    nn.BatchNorm1d: NormKind((0, 1)),
    nn.BatchNorm2d: NormKind((2,)),
    nn.BatchNorm3d: NormKind((3,)),
    nn.SyncBatchNorm: NormKind((0, 1, 2, 3)),
}
OTHER_NORMS = {  # by name: these packages need not be there, or import this file
    "torchvision.ops.misc.FrozenBatchNorm2d": NormKind((2,)),
    "timm.layers.norm_act.BatchNormAct2d": NormKind((2,), _drop_and_act),
    "timm.layers.norm_act.SyncBatchNormAct": NormKind((2,), _drop_and_act_if_any),
    "dynaconv.nn.synchronised.SynchronisedBatchNorm": NormKind((0, 1, 2, 3), _drop_and_act_if_any),
    "timm.layers.norm_act.FrozenBatchNormAct2d": NormKind((2,), _drop_and_act),
}


def norm_kind(module: nn.Module) -> NormKind | None:
    """What kind of foldable norm a module is; None for anything else, subclasses too, which may compute otherwise."""
    cls = plain_class(module)
    return TORCH_NORMS.get(cls) or OTHER_NORMS.get(f"{cls.__module__}.{cls.__qualname__}")


def why_not(norm: nn.Module, channels: int, dims: int, like: Tensor) -> str | None:
    """Why a norm can not be folded into a layer; None if it can.

    Args:
        norm: of a class that :func:`norm_kind` knows.
        channels: of the layer's output.
        dims: spatial dimensions of the layer's output.
        like: a parameter of the layer.
    """
    kind = norm_kind(norm)
    assert kind is not None
    mean, variance, *_ = tensors = _tensors_of(norm)
    if mean is None or variance is None:
        return "has no running statistics"
    if dims not in kind.dims:
        return f"does not take {dims} spatial dimensions"
    if mean.numel() != channels:
        return f"has {mean.numel()} channels, the layer {channels}"
    if any(t.dtype != like.dtype or t.device != like.device for t in tensors if t is not None):
        return "has another type or device than the layer"
    if like.dtype not in (torch.float32, torch.float64):
        return f"would be rounded to {like.dtype}"
    if "forward" in vars(norm):
        return "has a forward of its own"
    return None


def _tensors_of(norm: nn.Module) -> list[Tensor | None]:
    return [getattr(norm, name) for name in ("running_mean", "running_var", "weight", "bias")]


def scale_and_shift_of(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """What a norm in evaluation multiplies channels by and adds then, shape ``(C,)`` twice, in float64."""
    mean, variance, weight, bias = (
        None if tensor is None else tensor.detach().double() for tensor in _tensors_of(norm)
    )
    assert mean is not None  # see why_not
    assert variance is not None
    scale = (variance + float(norm.eps)).rsqrt()  # pyright: ignore[reportArgumentType]
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


@functools.cache
def _bypassed(cls: type[nn.Module], finish: Callable[[Any, Tensor], Tensor] | None) -> Callable[..., Any]:
    """A norm's forward that hands marked tensors through."""
    plain = cls.forward

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        mark = getattr(self, MARK, None)
        if mark is None or not args or not isinstance(args[0], Tensor) or not hasattr(args[0], mark):
            return plain(self, *args, **kwargs)
        y = args[0]
        if not torch.compiler.is_compiling():  # whose guards know whether an input is marked
            delattr(y, mark)
        return y if finish is None else finish(self, y)

    return forward


def let_through(norm: nn.Module) -> str:
    """From now on the norm hands through what bears its mark.

    Returns:
        The mark, another one every time.
    """
    kind = norm_kind(norm)
    assert kind is not None
    if MARK not in vars(norm):
        dress(norm, _bypassed(plain_class(norm), kind.finish), MARK)
        vars(norm)[MARK] = f"_normalised_{next(_numbers)}"
    return vars(norm)[MARK]


def stop_letting_through(norm: nn.Module) -> None:
    """From now on the norm acts on everything."""
    if MARK in vars(norm):
        undress(norm, MARK)


@dataclass(eq=False)
class FoldedNorm:
    """A norm that a layer computes with its output.

    Args:
        name: of the norm in the network.
        norm: that follows the layer.
        eps: of the norm when it was folded.
        output: what the layer computes.
        mark: for its output.
        scope: in which the norm is known to follow.
        watch: over all that ``output`` was computed from.
    """

    name: str
    norm: nn.Module
    eps: float
    output: OutputNorm
    mark: str
    scope: Scope
    watch: Watch

    def holds(self) -> bool:
        """Whether neither norm nor layer has changed."""
        norm = self.norm
        mark = vars(norm).get(MARK)
        return bool(mark == self.mark and is_dressed(norm) and norm.eps == self.eps and self.watch.holds())

    def serves(self, layer: nn.Module, x: Tensor) -> bool:
        """Whether the layer is to compute the norm for an input: it is in the norm's type, and nobody looks between."""
        return (
            self.scope.is_running()
            and x.dtype == self.output.scale.dtype
            and not torch.is_autocast_enabled(x.device.type)
            and not self.is_watched(layer)
            and self.holds()
        )

    def marked(self, y: Tensor) -> Tensor:
        """The layer's output, which the norm is to let through."""
        setattr(y, self.mark, True)
        return y

    def is_watched(self, layer: nn.Module) -> bool:
        """Whether hooks, or functions in place of ``forward``, see what passes from layer to norm."""
        norm = self.norm
        return bool(
            layer._forward_hooks
            or norm._forward_hooks
            or norm._forward_pre_hooks
            or torch_module._global_forward_hooks
            or torch_module._global_forward_pre_hooks
            or "forward" in vars(layer)
            or "forward" in vars(norm)
        )
