"""Files of FDConv hold what the checkpoint holds: not the tables of its Fourier transforms."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.export.network import deployable
from dynaconv.export.onnx_file import write_onnx
from dynaconv.export.program import trace
from dynaconv.export.runtimes import open_session
from dynaconv.export.settings import ExportSettings
from dynaconv.export.sizes import FileSize, onnx_constants, program_bytes, state_bytes
from tests.nn.cases import animate


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network of a whole spectrum and of a cut one, as a program and as a file."""
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    network = nn.Sequential(
        dynaconv.FDConv2d(160, 160, 3, padding=1, bands=(), modulations=("channel",)),
        dynaconv.FDConv2d(160, 48, 1, num_kernels=6, param_ratio=2, param_reduction=0.4, modulations=("filter",)),
    )
    network = animate(network).eval()
    program = trace(deployable(network), (torch.randn(2, 160, 5, 4),), ExportSettings(dynamic_batch=True))
    path = tmp_path_factory.mktemp("sizes") / "net.onnx"
    write_onnx(program, path, 17, outputs=["y"])
    return network, program, path


def test_a_file_of_fdconv_takes_what_its_checkpoint_takes(written):
    network, program, path = written
    held = state_bytes(network)
    limit = 1.05 * held + 64_000
    assert path.stat().st_size < limit
    assert 0.9 * held < sum(onnx_constants(path).values()) < limit
    assert 0.9 * held < program_bytes(program) < limit


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 3])
def test_and_computes_the_same(written, runtime, batch):
    pytest.importorskip(runtime)
    network, _, path = written
    x = torch.randn(batch, 160, 5, 4)
    with torch.no_grad():
        expected = copy.deepcopy(network).double()(x.double())
    (found,) = open_session(runtime, path, 1).run(x)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()


def test_the_ir_version_is_that_of_the_opset(written):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(written[2]))
    assert ([entry.version for entry in model.opset_import], model.ir_version) == ([17], 8)


def test_large_tables_of_whole_numbers_count(tmp_path):
    onnx = pytest.importorskip("onnx")
    tables = {"shape": torch.arange(8), "table": torch.arange(10_000)}
    tensors = [onnx.numpy_helper.from_array(t.numpy(), name) for name, t in tables.items()]
    path = tmp_path / "tables.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "tables", [], [], tensors)), str(path))
    assert sum(onnx_constants(path).values()) == 80_000
    with pytest.raises(dynaconv.DynaconvError, match=r"0.08 MB of weights"):
        FileSize(path.stat().st_size, 80_000, 1_000).check()
