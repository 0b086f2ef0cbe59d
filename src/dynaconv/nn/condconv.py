"""CondConv: sigmoid routing over whole experts (Yang et al., NeurIPS 2019, arXiv 1904.04971, eq. 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynaconv.config import MethodConfig, check_count
from dynaconv.nn.block import SharesBlockBranch
from dynaconv.nn.experts import ExpertConvNd, ExpertLinear


@dataclass(frozen=True, kw_only=True)
class CondConvConfig(MethodConfig):
    """CondConv: every sample's kernel is the sum of K experts, weighted by sigmoids that need not sum to one.

    Args:
        num_experts: K; 8 in most of the paper.
        shared_branch: one routing for all layers of a block, computed from the block's input, as in the paper; else
            every layer routes by its own input. Layers outside of blocks always do.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "condconv"

    num_experts: int = 8
    shared_branch: bool = True

    def __post_init__(self) -> None:
        check_count("num_experts", self.num_experts)

    def branch_features(self, in_channels: int) -> int | None:
        """Outputs of the branch that a block's layers share; None where each has its own."""
        return self.num_experts if self.shared_branch else None


class _Routing(SharesBlockBranch):
    """Sigmoid routing, r = sigmoid(R pool(x)), by the layer's own branch or its block's."""

    config_type = CondConvConfig
    attention: nn.Linear | None

    @property
    def num_experts(self) -> int:
        """K."""
        return self.config.num_experts

    def make_routing(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the layer's own routing, unless its block has one."""
        own = None if self._shared else nn.Linear(self.branch_width, self.num_experts, device=device, dtype=dtype)
        self.attention = own

    def weigh(self, pooled: Tensor) -> Tensor:
        """Routing weights (eq. 2), shape ``(B, C)`` -> ``(B, K)``."""
        return self.read_branch(pooled, self.attention).sigmoid()

    def branch_madds(self) -> int:
        """Multiply-adds a sample of the layer's own routing, without pooling."""
        return 0 if self._shared else self.branch_width * self.num_experts


class _CondConvNd(_Routing, ExpertConvNd):
    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create experts and routing."""
        self.make_experts(device, dtype)
        self.make_routing(device, dtype)

    def reset_parameters(self) -> None:
        """Experts: Kaiming normal, fan-out, as timm's; routing: torch.nn's own start."""
        self.reset_experts()
        if self.attention is not None:
            self.attention.reset_parameters()


class CondConv1d(_CondConvNd):
    """CondConv over sequences, ``(B, C, L)``: nn.Conv1d's arguments, then ``config=`` or fields of it."""

    dims = 1


class CondConv2d(_CondConvNd):
    """CondConv over images, ``(B, C, H, W)``: nn.Conv2d's arguments, then ``config=`` or fields of it.

    Example:
        >>> CondConv2d(8, 16, 3, padding=1, num_experts=4)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    dims = 2


class CondConv3d(_CondConvNd):
    """CondConv over volumes, ``(B, C, D, H, W)``: nn.Conv3d's arguments, then ``config=`` or fields of it."""

    dims = 3


class CondLinear(_Routing, ExpertLinear):
    """CondConv's dynamic classifier: nn.Linear's arguments, then ``config=`` or fields of it."""

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create experts and routing."""
        self.make_experts(device, dtype)
        self.make_routing(device, dtype)

    def reset_parameters(self) -> None:
        """Experts and routing: torch.nn's own start for a linear layer."""
        nn.init.uniform_(self.weight, -(self.in_features**-0.5), self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.attention is not None:
            self.attention.reset_parameters()
