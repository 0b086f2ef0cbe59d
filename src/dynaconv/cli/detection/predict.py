"""`dynaconv detect predict`: objects in image files, listed and drawn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynaconv.analysis.files import free_folder
from dynaconv.cli.json_text import json_text
from dynaconv.cli.options import make_parser, on_terminal, quiet_logs

EXAMPLES = """
dynaconv detect predict street.jpg --checkpoint runs/NAME/TIME/best
dynaconv detect predict photos/*.jpg --checkpoint runs/NAME/TIME/best --score 0.7 --out found --device cuda
dynaconv detect predict street.jpg --checkpoint runs/NAME/TIME/best --no-masks --no-pictures --json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "detect predict",
        "Find objects in image files, list them, and draw them. Files that can not be read are told, and the others\n"
        "searched; the exit code is then 1.",
        EXAMPLES,
        "IMAGE... --checkpoint CHECKPOINT [options]",
    )
    flags.add_argument("images", type=str, nargs="+", help="image files")
    flags.add_argument("--checkpoint", type=str, required=True, help="a saved detector, runs/NAME/TIME/best")
    flags.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder for a NAME.png of every image and detections.json, in which nothing is replaced; if not given, "
        "detections, with a number behind it if there is one already",
    )
    flags.add_argument("--score", type=float, default=0.5, help="leave out detections below this score, 0 to 1")
    flags.add_argument("--no-masks", action="store_true", help="boxes only")
    flags.add_argument("--no-pictures", action="store_true", help="do not draw")
    flags.add_argument("--device", type=str, default="cpu", help="where to run: cpu, cuda, ...")
    flags.add_argument("--json", action="store_true", help="print what detections.json holds")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Print a line an object; what can not be read goes to stderr, and 1 is returned."""
    values = parser().parse_args(list(arguments))
    from dynaconv.detection.prediction import predict

    quiet_logs()
    out = free_folder(Path("detections")) if values.out is None else Path(values.out)
    predictions = predict(
        values.checkpoint,
        values.images,
        out=out,
        score=values.score,
        masks=not values.no_masks,
        pictures=not values.no_pictures,
        device=values.device,
        progress_bar=on_terminal() and not values.json and len(values.images) > 1,
    )
    failed = [prediction for prediction in predictions if prediction.error is not None]
    for prediction in failed:
        print(f"dynaconv detect predict: {prediction.error}", file=sys.stderr)
    if values.json:
        print(json_text([prediction.to_dict() for prediction in predictions]))
        return 1 if failed else 0
    for prediction in predictions:
        for found in prediction.detections:
            left, top, width, height = (round(value) for value in found.bbox)
            print(f"{prediction.image}  {found.category}  {found.score:.1%}  {width}x{height}+{left}+{top}")
        if prediction.error is None and not prediction.detections:
            print(f"{prediction.image}  nothing of score {values.score:g} or more")
    print(f"everything is in {out}")
    return 1 if failed else 0
