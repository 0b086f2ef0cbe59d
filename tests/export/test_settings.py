"""Requests that are refused before anything is computed, and what is told of a network and its runtimes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv import DynaconvError
from dynaconv.export import ExportSettings, open_session, torch_files
from dynaconv.export.export import _properties, _temperature_notes
from dynaconv.export.inputs import example_of
from dynaconv.export.parity import make_reference


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"half": True, "weights": "int8"}, "half=True with weights='int8'"),
        ({"opset": 7}, "opset=7; expected one of"),
        ({"batch_size": 8, "dynamic_batch": True}, "batch_size=8 with dynamic_batch=True"),
    ],
)
def test_settings_that_do_not_go_together(settings, text):
    with pytest.raises(DynaconvError, match=text):
        ExportSettings(**settings)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(DynaconvError, match=r"is a folder; expected the name of a file, such as .*net\.onnx"):
        dynaconv.export(nn.Linear(2, 2), tmp_path, input_size=(2,))
    assert not list(tmp_path.parent.glob("*.onnx"))


def test_float16_that_overflows_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4))
    with torch.no_grad():
        model[1][0].weight.mul_(1e6)
    inputs = [(torch.randn(2, 4).half(),)]
    with pytest.raises(DynaconvError, match=r"float16 overflows in this network: .* first those of 1\.0 \(Linear\)"):
        make_reference(model, inputs, torch.float16)
    assert math.isfinite(make_reference(model, inputs, torch.float32).own_error)


def test_a_temperature_that_is_frozen_is_told():
    model = dynaconv.convert(nn.Sequential(nn.Conv2d(8, 8, 3)), dynaconv.ODConvConfig(), where=["0"])
    dynaconv.schedule_temperature(model, 0.5)
    (note,) = _temperature_notes(model)
    assert f"attention is at temperature {dynaconv.get_temperature(model):g}, as the file will stay" in note
    assert _properties(model, None, (8, 8))["description"] == {
        "name": "Sequential",
        "temperature": dynaconv.get_temperature(model),
    }
    dynaconv.schedule_temperature(model, 1.0)
    assert _temperature_notes(model) == ()
    assert _temperature_notes(nn.Linear(2, 2)) == ()


def test_the_size_is_the_descriptions():
    said = {"model": {"in_chans": 1}, "image_size": 28}
    settings = ExportSettings()
    assert example_of(nn.Conv2d(1, 2, 3), settings, description=said)[0].shape == (1, 1, 28, 28)
    assert example_of(nn.Conv2d(1, 2, 3), settings, (1, 9, 9), description=said)[0].shape == (1, 1, 9, 9)
    for wrong in (8, (), "888"):
        with pytest.raises(DynaconvError, match=r"input_size=.*; expected channels and sides of one image"):
            example_of(nn.Conv2d(1, 2, 3), settings, wrong)


def test_the_compiler_is_the_one_that_inductor_takes(tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(
        "torch._inductor.aoti_compile_and_package", lambda program, package_path: package_path.write(b"a library")
    )
    with (
        config.patch({"cpp.cxx": (None, "no-compiler-of-this-name")}),
        pytest.raises(DynaconvError, match=r"no compiler works here .*'no-compiler-of-this-name'.*CXX"),
    ):
        torch_files.write_aoti(None, tmp_path / "net.pt2")  # type: ignore[arg-type]
    wrapper = tmp_path / "cache"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    with config.patch({"cpp.cxx": (None, f"{wrapper} g++")}):
        torch_files.write_aoti(None, tmp_path / "net.pt2")  # type: ignore[arg-type]
    assert (tmp_path / "net.pt2").read_text() == "a library"


def test_inputs_go_to_the_device_that_a_library_was_compiled_for(monkeypatch):
    """Without a GPU: a device that has no numbers stands for it."""
    seen = []

    class Compiled(SimpleNamespace):
        def __call__(self, *inputs):
            seen.extend(x.device.type for x in inputs)
            return torch.ones(2)

    compiled = Compiled(get_metadata=lambda: {"AOTI_DEVICE_KEY": "meta"})
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: compiled)
    (output,) = open_session("aoti", "net.pt2").run(torch.ones(1), torch.ones(1))
    assert seen == ["meta", "meta"]
    assert output.device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_library_for_a_gpu_passes(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).cuda()
    assert dynaconv.export(model, tmp_path / "net", format="aoti", input_size=(3, 8, 8)).passed
