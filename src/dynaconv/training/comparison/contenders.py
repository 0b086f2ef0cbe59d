"""Who takes part in a comparison: a network, the method that makes it dynamic, and a label for both.

In a comparison, a contender changes nothing of the recipe but ``model``, ``method``, ``where`` and ``backbone``. In a
sweep it may change any field.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dynaconv.convert import config_from_dict, config_types
from dynaconv.errors import DynaconvError, require
from dynaconv.models import create_model, get_preset, list_models
from dynaconv.training.config import Recipe
from dynaconv.training.yaml_files import parse_yaml, read_yaml

STATIC = "static"
"""The method that leaves a network as it is."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One of the networks that are compared.

    Args:
        label: for people; its runs' folder is made from it.
        model: a timm backbone, or a preset.
        method: with a backbone: the config as a mapping with the key ``method``; None leaves it static.
        where: with a method: patterns of the layers to convert, None for the method's own choice.
        backbone: further arguments of the backbone.
        changes: in a sweep: dotted name of a recipe's field (``optimizer.lr``) -> its value here.

    Raises:
        DynaconvError: if the label is empty, or the method or one of its fields is not known.
    """

    label: str
    model: str
    method: Mapping[str, Any] | None = None
    where: str | list[str] | None = None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.folder.strip("-."):
            raise DynaconvError(f"label={self.label!r}; expected a name with letters or digits")
        if self.method is None:
            if self.where is not None:
                raise DynaconvError(f"contender '{self.label}' is static, and has where={self.where!r}; drop one")
            return
        name = self.method.get("method")
        if name not in config_types():
            raise DynaconvError(f"contender '{self.label}': {_unknown_method(str(name))}")
        config_from_dict(self.method)

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return re.sub(r"[^\w.,=+-]+", "-", self.label)

    def recipe(self, shared: Recipe, seed: int) -> Recipe:
        """The recipe of one of its runs; the method's config is written out with all its defaults."""
        recipe = dataclasses.replace(
            shared,
            model=self.model,
            method=None if self.method is None else config_from_dict(self.method).to_dict(),
            where=self.where,
            backbone=dict(self.backbone),
            run=dataclasses.replace(shared.run, seed=seed),
        )
        return _changed(recipe, self.changes) if self.changes else recipe

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for YAML or JSON."""
        written = self.recipe(Recipe(), 0).to_dict()
        own = {key: written[key] for key in ("model", "method", "where", "backbone")}
        return {"label": self.label, **own, **({"changes": dict(self.changes)} if self.changes else {})}


def contender_of(text: str, model: str, where: str | list[str] | None, backbone: Mapping[str, Any]) -> Contender:
    """Read a method as the command line gives it: ``odconv``, or with fields ``odconv:num_kernels=2,reduction=0.125``.

    Args:
        text: a method, with fields or without; ``static`` for none. It is the label, too.
        model: the backbone.
        where: layers to convert, of dynamic contenders.
        backbone: further arguments of the backbone.

    Raises:
        DynaconvError: if the method, or a field, is not known.
    """
    name, _, given = text.partition(":")
    if model in list_models():
        raise DynaconvError(
            f"model '{model}' is a preset with a method of its own; methods need a backbone, such as --model resnet18. "
            "Presets are compared by a list, --contenders"
        )
    if name == STATIC:
        if given:
            raise DynaconvError(f"method '{text}': a static network has no fields")
        return Contender(label=text, model=model, backbone=backbone)
    if name not in config_types():
        raise DynaconvError(_unknown_method(name))
    try:  # a flow mapping of YAML, so that values may be lists
        fields = parse_yaml("{" + re.sub(r"(\w+)=", r"\1: ", given) + "}", text)
    except DynaconvError:
        fields = None
    if not isinstance(fields, dict) or None in fields.values():
        raise DynaconvError(f"method '{text}' can not be read; expected METHOD:FIELD=VALUE,FIELD=VALUE")
    return Contender(label=text, model=model, method={"method": name, **fields}, where=where, backbone=backbone)


def every_method() -> list[str]:
    """``static`` and the name of every registered method."""
    return [STATIC, *config_types()]


def read_contenders(path: str | Path, model: str, backbone: Mapping[str, Any]) -> list[Contender]:
    """Read a YAML list of contenders.

    Args:
        path: a list of mappings with ``label``, and ``method`` (a name, or a mapping with the key ``method``),
            ``where``, ``model``, ``backbone`` where they are needed.
        model: of those that name none.
        backbone: arguments of the backbone, of those that name neither them nor a model of their own.

    Raises:
        DynaconvError: if it is no such list.
    """
    entries = read_yaml(path)
    if isinstance(entries, Mapping) and "contenders" in entries:  # the file that a comparison leaves in its folder
        entries = entries["contenders"]
    if not isinstance(entries, list):
        raise DynaconvError(f"{path} holds a {type(entries).__name__}; expected a list of contenders")
    return [_read_contender(entry, f"{path}, contender {i}", model, backbone) for i, entry in enumerate(entries, 1)]


def check_contenders(contenders: Sequence[Contender], seeds: Sequence[int]) -> None:
    """Refuse lists that make no comparison.

    Raises:
        DynaconvError: if a list is empty, a label or a seed is given twice, a seed is negative, or a network is
            not known.
    """
    if not contenders:
        raise DynaconvError("no contenders; give at least one method or contender")
    if not seeds:
        raise DynaconvError("no seeds; give at least one")
    folders = [contender.folder for contender in contenders]
    for values, name in (
        ([contender.label for contender in contenders], "contender"),
        (folders, "folder of contender"),
        ([*map(str, seeds)], "seed"),
    ):
        if twice := sorted({value for value in values if values.count(value) > 1}):
            raise DynaconvError(f"{name} {', '.join(twice)} is given more than once; give each once")
    if negative := [seed for seed in seeds if seed < 0]:
        raise DynaconvError(f"seeds {negative} are negative; expected at least 0")
    for contender in contenders:
        if contender.model in list_models():
            if contender.method is not None:
                raise DynaconvError(
                    f"contender '{contender.label}': '{contender.model}' is a preset with a method of its own; give "
                    f"its backbone '{get_preset(contender.model).backbone}', or no method"
                )
        elif not require("timm", "train").is_model(contender.model):
            create_model(contender.model)  # raises, and names the nearest


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of the fields of these dotted names."""
    values = recipe.to_dict()
    for name, value in changes.items():
        *path, last = name.split(".")
        inner: Any = values
        for key in path:
            inner = inner.get(key)
            if not isinstance(inner, dict):
                raise DynaconvError(f"a recipe has no field {name}; expected one such as optimizer.lr")
        inner[last] = value
    return Recipe.from_dict(values)


def _read_contender(entry: Any, place: str, model: str, backbone: Mapping[str, Any]) -> Contender:
    known = [f.name for f in dataclasses.fields(Contender) if f.name != "changes"]
    if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str):
        raise DynaconvError(f"{place} is {entry!r}; expected a mapping with a label, and any of {', '.join(known)}")
    if unknown := sorted(set(entry) - set(known)):
        raise DynaconvError(f"{place} has unknown fields {unknown}; known are {', '.join(known)}")
    values = dict(entry)
    values.setdefault("backbone", {} if "model" in entry else backbone)
    values.setdefault("model", model)
    method = values.get("method")
    if isinstance(method, str):
        values["method"] = None if method == STATIC else {"method": method}
    elif method is not None and not isinstance(method, Mapping):
        raise DynaconvError(f"{place} has method={method!r}; expected a name, or a mapping with the key 'method'")
    return Contender(**values)


def _unknown_method(name: str) -> str:
    known = every_method()
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"method '{name}' is not known; {f'did you mean {close[0]}? ' if close else ''}Known: {', '.join(known)}"
