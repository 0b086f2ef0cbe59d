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
    limit = 1.05 * held
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


def test_tables_are_as_small_as_their_numbers_allow(written):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(written[2])).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    wide = [name for name, array in held.items() if array.dtype.kind in "iu" and array.itemsize > 2]
    assert sum(held[name].nbytes for name in wide) < 2_000
    # Of 480 x 241 frequencies in 64 groups: what begins in each row, as the columns are as many, and end as well.
    assert max(array.nbytes for array in held.values() if array.dtype.kind in "iu") == 480 * 63


def test_the_graph_says_nothing_twice(written):
    """Names of modules are the nodes'; what they, the numbers or the operators' defaults say already, is left out."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(written[2]))
    graph = model.graph
    modules = [node.name.split("/")[0].split(".")[0] for node in graph.node if "/" in node.name]
    assert set(modules) == {"0", "1"}
    assert len(modules) >= len(graph.node) - 2  # all but those that ask for the batch
    assert len({node.name for node in graph.node}) == len(graph.node)
    assert not graph.value_info
    assert not graph.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    made = [name for node in graph.node for name in node.output]
    assert len(set(made)) == len(made)
    assert sum(map(len, made)) < 3 * len(made)
    for node in graph.node:
        known = onnx.defs.get_schema(node.op_type, 17).attributes
        for attribute in node.attribute:
            assert attribute.SerializeToString() != known[attribute.name].default_value.SerializeToString()


def test_large_tables_of_whole_numbers_count(tmp_path):
    onnx = pytest.importorskip("onnx")
    tables = {"shape": torch.arange(8), "table": torch.arange(10_000)}
    tensors = [onnx.numpy_helper.from_array(t.numpy(), name) for name, t in tables.items()]
    path = tmp_path / "tables.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "tables", [], [], tensors)), str(path))
    assert sum(onnx_constants(path).values()) == 80_000
    with pytest.raises(dynaconv.DynaconvError, match=r"0.08 MB of weights"):
        FileSize(path.stat().st_size, 80_000, 1_000).check()


@pytest.mark.parametrize(
    ("total", "constants", "checkpoint", "extra", "said"),
    [
        (21_000_000, 20_000_000, 20_000_000, 0, None),
        (21_100_000, 20_000_000, 20_000_000, 0, r"21.10 MB, 20.00 weights and 1.10 graph, .* max_extra_mb=1.1$"),
        (23_900_000, 22_900_000, 20_000_000, 3_000_000, None),
        (24_100_000, 23_000_000, 20_000_000, 3_000_000, r"24.10 MB, .* max_extra_mb=1.1$"),
        (3_000_000, 2_000_000, 2_000_000, 0, None),
        (3_000_000, 2_200_000, 2_000_000, 0, r"hold 2.20 MB of weights, .* max_extra_mb=0.2$"),
        (90_000_000, None, 20_000_000, 0, None),
    ],
)
def test_the_whole_file_counts_but_for_small_networks(total, constants, checkpoint, extra, said):
    size = FileSize(total, constants, checkpoint, extra)
    if said is None:
        size.check()
        return
    with pytest.raises(dynaconv.DynaconvError, match=said) as caught:
        size.check()
    size.check(allowed_mb=float(str(caught.value).rpartition("=")[2]))
    if "graph" in said:
        size.check(whole=False)
