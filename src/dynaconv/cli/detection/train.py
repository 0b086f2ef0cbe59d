"""`dynaconv detect train`: flags or YAML to a recipe of detection, and a recipe to a run's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.cli.options import (
    command_name,
    expand_method,
    expand_short,
    make_parser,
    take_recipe,
)
from dynaconv.cli.running import NAMES, RunFlow, resume_run, run_folder, start_run
from dynaconv.cli.train import add_recipe_flags
from dynaconv.detection.config import CocoLoaderConfig, DetectionAugmentConfig, DetectionRecipe, DetectorConfig
from dynaconv.errors import DynaconvError
from dynaconv.training.config import EmaConfig, OptimizerConfig, RunConfig, ScheduleConfig

FLAGS = {
    **NAMES,
    "--image-size": "--detector.image_size",
    "--weights": "--detector.weights",
    "--detector": "--detector.kind",
}
"""Short and other names of the flags."""

DESCRIPTION = """Train Faster R-CNN or Mask R-CNN on data in COCO's format, and save the best and the last of it.

Writes to runs/NAME/TIME (or --out/NAME/--run-id): config.yaml, metrics.csv, curves.png, tensorboard/,
best (by AP of the boxes) and last (.safetensors and .json), and last.ckpt to resume from."""

EXAMPLES = """
dynaconv detect train --recipe mask_rcnn-kw1x_resnet50 --weights runs/kw1x_resnet50/TIME/best --data /data/coco
dynaconv detect train --model kw1x_resnet18 --detector faster_rcnn --data /data/coco --epochs 12
dynaconv detect train --model resnet18 --method.budget 0.5 --data data/digits --augment.flip 0 --image-size 160
dynaconv detect train --model resnet50 --weights timm --detector.norms eval --detector.freeze_stages 1 --data /data/coco
dynaconv detect train --recipe faster_rcnn-od4x_resnet50-sgd --weights od4x.pth --data /data/coco --devices 8
dynaconv detect train --resume runs/NAME/TIME
dynaconv detect train --model kw1x_resnet50 --data /data/coco --run-id 1 --auto-resume
"""

GROUPS = {
    "detector": DetectorConfig,
    "loader": CocoLoaderConfig,
    "augment": DetectionAugmentConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "ema": EmaConfig,
    "run": RunConfig,
}


def parser() -> Any:
    """Flags of the command: the fields of a recipe, and where to put the run."""
    shown = ", ".join(f"{short} = {full}" for short, full in FLAGS.items() if full.replace("_", "-") != short)
    flags = make_parser("detect train", f"{DESCRIPTION}\n\nshort for common flags: {shown}", EXAMPLES, short=FLAGS)
    data_help = "folder of a data set in COCO's format"
    add_recipe_flags(flags, DetectionRecipe(), GROUPS, "a preset (dynaconv models) or a timm backbone", data_help)
    flags.add_argument(
        "--recipe",
        type=str | None,
        default=None,
        help="a paper's recipe (`dynaconv detect recipes`), or a YAML file; flags override it",
    )
    flags.add_argument(
        "--resume", type=str | None, default=None, help="folder of a run to continue; other flags are ignored"
    )
    return flags


def run(arguments: Sequence[str]) -> None:
    """Train, or continue a run."""
    arguments, named = take_recipe(arguments)
    before = []
    if named is not None and not {"-h", "--help"} & set(arguments):
        from dynaconv.detection.recipes import DETECTORS
        from dynaconv.training.recipes import find_recipe

        before = ["--config", json.dumps(find_recipe(named, DETECTORS)[0])]
    values = parser().parse_args(expand_method(expand_short([*before, *arguments], FLAGS))).as_dict()
    out, name, run_id, auto = (values.pop(key) for key in ("out", "name", "run_id", "auto_resume"))
    folder = values.pop("resume")
    for key in ("config", "recipe", "__default_config__"):
        values.pop(key, None)
    if folder is not None:
        if named is not None:
            raise DynaconvError("--resume goes on with a run's own recipe; drop --recipe")
        from dynaconv.detection.runs import DETECTION

        resume_run(Path(folder), DETECTION, RunFlow("detect train", _end))
        return
    recipe = DetectionRecipe.from_dict(values)
    if not Path(recipe.data).expanduser().is_dir():
        raise DynaconvError(
            f"--data {recipe.data}: there is no such folder; expected a data set in COCO's format, such as "
            f"`{command_name()} detect digits FOLDER` makes"
        )
    from dynaconv.detection.runs import DETECTION

    kind = "Mask R-CNN" if recipe.detector.masks else "Faster R-CNN"
    to = run_folder(out, name or f"{recipe.detector.kind}-{recipe.model}", run_id, auto)
    beginning = f"training {kind} on {recipe.model} with {recipe.data}; everything goes to {to}"
    start_run(recipe, to, auto, DETECTION, beginning, RunFlow("detect train", _end))


def _end(result: Any) -> None:
    best = max((row for row in result.rows if row.get("val_box_ap") is not None), key=lambda row: row["val_box_ap"])
    masks = "" if best.get("val_mask_ap") is None else f", of its masks {best['val_mask_ap']:.1%}"
    command = f"{command_name()} detect"
    print(f"best AP of boxes {best['val_box_ap']:.1%}{masks}, with {result.parameters:,} parameters")
    print(f"saved: {result.best}.safetensors and .json; curves: {result.run_dir / 'curves.png'}")
    print(f"next:  {command} eval {result.best}    {command} predict IMAGE... --checkpoint {result.best}")
