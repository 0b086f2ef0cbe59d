"""DY-Conv: softmax attention over K kernels and biases (Chen et al., CVPR 2020, arXiv 1912.03458, eq. 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.config import MethodConfig, check_choice, check_count, check_range, linear_fall
from dynaconv.nn.base import TemperedBranch
from dynaconv.nn.experts import ExpertConvNd
from dynaconv.nn.method import silence
from dynaconv.nn.prepared import Prepared, Watch
from dynaconv.ops.branch import BranchWeights, prepared_branch

Branch = Literal["paper", "kaijieshi7"]


@dataclass(frozen=True, kw_only=True)
class DYConvConfig(MethodConfig):
    """DY-Conv: every sample's kernel is a convex sum of K kernels, its bias of K biases.

    Args:
        num_kernels: K; 4 in the paper.
        reduction: hidden width of the branch relative to the layer's input channels.
        initial_temperature: divisor of the logits when training starts; it falls to 1 (paper: over 10 epochs).
        branch: form of the branch: ``"paper"`` has C * reduction hidden channels and biases in both layers;
            ``"kaijieshi7"`` is that public repository's, for its checkpoints: one channel more (K if the input has 3),
            no bias in the first layer and, in 3-D, none in the second.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "dyconv"

    num_kernels: int = 4
    reduction: float = 1 / 4
    initial_temperature: float = 30.0
    branch: Branch = "paper"

    def __post_init__(self) -> None:
        check_count("num_kernels", self.num_kernels)
        check_range("reduction", self.reduction, 0, 1)
        check_range("initial_temperature", self.initial_temperature, 1e-3, 1e6)
        check_choice("branch", self.branch, get_args(Branch))

    def temperature(self, progress: float) -> float:
        """From ``initial_temperature`` linearly to 1 (section 3.2 of the paper)."""
        return linear_fall(progress, self.initial_temperature, 1.0)


class KernelAttention(TemperedBranch):
    """Pool -> linear -> ReLU -> linear -> softmax(z / temperature), shape ``(B, C)`` -> ``(B, K)``."""

    coldest, hottest = 1e-3, float("inf")

    def __init__(
        self,
        in_channels: int,
        dims: int,
        config: DYConvConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden, published = max(int(in_channels * config.reduction), 1), config.branch == "paper"
        if not published:
            hidden = config.num_kernels if in_channels == 3 else int(in_channels * config.reduction) + 1
        self.fc1 = nn.Linear(in_channels, hidden, bias=published, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, config.num_kernels, bias=published or dims < 3, device=device, dtype=dtype)
        self.register_temperature(1.0, device)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out; zero biases."""
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        self.temperature.fill_(1.0)

    def forward(self, pooled: Tensor) -> Tensor:
        """Attention over kernels, shape ``(B, C)`` -> ``(B, K)``, at least float32."""
        z = self.fc2(F.relu(self.fc1(pooled)))
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return (z / self.temperature.to(z.dtype)).softmax(dim=-1)

    @torch.no_grad()
    def fold(self) -> BranchWeights:
        """Weights for inference, the temperature divided out."""
        temperature, shift = float(self.temperature), self.fc1.bias
        bias = self.fc2.weight.new_zeros(self.fc2.out_features) if self.fc2.bias is None else self.fc2.bias
        return BranchWeights(
            fc1=self.fc1.weight.detach(),
            shift=None if shift is None else shift.detach(),
            fc2=self.fc2.weight / temperature,
            bias=(bias / temperature).unsqueeze(0),
        )


class _DYConvNd(ExpertConvNd):
    config_type = DYConvConfig
    attention: KernelAttention

    @property
    def num_experts(self) -> int:
        """K."""
        return self.config.num_kernels

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create kernels and attention."""
        self.make_experts(device, dtype)
        self.attention = KernelAttention(self.in_channels, self.dims, self.config, device, dtype)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out, every kernel and the branch."""
        self.reset_experts()
        self.attention.reset_parameters()

    @torch.no_grad()
    def prepare(self) -> Prepared:
        """Fold the branch's temperature."""
        weights = self.attention.fold()
        run = prepared_branch(weights, "logits")
        return Prepared(lambda x: run(x)[:, 0].softmax(dim=-1), Watch(self.attention), weights)

    def rest(self) -> float:
        """Let the branch weigh all kernels alike; returns the sum of the weights, 1 at any temperature."""
        silence(self.attention.fc2)
        return 1.0

    def weigh(self, pooled: Tensor) -> Tensor:
        """Attention over kernels (eq. 2), shape ``(B, C)`` -> ``(B, K)``."""
        return self.attention(pooled)

    def branch_madds(self, size: Sequence[int]) -> int:
        """Multiply-adds of the attention, pooling included."""
        linear = self.attention.fc1.weight.numel() + self.attention.fc2.weight.numel()
        return math.prod(size) + size[0] * linear


class DYConv1d(_DYConvNd):
    """DY-Conv over sequences, ``(B, C, L)``: nn.Conv1d's arguments, then ``config=`` or fields of it."""

    dims = 1


class DYConv2d(_DYConvNd):
    """DY-Conv over images, ``(B, C, H, W)``: nn.Conv2d's arguments, then ``config=`` or fields of it.

    Example:
        >>> DYConv2d(8, 16, 3, padding=1, num_kernels=4)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    dims = 2


class DYConv3d(_DYConvNd):
    """DY-Conv over volumes, ``(B, C, D, H, W)``: nn.Conv3d's arguments, then ``config=`` or fields of it."""

    dims = 3
