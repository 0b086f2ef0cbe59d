"""Names of the authors' backbones, which follow torchvision and ConvNeXt, in timm's words."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn


def rename_mobilenet(key: str) -> str:
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


def rename_convnext(key: str) -> str:
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


def backbone_renamer(model: nn.Module) -> Callable[[str], str]:
    """The translation for a network's family; for ResNets, where names agree, none."""
    names = set(dict(model.named_modules()))
    if "conv_stem" in names and "conv_head" in names:
        return rename_mobilenet
    if any(re.match(r"stages\.\d\.blocks", name) for name in names):
        return rename_convnext
    return lambda key: key
