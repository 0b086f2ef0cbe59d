"""Time folded cells (dynaconv.ops.folding) against mixing the cells, on layers of KernelWarehouse 4x ResNet18.

    python benchmarks/folding.py [--threads 2] [--rounds 15]

Each row: a layer and a batch; milliseconds of mixing and convolution over n cells, the same over r + 1 terms, their
ratio, and whether the rule picks the terms. Contenders run in turn within a round, medians are compared. The constants
of ``dynaconv.ops.folding`` come from here.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from dynaconv.ops import Geometry, Mixture, empty_cells, mixture_conv
from dynaconv.ops.folding import Terms, saved_madds

# in, out, kernel, stride, input size, cells, hidden, out-blocks
LAYERS = [
    (64, 64, 3, 1, 56, 224, 16, 1),
    (128, 128, 3, 1, 28, 188, 16, 1),
    (256, 256, 3, 1, 14, 188, 16, 1),
    (256, 512, 3, 2, 14, 188, 16, 2),
    (512, 512, 3, 1, 7, 108, 32, 1),
    (256, 512, 1, 2, 14, 188, 16, 2),
    (256, 256, 3, 1, 14, 47, 16, 1),
    (512, 512, 3, 1, 7, 54, 32, 1),
]
BATCHES = (1, 2, 4, 8, 16, 32)


def measure(layer: tuple[int, ...], batch: int, rounds: int) -> tuple[float, float, bool]:
    """Milliseconds with cells and with terms, and whether the rule takes the terms."""
    channels, out, kernel, stride, size, count, hidden, blocks = layer
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1))
    mixture = Mixture((kernel**2, blocks, 1), geometry)
    own = Mixture(mixture.grid, geometry, own_cells=True)
    cells = empty_cells(count, out // blocks, channels, 1, 1).normal_()
    terms = empty_cells(hidden + 1, out, channels, kernel, kernel).normal_()
    x = torch.randn(batch, channels, size, size).contiguous(memory_format=torch.channels_last)
    over_cells = torch.randn(batch, kernel**2 * blocks, count)
    over_terms = torch.randn(batch, kernel**2 * blocks, hidden + 1)
    runs = {
        "cells": lambda: mixture_conv(x, over_cells, cells, mixture),
        "terms": lambda: mixture_conv(x, over_terms, terms, own),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 2):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - began)
    took = [1e3 * statistics.median(values) for values in seconds.values()]
    picked = saved_madds(hidden, mixture, cells) > 0 and Terms(terms, own, count).pay(x.shape, cells.shape, mixture)
    return took[0], took[1], picked


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds")
    print("in->out     k s size   n   r  batch   cells ms   terms ms  ratio  picked")
    with torch.inference_mode():
        for layer in LAYERS:
            for batch in BATCHES:
                cells, terms, picked = measure(layer, batch, arguments.rounds)
                sizes = "{:3d}->{:3d}  {:2d} {:1d} {:4d} {:4d} {:3d}".format(*layer[:7])
                print(f"{sizes}  {batch:5d} {cells:10.2f} {terms:10.2f}  {cells / terms:5.2f}  {picked}", flush=True)


if __name__ == "__main__":
    main()
