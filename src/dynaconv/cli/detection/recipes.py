"""`dynaconv detect recipes`: how the papers trained their detectors."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from dynaconv.cli.options import make_parser
from dynaconv.errors import DynaconvError

DESCRIPTION = """List the papers' recipes of detection on COCO, or print one of them as YAML.

Names are those of `dynaconv detect train --recipe`, which also takes a file with what this command printed."""

EXAMPLES = """
dynaconv detect recipes
dynaconv detect recipes 'mask_rcnn-*'
dynaconv detect recipes mask_rcnn-kw1x_resnet50 > mine.yaml    # to change it
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser("detect recipes", DESCRIPTION, EXAMPLES, "[NAME or PATTERN]")
    flags.add_argument("pattern", type=str, nargs="?", default="*", help="a name, or names to list, with * and ?")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table, or the recipe."""
    pattern = parser().parse_args(list(arguments)).pattern
    from dynaconv.cli.recipes import recipe_table
    from dynaconv.detection.recipes import DETECTORS
    from dynaconv.training.recipes import paper_recipe, paper_recipes

    if not {"*", "?"} & set(pattern):
        print(paper_recipe(pattern, DETECTORS).to_yaml(), end="")
        return
    found = [recipe for recipe in paper_recipes(DETECTORS) if fnmatchcase(recipe.network, pattern)]
    if not found:
        raise DynaconvError(f"no recipe matches '{pattern}'; `dynaconv detect recipes` lists all")
    print(recipe_table(found))
    print("\nFrom the authors' configs; nothing of this was run on COCO here.")
