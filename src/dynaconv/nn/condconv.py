"""CondConv: sigmoid routing over whole experts (Yang et al., NeurIPS 2019, arXiv 1904.04971, eq. 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynaconv.config import MethodConfig, check_count, check_flag
from dynaconv.nn.block import BlockBranch, SharesBlockBranch
from dynaconv.nn.experts import ExpertConvNd, ExpertLinear
from dynaconv.nn.method import silence


@dataclass(frozen=True, kw_only=True)
class CondConvConfig(MethodConfig):
    """CondConv: every sample's kernel is the sum of K experts, weighted by sigmoids that need not sum to one.

    Args:
        num_experts: K; 8 in most of the paper.
        shared_branch: one routing for all convolutions of a block, as in the paper: from the input of the first, which
            is the block's. Else, as linear layers and those outside of blocks always do, each routes by its own input.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "condconv"

    num_experts: int = 8
    shared_branch: bool = True

    def __post_init__(self) -> None:
        check_count("num_experts", self.num_experts)
        check_flag("shared_branch", self.shared_branch)


class _CondConvNd(SharesBlockBranch, ExpertConvNd):
    config_type = CondConvConfig
    attention: BlockBranch | None

    @property
    def num_experts(self) -> int:
        """K."""
        return self.config.num_experts

    @property
    def own_branch(self) -> BlockBranch | None:
        """The layer's routing, unless it follows another's."""
        return self.attention

    def drop_branch(self, leader: BlockBranch) -> None:
        """Route as the block's first layer does."""
        self.attention = None

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create experts and routing."""
        self.make_experts(device, dtype)
        self.attention = BlockBranch(self.in_channels, self.num_experts, device, dtype)

    def reset_parameters(self) -> None:
        """Experts: Kaiming normal, fan-out, as timm's; routing: torch.nn's own start."""
        self.reset_experts()
        if self.attention is not None:
            self.attention.reset_parameters()

    def rest(self) -> float:
        """Route all inputs alike, every sigmoid at one half; returns their sum."""
        if self.attention is not None:
            silence(self.attention)
        return self.num_experts / 2

    def weigh(self, pooled: Tensor) -> Tensor:
        """Routing weights (eq. 2), shape ``(B, C)`` -> ``(B, K)``."""
        return self.read_branch(pooled).sigmoid()

    def branch_madds(self, size: Sequence[int]) -> int:
        """Multiply-adds of the layer's own routing, pooling included; none if it follows another's."""
        return 0 if self.attention is None else math.prod(size) + size[0] * self.attention.weight.numel()


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


class CondLinear(ExpertLinear):
    """CondConv's dynamic classifier: nn.Linear's arguments, then ``config=`` or fields of it."""

    config_type = CondConvConfig

    @property
    def num_experts(self) -> int:
        """K."""
        return self.config.num_experts

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create experts and routing."""
        self.make_experts(device, dtype)
        self.attention = nn.Linear(self.in_features, self.num_experts, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Experts and routing: torch.nn's own start for a linear layer."""
        nn.init.uniform_(self.kernel, -(self.in_features**-0.5), self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.attention.reset_parameters()

    def rest(self) -> float:
        """Route all inputs alike, every sigmoid at one half; returns their sum."""
        silence(self.attention)
        return self.num_experts / 2

    def weigh(self, pooled: Tensor) -> Tensor:
        """Routing weights (eq. 2), shape ``(B, C)`` -> ``(B, K)``."""
        return self.attention(pooled).sigmoid()

    def branch_madds(self, size: Sequence[int]) -> int:
        """Multiply-adds of the routing, pooling included."""
        pooling = math.prod(size) if math.prod(size[1:-1]) > 1 else 0
        return pooling + size[0] * self.attention.weight.numel()
