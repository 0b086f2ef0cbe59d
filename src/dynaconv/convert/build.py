"""From a static layer to the dynamic one in its place: same arguments, bias, hooks, device, dtype and mode."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from dynaconv.convert.replace import move_hooks
from dynaconv.convert.select import fits_its_input
from dynaconv.errors import PlanError
from dynaconv.nn import DynamicConvNd, DynamicLinear
from dynaconv.planning import LayerSpec

LayerType = type[DynamicConvNd] | type[DynamicLinear]


def dimensions(layer_type: LayerType) -> int:
    """Spatial dimensions of a layer class; 0 for a linear one."""
    return layer_type.dims if issubclass(layer_type, DynamicConvNd) else 0


def pick(layer_types: Iterable[LayerType], spec: LayerSpec) -> LayerType | None:
    """The class for as many spatial dimensions as the layer has, or None."""
    return next((t for t in layer_types if dimensions(t) == len(spec.kernel_size)), None)


def build_layer(source: nn.Module, layer_type: LayerType, name: str, **options: Any) -> nn.Module:
    """The dynamic layer for a static one.

    Args:
        source: a convolution or linear layer.
        layer_type: what takes its place.
        name: the layer's dotted module name.
        options: further arguments, such as its config.
    """
    weight = source.get_parameter("weight")
    options |= {"device": weight.device, "dtype": weight.dtype}
    if isinstance(source, nn.Linear):
        arguments: tuple[Any, ...] = (source.in_features, source.out_features, source.bias is not None)
    elif isinstance(source, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        arguments = (
            source.in_channels,
            source.out_channels,
            source.kernel_size,
            source.stride,
            "same" if fits_its_input(source) else source.padding,
            source.dilation,
            source.groups,
            source.bias is not None,
            source.padding_mode,
        )
    else:
        raise PlanError(f"a {type(source).__name__} has no dynamic form; expected a convolution or linear layer")
    layer = layer_type(*arguments, **options)
    if source.bias is not None:
        layer.adopt_bias(cast(nn.Parameter, source.bias))
    layer.layer_name = name or "<the layer>"
    move_hooks(source, layer)
    return layer.train(source.training)
