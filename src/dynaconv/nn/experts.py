"""Layers whose kernel is a weighted sum of K whole kernels: what CondConv and DY-Conv have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.nn.base import pool
from dynaconv.nn.method import MethodConvNd, MethodLinear, Noise, fill_kaiming
from dynaconv.nn.prepared import OutputNorm
from dynaconv.ops import Madds, Mixture, empty_cells, mix_cells, mixture_conv, mixture_linear


class Experts(nn.Module):
    """What the convolution and the linear layer have in common: K kernels and K biases, weighted alike at rest."""

    kernel: nn.Parameter
    bias: nn.Parameter | None

    @property
    def num_experts(self) -> int:
        """K."""
        raise NotImplementedError

    def rest(self) -> float:
        """Let the branch weigh all experts alike, whatever the input; returns the sum of the weights."""
        raise NotImplementedError

    @torch.no_grad()
    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static layer: K copies that differ and whose weighted sum is its kernel; returns 0, no error."""
        gain = 1 / self.rest()
        self.kernel.copy_(noise.copies(kernel, self.num_experts) * gain)
        if bias is not None and self.bias is not None:
            self.bias.copy_((bias * gain).expand_as(self.bias))
        return 0.0


def expand_bias(bias: nn.Parameter, num_experts: int) -> nn.Parameter:
    """The same bias for every expert, shape ``(O,)`` -> ``(K, O)``."""
    return nn.Parameter(bias.detach().expand(num_experts, -1).clone())


def mix_biases(weights: Tensor, biases: Tensor | None, norm: OutputNorm | None) -> tuple[Tensor | None, Tensor | None]:
    """Scale, shape ``(O,)``, and bias, ``(B, O)`` or ``(O,)``, of the output for weights ``(B, K)`` of the experts."""
    if norm is None:
        return None, None if biases is None else weights @ biases
    return norm.scale, norm.shift if norm.bias is None else torch.addmm(norm.shift, weights, norm.bias)


def fold_biases(scale: Tensor, shift: Tensor, biases: Tensor | None) -> OutputNorm:
    """A norm behind K experts, biases ``(K, O)``, in float64."""
    return OutputNorm(scale, shift, bias=None if biases is None else biases.detach().double() * scale)


class ExpertConvNd(Experts, MethodConvNd):
    """A convolution with K kernels ``kernel`` of shape ``(K, O, C / groups, *k)`` and K biases ``(K, O)``.

    Subclasses say how many and implement :meth:`weigh` and :meth:`rest`.
    """

    folds_norm = norm_pays = shows_attention = True

    def weigh(self, pooled: Tensor) -> Tensor:
        """Weights of the experts for every sample, shape ``(B, C)`` -> ``(B, K)``."""
        raise NotImplementedError

    def attend(self, x: Tensor) -> Tensor:
        """Weights of the experts for an input ``(B, C, *size)``, shape ``(B, K)``."""
        prepared = self.prepared()
        weights = self.weigh(pool(x)) if prepared is None else prepared.branch(x)
        return self.show(kernel=weights)["kernel"].to(self.kernel.dtype)

    @property
    def mixture(self) -> Mixture:
        """One block, the whole kernel."""
        return Mixture((1, 1, 1), self.geometry)

    def make_experts(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create kernels and biases."""
        self.kernel = nn.Parameter(empty_cells(self.num_experts, *self.kernel_shape, device=device, dtype=dtype))
        if self.bias is not None:
            self.bias = expand_bias(self.bias, self.num_experts)

    def reset_experts(self) -> None:
        """Every kernel as if it were alone, zero biases."""
        fill_kaiming(self.kernel, self.kernel_shape, self.groups)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def adopt_bias(self, bias: nn.Parameter) -> None:
        """Start every expert's bias from the static layer's."""
        self.bias = expand_bias(bias, self.num_experts)

    def fold_output(self, scale: Tensor, shift: Tensor) -> OutputNorm:
        """Scale, shift, and every expert's bias scaled."""
        return fold_biases(scale, shift, self.bias)

    def convolve(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Convolve every sample with its own sum of kernels, bias and, if given, norm included."""
        weights = self.attend(x)
        scale, bias = mix_biases(weights, self.bias, norm)
        return mixture_conv(self.pad(x), weights.unsqueeze(1), self.kernel, self.mixture, out_scale=scale, bias=bias)

    def kernels(self, x: Tensor) -> Tensor:
        """The kernel of every sample, shape ``(B, C, *size)`` -> ``(B, O, C / groups, *kernel_size)``."""
        return mix_cells(self.attend(x), self.kernel)

    def branch_madds(self, size: Sequence[int]) -> int:
        """Multiply-adds of the layer's own branch, pooling included."""
        raise NotImplementedError

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on an input of shape ``(B, C, *size)``: pool, weigh, sum K kernels, convolve."""
        kernel = size[0] * math.prod(self.kernel_shape)
        return Madds(
            convolution=self.convolution_madds(size),
            mixing=kernel * self.num_experts,
            attention=self.branch_madds(size),
            kernel_elements=kernel,
        )


class ExpertLinear(Experts, MethodLinear):
    """A linear layer with K matrices ``kernel`` of shape ``(K, O, C)`` and K biases ``(K, O)``."""

    folds_norm = norm_pays = shows_attention = True

    def weigh(self, pooled: Tensor) -> Tensor:
        """Weights of the experts for every sample, shape ``(B, C)`` -> ``(B, K)``."""
        raise NotImplementedError

    def attend(self, x: Tensor) -> Tensor:
        """Weights of the experts for an input ``(B, T, C)``, shape ``(B, K)``."""
        return self.show(kernel=self.weigh(x.mean(dim=1)))["kernel"].to(self.kernel.dtype)

    def make_experts(self, device: Any, dtype: torch.dtype | None) -> None:
        """Create matrices and biases."""
        shape = (self.num_experts, self.out_features, self.in_features)
        self.kernel = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if self.bias is not None:
            self.bias = expand_bias(self.bias, self.num_experts)

    def adopt_bias(self, bias: nn.Parameter) -> None:
        """Start every expert's bias from the static layer's."""
        self.bias = expand_bias(bias, self.num_experts)

    def fold_output(self, scale: Tensor, shift: Tensor) -> OutputNorm:
        """Scale, shift, and every expert's bias scaled."""
        return fold_biases(scale, shift, self.bias)

    def transform(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Map every sample with its own sum of matrices, bias and, if given, norm included.

        Shape ``(B, T, C)`` -> ``(B, T, O)``.
        """
        weights = self.attend(x)
        scale, bias = mix_biases(weights, self.bias, norm)
        return mixture_linear(x, weights.unsqueeze(1), self.kernel, (1, 1, 1), out_scale=scale, bias=bias)

    def kernels(self, x: Tensor) -> Tensor:
        """The matrix of every sample, shape ``(B, ..., C)`` -> ``(B, O, C)``."""
        return mix_cells(self.attend(self.by_position(x)), self.kernel)

    def branch_madds(self, size: Sequence[int]) -> int:
        """Multiply-adds of the layer's own branch, pooling included."""
        raise NotImplementedError

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on an input of shape ``(B, ..., C)``."""
        batch, positions = size[0], math.prod(size[1:-1])
        matrix = self.in_features * self.out_features
        return Madds(
            convolution=batch * positions * matrix,
            mixing=batch * matrix * self.num_experts,
            attention=self.branch_madds(size),
            kernel_elements=batch * matrix,
        )
