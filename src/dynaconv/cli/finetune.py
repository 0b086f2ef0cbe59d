"""`dynaconv finetune`: from a trained network, converted as it is, to a fine-tuned one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynaconv.cli.options import (
    expand_method,
    expand_short,
    make_parser,
    short_help,
)
from dynaconv.cli.running import NAMES, RunFlow, classifier_end, run_folder, start_run
from dynaconv.cli.train import DATA_HELP, GROUPS, add_recipe_flags
from dynaconv.training.config import AugmentConfig, OptimizerConfig, Recipe, ScheduleConfig, TuneConfig

DESCRIPTION = """Start from a trained network: convert it without changing what it computes, and fine-tune it.

Says what the trained network reaches on the validation images, what the converted one reaches before any training
(budgets below 1 are an approximation, fitted to some batches of the data), and then every epoch. The trained network is
the teacher where its classes are the data's; with other classes the classifier starts afresh. Without --method the
network stays as it is. Writes what `dynaconv train` writes, to runs/NAME/TIME; `dynaconv train --resume` continues."""

EXAMPLES = """
dynaconv finetune runs/resnet18/TIME/best --method.budget 0.5 --data mnist5k --epochs 5
dynaconv finetune timm --model resnet50 --method.params 0.6 --data folder:/data/flowers --epochs 10
dynaconv finetune weights.safetensors --model tf_efficientnet_lite0 --method odconv --data folder:/data/flowers
dynaconv finetune runs/resnet18/TIME/best --method.budget 2 --data mnist5k --tune.distill 0 --tune.freeze_epochs 1
"""

USUAL = Recipe(
    model="resnet18",
    augment=AugmentConfig(crop_scale=(0.5, 1.0)),
    optimizer=OptimizerConfig(lr=1e-3),
    schedule=ScheduleConfig(epochs=10, warmup_epochs=0.5, temperature_epochs=0),
    tune=TuneConfig(source=""),
)
"""Defaults: a short schedule and gentle cropping. Temperature is at its end: a trained start is exact there."""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser("finetune", f"{DESCRIPTION}\n\n{short_help()}", EXAMPLES, "SOURCE [options]", NAMES)
    flags.add_argument(
        "source",
        type=str,
        help="the trained network: runs/NAME/TIME/best, a file of weights of --model, or timm to download its own",
    )
    model_help = "the timm backbone of a file of weights, or of timm's; a checkpoint knows its own"
    add_recipe_flags(flags, USUAL, GROUPS, model_help, DATA_HELP)
    flags.add_class_arguments(TuneConfig, "tune", default=asdict(TuneConfig(source="")))
    return flags


def run(arguments: Sequence[str]) -> None:
    """Fine-tune, and say what each step did."""
    values = parser().parse_args(expand_method(expand_short(arguments, NAMES))).as_dict()
    source, out, name, run_id, auto = (values.pop(key) for key in ("source", "out", "name", "run_id", "auto_resume"))
    values.pop("config")
    values.pop("__default_config__", None)
    from dynaconv.training.runs.classification import CLASSIFICATION

    recipe = Recipe.from_dict({**values, "tune": {**values["tune"], "source": source}})
    method = "as it is" if recipe.method is None else recipe.method.get("method", "kernel_warehouse")
    given = Path(source)
    usual = given.parent.parent.name if given.stem in ("best", "last") else given.stem
    folder = run_folder(out, name or f"{usual or recipe.model}-finetuned", run_id, auto)
    beginning = f"fine-tuning {source} ({method}) on {recipe.data}; everything goes to {folder}"
    flow = RunFlow("train", classifier_end, before=lambda summary: print(start_lines(summary), flush=True))
    start_run(recipe, folder, auto, CLASSIFICATION, beginning, flow)


def start_lines(summary: Mapping[str, Any]) -> str:
    """What a trained network was, and what is left of it, in two lines.

    Args:
        summary: figures of :func:`dynaconv.training.engine.tuning.start_from`.
    """
    before, after = summary["parameters_before"], summary["parameters"]
    known = summary["source_top1"]
    judged = "other classes than the data's" if known is None else f"val {known:.2%}"
    lines = [f"trained network:     {before:>12,} parameters  {judged}"]
    if "errors" in summary:
        errors = list(summary["errors"].values())
        lost = "exact" if summary["exact"] else f"layers off by {min(errors):.0%} to {max(errors):.0%}"
        judged = "fresh classifier" if known is None else f"val {summary['converted_top1']:.2%}"
        lines.append(f"converted, untuned:  {after:>12,} parameters  {judged}  ({after / before - 1:+.1%}; {lost})")
    if summary["teacher"]:
        lines.append("the trained network teaches: half of the loss unless --tune.distill says otherwise")
    return "\n".join(lines)
