"""Small networks of every registered method, whose step on several processes is compared with one process's."""

from __future__ import annotations

import dataclasses
from typing import Any

import timm
import torch
from torch import Tensor, nn

import dynaconv
from dynaconv.convert import config_types
from tests.nn.cases import METHODS, animate

BATCH, SIZE, CLASSES, WORLD = 8, 32, 5, 2
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "kernel_warehouse": ({"budget": 1}, {"budget": 0.5}, {"budget": 4}, {"budget": 2, "norm": "layer"})
}
"""More than one config of a method."""


def network_names() -> list[str]:
    """``static``, and ``METHOD VARIANT PROGRESS``: progress is that of the temperature's schedule."""
    names = ["static"]
    for method in config_types():
        for variant in range(len(VARIANTS.get(method, ({},)))):
            has_temperature = make_config(method, variant).temperature(0) is not None
            whole = (0.0, 0.3, 1.0) if variant == 0 else (0.3,)
            names += [f"{method} {variant} {progress}" for progress in (whole if has_temperature else (0.0,))]
    return names


def sharded_names() -> list[str]:
    """Of each config one network, in the middle of its schedule if it has one."""
    return [name for name in network_names() if not name.endswith((" 0.0", " 1.0")) or _timeless(name)]


def _timeless(name: str) -> bool:
    method, variant, _ = name.split()
    return make_config(method, int(variant)).temperature(0) is None


def make_config(method: str, variant: int) -> Any:
    """The method's config: that of its contract test, small enough for thin layers."""
    fields = dict(METHODS[method][0].fields) | VARIANTS.get(method, ({},))[variant]
    config = config_types()[method](**fields)
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **({"channels_above": 0} if "channels_above" in known else {}))


def make_network(name: str) -> nn.Module:
    """A thin ResNet of four blocks in float64 without a zero in sight, always the same for a name."""
    torch.manual_seed(1)
    thin = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8}
    model = timm.create_model("resnet18", num_classes=CLASSES, **thin)
    if name != "static":
        method, variant, progress = name.split()
        dynaconv.convert(model, make_config(method, int(variant)))
        dynaconv.schedule_temperature(model, float(progress))
    return animate(model.double()).train()


def joint_batch() -> tuple[Tensor, Tensor]:
    """What all processes see together."""
    draw = torch.Generator().manual_seed(2)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=draw, dtype=torch.float64)
    return images, torch.randint(CLASSES, (BATCH,), generator=draw)


def step(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Loss, gradients, and parameters and buffers after a step of SGD; DistributedDataParallel or plain."""
    plain = model.module if hasattr(model, "module") else model
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    found = {"loss": loss.detach()}
    found |= {f"gradient of {name}": p.grad for name, p in plain.named_parameters() if p.grad is not None}
    optimizer.step()
    return {key: value.clone() for key, value in (found | plain.state_dict()).items()}
