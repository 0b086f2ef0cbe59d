from __future__ import annotations

import copy
import json

import pytest
import torch

import dynaconv
from dynaconv.export.onnx_file import read_properties
from tests.export.networks import two_blocks

SAID = {"model": {"name": "two_blocks"}, "classes": ["a", "b"], "image_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A network, and what its export to ONNX came to."""
    model, said = two_blocks(), []
    report = dynaconv.export(
        model,
        tmp_path_factory.mktemp("onnx") / "net",
        input_size=(3, 32, 32),
        dynamic_batch=True,
        dynamic_size=True,
        description=SAID,
        tell=said.append,
    )
    return model, report, said


def test_the_file_is_run_in_both_runtimes_at_all_batches_and_two_sizes(written):
    _, report, _ = written
    assert report.passed
    runs = {(run.runtime.split()[0], run.batch, run.size) for run in report.comparisons}
    sizes = ((3, 32, 32), (3, 64, 32))
    assert runs == {
        (name, batch, size) for name in ("onnxruntime", "openvino") for batch in (1, 2, 5, 16) for size in sizes
    }
    assert 0 < report.worst.error < 1e-4
    assert report.reference_type == "float64"
    assert [path.name for path in report.path.parent.iterdir()] == ["net.onnx"]


def test_the_network_stays_as_it_was(written):
    model, _, _ = written
    assert model.training
    assert model.conv1.training
    before = copy.deepcopy(model.state_dict())
    fresh = two_blocks().state_dict()
    assert all(torch.equal(before[key], fresh[key]) for key in fresh)


def test_what_the_file_says_of_itself(written):
    onnx = pytest.importorskip("onnx")
    _, report, _ = written
    said = read_properties(report.path)
    assert said["classes"] == '["a", "b"]'
    assert '"image_size": 32' in said["preprocessing"]
    assert json.loads(said["description"]) == {"name": "two_blocks", "temperature": 0.0}
    graph = onnx.load(str(report.path)).graph
    assert [value.name for value in graph.input] == ["images"]
    assert [value.name for value in graph.output] == ["logits"]
    assert [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert any(node.name.startswith("conv2/") for node in graph.node)
    assert b"site-packages" not in report.path.read_bytes()  # no trace of the machine


@pytest.mark.parametrize(("sides", "said"), [((24, 24), 24), ((24, 16), [24, 16])])
def test_the_image_size_in_the_file_is_the_one_it_was_made_for(tmp_path, sides, said):
    pytest.importorskip("onnx")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    report = dynaconv.export(model, tmp_path / "net", input_size=(3, *sides), description=SAID, check=False)
    assert json.loads(read_properties(report.path)["preprocessing"])["image_size"] == said
