"""Time every backend of one dynamic convolution against the static one: `python benchmarks/orders.py [--help]`.

Contenders run interleaved, and medians are compared within this run, so that a noisy machine distorts all alike.
The last column is the fastest, as ``use_backend("autotune")`` would find it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from dynaconv.ops import Geometry, Mixture, empty_cells, mixture_conv, native_status
from dynaconv.ops.per_sample_conv import static_conv

# channels in, channels out, kernel, stride, map size, cells, blocks of outputs, blocks of inputs
SHAPES = [
    (64, 64, 3, 1, 56, 56, 1, 1),
    (128, 128, 3, 1, 28, 47, 1, 1),
    (256, 256, 3, 1, 14, 47, 1, 1),
    (256, 512, 3, 2, 14, 188, 2, 1),
    (512, 512, 3, 1, 7, 27, 1, 1),
    (256, 1024, 1, 1, 14, 138, 4, 1),
    (1024, 256, 1, 1, 14, 138, 1, 4),
    (128, 128, 3, 1, 4, 47, 1, 1),
    (256, 256, 3, 1, 2, 47, 1, 1),
    (512, 512, 3, 1, 1, 27, 1, 1),
]
BACKENDS = ("textbook", "loop", "matmul", "outputs", "native")


def measure(shape: tuple[int, ...], batch: int, repeats: int, train: bool) -> dict[str, float]:
    channels, out, kernel, stride, size, count, rows, columns = shape
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1))
    mixture = Mixture((kernel * kernel, rows, columns), geometry)
    last = torch.channels_last
    x = torch.randn(batch, channels, size, size).contiguous(memory_format=last).requires_grad_(train)
    cells = empty_cells(count, out // rows, channels // columns, 1, 1).normal_().requires_grad_(train)
    attention = torch.randn(batch, kernel * kernel * rows * columns, count, requires_grad=train)
    weight = torch.randn(out, channels, kernel, kernel).contiguous(memory_format=last).requires_grad_(train)

    def static() -> None:
        y = static_conv(x, weight, geometry)
        if train:
            torch.autograd.grad(y, (x, weight), torch.ones_like(y))

    def dynamic(backend: str) -> None:
        y = mixture_conv(x, attention, cells, mixture, backend=backend)
        if train:
            torch.autograd.grad(y, (x, attention, cells), torch.ones_like(y))

    runs: dict[str, Callable[[], None]] = {"static": static}
    for backend in BACKENDS:
        if backend != "native" or native_status().startswith("compiled"):
            runs[backend] = lambda b=backend: dynamic(b)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(native_status())
    for train in (False, True):
        what = "forward and backward" if train else "forward"
        print(f"\n{what}, batch {args.batch}, ratios to static; torch {torch.__version__}")
        print(f"{'in->out k size n':30s} {'static ms':>9s} " + " ".join(f"{n:>9s}" for n in BACKENDS) + "  fastest")
        for shape in SHAPES:
            result = measure(shape, args.batch, args.repeats, train)
            static = result.pop("static")
            channels, out, kernel, stride, size, count, *_ = shape
            label = f"{channels}->{out} {kernel}x{kernel}/{stride} {size}px n={count}"
            ratios = " ".join(f"{result[n] / static:9.2f}" if n in result else f"{'-':>9s}" for n in BACKENDS)
            print(f"{label:30s} {static * 1e3:9.2f} {ratios}  {min(result, key=result.__getitem__)}", flush=True)


if __name__ == "__main__":
    main()
