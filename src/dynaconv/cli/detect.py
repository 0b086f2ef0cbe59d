"""`dynaconv detect`: finds the command below it; a command's module is imported only when it runs."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence

from dynaconv.errors import DynaconvError, PlanWarning

COMMANDS = {
    "train": "train Faster R-CNN or Mask R-CNN on any backbone, on data in COCO's format",
    "eval": "judge a saved detector: COCO's AP and AR, by size and by class",
    "predict": "find objects in image files, and draw them",
    "check": "read a data set in COCO's format, and say what is wrong with it",
    "digits": "make a small data set in COCO's format: handwritten digits on photographs",
    "models": "list backbones with the detectors' parameters and multiply-adds, beside the papers'",
    "recipes": "list the papers' recipes of detection, or print one",
    "demo": "make the digits, train a dynamic and a static Mask R-CNN, judge them and draw what they find",
}

USAGE = """usage: dynaconv detect COMMAND [options]

Object detection and instance segmentation with Faster R-CNN and Mask R-CNN on any backbone.

commands:
{commands}

`dynaconv detect COMMAND --help` shows a command's options and examples

examples:
  dynaconv detect demo
  dynaconv detect train --model kw1x_resnet50 --detector.weights runs/NAME/TIME/best --data /data/coco
  dynaconv detect eval runs/NAME/TIME/best --data /data/coco
  dynaconv detect predict street.jpg --checkpoint runs/NAME/TIME/best
"""


def run(arguments: Sequence[str]) -> int:
    """Run a command of `dynaconv detect`."""
    given = list(arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())), end="")
        return 0 if given else 2
    if given[0] not in COMMANDS:
        raise DynaconvError(f"no command '{given[0]}'; expected one of {', '.join(COMMANDS)}")
    name = "evaluate" if given[0] == "eval" else given[0]
    with warnings.catch_warnings():
        if given[0] != "train":  # said when it was trained
            warnings.simplefilter("ignore", PlanWarning)
        return importlib.import_module(f"dynaconv.cli.detection.{name}").run(given[1:]) or 0
