"""An HTTP service for an exported classifier: POST an image to /classify, or open / and drop one on the page."""

from __future__ import annotations

import argparse
import json
import platform
import socket
import sys
import warnings
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

try:
    import uvicorn
    from answers import Observed, explain_errors
    from fastapi import FastAPI, Query, Request
    from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
    from fastapi.staticfiles import StaticFiles
    from network import BadModel, Network
    from service import Service, Settings
except ModuleNotFoundError as error:
    here = Path(__file__).parent
    raise SystemExit(f"app.py needs {error.name}: pip install -r {here / 'requirements.txt'}") from error

PAGE = Path(__file__).parent / "page"
PACKAGES = ("fastapi", "uvicorn", "onnxruntime", "pillow", "numpy")
GRACE_SECONDS = 30
"""At the end, requests under way have so long."""
EXAMPLES = """examples:
  python examples/serve/app.py digits.onnx
  python examples/serve/app.py digits.onnx --port 9000 --max-batch 32 --max-wait-ms 5
  python examples/serve/app.py other.onnx --classes names.json --preprocessing preprocessing.json
  curl --form file=@digit.png http://127.0.0.1:8000/classify?top=3
  curl --header 'Content-Type: image/png' --data-binary @digit.png http://127.0.0.1:8000/classify
"""
BODY = {
    "multipart/form-data": {
        "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
    },
    "image/*": {"schema": {"type": "string", "format": "binary"}},
}


def create_app(network: Network, limits: Settings | None = None) -> FastAPI:
    """The service for a network, or for anything that is called like one and has its classes and preprocessing."""
    limits, counts = limits or Settings(), Counter[int]()
    service: Service

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        nonlocal service
        service = Service(network, limits)
        service.batcher.start()
        yield
        await service.close()

    # FastAPI's own pages of documentation load scripts from elsewhere; /openapi.json stays.
    app = FastAPI(title="dynaconv", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Observed, counts=counts)
    explain_errors(app)

    @app.post("/classify", openapi_extra={"requestBody": {"content": BODY, "required": True}})
    async def classify(request: Request, top: Annotated[int, Query(ge=1)] = 5) -> JSONResponse:
        """The most probable classes of an image."""
        return JSONResponse(await service.classify(request, top))

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether the service is ready, and how many images wait."""
        return JSONResponse({"ready": True, "model": network.path.name, "queue": len(service.batcher)})

    @app.get("/model")
    async def model() -> JSONResponse:
        """What the network is, and what the service takes."""
        return JSONResponse(
            {
                "model": network.path.name,
                "description": network.description,
                "classes": network.classes,
                "preprocessing": asdict(network.preprocessing),
                "limits": asdict(limits),
                "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            }
        )

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Counters, as Prometheus reads them."""
        batcher = service.batcher
        values: dict[str, float] = {f'requests_total{{status="{status}"}}': counts[status] for status in sorted(counts)}
        values |= {"images_total": batcher.images, "batches_total": batcher.batches}
        values |= {"running_seconds_total": batcher.running_seconds, "queue_length": len(batcher)}
        return PlainTextResponse("".join(f"dynaconv_{name} {value}\n" for name, value in values.items()))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = Settings()
    flags.add_argument("model", type=Path, help="ONNX file, as `dynaconv export CHECKPOINT --dynamic-batch` writes it")
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all (127.0.0.1)")
    flags.add_argument("--port", type=_from(0, high=65_535), default=8000, help="0: any that is free (8000)")
    flags.add_argument("--max-batch", type=_from(1), default=usual.max_batch, help="images at once (%(default)s)")
    flags.add_argument(
        "--max-wait-ms",
        type=_from(0, float),
        default=usual.max_wait_ms,
        help="how long an image waits for others while the network is idle (%(default)s)",
    )
    flags.add_argument("--max-queue", type=_from(1), default=usual.max_queue, help="images that may wait (%(default)s)")
    flags.add_argument(
        "--max-mb", type=_from(0, float), default=usual.max_mb, help="of an upload, in 1e6 bytes (%(default)s)"
    )
    flags.add_argument("--threads", type=_from(0), default=0, help="of onnxruntime; 0: as many as there are cores (0)")
    flags.add_argument("--classes", type=_json, help="JSON list of names, for a file without metadata")
    flags.add_argument("--preprocessing", type=_json, help="JSON of image_size, mean, std, crop_pct, interpolation")
    return flags


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        network = Network(given.model, threads=given.threads, classes=given.classes, preprocessing=given.preprocessing)
        limits = Settings(_batch_of(network, given.max_batch), given.max_wait_ms, given.max_queue, given.max_mb)
    except BadModel as error:
        raise SystemExit(f"app.py: {error}") from error
    # Pillow's, on damaged metadata of images: the pixels count.
    warnings.filterwarnings("ignore", module="PIL")
    config = uvicorn.Config(
        create_app(network, limits),
        given.host,
        given.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    with listen(config) as listener:
        host, port = listener.getsockname()[:2]
        print(f"{given.model.name}: {len(network.classes)} classes, batches of up to {limits.max_batch}", flush=True)
        print(f"http://{host}:{port}  (Ctrl+C ends it)", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn has ended in order by then, and passes it on
            uvicorn.Server(config).run(sockets=[listener])


def listen(config: uvicorn.Config) -> socket.socket:
    """A socket on which connections wait from now on."""
    listener = config.bind_socket()
    # Connections inherit it. Without, an answer's second part waits 40 ms for the client to acknowledge the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.listen(config.backlog)
    return listener


def _batch_of(network: Network, asked: int) -> int:
    if network.fixed_batch is None or network.fixed_batch == asked:
        return asked
    if network.fixed_batch == 1:
        print("the file takes one image at a time: no batching; export it with --dynamic-batch for that")
        return 1
    raise BadModel(f"{network.path}: it takes {network.fixed_batch} images, no fewer; export it with --dynamic-batch")


def _from(low: int, kind: type[int] | type[float] = int, high: float = sys.maxsize) -> Callable[[str], float]:
    """A type of argparse: numbers from `low` on, to `high`."""

    def read(text: str) -> float:
        with suppress(ValueError):
            if low <= (value := kind(text)) <= high:
                return value
        whole = "a whole number" if kind is int else "a number"
        to = "" if high == sys.maxsize else f" to {high:g}"
        raise argparse.ArgumentTypeError(f"{text} is not {whole} from {low}{to}")

    return read


def _json(text: str) -> Any:
    try:
        return json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} can not be read as JSON: {error}") from error


if __name__ == "__main__":
    main()
