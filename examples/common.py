"""What the examples share: their flags, scenes to learn from, a short training, and the facts they end with."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

import dynaconv

METHODS = ("kernel_warehouse", "odconv", "dyconv")


def parse(description: str | None, steps: int, **more: tuple[Any, str]) -> argparse.Namespace:
    """The flags of an example: method, budget, steps, seed, threads, and ``more`` (default, help).

    In a notebook they have their defaults.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help="dynamic convolution to convert to")
    parser.add_argument("--budget", type=float, default=1.0, help="KernelWarehouse's cells relative to the kernels")
    parser.add_argument("--steps", type=int, default=steps, help="training steps, before and after conversion")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the CPU")
    for name, (default, text) in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    args = parser.parse_args([] if "ipykernel" in sys.modules else None)  # a notebook's flags are its kernel's
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    return args


def method_config(args: argparse.Namespace) -> Any:
    """The config that ``--method`` and ``--budget`` ask for."""
    options = {"method": args.method}
    if args.method == "kernel_warehouse":
        options["budget"] = args.budget
    return dynaconv.config_from_dict(options)


@dataclass
class Scenes:
    """Digits of scikit-learn on its photographs.

    Args:
        images: shape ``(N, 3, size, size)``, 0 to 1.
        masks: shape ``(N, size, size)``: 1 where a digit's ink is, else 0.
        boxes: for every image, rows of digit, left, top, side in pixels.
    """

    images: Tensor
    masks: Tensor
    boxes: list[list[tuple[int, int, int, int]]]

    @property
    def digits(self) -> Tensor:
        """The digit of every image that has one, shape ``(N,)``."""
        return torch.tensor([rows[0][0] for rows in self.boxes])

    def batches(self, size: int, seed: int = 0) -> Iterator[Tensor]:
        """Indices of random batches, for ever."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from torch.randperm(len(self.images), generator=generator).split(size)


def make_scenes(number: int, size: int, digits: int = 1, seed: int = 0) -> Scenes:
    """Draw scenes: a crop of a photograph, and so many digits of 30 to 60 % of its side on it."""
    random = np.random.default_rng(seed)
    photographs, source = load_sample_images().images, load_digits()
    images, masks, boxes = [], [], []
    for _ in range(number):
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(length - size) for length in photograph.shape[:2])
        image = photograph[top : top + size, left : left + size].astype(np.float32) / 255
        mask, rows = np.zeros((size, size), np.int64), []
        for _ in range(digits):
            index, side = random.integers(len(source.images)), int(size * random.uniform(0.3, 0.6))
            x, y = (int(v) for v in random.integers(0, size - side, 2))
            small = Image.fromarray((source.images[index] * 15.9).astype(np.uint8))
            ink = np.asarray(small.resize((side, side))).astype(np.float32)[..., None] / 255
            patch = image[y : y + side, x : x + side]
            image[y : y + side, x : x + side] = patch * (1 - ink) + ink
            mask[y : y + side, x : x + side] |= ink[..., 0] > 0.5
            rows.append((int(source.target[index]), x, y, side))
        images.append(torch.from_numpy(image).permute(2, 0, 1))
        masks.append(torch.from_numpy(mask))
        boxes.append(rows)
    return Scenes(torch.stack(images), torch.stack(masks), boxes)


def parameters(model: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(p.numel() for p in model.parameters())


def train(model: nn.Module, steps: int, loss_of: Callable[[], Tensor], rate: float = 1e-3) -> tuple[float, float]:
    """Train with AdamW, the temperature falling over the first tenth; the mean loss of the first and last few steps."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=rate), []
    model.train()
    for step in range(steps):
        dynaconv.schedule_temperature(model, min(10 * (step + 1) / steps, 1.0))
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    few = max(steps // 5, 1)
    first, last = (sum(part) / few for part in (losses[:few], losses[-few:]))
    check(last == last and last < float("inf"), f"the loss is not finite: {losses}")
    if steps >= 20:
        check(last < first, f"the loss did not fall: {first:.4f} to {last:.4f} in {steps} steps")
    return first, last


def tensors(output: Any) -> list[Tensor]:
    """Every tensor of a network's output, whatever it is wrapped in."""
    if isinstance(output, Tensor):
        return [output]
    items = output.values() if hasattr(output, "values") else output if isinstance(output, list | tuple) else ()
    return [tensor for item in items for tensor in tensors(item)]


@torch.no_grad()
def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The network's outputs in evaluation."""
    return tensors(model.eval()(x))


def difference(found: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference relative to the largest output."""
    check(bool(found) and len(found) == len(expected), f"{len(found)} outputs, expected {len(expected)}")
    scale = max(float(t.abs().max()) for t in expected)
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)) / max(scale, 1e-12)


def check(holds: bool, message: str) -> None:
    """End the example with an error unless something holds."""
    if not holds:
        sys.exit(f"FAILED: {message}")


def same(found: list[Tensor], expected: list[Tensor], what: str, tolerance: float = 1e-4) -> float:
    """Check that outputs agree, relative to the largest; returns by how much they differ."""
    differs = difference(found, expected)
    check(differs <= tolerance, f"{what}: outputs differ by {differs:.2e} of the largest, more than {tolerance:.0e}")
    return differs


def convert(model: nn.Module, args: argparse.Namespace, x: Tensor, where: Any = None) -> dict[str, Any]:
    """Convert a network with what it has learned, check that it computes the same, and say so.

    With fewer cells than kernels (``--budget`` below 1) the start is an approximation, and only reported.

    Args:
        model: with trained weights; it is converted in place.
        args: of :func:`parse`.
        x: inputs to compare on.
        where: which layers, as in :func:`dynaconv.plan`.

    Returns:
        Facts.
    """
    before, expected = parameters(model), outputs(model, x)
    dynaconv.convert(model, method_config(args), where, init="pretrained")
    layers, found = len(list(dynaconv.dynamic_layers(model))), outputs(model, x)
    exact = args.method != "kernel_warehouse" or args.budget >= 1
    print(f"{layers} layers converted to {args.method}")
    print(dynaconv.warm_start_report(model))
    differs = same(found, expected, "before and after conversion") if exact else difference(found, expected)
    return {
        "parameters before": before,
        "parameters after": parameters(model),
        "layers converted": layers,
        "largest difference after conversion (of the largest output)": f"{differs:.1e}",
    }


def tell(facts: dict[str, Any]) -> None:
    """Print facts, one a line."""
    print()
    for name, value in facts.items():
        print(f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}")
