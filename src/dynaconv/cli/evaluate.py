"""`dynaconv eval`: judge a saved network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.json_text import json_text
from dynaconv.cli.options import SHORT, expand_short, make_parser, on_terminal, quiet_logs
from dynaconv.training.config import LoaderConfig

EXAMPLES = """
dynaconv eval runs/kw1x_resnet18/TIME/best
dynaconv eval demo/kw-half/best --data mnist5k
dynaconv eval best --data folder:/data/imagenet --batch-size 256 --workers 8 --accelerator gpu --json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "eval",
        "Judge a saved network on the validation images of a data source.",
        EXAMPLES,
        "CHECKPOINT [options]",
    )
    flags.add_argument("checkpoint", type=str, help="name of the pair of files, such as runs/NAME/TIME/best")
    flags.add_argument("--data", type=str | None, default=None, help="data source; that of the training if not given")
    flags.add_class_arguments(LoaderConfig, "loader")
    flags.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, gpu, ...")
    flags.add_argument("--precision", type=str, default="32-true", help="32-true, bf16-mixed, 16-mixed, ...")
    flags.add_argument("--json", action="store_true", help="print the figures as JSON")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print accuracy and loss."""
    short = {flag: name for flag, name in SHORT.items() if name.startswith("--loader.")}
    values = parser().parse_args(expand_short(arguments, short)).as_dict()
    from dynaconv.training.evaluation import evaluate

    quiet_logs()
    metrics = evaluate(
        values["checkpoint"],
        values["data"],
        loader=LoaderConfig(**values["loader"]),
        accelerator=values["accelerator"],
        precision=values["precision"],
        progress_bar=on_terminal() and not values["json"],
    )
    if values["json"]:
        print(json_text(metrics, indent=None))
        return
    top5 = f", top-5 {metrics['val_top5']:.2%}" if "val_top5" in metrics else ""
    left_out = f", {metrics['val_unreadable']} unreadable left out" if metrics["val_unreadable"] else ""
    images = f"{metrics['val_images']:,} images{left_out}"
    print(f"top-1 {metrics['val_top1']:.2%}{top5}, loss {metrics['val_loss']:.4f} ({images})")
