"""The house: imports go downward only, optional packages stay optional, and __all__ is the namespace."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dynaconv

SOURCE = Path(dynaconv.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# Lower may not import higher; rooms of one layer import each other only where SIBLINGS says so.
LAYERS = {
    "errors": 0,
    "_version": 0,
    "config": 0,
    "files": 0,
    "ops": 1,
    "planning": 1,
    "nn": 2,
    "convert": 3,
    "models": 4,
    "checkpoints": 4,
    "analysis": 4,
    "export": 4,
    "training": 5,
    "benchmark": 5,
    "detection": 5,
    "integrations": 5,
    "cli": 6,
}
SIBLINGS = {("config", "errors"), ("files", "errors"), ("detection", "training")}
OPTIONAL = {
    "timm",
    "torchvision",
    "lightning",
    "jsonargparse",
    "sklearn",
    "mlxtend",
    "matplotlib",
    "tensorboard",
    "torchmetrics",
    "rich",
    "yaml",
    "PIL",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "fastapi",
    "uvicorn",
    "numpy",
    "triton",
    "submitit",
    "ray",
    "scipy",
    "pycocotools",
}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", [f for f in FILES if f.parent != SOURCE or f.name != "__init__.py"], ids=str)
def test_imports_go_downward(path):
    here = room(path)
    assert here in LAYERS, f"{here} has no layer"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "dynaconv" or len(parts) < 2 or parts[1] == here:
            continue
        there = parts[1]
        if there not in LAYERS:  # a name of the package itself, such as dynaconv.__version__ or dynaconv.plan
            assert LAYERS[here] >= 5, f"{path} imports {name}: only the outer layers use the public namespace"
            continue
        assert LAYERS[there] < LAYERS[here] or (here, there) in SIBLINGS, f"{path} imports {name}"


def test_planning_is_pure_python():
    for path in (SOURCE / "planning").glob("*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] == "torch"}, path


@pytest.mark.parametrize("path", [f for f in FILES if LAYERS.get(room(f), 9) < 5], ids=str)
def test_inner_layers_do_without_optional_packages(path):
    assert not {name.split(".")[0] for name in imports(path)} & OPTIONAL


def test_importing_the_package_loads_no_optional_package():
    probe = "import sys, dynaconv; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(
        subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "torch" in loaded
    assert not loaded & (OPTIONAL - {"numpy", "triton"})  # torch itself takes these along when they are there


def test_public_names():
    public = {name for name in vars(dynaconv) if not name.startswith("_")}
    rooms = {room(path) for path in FILES} | {"integrations"}
    assert set(dynaconv.__all__) - {"__version__"} == public - (rooms - {"plan", "convert", "export"})


def test_no_file_is_a_drawer():
    for path in FILES:
        lines = path.read_text().count("\n")
        assert lines <= 400, f"{path} has {lines} lines"


@pytest.mark.parametrize("root", [SOURCE, Path(__file__).parent], ids=["src", "tests"])
def test_every_folder_of_code_is_a_package(root):
    folders = {path.parent for path in root.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.skipif(not (SOURCE.parents[1] / ".git").exists(), reason="no git repository")
def test_no_code_is_ignored():
    files = [str(path.with_name("new.py")) for path in SOURCE.rglob("__init__.py")]
    found = subprocess.run(["git", "check-ignore", *files], cwd=SOURCE, capture_output=True, text=True, check=False)
    assert (found.stdout, found.returncode) == ("", 1)
