"""What the machine could do: the static network's time, and the mixing at the speed of the best static product.

A dynamic layer has to read its cells, or kernels, once for every batch, and to multiply and add them for every image.
At the machine's peak that takes the longer of the two; with the static network's own measured time it is a limit that
no way of running the same products goes below. The products are those of the method's formula: an order of fewer, such
as applying cells before mixing on small maps, may.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dynaconv.nn import DynamicLayer, Warehouse, dynamic_layers

# batch, channels in and out, side of the map, side of the kernel: shapes that keep a convolution busy
SHAPES = ((16, 128, 28, 3), (16, 256, 14, 3), (16, 512, 14, 3), (16, 1024, 14, 1))
SQUARE = 1536
"""Side of the matrices of the plain product, which is faster or slower than a convolution."""
READ_BYTES = 2**28
REPEATS = 5
TRAINING_PRODUCTS = 4
"""Products as large as the mixing in a training step: forward, kernels made again, and two gradients."""


@dataclass(frozen=True)
class Demand:
    """What a network's mixing needs.

    Args:
        mixing_madds: multiply-adds of mixing for one image.
        cell_bytes: cells and kernels, as often as a layer reads them for a batch.
    """

    mixing_madds: int
    cell_bytes: int


def measure_machine(device: str) -> dict[str, Any]:
    """Peak multiply-adds and bytes read a second, with the best of several well-shaped products.

    Args:
        device: where.
    """
    ready = torch.cuda.synchronize if device == "cuda" else lambda: None
    rates: dict[str, float] = {}
    with torch.inference_mode():
        for batch, channels, side, kernel in SHAPES:
            x = torch.randn(batch, channels, side, side, device=device).contiguous(memory_format=torch.channels_last)
            weight = torch.randn(channels, channels, kernel, kernel, device=device)
            weight = weight.contiguous(memory_format=torch.channels_last)
            madds = batch * channels**2 * side**2 * kernel**2
            call = _convolution(x, weight, kernel // 2)
            rates[f"conv {batch}x{channels}x{side}x{side}, {kernel}x{kernel}"] = madds / _best(call, ready)
        square = torch.randn(SQUARE, SQUARE, device=device)
        rates[f"matmul {SQUARE}"] = SQUARE**3 / _best(lambda: square @ square, ready)
        read = torch.ones(READ_BYTES // 4, device=device)
        bandwidth = READ_BYTES / _best(read.sum, ready)
    return {"madds_per_second": max(rates.values()), "read_bytes_per_second": bandwidth, "by_product": rates}


def demand_of(model: nn.Module, mixing_madds: int) -> Demand:
    """What a network's dynamic layers read.

    Args:
        model: a converted network.
        mixing_madds: of one image, as :func:`dynaconv.profile` counts them.
    """
    return Demand(mixing_madds, sum(map(cell_bytes, dynamic_layers(model))))


def cell_bytes(layer: DynamicLayer) -> int:
    """Bytes of what a layer's kernels are made of: its warehouse's cells, or its own parameters but for the branch."""
    cells = [part for part in layer.borrowed_parts().values() if isinstance(part, Warehouse)]
    own = [p for name, p in layer.named_parameters() if "attention" not in name.split(".")]
    return sum(p.numel() * p.element_size() for p in [*own, *(p for part in cells for p in part.parameters())])


def limit(
    demand: Demand, machine: dict[str, Any], static_seconds_per_image: float, batch: int, training: bool
) -> dict[str, Any]:
    """The limit of a pass.

    Args:
        demand: of the network.
        machine: of :func:`measure_machine`.
        static_seconds_per_image: measured.
        batch: images.
        training: whether it is a training step.

    Returns:
        Seconds an image, their ratio to the static network, both parts, and which of them is the larger.

    Example:
        >>> machine = {"madds_per_second": 100.0, "read_bytes_per_second": 10.0}
        >>> limit(Demand(mixing_madds=50, cell_bytes=4), machine, 1.0, batch=2, training=False)
        {'seconds_per_image': 1.5, 'ratio': 1.5, 'products_seconds': 0.5, 'reading_seconds': 0.2, 'bound': 'products'}
    """
    products = demand.mixing_madds * (TRAINING_PRODUCTS if training else 1) / machine["madds_per_second"]
    reading = demand.cell_bytes / machine["read_bytes_per_second"] / batch
    seconds = static_seconds_per_image + max(products, reading)
    return {
        "seconds_per_image": seconds,
        "ratio": seconds / static_seconds_per_image,
        "products_seconds": products,
        "reading_seconds": reading,
        "bound": "products" if products >= reading else "reading",
    }


def _convolution(x: torch.Tensor, weight: torch.Tensor, padding: int) -> Callable[[], torch.Tensor]:
    return lambda: F.conv2d(x, weight, padding=padding)


def _best(call: Callable[[], object], ready: Callable[[], None]) -> float:
    """Shortest of several times, in seconds; the first call is not one of them."""
    call()
    seconds = []
    for _ in range(REPEATS):
        ready()
        began = time.perf_counter()
        call()
        ready()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
