"""`dynaconv recipes`: how the papers trained their networks."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from dynaconv.cli.options import format_table, make_parser
from dynaconv.errors import DynaconvError

DESCRIPTION = """List the papers' training recipes, or print one of them as YAML.

NETWORK is the recipe that the network's reported accuracy comes from, NETWORK@EPOCHS a certain one. `dynaconv train
--recipe` takes both, and a file with what this command printed."""

EXAMPLES = """
dynaconv recipes
dynaconv recipes 'kw*_resnet18*'
dynaconv recipes kw1x_resnet18 > mine.yaml        # to change it: dynaconv train --recipe mine.yaml
dynaconv recipes --markdown
"""

HEADER = ("recipe", "optimiser", "lr", "batch", "schedule", "tau", "family", "")
MARKDOWN_HEADER = ("recipes", "optimiser", "lr, batch", "schedule, tau", "augmentation", "file")


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser("recipes", DESCRIPTION, EXAMPLES, "[NAME or PATTERN]")
    flags.add_argument("pattern", type=str, nargs="?", default="*", help="a name, or names to list, with * and ?")
    flags.add_argument("--markdown", action="store_true", help="print a table for a page, a row for alike recipes")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table, or the recipe."""
    values = parser().parse_args(list(arguments))
    from dynaconv.training.recipes import paper_recipe, paper_recipes

    if not {"*", "?"} & set(values.pattern):
        print(paper_recipe(values.pattern).to_yaml(), end="")
        return
    known = paper_recipes()
    found = [r for r in known if fnmatchcase(r.model, values.pattern) or fnmatchcase(r.name, values.pattern)]
    if not found:
        raise DynaconvError(f"no recipe matches '{values.pattern}'; `dynaconv recipes` lists all {len(known)}")
    if values.markdown:
        print(_markdown(found))
        return
    print(recipe_table(found))
    print("\nnearest: no recipe of that network is known, and the nearest stands in; `dynaconv recipes NAME` says why.")
    print("From the authors' code; nothing of this was run on ImageNet here.")


def recipe_table(recipes: Sequence[Any]) -> str:
    """A row a recipe: optimiser, learning rate, images of a step, schedule, temperature."""
    rows = []
    for recipe in recipes:
        fields = recipe.recipe
        name = f"{recipe.network}{'' if recipe.first else f'@{fields.schedule.epochs}'}"
        nearest = "nearest" if recipe.nearest else ""
        figures = (fields.optimizer.name, f"{fields.optimizer.lr:g}", str(fields.optimizer.global_batch))
        rows.append((name, *figures, _schedule(fields), _tau(fields), recipe.family, nearest))
    return format_table(HEADER, rows, left=2)


def _schedule(fields: Any) -> str:
    schedule = fields.schedule
    shape = "cosine" if schedule.kind == "cosine" else f"steps x{schedule.factor:g}"
    return f"{schedule.epochs} epochs, {shape}"


def _tau(fields: Any) -> str:
    from dynaconv.models import get_preset, list_models

    dynamic = fields.model in list_models() and get_preset(fields.model).config.temperature(0.0) is not None
    return f"{fields.schedule.temperature_length:g}" if dynamic else "-"


def _markdown(recipes: Sequence[Any]) -> str:
    """A row for recipes that differ in nothing that it shows."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for recipe in recipes:
        fields = recipe.recipe
        mark = "*" if recipe.nearest else ""
        name = f"`{recipe.model}{'' if recipe.first else f'@{fields.schedule.epochs}'}`{mark}"
        optimizer = fields.optimizer
        decay = f"{optimizer.name}, decay {optimizer.weight_decay:g}"
        batch = f"{optimizer.lr:g}, {optimizer.global_batch}"
        tau = _tau(fields)
        schedule = _schedule(fields) + (f", {tau}" if tau != "-" else "")
        cells = (decay, batch, schedule, _augmentation(fields), f"`{recipe.family}`")
        rows.setdefault(cells, []).append(name)
    lines = [f"| {' | '.join(MARKDOWN_HEADER)} |", f"|{'---|' * len(MARKDOWN_HEADER)}"]
    return "\n".join([*lines, *(f"| {' '.join(names)} | {' | '.join(cells)} |" for cells, names in rows.items())])


def _augmentation(fields: Any) -> str:
    augment, backbone = fields.augment, fields.backbone
    shown = {
        "RandAugment": augment.rand_augment is not None,
        f"mixup {augment.mixup:g}": augment.mixup,
        f"cutmix {augment.cutmix:g}": augment.cutmix,
        f"erasing {augment.erasing:g}": augment.erasing,
        f"smoothing {augment.label_smoothing:g}": augment.label_smoothing,
        f"constant drop path {backbone.get('constant_drop_path', 0):g}": "constant_drop_path" in backbone,
        f"drop path {backbone.get('drop_path_rate', 0):g}": "drop_path_rate" in backbone,
        f"dropout {backbone.get('drop_rate', 0):g}": "drop_rate" in backbone,
        f"EMA {fields.ema.decay}": fields.ema.decay,
    }
    return ", ".join(name for name, there in shown.items() if there) or "crop and flip"
