"""Load test of the service: requests a second and latency by number of clients, with batching and without.

For every network two services run side by side, each in a process of its own, one of them with `--max-batch 1`. Clients
in this process send one request after another (a closed loop) to one service at a time, in turn, so that what else the
machine does meets both alike. `GET /health` shows what clients, HTTP and Python could do without images and a network.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnxruntime
from PIL import Image

from dynaconv.analysis.environment import command_line, describe, environment
from dynaconv.analysis.figures import new_figure, save_figure
from dynaconv.files import write_text

EXAMPLES = """example:
  python examples/serve/load.py digits=serve/digits.onnx photos=kw1x_resnet18.onnx --out docs/results/serving
"""
WAYS = {"batching": [], "one at a time": ["--max-batch", "1"]}
HEALTH = "GET /health"
HEADER = (
    "| network | service | clients | requests/s (lowest to highest) | p50 ms | p95 ms | p99 ms | mean batch | errors |"
)


@dataclass(frozen=True)
class Burst:
    """What clients met in some seconds: milliseconds of every answer, and images and batches of the service."""

    latencies_ms: list[float]
    errors: int
    seconds: float
    images: int
    batches: int


def stand_ins(model: str, folder: Path) -> list[str]:
    """Flags for a file that names no classes, such as a preset's without training: numbers, and ImageNet's images."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    if "dynaconv.classes" in session.get_modelmeta().custom_metadata_map:
        return []
    names = [str(number) for number in range(session.get_outputs()[0].shape[1])]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = {"image_size": 224, "mean": mean, "std": std, "crop_pct": 0.875, "interpolation": "bilinear"}
    flags = []
    for flag, value in (("classes", names), ("preprocessing", images)):
        path = folder / f"{flag}.json"
        path.write_text(json.dumps(value), encoding="utf-8")
        flags += [f"--{flag}", str(path)]
    return flags


@contextmanager
def service(model: str, flags: Sequence[str]) -> Iterator[str]:
    """The service in a process of its own; its address."""
    command = [sys.executable, str(Path(__file__).with_name("app.py")), model, "--port", "0", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = next((found[0] for line in process.stdout if (found := re.match(r"http://\S+", line))), None)
            if address is None:
                raise SystemExit(f"load.py: {' '.join(command)} did not start")
            yield address
        finally:
            process.terminate()


def picture(image_size: int) -> tuple[bytes, str]:
    """What clients send: a small PNG to a network of small images, to others a JPEG of 500 x 375, as ImageNet's are."""
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    small = image_size < 100
    image = Image.fromarray(values).resize((28, 28) if small else (500, 375), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("L" if small else "RGB").save(buffer, "PNG" if small else "JPEG", quality=90)
    return buffer.getvalue(), "image/png" if small else "image/jpeg"


async def burst(url: str, clients: int, seconds: float, image: tuple[bytes, str] | None) -> Burst:
    """Clients that send one request after another; without an image, GET /health."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client:

        async def ask() -> bool:
            if image is None:
                return (await client.get("/health")).is_success
            return (await client.post("/classify", content=image[0], headers={"Content-Type": image[1]})).is_success

        async def counters() -> tuple[int, int]:
            lines = dict(line.split() for line in (await client.get("/metrics")).text.splitlines())
            return int(lines["dynaconv_images_total"]), int(lines["dynaconv_batches_total"])

        async def loop() -> None:
            nonlocal errors
            while (begun := time.perf_counter()) < end:
                good = await ask()
                latencies.append(1000 * (time.perf_counter() - begun))
                errors += not good

        await asyncio.gather(*(client.get("/health") for _ in range(clients)))  # opens the connections
        latencies: list[float] = []
        errors, (images, batches) = 0, await counters()
        started = time.perf_counter()
        end = started + seconds
        await asyncio.gather(*(loop() for _ in range(clients)))
        spent = time.perf_counter() - started
        more_images, more_batches = await counters()
    return Burst(latencies, errors, spent, more_images - images, more_batches - batches)


def summary(network: str, way: str, clients: int, rounds: Sequence[Burst]) -> dict[str, Any]:
    """Bursts of one kind, joined."""
    rates = [len(one.latencies_ms) / one.seconds for one in rounds]
    latencies = np.array([value for one in rounds for value in one.latencies_ms])
    batches = sum(one.batches for one in rounds)
    return {
        "network": network,
        "service": way,
        "clients": clients,
        "requests": len(latencies),
        "requests_per_second": statistics.mean(rates),
        "requests_per_second_by_round": rates,
        "p50_ms": float(np.percentile(latencies, 50)),
        "p95_ms": float(np.percentile(latencies, 95)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "mean_batch": sum(one.images for one in rounds) / batches if batches else None,
        "errors": sum(one.errors for one in rounds),
    }


def measure(
    name: str, model: str, flags: Sequence[str], given: argparse.Namespace, health: bool
) -> tuple[list[dict[str, Any]], Any]:
    """All rows of one network, and what its services say of themselves."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        flags = [*flags, *stand_ins(model, Path(stack.enter_context(tempfile.TemporaryDirectory())))]
        urls = {way: stack.enter_context(service(model, [*flags, *more])) for way, more in WAYS.items()}
        facts = httpx2.get(f"{urls['batching']}/model").json()
        image = picture(facts["preprocessing"]["image_size"])
        kinds: list[Any] = [(way, url, image) for way, url in urls.items()]
        kinds += [(HEALTH, urls["batching"], None)] if health else []
        for clients in given.clients:
            bursts: dict[str, list[Burst]] = {}
            for _ in range(given.rounds):
                for way, url, sent in kinds:
                    bursts.setdefault(way, []).append(asyncio.run(burst(url, clients, given.seconds, sent)))
            rows += [summary(name, way, clients, found) for way, found in bursts.items()]
            for row in rows[-len(kinds) :]:
                print(table_row(row), flush=True)
    facts["classes"] = len(facts["classes"])
    return rows, {"network": name, "request": {"bytes": len(image[0]), "type": image[1]}, **facts}


def table_row(row: dict[str, Any]) -> str:
    low, high = min(row["requests_per_second_by_round"]), max(row["requests_per_second_by_round"])
    batch = "–" if row["mean_batch"] is None else f"{row['mean_batch']:.1f}"
    times = " | ".join(f"{row[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
    digits = 0 if high >= 100 else 1
    rate = f"{row['requests_per_second']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    return f"| {row['network']} | {row['service']} | {row['clients']} | {rate} | {times} | {batch} | {row['errors']} |"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Requests a second and the 95th percentile of latency over clients, a column of pictures a network."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    figure = new_figure(4.5 * len(names), 6.5)
    axes = figure.subplots(2, len(names), squeeze=False, sharex=True)
    for column, name in enumerate(names):
        for way, colour in zip(WAYS, ("tab:blue", "tab:orange"), strict=True):
            chosen = [row for row in rows if (row["network"], row["service"]) == (name, way)]
            clients = [row["clients"] for row in chosen]
            rates = [row["requests_per_second"] for row in chosen]
            spread = np.array([row["requests_per_second_by_round"] for row in chosen])
            bounds = np.abs(np.array([spread.min(1), spread.max(1)]) - rates)
            axes[0, column].errorbar(clients, rates, bounds, marker="o", capsize=3, label=way, color=colour)
            axes[1, column].plot(clients, [row["p95_ms"] for row in chosen], marker="o", color=colour)
        axes[0, column].set_title(name)
        axes[0, column].set_ylim(bottom=0)
        axes[1, column].set(xscale="log", yscale="log", xlabel="clients", xticks=clients)
        axes[1, column].set_xticks(clients, [str(number) for number in clients])
        axes[1, column].minorticks_off()
        for axis in axes[:, column]:
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("requests a second")
    axes[1, 0].set_ylabel("latency, 95th percentile (ms)")
    axes[0, 0].legend()
    save_figure(figure, path)


def parser() -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    flags = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES, formatter_class=kind)
    flags.add_argument("models", nargs="+", metavar="NAME=MODEL.onnx", help="networks, with what to call them")
    flags.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64], help="at once (1 4 16 64)")
    flags.add_argument("--seconds", type=float, default=3, help="of a burst (3)")
    flags.add_argument("--rounds", type=int, default=2, help="bursts of each kind (2)")
    flags.add_argument("--threads", type=int, default=0, help="of onnxruntime, see app.py (0)")
    flags.add_argument("--max-batch", type=int, default=16, help="of the service that batches (16)")
    flags.add_argument("--max-wait-ms", type=float, default=2, help="see app.py (2)")
    flags.add_argument(
        "--out", type=Path, default=Path("serving"), help="files are OUT.json, OUT.md, OUT.png (serving)"
    )
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    models = [text.partition("=") for text in given.models]
    if wrong := [text for text, (_, _, path) in zip(given.models, models, strict=True) if not Path(path).is_file()]:
        raise SystemExit(f"load.py: {', '.join(wrong)}: expected NAME=MODEL.onnx, with a file that is there")
    flags = ["--threads", str(given.threads), "--max-wait-ms", str(given.max_wait_ms)]
    flags += ["--max-batch", str(given.max_batch)]
    print(f"{HEADER}\n|---|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    rows, services = [], []
    started = time.perf_counter()
    for name, _, path in models:
        more, facts = measure(name, path, flags, given, health=not rows)
        rows += more
        services.append(facts)
    machine = environment()
    machine["versions"] |= services[0]["versions"]
    values = {"command": command_line(), "environment": machine, "seconds": time.perf_counter() - started}
    write_text(given.out.with_suffix(".json"), json.dumps({**values, "services": services, "rows": rows}, indent=2))
    lines = [HEADER, "|---|---|--:|--:|--:|--:|--:|--:|--:|", *(table_row(row) for row in rows)]
    lines += ["", f"`python examples/serve/{values['command']}`; {describe(machine)}."]
    write_text(given.out.with_suffix(".md"), "\n".join(lines))
    draw(rows, given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
