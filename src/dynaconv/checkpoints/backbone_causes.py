"""Why the weights of a backbone do not fit: one function a cause, each takes from the pool what it explains."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dynaconv.checkpoints.pool import Cause, Pool, layer_of

# Not inside numbered blocks, whose gates have an `fc`, too.
_HEAD = re.compile(r"([a-zA-Z_]\w*\.)*(fc|classifiers?|heads?|head_dist|last_linear)(\.\w+)*\.(weight|bias)")


def classifier(pool: Pool) -> Cause | None:
    """Another number of classes, or a classifier on one side alone."""
    heads = [n for n in pool.misshaped if _HEAD.fullmatch(n) and pool.given[n][1:] == pool.expected[n][1:]]
    if heads:
        theirs, ours = pool.given[heads[0]][0], pool.expected[heads[0]][0]
        drop = heads[0].rpartition(".")[0]
        return Cause(
            f"a classifier of {theirs} classes, here of {ours}",
            pool.take(heads),
            f"make the network with num_classes={theirs}; or, for a new classifier, put the network's own in: "
            f"state = {{**state, **{{k: v for k, v in model.state_dict().items() if k.startswith({drop + '.'!r})}}}}",
        )
    add, drop = "make the network with num_classes=0, or add its own classifier to the weights", "drop these names"
    for names, others, lacks, fix in (
        (pool.missing, pool.given, "weights have", add),
        (pool.unexpected, pool.expected, "network has", drop),
    ):
        found = [name for name in names if _HEAD.fullmatch(name)]
        if found and not any(_HEAD.fullmatch(name) and layer_of(name) is None for name in others):
            return Cause(f"a classifier, where the {lacks} none", pool.take(found), fix)
    return None


def stem(pool: Pool) -> Cause | None:
    """Another number of image channels."""
    first = next((name for name, shape in pool.expected.items() if len(shape) > 2 and name.endswith("weight")), None)
    if first is None or first not in pool.misshaped:
        return None
    theirs, ours = pool.given[first], pool.expected[first]
    if theirs[:1] + theirs[2:] != ours[:1] + ours[2:]:
        return None
    return Cause(
        f"image channels: {theirs[1]}, here {ours[1]}",
        pool.take([first]),
        f"make the network with in_chans={theirs[1]}",
    )


def counters(pool: Pool) -> Cause | None:
    """Batch normalisation's counters, which nothing but a cumulative average reads."""
    names = (name.rpartition(".") for name in pool.missing)
    found = [f"{m}.{n}" for m, _, n in names if n == "num_batches_tracked" and f"{m}.running_mean" in pool.given]
    if not found:
        return None
    return Cause("counters of batches", pool.take(found), "the network keeps its own", harmless=True)


def _blocks(names: Iterable[str]) -> set[str]:
    """Indexed prefixes, such as layer1.0."""
    parts = (name.split(".") for name in names)
    return {".".join(p[: i + 1]) for p in parts for i, part in enumerate(p[:-1]) if part.isdigit()}


def another_network(pool: Pool) -> Cause | None:
    """Hardly a tensor that fits."""
    fitting = sum(pool.given.get(name) == shape for name, shape in pool.expected.items())
    if not pool or 10 * fitting > len(pool.expected):
        return None
    names = pool.take([*pool.unexpected, *pool.misshaped, *pool.missing])
    return Cause(
        "other names and shapes",
        names,
        "these are weights of another network: make the one that they were trained with",
    )


def depth(pool: Pool) -> Cause | None:
    """Blocks that one side alone has."""
    theirs, ours = _blocks(pool.given), _blocks(pool.expected)
    extra = [n for n in pool.unexpected if _blocks([n]) - ours]
    lacking = [n for n in pool.missing if _blocks([n]) - theirs]
    if not extra and not lacking:
        return None
    numbers = f"{len(_blocks(extra) - ours)} that are not here, {len(_blocks(lacking) - theirs)} missing"
    return Cause(
        f"blocks of a backbone of another depth: {numbers}",
        pool.take([*extra, *lacking]),
        "make the network from the backbone that they were trained with",
    )


def width(pool: Pool) -> Cause | None:
    """Shapes that differ for no cause above."""
    if not pool.misshaped:
        return None
    return Cause(
        "other shapes: a backbone of another width, or of other kernels",
        pool.take(list(pool.misshaped)),
        "make the network from the backbone, and with the arguments, that they were trained with",
    )


def besides(pool: Pool) -> Cause | None:
    """Names that the network does not have."""
    if not pool.unexpected:
        return None
    return Cause(
        "names that the network does not have",
        pool.take(list(pool.unexpected)),
        "is it the same backbone, and the state dict of the network alone? Drop what is not the network's",
    )


def lacking(pool: Pool) -> Cause | None:
    """Names that the weights do not have."""
    if not pool.missing:
        return None
    return Cause(
        "names that the weights lack",
        pool.take(list(pool.missing)),
        "is it the same backbone, and all of its weights?",
    )
