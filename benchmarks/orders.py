"""Time every order of products and backend on KernelWarehouse layers, as ratios to the static convolution.

    python benchmarks/orders.py [--threads 2] [--batch 32] [--repeats 7]

Contenders run interleaved, and medians are compared within this run, so that a noisy machine distorts all alike.
The last column is what the cost model picks.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dynaconv.ops import Geometry, mixture_conv
from dynaconv.ops.cost import cheapest_conv_backend, cheapest_order
from dynaconv.ops.per_sample_conv import static_conv

# channels in, channels out, kernel, stride, map size, cells in the warehouse
SHAPES = [
    (64, 64, 3, 1, 56, 56),
    (128, 128, 3, 1, 28, 47),
    (256, 256, 3, 1, 14, 47),
    (512, 512, 3, 1, 7, 27),
    (64, 64, 1, 1, 56, 56),
    (256, 256, 1, 1, 14, 47),
    (32, 32, 3, 1, 16, 33),
    (64, 64, 3, 1, 8, 56),
    (128, 128, 3, 1, 4, 47),
    (256, 256, 3, 1, 2, 47),
    (512, 512, 3, 1, 1, 27),
]
CONTENDERS = [("kernels", "grouped"), ("kernels", "loop"), ("kernels", "matmul"), ("outputs", "auto")]


def timed(run: Callable[[], Tensor], train: bool) -> float:
    start = time.perf_counter()
    y = run()
    if train:
        y.sum().backward()
    return time.perf_counter() - start


def measure(shape: tuple[int, ...], batch: int, repeats: int, train: bool) -> dict[str, float]:
    channels, out, kernel, stride, size, cells_count = shape
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1))
    grid = (kernel * kernel, 1, 1)
    x = torch.randn(batch, channels, size, size, requires_grad=train)
    cells = torch.randn(cells_count, out, channels, 1, 1, requires_grad=train)
    attention = torch.randn(batch, kernel * kernel, cells_count, requires_grad=train)
    weight = torch.randn(out, channels, kernel, kernel, requires_grad=train)
    runs: dict[str, Callable[[], Tensor]] = {"static": lambda: static_conv(x, weight, geometry)}
    for order, backend in CONTENDERS:
        name = order if order == "outputs" else backend
        runs[name] = lambda o=order, b=backend: mixture_conv(x, attention, cells, grid, geometry, order=o, backend=b)
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.set_grad_enabled(train):
        for repeat in range(repeats + 1):
            for name, run in runs.items():
                seconds = timed(run, train)
                if repeat:
                    times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = ["grouped", "loop", "matmul", "outputs"]
    for train in (False, True):
        print(
            f"\n{'forward + backward' if train else 'forward'}, batch {args.batch}, ratios to static; "
            f"torch {torch.__version__}"
        )
        print(f"{'in->out k size n':24s} {'static ms':>9s} " + " ".join(f"{n:>8s}" for n in names) + "  picked")
        for shape in SHAPES:
            result = measure(shape, args.batch, args.repeats, train)
            channels, out, kernel, _, size, cells_count = shape
            geometry = Geometry((kernel,) * 2, (1, 1), (kernel // 2,) * 2, (1, 1))
            x = (args.batch, channels, size, size)
            picked = cheapest_order(x, (cells_count, out, channels, 1, 1), (kernel * kernel, 1, 1), geometry)
            if picked == "kernels":
                picked = cheapest_conv_backend(x, (args.batch, out, channels, kernel, kernel), geometry)
            label = f"{channels}->{out} {kernel}x{kernel} {size}px n={cells_count}"
            ratios = " ".join(f"{result[n] / result['static']:8.2f}" for n in names)
            print(f"{label:24s} {result['static'] * 1e3:9.2f} {ratios}  {picked}", flush=True)


if __name__ == "__main__":
    main()
