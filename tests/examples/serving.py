"""The serving example's modules, a network of no parameters that they can serve, and the service on a free port."""

from __future__ import annotations

import importlib
import io
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra 'serve'")
uvicorn: Any = pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
onnx: Any = pytest.importorskip("onnx", reason="needs the extra 'export'")

FOLDER = Path(__file__).parents[2] / "examples" / "serve"
PREPROCESSING = {"image_size": 8, "mean": [0.5], "std": [0.25], "crop_pct": 0.875, "interpolation": "bilinear"}


def modules(*names: str) -> SimpleNamespace:
    """Modules of the example, as a script in its folder sees them."""
    sys.path.insert(0, str(FOLDER))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(FOLDER))


serve = modules("app", "batching", "images", "network", "service")


class Brightness:
    """A network that says how bright an image is; it waits while `open` is not set, and fails on demand."""

    path = Path("brightness.onnx")
    classes = ("dark", "<b>bright</b>")
    description = "a test"
    preprocessing = serve.images.Preprocessing.from_dict(PREPROCESSING)

    def __init__(self) -> None:
        self.open, self.batches, self.fails = threading.Event(), [], False
        self.open.set()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32
        self.batches.append(len(images))
        assert self.open.wait(30)
        if self.fails:
            raise RuntimeError("out of light")
        bright = 1 / (1 + np.exp(-images.mean((1, 2, 3))))
        return np.stack([1 - bright, bright], axis=1)


@contextmanager
def served(network: Any, **limits: Any) -> Iterator[SimpleNamespace]:
    """The service in a thread, by uvicorn; where it is (`url`), and its server."""
    app = serve.app.create_app(network, serve.service.Settings(**limits))
    # Logs stay as they are: to configure them anew closes the stream that absl writes to, which may be pytest's.
    config = uvicorn.Config(
        app, port=0, log_level="critical", log_config=None, access_log=False, timeout_graceful_shutdown=20
    )
    before = set(threading.enumerate())
    with serve.app.listen(config) as listener:
        port = listener.getsockname()[1]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield SimpleNamespace(url=f"http://127.0.0.1:{port}", port=port, server=server, thread=thread)
        finally:
            server.should_exit = True
            thread.join(30)
    left = [one.name for one in set(threading.enumerate()) - before if one.name.startswith(("network", "decoder"))]
    assert not thread.is_alive()
    assert not left, "threads of the service outlive it"


def picture(width: int = 20, height: int = 12, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours, which compress like a photograph."""
    values = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_onnx(
    path: Path, *, batch: Any = "batch", half: bool = False, metadata: dict[str, Any] | None = None, outputs: int = 2
) -> Path:
    """A file of two operators: pixels (B, 1, 8, 8), flattened, times a matrix."""
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    weights = np.random.default_rng(0).normal(size=(64, outputs)).astype(np.float16 if half else np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["pixels"]),
            onnx.helper.make_node("MatMul", ["pixels", "weights"], ["logits"]),
        ],
        "small",
        [onnx.helper.make_tensor_value_info("images", kind, [batch, 1, 8, 8])],
        [onnx.helper.make_tensor_value_info("logits", kind, [batch, outputs])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    known = {"classes": ["a", "b"], "preprocessing": PREPROCESSING} if metadata is None else metadata
    onnx.helper.set_model_props(model, {f"dynaconv.{name}": json.dumps(value) for name, value in known.items()})
    onnx.save(model, path)
    return path
