"""`dynaconv scale`: what a training step costs on one GPU and on many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from dynaconv.cli.json_text import json_text
from dynaconv.cli.networks import add_network_flags, read_network
from dynaconv.cli.options import expand_method, make_parser
from dynaconv.errors import DynaconvError

EXAMPLES = """
dynaconv scale kw1x_resnet18 --gpus 1 2 4 8 --batch-size 64
dynaconv scale resnet18 --budget 0.5 1 2 4 --batch-size 64 --out budget.png
dynaconv scale resnet50 --method odconv --batch-size 32 64 128 --ema --gpus 1 8 64
dynaconv scale resnet18 --optimizer sgd --image-size 160 --json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "scale",
        "Count memory, multiply-adds and bytes sent in a training step, on one GPU and on many, without running it.\n"
        "What each figure is, by formula: the page docs/scale.md.",
        EXAMPLES,
        "MODEL [options]",
    )
    add_network_flags(flags)
    flags.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8], help="how many, a row each")
    flags.add_argument("--batch-size", type=int, nargs="+", default=[64], help="images on every GPU")
    flags.add_argument("--budget", type=float, nargs="+", default=None, help="KernelWarehouse's, a network each")
    flags.add_argument("--optimizer", type=str, default="adamw", help="one of timm's factory: adamw, sgd, lamb, ...")
    flags.add_argument("--ema", action="store_true", help="with a moving average of the weights")
    flags.add_argument("--json", action="store_true", help="print all figures as JSON")
    flags.add_argument("--out", type=str | None, default=None, help="a PNG to draw")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the tables, and draw them."""
    given = [a.removeprefix("--model=") for a in arguments if a != "--model"]  # as `dynaconv train` has it
    values = parser().parse_args(expand_method(given))
    if min(*values.gpus, *values.batch_size, 1) < 1:
        raise DynaconvError(f"--gpus {values.gpus}, --batch-size {values.batch_size}; expected whole numbers above 0")
    from dynaconv.training.estimates.scale import count_case, save_scale_picture, scale_rows, scale_table

    cases = [
        count_case(label, model, size, batch, values.gpus, values.optimizer, values.ema, budget)
        for label, budget, model, size in _networks(values)
        for batch in values.batch_size
    ]
    if values.out is not None:
        save_scale_picture(cases, values.out)
    print(json_text(scale_rows(cases)) if values.json else scale_table(cases))


def _networks(values: Any) -> Iterator[tuple[str, float | None, Any, tuple[int, int, int]]]:
    """Label, budget, network and size of an image of every network that is asked for."""
    import dynaconv

    for budget in values.budget or [None]:
        network = read_network(values)
        config, label = network.config, values.model
        if budget is not None:
            config = config or dynaconv.KernelWarehouseConfig()
            if not isinstance(config, dynaconv.KernelWarehouseConfig):
                raise DynaconvError(f"--budget is KernelWarehouse's; {label} is converted to {config.method}")
            config, label = replace(config, budget=budget, params=None), f"{label} b={budget:g}"
        model = network.model
        if config is not None:
            model = dynaconv.convert(model, config, network.where)
        yield label, budget, model, network.input_size
