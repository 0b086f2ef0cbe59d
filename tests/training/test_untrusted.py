"""Files of strangers: nothing in them is run, fetched or unfolded; they are read or refused."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint, read_recipe
from dynaconv.errors import CheckpointError, DynaconvError, RunWarning
from dynaconv.training import TuneConfig, evaluate, fit, predict, resume
from dynaconv.training.comparison.runs import open_comparison
from dynaconv.training.runs.fitting import load_recipe, save_recipe
from dynaconv.training.runs.sealed import read_sealed
from dynaconv.training.yaml_files import parse_yaml
from tests.training.likeness import differences
from tests.training.tiny import static_recipe

SOURCE = Path(dynaconv.__file__).parent
TINY = {"name": "resnet18", "num_classes": 2, "in_chans": 1, "backbone_kwargs": {"channels": [2, 2, 2, 2]}}


class Trap:
    """Unpickled with code allowed, it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def traps(path: Path, sprung: Path) -> None:
    """The trap in each of the formats that torch reads."""
    trap = {"state_dict": {"conv1.weight": Trap(sprung)}, "loops": {}, "global_step": 1}
    torch.save(trap, path / "zip.pth")
    torch.save(trap, path / "legacy.pth", _use_new_zipfile_serialization=False)
    (path / "plain.pth").write_bytes(pickle.dumps(trap))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(trap, protocol=2))
        file.writestr("archive/version", "3\n")
    (path / "hand.pth").write_bytes(archive.getvalue())


def test_the_trap_works(tmp_path):
    traps(tmp_path, tmp_path / "sprung")
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain", "hand"])
def test_no_reader_runs_code(tmp_path, kind):
    sprung, path = tmp_path / "sprung", tmp_path / f"{kind}.pth"
    traps(tmp_path, sprung)
    model = dynaconv.create_model("resnet18", channels=[2, 2, 2, 2])
    run = tmp_path / "run"
    save_recipe(static_recipe(), run / "config.yaml")
    for name in ("last.ckpt", "best.safetensors", "best.json"):
        shutil.copy(path, run / name)
    shutil.copy(path, tmp_path / "net.safetensors")
    shutil.copy(path, tmp_path / "compare.yaml")
    readers = [
        lambda: dynaconv.load_weights(model, path),
        lambda: dynaconv.load_weights(model, tmp_path / "net.safetensors"),
        lambda: dynaconv.load_reference_checkpoint(model, path),
        lambda: load_checkpoint(run / "best"),
        lambda: read_recipe(run / "best"),
        lambda: evaluate(run / "best"),
        lambda: predict(run / "best", []),
        lambda: resume(run),
        lambda: read_sealed(path),
        lambda: fit(static_recipe(tune=TuneConfig(source=str(path))), tmp_path / "tuned"),
        lambda: load_recipe(path),
        lambda: open_comparison(tmp_path),
    ]
    for read in readers:
        with pytest.raises(DynaconvError):
            read()
    assert not sprung.exists()


def test_the_source_unpickles_nothing():
    """`torch.load` says weights_only=True, `numpy.load` allow_pickle=False; nothing imports pickle; YAML is plain."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {(getattr(node, "module", "") or "")}
                assert not names & {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}, path
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            called = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in (
                "torch.load",
                "torch.hub.load",
                "torch.hub.load_state_dict_from_url",
                "numpy.load",
                "np.load",
            ):
                safe = ("weights_only", "True") if called.startswith("torch") else ("allow_pickle", "False")
                assert not called.startswith("torch.hub"), f"{path}:{node.lineno}"
                assert options.get(safe[0]) == safe[1], f"{path}:{node.lineno}"
            if called.endswith(".load_from_checkpoint") or called in ("builtins.eval", "builtins.exec"):
                pytest.fail(f"{path}:{node.lineno}")
            if called.startswith("yaml.") and "load" in called and path.name != "yaml_files.py":
                assert called == "yaml.safe_load", f"{path}:{node.lineno}"
            if called.endswith("trainer.fit") and "ckpt_path" in options:
                assert options.get("weights_only") == "True", f"{path}:{node.lineno}"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "alias \\*a: write it out"),
        ("model: a\nmodel: b\n", r"\['model'\] are given twice"),
        ("run: {seed: 1, seed: 2}\n", r"\['seed'\] are given twice"),
        ("[" * 10**5, "it is nested too deeply"),
        ("!!python/object/apply:os.mkdir [sprung]", "could not determine a constructor"),
        ("!!bool maybe", "maybe"),
        ("a: 2001-99-99", "month must be in"),
        ("a: !!int ''", "out of range"),
        ("{", "expected the node content"),
        ("\x00", "unacceptable character"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, reason):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(DynaconvError, match=f"recipe.yaml can not be read as YAML: .*{reason}"):
        load_recipe(path)


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "long").write_text("a" * 2**21)
    for name, reason in (
        ("bytes", "can not be read as YAML"),
        ("long", "2,097,152 bytes"),
        ("none", "can not be read"),
    ):
        with pytest.raises(DynaconvError, match=reason):
            load_recipe(tmp_path / name)


@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_is_yaml_or_an_error(text):
    try:
        parse_yaml(text, "text")
    except DynaconvError:
        pass


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny network and its two files."""
    folder = tmp_path_factory.mktemp("saved")
    model = dynaconv.create_model("resnet18", num_classes=2, in_chans=1, channels=[2, 2, 2, 2])
    dynaconv.checkpoints.save_checkpoint(folder / "net", model, {"model": TINY, "classes": ["a", "b"]})
    run = folder / "run"
    fit(static_recipe(backbone={"channels": [4, 4, 4, 4]}), run)
    return folder


@st.composite
def spoilt(draw, content: bytes) -> bytes:
    """Bytes changed, cut off, put in or put behind; or others altogether."""
    kind = draw(st.sampled_from(["change", "change", "cut", "insert", "append", "other", "header"]))
    place = draw(st.integers(0, len(content) - 1))
    if kind == "header":  # where formats have their lengths
        place = draw(st.integers(0, min(120, len(content) - 1)))
    some = draw(st.binary(min_size=1, max_size=9))
    if kind in ("change", "header"):
        return content[:place] + some + content[place + len(some) :]
    if kind == "cut":
        return content[:place]
    if kind == "insert":
        return content[:place] + some + content[place:]
    return content + some if kind == "append" else some * draw(st.integers(0, 20))


FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.filterwarnings("ignore::dynaconv.errors.RunWarning")
@pytest.mark.parametrize("name", ["net.safetensors", "net.json"])
def test_a_spoilt_checkpoint_is_the_original_or_an_error(saved, tmp_path, name):
    original = {file: (saved / file).read_bytes() for file in ("net.safetensors", "net.json")}
    for file, content in original.items():
        (tmp_path / file).write_bytes(content)
    state, recipe = load_file(saved / "net.safetensors"), read_recipe(saved / "net")

    @given(spoilt(original[name]))
    @FUZZ
    def check(content):
        (tmp_path / name).write_bytes(content)
        try:
            model, found = load_checkpoint(tmp_path / "net")
        except CheckpointError:
            assert content != original[name]
            return
        assert differences(found, recipe) == []
        assert differences(dict(model.state_dict()), state) == []

    check()


def test_a_spoilt_file_to_resume_from_is_the_original_or_an_error(saved, tmp_path):
    original = (saved / "run" / "last.ckpt").read_bytes()
    expected = torch.load(saved / "run" / "last.ckpt", weights_only=True)

    @given(spoilt(original))
    @FUZZ
    def check(content):
        (tmp_path / "last.ckpt").write_bytes(content)
        try:
            found = read_sealed(tmp_path / "last.ckpt")
        except CheckpointError:
            assert content != original
            return
        assert differences(found, expected) == []

    check()


@pytest.mark.parametrize("entry", [{"a": [2**62]}, {"a": [1], "b": [2**40, 2**40]}])
def test_headers_that_promise_too_much(tmp_path, entry):
    described = {k: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]} for k, shape in entry.items()}
    for text in (json.dumps(described), "[" * 10**5, '{"a":' * 10**5):
        header = text.encode()
        (tmp_path / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
        with pytest.raises(CheckpointError, match="damaged or no safetensors"):
            load_checkpoint(tmp_path / "net")
    (tmp_path / "net.safetensors").write_bytes((2**63 - 1).to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        load_checkpoint(tmp_path / "net")


def test_a_torn_pair_says_so(saved, tmp_path):
    shutil.copy(saved / "net.safetensors", tmp_path)
    (tmp_path / "net.json").write_text((saved / "net.json").read_text().replace('"id": "', '"id": "0'))
    with pytest.warns(RunWarning, match="of another save"):
        load_checkpoint(tmp_path / "net")
