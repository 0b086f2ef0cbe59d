"""From an upload to its answer: read, decoded in a pool of threads, classified in a batch, named."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from answers import unless_gone
from batching import Batcher, QueueFull
from fastapi import Request
from images import decode, find_decoders, prepare
from network import Network
from uploads import read_upload


@dataclass(frozen=True)
class Settings:
    """Limits of the service. At most `max_queue` images wait, and as many uploads are read and decoded."""

    max_batch: int = 16
    max_wait_ms: float = 2.0
    max_queue: int = 128
    max_mb: float = 10.0
    max_megapixels: float = 40.0
    upload_seconds: float = 30.0

    @property
    def max_bytes(self) -> int:
        return int(self.max_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)


class Service:
    """From a request to its answer: upload, decoding in a pool of threads, a place in a batch, the best classes."""

    def __init__(self, network: Network, limits: Settings) -> None:
        self.network, self.limits, self.uploads = network, limits, 0
        self.batcher = Batcher(
            network, max_batch=limits.max_batch, max_wait_ms=limits.max_wait_ms, max_queue=limits.max_queue
        )
        self.decoders = ThreadPoolExecutor(os.cpu_count(), "decoder")
        find_decoders()

    async def classify(self, request: Request, top: int) -> dict[str, Any]:
        self.batcher.check()  # before anything is read
        if self.uploads >= self.limits.max_queue:
            raise QueueFull
        started = time.perf_counter()
        self.uploads += 1
        try:
            data = await read_upload(request, self.limits.max_bytes, self.limits.upload_seconds)
            received = time.perf_counter()
            facts, tensor = await asyncio.get_running_loop().run_in_executor(self.decoders, self._decode, data)
        finally:
            self.uploads -= 1
        decoded = time.perf_counter()
        answer = await unless_gone(request, self.batcher.submit(tensor))
        best = np.argsort(-answer.output, kind="stable")[:top]
        spent = {
            "uploading": received - started,
            "decoding": decoded - received,
            "waiting": answer.waiting,
            "running": answer.running,
            "total": time.perf_counter() - started,
        }
        return {
            "classes": [{"class": self.network.classes[n], "probability": float(answer.output[n])} for n in best],
            "image": facts,
            "batch": answer.batch,
            "milliseconds": {name: round(1000 * seconds, 3) for name, seconds in spent.items()},
        }

    def _decode(self, data: bytes) -> tuple[dict[str, Any], np.ndarray]:
        image, name = decode(data, self.limits.max_pixels)
        facts = {"format": name, "width": image.width, "height": image.height}
        return facts, prepare(image, self.network.preprocessing)

    async def close(self) -> None:
        await self.batcher.close()
        self.decoders.shutdown()
