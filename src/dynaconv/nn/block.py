"""A branch that the dynamic convolutions of a block share: the first of them owns it, the others read it.

CondConv routes a residual block's convolutions together (arXiv 1904.04971, section 4), and WeightNet reduces a block's
input once for all its kernels (arXiv 2007.11823). Both read the block's input, which is the first convolution's.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import DynaconvError


class BlockBranch(nn.Linear):
    """A linear layer on the pooled input of a block's first dynamic convolution, whose output the others read.

    The output lives from the moment it is computed until all have read it, apart in every thread.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.readers = 0
        self._outputs = threading.local()
        self._traced: tuple[Tensor, int] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Compute, shape ``(B, C)`` -> ``(B, features)``, and keep the output for the other layers, if any."""
        output = super().forward(input)
        if self.readers:
            self._keep((output, self.readers))
        return output

    def read(self, batch: int) -> Tensor:
        """The output of the block's first layer, for another layer of the same block.

        Args:
            batch: samples that the reader has.

        Raises:
            DynaconvError: if that layer has not run just before, or on other samples.
        """
        kept = self._kept()
        if kept is None or kept[0].shape[0] != batch:
            found = "has not run" if kept is None else f"ran on {kept[0].shape[0]} samples, not {batch}"
            raise DynaconvError(
                f"this layer shares the branch of the first dynamic layer in its block, which {found}; call or copy "
                "the whole block, or convert with shared_branch=False"
            )
        output, left = kept
        self._keep((output, left - 1) if left > 1 else None)  # kept longer, it would hold the graph before the block
        return output

    # A compiler can follow an attribute, and no thread's own; compiled code holds the output in the graph anyway.
    def _keep(self, value: tuple[Tensor, int] | None) -> None:
        if torch.compiler.is_compiling():
            self._traced = value
        else:
            self._outputs.value = value

    def _kept(self) -> tuple[Tensor, int] | None:
        return self._traced if torch.compiler.is_compiling() else getattr(self._outputs, "value", None)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_outputs", "_traced")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._outputs, self._traced = threading.local(), None


class SharesBlockBranch(nn.Module):
    """Part of a layer that has a :class:`BlockBranch` of its own, or reads that of its block's first layer."""

    _leader: tuple[BlockBranch] | None = None

    @property
    def own_branch(self) -> BlockBranch | None:
        """The branch that this layer owns, unless it follows another."""
        raise NotImplementedError

    def drop_branch(self, leader: BlockBranch) -> None:
        """Do without a branch of its own, and fit the rest of the layer to another's."""
        raise NotImplementedError

    def follow(self, first: SharesBlockBranch) -> None:
        """Read the branch of another layer, which runs before this one, from now on."""
        leader = first.own_branch
        assert leader is not None  # the first layer of a block follows nobody
        self.drop_branch(leader)
        leader.readers += 1
        self._leader = (leader,)  # in a tuple, so that it is not registered a second time

    def read_branch(self, pooled: Tensor) -> Tensor:
        """Output of the branch, shape ``(B, C)`` -> ``(B, features)``."""
        if self._leader is not None:
            return self._leader[0].read(pooled.shape[0])
        assert self.own_branch is not None  # a layer owns a branch or follows another
        return self.own_branch(pooled)
