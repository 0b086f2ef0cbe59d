"""What two processes really send, hold and take for a training step, beside what `dynaconv scale` says.

    unshare -n sh -c 'ip link set lo up; python benchmarks/scale.py'   # a loopback of its own: nobody else's bytes
    python benchmarks/scale.py resnet18 kw1x_resnet18 --batch-size 8 --image-size 64

Every network trains on noise in two processes of one thread each (gloo, AdamW), in a fresh pair of processes for every
way: DDP, DDP with synchronised norms, FSDP2. Bytes are those of the loopback's counter over some steps, headers of TCP
and IP included; memory is the larger peak of both processes above what they held before there was a network, libraries
and buffers of the network warmed up; time is taken in turn, one process alone (the other waits) and both together, so
that a busy machine meets both. Figures go to docs/results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import dynaconv
from dynaconv.analysis.environment import command_line, describe, environment, utc_now
from dynaconv.analysis.memory import ALLOCATION, watch_peak
from dynaconv.analysis.scale import all_gather_bytes, padded_bytes
from dynaconv.files import write_text
from dynaconv.training.engine.sharding import shard
from dynaconv.training.estimates.scale import count_case

WORLD, CLASSES, STEPS, WARM_UP = 2, 1000, 5, 3
WAYS = ("ddp", "ddp, norms synchronised", "fsdp")


def sent() -> int:
    """Bytes that this machine's loopback has sent."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])


def training_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """Forward, backward and an optimiser step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    return step


def wrap(model: nn.Module, way: str) -> nn.Module:
    """The network as several processes train it."""
    if way == "fsdp":
        shard(model, torch.device("cpu"))
        return model
    if way != "ddp":
        dynaconv.synchronise_norms(model)
    return DistributedDataParallel(model)


def build(network: str) -> nn.Module:
    """A network at the end of its temperature's schedule, the same everywhere."""
    torch.manual_seed(0)
    model = dynaconv.create_model(network, num_classes=CLASSES)
    dynaconv.schedule_temperature(model, 1.0)
    return model


def work(rank: int, port: int, network: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """One process's part; only the first one's figures of bytes and time count."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=WORLD, rank=rank)
    draw = torch.Generator().manual_seed(rank)
    size = options.image_size
    batch = torch.randn(options.batch_size, 3, size, size, generator=draw), torch.arange(options.batch_size)
    small = batch[0][:2, :, :32, :32].contiguous(), batch[1][:2]
    training_step(wrap(build(network), way), small)()  # loads code, and connects the processes
    peak = watch_peak(torch.device("cpu"))
    step = training_step(wrap(build(network), way), batch)
    for _ in range(WARM_UP):
        step()
    dist.barrier()
    before = sent()
    for _ in range(STEPS):
        step()
    dist.barrier()
    found: dict[str, Any] = {"bytes": (sent() - before) / STEPS, "peak": peak()}
    if way == "ddp":
        found["seconds"] = take_times(rank, training_step(build(network), batch), step, options.rounds)
    dist.destroy_process_group()
    return found


def take_times(rank: int, alone: Callable[[], None], together: Callable[[], None], rounds: int) -> dict[str, Any]:
    """Seconds of a step of one process while the other waits, and of both, in turn."""
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    for turn in range(-1, rounds):
        for name, step in (("one", alone if rank == 0 else None), ("two", together)):
            dist.barrier()
            began = time.perf_counter()
            if step is not None:
                step()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def measure(network: str, way: str, options: argparse.Namespace) -> dict[str, Any]:
    """A network in a pair of fresh processes, beside the model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--batch-size", str(options.batch_size), "--image-size", str(options.image_size)]
    flags += ["--rounds", str(options.rounds)]
    pair = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, network, *flags, "--worker", way, str(rank), str(port)],
            env={**os.environ, **ALLOCATION, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    texts = [process.communicate()[0] for process in pair]
    if any(process.returncode for process in pair):
        raise SystemExit(f"{network}, {way}: a process failed")
    first, second = (json.loads(text.strip().splitlines()[-1]) for text in texts)
    row = beside_model(
        network, way, options.batch_size, options.image_size, first["bytes"], max(first["peak"], second["peak"])
    )
    if "seconds" in first:
        ratios = [b / a for a, b in zip(first["seconds"]["one"], first["seconds"]["two"], strict=True)]
        low, _, high = quantiles(ratios, n=4, method="inclusive")
        row["time"] = {"ratio": median(ratios), "quartiles": [low, high], "rounds": len(ratios)}
        row["time"]["seconds_alone"] = median(first["seconds"]["one"])
    return row


def beside_model(network: str, way: str, batch: int, size: int, sent_bytes: float, peak_bytes: int) -> dict[str, Any]:
    """What was measured, and what the model says of it."""
    with torch.device("meta"):
        model = dynaconv.create_model(network, num_classes=CLASSES)
    says = count_case(network, model, (3, size, size), batch, [WORLD]).on[0]
    if way == "fsdp":
        # gloo has no reduce-scatter of its own: it all-reduces, which sends the gradients once more.
        expected, memory = says.fsdp_sent + all_gather_bytes(padded_bytes(says.cost, WORLD), WORLD), says.fsdp_memory
    else:
        norms = says.norms_sent if way != "ddp" else 0
        expected, memory = says.ddp_sent + says.buffers_sent + norms, says.ddp_memory
    return {
        "network": network,
        "way": way,
        "sent_bytes": {"measured": sent_bytes, "model": expected * WORLD},
        "peak_bytes": {"measured": peak_bytes, "model": memory},
    }


def line(row: dict[str, Any]) -> str:
    """A row for people."""
    parts = [f"{row['network']:<16} {row['way']:<24}"]
    for name, unit, word in (("sent_bytes", 1e6, "MB sent"), ("peak_bytes", 2**20, "MiB at the peak")):
        got, says = row[name]["measured"] / unit, row[name]["model"] / unit
        parts.append(f"{got:8.1f} {word} (model {says:.1f}, {got / says - 1:+.1%})")
    if "time" in row:
        low, high = row["time"]["quartiles"]
        parts.append(f"two processes take {row['time']['ratio']:.2f} times as long ({low:.2f} to {high:.2f})")
    return "  ".join(parts)


def table_row(row: dict[str, Any]) -> str:
    """A row for the page."""
    cells = [row["network"], row["way"]]
    for name, unit in (("sent_bytes", 1e6), ("peak_bytes", 2**20)):
        got, says = row[name]["measured"] / unit, row[name]["model"] / unit
        cells += [f"{got:,.1f}", f"{says:,.1f}", f"{got / says - 1:+.1%}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("networks", nargs="*", default=["resnet18", "kw1x_resnet18", "kw4x_resnet18"])
    flags.add_argument("--batch-size", type=int, default=8, help="images of a process")
    flags.add_argument("--image-size", type=int, default=64)
    flags.add_argument("--rounds", type=int, default=9, help="in which time is taken")
    flags.add_argument("--out", type=Path, default=Path("docs/results/scale.json"))
    flags.add_argument("--worker", nargs=3, default=None, help=argparse.SUPPRESS)
    options = flags.parse_args()
    torch.set_num_threads(1)
    if options.worker is not None:
        way, rank, port = options.worker
        print(json.dumps(work(int(rank), int(port), options.networks[0], way, options)))
        return
    before = sent()
    time.sleep(2)
    result: dict[str, Any] = {
        "format": 1,
        "date": utc_now().isoformat(timespec="seconds"),
        "command": command_line(),
        **environment(),
        "processes": WORLD,
        "batch_size": options.batch_size,
        "image_size": options.image_size,
        "steps_counted": STEPS,
        "loopback_bytes_per_second_before": (sent() - before) / 2,
        "load_before": os.getloadavg()[0],
        "rows": [],
    }
    print(describe(result))
    for network in options.networks:
        for way in WAYS:
            result["rows"].append(measure(network, way, options))
            print(line(result["rows"][-1]), flush=True)
    print("\n".join(map(table_row, result["rows"])))
    result["load_after"] = os.getloadavg()[0]
    write_text(options.out, json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
