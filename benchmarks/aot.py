"""Time a network compiled ahead of time (torch.export, then AOTInductor): `python benchmarks/aot.py [--help]`.

Contenders run interleaved and ratios are taken within rounds. The exported graph takes any number of images from 2 on;
it computes in batched matrix products, which a tracer can follow. Needs a C++ compiler; compiling takes minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import dynaconv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="kw1x_resnet18")
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = dynaconv.create_model(args.model).to(memory_format=torch.channels_last).eval()

    def images(batch: int) -> torch.Tensor:
        side = args.image_size
        return torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)

    began = time.perf_counter()
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        batch = torch.export.Dim("batch", min=2, max=1024)
        exported = torch.export.export(model, (images(4),), dynamic_shapes=({0: batch},))
        package = torch._inductor.aoti_compile_and_package(exported, package_path=str(Path(folder) / "network.pt2"))
        compiled = torch._inductor.aoti_load_package(package)
        print(f"{args.model}: exported and compiled in {time.perf_counter() - began:.0f} s; torch {torch.__version__}")
        for count in args.batches:
            x = images(count)
            error = (compiled(x) - model(x)).abs().max().item()
            seconds: dict[str, list[float]] = {"ours": [], "ahead of time": []}
            for turn in range(-1, args.rounds):
                for name, run in (("ours", model), ("ahead of time", compiled)):
                    start = time.perf_counter()
                    run(x)
                    if turn >= 0:
                        seconds[name].append(time.perf_counter() - start)
            ratios = [a / b for a, b in zip(seconds["ahead of time"], seconds["ours"], strict=True)]
            print(
                f"  batch {count}: ours {statistics.median(seconds['ours']) / count * 1e3:.1f} ms/image, ahead of time "
                f"{statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f}); "
                f"largest difference {error:.1e}"
            )


if __name__ == "__main__":
    main()
