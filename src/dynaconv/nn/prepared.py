"""What a layer has computed beforehand for inference, and whether it still holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.ops.branch import BranchWeights
from dynaconv.ops.folding import Terms

UNREAD = ("num_batches_tracked",)
"""Buffers that nothing reads in evaluation."""


def _version(tensor: Tensor) -> int | None:
    """Counts changes in place; None for a tensor made in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version


class Watch:
    """Whether modules are in evaluation and their parameters, buffers and children those of when it was made.

    Args:
        roots: modules, with all inside them.
        alone: modules of which only their own parameters and buffers matter.
    """

    def __init__(self, *roots: nn.Module, alone: Sequence[nn.Module] = ()) -> None:
        inside = [module for root in roots for module in root.modules()]
        self.modules = [*inside, *alone]
        self.tensors: list[tuple[dict[str, Any], str, Tensor, int | None]] = []
        self.children: list[tuple[dict[str, Any], str, nn.Module]] = []
        for module in self.modules:
            for table in (module._parameters, module._buffers):
                given = {n: v for n, v in table.items() if v is not None and n not in UNREAD}
                self.tensors += [(table, n, v, _version(v)) for n, v in given.items()]
        for module in inside:
            self.children += [(module._modules, n, m) for n, m in module._modules.items() if m is not None]

    def holds(self) -> bool:
        """False after any change but one behind PyTorch's back (``parameter.data``)."""
        for module in self.modules:  # loops, which at this size take half the time of any() and a generator
            if module.training:
                return False
        for table, name, tensor, version in self.tensors:
            if table.get(name) is not tensor or (version is not None and tensor._version != version):
                return False
        for table, name, child in self.children:
            if table.get(name) is not child:
                return False
        return True


@dataclass(frozen=True, eq=False)
class OutputNorm:
    """A BatchNorm in evaluation as the layer before it computes it: ``scale * y + shift``, channel by channel.

    Args:
        scale: shape ``(O,)``.
        shift: with the layer's own bias, unless that is ``bias``, shape ``(O,)``.
        kernel: the layer's own kernel, or what writes it, scaled.
        bias: the layer's own bias or biases, scaled.
        expand: the last matrix of a residual, scaled.
    """

    scale: Tensor
    shift: Tensor
    kernel: Tensor | None = None
    bias: Tensor | None = None
    expand: Tensor | None = None

    def rounded(self, dtype: torch.dtype) -> OutputNorm:
        """The same in a layer's type."""
        given = (self.scale, self.shift, self.kernel, self.bias, self.expand)
        return OutputNorm(*(None if t is None else t.to(dtype) for t in given))  # pyright: ignore[reportArgumentType]

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        given = (self.scale, self.shift, self.kernel, self.bias, self.expand)
        return sum(t.numel() * t.element_size() for t in given if t is not None)


def scale_rows(weight: Tensor, scale: Tensor) -> Tensor:
    """A weight ``(O, ...)`` whose outputs are scaled by ``(O,)``, in the scale's type."""
    return weight.detach().to(scale.dtype) * scale.reshape(-1, *(1,) * (weight.dim() - 1))


def fold_output(scale: Tensor, shift: Tensor, bias: Tensor | None) -> OutputNorm:
    """``scale * (y + bias) + shift``, in float64.

    Args:
        scale: shape ``(O,)``, in float64.
        shift: shape ``(O,)``, in float64.
        bias: of the layer, shape ``(O,)``.
    """
    shift = shift if bias is None else shift + scale * bias.detach().double()
    return OutputNorm(scale, shift)


@dataclass(eq=False)
class Prepared:
    """What a layer has computed beforehand.

    Args:
        branch: from an input ``(B, C, *size)`` to what the layer's branch gives for it.
        watch: over all that it was computed from.
        weights: of the branch.
        folded: terms into which branch and cells are folded, and from an input to the weights of the terms.
    """

    branch: Callable[[Tensor], Any]
    watch: Watch
    weights: BranchWeights
    folded: tuple[Terms, Callable[[Tensor], Tensor]] | None = None

    @property
    def branch_bytes(self) -> int:
        """Memory that the branch takes beyond the layer's parameters."""
        own = {tensor.untyped_storage().data_ptr() for _, _, tensor, _ in self.watch.tensors}
        new = {t.untyped_storage().data_ptr(): t for t in self.weights.tensors()}
        return sum(t.numel() * t.element_size() for place, t in new.items() if place not in own)

    @property
    def folded_bytes(self) -> int:
        """Memory that folded terms take."""
        return 0 if self.folded is None else self.folded[0].cells.numel() * self.folded[0].cells.element_size()
