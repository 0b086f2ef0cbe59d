"""Convolution with one kernel per sample: backends, one function each, and their dispatch.

Every backend takes ``x`` of shape ``(B, C, *size)`` and ``kernels`` of shape ``(B, O, C / groups, *k)`` and returns
``(B, O, *out)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from dynaconv.ops.cost import CONV_BACKENDS, cheapest_conv_backend
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.graphs import choose_form, graph_target
from dynaconv.ops.patches import convolve_patches

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def static_conv(x: Tensor, weight: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """PyTorch's own convolution, one kernel and bias for all samples."""
    convolve = _CONVOLUTIONS[len(geometry.kernel_size)]
    return convolve(x, weight, bias, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)


def grouped_conv(x: Tensor, kernels: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """One grouped convolution over the whole batch: samples are groups."""
    batch, out_channels = kernels.shape[:2]
    inside = bias is not None and batch == 1  # groups with a bias take longer
    convolve = _CONVOLUTIONS[len(geometry.kernel_size)]
    merged = convolve(
        x.reshape(1, -1, *x.shape[2:]),
        kernels.reshape(-1, *kernels.shape[2:]),
        bias if inside else None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups * batch,
    )
    y = merged.reshape(batch, out_channels, *merged.shape[2:])
    return y if bias is None or inside else y.add_(bias.reshape(-1, *(1,) * (y.dim() - 2)))


def looped_conv(x: Tensor, kernels: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """A plain convolution per sample: best for large kernels, each of which fills the machine."""
    samples = zip(
        x.split(1), kernels.unbind(), strict=True
    )  # views whose gradients are joined once, not summed B times
    return torch.cat([static_conv(sample, kernel, geometry, bias) for sample, kernel in samples])


def matmul_conv(x: Tensor, kernels: Tensor, geometry: Geometry, bias: Tensor | None = None) -> Tensor:
    """Patches times kernels as one batched product: best for 1x1 kernels, and traced for any number of samples."""
    batch, out_channels = kernels.shape[:2]
    out, groups = geometry.output_size(x.shape[2:]), geometry.groups
    columns = gather_patches(x, geometry)
    columns = columns.reshape(batch * groups, columns.shape[1] // groups, columns.shape[2])
    rows = kernels.reshape(batch * groups, out_channels // groups, -1)
    if bias is None:
        return torch.bmm(rows, columns).reshape(batch, out_channels, *out)
    added = bias.reshape(groups, -1, 1).repeat(batch, 1, 1)
    return torch.baddbmm(added, rows, columns).reshape(batch, out_channels, *out)


def conv_in_graph(x: Tensor, kernels: Tensor, geometry: Geometry, form: str, bias: Tensor | None = None) -> Tensor:
    """:func:`dynaconv.ops.per_sample_conv` in a form, shape ``(B, O, *out)``."""
    if form == "conv" and kernels.shape[0] == 1:
        return static_conv(x, kernels[0], geometry, bias)
    if form == "conv":
        return grouped_conv(x, kernels, geometry, bias)
    y = convolve_patches(x, kernels.flatten(2), geometry, position_first=False)
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.dim() - 2))


def gather_patches(x: Tensor, geometry: Geometry) -> Tensor:
    """The input under every kernel position.

    Returns:
        Shape ``(B, C * positions, P)`` for P output positions, channel by channel.
    """
    if len(geometry.kernel_size) == 2 and not geometry.is_pointwise:
        return F.unfold(x, geometry.kernel_size, geometry.dilation, geometry.padding, geometry.stride)
    padded = _pad(x, geometry)
    shifted = [padded[(..., *tap)] for tap in geometry.taps(x.shape[2:])]
    stacked = shifted[0].unsqueeze(2) if len(shifted) == 1 else torch.stack(shifted, dim=2)
    return stacked.reshape(x.shape[0], x.shape[1] * geometry.positions, -1)


def _pad(x: Tensor, geometry: Geometry) -> Tensor:
    if not any(geometry.padding):
        return x
    return F.pad(x, [p for padding in reversed(geometry.padding) for p in (padding, padding)])


_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "grouped": grouped_conv,
    "loop": looped_conv,
    "matmul": matmul_conv,
}


def per_sample_conv(
    x: Tensor, kernels: Tensor, geometry: Geometry, backend: str = "auto", bias: Tensor | None = None
) -> Tensor:
    """Convolve every sample with its own kernel.

    Args:
        x: shape ``(B, C, *size)``; any B, 0 included.
        kernels: shape ``(B, O, C / groups, *k)``.
        geometry: stride, padding, dilation and groups.
        backend: ``"grouped"``, ``"loop"``, ``"matmul"``, or ``"auto"`` for the one that the cost model picks.
        bias: of all samples, shape ``(O,)``.

    Returns:
        Shape ``(B, O, *out)``.

    Raises:
        ValueError: if batch sizes or channels do not fit, or the backend is unknown.
    """
    if x.shape[0] != kernels.shape[0]:
        raise ValueError(f"{x.shape[0]} samples, but kernels for {kernels.shape[0]}")
    if x.shape[1] != kernels.shape[2] * geometry.groups:
        raise ValueError(
            f"input has {x.shape[1]} channels; kernels of shape {tuple(kernels.shape[1:])} with {geometry.groups} "
            f"groups expect {kernels.shape[2] * geometry.groups}"
        )
    target = graph_target()
    if backend == "auto" and target is not None:
        return conv_in_graph(x, kernels, geometry, choose_form(target, kernels.shape[1:], geometry), bias)
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "matmul"  # the only one whose graph does not depend on the number of samples
    elif backend == "auto":
        backend = cheapest_conv_backend(tuple(x.shape), tuple(kernels.shape), geometry)
        if backend == "loop" and x.is_cuda:
            backend = "grouped"  # a loop would launch one convolution a sample
    if backend not in CONV_BACKENDS:
        raise ValueError(f"backend {backend!r} is not known; expected 'auto' or one of {CONV_BACKENDS}")
    if x.shape[0] == 0:
        return kernels.new_zeros(0, kernels.shape[1], *geometry.output_size(x.shape[2:])) + 0 * (
            x.sum() + kernels.sum()
        )
    return _BACKENDS[backend](x, kernels, geometry, bias)
