"""`dynaconv ablate`: the KernelWarehouse paper's ablations on any data, beside the paper's figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.cli.compare import SHORTER, add_shared_flags, named_recipes, watch
from dynaconv.cli.options import expand_short, format_table, make_parser, quiet_logs
from dynaconv.cli.sweep import add_launch_flags
from dynaconv.errors import DynaconvError
from dynaconv.training.config import Recipe

DESCRIPTION = """Train the variants of an ablation of the KernelWarehouse paper with several seeds, and say which are
told apart from the paper's choice on these data. TABLE is one of sharing-range, kernel-dims, partition, attention,
init-b1, init-b4, init-b1d2, or all; variants that tables have in common are trained once.

Without --model: the paper's backbone of each table, an eighth as wide. Writes to --out: a folder for every run, and
results-TIME.json, .md and .png with the paper's figures beside. Call it again to go on, or with more seeds."""

EXAMPLES = """
dynaconv ablate attention                              # five networks, three seeds, on mnist5k
dynaconv ablate all --seeds 0 1 2 3 4 --jobs 2
dynaconv ablate init-b1 --data scenes --epochs 20 --method.branch_start 4     # a field of all variants
dynaconv ablate all --model resnet50 --data folder:/data --jobs 9 --launcher slurm
dynaconv ablate all --from ablate/mnist5k              # tables and picture again, without training
"""

DEFAULTS = {"data": "mnist5k", "optimizer.lr": 4e-3, "schedule.epochs": 6, "schedule.temperature_epochs": 2}
"""A recipe on which the narrow networks learn in minutes."""


def parser() -> Any:
    """Flags of the command: which table, how often, by whom, and the fields of a recipe."""
    short = ", ".join(f"{name} = {full}" for name, full in SHORTER.items())
    flags = make_parser(
        "ablate", f"{DESCRIPTION}\n\nshort for common flags: {short}", EXAMPLES, "TABLE [options]", SHORTER
    )
    flags.add_argument("table", type=str, help="an ablation, or all")
    add_launch_flags(flags)
    flags.add_argument(
        "--out", type=str | None, default=None, help="folder of runs and results, ablate/DATA if not given"
    )
    flags.add_argument(
        "--from", type=str | None, default=None, help="folder of an earlier ablation; nothing is trained"
    )
    flags.add_argument(
        "--where", type=str | list[str] | None, default=None, help="layers to convert; the paper's if none"
    )
    add_shared_flags(
        flags,
        None,
        "a timm backbone; the table's own, narrow, if not given",
        "fields of KernelWarehouse's config, changed in all variants: --method.FIELD VALUE",
    )
    flags.set_defaults(DEFAULTS)
    return flags


def run(arguments: Sequence[str]) -> None:
    """Train, judge, and print the tables."""
    values = parser().parse_args(named_recipes(expand_short(arguments, SHORTER))).as_dict()
    for key in ("recipe", "__default_config__"):
        values.pop(key, None)
    table, seeds, out, earlier = (values.pop(key) for key in ("table", "seeds", "out", "from"))
    jobs, launcher, slurm = (values.pop(key) for key in ("jobs", "launcher", "slurm"))
    model, where, arguments_of, fields = (values.pop(key) for key in ("model", "where", "backbone", "method"))
    if values["run"]["seed"] != 0:
        raise DynaconvError("an ablation takes --seeds, not --run.seed; drop it")
    from dynaconv.training.ablation.ablate import ablation_of, run_ablation
    from dynaconv.training.ablation.tables import find_tables
    from dynaconv.training.ablation.variants import NARROW, Backbone
    from dynaconv.training.comparison.launch import Launch

    quiet_logs()
    tables = find_tables(table)
    if earlier is not None:
        _show(ablation_of(tables, earlier))
        return
    narrow = dict(NARROW) if model is None else {}
    backbone = Backbone(model=model, where=where, arguments=arguments_of or narrow, fields=fields or {})
    recipe = Recipe.from_dict(values)
    folder = Path(out or "ablate/" + re.sub(r"[^\w.-]+", "-", recipe.data))
    print(f"{table}, {len(seeds)} seeds on {recipe.data}; everything goes to {folder}", flush=True)
    launch = Launch(launcher=launcher, jobs=jobs, slurm=slurm)
    with watch(recipe.schedule.epochs) as watcher:
        result = run_ablation(tables, backbone, seeds, recipe, folder, launch=launch, watcher=watcher)
    _show(result)


def _show(result: Any) -> None:
    from dynaconv.training.ablation.page import HEADER, heading, notes, sources, table_rows

    for table in result.values["tables"]:
        print(f"\n{heading(table)}\n\n{format_table(HEADER, table_rows(table))}\n")
        for line in sources(table):
            print(line)
    print()
    for line in notes(result.values):
        print(line)
    print(f"\nresults: {result.json}, {result.markdown.name}{f', {result.picture.name}' if result.picture else ''}")
    if result.failed:
        texts = "; ".join(f"{label}: {errors[0]}" for label, errors in result.failed.items())
        raise DynaconvError(f"{len(result.failed)} failed ({texts}); the others' results stand. Call it again to retry")
