"""What a client gets when something is wrong: one line of JSON with a status of HTTP, never a page or a traceback."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from batching import BatchFailed, Closing, QueueFull
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from images import Refused
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = [
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
]
"""The page loads nothing from elsewhere, and is shown in nobody's frame."""
RETRY = {"Retry-After": "1"}


def answer(status: int, error: str, expected: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": error, "expected": expected}, status, headers)


class Observed:
    """Counts answers by status, and adds the headers SAFE to all of them.

    It also answers what nobody expected: Starlette would do that outside of it. The server logs the error.
    """

    def __init__(self, app: ASGIApp, counts: Counter[int]) -> None:
        self.app, self.counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def observing(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.counts[message["status"]] += 1
                message["headers"] = [*message.get("headers", []), *SAFE]
            await send(message)

        try:
            await self.app(scope, receive, observing)
        except Exception:
            if scope["type"] == "http" and not started:
                fault = answer(500, "the service has a fault", "to work; the service's log says why not")
                await fault(scope, receive, observing)
            raise


async def unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a work, which is cancelled if the client hangs up; the upload must have been read.

    Raises ClientDisconnect then.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        watcher.cancel()


def explain_errors(app: FastAPI) -> None:
    """Let every error be an answer `{"error": ..., "expected": ...}`."""

    @app.exception_handler(Refused)
    async def _refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.error, error.expected)

    @app.exception_handler(RequestValidationError)
    async def _parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        found = "; ".join(f"{entry['loc'][-1]}={entry['input']!r:.100}: {entry['msg']}" for entry in error.errors())
        return answer(422, found, "parameters as /openapi.json has them")

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        expected = "POST /classify, GET /, /health, /model or /metrics"
        where = f"{request.method} {request.url.path[:100]}"
        return answer(error.status_code, f"{where}: {error.detail}", expected, dict(error.headers or {}))

    @app.exception_handler(QueueFull)
    async def _full(request: Request, error: QueueFull) -> JSONResponse:
        return answer(503, "the service is busy: its queue is full", "the request again in a second or more", RETRY)

    @app.exception_handler(Closing)
    async def _closing(request: Request, error: Closing) -> JSONResponse:
        return answer(503, "the service is shutting down", "the request again when it is back", RETRY)

    @app.exception_handler(BatchFailed)
    async def _failed(request: Request, error: BatchFailed) -> JSONResponse:
        return answer(500, "the network failed on the batch of this image", "to work; the service's log says why not")

    @app.exception_handler(ClientDisconnect)
    async def _gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it; /metrics counts it
