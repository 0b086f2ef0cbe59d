"""`dynaconv train`: flags or YAML to a recipe, and a recipe to a run's folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynaconv.cli.options import (
    SHORT,
    command_name,
    epoch_line,
    expand_method,
    expand_short,
    make_parser,
    method_help,
    on_terminal,
    quiet_logs,
    short_help,
)
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
dynaconv train --model kw1x_resnet18 --data folder:/data/imagenet --augment.rand_augment rand-m9-mstd0.5-inc1
dynaconv train --model resnet18 --data digits --backbone.drop_path_rate 0.1 --ema.decay 0.999
dynaconv train --config runs/NAME/TIME/config.yaml --seed 1
dynaconv train --resume runs/NAME/TIME
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


def parser() -> Any:
    """Flags of the command: the fields of a recipe, and where to put the run."""
    flags = make_parser("train", f"{DESCRIPTION}\n\n{short_help()}", EXAMPLES)
    add_recipe_flags(flags, Recipe(), "a preset (dynaconv models) or a timm backbone")
    flags.add_argument("--tune", type=TuneConfig | None, default=None, help="as in `dynaconv finetune`, which sets it")
    flags.add_argument(
        "--resume", type=str | None, default=None, help="folder of a run to continue; other flags are ignored"
    )
    return flags


def add_recipe_flags(flags: Any, usual: Recipe, model_help: str) -> None:
    """Add the fields of a recipe, and where to put the run.

    Args:
        flags: the parser.
        usual: defaults.
        model_help: what a model may be.
    """
    flags.add_argument("--config", action="config", help="a recipe as YAML; flags after it override it")
    flags.add_argument("--model", type=str, default=usual.model, help=model_help)
    flags.add_argument("--method", type=dict[str, Any] | None, default=None, help=method_help().replace("%", "%%"))
    flags.add_argument("--where", type=str | list[str] | None, default=None, help="patterns of the layers to convert")
    flags.add_argument(
        "--backbone", type=dict[str, Any], default={}, help="arguments of the backbone: --backbone.KEY VALUE"
    )
    flags.add_argument(
        "--data", type=str, default=usual.data, help="digits, mnist5k, scenes, folder:PATH, or timm:NAME"
    )
    for name, group in GROUPS.items():
        flags.add_class_arguments(group, name, default=asdict(getattr(usual, name)))
    flags.add_argument("--out", type=str, default="runs", help="folder of all runs")
    flags.add_argument("--name", type=str | None, default=None, help="name of the run, the model's if not given")
    flags.add_argument(
        "--run_id", type=str | None, default=None, help="name of the run's own folder, the time if not given"
    )


def run(arguments: Sequence[str]) -> None:
    """Train, or continue a run."""
    values = parser().parse_args(expand_method(expand_short(arguments, {**SHORT, "--run-id": "--run_id"}))).as_dict()
    out, name, run_id, folder = (values.pop(key) for key in ("out", "name", "run_id", "resume"))
    values.pop("config")
    values.pop("__default_config__", None)
    from dynaconv.models import list_models
    from dynaconv.training._lightning import rank_zero_only
    from dynaconv.training.fitting import CONFIG_FILE, fit, load_recipe, resume
    from dynaconv.training.saving import RESUME_FILE

    say = rank_zero_only(print)  # a run on several devices is several processes

    quiet_logs()
    bar = on_terminal()
    try:
        if folder is not None:
            config = Path(folder) / CONFIG_FILE
            if not config.is_file():
                raise DynaconvError(
                    f"--resume {folder}: there is no {CONFIG_FILE}; expected a run's folder, runs/NAME/TIME"
                )
            result = resume(folder, report=epoch_line(load_recipe(config).schedule.epochs), progress_bar=bar)
        else:
            recipe = Recipe.from_dict(values)
            folder = Path(out) / (name or recipe.model) / (run_id or time.strftime("%Y%m%d-%H%M%S"))
            static = (
                " (static: no --method given)" if recipe.method is None and recipe.model not in list_models() else ""
            )
            say(f"training {recipe.model}{static} on {recipe.data}; everything goes to {folder}", flush=True)
            result = fit(recipe, folder, report=epoch_line(recipe.schedule.epochs), progress_bar=bar)
    except KeyboardInterrupt:
        if folder is not None and (Path(folder) / RESUME_FILE).is_file():
            say(f"\nto continue: {command_name()} train --resume {folder}")
        else:
            say("\nnothing to resume yet: the first checkpoint comes after an epoch, or --run.checkpoint_every steps")
        raise
    say(f"best validation accuracy {result.best_top1:.2%} with {result.parameters:,} parameters")
    say(f"saved: {result.best}.safetensors and .json; curves: {result.run_dir / 'curves.png'}")
    command = command_name()
    say(f"next:  {command} eval {result.best}    {command} predict IMAGE... --checkpoint {result.best}")
