"""`dynaconv plan`: the table of a conversion, without converting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.networks import add_network_flags, read_network
from dynaconv.cli.options import expand_method, make_parser
from dynaconv.errors import DynaconvError

EXAMPLES = """
dynaconv plan kw1d2x_resnet18
dynaconv plan resnet18 --method.budget 0.5
dynaconv plan resnet18 --method.params 4M                    # the whole network, branches included; or 0.6 of it
dynaconv plan mobilenetv2_100 --method odconv --method.num_kernels 4
dynaconv plan convnext_tiny --method.norm layer --where 'stages.*'
dynaconv plan efficientnet_b0 --config kernel_warehouse.yaml    # a file with 'method: {budget: 0.5}'
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "plan",
        "Show what a conversion would do: which layers, who shares what, parameters and multiply-adds.",
        EXAMPLES,
        "MODEL [options]",
    )
    add_network_flags(flags)
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the plan, and what it does to the multiply-adds."""
    network = read_network(parser().parse_args(expand_method(arguments)))
    import dynaconv

    config = dynaconv.KernelWarehouseConfig() if network.config is None else network.config
    plan = dynaconv.plan(network.model, config, network.where)
    print(plan)
    try:
        before = dynaconv.profile(network.model, network.input_size)
        after = dynaconv.profile(dynaconv.convert(network.model, plan), network.input_size)
    except DynaconvError as error:
        print(f"multiply-adds:     not counted: {error}")
        return
    size = "x".join(map(str, network.input_size[1:]))
    print(
        f"multiply-adds:     {before.madds:,} before, {after.madds:,} after ({after.madds / before.madds - 1:+.1%}; "
        f"one image of {size}; mixing {after.mixing:,}, attention {after.attention:,})"
    )
