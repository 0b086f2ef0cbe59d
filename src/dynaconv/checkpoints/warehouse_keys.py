"""Key names of the authors' KernelWarehouse code.

Their networks number warehouses by first appearance; the numbers are the same as here, only names and, for linear
layers, trailing 1s of shapes differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from dynaconv.checkpoints.backbones import backbone_renamer, rename_convnext
from dynaconv.errors import CheckpointError
from dynaconv.nn import Warehouses, dynamic_layers
from dynaconv.nn.kernel_warehouse import WarehouseLayer

_BRANCH = {"norm1": "norm", "fc3.weight": "basis"}


def _rename_branch(key: str) -> str:
    """Their attention branch's names -> ours; their linear layers wrap a convolution."""
    head, mark, tail = key.partition("attention.")
    if not mark:
        return re.sub(r"\.conv\.(bias)$", r".\1", key) if key.endswith(".conv.bias") else key
    for old, new in _BRANCH.items():
        tail = re.sub(rf"^{re.escape(old)}(\.|$)", rf"{new}\1", tail)
    return f"{head.removesuffix('conv.') if head.endswith('.conv.') else head}attention.{tail}"


def _warehouse_order(model: nn.Module, downsampling_first: bool) -> list[str]:
    """Warehouse names in the order in which the authors' network first uses them."""
    layers = [layer.plan for layer in dynamic_layers(model) if isinstance(layer, WarehouseLayer)]
    first = [p for p in layers if downsampling_first and (p.name.startswith("stem.") or ".downsample." in p.name)]
    ordered = first + [p for p in layers if p not in first]
    return list(dict.fromkeys(p.warehouse for p in ordered))


def translate_warehouse_keys(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
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
    rename = backbone_renamer(model)
    order = _warehouse_order(model, downsampling_first=rename is rename_convnext)
    numbered = sorted(k for k in state if re.fullmatch(r"(module\.)?warehouse_manager\.weights\.\d+", k))
    if not numbered and any(k.startswith("warehouses.") for k in state):
        raise CheckpointError("these are this library's own key names; load them with dynaconv.load_weights")
    if numbered and len(numbered) != len(order):
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
