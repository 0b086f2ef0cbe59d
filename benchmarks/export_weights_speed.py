"""What weights in fewer bits do to memory and time: the studies `runtimes` and `cells` of export_weights.py."""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

import dynaconv
from dynaconv.analysis.timing import ratio_quartiles, summarise, time_interleaved
from dynaconv.benchmark.runtimes.settings import RuntimeSettings
from dynaconv.benchmark.runtimes.ways import OURS, STATIC, build_sides
from dynaconv.export.weights import store_weights

FLOAT = "float32"
KINDS: dict[str, Callable[[Path, Path], Any]] = {
    "float16": lambda source, target: store_weights(source, target, "float16"),
    "int8": lambda source, target: store_weights(source, target, "int8"),
    "int8, branches in float32": lambda source, target: store_weights(source, target, "int8", branches="float32"),
    "int8, branches too": lambda source, target: store_weights(source, target, "int8", branches="int8"),
    "onnxruntime's dynamic int8": lambda source, target: dynamic_int8(source, target),
}
RUNTIME_NETWORKS = ("kw1x_resnet18",)
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


def runtimes(rounds: int) -> dict[str, Any]:
    """Seconds, memory and what is held, by network, runtime and kind."""
    found: dict[str, Any] = {}
    kinds = [kind for kind in KINDS if "branches" not in kind]
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
            command = [sys.executable, __file__, "--file", str(path), "--way", way]
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


def cells(model: torch.nn.Module, rounds: int) -> dict[str, Any]:
    """Errors of cells in int8 by what shares a scale, and seconds of a mixing product by what computes it."""
    held = [p.detach().numpy() for name, p in model.named_parameters() if name.endswith("cells") and p.numel() >= 1024]
    shares = {
        "a warehouse": lambda shape: (1,) * len(shape),
        "a cell": lambda shape: (shape[0], *(1,) * (len(shape) - 1)),
        "an output channel": lambda shape: (1, shape[1], *(1,) * (len(shape) - 2)),
        "an output channel of a cell": lambda shape: (*shape[:2], *(1,) * (len(shape) - 2)),
        "64 numbers": None,
    }
    rounding = {name: _rounded(held, share) for name, share in shares.items()}
    products = {f"batch {batch}": _products(batch, rounds) for batch in BATCHES}
    return {"rounding": rounding, "products": products}


def _rounded(held: list[np.ndarray], share: Any) -> dict[str, float]:
    """Relative error of all cells, and bytes a number."""
    errors = squares = numbers = scales = 0.0
    for values in held:
        if share is None:
            flat = values.reshape(-1)
            flat = np.pad(flat, (0, -len(flat) % 64)).reshape(-1, 64)
            values, shape = flat, (len(flat), 1)
        else:
            shape = share(values.shape)
        others = tuple(axis for axis, side in enumerate(shape) if side == 1)
        scale = np.abs(values).max(axis=others, keepdims=True) / 127
        scale[scale == 0] = 1
        errors += float(((values - np.rint(values / scale) * scale) ** 2).sum(dtype="float64"))
        squares += float((values**2).sum(dtype="float64"))
        numbers, scales = numbers + values.size, scales + scale.size
    return {"error": (errors / squares) ** 0.5, "bytes": 1 + 4 * scales / numbers}


MIXED = (9, 47, 256 * 256)
"""Mixtures, cells, numbers of a cell: the third stage of kw1x_resnet18."""


def _products(batch: int, rounds: int) -> dict[str, Any]:
    """Attention times cells in onnxruntime, one thread."""
    rows, n, size = batch * MIXED[0], *MIXED[1:]
    draw = np.random.default_rng(0)
    attention = draw.standard_normal((rows, n)).astype(np.float32)
    values = draw.standard_normal((n, size)).astype(np.float32)
    scale = (np.abs(values).max(axis=1, keepdims=True) / 127).astype(np.float32)
    small = np.rint(values / scale).astype(np.int8)
    node, block = onnx.helper.make_node, 16
    blocks = -(-n // block)
    padded = np.pad(values, ((0, blocks * block - n), (0, 0))).T.reshape(size, blocks, block)
    block_scale = np.abs(padded).max(2, keepdims=True) / 127
    stored = (np.rint(padded / block_scale) + 128).astype(np.uint8)
    zero = np.zeros((), np.int8)
    graphs: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
        "float32": ([node("MatMul", ["x", "w"], ["y"])], {"w": values}),
        "int8, DequantizeLinear": (
            [node("DequantizeLinear", ["q", "s"], ["w"], axis=0), node("MatMul", ["x", "w"], ["y"])],
            {"q": small, "s": scale.reshape(-1)},
        ),
        "int8, MatMulInteger": (
            [
                node("Mul", ["x", "s"], ["xs"]),
                node("DynamicQuantizeLinear", ["xs"], ["xq", "xscale", "xzero"]),
                node("MatMulInteger", ["xq", "q", "xzero", "zero"], ["sums"]),
                node("Cast", ["sums"], ["float"], to=onnx.TensorProto.FLOAT),
                node("Mul", ["float", "xscale"], ["y"]),
            ],
            {"q": small, "s": scale.reshape(1, -1), "zero": zero},
        ),
    }
    for level, text in ((0, "in float32"), (4, "in int8")):
        facts = {"K": n, "N": size, "bits": 8, "block_size": block, "accuracy_level": level}
        graphs[f"int8, MatMulNBits {text}"] = (
            [node("MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", **facts)],
            {"b": stored, "s": block_scale.reshape(-1).astype(np.float32)},
        )
    calls = {}
    expected = attention @ values
    for name, (nodes, constants) in graphs.items():
        inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, attention.shape)]
        outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [rows, size])]
        given = [onnx.numpy_helper.from_array(array, key) for key, array in constants.items()]
        graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, given)
        opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "product.onnx"
            onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
            call = open_way(WAYS[0], path)
        error = np.abs(call(torch.from_numpy(attention)).numpy() - expected).max() / np.abs(expected).max()
        calls[name] = (lambda call=call: call(torch.from_numpy(attention)), float(error))
    seconds = time_interleaved({name: call for name, (call, _) in calls.items()}, rounds)
    return {
        name: {**summarise(seconds[name], seconds["float32"]), "error": error} for name, (_, error) in calls.items()
    }


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


def cells_table(results: dict[str, Any]) -> str:
    """Two tables: errors by what shares a scale, and products."""
    lines = ["| one scale for | error of cells | bytes a number |", "|---|---:|---:|"]
    lines += [f"| {name} | {e['error']:.1e} | {e['bytes']:.3f} |" for name, e in results["rounding"].items()]
    batches = list(results["products"])
    lines += ["", f"| attention times cells | {' | '.join(batches)} | error |", "|---|---:|---:|---:|"]
    for name, entry in results["products"][batches[0]].items():
        times = (results["products"][batch][name] for batch in batches)
        shown = (f"{1000 * t['median']:.1f} ms" if name == "float32" else f"{t['ratio']:.2f}x" for t in times)
        lines.append(f"| {name} | {' | '.join(shown)} | {entry['error']:.1e} |")
    return "\n".join(lines)


if __name__ == "__main__":
    flags = argparse.ArgumentParser(description="memory of a file in a runtime, in a process of its own")
    flags.add_argument("--file", type=Path, required=True)
    flags.add_argument("--way", required=True)
    values = flags.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(memory(values.way, values.file)))
