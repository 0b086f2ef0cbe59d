"""Every registered method's layers, each with an input that suits it: one line a method, for the contract tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv import KernelWarehouseConfig
from dynaconv import nn as dyn


@dataclass(frozen=True)
class Case:
    """A layer and how to make it: ``arguments`` as torch.nn has them, ``fields`` as the method's config has them."""

    kind: type[dyn.DynamicLayer]
    arguments: tuple[Any, ...]
    size: tuple[int, ...]  # of one sample
    fields: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Any:
        return getattr(self.kind, "config_type", KernelWarehouseConfig)(**self.fields)

    def make(self, **options: Any) -> dyn.DynamicLayer:
        """The layer, without a zero in sight."""
        return animate(self.kind(*self.arguments, **self.options, config=self.config, **options))

    def input(self, batch: int, **options: Any) -> Tensor:
        """A batch for it."""
        return torch.randn(batch, *self.size, **options)

    @property
    def is_gate(self) -> bool:
        return issubclass(self.kind, dyn.Gate)

    @property
    def is_convolution(self) -> bool:
        return issubclass(self.kind, dyn.DynamicConvNd)


def animate(layer: nn.Module) -> nn.Module:
    """Give biases and normalisations numbers of their own: a fresh layer's zeros and ones hide mistakes."""
    with torch.no_grad():
        for name, value in (*layer.named_parameters(), *layer.named_buffers()):
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_mean") or name.rpartition(".")[2] == "bias":
                value.normal_(0, 0.3)
            elif "norm" in name and name.endswith("weight"):
                value.uniform_(0.5, 1.5)
    return layer


def convolutions(
    kinds: Sequence[type], arguments: tuple[Any, ...] = (16, 8, 3), fields: dict[str, Any] | None = None
) -> list[Case]:
    """A case in every number of dimensions."""
    sizes = [(7, 6, 5)[: kind.dims] for kind in kinds]
    return [
        Case(k, arguments, (arguments[0], *s), fields or {}, {"padding": 1}) for k, s in zip(kinds, sizes, strict=True)
    ]


def gates(kind: type, fields: dict[str, Any]) -> list[Case]:
    """A case in every number of dimensions."""
    return [Case(kind, (32, dims), (32, *(7, 6, 5)[:dims]), fields) for dims in (1, 2, 3)]


METHODS: dict[str, list[Case]] = {
    "kernel_warehouse": [
        *convolutions([dyn.KWConv1d, dyn.KWConv2d, dyn.KWConv3d], fields={"budget": 2}),
        Case(dyn.KWLinear, (16, 8), (3, 16), {"budget": 2}),
    ],
    "condconv": [
        *convolutions([dyn.CondConv1d, dyn.CondConv2d, dyn.CondConv3d], fields={"num_experts": 3}),
        Case(dyn.CondLinear, (16, 8), (3, 16), {"num_experts": 3}),
    ],
    "dyconv": convolutions([dyn.DYConv1d, dyn.DYConv2d, dyn.DYConv3d], fields={"num_kernels": 3}),
    "odconv": convolutions([dyn.ODConv1d, dyn.ODConv2d, dyn.ODConv3d], fields={"num_kernels": 3}),
    "dcd": [
        *convolutions([dyn.DCDConv1d, dyn.DCDConv2d, dyn.DCDConv3d], fields={"layout": "basic"}),
        Case(dyn.DCDLinear, (16, 8), (3, 16), {"linear_rank": 4}),
    ],
    "weightnet": convolutions(
        [dyn.WeightNetConv1d, dyn.WeightNetConv2d, dyn.WeightNetConv3d], fields={"expansion": 4, "grouping": 2}
    ),
    "cgc": convolutions([dyn.CGConv1d, dyn.CGConv2d, dyn.CGConv3d], fields={"group_size": 4}),
    "fdconv": convolutions([dyn.FDConv1d, dyn.FDConv2d, dyn.FDConv3d], fields={"num_kernels": 5, "bands": (2, 3)}),
    "se": gates(dyn.SE, {"reduction": 1 / 4}),
    "cbam": gates(dyn.CBAM, {"reduction": 1 / 4, "kernel_size": 3, "bias": True}),
    "eca": gates(dyn.ECA, {"kernel_size": 5}),
}
ALL = [case for cases in METHODS.values() for case in cases]
CASES = {case.kind.__name__ + f"-{len(case.size) - 1}d" * case.is_gate: case for case in ALL}
