"""`dynaconv detect demo`: the comparison of :mod:`dynaconv.detection.demo`, shown while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from dynaconv.cli.options import command_name, counting, epoch_line, format_table, make_parser, on_terminal, quiet_logs

DESCRIPTION = """Make handwritten digits on photographs in COCO's format, train a small Mask R-CNN on them twice,
static and with KernelWarehouse, judge both by COCO's scores, and draw what they find. What is there already is not
made again."""

EXAMPLES = """
dynaconv detect demo
dynaconv detect demo --epochs 2 --train 100 --val 40 --out /tmp/detect
"""

HEADER = ("Mask R-CNN", "parameters", "box AP", "AP50", "AP75", "mask AP", "AP50", "AP75", "s/epoch")
FIGURES = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")


def parser() -> Any:
    """Flags of the command."""
    from dynaconv.detection.demo import DemoConfig

    flags = make_parser("detect demo", DESCRIPTION, EXAMPLES)
    flags.add_argument("--out", type=str, default="detect-demo", help="folder for data, runs, scores and pictures")
    texts = {"train": "training images", "val": "images that are judged", "size": "longer side of an image, in pixels"}
    texts |= {"epochs": "epochs of each detector", "seed": "of data and detectors"}
    for field in fields(DemoConfig):
        flags.add_argument(f"--{field.name}", type=int, default=field.default, help=texts[field.name])
    return flags


def run(arguments: Sequence[str]) -> None:
    """Make, train, judge, draw, and say what to try next."""
    values = parser().parse_args(list(arguments)).as_dict()
    from dynaconv.detection.demo import DemoConfig, make_data, run_demo

    out = values.pop("out")
    config = DemoConfig(**{field.name: values[field.name] for field in fields(DemoConfig)})
    quiet_logs()
    began = time.perf_counter()
    print(f"digits on photographs, {config.train} images to train on and {config.val} to judge by", flush=True)
    with counting("images", config.train + config.val) as advance:
        make_data(out, config, advance)
    result = run_demo(
        out,
        config,
        start=lambda text: print(f"\n{text}", flush=True),
        report=epoch_line(config.epochs, "  "),
        progress_bar=on_terminal(),
    )
    rows = [
        (
            twin.label,
            f"{fitted.parameters:,}",
            *(f"{100 * (getattr(scores, name) or 0):.1f}" for name in FIGURES),
            f"{fitted.seconds_per_epoch:.0f}",
        )
        for twin, fitted, scores in result.runs
    ]
    print(f"\n{format_table(HEADER, rows)}")
    print(f"AP in percent, of each detector's best epoch, on {config.val} images that it was chosen on")
    print(f"\n{time.perf_counter() - began:.0f} s in all. Pictures: {result.pictures}. Curves: {result.curves}")
    best = result.runs[-1][1].best
    command = f"{command_name()} detect"
    print(f"Figures: {result.summary}, and scores by class in {best.parent / 'scores'}")
    print("\nTry next:")
    print(f"  {command} predict {out}/digits/val2017/*.jpg --checkpoint {best} --out found")
    print(f"  {command} eval {best}")
    print(f"  {command} train --model kw1x_resnet50 --data FOLDER      your own images, in COCO's format")
