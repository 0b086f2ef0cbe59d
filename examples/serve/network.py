"""A network in an ONNX file: what it was trained on, what its classes are called, and probabilities of a batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from images import Preprocessing

CLASSES, PREPROCESSING, DESCRIPTION = "dynaconv.classes", "dynaconv.preprocessing", "dynaconv.description"
"""Metadata that `dynaconv export` writes, as JSON; the description may be plain text."""
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class BadModel(Exception):
    """A file that can not be served, and why."""


class Network:
    """An exported classifier in onnxruntime, on the CPU; call it with images (B, C, H, W) for (B, classes).

    Classes and preprocessing stand in the file's metadata; for files of other origin, give them.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 0,
        classes: Sequence[str] | None = None,
        preprocessing: dict[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise BadModel(f"{path}: there is no such file; write one with `dynaconv export`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: as many as there are cores
        # Threads that wait for work would otherwise spin, and take the cores that decode the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise BadModel(f"{path}: onnxruntime can not load it: {' '.join(str(error).split())}") from error
        self.metadata = self.session.get_modelmeta().custom_metadata_map
        names = self._given(CLASSES, classes, "--classes")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadModel(f"{path}: classes are {names!r:.200}; expected a JSON list of names")
        self.classes: list[str] = names
        values = self._given(PREPROCESSING, preprocessing, "--preprocessing")
        try:
            self.preprocessing = Preprocessing.from_dict(values)
        except (ValueError, TypeError) as error:
            raise BadModel(f"{path}: preprocessing: {error}") from error
        self._check()

    @property
    def description(self) -> Any:
        """What the file says of the network, if it does."""
        text = self.metadata.get(DESCRIPTION)
        try:
            return None if text is None else json.loads(text)
        except ValueError:
            return text

    @property
    def fixed_batch(self) -> int | None:
        """Images that the file takes, if it takes only so many."""
        first = self.session.get_inputs()[0].shape[0]
        return first if isinstance(first, int) else None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Probabilities, float32."""
        inputs = self.session.get_inputs()[0]
        logits = self.session.run(None, {inputs.name: images.astype(TYPES[inputs.type], copy=False)})[0]
        logits = np.asarray(logits, np.float32)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def _given(self, key: str, value: Any, flag: str) -> Any:
        if value is not None:
            return list(value) if isinstance(value, tuple) else value
        if key not in self.metadata:
            raise BadModel(
                f"{self.path}: its metadata lack {key} (there are {sorted(self.metadata) or 'none'}); export a trained "
                f"checkpoint with `dynaconv export`, or give {flag} FILE.json"
            )
        try:
            return json.loads(self.metadata[key])
        except ValueError as error:
            raise BadModel(f"{self.path}: its metadata {key} are no JSON: {error}") from error

    def _check(self) -> None:
        """What the metadata say must be what the graph takes and gives; one image shows it."""
        inputs, wanted = self.session.get_inputs(), self.preprocessing
        shape = (self.fixed_batch or 1, len(wanted.mean), wanted.image_size, wanted.image_size)
        if len(inputs) != 1 or inputs[0].type not in TYPES:
            found = ", ".join(f"{value.name}: {value.type}{value.shape}" for value in inputs)
            raise BadModel(f"{self.path}: its inputs are {found}; expected one, of images in float32 or float16")
        try:
            probabilities = self(np.zeros(shape, np.float32))
        except Exception as error:  # as above
            cause = " ".join(str(error).split())
            raise BadModel(f"{self.path}: images of shape {shape} do not go through it: {cause}") from error
        if probabilities.shape != (shape[0], len(self.classes)):
            raise BadModel(
                f"{self.path}: it gives {probabilities.shape} for images of shape {shape}; "
                f"expected {(shape[0], len(self.classes))}, as there are {len(self.classes)} names of classes"
            )
