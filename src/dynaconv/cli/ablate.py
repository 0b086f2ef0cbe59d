"""`dynaconv ablate`: the KernelWarehouse paper's ablations on any data, shown while they run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.cli.compare import SHORTER
from dynaconv.cli.options import epoch_line, expand_short, make_parser, on_terminal, quiet_logs
from dynaconv.cli.train import GROUPS
from dynaconv.errors import DynaconvError
from dynaconv.training.config import Recipe

DESCRIPTION = "ablate"
EXAMPLES = ""
DEFAULTS = {
    "data": "mnist5k",
    "optimizer.lr": 4e-3,
    "schedule.epochs": 6,
    "schedule.temperature_epochs": 2,
}


def parser() -> Any:
    flags = make_parser("ablate", DESCRIPTION, EXAMPLES, "TABLE [options]")
    flags.add_argument("table", type=str)
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each network is trained with each")
    flags.add_argument("--out", type=str | None, default=None, help="folder of runs and results")
    flags.add_argument("--from", type=str | None, default=None)
    flags.add_argument("--recipe", action="config", help="a recipe as YAML; flags after it override it")
    flags.add_argument("--model", type=str | None, default=None)
    flags.add_argument("--where", type=str | list[str] | None, default=None)
    flags.add_argument("--backbone", type=dict[str, Any], default={})
    flags.add_argument("--data", type=str, default=Recipe.data)
    flags.add_argument("--method", type=dict[str, Any] | None, default=None)
    for name, group in GROUPS.items():
        flags.add_class_arguments(group, name)
    flags.set_defaults(DEFAULTS)
    return flags


def run(arguments: Sequence[str]) -> None:
    values = parser().parse_args(expand_short(arguments, SHORTER)).as_dict()
    for key in ("recipe", "__default_config__"):
        values.pop(key, None)
    table, seeds, out, earlier = (values.pop(key) for key in ("table", "seeds", "out", "from"))
    model, where, arguments_of, fields = (values.pop(key) for key in ("model", "where", "backbone", "method"))
    from dynaconv.training.ablation.tables import find_tables
    from dynaconv.training.ablation.variants import NARROW, Backbone, contenders_of
    from dynaconv.training.comparison.compare import run_compare

    quiet_logs()
    tables = find_tables(table)
    arguments_of = arguments_of or (dict(NARROW) if model is None else {})
    contenders = contenders_of(
        tables, Backbone(model=model, where=where, arguments=arguments_of, fields=fields or {})
    )
    recipe = Recipe.from_dict(values)
    from dynaconv.cli.compare import _note, _show, _start

    _show(run_compare(contenders, seeds, recipe, Path(out), rounds=0, start=_start, note=_note))
