"""`dynaconv detect eval`: judge a saved detector, or a file of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.analysis.files import free_folder
from dynaconv.checkpoints.description import base_path
from dynaconv.cli.json_text import json_text
from dynaconv.cli.options import expand_short, make_parser, on_terminal, quiet_logs
from dynaconv.detection.config import CocoLoaderConfig
from dynaconv.errors import DynaconvError

EXAMPLES = """
dynaconv detect eval runs/NAME/TIME/best
dynaconv detect eval runs/NAME/TIME/best --data /data/coco --batch-size 8 --workers 8 --accelerator gpu --json
dynaconv detect eval runs/NAME/TIME/best --limit 100 --out quick-look
dynaconv detect eval --results results-bbox.json --truth annotations/instances_val2017.json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "detect eval",
        "Judge a saved detector on the validation images of a data set by COCO's scores: AP and AR of boxes and\n"
        "masks, by size and by class. Or judge a results file of any program.",
        EXAMPLES,
        "CHECKPOINT [options]",
    )
    flags.add_argument("checkpoint", type=str | None, nargs="?", default=None, help="such as runs/NAME/TIME/best")
    flags.add_argument(
        "--data", type=str | None, default=None, help="folder of the data; that of the training if not given"
    )
    flags.add_class_arguments(CocoLoaderConfig, "loader")
    flags.add_argument("--limit", type=int | None, default=None, help="judge only the first images, in whole batches")
    flags.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder for COCO's results files, scores.json and a picture of precision and recall; if not given, "
        "CHECKPOINT-eval, with a number behind it if there is one already",
    )
    flags.add_argument("--accelerator", type=str, default="auto", help="auto, cpu, gpu, ...")
    flags.add_argument("--precision", type=str, default="32-true", help="32-true, bf16-mixed, 16-mixed, ...")
    flags.add_argument("--json", action="store_true", help="print the figures as JSON, shares of 1")
    flags.add_argument("--results", type=str | None, default=None, help="judge this file, in COCO's results format")
    flags.add_argument("--truth", type=str | None, default=None, help="annotations that --results is judged by")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the scores, and say where the files are."""
    short = {"--batch-size": "--loader.val_batch_size", "--workers": "--loader.workers"}
    values = parser().parse_args(expand_short(arguments, short)).as_dict()
    if (values["results"] is None) == (values["checkpoint"] is None) or (values["results"] is None) != (
        values["truth"] is None
    ):
        raise DynaconvError("expected either a checkpoint, or both --results FILE and --truth FILE")
    from dynaconv.detection.evaluation.evaluate import evaluate, write_scores
    from dynaconv.detection.evaluation.results import score_files

    quiet_logs()
    out = None if values["out"] is None else Path(values["out"])
    if values["results"] is not None:
        scores = score_files(values["results"], values["truth"])
        if out is not None:
            write_scores(scores, out)
    else:
        base = base_path(values["checkpoint"])
        out = out or free_folder(base.with_name(f"{base.name}-eval"))
        scores = evaluate(
            values["checkpoint"],
            values["data"],
            loader=CocoLoaderConfig(**values["loader"]),
            out=out,
            limit=values["limit"],
            accelerator=values["accelerator"],
            precision=values["precision"],
            progress_bar=on_terminal() and not values["json"],
        )
    if values["json"]:
        print(json_text(scores.to_dict(), indent=None))
        return
    print(scores.table())
    if out is not None:
        print(f"everything is in {out}")
