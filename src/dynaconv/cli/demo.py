"""`dynaconv demo`: the comparison of :mod:`dynaconv.training.demo`, shown while it runs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.cli.options import command_name, epoch_line, format_table, make_parser, on_terminal, quiet_logs
from dynaconv.errors import DynaconvError

DESCRIPTION = """Train a small ResNet18 three times on the same recipe and embedded images: static, with half
the kernels' parameters (KW 1/2x), and with all of them (KW 1x). Prints a table, saves curves and checkpoints."""

EXAMPLES = """
dynaconv demo
dynaconv demo --epochs 3 --out /tmp/demo
dynaconv demo --data mnist5k --seed 1
"""

HEADER = (
    "network",
    "parameters",
    "val accuracy (best epoch)",
    "last epoch",
    "s/epoch",
    "paper's ImageNet top-1 *",
)
FOLDERS = ("static", "kw-half", "kw-one")


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser("demo", DESCRIPTION, EXAMPLES)
    flags.add_argument(
        "--out",
        type=str,
        default="demo",
        help="folder for curves and checkpoints; an earlier demo there is replaced",
    )
    flags.add_argument("--epochs", type=int, default=10, help="epochs of each network")
    flags.add_argument("--seed", type=int, default=0, help="seed of each network")
    flags.add_argument("--data", type=str, default="digits", help="digits or mnist5k")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Train, compare, and say what to try next."""
    values = parser().parse_args(list(arguments))
    if values.data not in ("digits", "mnist5k"):
        raise DynaconvError(
            f"--data {values.data}: the demo runs on digits or mnist5k; `dynaconv train` takes any data"
        )
    if values.epochs < 1:
        raise DynaconvError(f"--epochs {values.epochs}; expected at least 1")
    out = Path(values.out)
    for folder in FOLDERS:  # only what a demo has written
        shutil.rmtree(out / folder, ignore_errors=True)
    from dynaconv.training.demo import run_demo

    quiet_logs()
    began = time.perf_counter()
    result = run_demo(
        out,
        data=values.data,
        epochs=values.epochs,
        seed=values.seed,
        start=lambda contender: print(f"\n{contender.label}", flush=True),
        report=epoch_line(values.epochs, "  "),
        progress_bar=on_terminal(),
    )
    reference = result.runs[0][1].parameters
    rows = [
        (
            contender.label,
            f"{fitted.parameters:,} ({fitted.parameters / reference:.0%})",
            f"{fitted.best_score:.2%}",
            f"{fitted.rows[-1]['val_top1']:.2%}",
            f"{fitted.seconds_per_epoch:.1f}",
            f"{contender.paper_top1:.2f} %",
        )
        for contender, fitted in result.runs
    ]
    print(f"\n{format_table(HEADER, rows)}")
    print("* the paper's, for full-width networks after 300 epochs; the other columns were measured just now")
    best = result.runs[1][1].best
    print(f"\n{time.perf_counter() - began:.0f} s in all. Curves: {result.curves}. Checkpoints and figures:")
    for _, fitted in result.runs:
        print(f"  {fitted.run_dir}/  best.safetensors + best.json, metrics.csv, config.yaml")
    command = command_name()
    print("\nTry next:")
    print(f"  {command} eval {best}")
    print(f"  {command} predict IMAGE.png --checkpoint {best} --top 3")
    print(f"  {command} plan resnet18 --method.budget 0.5        what a budget does to a network")
    print(f"  {command} train --model kw1x_resnet18 --data folder:PATH   your own images")
