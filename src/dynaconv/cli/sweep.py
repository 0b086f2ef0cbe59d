"""`dynaconv sweep`: a grid of methods, recipes and seeds, trained here, by processes, or on a cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.cli.compare import SHORTER, add_contender_flags, named_recipes, read_contender_flags, watch
from dynaconv.cli.options import expand_short, format_table, make_parser, quiet_logs
from dynaconv.errors import DynaconvError

DESCRIPTION = """Train every method with every combination of a grid's values and every seed.

Writes to --out: a folder for every run, and results.jsonl, a line for every finished run. Call it again to go on after
an interruption: finished runs are not repeated, failed ones are tried again. Several calls may share a folder."""

EXAMPLES = """
dynaconv sweep --methods static odconv --grid optimizer.lr=1e-3,4e-3 schedule.epochs=5,10 --data mnist5k --seeds 0 1
dynaconv sweep --methods kernel_warehouse --grid optimizer.lr=1e-3,2e-3,4e-3 --jobs 2          # two at a time
dynaconv sweep --contenders contenders.yaml --grid augment.mixup=0,0.2 --out sweep/mixup
dynaconv sweep --grid optimizer.lr=1e-3,4e-3 --launcher slurm --jobs 8 --slurm.partition gpu --slurm.time 60
dynaconv sweep --launcher ray --jobs 4 --grid optimizer.lr=1e-3,4e-3
dynaconv sweep --from sweep/mixup                # table and results.jsonl again, without training
"""


def add_launch_flags(flags: Any) -> None:
    """Add by which jobs runs are trained."""
    flags.add_argument("--jobs", type=int, default=1, help="how many runs are trained at once; 1 is in this process")
    flags.add_argument(
        "--launcher", type=str, default="local", help="local: processes here; slurm: jobs of SLURM; ray: tasks of Ray"
    )
    flags.add_argument(
        "--slurm",
        type=dict[str, Any],
        default={},
        help="SLURM's parameters: --slurm.partition gpu --slurm.time 60 (minutes) --slurm.gpus_per_node 1 --slurm.mem "
        "16GB, or any other of submitit's SlurmExecutor",
    )


def parser() -> Any:
    """Flags of the command: who, on which grid, how often, by whom, and the fields of a recipe."""
    short = ", ".join(f"{name} = {full}" for name, full in SHORTER.items())
    flags = make_parser("sweep", f"{DESCRIPTION}\n\nshort for common flags: {short}", EXAMPLES, short=SHORTER)
    flags.add_argument(
        "--grid",
        type=str,
        nargs="+",
        default=[],
        help="a recipe's field with its values, as optimizer.lr=1e-3,4e-3; several for all combinations",
    )
    add_launch_flags(flags)
    flags.add_argument(
        "--out", type=str | None, default=None, help="folder of runs and results; sweep/MODEL-DATA if none"
    )
    flags.add_argument(
        "--from", type=str | None, default=None, help="folder of an earlier sweep; nothing else is heeded"
    )
    add_contender_flags(flags, "kernel_warehouse if not given")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Sweep, and print the table."""
    given = _join_grids(named_recipes(expand_short(arguments, SHORTER)))
    values = parser().parse_args(given).as_dict()
    grid, jobs, launcher, slurm, out, earlier = (
        values.pop(key) for key in ("grid", "jobs", "launcher", "slurm", "out", "from")
    )
    from dynaconv.training.comparison.launch import Launch
    from dynaconv.training.sweep.grid import cross, parse_grid
    from dynaconv.training.sweep.sweep import run_sweep, sweep_of

    quiet_logs()
    if earlier is not None:
        _show(sweep_of(earlier))
        return
    launch = Launch(launcher=launcher, jobs=jobs, slurm=slurm)
    contenders, seeds, recipe = read_contender_flags(values, ["kernel_warehouse"])
    values_of = parse_grid(grid)
    contenders = cross(contenders, values_of, recipe)
    folder = Path(out or "sweep/" + re.sub(r"[^\w.-]+", "-", f"{recipe.model}-{recipe.data}"))
    print(f"{len(contenders)} networks, {len(seeds)} seeds; everything goes to {folder}", flush=True)
    with watch(None if "schedule.epochs" in values_of else recipe.schedule.epochs) as watcher:
        result = run_sweep(contenders, seeds, recipe, folder, launch=launch, watcher=watcher)
    _show(result)


def _join_grids(arguments: Sequence[str]) -> list[str]:
    """Let ``--grid A --grid B`` be ``--grid A B``."""
    grids: list[str] = []
    rest: list[str] = []
    taking = False
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag == "--grid":
            taking = not equals
            grids += [value] if equals else []
        elif taking and not argument.startswith("--"):
            grids.append(argument)
        else:
            taking = False
            rest.append(argument)
    return [*rest, "--grid", *grids] if grids else rest


def _show(result: Any) -> None:
    from dynaconv.training.sweep.sweep import HEADER, sweep_rows

    seeds = result.comparison.seeds
    print(f"\n{format_table(HEADER, sweep_rows(result))}\n")
    print(
        "Top-1: validation accuracy after the last epoch, mean (lowest – highest) of the finished runs of "
        f"{len(seeds)} seed(s): {', '.join(map(str, seeds))}. The first row was chosen on the images it is judged by."
    )
    print(f"\nresults: {result.lines}")
    if result.failed:
        texts = "; ".join(f"{name}: {error}" for name, error in list(result.failed.items())[:3])
        raise DynaconvError(f"{len(result.failed)} failed ({texts}); the others' results stand. Call it again to retry")
