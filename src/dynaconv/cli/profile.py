"""`dynaconv profile`: what a network costs, module by module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynaconv.cli.options import expand_method, make_parser, method_help

EXAMPLES = """
dynaconv profile od4x_resnet18
dynaconv profile od4x_resnet50 --backbone.v1_stride true          # the paper's ResNet50: stride in the 1x1
dynaconv profile resnet18 --method dyconv --by-layer
dynaconv profile kw1x_mobilenetv2_100 --image-size 192 --batch-size 8 --json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "profile",
        "Count parameters, multiply-adds (convolution, mixing, attention) and memory of a network, without running it.",
        EXAMPLES,
        "MODEL [options]",
    )
    flags.add_argument("model", type=str, help="a preset (dynaconv models) or a timm backbone")
    flags.add_argument("--image-size", type=int, default=224, help="side of a square image, in pixels")
    flags.add_argument("--batch-size", type=int, default=1, help="images; counts are of the whole batch")
    flags.add_argument("--by-layer", action="store_true", help="a row a layer, not a row a stage")
    flags.add_argument("--json", action="store_true", help="print totals and rows as JSON")
    flags.add_argument("--method", type=dict[str, Any] | None, default=None, help=method_help().replace("%", "%%"))
    flags.add_argument("--where", type=str | list[str] | None, default=None, help="patterns of the layers to convert")
    flags.add_argument(
        "--backbone", type=dict[str, Any], default={}, help="arguments of the backbone: --backbone.KEY VALUE"
    )
    flags.add_argument("--num_classes", type=int, default=1000, help="outputs of the classifier")
    flags.add_argument("--in_chans", type=int, default=3, help="channels of the images")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table."""
    values = parser().parse_args(expand_method(arguments))
    import torch

    import dynaconv

    config = None if values.method is None else dynaconv.config_from_dict(values.method)
    with torch.device("meta"):
        model = dynaconv.create_model(
            values.model,
            config=config,
            where=values.where,
            num_classes=values.num_classes,
            in_chans=values.in_chans,
            **values.backbone,
        )
    size = (values.in_chans, values.image_size, values.image_size)
    profile = dynaconv.profile(model, size, values.batch_size)
    if values.json:
        totals = {key: getattr(profile, key) for key in TOTALS}
        print(json.dumps({"model": values.model, **totals, "modules": [asdict(row) for row in profile.rows]}, indent=2))
        return
    print(profile.table(values.by_layer))


TOTALS = (
    "input_size",
    "batch_size",
    "parameters",
    "madds",
    "convolution",
    "mixing",
    "attention",
    "executed_madds",
    "activation_bytes",
    "kernel_bytes",
)
