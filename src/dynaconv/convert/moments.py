"""What a network's layers see, from a few batches: mean squares of inputs, and statistics of normalisations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import DynaconvError


def input_moments(model: nn.Module, names: Iterable[str], batches: Iterable[Any]) -> dict[str, Tensor]:
    """Mean square of every input channel of some layers, in evaluation and without gradients.

    Args:
        model: the network; its mode is left as it was.
        names: of convolutions and linear layers.
        batches: a tensor each, or a tuple or list whose first element is passed, or a mapping of named arguments.

    Returns:
        Layer -> shape ``(C,)``, float64.

    Raises:
        DynaconvError: if there is no batch, or a layer never ran.
    """
    names = list(names)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = (*inputs, *named.values())[0].detach()
            channels_last = isinstance(module, nn.Linear)
            batched = x.dim() == (0 if channels_last else len(module.get_parameter("weight").shape))
            place = -1 if channels_last else 1 if batched else 0
            values = x.double().movedim(place, -1).flatten(0, -2)
            sums[name] = sums.get(name, 0) + values.square().sum(dim=0)
            counts[name] = counts.get(name, 0) + len(values)

        return look

    modes = {module: module.training for module in model.modules()}
    hooks = [model.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True) for name in names]
    seen = 0
    try:
        model.eval()
        with torch.no_grad():
            for batch in batches:
                _run(model, batch)
                seen += 1
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    if not seen:
        raise DynaconvError("calibration holds no batch; expected a few batches of inputs")
    idle = [name for name in names if not counts.get(name)]
    if idle:
        raise DynaconvError(
            f"calibration never ran {idle[:4]}; leave such layers static (where=), or give other batches"
        )
    return {name: sums[name] / counts[name] for name in sums}


def recalibrate_norms(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Estimate the running statistics of every BatchNorm anew, as means over some batches, in place.

    After a conversion that is not exact the statistics of the trained network no longer fit; this alone wins back much
    of what was lost. Weights do not change, and modes are left as they were; dropout and the like stay off.

    Args:
        model: the network.
        batches: as for calibration: a tensor each, a tuple or list whose first element counts, or named arguments.

    Returns:
        The same network.

    Raises:
        DynaconvError: if there is no batch.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    before = {buffer: buffer.clone() for norm in norms for buffer in norm.buffers()}
    seen = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = None  # a mean over all batches
        with torch.no_grad():
            for batch in batches:
                if not seen:
                    for norm in norms:
                        norm.reset_running_stats()
                _run(model, batch)
                seen += 1
    except BaseException:
        for buffer, value in before.items():
            buffer.copy_(value)
        raise
    finally:
        for norm in norms:
            norm.momentum = momenta[norm]
        for module, mode in modes.items():
            module.training = mode
    if not seen:
        raise DynaconvError("there is no batch to estimate statistics from; expected a few batches of inputs")
    return model


def _run(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, list | tuple):
        model(batch[0])
    else:
        model(batch)
