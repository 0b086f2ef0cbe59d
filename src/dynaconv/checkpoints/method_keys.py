"""Key names of the other methods' public code: ODConv, DY-Conv (kaijieshi7), CondConv (timm), DCD."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dynaconv.checkpoints.backbones import backbone_renamer
from dynaconv.errors import CheckpointError
from dynaconv.nn import DynamicLayer

# Inside a layer: pattern of the public name -> name here. What matches none keeps its name.
LAYER_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "odconv": (
        (r"weight$", "kernel"),
        (r"attention\.bn\.", "attention.norm."),
        (r"attention\.(\w+)_fc\.", r"attention.heads.\1."),
    ),
    "dyconv": ((r"weight$", "kernel"),),
    "condconv": ((r"(conv\.)?weight$", "kernel"), (r"conv\.bias$", "bias"), (r"routing\.", "attention.")),
    "dcd": (
        (r"(conv|cls)\.weight$", "kernel"),
        (r"(conv|cls)\.bias$", "bias"),
        (r"(conv_|cls_)?q\.", "residual.reduce."),
        (r"(conv_|cls_)?p\.", "residual.expand."),
        (r"bn([12])\.", r"residual.norm\1."),
        (r"fc\.0\.", "attention.squeeze."),
        (r"fc\.1\.fc\.0\.", "attention.gate."),
        (r"fc_(phi|scale)\.", r"attention.\1."),
    ),
}
# Outside of layers, per method.
NETWORK_RULES: dict[str, tuple[tuple[str, str], ...]] = {
    "dcd": ((r"classifier\.\d\.", "fc."),),
}


def translate_method_keys(model: nn.Module, method: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a public state dict the names that they have in ``model``.

    Args:
        model: a network, or a layer alone, of one method.
        method: its name.
        state: state dict in the public key names.

    Raises:
        CheckpointError: if two keys come to the same name.
    """
    rename = backbone_renamer(model)
    layers = [name for name, module in model.named_modules() if isinstance(module, DynamicLayer)]
    prefixes = [f"{name}." if name else "" for name in layers]
    translated: dict[str, Tensor] = {}
    static: dict[str, Tensor] = {}
    parts: set[str] = set()
    for key, value in state.items():
        plain = rename(key.removeprefix("module."))
        static[plain] = value
        plain = _routing_of_block(_apply(NETWORK_RULES.get(method, ()), plain), layers)
        home = next((prefix for prefix in prefixes if plain.startswith(prefix)), None)
        if home is not None:
            part = _apply(LAYER_RULES.get(method, ()), plain.removeprefix(home))
            parts.add(part)
            plain = home + part
        if plain in translated:
            raise CheckpointError(f"two keys of the checkpoint, one of them '{key}', both mean '{plain}' here")
        translated[plain] = value
    return translated if parts - {"kernel", "bias"} else static  # a static network's: its kernels are no experts


def _routing_of_block(key: str, layers: Sequence[str]) -> str:
    """Timm's CondConv blocks own their routing; here their first dynamic layer does."""
    block, mark, rest = key.rpartition(".routing_fn.")
    first = next((name for name in layers if mark and name.startswith(f"{block}.")), None)
    return key if first is None else f"{first}.attention.{rest}"


def _apply(rules: tuple[tuple[str, str], ...], key: str) -> str:
    for pattern, new in rules:
        changed, count = re.subn(rf"^{pattern}", new, key)
        if count:
            return changed
    return key
