"""A branch that all dynamic layers of a block share: computed once, from the block's input, while the block runs.

CondConv routes a residual block's convolutions together (arXiv 1904.04971, section 4), and WeightNet reduces a block's
input once for all its kernels (arXiv 2007.11823).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import DynaconvError
from dynaconv.nn.base import DynamicLayer, pool
from dynaconv.ops import Madds


class BlockBranch(nn.Linear):
    """One linear layer on a block's pooled input, for every dynamic layer inside.

    The block owns it, as its member ``block_branch``; hooks on the block compute the output before it runs and drop it
    afterwards. Layers hold a reference that is not registered.
    """

    output: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.output = None

    def serve(self, block: nn.Module) -> None:
        """Become a member of a block, and run whenever it runs."""
        block.add_module("block_branch", self)
        block.register_forward_pre_hook(self._before)
        block.register_forward_hook(self._after, always_call=True)  # also when the block fails, or is left early

    def forward(self, input: Tensor) -> Tensor:
        """One linear layer on the pooled input, shape ``(B, C, *size)`` -> ``(B, features)``."""
        return super().forward(pool(input))

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on a block's input of shape ``(B, C, *size)``: pooling and the linear layer."""
        return Madds(attention=math.prod(size) + size[0] * self.weight.numel())

    def _before(self, block: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if inputs else None
        if not isinstance(x, Tensor) or x.dim() < 3 or x.shape[1] != self.in_features:
            got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise DynaconvError(
                f"a {type(block).__name__} got {got} as its first input; the branch that its layers share expects "
                f"(B, {self.in_features}, *size). Give every layer a branch of its own: shared_branch=False"
            )
        self.output = self(x)

    def _after(self, block: nn.Module, inputs: Any, output: Any) -> None:
        self.output = None  # it holds the graph of everything before the block

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "output": None}


class SharesBlockBranch(DynamicLayer):
    """Part of a layer that reads its own linear branch, or the one of the block that it is in."""

    _shared: tuple[BlockBranch] | None

    @property
    def branch_width(self) -> int:
        """Channels or features that the layer's own branch sees."""
        raise NotImplementedError

    def read_branch(self, pooled: Tensor, own: nn.Linear | None) -> Tensor:
        """Output of the branch, from the block's input or, for a layer of its own, from its pooled input.

        Raises:
            DynaconvError: if the block that owns the branch is not running.
        """
        if self._shared is None:
            assert own is not None  # a layer without a block's branch makes one of its own
            return own(pooled)
        output = self._shared[0].output
        if output is None:
            raise DynaconvError(
                f"{type(self).__name__} shares the branch of the block it was made for, and runs outside of it; "
                "call or copy the whole block, or convert with shared_branch=False"
            )
        return output
