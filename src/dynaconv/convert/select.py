"""Which layers of a network become dynamic: what can be, what is by default, and what a user's ``where`` says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from dynaconv.errors import NothingSelectedError, PlanError
from dynaconv.nn import DynamicConvNd, DynamicLayer, DynamicLinear
from dynaconv.planning import LayerSpec, read_structure

Where = str | Sequence[str] | Callable[[str, nn.Module], bool]

# These types; a subclass of its own behaviour changes what its weight means (the output projection of
# nn.MultiheadAttention is read by its parent) and is left alone, but for timm's Conv2dSame, which pads as
# `padding="same"` does here.
CONVERTIBLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
GATE_CLASS_MARKS = (
    "squeezeexcit",
    "semodule",
    "cbam",
    "ecamodule",
    "effectivese",
    "gatherexcite",
    "selectivekernelattn",
    "splitattn",
    "globalcontext",
)
# Parts of a path that stand for what follows the body: classifiers, auxiliary outputs, detection heads.
HEAD_PART = re.compile(
    r"classifiers?|heads?|fc|aux\w*|auxlogits|rpn|roi_heads?|(rpn|roi|bbox|mask|classification|regression)_head",
    re.IGNORECASE,
)
# Classes, and their subclasses, that are such a part under any name: ultralytics numbers its modules.
HEAD_CLASS = re.compile(r"(?!\w*AttentionHead$)\w+Head|Detect|Classify|SemanticSegment|RTDETRDecoder")
# Layers whose parent reads their weight, instead of calling them or to fuse them: parent's class -> children.
READ_BY_PARENT = {
    "Conv2": ("conv", "cv2"),
    "RepConv": ("conv1.conv", "conv2.conv"),
    "RepVGGDW": ("conv.conv", "conv1.conv"),
    "TransformerEncoderLayer": ("linear1", "linear2"),
    "ShiftedWindowAttention": ("qkv", "proj"),
    "ShiftedWindowAttentionV2": ("qkv", "proj"),
}
NARROW_LINEAR = 16  # linear layers with fewer features map coordinates or heads, not images


@dataclass(frozen=True)
class Candidates:
    """Layers of a network by what may happen to them, in module order.

    Args:
        trunk: static layers of the network's body, from which stages are read.
        body: the same and dynamic convolutions, in module order.
        default: those of the trunk that are converted unless told otherwise.
        other: convertible layers outside the trunk: gates, classifiers.
        refused: name -> why a layer can not be converted.
    """

    trunk: tuple[LayerSpec, ...]
    body: tuple[LayerSpec, ...]
    default: tuple[LayerSpec, ...]
    other: tuple[LayerSpec, ...]
    refused: dict[str, str]

    @property
    def convertible(self) -> tuple[LayerSpec, ...]:
        """Everything that could be converted."""
        return (*self.trunk, *self.other)


@dataclass(frozen=True)
class Selection:
    """What a method is asked to plan.

    Args:
        layers: the layers to convert, in module order.
        trunk: all static layers of the body, from which blocks and stages are read.
        rest: what every plan reports beside them: ``other_parameters`` of the network outside the selected kernels,
            ``left_static`` and ``refused`` layers.
    """

    layers: tuple[LayerSpec, ...]
    trunk: tuple[LayerSpec, ...]
    rest: Mapping[str, Any]


def fits_its_input(module: nn.Module) -> bool:
    """Whether a convolution pads by the size of its input, as TensorFlow does: timm's Conv2dSame."""
    return isinstance(module, nn.Conv2d) and type(module).__name__ == "Conv2dSame"


def _only_named(module: nn.Module) -> bool:
    """Whether a convolution's class adds nothing to torch's but arguments, such as torchvision's Conv3DSimple."""
    own = vars(type(module)) if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else {"forward": None}
    return type(module).__base__ in CONVERTIBLE and "forward" not in own and "_conv_forward" not in own


def layer_spec(name: str, module: nn.Module) -> LayerSpec:
    """Read a layer's sizes.

    Raises:
        PlanError: if the module is no convolution or linear layer.
    """
    if isinstance(module, nn.Linear | DynamicLinear):
        return LayerSpec(
            name=name,
            in_channels=module.in_features,
            out_channels=module.out_features,
            bias=module.bias is not None,
        )
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | DynamicConvNd):
        return LayerSpec(
            name=name,
            in_channels=module.in_channels,
            out_channels=module.out_channels,
            kernel_size=tuple(module.kernel_size),
            stride=tuple(module.stride),
            groups=module.groups,
            bias=module.bias is not None,
        )
    raise PlanError(f"'{name}' is a {type(module).__name__}; expected nn.Conv1d, nn.Conv2d, nn.Conv3d or nn.Linear")


def _tied_weights(model: nn.Module) -> set[int]:
    """Ids of weights that more than one module uses."""
    seen: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, count in seen.items() if count > 1}


def _inside(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def find_candidates(model: nn.Module) -> Candidates:
    """Sort a network's layers into trunk, default selection, other convertible ones, and refused ones."""
    modules = list(model.named_modules())
    gates = [n for n, m in modules if n and any(mark in type(m).__name__.lower() for mark in GATE_CLASS_MARKS)]
    heads = [n for n, m in modules if n and any(HEAD_CLASS.fullmatch(kind.__name__) for kind in type(m).__mro__)]
    dynamic = [n for n, m in modules if isinstance(m, DynamicLayer)]
    read = {
        f"{n}.{child}".removeprefix("."): type(m).__name__
        for n, m in modules
        for child in READ_BY_PARENT.get(type(m).__name__, ())
    }
    tied, trunk, other, refused = _tied_weights(model), [], [], {}
    layers = [(n, m) for n, m in modules if isinstance(m, CONVERTIBLE) and not _inside(n, dynamic)]
    for name, module in layers:
        weight = module._parameters.get("weight")
        if not (type(module) in CONVERTIBLE or fits_its_input(module) or _only_named(module)):
            refused[name] = f"{type(module).__name__} is a subclass of its own behaviour"
        elif weight is None:
            refused[name] = "its weight is no plain parameter (parametrised, or made by another module)"
        elif id(weight) in tied:
            refused[name] = "its weight is tied to another layer's"
        elif name in read:
            refused[name] = f"its parent, a {read[name]}, reads its weight"
        elif _inside(name, [*gates, *heads]) or _is_head(name):
            other.append(layer_spec(name, module))
        else:
            trunk.append(layer_spec(name, module))
    blocks = read_structure(trunk).block_of if trunk else {}
    mappings = [spec for spec in trunk if spec.is_linear and (blocks[spec.name] is None or _is_narrow(spec))]
    trunk = [spec for spec in trunk if spec not in mappings]
    structure = read_structure(trunk) if trunk else None
    stem = set(structure.stem) if structure else set()
    default = [spec for spec in trunk if spec not in stem]
    order = {name: i for i, (name, _) in enumerate(layers)}
    other = sorted([*other, *mappings], key=lambda spec: order[spec.name])
    whole = [
        layer_spec(n, m)
        for n, m in modules
        if isinstance(m, DynamicConvNd) and not _is_head(n) and not _inside(n, heads)
    ]
    place = {name: i for i, (name, _) in enumerate(modules)}
    body = sorted([*trunk, *whole], key=lambda spec: place[spec.name])
    return Candidates(tuple(trunk), tuple(body), tuple(default), tuple(other), refused)


def _is_head(name: str) -> bool:
    """Whether a layer lies under what is called a head at the network's root, or under a detection head anywhere."""
    parts = name.split(".")
    return bool(HEAD_PART.fullmatch(parts[0])) or any(HEAD_PART.fullmatch(p) and p.lower() != "fc" for p in parts[1:-1])


def _is_narrow(spec: LayerSpec) -> bool:
    return min(spec.in_channels, spec.out_channels) < NARROW_LINEAR


def _listing(candidates: Candidates) -> str:
    names = [spec.name for spec in candidates.convertible]
    dynamic = len(candidates.body) - len(candidates.trunk)
    if dynamic:
        return f"{dynamic} convolutions are dynamic already; {_static_listing(names, candidates)}"
    return _static_listing(names, candidates)


def _static_listing(names: Sequence[str], candidates: Candidates) -> str:
    lines = [f"layers that could be selected ({len(names)}): {', '.join(names) or 'none'}"]
    lines += [f"'{name}' can not be: {why}" for name, why in list(candidates.refused.items())[:8]]
    return "\n".join(lines)


def select_layers(
    model: nn.Module, candidates: Candidates, where: Where | None = None, default: Sequence[LayerSpec] | None = None
) -> list[LayerSpec]:
    """Apply a user's ``where``.

    Args:
        model: the network.
        candidates: as found by :func:`find_candidates`.
        where: None for the default (every layer of the body but the stem; gates and heads stay static); a module's
            name, or a pattern or several, as in :mod:`fnmatch`, where ``!pattern`` takes layers away again and a list
            that begins with one starts from the default; or a function of name and module.
        default: what ``None`` and exclusions start from; every layer of the body but the stem if not given.

    Returns:
        The selected layers in module order.

    Raises:
        NothingSelectedError: if no layer is selected; it lists what could have been.
        PlanError: if a pattern names a layer that can not be converted, or nothing.
    """
    if isinstance(where, type) or not (where is None or callable(where) or isinstance(where, str | Sequence)):
        raise PlanError(f"where={where!r}; expected a name, a pattern, several, or a function of name and module")
    available = candidates.convertible
    usual = {spec.name for spec in (candidates.default if default is None else default)}
    if where is None:
        chosen = usual
    elif callable(where):
        modules = dict(model.named_modules())
        chosen = {spec.name for spec in available if where(spec.name, modules[spec.name])}
    else:
        chosen = _match([where] if isinstance(where, str) else list(where), candidates, usual)
    if not chosen:
        asked = "the default selection" if where is None else f"where={where!r}"
        raise NothingSelectedError(f"{asked} selects no layer of {type(model).__name__}\n{_listing(candidates)}")
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return sorted((spec for spec in available if spec.name in chosen), key=lambda spec: order[spec.name])


def named_directly(selected: Sequence[LayerSpec], where: Where | None) -> set[str]:
    """Names of the layers that ``where`` itself names or picks, and not only a module that they are in."""
    if where is None or callable(where):
        return {spec.name for spec in selected}
    patterns = [where] if isinstance(where, str) else list(where)
    return {s.name for s in selected if any(fnmatchcase(s.name, p) for p in patterns if not p.startswith("!"))}


def _match(patterns: list[str], candidates: Candidates, usual: set[str]) -> set[str]:
    names = [spec.name for spec in candidates.convertible]
    chosen = set(usual) if patterns and patterns[0].startswith("!") else set()
    for pattern in patterns:
        body = pattern.removeprefix("!")
        hits = {name for name in names if fnmatchcase(name, body) or fnmatchcase(name, f"{body}.*")}
        if not hits:
            refused = [f"'{n}': {why}" for n, why in candidates.refused.items() if fnmatchcase(n, body)]
            reason = f"; it names {'; '.join(refused)}" if refused else ""
            raise NothingSelectedError(f"where pattern {pattern!r} matches no layer{reason}\n{_listing(candidates)}")
        chosen = chosen - hits if pattern.startswith("!") else chosen | hits
    return chosen
