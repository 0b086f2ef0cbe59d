"""`dynaconv compare`: the comparison of :mod:`dynaconv.training.comparison.compare`, shown while it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynaconv.cli.options import (
    SHORT,
    duration,
    epoch_line,
    expand_short,
    format_table,
    make_parser,
    on_terminal,
    quiet_logs,
    take_recipe,
)
from dynaconv.cli.train import GROUPS
from dynaconv.errors import DynaconvError
from dynaconv.training.config import Recipe

DESCRIPTION = """Train several networks on the same data and recipe with several seeds, then measure the seconds of a
training step and of inference (all in turn, in one process) and the peak memory (each in a process of its own).

Writes to --out: a run's folder for every network and seed, and at the end results-TIME.json, .md and .png, never over
earlier ones. Call it again to go on after an interruption; finished runs are not repeated. To use several cores or
devices, start the same command several times: the processes share the runs."""

EXAMPLES = """
dynaconv compare --data mnist5k --model resnet18 --backbone.channels '[16,32,64,128]' --epochs 8
dynaconv compare --methods static odconv odconv:num_kernels=2,reduction=0.125 kernel_warehouse:budget=0.5 --seeds 0 1
dynaconv compare --methods static kernel_warehouse:params=1.0 kernel_warehouse:params=0.5 --data mnist5k
dynaconv compare --contenders contenders.yaml --recipe runs/NAME/TIME/config.yaml --out compare/mine
dynaconv compare --from compare/mine             # table and picture again, without training
dynaconv compare --from compare/mine --rounds 50 # and measured anew

contenders.yaml is a list:
  - {label: static}
  - {label: half, method: {method: kernel_warehouse, budget: 0.5}, where: "layer4.*"}
  - {label: KW 1x as in the paper, model: kw1x_resnet18}
"""

MODEL = "resnet18"
SHORTER = {short: full for short, full in SHORT.items() if short != "--seed"}


def parser() -> Any:
    """Flags of the command: who, how often, and the fields of a recipe."""
    short = ", ".join(f"{name} = {full}" for name, full in SHORTER.items())
    flags = make_parser("compare", f"{DESCRIPTION}\n\nshort for common flags: {short}", EXAMPLES, short=SHORTER)
    flags.add_argument(
        "--out", type=str | None, default=None, help="folder of runs and results, compare/MODEL-DATA if not given"
    )
    flags.add_argument(
        "--from", type=str | None, default=None, help="folder of an earlier comparison; only --rounds is heeded"
    )
    flags.add_argument("--rounds", type=int | None, default=None, help="how often each is timed; 20 if not given")
    flags.add_argument("--no-timing", action="store_true", help="measure neither time nor memory")
    add_contender_flags(flags, "all there are if not given. The first is what the others are related to")
    return flags


def add_contender_flags(flags: Any, usual: str) -> None:
    """Add who takes part, the seeds, and the fields of a recipe.

    Args:
        flags: the parser.
        usual: who takes part if nobody is named.
    """
    flags.add_argument(
        "--methods",
        type=str,
        nargs="+",
        default=None,
        help=f"static, or a method, with fields as METHOD:FIELD=VALUE,...; {usual}",
    )
    flags.add_argument(
        "--contenders", type=str | None, default=None, help="a YAML list of networks, instead of methods"
    )
    flags.add_argument("--where", type=str | list[str] | None, default=None, help="layers to convert, of --methods")
    add_shared_flags(flags, MODEL, "a timm backbone", "not used: give --methods")


def add_shared_flags(flags: Any, model: str | None, model_help: str, method_help: str) -> None:
    """Add the seeds, and the fields of a recipe that all networks share.

    Args:
        flags: the parser.
        model: the default.
        model_help: what a model may be.
        method_help: what `--method` is for.
    """
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="each network is trained with each")
    flags.add_argument(
        "--recipe",
        action="config",
        help="a recipe as YAML, or a name of `dynaconv recipes`; flags after it override it",
    )
    flags.add_argument("--model", type=str | None, default=model, help=model_help)
    flags.add_argument(
        "--backbone", type=dict[str, Any], default={}, help="arguments of the backbone: --backbone.KEY VALUE"
    )
    flags.add_argument(
        "--data", type=str, default=Recipe.data, help="digits, mnist5k, scenes, folder:PATH, wds:PATH, or timm:NAME"
    )
    flags.add_argument("--method", type=dict[str, Any] | None, default=None, help=method_help)
    for name, group in GROUPS.items():
        flags.add_class_arguments(group, name)


def read_contender_flags(values: dict[str, Any], usual: Sequence[str]) -> tuple[list[Any], list[int], Recipe]:
    """Contenders, seeds and the recipe that all share, from the flags of :func:`add_contender_flags`.

    Args:
        values: the flags' values; emptied.
        usual: methods, if none are given.

    Raises:
        DynaconvError: if flags contradict each other, or a method or a field is not known.
    """
    from dynaconv.training.comparison.contenders import contender_of, read_contenders

    for key in ("recipe", "__default_config__"):
        values.pop(key, None)
    methods, listed, seeds = (values.pop(key) for key in ("methods", "contenders", "seeds"))
    if values["method"] is not None or values["run"]["seed"] != 0:
        raise DynaconvError("a comparison takes --methods and --seeds, not --method or --run.seed; drop them")
    if listed is not None and methods is not None:
        raise DynaconvError("--methods and --contenders are both given; expected one of them")
    recipe = Recipe.from_dict(values)
    if listed is not None:
        return read_contenders(listed, recipe.model, recipe.backbone), seeds, recipe
    texts = usual if methods is None else methods
    made = [contender_of(text, recipe.model, recipe.where, recipe.backbone) for text in texts]
    return made, seeds, recipe


def run(arguments: Sequence[str]) -> None:
    """Compare, and print the table."""
    values = parser().parse_args(named_recipes(expand_short(arguments, SHORTER))).as_dict()
    out, earlier, rounds, no_timing = (values.pop(key) for key in ("out", "from", "rounds", "no_timing"))
    if rounds is not None and (rounds < 1 or no_timing):
        raise DynaconvError(f"--rounds {rounds}: expected at least 1, and no --no-timing beside it")
    from dynaconv.training.comparison.compare import ROUNDS, results_of, run_compare
    from dynaconv.training.comparison.contenders import every_method

    quiet_logs()
    if earlier is not None:
        _show(results_of(earlier, rounds=rounds or 0, note=_note))
        return
    contenders, seeds, recipe = read_contender_flags(values, every_method())
    folder = Path(out or "compare/" + re.sub(r"[^\w.-]+", "-", f"{recipe.model}-{recipe.data}"))
    print(f"{len(contenders)} networks, {len(seeds)} seeds on {recipe.data}; everything goes to {folder}", flush=True)
    with watch(recipe.schedule.epochs) as told:
        result = run_compare(
            contenders,
            seeds,
            recipe,
            folder,
            rounds=0 if no_timing else rounds or ROUNDS,
            start=told.start,
            report=told.report,
            note=told.note,
            progress_bar=told.progress_bar,
        )
    _show(result)


@contextmanager
def watch(epochs: int | None) -> Iterator[Any]:
    """What shows on the terminal how runs are trained; after Ctrl-C, or a signal to stop, it says how to go on.

    Args:
        epochs: of every run; None where runs differ.
    """
    from dynaconv.training.comparison.work import Watcher
    from dynaconv.training.runs.guarding import RunStopped

    report = epoch_line(epochs, "  ")
    try:
        yield Watcher(start=_start, report=report, note=_note, progress_bar=on_terminal())
    except (KeyboardInterrupt, RunStopped):
        print("\nto go on: the same command again; what has finished is kept")
        raise


def named_recipes(arguments: Sequence[str]) -> list[str]:
    """Put a paper's recipe in the place of its name, on the static backbone of its network."""
    rest, name = take_recipe(arguments)
    if name is None or Path(name).is_file():
        return list(arguments)
    from dynaconv.training.recipes import find_recipe, preset_of

    fields, paper = find_recipe(name)
    preset = preset_of(paper.model) if paper is not None else None
    backbone = {} if preset is None else {"model": preset.backbone}
    return ["--recipe", json.dumps({**fields, **backbone}), *rest]


def _start(run: Any) -> None:
    left = "" if run.seconds_left is None else f"  (about {duration(run.seconds_left)} left)"
    again = ", goes on from its last checkpoint" if run.resumed else ""
    print(f"\n[{run.number}/{run.total}] {run.label}, seed {run.seed}{again}{left}", flush=True)


def _note(text: str) -> None:
    print(text, flush=True)


def _show(result: Any) -> None:
    from dynaconv.training.comparison.table import HEADER, notes, table_rows

    print(f"\n{format_table(HEADER, table_rows(result.values))}\n")
    for line in notes(result.values):
        print(line)
    print(f"\nresults: {result.json}, {result.markdown.name}{f', {result.picture.name}' if result.picture else ''}")
    if result.failed:
        texts = "; ".join(f"{label}: {errors[0]}" for label, errors in result.failed.items())
        raise DynaconvError(f"{len(result.failed)} failed ({texts}); the others' results stand. Call it again to retry")
