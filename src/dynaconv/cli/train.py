"""`dynaconv train`: flags or YAML to a recipe, and a recipe to a run's folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from dynaconv.cli.options import (
    expand_method,
    expand_short,
    make_parser,
    method_help,
    quiet_logs,
    short_help,
    take_recipe,
)
from dynaconv.cli.running import NAMES, RunFlow, add_folder_flags, classifier_end, resume_run, run_folder, start_run
from dynaconv.errors import DynaconvError
from dynaconv.training.config import (
    AugmentConfig,
    EmaConfig,
    LoaderConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    TuneConfig,
)

DESCRIPTION = """Train a network and save the best and the last of it.

Writes to runs/NAME/TIME (or --out/NAME/--run-id): config.yaml, metrics.csv, curves.png, tensorboard/,
best and last (.safetensors and .json), and last.ckpt to resume from."""

EXAMPLES = """
dynaconv train --model kw1x_resnet18 --data digits --epochs 5
dynaconv train --model resnet18 --method.budget 0.5 --data mnist5k
dynaconv train --model resnet18 --method.params 4M --data folder:/data/imagenet
dynaconv train --model resnet18 --method odconv --method.num_kernels 4 --data mnist5k
dynaconv train --recipe kw1x_resnet18 --data folder:/data/imagenet                  # as its paper; `dynaconv recipes`
dynaconv train --recipe kw2x_resnet18@100 --data folder:/data/imagenet --devices 8   # its other schedule
dynaconv train --recipe kw1x_resnet18 --dry-run                                      # what it would be, without data
dynaconv train --model resnet18 --data digits --backbone.drop_path_rate 0.1 --ema.decay 0.999
dynaconv train --config runs/NAME/TIME/config.yaml --seed 1
dynaconv train --resume runs/NAME/TIME
dynaconv train --model kw1x_resnet18 --data folder:/data/imagenet --run-id 1 --auto-resume
dynaconv train --model kw1x_resnet18 --print_config
"""

GROUPS = {
    "loader": LoaderConfig,
    "augment": AugmentConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "ema": EmaConfig,
    "run": RunConfig,
}


DATA_HELP = "digits, mnist5k, scenes, folder:PATH, wds:PATH, or timm:NAME"


def parser() -> Any:
    """Flags of the command: the fields of a recipe, and where to put the run."""
    flags = make_parser("train", f"{DESCRIPTION}\n\n{short_help()}", EXAMPLES, short=NAMES)
    add_recipe_flags(flags, Recipe(), GROUPS, "a preset (dynaconv models) or a timm backbone", DATA_HELP)
    flags.add_argument("--tune", type=TuneConfig | None, default=None, help="as in `dynaconv finetune`, which sets it")
    flags.add_argument(
        "--recipe",
        type=str | None,
        default=None,
        help="a paper's recipe, NETWORK or NETWORK@EPOCHS (`dynaconv recipes`), or a YAML file; flags override it",
    )
    flags.add_argument(
        "--dry-run",
        type=Literal["full", "short"] | None,
        default=None,
        help="only say what the run would be: plan, optimiser, schedule, steps, memory, time; short leaves out the "
        "plan's layers; with --out also a picture of the schedule",
    )
    flags.add_argument(
        "--resume", type=str | None, default=None, help="folder of a run to continue; other flags are ignored"
    )
    return flags


def add_recipe_flags(flags: Any, usual: Any, groups: Mapping[str, type], model_help: str, data_help: str) -> None:
    """Add the fields of a recipe of any kind of run, and where to put the run.

    Args:
        flags: the parser.
        usual: defaults, a recipe.
        groups: its fields that are dataclasses.
        model_help: what a model may be.
        data_help: what data may be.
    """
    flags.add_argument("--config", action="config", help="a recipe as YAML; flags after it override it")
    flags.add_argument("--model", type=str, default=usual.model, help=model_help)
    flags.add_argument("--method", type=dict[str, Any] | None, default=None, help=method_help().replace("%", "%%"))
    flags.add_argument("--where", type=str | list[str] | None, default=None, help="patterns of the layers to convert")
    flags.add_argument(
        "--backbone", type=dict[str, Any], default={}, help="arguments of the backbone: --backbone.KEY VALUE"
    )
    flags.add_argument("--data", type=str, default=usual.data, help=data_help)
    for name, group in groups.items():
        flags.add_class_arguments(group, name, default=asdict(getattr(usual, name)))
    add_folder_flags(flags)


def run(arguments: Sequence[str]) -> None:
    """Train, continue a run, or say what a run would be."""
    arguments, named = take_recipe(arguments)
    before, paper = [], None
    if named is not None and not {"-h", "--help"} & set(arguments):
        from dynaconv.training.recipes import find_recipe

        fields, paper = find_recipe(named)
        before = ["--config", json.dumps(fields)]
    given = bare_dry_run([*before, *arguments])
    values = parser().parse_args(expand_method(expand_short(given, NAMES))).as_dict()
    out, name, run_id, auto = (values.pop(key) for key in ("out", "name", "run_id", "auto_resume"))
    folder, only_say = (values.pop(key) for key in ("resume", "dry_run"))
    for key in ("config", "recipe", "__default_config__"):
        values.pop(key, None)
    if folder is not None:
        if only_say or named is not None:
            raise DynaconvError("--resume goes on with a run's own recipe; drop --recipe and --dry-run")
        _resume(Path(folder))
        return
    recipe = Recipe.from_dict(values)
    if only_say:
        _dry_run(recipe, paper, only_say == "short", None if out is None else Path(out))
        return
    if paper is not None and recipe.data == paper.values["data"] and not Path(recipe.data.partition(":")[2]).exists():
        raise DynaconvError(
            f"recipe {paper.name} is for {paper.dataset.title}: say where it lies, as --data folder:/path/to/imagenet, "
            "or give other data; --dry-run needs none"
        )
    _fit(recipe, run_folder(out, name or recipe.model, run_id, auto), auto)


def bare_dry_run(arguments: Sequence[str]) -> list[str]:
    """Let ``--dry-run`` stand alone, for ``--dry-run full``."""
    given = list(arguments)
    for index, argument in enumerate(given):
        following = given[index + 1 : index + 2]
        if argument == "--dry-run" and (not following or following[0].startswith("-")):
            given[index] = "--dry-run=full"
    return given


def _fit(recipe: Recipe, folder: Path, auto: bool) -> None:
    from dynaconv.models import list_models
    from dynaconv.training.runs.classification import CLASSIFICATION

    static = " (static: no --method given)" if recipe.method is None and recipe.model not in list_models() else ""
    beginning = f"training {recipe.model}{static} on {recipe.data}; everything goes to {folder}"
    start_run(recipe, folder, auto, CLASSIFICATION, beginning, RunFlow("train", classifier_end))


def _resume(folder: Path) -> None:
    from dynaconv.training.runs.classification import CLASSIFICATION

    resume_run(folder, CLASSIFICATION, RunFlow("train", classifier_end))


def _dry_run(recipe: Recipe, paper: Any, short: bool, out: Path | None) -> None:
    from dynaconv.training.estimates.dry_run import dry_run
    from dynaconv.training.estimates.dry_run_text import describe
    from dynaconv.training.estimates.schedule_picture import BLOCKS, PLAIN, save_course

    quiet_logs()
    found = dry_run(recipe, paper)
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
        blocks = BLOCKS
    except UnicodeEncodeError:
        blocks = PLAIN
    print(describe(found, short=short, blocks=blocks))
    if out is not None:
        title = paper.name if paper is not None else recipe.model
        path, logarithmic = out / f"{title}-schedule.png", recipe.schedule.kind == "step"
        print(f"\npicture of the schedule: {save_course(found.course, title, path, logarithmic)}")
    print("\nA dry run: nothing was trained, and no run's folder was made.")
