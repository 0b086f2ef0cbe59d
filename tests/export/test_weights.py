"""Weights in fewer bits: what is stored, how far off it is, and that runtimes compute what the file says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import dynaconv
from dynaconv.benchmark.small import SmallNet
from dynaconv.errors import DynaconvError, ParityError
from dynaconv.export.runtimes import open_session
from dynaconv.export.weights import BRANCH, PREPARED, round_to_int8, store_weights

KINDS = ("float16", "int8")


@pytest.fixture(scope="module")
def network():
    """Of KernelWarehouse, with a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = dynaconv.convert(SmallNet(), dynaconv.KernelWarehouseConfig(budget=2, reduction=1 / 2), where="body.0")
    return model.eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    """The network as a file."""
    path = tmp_path_factory.mktemp("weights") / "net.onnx"
    dynaconv.export(network, path, input_size=(3, 16, 16), batch_size=2, check=False)
    return path


@pytest.fixture
def matrix(tmp_path):
    """Writes a file that multiplies (B, I) by a constant matrix (I, O)."""

    def write(values: np.ndarray, opset: int = 18):
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", values.shape[0]])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", values.shape[1]])]
        weight = numpy_helper.from_array(values, "w")
        graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", inputs, outputs, [weight])
        path = tmp_path / "matrix.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
        return path

    return write


def constants(path) -> dict[str, np.ndarray]:
    return {held.name: numpy_helper.to_array(held) for held in onnx.load(str(path)).graph.initializer}


def stored_as(path) -> dict[str, str]:
    """The types of weights in fewer bits, by name."""
    found = {}
    for name in constants(path):
        weight, dot, kind = name.rpartition(".")
        if kind in KINDS:
            found[weight] = dot + kind
    return found


def restored(path) -> dict[str, np.ndarray]:
    """The float32 weights that a file stands for, by ONNX's own reference of its operations."""
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(str(path))
    made = [node for node in model.graph.node if node.op_type in ("Cast", "DequantizeLinear")]
    made = [node for node in made if node.name.startswith(node.output[0])]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in made]
    graph = helper.make_graph(made, "weights", [], outputs, list(model.graph.initializer))
    alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])  # the reference knows no older one
    found = ReferenceEvaluator(alone).run(None, {})
    return {node.output[0]: values for node, values in zip(made, found, strict=True)}


def slowly_rounded(values: np.ndarray, axis: int) -> np.ndarray:
    """Each slice of an axis by itself: multiples of a 127th of its largest number."""
    slices = []
    for part in np.moveaxis(values.astype(np.float64), axis, 0):
        step = max(abs(float(v)) for v in part.reshape(-1)) / 127 or 1.0
        slices.append(np.array([round(float(v) / step) * step for v in part.reshape(-1)]).reshape(part.shape))
    return np.moveaxis(np.stack(slices), 0, axis)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_keeps_its_function_with_the_stored_weights(exported, tmp_path, kind):
    """In every runtime: exactly that of a float32 file with the rounded weights; and nearly that of the network."""
    target = tmp_path / "small.onnx"
    said = store_weights(exported, target, kind)
    before, after = constants(exported), restored(target)
    assert "fc.weight" in after or "head.weight" in after
    assert any("cells" in name for name in after)
    numbers = sum(before[name].size for name in after)
    assert (said.weights, said.numbers) == (len(after), numbers)
    squares = sum(float((before[name].astype(float) ** 2).sum()) for name in after)
    errors = sum(float(((before[name] - after[name].astype(float)) ** 2).sum()) for name in after)
    assert said.error == pytest.approx((errors / squares) ** 0.5, rel=1e-3)
    assert said.error < {"float16": 5e-4, "int8": 2e-2}[kind]
    width = {"float16": 2, "int8": 1}
    saved = sum(before[name].size * (4 - width[stored[1:]]) for name, stored in stored_as(target).items())
    assert exported.stat().st_size - target.stat().st_size == pytest.approx(saved, rel=0.1)
    onnx.checker.check_model(str(target), full_check=True)

    rounded = onnx.load(str(exported))
    for held in rounded.graph.initializer:
        if held.name in after:
            held.CopyFrom(numpy_helper.from_array(after[held.name].astype(np.float32), held.name))
    onnx.save(rounded, tmp_path / "rounded.onnx")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    exact = open_session("onnxruntime", exported, 1).run(x)[0]
    for runtime, near in (("onnxruntime", 1e-6), ("openvino", 1e-3)):  # which rounds a classifier's weights once more
        expected = open_session(runtime, tmp_path / "rounded.onnx", 1).run(x)[0]
        found = open_session(runtime, target, 1).run(x)[0]
        assert (found - expected).abs().max() < near * expected.abs().max()
        assert 0 < (found - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("branches", ["float32", "float16", "int8"])
def test_branches_are_stored_apart(exported, tmp_path, kind, branches):
    """The names by which they are known are those that a real export gives them."""
    names = [n for n, v in constants(exported).items() if v.ndim == 2 and v.size >= 1024 and "head" not in n]
    branch = [name for name in names if BRANCH.search(name) or PREPARED.search(name)]
    assert branch == names
    assert branch
    store_weights(exported, tmp_path / "x.onnx", kind, branches=branches)
    found = {**dict.fromkeys(constants(exported), ".float32"), **stored_as(tmp_path / "x.onnx")}
    assert {found[name] for name in branch} == {f".{branches}"}
    assert found["head.weight"] == f".{kind}"


@pytest.mark.parametrize(
    ("name", "branch"),
    [
        ("layer1.0.conv1.attention.fc1.weight", True),
        ("layer1_0_conv1_attention_fc1_weight_reshape_2", True),  # as constants are called that were folded
        ("layer1.0.conv1.lifted_tensor_12", True),
        ("layer1_0_conv1_lifted_tensor_12_transpose_3", True),
        ("warehouses.stage1_conv.cells", False),
        ("warehouses_stage1_conv_cells_reshape_108", False),
        ("layer4_0_downsample_0_weight_folded", False),
    ],
)
def test_names_of_branches(name, branch):
    assert bool(BRANCH.search(name) or PREPARED.search(name)) == branch


def test_branches_are_float16_by_default(exported, tmp_path):
    for kind in KINDS:
        store_weights(exported, tmp_path / "a.onnx", kind)
        store_weights(exported, tmp_path / "b.onnx", kind, branches="float16")
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.parametrize("shape", [(40, 70), (64, 16, 3, 3), (5, 70, 70, 1, 1)])
def test_int8_is_the_nearest_of_each_slice(shape):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values[1] = 0  # a slice of nothing
    for axis in range(2):
        small, scale = round_to_int8(values, axis)
        assert small.dtype == np.int8
        assert scale.size == shape[axis]
        off = np.abs(small * scale.astype(np.float64) - slowly_rounded(values, axis))
        assert (off > 1e-6).mean() < 1e-3  # halves, which may go either way
        assert (np.abs(small * scale.astype(np.float64) - values) <= 0.5001 * scale).all()


def test_the_axis_with_the_smaller_error_has_the_scales(matrix):
    """Columns of a thousand sizes: one scale a column is exact to its size, one a row is not."""
    values = np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32) * np.logspace(0, 3, 96, dtype="f")
    for given, axis in ((values, 1), (np.ascontiguousarray(values.T), 0)):
        path = matrix(given)
        store_weights(path, path, "int8")
        (node,) = (n for n in onnx.load(str(path)).graph.node if n.op_type == "DequantizeLinear")
        assert helper.get_node_attr_value(node, "axis") == axis
        off = np.abs(restored(path)["w"] - slowly_rounded(given, axis)) / given.std(1 - axis, keepdims=True)
        assert (off > 1e-5).mean() < 1e-3


def test_what_does_not_pay_stays(matrix):
    small = matrix(np.ones((31, 33), dtype=np.float32))
    narrow = np.ones((2000, 9), dtype=np.float32)  # nine numbers a scale, as in a depth-wise kernel; or 2,000
    for kind in KINDS:
        with pytest.raises(DynaconvError, match=r"holds no float32 weight of 1024 numbers or more"):
            store_weights(small, small, kind)
    path = matrix(narrow)
    store_weights(path, path, "int8")
    assert constants(path)["w.scale"].size == 9
    path = matrix(np.full((64, 64), 1e6, dtype=np.float32))
    with pytest.raises(DynaconvError, match="that float16 would shrink"):  # there it is infinite
        store_weights(path, path, "float16")


def test_requests_that_can_not_be_met(matrix, tmp_path):
    path = matrix(np.ones((64, 64), dtype=np.float32), opset=12)
    with pytest.raises(DynaconvError, match=r"weights='int4' is not known"):
        store_weights(path, path, "int4")  # type: ignore[arg-type]
    with pytest.raises(DynaconvError, match=r"branches='int4' is not known"):
        store_weights(path, path, "int8", branches="int4")  # type: ignore[arg-type]
    before = path.read_bytes()
    with pytest.raises(DynaconvError, match="has opset 12; int8 weights need 13"):
        store_weights(path, path, "int8")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["matrix.onnx"]


def test_it_says_what_it_did(exported, tmp_path):
    said = str(store_weights(exported, tmp_path / "x.onnx", "int8"))
    assert "as int8: error" in said
    assert "% of all numbers" in said


def test_export_stores_them_once_the_graph_has_passed(exported, network, tmp_path):
    report = dynaconv.export(network, tmp_path / "net", input_size=(3, 16, 16), batch_size=2, weights="int8")
    store_weights(exported, tmp_path / "expected.onnx", "int8")
    expected, found = constants(tmp_path / "expected.onnx"), constants(report.path)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert report.passed
    assert report.fault is None
    assert report.size.total == report.path.stat().st_size < 0.5 * exported.stat().st_size
    assert {run.runtime.split()[0] for run in report.comparisons} == {"onnxruntime", "openvino"}
    assert 1e-3 < report.worst.error < report.worst.tolerance
    stored, before = report.notes[-2:]
    assert "as int8: error" in stored
    assert before.startswith("worst error before, with weights in float32: ")
    assert all(float(text.split()[0]) < 1e-4 for text in before.partition("float32: ")[2].split(", "))


def test_what_moves_too_far_is_kept_apart(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 40))
    with pytest.raises(ParityError, match=r"weights in int8 move noise so far; if images of yours") as caught:
        dynaconv.export(model, tmp_path / "net", input_size=(3, 8, 8), weights="int8", tolerance=1e-5)
    assert caught.value.report.path == tmp_path / "net.failed.onnx"
    assert [path.name for path in tmp_path.iterdir()] == ["net.failed.onnx"]
