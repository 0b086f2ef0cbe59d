"""Time networks prepared for inference with and without folding the norms into the layers before them.

    python benchmarks/norms.py [NETWORK ...] [--images 1 16] [--pixels 224 64] [--threads 1] [--rounds 10]

Each row: a network, a batch, pixels a side; norms that are folded; milliseconds of a batch without; the ratio of with
to without, its median over rounds and its quartiles. Both networks run in turn within a round, in changing order. With
one thread, seconds are those that the processor spent on it, which a busy machine disturbs less. Networks are
channels_last, with fresh weights, and norms that have seen a few images of noise.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time

import torch
from torch import nn

import dynaconv
from dynaconv.analysis.timing import ratio_quartiles
from dynaconv.benchmark.contenders import settle

NETWORKS = ("kw1x_resnet18", "kw1x_mobilenetv2_100", "od4x_resnet18", "dy4x_resnet18")
LONG = 16 * 224 * 224  # pixels from which fewer rounds are enough


def measure(models: list[nn.Module], batch: torch.Tensor, rounds: int) -> list[list[float]]:
    """Seconds of every round, by model."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(-2, rounds):
        for place in range(len(models)):
            which = (place + turn) % len(models)
            began = clock()
            models[which](batch)
            if turn >= 0:
                seconds[which].append(clock() - began)
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--images", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--pixels", nargs="+", type=int, default=(224, 64), help="a side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="five times as many for small batches")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, or 5 times as many")
    print("network                images pixels  norms  without ms   with / without (quartiles)")
    for name in arguments.networks:
        torch.manual_seed(0)
        plain = dynaconv.create_model(name)
        settle(plain, 64)
        plain.to(memory_format=torch.channels_last)
        folded = copy.deepcopy(plain)
        dynaconv.prepare_inference(plain, fold_norms=False)
        norms = len(dynaconv.inference_report(dynaconv.prepare_inference(folded, fold_norms="all")).norms)
        for pixels, images in itertools.product(arguments.pixels, arguments.images):
            batch = torch.randn(images, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)
            rounds = arguments.rounds * (1 if batch.numel() >= LONG else 5)
            with torch.inference_mode():
                without, with_norms = measure([plain, folded], batch, rounds)
            ratio = statistics.median(a / b for a, b in zip(with_norms, without, strict=True))
            low, high = ratio_quartiles(with_norms, without)
            sizes = f"{name:22} {images:6d} {pixels:6d} {norms:6d}"
            print(
                f"{sizes} {1e3 * statistics.median(without):11.1f}   {ratio:.3f} ({low:.3f} - {high:.3f})", flush=True
            )


if __name__ == "__main__":
    main()
