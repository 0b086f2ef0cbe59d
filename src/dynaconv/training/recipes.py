"""The papers' training recipes: YAML files of the package, and the recipe of a network by its name.

A book holds the recipes of one kind of run, a file of it one recipe, the networks that it is for, and what each of them
changes::

    about: KernelWarehouse on ImageNet, 300 epochs by ConvNeXt's recipe
    source: the authors' code, main.py and configs/
    trust: read
    dataset: imagenet
    recipe: {optimizer: {name: adamw, lr: 4.0e-3}, ...}     # fields of a Recipe
    networks:
      - models: [kw1x_resnet18, kw2x_resnet18]              # names, or patterns of presets
        changes: {backbone: {constant_drop_path: 0.1}}      # of the recipe
        second: true                                        # only by name, NETWORK@EPOCHS
        nearest: why this is not the network's own          # where no recipe of it is known
        note: what else there is to say
    differs: [what is otherwise here than in the authors' code]
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from dynaconv.errors import DynaconvError
from dynaconv.models import get_preset, list_models
from dynaconv.training.config import Recipe, RunRecipe
from dynaconv.training.yaml_files import parse_yaml, read_yaml

FIELDS = {"about", "source", "trust", "dataset", "recipe", "networks", "differs"}
ENTRY = {"models", "changes", "second", "nearest", "note"}


@dataclass(frozen=True)
class Dataset:
    """A data set's numbers, for plans without its files.

    Args:
        title: its name for people.
        train: training images.
        val: validation images.
        classes: classes.
        image_size: side in pixels that networks see, unless a recipe says otherwise; of detection, the shorter side.
    """

    title: str
    train: int
    val: int
    classes: int
    image_size: int


DATASETS = {
    "imagenet": Dataset("ImageNet", 1_281_167, 50_000, 1000, 224),
    "coco": Dataset("COCO 2017", 118_287, 5_000, 80, 800),
}


@dataclass(frozen=True)
class RecipeBook:
    """Recipes of one kind of run.

    Args:
        package: whose folder ``recipes`` holds the files.
        kind: class of the recipes.
        command: which lists them.
        network: from a recipe's fields to the name that people give its network.
    """

    package: str
    kind: type[RunRecipe]
    command: str
    network: Callable[[Mapping[str, Any]], str]


def _model_of(values: Mapping[str, Any]) -> str:
    return values["model"]


CLASSIFIERS = RecipeBook("dynaconv", Recipe, "dynaconv recipes", _model_of)


@dataclass(frozen=True, kw_only=True)
class PaperRecipe:
    """How a paper trained a network.

    Args:
        network: its name for people.
        kind: class of the recipe.
        model: a preset or a static backbone of timm.
        family: name of the file.
        about: the recipe in one line.
        source: where its figures stand.
        trust: how far they may be trusted; "read": seen in the authors' own code or configs.
        dataset: what it is for.
        values: fields of the recipe, as plain types.
        first: whether the network's bare name means this one.
        nearest: why it is not the network's own recipe, empty if it is.
        note: what else there is to say, or empty.
        differs: what is otherwise here than in the authors' code.
    """

    network: str
    kind: type[RunRecipe]
    model: str
    family: str
    about: str
    source: str
    trust: str
    dataset: Dataset
    values: Mapping[str, Any]
    first: bool
    nearest: str
    note: str
    differs: tuple[str, ...]

    @property
    def recipe(self) -> Any:
        """The recipe, checked."""
        return self.kind.from_dict(self.values)

    @property
    def name(self) -> str:
        """What `dynaconv train --recipe` takes."""
        return f"{self.network}@{self.recipe.schedule.epochs}"

    def to_yaml(self) -> str:
        """A file for `dynaconv train --recipe`, with what there is to say as comments."""
        said = [f"{self.name}: {self.about}", f"Source: {self.source}. Trust: {self.trust}."]
        said += [f"Not this network's own: {self.nearest}."] if self.nearest else []
        said += [f"Note: {self.note}."] if self.note else []
        said += [f"Differs from the authors' code: {text}" for text in self.differs]
        values = yaml.safe_dump(copy.deepcopy(dict(self.values)), sort_keys=False, default_flow_style=None, width=100)
        return "\n".join([*(f"# {line}" for line in said), values])


@functools.cache
def paper_recipes(book: RecipeBook = CLASSIFIERS) -> tuple[PaperRecipe, ...]:
    """Every recipe of every network of a book, in the order of `dynaconv models`; static networks come last.

    Raises:
        DynaconvError: if a file is not as it should be.
    """
    folder = files(book.package) / "recipes"
    found: list[PaperRecipe] = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".yaml"):
            found += read_family(file.name.removesuffix(".yaml"), file.read_text(encoding="utf-8"), book)
    order = {name: place for place, name in enumerate(list_models())}
    return tuple(sorted(found, key=lambda r: (order.get(r.model, len(order)), not r.first)))


def paper_recipe(name: str, book: RecipeBook = CLASSIFIERS) -> PaperRecipe:
    """A recipe by name: NETWORK for the one its reported accuracy comes from, NETWORK@EPOCHS for a certain one.

    Raises:
        DynaconvError: if there is none; it names the nearest.
    """
    known = paper_recipes(book)
    network, _, epochs = name.partition("@")
    of_network = [recipe for recipe in known if recipe.network == network]
    if not of_network:
        close = get_close_matches(network, sorted({recipe.network for recipe in known}), n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"`{book.command}` lists them"
        raise DynaconvError(f"no recipe '{name}', and no such file; {hint}")
    if not epochs:
        return next(recipe for recipe in of_network if recipe.first)
    for recipe in of_network:
        if recipe.name == name:
            return recipe
    raise DynaconvError(f"no recipe '{name}'; there is {', '.join(recipe.name for recipe in of_network)}")


def find_recipe(name: str, book: RecipeBook = CLASSIFIERS) -> tuple[Mapping[str, Any], PaperRecipe | None]:
    """A recipe of the papers by name, or one in a file.

    Args:
        name: as for :func:`paper_recipe`, or the path of a YAML file.
        book: whose names and kind of recipe.

    Returns:
        Fields of a recipe as plain types, and the paper's recipe where it is one.

    Raises:
        DynaconvError: if there is none, or the file holds no recipe.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
            raise DynaconvError(f"there is no recipe file {name}; expected a YAML file, or a name of `{book.command}`")
        found = paper_recipe(name, book)
        return found.values, found
    values = read_yaml(path)
    values = {} if values is None else values
    if isinstance(values, Mapping) and {"recipe", "networks"} <= set(values):
        raise DynaconvError(
            f"{name} holds the recipes of many networks; write one of them to a file with `{book.command} NETWORK`, "
            "and change that"
        )
    book.kind.from_dict(values)
    return values, None


def read_family(family: str, text: str, book: RecipeBook = CLASSIFIERS) -> list[PaperRecipe]:
    """The recipes that one file holds.

    Args:
        family: name of the file.
        text: YAML.
        book: that it is of.

    Raises:
        DynaconvError: if fields are missing or unknown, a pattern matches nothing, or a recipe can not be.
    """
    values = parse_yaml(text, f"recipes, {family}")
    _only(values, FIELDS, family)
    found = []
    for number, entry in enumerate(values["networks"], 1):
        place = f"{family}, network {number}"
        _only(entry, ENTRY, place)
        changed = _merge(values["recipe"], entry.get("changes", {}))
        for model in _named(entry["models"], place):
            fields = {"model": model, **changed}
            found.append(
                PaperRecipe(
                    network=book.network(fields),
                    kind=book.kind,
                    model=model,
                    family=family,
                    about=values["about"],
                    source=values["source"],
                    trust=values["trust"],
                    dataset=DATASETS[values["dataset"]],
                    values=fields,
                    first=not entry.get("second", False),
                    nearest=entry.get("nearest", ""),
                    note=entry.get("note", ""),
                    differs=tuple(values["differs"]),
                )
            )
    for recipe in found:
        book.kind.from_dict(recipe.values)
    return found


def preset_of(model: str) -> Any:
    """The preset of that name, None for a static backbone."""
    return get_preset(model) if model in list_models() else None


def _named(patterns: list[str], place: str) -> list[str]:
    """Networks that patterns mean; static backbones are written out."""
    found: list[str] = []
    for pattern in patterns:
        names = [name for name in list_models() if fnmatchcase(name, pattern)] if "*" in pattern else [pattern]
        if not names:
            raise DynaconvError(f"{place}: no preset matches '{pattern}'")
        found += names
    return found


def _merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values, with those of the changes in their place; mappings within are merged."""
    merged = copy.deepcopy(dict(values))
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


def _only(values: Mapping[str, Any], known: set[str], place: str) -> None:
    if unknown := sorted(set(values) - known):
        raise DynaconvError(f"recipes, {place}: unknown fields {unknown}; known are {sorted(known)}")
