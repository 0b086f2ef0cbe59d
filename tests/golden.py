"""Read the golden data of ``tests/data/golden`` and rebuild the weights and images that it was made with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

import dynaconv

DATA = Path(__file__).parent / "data" / "golden"
TOLERANCE = 1e-6

_FILES = sorted(path.stem for path in (DATA / "layers").glob("*.safetensors"))
METHOD_LAYERS = [name for name in _FILES if name.startswith(("odconv", "dyconv", "condconv", "dcd"))]
WAREHOUSE_LAYERS = [name for name in _FILES if name not in METHOD_LAYERS]

STATIC = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}


def read_layers(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Spec and tensors of a layer file."""
    with safe_open(DATA / "layers" / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()["spec"]), {key: file.get_tensor(key) for key in file.keys()}


def read_model(name: str) -> dict[str, Any]:
    return json.loads((DATA / "models" / f"{name}.json").read_text())


def _fused(name: str, ranges: list[str]) -> str:
    """A layer's warehouse name with every part that a sharing range begins cut down to that range."""
    parts = []
    for part in name.split("_"):
        hits = [r for r in ranges if part.startswith(r)]
        parts.append(hits[-1] if hits else part)
    return "_".join(parts)


class Chain(nn.Module):
    """Layers applied one after the other."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def build_chain(spec: dict[str, Any]) -> nn.Module:
    """The network that a layer file describes, converted from static layers."""
    layers, sharing = [], {}
    for index, args in enumerate(spec["layers"]):
        if args["layer_type"] == "linear":
            layers.append(nn.Linear(args["in_planes"], args["out_planes"], args["bias"]))
        else:
            keys = ("kernel_size", "stride", "padding", "dilation", "groups", "bias")
            layers.append(
                STATIC[args["layer_type"]](args["in_planes"], args["out_planes"], **{k: args[k] for k in keys})
            )
        sharing[f"layers.{index}"] = _fused(args["warehouse_name"], spec["manager"]["sharing_range"])
    manager = spec["manager"]
    config = dynaconv.KernelWarehouseConfig(
        budget=manager["cell_num_ratio"],
        cell_scale=(manager.get("cell_outplane_ratio", 1.0), manager.get("cell_inplane_ratio", 1.0)),
        partition="full" if manager.get("spatial_partition", True) else "channel",
        sharing=sharing,
        reduction=manager["reduction"],
        nonlocal_basis_ratio=manager.get("nonlocal_basis_ratio", 1.0),
        normaliser="paper",
        norm={"batchnorm": "batch", "layernorm": "layer"}[spec["norm"]],
    )
    return dynaconv.convert(Chain(layers), config, where="*").double().eval()


# The public code's names of arguments -> those here.
_ARGUMENTS = {
    "in_planes": "in_channels",
    "inplanes": "in_channels",
    "out_planes": "out_channels",
    "planes": "out_channels",
    "kernel_num": "num_kernels",
    "K": "num_kernels",
    "ratio": "reduction",
}
# How a method's file begins -> its layer, and what the public code does unless told otherwise.
_LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "odconv2d": (dynaconv.ODConv2d, {"bias": False}),
    "dyconv1d": (dynaconv.DYConv1d, {"branch": "kaijieshi7"}),
    "dyconv2d": (dynaconv.DYConv2d, {"branch": "kaijieshi7"}),
    "dyconv3d": (dynaconv.DYConv3d, {"branch": "kaijieshi7"}),
    "condconv2d": (dynaconv.CondConv2d, {}),
    "dcd": (dynaconv.DCDConv2d, {"bias": False}),
}


def build_layer(name: str, spec: dict[str, Any]) -> nn.Module:
    """The layer that a file of one of the other methods describes."""
    kind, defaults = _LAYERS[name.partition("_")[0]]
    given = spec.get("args", {key: value for key, value in spec.items() if key not in ("layer", "weight_layout")})
    arguments = {_ARGUMENTS.get(key, key): value for key, value in given.items()}
    return kind(**defaults, **arguments).double().eval()


def weights_from_names(keys: dict[str, tuple[list[int], str]]) -> dict[str, Tensor]:
    """Every tensor of a state dict, drawn from a seed that its name gives."""
    return {key: _weight(key, shape, dtype) for key, (shape, dtype) in keys.items()}


def _weight(key: str, shape: list[int], dtype: str) -> Tensor:
    if not dtype.startswith("float"):
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
    count = int(np.prod(shape)) if shape else 1
    normal = np.random.RandomState(seed).standard_normal(count).reshape(shape)
    match key.rpartition(".")[2], len(shape):
        case "running_var", _:
            normal = 1 + 0.1 * np.abs(normal)
        case "running_mean", _:
            normal = 0.1 * normal
        case (("weight" | "gamma"), 0 | 1):
            normal = 1 + 0.1 * normal
        case _, 0 | 1:
            normal = 0.1 * normal
        case "gamma", _:
            normal = 0.5 + 0.1 * normal
        case _:
            normal = normal * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(np.ascontiguousarray(normal))


def _images(count: int, size: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((count, 3, size, size)))


@torch.no_grad()
def calibrated_logits(model: nn.Module, size: int) -> Tensor:
    """Logits of two images, after the backbone's BatchNorm took its statistics from eight others."""
    model.double().eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and "attention" not in name:
            module.momentum = 1.0
            module.train()
    model(_images(8, size, seed=4321))
    return model.eval()(_images(2, size, seed=1234))


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest deviation relative to the largest expected magnitude."""
    return ((value - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()
