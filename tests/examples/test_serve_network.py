"""An exported checkpoint is served without PyTorch and answers as `dynaconv predict` does; bad files say why."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint, save_checkpoint
from dynaconv.training.prediction import predict
from tests.examples.serving import FOLDER, PREPROCESSING, modules, serve, write_onnx
from tests.examples.test_serve_images import KINDS

httpx2 = pytest.importorskip("httpx2", reason="needs the extra 'dev'")
Network, BadModel = serve.network.Network, serve.network.BadModel
WITHOUT_TORCH = "import sys; sys.modules.update(torch=None, torchvision=None, timm=None, dynaconv=None)"
NAMES = ["palace", "daisy", "tabby", "<i>", "ø"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> SimpleNamespace:
    """A checkpoint whose answers differ widely from image to image, and the file that is made of it."""
    folder = tmp_path_factory.mktemp("served")
    torch.manual_seed(0)
    config = dynaconv.KernelWarehouseConfig(partition="channel")
    backbone = {"layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32]}
    chosen = ["layer4.*"]  # one stage of dynamic layers is enough, and sooner exported than four
    model = dynaconv.create_model("resnet18", config=config, where=chosen, num_classes=len(NAMES), **backbone)
    model.train()(torch.randn(16, 3, 24, 24))
    with torch.no_grad():
        model.get_submodule("fc").weight.mul_(20)
    preprocessing = {
        "image_size": 24,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
    }
    made = {
        "name": "resnet18",
        "config": config.to_dict(),
        "where": chosen,
        "num_classes": len(NAMES),
        "backbone_kwargs": backbone,
    }
    save_checkpoint(folder / "best", model, {"model": made, "classes": NAMES, **preprocessing})
    file = folder / "best.onnx"
    _, description = load_checkpoint(folder / "best")
    dynaconv.export(model, file, input_size=(3, 24, 24), description=description, dynamic_batch=True, check=False)
    return SimpleNamespace(checkpoint=folder / "best", file=file)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_process_without_torch_answers_as_predict_does(exported, tmp_path):
    """From the command to Ctrl+C: every kind of image, alone and in batches."""
    paths = []
    for kind, data in KINDS.items():
        paths.append(tmp_path / kind.replace(" ", "_"))
        paths[-1].write_bytes(data)
    expected = [dict(prediction.classes) for prediction in predict(exported.checkpoint, paths, top=len(NAMES))]
    shares = np.array([[entry[name] for name in NAMES] for entry in expected])
    assert np.ptp(shares, axis=0).max() > 0.5, "a network that tells images apart"

    script = f"{WITHOUT_TORCH}; sys.path.insert(0, {str(FOLDER)!r}); import app; app.main()"
    command = [sys.executable, "-c", script, str(exported.file), "--port", "0", "--threads", "1", "--max-wait-ms", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = [process.stdout.readline(), process.stdout.readline()]
            assert said[0] == "best.onnx: 5 classes, batches of up to 16\n"
            url = re.match(r"(http://\S+)", said[1])[1]

            def ask(path: Path) -> dict[str, float]:
                response = httpx2.post(f"{url}/classify", files={"file": path.read_bytes()}, timeout=60)
                assert response.status_code == 200, response.text
                sizes.append(response.json()["batch"])
                return {entry["class"]: entry["probability"] for entry in response.json()["classes"]}

            sizes: list[int] = []
            alone = [ask(path) for path in paths]
            with ThreadPoolExecutor(8) as pool:
                for _ in range(10):  # on a busy machine requests may come one by one
                    together = list(pool.map(ask, paths))
                    if max(sizes) > 1:
                        break
            model = httpx2.get(f"{url}/model").json()
            assert model["classes"] == NAMES
            assert model["description"]["config"]["method"] == "kernel_warehouse"
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert errors == ""
    assert process.returncode == 0
    assert set(sizes[: len(paths)]) == {1}
    assert max(sizes) > 1
    for path, theirs, *ours in zip(paths, expected, alone, together, strict=True):
        for answer in ours:
            assert answer == pytest.approx(theirs, abs=1e-4), path.name
            assert max(answer, key=answer.get) == max(theirs, key=theirs.get)


def test_a_batch_gives_probabilities(tmp_path):
    network = Network(write_onnx(tmp_path / "a.onnx"))
    images = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    logits = network.session.run(None, {"images": 100 * images})[0]
    np.testing.assert_allclose(network(100 * images), torch.from_numpy(logits).softmax(1).numpy(), atol=1e-6)
    half = Network(write_onnx(tmp_path / "b.onnx", half=True))
    assert half(images).dtype == np.float32
    np.testing.assert_allclose(half(images), network(images), atol=0.02)


def test_bad_files(tmp_path):
    known = {"classes": ["a", "b"], "preprocessing": PREPROCESSING}

    def refused(says: str, path: Path, **given: object) -> None:
        with pytest.raises(BadModel, match=says) as error:
            Network(path, **given)
        assert "\n" not in str(error.value)

    refused("no such file; write one with `dynaconv export`", tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("words")
    refused("onnxruntime can not load it", tmp_path / "text.onnx")
    bare = write_onnx(tmp_path / "bare.onnx", metadata={})
    refused("lack dynaconv.classes.*or give --classes", bare)
    refused("lack dynaconv.preprocessing.*or give --preprocessing", bare, classes=["a", "b"])
    assert Network(bare, **known).description is None
    assert Network(bare, **known).classes == ["a", "b"]
    refused("expected a JSON list of names", bare, classes={"a": 1})
    for change, says in [
        ({"classes": ["a"]}, "expected .1, 1., as there are 1 names"),
        ({"preprocessing": [1]}, "preprocessing:"),
        ({"preprocessing": PREPROCESSING | {"image_size": 9}}, "images of shape .1, 1, 9, 9. do not go through"),
        ({"preprocessing": PREPROCESSING | {"mean": [0, 0, 0], "std": [1, 1, 1]}}, "shape .1, 3, 8, 8. do not go"),
    ]:
        refused(says, write_onnx(tmp_path / "bad.onnx", metadata=known | change))


@pytest.fixture
def started(monkeypatch):
    """What `main` would start, without starting it, nor configuring the logs of this process.

    That closes every handler there is, and absl's closes its stream: where it was made, the one pytest collects with.
    """
    seen = {}
    monkeypatch.setattr(serve.app.uvicorn.Config, "configure_logging", lambda self: None)
    monkeypatch.setattr(serve.app.uvicorn.Server, "run", lambda self, sockets: seen.update(config=self.config))
    monkeypatch.setattr(serve.app.warnings, "filterwarnings", lambda *args, **options: None)
    return seen


def test_the_command_with_its_flags(started, tmp_path, capsys):
    file = write_onnx(tmp_path / "bare.onnx", metadata={})
    (tmp_path / "names.json").write_text('["a", "b"]')
    (tmp_path / "steps.json").write_text(json.dumps(PREPROCESSING))
    flags = ["--classes", str(tmp_path / "names.json"), "--preprocessing", str(tmp_path / "steps.json")]
    serve.app.main([str(file), "--port", "0", "--max-batch", "3", *flags])
    assert "bare.onnx: 2 classes, batches of up to 3\nhttp://127.0.0.1:" in capsys.readouterr().out
    serve.app.main([str(write_onnx(tmp_path / "one.onnx", batch=1)), "--port", "0"])
    assert "no batching; export it with --dynamic-batch" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="it takes 4 images"):
        serve.app.main([str(write_onnx(tmp_path / "four.onnx", batch=4))])
    for wrong in (
        ["--max-batch", "0"],
        ["--max-mb", "-1"],
        ["--max-wait-ms", "nan"],
        ["--classes", str(file)],
        ["--port", "65536"],
    ):
        with pytest.raises(SystemExit) as end:
            serve.app.main([str(file), *wrong])
        assert end.value.code == 2
        assert re.search(r"is not a (whole )?number from|can not be read as JSON", capsys.readouterr().err)
    with pytest.raises(SystemExit) as end:
        serve.app.main(["--help"])
    assert end.value.code == 0
    assert "curl --form file=@digit.png" in capsys.readouterr().out


def test_requirements_are_those_of_the_extra():
    listed = [line for line in (FOLDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    extras = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(listed) == sorted(extras["serve"])


def test_the_load_test_and_its_page(tmp_path, capsys):
    """One burst of each kind on a small network; the figures that are committed are those of their table."""
    pytest.importorskip("matplotlib")
    load = modules("load").load
    bare = write_onnx(tmp_path / "bare.onnx", metadata={})
    assert load.stand_ins(str(write_onnx(tmp_path / "known.onnx")), tmp_path) == []
    assert json.loads(Path(load.stand_ins(str(bare), tmp_path)[1]).read_text()) == ["0", "1"]
    out = tmp_path / "serving"
    load.main(
        [
            f"a={tmp_path / 'known.onnx'}",
            "--clients",
            "2",
            "--seconds",
            "0.5",
            "--rounds",
            "1",
            "--max-wait-ms",
            "200",
            "--out",
            str(out),
        ]
    )
    rows = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert [row["service"] for row in rows] == ["batching", "one at a time", "GET /health"]
    assert all(row["requests"] >= 2 and row["errors"] == 0 and row["p50_ms"] <= row["p99_ms"] for row in rows)
    assert rows[0]["mean_batch"] > rows[1]["mean_batch"] == 1
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match=r"expected NAME=MODEL\.onnx"):
        load.main(["nothing.onnx"])
    results = FOLDER.parents[1] / "docs" / "results" / "serving.json"
    for row in json.loads(results.read_text())["rows"]:
        assert load.table_row(row) in results.with_suffix(".md").read_text()
