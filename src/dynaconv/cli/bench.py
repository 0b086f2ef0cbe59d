"""`dynaconv bench`: the benchmark of :mod:`dynaconv.benchmark`, shown while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.benchmark.runtimes.settings import RUNTIMES, RuntimeSettings
from dynaconv.benchmark.settings import NETWORKS, BenchSettings
from dynaconv.cli.options import duration, format_table, make_parser
from dynaconv.errors import DynaconvError

DESCRIPTION = """Measure presets against their static backbone: seconds of inference and of a training step (all
contenders in turn, in one process), and peak memory (each in a process of its own). Contenders are the static network,
channels_last and NCHW, this library's way, also prepared for inference, and the textbook's: make all kernels, then one
grouped convolution. Beside them stands what the machine could do at its peak.

With --runtime, inference alone, in other runtimes: preset and static network are exported alike, a file for each batch
and one for any, and each runtime has its own ratio.

Writes bench-TIME.json (bench-runtimes-TIME.json), .md and .png to --out, never over earlier ones; the JSON file after
every network. Nothing else should run on the machine."""

EXAMPLES = """
dynaconv bench                                                    # seven networks, about an hour on two cores
dynaconv bench kw1x_resnet18 od4x_resnet18 --threads 1
dynaconv bench 'kw*_mobilenetv2_100' --training-batches           # inference alone
dynaconv bench kw1x_resnet50 --inference-batches 1 --training-batches --compile
dynaconv bench --all --image-size 64 --rounds 3 --no-memory
dynaconv bench kw1x_resnet18 --runtime onnxruntime openvino       # the exported network against the exported static one
dynaconv bench kw1x_resnet18 --runtime aoti compile --inference-batches 1     # minutes of compiling
dynaconv bench --from bench/bench-TIME.json                       # tables and picture again
dynaconv bench --page docs/speed.md                               # put committed results into a page
"""

SHARED = ("image_size", "rounds", "threads")
"""Flags that mean the same with --runtime and without."""


def parser() -> Any:
    """Flags of the command."""
    usual = BenchSettings()
    flags = make_parser("bench", DESCRIPTION, EXAMPLES, "[NETWORK ...] [options]")
    flags.add_argument(
        "networks", type=str, nargs="*", help=f"presets or patterns of them; if not given {', '.join(NETWORKS)}"
    )
    flags.add_argument(
        "--runtime",
        type=str,
        nargs="*",
        default=None,
        help=f"measure exported files: one or several of {', '.join(RUNTIMES)}; eager, PyTorch itself, always runs",
    )
    flags.add_argument(
        "--no-dynamic-batch", action="store_true", help="with --runtime: no file that takes any number of images"
    )
    flags.add_argument("--all", action="store_true", help="every preset")
    flags.add_argument(
        "--inference-batches",
        type=int,
        nargs="*",
        default=None,
        help=f"images of a forward pass; none for no inference; usually {_listed(usual.inference_batches)}, with "
        f"--runtime {_listed(RuntimeSettings.batches)}",
    )
    flags.add_argument(
        "--training-batches",
        type=int,
        nargs="*",
        default=list(usual.training_batches),
        help="images of a forward and backward pass; none for no training",
    )
    flags.add_argument("--image-size", type=int, default=usual.image_size, help="side in pixels")
    flags.add_argument(
        "--rounds",
        type=int,
        default=usual.rounds,
        help="how often each is timed; short passes up to five times as often",
    )
    flags.add_argument("--threads", type=int | None, default=None, help="of PyTorch; its own choice if not given")
    flags.add_argument("--device", type=str, default=usual.device, help="cpu or cuda")
    flags.add_argument(
        "--patience", type=float, default=usual.patience, help="seconds of a call from which it is timed but once"
    )
    flags.add_argument(
        "--compile", action="store_true", help="also torch.compile, which takes minutes and a C++ compiler"
    )
    flags.add_argument("--no-memory", action="store_true", help="do not measure memory")
    flags.add_argument(
        "--memory-batch", type=int, default=usual.memory_batch, help="images of the inference whose memory is measured"
    )
    flags.add_argument(
        "--max-extra-mb",
        type=float | None,
        default=None,
        help=f"memory that preparing a network for inference may add; usually {usual.max_extra_mb:g}, with --runtime "
        f"{RuntimeSettings.max_extra_mb:g}",
    )
    flags.add_argument("--out", type=str, default="bench", help="folder of the results")
    flags.add_argument("--from", type=str | None, default=None, help="an earlier bench-TIME.json; nothing is measured")
    flags.add_argument(
        "--page", type=str | None, default=None, help="a page whose tables are filled; nothing is measured"
    )
    return flags


def run(arguments: Sequence[str]) -> None:
    """Measure, and print the tables."""
    values = parser().parse_args(list(arguments)).as_dict()
    if values["page"] is not None:
        from dynaconv.benchmark.page import fill_page

        print(f"{values['page']}: {', '.join(map(str, fill_page(values['page'])))}")
        return
    from dynaconv.benchmark.bench import results_of, run_bench

    if values["from"] is not None:
        _show(results_of(values["from"]))
        return
    settings = _settings(values) if values["runtime"] is None else _runtime_settings(values)
    print(f"{len(settings.networks)} network(s); results go to {values['out']}", flush=True)
    try:
        _show(run_bench(settings, values["out"], start=_start, note=_note))
    except KeyboardInterrupt:
        print(f"\nwhat was measured is in the newest file of {values['out']}; `dynaconv bench --from` shows it")
        raise


def _settings(values: dict[str, Any]) -> BenchSettings:
    if values["no_dynamic_batch"]:
        raise DynaconvError("--no-dynamic-batch is for --runtime")
    given = {key: values[key] for key in ("max_extra_mb",) if values[key] is not None}
    if values["inference_batches"] is not None:
        given["inference_batches"] = tuple(values["inference_batches"])
    return BenchSettings(
        networks=_networks(values, NETWORKS),
        training_batches=tuple(values["training_batches"]),
        compiled=values["compile"],
        memory=not values["no_memory"],
        **{key: values[key] for key in (*SHARED, "device", "patience", "memory_batch")},
        **given,
    )


def _runtime_settings(values: dict[str, Any]) -> RuntimeSettings:
    usual = parser().get_defaults().as_dict()
    for key in ("training_batches", "device", "patience", "compile", "no_memory", "memory_batch"):
        if values[key] != usual[key]:
            raise DynaconvError(f"--{key.replace('_', '-')} is not for --runtime, which times inference on the CPU")
    given = {"max_extra_mb": values["max_extra_mb"]} if values["max_extra_mb"] is not None else {}
    if values["inference_batches"] is not None:
        given["batches"] = tuple(values["inference_batches"])
    return RuntimeSettings(
        networks=_networks(values, RuntimeSettings.networks),
        runtimes=tuple(values["runtime"]),
        dynamic_batch=not values["no_dynamic_batch"],
        **{key: values[key] for key in SHARED},
        **given,
    )


def _networks(values: dict[str, Any], usual: Sequence[str]) -> tuple[str, ...]:
    from dynaconv.benchmark.settings import find_networks

    if values["all"] and values["networks"]:
        raise DynaconvError("--all and names of networks are both given; expected one of them")
    return find_networks(["*"] if values["all"] else values["networks"] or usual)


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _start(network: Any) -> None:
    left = "" if network.seconds_left is None else f"  (about {duration(network.seconds_left)} left)"
    print(f"\n[{network.number}/{network.total}] {network.network}{left}", flush=True)


def _note(text: str) -> None:
    print(text, flush=True)


def _show(result: Any) -> None:
    for table in result.kind.tables(result.values):
        print(f"\n{format_table(*table, left=2)}")
    print()
    for line in result.kind.notes(result.values):
        print(line)
    print(f"\nresults: {result.json}, {result.markdown.name}, {result.picture.name}")
