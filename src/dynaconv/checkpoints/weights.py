"""Load plain weights into a network, all of them or none, and say what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dynaconv.checkpoints.reading import read_state_dict
from dynaconv.checkpoints.report import WeightsReport, align_names, compare_weights
from dynaconv.errors import CheckpointError


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> WeightsReport:
    """Load a state dict strictly, with errors that name causes and not only keys.

    What is no difference is not made one: the state dict may be inside a training checkpoint (``state_dict``,
    ``model``, ``ema``, ...), all names may have the prefix of a wrapper (``module.``, ``_orig_mod.``, ``model.``), and
    BatchNorm's counters may be missing. The report says so. Anything else is an error, and nothing is loaded.

    Args:
        model: a network in the form that the weights have: converted, if they are a converted network's.
        source: a state dict, or a file that holds one (safetensors, or a pickle, read with ``weights_only=True``).

    Returns:
        What fitted and what was done for it; ``print`` it.

    Raises:
        CheckpointError: if names or shapes differ; grouped by cause, each with what to do.
    """
    state, place = read_state_dict(source)
    named = f"'{source}'" if isinstance(source, str | Path) else "the state dict"
    report = load_or_explain(model, state, f"{named} does not fit {type(model).__name__}")
    return report if place is None else replace(report, notes=(f"taken from its '{place}'", *report.notes))


def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a state dict; what modules keep as extra state has none.

    Raises:
        CheckpointError: if it holds something else than tensors by name.
    """
    state = {key: value for key, value in state.items() if not str(key).endswith("_extra_state")}
    odd = [key for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"the checkpoint holds a {type(state[odd[0]]).__name__} by the key {odd[0]!r}; expected a state dict, from "
            "names to tensors"
        )
    return {name: tuple(value.shape) for name, value in state.items()}


def load_or_explain(model: nn.Module, state: Mapping[str, Tensor], problem: str) -> WeightsReport:
    """Load a state dict if nothing but harmless names is missing, else nothing.

    Args:
        model: the network.
        state: what it is given.
        problem: how the error begins.

    Raises:
        CheckpointError: the problem, and the report.
    """
    own = model.state_dict()
    report = compare_weights(shapes(own), shapes(state))
    if not report.fits:
        raise CheckpointError(f"{problem}: {report}")
    names, _ = align_names(list(own), list(state))
    with torch.no_grad():
        model.load_state_dict({**own, **{name: state[given] for given, name in names.items()}})
    return report
