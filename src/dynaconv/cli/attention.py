"""`dynaconv attention`: what a saved network attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.json_text import json_text
from dynaconv.cli.options import SHORT, counting, expand_short, make_parser, quiet_logs
from dynaconv.training.config import LoaderConfig

EXAMPLES = """
dynaconv attention runs/kw1x_resnet18/TIME/best
dynaconv attention demo/kw-half/best --data mnist5k --out attention --perturb stages
dynaconv attention runs/NAME/TIME/best --data folder:/data/imagenet --classes n01440764 n02123045 --limit 5000 --svg
dynaconv attention runs/NAME/TIME/best --images cat.jpg dog.jpg --device cuda --json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "attention",
        "Collect what the layers of a saved network attend to on validation images: average attention of every\n"
        "mixture with the assignment marked, by class and for two images, negative and positive weights, cells in\n"
        "use, dead cells, similar cells and layers. Pictures, a table and all arrays (attention.npz) go into a folder.",
        EXAMPLES,
        "CHECKPOINT [options]",
    )
    flags.add_argument("checkpoint", type=str, help="name of the pair of files, such as runs/NAME/TIME/best")
    flags.add_argument("--data", type=str | None, default=None, help="data source; that of the training if not given")
    flags.add_argument("--out", type=str | None, default=None, help="folder; CHECKPOINT-attention if not given")
    flags.add_argument(
        "--classes",
        type=str,
        nargs="*",
        default=None,
        help="names or numbers of classes to draw, or none; the first ten",
    )
    flags.add_argument("--images", type=str, nargs="*", default=(), help="two image files to draw side by side")
    flags.add_argument(
        "--perturb",
        type=str,
        default="none",
        help="also replace attention by its average, its maximum, and shuffled, and judge the network: all (as a "
        "whole), stages, or layers; none",
    )
    flags.add_argument("--limit", type=int | None, default=None, help="images at most; all validation images")
    flags.add_argument("--svg", action="store_true", help="write pictures as SVG in place of PNG")
    flags.add_class_arguments(LoaderConfig, "loader")
    flags.add_argument("--device", type=str, default="cpu", help="where to run: cpu, cuda, ...")
    flags.add_argument("--json", action="store_true", help="print the table as JSON")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table, and what was written."""
    short = {flag: name for flag, name in SHORT.items() if name.startswith("--loader.")}
    values = parser().parse_args(expand_short(arguments, short)).as_dict()
    from dynaconv.checkpoints.description import base_path
    from dynaconv.training.attention_study import attention_study, perturbation_table

    quiet_logs()
    study = attention_study(
        values["checkpoint"],
        values["data"],
        out=values["out"] or f"{base_path(values['checkpoint'])}-attention",
        loader=LoaderConfig(**values["loader"]),
        device=values["device"],
        classes=values["classes"],
        pictures=values["images"],
        perturb=values["perturb"],
        kinds=("svg",) if values["svg"] else ("png",),
        limit=values["limit"],
        counting=counting,
    )
    if values["json"]:
        counts = dict(zip(study.maps.classes, study.maps.class_images, strict=True))
        found = {"images": study.images, "class_images": counts}
        found |= {"layers": study.maps.summary(), "perturbed": study.perturbed}
        print(json_text(found | {"files": [str(file) for file in study.files]}))
        return
    print(study.maps)
    if study.perturbed:
        print(f"\n{perturbation_table(study.perturbed)}", end="")
    print(f"\n{len(study.files)} files in {study.files[0].parent}")
