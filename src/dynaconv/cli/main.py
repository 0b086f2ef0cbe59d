"""The entry point: finds the command, runs it, and turns the project's errors into one line and exit code 2.

A command's module is imported only when it runs, so help and typing errors come at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from dynaconv._version import __version__
from dynaconv.errors import DynaconvError, PlanWarning, RunWarning

COMMANDS = {
    "demo": "train a static and two dynamic networks in minutes, and compare",
    "train": "train a preset, or any timm backbone, static or made dynamic",
    "finetune": "start from a trained network: convert it as it is, and fine-tune",
    "compare": "train several methods with several seeds on one recipe, and measure time and memory",
    "sweep": "train a grid of methods, recipes and seeds, here, by processes, or on a cluster",
    "ablate": "train the variants of the KernelWarehouse paper's ablations on any data, beside its figures",
    "bench": "measure presets against static networks, the textbook's way, and the machine's limit",
    "eval": "judge a saved network on validation images",
    "predict": "classify image files with a saved network",
    "detect": "train, judge and use detectors: Faster and Mask R-CNN on any backbone",
    "attention": "see what a saved network attends to: maps, cells in use, and what it does without",
    "report": "write one page about a saved network: cost, speed, curves, accuracy, attention",
    "export": "write a network as a file for other runtimes (ONNX, torch.export, AOTInductor), and check it in them",
    "plan": "show what a conversion would do: who shares what, and what it costs",
    "profile": "count parameters, multiply-adds and memory, module by module",
    "scale": "count what a training step costs on one GPU and on many: memory, multiply-adds, bytes sent",
    "models": "list the papers' networks with exact parameters",
    "recipes": "list the papers' training recipes, or print one",
}
MODULES = {name: f"dynaconv.cli.{'evaluate' if name == 'eval' else name}" for name in COMMANDS}

USAGE = """usage: dynaconv COMMAND [options]

Dynamic convolution for PyTorch: KernelWarehouse and its family as drop-in layers.

commands:
{commands}

options:
  -h, --help     show this text; `dynaconv COMMAND --help` shows a command's options and examples
  --version      show the version

examples:
  dynaconv demo
  dynaconv plan resnet18 --method.budget 0.5
  dynaconv profile od4x_resnet18
  dynaconv train --model kw1x_resnet18 --data folder:/data/imagenet
  dynaconv finetune runs/resnet18/TIME/best --method.budget 0.5 --data folder:/data/imagenet
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the process if None.

    Returns:
        The exit code: 0, 1 if part of the work could not be done, 2 after an error of the user's, 130 after an
        interruption.

    Raises:
        SystemExit: with 143, from a run that a signal told to stop, when it is saved.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        print(f"dynaconv {__version__}")
        return 0
    if not given or given[0] in ("-h", "--help", "help"):
        print(
            USAGE.format(commands="\n".join(f"  {name:<14} {text}" for name, text in COMMANDS.items())),
            end="",
        )
        return 0 if given else 2
    command, rest = given[0], given[1:]
    if command not in MODULES:
        print(f"dynaconv: no command '{command}'; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        warnings.formatwarning = _as_note
        with warnings.catch_warnings():
            if command in (
                "plan",
                "eval",
                "predict",
                "profile",
                "scale",
                "compare",
                "bench",
                "export",
                "report",
                "attention",
            ):  # said by plan, or long known
                warnings.simplefilter("ignore", PlanWarning)
            return importlib.import_module(MODULES[command]).run(rest) or 0
    except DynaconvError as error:
        print(f"dynaconv {command}: {' '.join(str(error).replace(chr(10), '; ').split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"dynaconv {command}: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = _PLAIN_FORMAT


_PLAIN_FORMAT = warnings.formatwarning


def _as_note(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
    """Warnings of plans and runs are for the user, who is not served by the line of the library that gave them."""
    if issubclass(category, PlanWarning | RunWarning):
        first = all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
        return f"note: {message}\n" if first else ""  # a run on several devices is several processes
    return _PLAIN_FORMAT(message, category, *place, **line)


if __name__ == "__main__":
    sys.exit(main())
