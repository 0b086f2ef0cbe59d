"""Static backbones: timm's, and variants of them that papers count or need."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from dynaconv.errors import DynaconvError, require


def make_backbone(
    name: str,
    *,
    pretrained: bool = False,
    v1_stride: bool = False,
    classifier_bias: bool = True,
    constant_drop_path: float = 0.0,
    **arguments: Any,
) -> nn.Module:
    """A model of timm.

    Args:
        name: timm's name of it.
        pretrained: load timm's weights.
        v1_stride: let a ResNet's bottlenecks stride in their first 1x1 convolution, as the original ResNet does, and
            not in the 3x3; parameters are the same, multiply-adds fewer (ResNet50: 3.86 G, not 4.09 G).
        classifier_bias: keep the classifier's bias.
        constant_drop_path: drop every residual branch of a ResNet with this probability, as the networks of
            KernelWarehouse's code; timm's own ``drop_path_rate`` rises from 0 in the first block to the last's.
        arguments: of timm's model.

    Raises:
        DynaconvError: if the model has no bottlenecks, residual branches, or linear classifier, to change.
    """
    timm = require("timm", "train")
    try:
        model = timm.create_model(name, pretrained=pretrained, **arguments)
    except TypeError as error:
        raise DynaconvError(f"timm's '{name}' does not take these arguments, {sorted(arguments)}: {error}") from error
    if v1_stride:
        _stride_first(model, name)
    if not classifier_bias:
        _drop_bias(model, name)
    if constant_drop_path:
        _drop_paths(model, name, constant_drop_path)
    return model


def _stride_first(model: nn.Module, name: str) -> None:
    blocks = [m for m in model.modules() if type(m).__name__ == "Bottleneck" and hasattr(m, "conv3")]
    if not blocks:
        raise DynaconvError(f"v1_stride=True: '{name}' has no ResNet bottlenecks whose stride could move")
    for block in blocks:
        first, second = cast(nn.Conv2d, block.conv1), cast(nn.Conv2d, block.conv2)
        first.stride, second.stride = second.stride, first.stride


def _drop_bias(model: nn.Module, name: str) -> None:
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None  # pyright: ignore[reportCallIssue]
    if classifier is None or isinstance(classifier, nn.Identity):
        return
    if not isinstance(classifier, nn.Linear):
        raise DynaconvError(f"classifier_bias=False: the classifier of '{name}' is a {type(classifier).__name__}")
    classifier.register_parameter("bias", None)


def _drop_paths(model: nn.Module, name: str, rate: float) -> None:
    blocks = [
        m for m in model.modules() if type(m).__name__ in ("BasicBlock", "Bottleneck") and hasattr(m, "drop_path")
    ]
    if not blocks or not 0 < rate < 1:
        raise DynaconvError(
            f"constant_drop_path={rate!r}: expected a rate above 0 and below 1, and a ResNet of timm's, whose blocks "
            f"can drop their branch ('{name}' has {len(blocks)}); drop_path_rate is timm's own"
        )
    for block in blocks:
        block.drop_path = require("timm.layers", "train").DropPath(rate)
