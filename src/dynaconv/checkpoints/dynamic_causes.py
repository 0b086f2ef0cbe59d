"""Why the weights of dynamic layers do not fit: one function a cause, each takes from the pool what it explains.

A dynamic layer is known by what it has instead of ``weight``: ``attention.*``, ``kernel``; KernelWarehouse's cells
stand in ``warehouses.*``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from dynaconv.checkpoints.pool import Cause, Pool, layer_of

# The first that a state has is its method; names as in dynaconv's own layers.
_METHODS = (
    (r"(.*\.)?(warehouses|warehouse_manager|warehouse)\..+", "KernelWarehouse"),
    (r"(.*\.)?attention\.ksm_.+|(.*\.)?dft_weight", "FDConv"),
    (r"(.*\.)?attention\.(heads\..+|channel_fc\..+)", "ODConv"),
    (r"(.*\.)?residual\.reduce\..+", "DCD"),
    (r"(.*\.)?attention\.encode\..+", "CGC"),
    (r"(.*\.)?attention\.reduce\..+", "WeightNet"),
    (r"(.*\.)?attention\.fc1\..+", "DY-Conv"),
    (r"(.*\.)?attention\.weight|(.*\.)?routing_fn\..+", "CondConv"),
)
_PUBLIC = re.compile(
    r"(.*\.)?(warehouse_manager\.weights\.\d+|attention\.(channel|filter|spatial|kernel)_fc\..+)|.*\.routing_fn\..+"
)


def method_of(names: Iterable[str]) -> str | None:
    """The method whose names a state has, or None."""
    listed = list(names)
    return next((method for pattern, method in _METHODS if any(re.fullmatch(pattern, n) for n in listed)), None)


def _dynamic(names: Iterable[str]) -> dict[str, None]:
    """Dynamic layers by their tensors' names, in order: a set that keeps it."""
    return dict.fromkeys(layer for name in names if (layer := layer_of(name)) is not None)


def _weight(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _of_layers(names: Iterable[str], layers: Collection[str]) -> list[str]:
    return [n for n in names if layer_of(n) in layers or n.startswith(("warehouses.", "warehouse_manager."))]


def public_names(pool: Pool) -> Cause | None:
    """Names of a method's public code."""
    found = [name for name in pool.unexpected if _PUBLIC.fullmatch(name)]
    if not found:
        return None
    layers = _dynamic(found)
    taken = pool.take([*found, *_of_layers(pool.unexpected, layers), *_of_layers(pool.missing, layers)])
    theirs, ours = method_of(found), method_of(pool.expected)
    first = "" if theirs == ours else f"make the network with {theirs}'s config and "
    return Cause(
        f"names of {theirs}'s public code",
        tuple(name for name in taken if name in pool.given),
        f"{first}load them with dynaconv.load_reference_checkpoint(model, ...)",
    )


def static_weights(pool: Pool) -> Cause | None:
    """Kernels of static layers, where the network has dynamic ones."""
    layers = [layer for layer in _dynamic(pool.missing) if _weight(layer) in pool.unexpected]
    if not layers:
        return None
    elsewhere = bool(_dynamic(pool.given))
    taken = pool.take([*map(_weight, layers), *_of_layers(pool.missing, layers)])
    kernels = tuple(name for name in taken if name in pool.given) or taken
    if elsewhere:
        return Cause(
            "layers that are static in the weights and dynamic here",
            kernels,
            "convert the network with the same where= as theirs",
        )
    return Cause(
        "kernels of static layers, where the network's are dynamic",
        kernels,
        "load them into the static network first, then convert it: "
        'dynaconv.convert(model, config, init="pretrained") starts from them',
    )


def dynamic_weights(pool: Pool) -> Cause | None:
    """Tensors of dynamic layers, where the network has static ones."""
    layers = [layer for layer in _dynamic(pool.unexpected) if _weight(layer) in pool.missing]
    if not layers:
        return None
    elsewhere, method = bool(_dynamic(pool.expected)), method_of(pool.unexpected)
    taken = pool.take([*map(_weight, layers), *_of_layers(pool.unexpected, layers)])
    if elsewhere:
        title, fix = "dynamic in the weights and static here", "convert the network with the same where= as theirs"
    else:
        title = f"dynamic in the weights ({method or 'of an unknown method'}) and static here"
        fix = (
            "convert the network first, with the config that they were trained with "
            "(dynaconv.checkpoints.load_checkpoint does both, for files that dynaconv saved)"
        )
    return Cause(f"layers that are {title}", tuple(n for n in taken if n in pool.given), fix)


def temperatures(pool: Pool) -> Cause | None:
    """Buffers of temperature that older saves lack."""
    given = _dynamic(pool.given)
    found = [n for n in pool.missing if n.endswith("attention.temperature") and layer_of(n) in given]
    if not found or any(name.endswith("attention.temperature") for name in pool.given):
        return None
    return Cause(
        "temperatures are missing, as in saves of before they were kept",
        pool.take(found),
        "set the temperature they were saved at (the schedule's end, if training was over) with "
        "dynaconv.set_temperature, and add it: state = {**model.state_dict(), **state}",
    )


def other_method(pool: Pool) -> Cause | None:
    """Layers are dynamic by another method."""
    layers = _dynamic([*pool.missing, *pool.unexpected, *pool.misshaped])
    theirs, ours = method_of(pool.given), method_of(pool.expected)
    if not layers or theirs == ours or theirs is None or ours is None:
        return None
    everything = [*pool.missing, *pool.unexpected, *pool.misshaped]
    names = pool.take([*_of_layers(everything, layers), *map(_weight, layers)])
    return Cause(
        f"layers of {theirs} in the weights, of {ours} here",
        tuple(name for name in names if name.partition(" ")[0] in pool.given),
        f"convert the static network with {theirs}'s config instead",
    )


def other_cells(pool: Pool) -> Cause | None:
    """Warehouses of another budget, cell or sharing."""
    cells = re.compile(r"warehouses\..+\.cells|(.*\.)?warehouse\.cells")
    shaped = [name for name in pool.misshaped if cells.fullmatch(name)]
    named = [name for name in (*pool.missing, *pool.unexpected) if cells.fullmatch(name)]
    if not shaped and not named:
        return None
    if named:
        what, fix = "shared by other layers", "their sharing, partition, cell_scale, where and overrides"
    elif all(pool.given[n][1:] == pool.expected[n][1:] for n in shaped):
        ratio = sum(pool.given[n][0] for n in shaped) / sum(pool.expected[n][0] for n in shaped)
        what, fix = "of another budget", f"their budget: about {ratio:.3g} times this network's"
    else:
        what, fix = "of another size", "their cell_scale (and budget, and partition)"
    rest = [n for n in (*pool.missing, *pool.unexpected, *pool.misshaped) if layer_of(n) is not None]
    return Cause(
        f"warehouses with cells {what}",
        pool.take([*shaped, *named, *rest]),
        f"convert the static network with {fix}; the config stands in the checkpoint's JSON file, if dynaconv saved it",
    )


def other_config(pool: Pool) -> Cause | None:
    """The same method with other fields, which show in many layers, not as a single loss."""
    both = _dynamic(pool.expected).keys() & _dynamic(pool.given).keys()
    found = [n for n in (*pool.unexpected, *pool.misshaped, *pool.missing) if layer_of(n) in both]
    if not found or 2 * len(_dynamic(found)) < len(both):
        return None
    return Cause(
        f"layers of {method_of(pool.expected) or 'the same method'} with another config",
        pool.take(found),
        "convert the static network with the config that the weights were trained with",
    )


def gates(pool: Pool) -> Cause | None:
    """Gates rename what they stand behind."""
    for inside, outside, ours in ((pool.missing, pool.unexpected, True), (pool.unexpected, pool.missing, False)):
        bodies = {n.rpartition(".body.")[0]: n for n in inside if ".body." in n}
        renamed = [n for n in inside if ".body." in n and n.replace(".body.", ".") in outside]
        if not renamed:
            continue
        parts = [n for n in inside if ".gate." in n and n.rpartition(".gate.")[0] in bodies]
        taken = pool.take([*renamed, *(n.replace(".body.", ".") for n in renamed), *parts])
        shown = tuple(n for n in taken if n in pool.given)
        if ours:
            fix = (
                'load them before converting (dynaconv.convert(model, config, init="pretrained") then starts from them)'
            )
            return Cause("layers that stand behind a gate here, and not in the weights", shown, fix)
        return Cause(
            "layers that stand behind a gate in the weights, and not here",
            shown,
            "convert the network first, with the gates' config",
        )
    return None
