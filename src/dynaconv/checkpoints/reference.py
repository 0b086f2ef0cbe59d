"""Load checkpoints of the methods' public code into this library's networks.

Their backbones name layers as torchvision and ConvNeXt do, this library's are timm's; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from dynaconv.checkpoints.method_keys import translate_method_keys
from dynaconv.checkpoints.reading import read_state_dict
from dynaconv.checkpoints.report import compare_weights
from dynaconv.checkpoints.warehouse_keys import translate_warehouse_keys
from dynaconv.checkpoints.weights import load_or_explain, shapes
from dynaconv.errors import CheckpointError
from dynaconv.nn import Warehouses, dynamic_layers


def translate_reference_keys(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a public state dict the names that they have in ``model``.

    Args:
        model: a network of this library, or a layer alone: KernelWarehouse, ODConv, DY-Conv (with
            ``DYConvConfig(branch="kaijieshi7")`` for that repository's), CondConv (timm's EfficientNets) or DCD.
        state: state dict in the public key names.

    Raises:
        CheckpointError: if the network is static, or the keys are of another one.
    """
    if isinstance(getattr(model, "warehouses", None), Warehouses):
        return translate_warehouse_keys(model, state)
    layer = next(dynamic_layers(model), None)
    if layer is None:
        raise CheckpointError(f"{type(model).__name__} has no dynamic layers; convert it, or create a preset, first")
    if any(str(key).endswith("attention.temperature") for key in state):
        raise CheckpointError("these are this library's own key names; load them with dynaconv.load_weights")
    return translate_method_keys(model, layer.config.method, state)


def load_reference_checkpoint(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> nn.Module:
    """Load a checkpoint of a method's public code.

    Args:
        model: the matching network of this library, e.g. ``create_model("kw1x_resnet18")``, ``"od4x_resnet50"`` or
            ``"cond8x_efficientnet_b0"`` (timm's ``tf_efficientnet_cc_b0_8e``).
        source: a state dict in the public key names, or a file that holds one (safetensors, or a pickle, which is
            only read with ``weights_only=True``).

    Returns:
        The network, with temperature at the end of its schedule: the public code's evaluation mode.

    Raises:
        CheckpointError: if keys or shapes do not fit; it names them.
    """
    given, _ = read_state_dict(source)
    shapes(given)
    state = translate_reference_keys(model, given)
    own = model.state_dict()
    temperatures = _final_temperatures(model, own)
    fitted = {k: v.reshape(own[k].shape) if k in own and _same_numbers(v, own[k]) else v for k, v in state.items()}
    report = compare_weights({k: v for k, v in shapes(own).items() if k not in temperatures}, shapes(fitted))
    if not report.fits:
        raise CheckpointError(f"the checkpoint does not fit {type(model).__name__}: {report}")
    load_or_explain(model, fitted | temperatures, "the checkpoint does not fit")
    return model


def _final_temperatures(model: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    layer = next(dynamic_layers(model), None)
    end = None if layer is None else layer.temperature_at(1.0)
    keys = [key for key in own if key.endswith("attention.temperature")]
    return {} if end is None else {key: torch.full_like(own[key], end) for key in keys}


def _same_numbers(value: Tensor, target: Tensor) -> bool:
    """Whether shapes differ in 1s alone, or the checkpoint keeps every expert flat, as timm does."""
    if value.numel() != target.numel():
        return False
    flat = value.dim() == 2 and target.dim() > 2 and value.shape[0] == target.shape[0]
    return flat or [n for n in value.shape if n != 1] == [n for n in target.shape if n != 1]
