"""Time forms of a dynamic layer's graph in the runtimes that exported files run in, on layers of real networks.

    python benchmarks/export_graphs.py [--runtimes onnxruntime openvino] [--images 1 8] [--threads 2] [--rounds 30]
        [--layers resnet18] [--out docs/results/export-graphs.json]

Each row: a layer, a batch, a runtime; milliseconds of the static convolution of the same sizes; then every form's
seconds as a ratio to it, within rounds, median and quartiles. The attention is an input; all else of the layer is
computed. Forms ("any batch" ones are one file for all batches, the others have a fixed number of samples):

    patches   the input under all positions of the kernel, times the kernels (any batch)
    conv      a convolution whose weights are computed, samples as groups (fixed)
    outputs   all cells as one static convolution, then mix its outputs (any batch)
    unfold    F.unfold, then a product (any batch)
    products  a product for every position of the kernel, added up (any batch)
    terms     "patches" with branch and cells folded into r + 1 terms, see dynaconv.prepare_inference (any batch)

Runtimes: onnxruntime and openvino, from one ONNX file; aoti (AOTInductor, some 20 s a form to compile). Functions of a
row run in turn within one process, in changing order; a machine that others use changes ratios little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.environment import environment
from dynaconv.analysis.timing import ratio_quartiles, summarise, time_interleaved
from dynaconv.export.onnx_file import write_onnx
from dynaconv.export.program import trace
from dynaconv.export.runtimes import Runtime, open_session
from dynaconv.export.settings import ExportSettings
from dynaconv.files import write_text
from dynaconv.ops import Geometry, Mixture, mixture_conv
from dynaconv.ops.graph_forms import kernel_rows, mixture_in_graph
from dynaconv.ops.patches import shifted_inputs

# Name: channels in, side of the input, channels out, kernel, stride, groups, grid, cells, hidden units.
# As kw1x_resnet18, kw1x_resnet50 and kw1x_mobilenetv2_100 have them at 224 pixels.
LAYERS: dict[str, tuple[Any, ...]] = {
    "resnet18 layer1 3x3": (64, 56, 64, 3, 1, 1, (9, 1, 1), 56, 16),
    "resnet18 layer2 3x3/2": (64, 56, 128, 3, 2, 1, (9, 2, 1), 56, 16),
    "resnet18 layer3 3x3": (256, 14, 256, 3, 1, 1, (9, 1, 1), 47, 16),
    "resnet18 layer4 3x3": (512, 7, 512, 3, 1, 1, (9, 1, 1), 27, 32),
    "resnet50 layer1 1x1": (256, 56, 64, 1, 1, 1, (1, 1, 4), 87, 16),
    "resnet50 layer3 1x1": (256, 14, 1024, 1, 1, 1, (1, 4, 1), 138, 16),
    "resnet50 layer4 1x1": (2048, 7, 512, 1, 1, 1, (1, 1, 4), 47, 128),
    "mobilenetv2 depth-wise 3x3": (144, 56, 144, 3, 1, 144, (9, 1, 1), 18, 16),
    "mobilenetv2 depth-wise 3x3/2": (96, 112, 96, 3, 2, 96, (9, 3, 1), 36, 16),
    "mobilenetv2 1x1": (64, 14, 384, 1, 1, 1, (1, 12, 1), 102, 16),
}
FIXED = ("conv",)
FORMS = ("patches", "conv", "outputs", "unfold", "products", "terms")


class Layer(nn.Module):
    """One form of a layer, with the attention as an input."""

    def __init__(self, form: str, cells: Tensor, mixture: Mixture) -> None:
        super().__init__()
        self.form, self.mixture = form, mixture
        self.register_buffer("cells", cells)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """Convolve."""
        if self.form in ("patches", "terms", "conv"):
            form = "conv" if self.form == "conv" else "patches"
            return mixture_in_graph(x, attention, self.cells, self.mixture, form)  # pyright: ignore
        if self.form == "products":
            return self._products(x, attention)
        backend = {"outputs": "outputs", "unfold": "matmul"}[self.form]
        return mixture_conv(x, attention, self.cells, self.mixture, backend=backend)  # pyright: ignore

    def _products(self, x: Tensor, attention: Tensor) -> Tensor:
        rows, _ = kernel_rows(attention, self.cells, self.mixture)  # pyright: ignore
        parts = shifted_inputs(x, self.mixture.geometry)
        kernels = rows.unflatten(2, (len(parts), -1)).unbind(2)
        terms = [torch.bmm(w, part.flatten(2)) for w, part in zip(kernels, parts, strict=True)]
        return sum(terms[1:], terms[0]).unflatten(2, parts[0].shape[2:])


def make(name: str, form: str) -> tuple[nn.Module, Callable[[int], tuple[Tensor, Tensor]]]:
    """A form of a layer, and its inputs for a batch."""
    channels, side, outputs, kernel, stride, groups, grid, count, hidden = LAYERS[name]
    geometry = Geometry((kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, (1, 1), groups)
    torch.manual_seed(0)
    if form == "static":
        module: nn.Module = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups)
    elif form == "terms":
        count = hidden + 1
        cells = torch.randn(count, outputs, channels // groups, kernel, kernel)
        module = Layer(form, cells, Mixture(grid, geometry, own_cells=True))
    else:
        shape = (outputs // grid[1], channels // groups // grid[2], 1, 1)
        module = Layer(form, torch.randn(count, *shape), Mixture(grid, geometry))

    def inputs(batch: int) -> tuple[Tensor, ...]:
        x = torch.randn(batch, channels, side, side)
        return (x,) if form == "static" else (x, torch.randn(batch, math.prod(grid), count) / count)

    return module.eval(), inputs  # pyright: ignore[reportReturnType]


def write(module: nn.Module, inputs: tuple[Tensor, ...], runtime: Runtime, any_batch: bool, path: Path) -> None:
    """Write a form as a file."""
    kind = "aoti" if runtime == "aoti" else "onnx"
    program = trace(module, inputs, ExportSettings(format=kind, dynamic_batch=any_batch, batch_size=len(inputs[0])))
    if kind == "aoti":
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        return
    with contextlib.redirect_stdout(io.StringIO()):
        write_onnx(program, path)


def possible(name: str, form: str) -> bool:
    """Whether a form is worth a try: depth-wise layers have no others, and folding pays where terms are fewer."""
    *_, kernel, _, groups, _, count, hidden = LAYERS[name]
    if groups > 1:
        return form in ("static", "patches", "conv")
    if form == "terms":
        return count > hidden + 1
    return form != "products" or kernel > 1


def measure(name: str, batch: int, runtime: Runtime, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of every form of a layer."""
    functions = {}
    for form in ("static", *FORMS):
        if not possible(name, form):
            continue
        module, inputs = make(name, form)
        any_batch = form not in FIXED
        kind = "pt2" if runtime == "aoti" else "onnx"
        path = folder / f"{name}-{form}-{'any' if any_batch else batch}.{kind}".replace("/", "_").replace(" ", "_")
        if not path.exists():
            write(module, inputs(max(batch, 2) if any_batch else batch), runtime, any_batch, path)
        session, given = open_session(runtime, path, options.threads), inputs(batch)
        with torch.no_grad():
            expected = module.double()(*(t.double() for t in given))
        (found,) = session.run(*given)
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max(), (name, form, runtime)
        functions[form] = lambda session=session, given=given: session.run(*given)
    seconds = time_interleaved(functions, options.rounds)
    static = seconds["static"]
    forms = {form: {**summarise(s, static), "quartiles": ratio_quartiles(s, static)} for form, s in seconds.items()}
    return {"layer": name, "images": batch, "runtime": runtime, "forms": forms}


def row_of(row: dict[str, Any]) -> str:
    """A line of the table."""
    cells = []
    for form in FORMS:
        found = row["forms"].get(form)
        cells.append("–" if found is None else "{:.2f} ({:.2f}–{:.2f})".format(found["ratio"], *found["quartiles"]))
    static = 1e3 * row["forms"]["static"]["median"]
    return f"| {row['layer']} | {row['images']} | {row['runtime']} | {static:.2f} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"], help="and aoti")
    parser.add_argument("--images", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--layers", nargs="+", default=[""], help="parts of names; all if not given")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"| layer | images | runtime | static ms | {' | '.join(FORMS)} |")
    print("|" + "---|" * (4 + len(FORMS)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in LAYERS:
            if not any(part in name for part in options.layers):
                continue
            for runtime in options.runtimes:
                for batch in options.images:
                    rows.append(measure(name, batch, runtime, options, Path(folder)))
                    print(row_of(rows[-1]), flush=True)
    if options.out is not None:
        found = {"threads": options.threads, "rounds": options.rounds, **environment(), "rows": rows}
        write_text(options.out, json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
