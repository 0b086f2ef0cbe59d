"""`dynaconv profile`: what a network costs, module by module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dynaconv.cli.json_text import json_text
from dynaconv.cli.networks import add_network_flags, read_network
from dynaconv.cli.options import expand_method, make_parser

EXAMPLES = """
dynaconv profile od4x_resnet18
dynaconv profile od4x_resnet50 --backbone.v1_stride true          # the paper's ResNet50: stride in the 1x1
dynaconv profile resnet18 --method dyconv --by-layer
dynaconv profile resnet18 --method.params 0.6                      # KernelWarehouse, at 0.6 of the parameters
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
    add_network_flags(flags)
    flags.add_argument("--batch-size", type=int, default=1, help="images; counts are of the whole batch")
    flags.add_argument("--by-layer", action="store_true", help="a row a layer, not a row a stage")
    flags.add_argument("--json", action="store_true", help="print totals and rows as JSON")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table."""
    values = parser().parse_args(expand_method(arguments))
    network = read_network(values)
    import dynaconv

    model = network.model
    if network.config is not None:
        model = dynaconv.convert(model, network.config, network.where)
    profile = dynaconv.profile(model, network.input_size, values.batch_size)
    if values.json:
        totals = {key: getattr(profile, key) for key in TOTALS}
        print(json_text({"model": values.model, **totals, "modules": [asdict(row) for row in profile.rows]}))
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
