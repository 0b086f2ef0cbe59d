"""A file with a wrong number in it: where it differs is found, and it does not take the place of a good one."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import re
import sys

import pytest
import torch

import dynaconv
from dynaconv import ParityError
from dynaconv.errors import MissingExtraError, require
from dynaconv.export import open_session, parity, runtimes
from dynaconv.export.export import export
from dynaconv.export.onnx_file import write_onnx
from dynaconv.files import clean_temporaries
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


def test_the_layer_is_looked_for_with_the_inputs_that_failed(good, tmp_path, monkeypatch):
    """Of a fixed batch, all inputs have one shape; only the third differ here."""
    model, content, written = good
    wrong, searched = [], []

    class Session:
        def __init__(self, *arguments):
            self.session, self.runs = open_session(*arguments), 0
            self.runtime = self.session.runtime

        def run(self, *inputs):
            self.runs += 1
            outputs = self.session.run(*inputs)
            if self.runs != 3:
                return outputs
            wrong.append(inputs)
            return [y + 1 for y in outputs]

    def search(model, program, path, runtime, expected, tolerance):
        searched.append(expected.inputs)

    monkeypatch.setattr(HOME, "trace", lambda network, inputs, settings: written.program)
    monkeypatch.setattr(HOME, "write_onnx", lambda program, path, *rest: path.write_bytes(content) and written)
    monkeypatch.setattr(parity, "open_session", Session)
    monkeypatch.setattr(HOME, "locate", search)
    with pytest.raises(ParityError) as caught:
        dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32))
    assert [run["case"] for run in caught.value.report.to_dict()["comparisons"] if not run["passed"]] == [2, 2]
    assert searched == [wrong[0]]


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


def test_numbers_beside_a_graph_are_its_own(good, tmp_path, monkeypatch):
    """Written well, then wrong, then cut off between the two files, then in one file."""
    onnx = pytest.importorskip("onnx")
    model, content, written = good
    place, x = tmp_path / "net.onnx", torch.randn(1, 3, 32, 32)
    settings = {"input_size": (3, 32, 32)}

    def write(program, path, *arguments, factor=1.0):
        graph = onnx.load_from_string(content)
        for tensor in graph.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                numbers = onnx.numpy_helper.to_array(tensor) * factor
                tensor.CopyFrom(onnx.numpy_helper.from_array(numbers.astype("float32"), tensor.name))
        beside = f"{path.name}.data"
        onnx.save_model(graph, path, save_as_external_data=True, location=beside, size_threshold=256)
        return dataclasses.replace(written, external=path.with_name(beside))

    def names():
        return sorted(path.name for path in tmp_path.iterdir())

    monkeypatch.setattr(HOME, "trace", lambda network, inputs, settings: written.program)
    monkeypatch.setattr(HOME, "write_onnx", write)
    (tmp_path / "net.onnx.data").write_text("of before")
    report = dynaconv.export(model, place, **settings)
    data, graph = names()[1], place.read_bytes()
    assert names() == ["net.onnx", data]
    assert re.fullmatch(r"net\.onnx\.[0-9a-f]{12}\.data", data)
    assert sorted(path.name for path in report.files) == names()
    expected = open_session("onnxruntime", place).run(x)[0]

    monkeypatch.setattr(HOME, "write_onnx", functools.partial(write, factor=1.25))
    with pytest.raises(ParityError) as caught:
        dynaconv.export(model, place, **settings)
    failed = ["net.failed.onnx", "net.failed.onnx.data"]
    assert names() == [*failed, "net.onnx", data]
    assert [path.name for path in caught.value.report.files] == failed
    assert not torch.allclose(open_session("onnxruntime", tmp_path / failed[0]).run(x)[0], expected, rtol=1e-2)
    assert torch.equal(open_session("onnxruntime", place).run(x)[0], expected)

    def cut(source, target):
        if source.name == target.name == "net.onnx":
            raise KeyboardInterrupt
        return whole(source, target)

    whole = type(place).replace
    with monkeypatch.context() as patch:
        patch.setattr(type(place), "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            dynaconv.export(model, place, check=False, **settings)
    assert place.read_bytes() == graph
    assert torch.equal(open_session("onnxruntime", place).run(x)[0], expected)
    assert len(names()) == 5

    monkeypatch.setattr(HOME, "write_onnx", lambda program, path, *rest: path.write_bytes(content) and written)
    dynaconv.export(model, place, check=False, **settings)
    assert names() == [*failed, "net.onnx"]


def test_a_runtime_that_does_not_load_and_one_that_refuses(good, tmp_path, monkeypatch):
    model, content, written = good
    monkeypatch.setattr(HOME, "trace", lambda network, inputs, settings: written.program)
    monkeypatch.setattr(HOME, "write_onnx", lambda program, path, *rest: path.write_bytes(content) and written)
    broken = {"openvino"}

    def load(name, extra):
        if name in broken:
            raise ImportError("libtbb.so.12: cannot open shared object file")
        return require(name, extra)

    monkeypatch.setattr(runtimes, "require", load)
    report = dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32))
    assert report.passed
    assert report.notes == ("not checked in openvino: libtbb.so.12: cannot open shared object file",)
    broken.add("onnxruntime")
    with pytest.raises(MissingExtraError, match=r"onnxruntime: libtbb.*pip install 'dynaconv\[export\]'"):
        dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32))
    unseen = dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32), check=False)
    assert (unseen.checked, unseen.passed) == (False, None)
    broken.remove("onnxruntime")
    monkeypatch.setattr(HOME, "write_onnx", lambda program, path, *rest: path.write_bytes(b"none") and written)
    monkeypatch.setattr(HOME, "onnx_constants", lambda path: {})
    with pytest.raises(
        ParityError, match=r"net2.onnx was not written: onnxruntime refuses the file at batch 1 of"
    ) as caught:
        dynaconv.export(model, tmp_path / "net2", input_size=(3, 32, 32))
    assert "another function" not in str(caught.value)
    assert "REFUSED" in str(caught.value.report)


def test_folders_of_killed_exports_go_when_they_are_old(good, tmp_path, monkeypatch):
    model, content, written = good
    monkeypatch.setattr(HOME, "trace", lambda network, inputs, settings: written.program)
    monkeypatch.setattr(HOME, "write_onnx", lambda program, path, *rest: path.write_bytes(content) and written)
    old, young, other = (
        tmp_path / f".{name}.tmp" for name in (f"net.onnx.{'a' * 12}", f"net.onnx.{'b' * 12}", "other")
    )
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "net.onnx").write_text("half of it")
    for folder in (old, other):
        os.utime(folder, (0, 0))
    dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32), check=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, other.name, "net.onnx"]
    assert sorted(clean_temporaries(tmp_path)) == [young.name, other.name]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


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
    with pytest.raises(dynaconv.DynaconvError, match=r"max_extra_mb=0\.2") as caught:
        dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32), check=False)
    assert not list(tmp_path.iterdir())
    advised = float(re.search(r"max_extra_mb=([\d.]+)", str(caught.value))[1])
    dynaconv.export(model, tmp_path / "net", input_size=(3, 32, 32), check=False, max_extra_mb=advised)


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
