"""`dynaconv report`: a page about a saved network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.options import SHORT, counting, expand_short, make_parser, quiet_logs
from dynaconv.training.config import LoaderConfig

EXAMPLES = """
dynaconv report runs/kw1x_resnet18/TIME/best
dynaconv report demo/kw-half/best --out report.html --classes 3 7
dynaconv report runs/NAME/TIME/best --data folder:/data/imagenet --limit 5000 --device cuda
dynaconv report runs/NAME/TIME/best --no-speed
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "report",
        "Write one HTML page about a saved network, which needs no other file and no network: parameters and\n"
        "multiply-adds beside those of the static backbone, the plan, measured speed, the curves of its training,\n"
        "accuracy and confusions on validation images, and maps of what it attends to.",
        EXAMPLES,
        "CHECKPOINT [options]",
    )
    flags.add_argument("checkpoint", type=str, help="name of the pair of files, such as runs/NAME/TIME/best")
    flags.add_argument("--data", type=str | None, default=None, help="data source; that of the training if not given")
    flags.add_argument("--out", type=str | None, default=None, help="the page; CHECKPOINT-report.html if not given")
    flags.add_argument(
        "--classes",
        type=str,
        nargs="*",
        default=None,
        help="names or numbers of classes whose average attention can be chosen, or none; the first ten",
    )
    flags.add_argument("--limit", type=int | None, default=None, help="the first so many validation images; all")
    flags.add_argument("--no-speed", action="store_true", help="take no times")
    flags.add_class_arguments(LoaderConfig, "loader")
    flags.add_argument("--device", type=str, default="cpu", help="where to run: cpu, cuda, ...")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Write the page, and say where it is."""
    short = {flag: name for flag, name in SHORT.items() if name.startswith("--loader.")}
    values = parser().parse_args(expand_short(arguments, short)).as_dict()
    from dynaconv.training.report import report

    quiet_logs()
    page = report(
        values["checkpoint"],
        values["data"],
        out=values["out"],
        loader=LoaderConfig(**values["loader"]),
        device=values["device"],
        limit=values["limit"],
        classes=values["classes"],
        speed=not values["no_speed"],
        counting=counting,
    )
    print(f"{page}  {page.stat().st_size / 2**10:,.0f} KiB")
