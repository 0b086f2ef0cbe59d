"""Layers of every method as graphs: in onnxruntime the network's own function in float64, at any batch."""

from __future__ import annotations

import contextlib
import copy
import io

import pytest
import torch
from torch import Tensor, nn

from dynaconv import KernelWarehouseConfig
from dynaconv import nn as dyn
from dynaconv.export.network import deployable
from dynaconv.export.onnx_file import write_onnx
from dynaconv.export.program import trace
from dynaconv.export.runtimes import open_session
from dynaconv.export.settings import ExportSettings
from tests.nn.cases import CASES, animate


class Many(nn.Module):
    """Layers side by side."""

    def __init__(self) -> None:
        super().__init__()
        odd = {"stride": (2, 3), "padding": (1, 0), "dilation": (1, 2)}
        self.flat = nn.ModuleList(
            [
                *(CASES[f"{kind}2d"].make() for kind in ("ODConv", "CGConv", "FDConv")),
                dyn.KWConv2d(16, 8, (3, 2), config=KernelWarehouseConfig(budget=2, norm="layer"), **odd),
                dyn.KWConv2d(16, 16, 3, padding="same", stride=2, groups=16, config=KernelWarehouseConfig(budget=2)),
                dyn.DYConv2d(16, 8, 3, groups=4, num_kernels=2),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.flat]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = animate(Many()).eval()
    program = trace(deployable(network), (torch.randn(2, 16, 8, 9),), ExportSettings(dynamic_batch=True))
    path = tmp_path_factory.mktemp("graphs") / "many.onnx"
    with contextlib.redirect_stdout(io.StringIO()):
        write_onnx(program, path, inputs=("x",), outputs=[f"y{i}" for i in range(6)])
    return copy.deepcopy(network).double(), program, path


@pytest.mark.parametrize("batch", [1, 5])
def test_in_onnxruntime(written, batch):
    network, _, path = written
    x = torch.randn(batch, 16, 8, 9)
    with torch.no_grad():
        expected = network(x.double())
    for layer, (y, found) in enumerate(zip(expected, open_session("onnxruntime", path, 1).run(x), strict=True)):
        assert found.shape == y.shape
        assert (found - y).abs().max() < 2e-5 * y.abs().max(), layer


def test_operators_are_ordinary(written):
    """No Fourier transform, no gathering of patches, no convolution with samples as groups."""
    _, program, _ = written
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if "fft" in name or "im2col" in name or "einsum" in name]
    assert not [name for name in names if "adaptive" in name or "complex" in name]


@pytest.mark.parametrize("kind", ["CGConv2d", "FDConv2d"])
def test_any_size(kind):
    """Pooling to parts, bands of frequencies, and padding that fits the size: they follow from sizes."""
    torch.manual_seed(0)
    fields = {"config": CASES[kind].config, "padding": "same", "stride": 2}
    layer = animate(CASES[kind].kind(16, 8, 3, **fields)).double().eval()
    x = torch.randn(2, 16, 6, 7, dtype=torch.float64)
    program = trace(deployable(layer), (x,), ExportSettings(dynamic_batch=True, dynamic_size=True))
    x = torch.randn(3, 16, 9, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), layer(x))


def test_at_batch_one_kernels_are_weights_of_a_convolution():
    layer = animate(dyn.KWConv2d(16, 16, 3, padding=1)).eval()
    x = torch.randn(1, 16, 7, 7)
    for runtime, convolutions in (("onnxruntime", 1), ("tensorrt", 0)):
        program = trace(deployable(layer), (x,), ExportSettings(target=runtime))
        targets = [node.target for node in program.graph.nodes]
        assert targets.count(torch.ops.aten.conv2d.default) == convolutions
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-5)


def test_at_a_known_batch_kernels_of_odconv_are_mixed_by_products():
    """As an einsum the mixing takes a runtime several times as long as the convolution."""
    layer = animate(dyn.ODConv2d(6, 10, (3, 2), num_kernels=3, groups=2)).eval()
    x = torch.randn(2, 6, 7, 7)
    program = trace(deployable(layer), (x,), ExportSettings(target="onnxruntime"))
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.aten.bmm.default in targets
    assert torch.ops.aten.conv2d.default in targets
    assert torch.ops.aten.einsum.default not in targets
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), layer(x), rtol=1e-5, atol=1e-5)
