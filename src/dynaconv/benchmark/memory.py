"""Peak memory of a contender's pass, in a process of its own: `python -m dynaconv.benchmark.memory`.

The figure is what the pass needs at its peak above what the process held before there was a network: weights,
gradients, activations, kernels, and the batch. What building the network needed on its way does not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dynaconv.analysis.memory import answer, measure_in_process, watch_peak
from dynaconv.benchmark.contenders import CONTENDERS, OURS, REFERENCE, TEXTBOOK, Contender, build
from dynaconv.benchmark.passes import make_batch, make_pass
from dynaconv.benchmark.settings import BenchSettings
from dynaconv.benchmark.small import small_network
from dynaconv.models import get_preset

CALLS = 2
WARM_UP_IMAGES, SMALL_SIDE = 2, 16


def measure_peak(contender: str, network: str, training: bool, batch: int, settings: BenchSettings) -> int:
    """Peak memory of a pass in bytes, measured in a fresh process.

    Args:
        contender: one of :data:`dynaconv.benchmark.contenders.CONTENDERS`.
        network: a preset.
        training: a training step, not inference.
        batch: images.
        settings: image size, device, and what preparing may add.

    Raises:
        DynaconvError: if the process fails; it holds the last line it wrote.
    """
    return measure_in_process(
        "dynaconv.benchmark.memory",
        {
            "contender": contender,
            "network": network,
            "training": training,
            "batch": batch,
            "image_size": settings.image_size,
            "device": settings.device,
            "max_extra_mb": settings.max_extra_mb,
        },
    )


def peak_of_pass(request: Mapping[str, Any]) -> int:
    """Peak memory of a pass in bytes, in this process, which should do nothing else."""
    contender, device = CONTENDERS[request["contender"]], request["device"]
    size, training = request["image_size"], request["training"]
    _warm_up(contender, request["network"], size, device, training)
    peak = watch_peak(torch.device(device))
    model = build(contender, request["network"], device, request["max_extra_mb"])
    call = make_pass(contender, model, make_batch(request["batch"], size, device), training)
    watch_peak(torch.device(device))  # forgets the peak of building; the first figure stays what it counts from
    for _ in range(CALLS):
        call()
    return peak()


def excess(peak_bytes: Mapping[str, int]) -> dict[str, Any]:
    """What contenders need above the static network.

    Args:
        peak_bytes: by contender.

    Returns:
        ``bytes`` by contender, and ``share_of_textbook``: ours as a share of the textbook's; None where one is missing.

    Example:
        >>> excess({"static_channels_last": 10, "ours": 13, "textbook": 20})
        {'bytes': {'ours': 3, 'textbook': 10}, 'share_of_textbook': 0.3}
    """
    base = peak_bytes.get(REFERENCE)
    if base is None:
        return {"bytes": {}, "share_of_textbook": None}
    above = {name: peak - base for name, peak in peak_bytes.items() if CONTENDERS[name].dynamic}
    comparable = OURS in above and above.get(TEXTBOOK, 0) > 0
    return {"bytes": above, "share_of_textbook": above[OURS] / above[TEXTBOOK] if comparable else None}


def _warm_up(contender: Contender, network: str, image_size: int, device: str, training: bool) -> None:
    """Load code, and let libraries prepare themselves, which they do when they first run.

    On the static network, and on a small one of the method: scratch memory that a backend keeps for the network itself
    is part of what is measured.
    """
    static = CONTENDERS[REFERENCE]
    make_pass(static, build(static, network, device, 0), make_batch(WARM_UP_IMAGES, image_size, device), training)()
    if contender.dynamic:
        small = small_network(get_preset(network).config.method).to(device)
        make_pass(contender, small, make_batch(WARM_UP_IMAGES, SMALL_SIDE, device), training)()


if __name__ == "__main__":
    answer(peak_of_pass)
