"""Does a detector train on every preset's backbone? One forward and backward pass each, on two small images.

    python benchmarks/detectors.py ['kw*']

Prints a line a preset: parameters, levels, and what is wrong: a loss that is not finite, a trained parameter without a
gradient, weights that do not load strictly. Presets without stages (DeiT) are to be refused.
"""

from __future__ import annotations

import sys
import time

import torch

import dynaconv
from dynaconv.detection import DetectorConfig, create_detector
from dynaconv.errors import DynaconvError

SETTINGS = DetectorConfig(image_size=64, max_size=96, pyramid_channels=32, box_channels=32, mask_channels=32)


def attempt(name: str) -> str:
    torch.manual_seed(0)
    try:
        detector = create_detector(name, num_classes=3, detector=SETTINGS).train()
    except DynaconvError as error:
        return f"refused: {error}"
    boxes, masks = torch.tensor([[4.0, 5.0, 40.0, 42.0]]), torch.ones(1, 64, 80, dtype=torch.uint8)
    target = {"boxes": boxes, "labels": torch.tensor([2]), "masks": masks}
    empty = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.long), "masks": masks[:0]}
    losses = detector([torch.rand(3, 64, 80), torch.rand(3, 64, 80)], [target, empty])
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    bad = [] if torch.isfinite(loss) else ["loss"]
    for key, parameter in detector.named_parameters():
        if parameter.requires_grad and (parameter.grad is None or not torch.isfinite(parameter.grad).all()):
            bad.append(key)
    create_detector(name, num_classes=3, detector=SETTINGS).load_state_dict(detector.state_dict(), strict=True)
    count = sum(parameter.numel() for parameter in detector.backbone.body.parameters())
    levels = ", ".join(detector.backbone.level_names)
    return f"{'ok' if not bad else f'WRONG: {bad}'}  {count:,} parameters without head; {levels}"


if __name__ == "__main__":
    for name in dynaconv.list_models(*sys.argv[1:]):
        started = time.perf_counter()
        print(f"{name:<28} {attempt(name)}  ({time.perf_counter() - started:.0f} s)", flush=True)
