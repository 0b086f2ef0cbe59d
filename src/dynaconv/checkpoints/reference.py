"""Load checkpoints of the authors' public KernelWarehouse code into this library's networks.

Their networks number warehouses by first appearance and name layers as torchvision and ConvNeXt do; this library's
backbones are timm's. The numbers are the same, only names and, for linear layers, trailing 1s of shapes differ.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import CheckpointError
from dynaconv.nn import Warehouses, dynamic_layers
from dynaconv.nn.kernel_warehouse import WarehouseLayer

_BRANCH = {"norm1": "norm", "fc3.weight": "basis"}


def _rename_mobilenet(key: str) -> str:
    """Authors' (torchvision's) MobileNetV2 names -> timm's."""
    if match := re.fullmatch(r"features\.(0|18)\.([01])\.(.+)", key):
        stem = match[1] == "0"
        return f"{('conv_stem', 'bn1')[int(match[2])] if stem else ('conv_head', 'bn2')[int(match[2])]}.{match[3]}"
    if match := re.fullmatch(r"features\.1\.conv\.(0\.0|0\.1|1|2)\.(.+)", key):
        place = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}[match[1]]
        return f"blocks.0.0.{place}.{match[2]}"
    if match := re.fullmatch(r"features\.(\d+)\.conv\.(0\.0|0\.1|1\.0|1\.1|2|3)\.(.+)", key):
        stage, block = _MOBILENET_BLOCKS[int(match[1]) - 2]
        names = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2": "conv_pwl", "3": "bn3"}
        return f"blocks.{stage}.{block}.{names[match[2]]}.{match[3]}"
    return re.sub(r"^classifier\.1\.(conv\.)?", "classifier.", key)


_MOBILENET_BLOCKS = [(stage, b) for stage, count in enumerate((2, 3, 4, 3, 3, 1), start=1) for b in range(count)]


def _rename_convnext(key: str) -> str:
    """Authors' ConvNeXt names -> timm's."""
    rules = [
        (r"^downsample_layers\.0\.", "stem."),
        (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
        (r"^stages\.(\d)\.(\d)\.", r"stages.\1.blocks.\2."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.pwconv([12])\.", r".mlp.fc\1."),
        (r"^norm\.", "head.norm."),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
    ]
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def _rename_branch(key: str) -> str:
    """Their attention branch's names -> ours; their linear layers wrap a convolution."""
    head, mark, tail = key.partition("attention.")
    if not mark:
        return re.sub(r"\.conv\.(bias)$", r".\1", key) if key.endswith(".conv.bias") else key
    for old, new in _BRANCH.items():
        tail = re.sub(rf"^{re.escape(old)}(\.|$)", rf"{new}\1", tail)
    return f"{head.removesuffix('conv.') if head.endswith('.conv.') else head}attention.{tail}"


def _renamer(model: nn.Module) -> tuple[Callable[[str], str], Callable[[str], bool]]:
    """The family's key translation, and which layers the authors' network registers first."""
    names = set(dict(model.named_modules()))
    if "conv_stem" in names and "conv_head" in names:
        return _rename_mobilenet, lambda name: False
    if any(re.match(r"stages\.\d\.blocks", name) for name in names):
        return _rename_convnext, lambda name: name.startswith("stem.") or ".downsample." in name
    return lambda key: key, lambda name: False


def _warehouse_order(model: nn.Module, first: Callable[[str], bool]) -> list[str]:
    """Warehouse names in the order in which the authors' network first uses them."""
    layers = [layer.plan for layer in dynamic_layers(model) if isinstance(layer, WarehouseLayer)]
    ordered = [p for p in layers if first(p.name)] + [p for p in layers if not first(p.name)]
    return list(dict.fromkeys(p.warehouse for p in ordered))


def _read(source: str | Path | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(source, Mapping):
        return _state_dict_of(source)
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file at '{path}'")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their flags beside
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"'{path}' was not opened: it is damaged, or holds more than tensors and unpickling it could run code; "
            f"save its state dict alone, or as safetensors ({error})"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}; expected a state dict")
    return _state_dict_of(content)


def _state_dict_of(content: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The state dict in a training checkpoint, or the mapping itself."""
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            return content[key]
    return content


def translate_reference_keys(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of the authors' state dict the names that they have in ``model``.

    Args:
        model: a KernelWarehouse network of this library.
        state: state dict in the authors' key names.

    Raises:
        CheckpointError: if the number of warehouses differs.
    """
    warehouses = getattr(model, "warehouses", None)
    if not isinstance(warehouses, Warehouses):
        raise CheckpointError(f"{type(model).__name__} has no warehouses; convert it, or create a kw preset, first")
    rename, first = _renamer(model)
    order = _warehouse_order(model, first)
    numbered = sorted(k for k in state if re.fullmatch(r"(module\.)?warehouse_manager\.weights\.\d+", k))
    if not numbered and any(k.startswith("warehouses.") for k in state):
        raise CheckpointError("these are this library's own key names; load them with model.load_state_dict")
    if len(numbered) != len(order):
        raise CheckpointError(
            f"the checkpoint has {len(numbered)} warehouses, the network {len(order)} ({', '.join(order)}); "
            "is it the same preset?"
        )
    translated = {}
    for key, value in state.items():
        plain = key.removeprefix("module.")
        if plain.startswith("warehouse_manager.weights."):
            plain = f"warehouses.{order[int(plain.rpartition('.')[2])]}.cells"
        else:
            plain = _rename_branch(rename(plain))
        translated[plain] = value
    return translated


def load_reference_checkpoint(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> nn.Module:
    """Load a checkpoint of the authors' public code.

    Args:
        model: the matching network of this library, e.g. ``create_model("kw1x_resnet18")``.
        source: a state dict in the authors' key names, or a file that holds one (safetensors, or a pickle, which is
            only read with ``weights_only=True``).

    Returns:
        The network, with temperature 0: the authors' evaluation mode.

    Raises:
        CheckpointError: if keys or shapes do not fit; it names them.
    """
    state = translate_reference_keys(model, _read(source))
    own = model.state_dict()
    temperatures = {k: torch.zeros_like(v) for k, v in own.items() if k.endswith("attention.temperature")}
    missing = sorted(set(own) - set(state) - set(temperatures))
    unexpected = sorted(set(state) - set(own))
    if missing or unexpected:
        raise CheckpointError(
            f"the checkpoint does not fit the network: it lacks {missing[:6]} ({len(missing)}) and has besides "
            f"{unexpected[:6]} ({len(unexpected)}); is it the same preset, with the same num_classes?"
        )
    fitted = {}
    for key, value in state.items():
        target = own[key]
        if value.shape != target.shape and (value.numel() != target.numel() or _squeeze(value) != _squeeze(target)):
            raise CheckpointError(
                f"'{key}' has shape {tuple(value.shape)} in the checkpoint, {tuple(target.shape)} here"
            )
        fitted[key] = value.reshape(target.shape)
    model.load_state_dict(fitted | temperatures)
    return model


def _squeeze(value: Tensor) -> list[int]:
    return [size for size in value.shape if size != 1]
