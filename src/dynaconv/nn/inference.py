"""Making a network ready for inference, and back: what does not depend on the input is computed once.

The branch's normalisation and temperature are folded into its linear layers, and the branch runs as one compiled call
on the CPU (:mod:`dynaconv.ops.branch`). Where memory is given for it, the branch is folded into the cells as well
(:mod:`dynaconv.ops.folding`). A BatchNorm that follows a layer is computed with the layer's output
(:mod:`dynaconv.nn.norms`). The network computes the same function.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from dynaconv.errors import DynaconvError
from dynaconv.nn import norms
from dynaconv.nn.base import DynamicLayer
from dynaconv.nn.kernel_warehouse import WarehouseLayer
from dynaconv.nn.network import check_linked

MB = 1e6
MODE = "_mode_before_inference"  # beside each module's own, so that copies and wrappers keep it


@dataclass(frozen=True)
class PreparedLayer:
    """What inference does with a layer.

    Args:
        name: of the layer in the network.
        method: its class.
        prepared: whether its branch is folded; otherwise the layer computes as it stands.
        branch_bytes: memory that the folded branch takes beyond the parameters.
        folded_bytes: memory that the terms take into which branch and cells are folded; 0 if they are not.
        terms: terms to mix and cells in their place, if they are folded.
        norm: name of the norm that the layer computes with its output.
        norm_bytes: memory that this takes.
        why_no_norm: why there is none, where one was looked for.
    """

    name: str
    method: str
    prepared: bool
    branch_bytes: int = 0
    folded_bytes: int = 0
    terms: tuple[int, int] | None = None
    norm: str | None = None
    norm_bytes: int = 0
    why_no_norm: str | None = None

    def __str__(self) -> str:
        """A line: the layer, and what is done."""
        done = []
        if self.prepared:
            done.append(f"branch folded, {self.branch_bytes / MB:.3f} MB")
        if self.terms is not None:
            done.append(f"{self.terms[0]} terms for {self.terms[1]} cells, {self.folded_bytes / MB:.3f} MB")
        if self.norm is not None:
            done.append(f"{self.norm} folded, {self.norm_bytes / MB:.3f} MB")
        if not done:
            done.append("as it is")
        if self.why_no_norm is not None:
            done.append(f"no norm folded: {self.why_no_norm}")
        return f"{self.name} ({self.method}): {'; '.join(done)}"


@dataclass(frozen=True)
class InferenceReport:
    """What inference does with every dynamic layer of a network; prints as a table."""

    layers: tuple[PreparedLayer, ...]

    @property
    def branch_mb(self) -> float:
        """Memory of the folded branches beyond the parameters."""
        return sum(layer.branch_bytes for layer in self.layers) / MB

    @property
    def extra_mb(self) -> float:
        """Memory of the folded cells, which ``max_extra_mb`` bounds."""
        return sum(layer.folded_bytes for layer in self.layers) / MB

    @property
    def folded(self) -> tuple[str, ...]:
        """Names of the layers whose branch is folded into the cells."""
        return tuple(layer.name for layer in self.layers if layer.folded_bytes)

    @property
    def norm_mb(self) -> float:
        """Memory that folded norms take."""
        return sum(layer.norm_bytes for layer in self.layers) / MB

    @property
    def norms(self) -> dict[str, str]:
        """Names of the layers that compute a norm with their output, and of the norm."""
        return {layer.name: layer.norm for layer in self.layers if layer.norm is not None}

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the layers whose branch is not folded."""
        return tuple(layer.name for layer in self.layers if not layer.prepared)

    def __str__(self) -> str:
        """A line a layer, and the sums."""
        ready = len(self.layers) - len(self.kept)
        total = f"{ready} of {len(self.layers)} layers prepared ({self.branch_mb:.3f} MB), {len(self.folded)} of them"
        norms = f"{len(self.norms)} norms folded ({self.norm_mb:.3f} MB)"
        return "\n".join([*map(str, self.layers), f"{total} with folded cells ({self.extra_mb:.3f} MB); {norms}"])


def prepare_inference(
    model: nn.Module, max_extra_mb: float = 0.0, *, fold_norms: bool | Literal["all"] = True
) -> nn.Module:
    """Make a network ready for inference, in place.

    The network goes to evaluation. What is prepared is used in evaluation without gradients (``torch.no_grad``,
    ``torch.inference_mode``); with them the layers compute as ever. It lives outside of parameters and buffers:
    ``state_dict`` and files are those of the network as it was, and copies and pickles are not prepared.

    A BatchNorm that follows a layer is computed with the layer's output, and hands that through. It is folded where the
    network's own code shows that nobody else sees the output between them (:mod:`dynaconv.nn.tracing`), and where norm
    and layer are of one type, float32 or float64; the report says why others are not. Layer and norm alone give what
    they always give: they work together only in a call of the module in which they were found. Where somebody hooks
    onto either, under autocast, with gradients and under ``torch.compile`` (which joins them itself), the norm acts.

    A layer forgets what was prepared for it, and is right again if slower, when it goes to training or to another
    device or type, loads a state, gets another temperature, or when a parameter, buffer or module of its branch or
    warehouse is changed or replaced; and the norm behind it, which acts again, when layer or norm are. Prepare anew
    then. What goes unseen: a change through ``parameter.data`` or of a tensor that was made in inference mode; an
    attribute by which a module's code sends a layer's output elsewhere (``self.use_norm = False``); and, by code that
    ``torch.compile`` made of a prepared network, any change to a part of a layer that is no call of the network or the
    layer (``load_state_dict``, ``train``, ``to``, ``set_temperature``): call :func:`restore_training` before such a
    change.

    Args:
        model: a network, converted or not.
        max_extra_mb: memory (1e6 bytes) that folded KernelWarehouse cells may take in the whole network, those layers
            first that save most for it. They serve batches where that was measured to be faster. At 0 none is folded.
        fold_norms: whether layers compute the BatchNorm that follows them: those of KernelWarehouse, ODConv, DY-Conv
            and CondConv, which it makes faster; ``"all"``: of every method (CGC and DCD keep a scaled copy of their
            kernel for it).

    Returns:
        The same network. :func:`inference_report` says what was done, :func:`restore_training` takes it back.

    Raises:
        DynaconvError: if ``max_extra_mb`` is negative or no number, or ``fold_norms`` is something else.
        LostWarehouseError: if the network was taken apart and its shared cells were left behind.

    Example:
        >>> import torch
        >>> from dynaconv.nn import KWConv2d
        >>> layer = prepare_inference(KWConv2d(8, 16, 3))
        >>> with torch.inference_mode():
        ...     layer(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 3, 3])
    """
    if not max_extra_mb >= 0:
        raise DynaconvError(f"max_extra_mb={max_extra_mb!r}; expected a number of at least 0")
    if fold_norms not in (True, False, "all"):
        raise DynaconvError(f"fold_norms={fold_norms!r}; expected True, False or 'all'")
    check_linked(model)
    layers = _dynamic_layers(model)
    again = any(layer.current_preparation() or layer.current_norm() for layer in layers.values())
    for module in model.modules():
        if not again or MODE not in vars(module):
            vars(module)[MODE] = module.training
    model.eval()
    norms.unfold_norms(model)
    for layer in layers.values():
        layer.keep_prepared(layer.prepare())
    if fold_norms:
        norms.fold_norms(model, all_methods=fold_norms == "all")
    _fold([layer for layer in layers.values() if isinstance(layer, WarehouseLayer)], max_extra_mb * MB)
    return model


def _fold(layers: list[WarehouseLayer], budget: float) -> None:
    """Fold the layers that save most multiply-adds a byte, while there are bytes left."""
    candidates = [
        (saved / taken, taken, layer) for layer in layers for saved, taken in [layer.saved_by_folding()] if saved
    ]
    for _, taken, layer in sorted(candidates, key=lambda candidate: -candidate[0]):
        if taken <= budget:
            layer.fold()
            budget -= taken


def restore_training(model: nn.Module) -> nn.Module:
    """Take back :func:`prepare_inference`: forget what was prepared, and give every module the mode it had before.

    Args:
        model: a network, prepared or not.

    Returns:
        The same network.
    """
    for layer in _dynamic_layers(model).values():
        layer.keep_prepared(None)
    norms.unfold_norms(model)
    for module in model.modules():
        module.training = vars(module).pop(MODE, module.training)
    return model


def inference_report(model: nn.Module) -> InferenceReport:
    """What inference does with every dynamic layer now: a layer that changed has forgotten what was prepared.

    Args:
        model: a network, prepared or not.
    """
    rows = []
    for name, layer in _dynamic_layers(model).items():
        found, norm = layer.current_preparation(), layer.current_norm()
        if norm is not None and (norm.is_watched(layer) or not norm.scope.holds()):
            norm = None
        row = PreparedLayer(name, type(layer).__name__, prepared=found is not None)
        if found is not None:
            terms = None if found.folded is None else (len(found.folded[0].cells), found.folded[0].num_cells)
            row = replace(row, branch_bytes=found.branch_bytes, folded_bytes=found.folded_bytes, terms=terms)
        if norm is not None:
            row = replace(row, norm=norm.name, norm_bytes=norm.output.bytes)
        elif isinstance(layer._norm, str):
            row = replace(row, why_no_norm=layer._norm)
        rows.append(row)
    return InferenceReport(tuple(rows))


def _dynamic_layers(model: nn.Module) -> dict[str, DynamicLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, DynamicLayer)}
