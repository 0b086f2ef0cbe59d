"""A file with a wrong number in it: where it differs is found, and it does not take the place of a good one."""

from __future__ import annotations

import copy
import sys

import pytest
import torch

import dynaconv
from dynaconv import ParityError
from dynaconv.export.export import export
from dynaconv.export.onnx_file import write_onnx
from tests.export.networks import two_blocks

HOME = sys.modules[export.__module__]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """What the exporter wrote for a network: the network, the bytes, and what was returned with them."""
    model, seen, write = two_blocks(), [], HOME.write_onnx

    def watching(program, path, *arguments):
        written = write(program, path, *arguments)
        seen.append((path.read_bytes(), written))
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HOME, "write_onnx", watching)
        dynaconv.export(model, tmp_path_factory.mktemp("good") / "net", input_size=(3, 32, 32), check=False)
    return model, *seen[0]


@pytest.mark.parametrize(
    ("layer", "norm"), [("stem.0", "stem.1"), ("conv1", "norm1"), ("wide", "norm3"), ("head", "-")]
)
def test_the_first_layer_that_differs(good, layer, norm, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx")
    model, content, written = good
    broken = onnx.load_from_string(content)
    held = {tensor.name: tensor for tensor in broken.graph.initializer}
    ours = (f"{layer}/", f"{norm}/")  # with the norm that is folded into it a layer is one
    inputs = [name for node in broken.graph.node if node.name.startswith(ours) for name in node.input]
    wrong = max((held[name] for name in inputs if name in held), key=lambda tensor: len(tensor.raw_data))
    numbers = onnx.numpy_helper.to_array(wrong) * 1.25
    wrong.CopyFrom(onnx.numpy_helper.from_array(numbers.astype("float32"), wrong.name))

    def write(program, path, *arguments):
        path.write_bytes(broken.SerializeToString())
        return written

    monkeypatch.setattr(HOME, "write_onnx", write)
    monkeypatch.setattr(HOME, "trace", lambda network, inputs, settings: written.program)
    place = tmp_path / "net.onnx"
    place.write_text("a good file of before")
    with pytest.raises(ParityError, match=rf"first layer whose output differs is ({layer}|{norm}) \(") as caught:
        dynaconv.export(model, place, input_size=(3, 32, 32))
    assert place.read_text() == "a good file of before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.failed.onnx", "net.onnx"]
    report = caught.value.report
    assert not report.passed
    assert {run.runtime.split()[0] for run in report.comparisons if not run.passed} == {"onnxruntime", "openvino"}
    for said in ("tolerance 1.0e-04", "at batch 1 of 3x32x32", "net.failed.onnx"):
        assert said in str(caught.value)


def test_nothing_is_left_when_it_is_interrupted(good, tmp_path, monkeypatch):
    model, _, written = good

    def write(program, path, *arguments):
        path.write_text("half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(HOME, "write_onnx", write)
    monkeypatch.setattr(HOME, "trace", lambda network, inputs, settings: written.program)
    with pytest.raises(KeyboardInterrupt):
        dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32))
    assert not list(tmp_path.iterdir())


def test_a_file_that_holds_more_than_the_network_is_refused(good, tmp_path, monkeypatch):
    model, content, written = good
    onnx = pytest.importorskip("onnx")
    larger = onnx.load_from_string(content)
    larger.graph.initializer.append(onnx.numpy_helper.from_array(torch.zeros(50_000).numpy(), "again"))

    def write(program, path, *arguments):
        path.write_bytes(larger.SerializeToString())
        return written

    monkeypatch.setattr(HOME, "write_onnx", write)
    monkeypatch.setattr(HOME, "trace", lambda network, inputs, settings: written.program)
    with pytest.raises(dynaconv.DynaconvError, match=r"max_extra_mb=0\.2"):
        dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32), check=False)
    assert not list(tmp_path.iterdir())


def test_opsets_of_old_and_new_runtimes(good, tmp_path):
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model, _, written = good
    x = torch.randn(1, 3, 32, 32)
    expected = copy.deepcopy(model).eval()(x).detach()
    for opset in (17, 23):
        write_onnx(written.program, path := tmp_path / f"{opset}.onnx", opset)
        assert onnx.load(str(path)).opset_import[0].version == opset
        found = ort.InferenceSession(str(path)).run(None, {"images": x.numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
