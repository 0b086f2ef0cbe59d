"""Compare weights with a network by names and shapes, and say in groups what does not fit, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dynaconv.checkpoints import backbone_causes as backbone
from dynaconv.checkpoints import dynamic_causes as dynamic
from dynaconv.checkpoints.pool import Cause, Pool

WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "ema", "ema_model", "averaged_model")
"""What wrappers call the network inside: DataParallel, torch.compile, Lightning modules, moving averages."""

RULES: Sequence[Callable[[Pool], Cause | None]] = (
    dynamic.public_names,
    dynamic.other_method,
    dynamic.static_weights,
    dynamic.dynamic_weights,
    dynamic.temperatures,
    backbone.counters,
    dynamic.other_cells,
    dynamic.other_config,
    dynamic.gates,
    backbone.stem,
    backbone.classifier,
    backbone.another_network,
    backbone.depth,
    backbone.width,
    backbone.besides,
    backbone.lacking,
)
"""In the order in which they are asked: what is certain first."""


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """How weights fit a network.

    Args:
        fitting: tensors whose name and shape are the network's.
        expected: tensors of the network.
        given: tensors of the weights.
        causes: what does not fit, in groups.
        notes: what was done to make the rest fit.
    """

    fitting: int
    expected: int
    given: int
    causes: tuple[Cause, ...]
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether nothing stands in the way of loading."""
        return all(cause.harmless for cause in self.causes)

    def __str__(self) -> str:
        """One line if all fits, else a paragraph a cause."""
        lines = [f"{self.fitting} of the network's {self.expected} tensors fit, of {self.given} given"]
        if self.fits:
            kept = (f"{cause.title} are missing ({len(cause.names)}): {cause.fix}" for cause in self.causes)
            return "; ".join([*lines, *self.notes, *kept])
        return "\n".join(["; ".join([*lines, *self.notes]), *(f"  {cause}" for cause in self.causes)])


def wrapper_prefix(names: Sequence[str]) -> str:
    """What wrappers put before every name.

    Example:
        >>> wrapper_prefix(["module._orig_mod.conv1.weight", "module._orig_mod.fc.bias"])
        'module._orig_mod.'
    """
    prefix = ""
    while names:
        first = names[0].removeprefix(prefix).partition(".")[0]
        longer = f"{prefix}{first}."
        if first not in WRAPPERS or not all(name.startswith(longer) for name in names):
            break
        prefix = longer
    return prefix


def align_names(expected: Sequence[str], given: Sequence[str]) -> tuple[dict[str, str], str | None]:
    """Names of the weights -> those that the network would have for them, where wrappers alone make the difference.

    Returns:
        The mapping, and what was done to the names, or None.
    """
    same = {name: name for name in given}
    if set(expected) & set(given):
        return same, None
    ours = wrapper_prefix(expected)
    theirs = wrapper_prefix([name for name in given if name != "n_averaged"])
    if ours == theirs:
        return same, None
    left = sorted(set(given) - {name for name in given if name.startswith(theirs)})
    renamed = {name: ours + name.removeprefix(theirs) for name in given if name.startswith(theirs)}
    if not set(renamed.values()) & set(expected):
        return same, None
    done = [f"the prefix '{theirs}' was taken off"] * bool(theirs) + [f"the prefix '{ours}' was put on"] * bool(ours)
    done += [f"{', '.join(left)} left out"] * bool(left)
    return renamed, ", ".join(done)


def _several(expected: Mapping[str, object], given: Sequence[str]) -> Cause | None:
    """States of more than the network: a network below a prefix, beside other things."""
    if set(expected) & set(given):
        return None
    heads = list(dict.fromkeys(name.partition(".")[0] for name in given))
    counts = {h: sum(n.startswith(f"{h}.") and n.removeprefix(f"{h}.") in expected for n in given) for h in heads}
    best = [head for head, count in counts.items() if 2 * count >= len(expected) and count > 0]
    if not best:
        return None
    names = tuple(f"{head}.* ({counts[head]} names fit)" for head in best)
    prefix = f"{best[-1]}."
    return Cause(
        "the network stands below a prefix, beside other tensors",
        names,
        f"choose one: state = {{k.removeprefix({prefix!r}): v for k, v in state.items() if k.startswith({prefix!r})}}",
    )


def compare_weights(expected: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> WeightsReport:
    """Compare the shapes of weights with those that a network expects.

    Args:
        expected: the network's names and shapes.
        given: those of the weights. Prefixes of wrappers, when all names have them, make no difference.

    Returns:
        The report; print it.

    Example:
        >>> report = compare_weights({"fc.weight": (10, 4)}, {"module.fc.weight": (5, 4)})
        >>> report.fits, report.causes[0].title
        (False, 'a classifier of 5 classes, here of 10')
    """
    names, done = align_names(list(expected), list(given))
    ours = {name: tuple(shape) for name, shape in expected.items()}
    theirs = {name: tuple(given[old]) for old, name in names.items()}
    fitting = sum(name in theirs and theirs[name] == shape for name, shape in ours.items())
    report = WeightsReport(
        fitting=fitting, expected=len(ours), given=len(given), causes=(), notes=() if done is None else (done,)
    )
    if (below := _several(ours, list(theirs))) is not None:
        return replace(report, causes=(below,))
    pool, causes = Pool(ours, theirs), []
    for rule in RULES:
        if pool and (cause := rule(pool)) is not None:
            causes.append(cause)
    return replace(report, causes=tuple(causes))
