"""`dynaconv predict`: class and probability of image files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from dynaconv.cli.json_text import json_text
from dynaconv.cli.options import make_parser, quiet_logs

EXAMPLES = """
dynaconv predict digit.png --checkpoint demo/kw-half/best
dynaconv predict photos/*.jpg --checkpoint runs/NAME/TIME/best --top 5
dynaconv predict photo.jpg --checkpoint runs/NAME/TIME/best --json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "predict",
        "Classify image files with a saved network. Files that can not be read are told, and the others classified;\n"
        "the exit code is then 1.",
        EXAMPLES,
        "IMAGE... --checkpoint CHECKPOINT [options]",
    )
    flags.add_argument("images", type=str, nargs="+", help="image files")
    flags.add_argument("--checkpoint", type=str, required=True, help="name of the pair of files, runs/NAME/TIME/best")
    flags.add_argument("--top", type=int, default=1, help="how many classes to name")
    flags.add_argument("--device", type=str, default="cpu", help="where to run: cpu, cuda, ...")
    flags.add_argument("--json", action="store_true", help="print a JSON list, one entry an image")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Print a line an image and class; what can not be read goes to stderr, and 1 is returned."""
    values = parser().parse_args(list(arguments))
    from dynaconv.training.prediction import predict

    quiet_logs()
    predictions = predict(values.checkpoint, values.images, top=values.top, device=values.device)
    failed = [prediction for prediction in predictions if prediction.error is not None]
    for prediction in failed:
        print(f"dynaconv predict: {prediction.error}", file=sys.stderr)
    if values.json:
        entries = [
            {
                "image": p.image,
                "classes": [{"class": name, "probability": share} for name, share in p.classes],
            }
            | ({} if p.error is None else {"error": p.error})
            for p in predictions
        ]
        print(json_text(entries))
        return 1 if failed else 0
    for prediction in predictions:
        for name, share in prediction.classes:
            print(f"{prediction.image}  {name}  {share:.2%}")
    return 1 if failed else 0
