"""What a layer has computed beforehand for inference, and whether it still holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dynaconv.ops.branch import BranchWeights
from dynaconv.ops.folding import Terms


def _version(tensor: Tensor) -> int | None:
    """Counts changes in place; None for a tensor made in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version


class Watch:
    """Whether modules are in evaluation and their parameters, buffers and children those of when it was made."""

    def __init__(self, *roots: nn.Module) -> None:
        self.modules = [module for root in roots for module in root.modules()]
        self.tensors: list[tuple[dict[str, Any], str, Tensor, int | None]] = []
        self.children: list[tuple[dict[str, Any], str, nn.Module]] = []
        for module in self.modules:
            tables = (module._parameters, module._buffers)
            self.tensors += [(t, n, v, _version(v)) for t in tables for n, v in t.items() if v is not None]
            self.children += [(module._modules, n, m) for n, m in module._modules.items() if m is not None]

    def holds(self) -> bool:
        """False after any change but one behind PyTorch's back (``parameter.data``)."""
        for table, name, tensor, version in self.tensors:
            if table.get(name) is not tensor or (version is not None and tensor._version != version):
                return False
        if any(table.get(name) is not child for table, name, child in self.children):
            return False
        return not any(module.training for module in self.modules)


@dataclass(eq=False)
class Prepared:
    """What a layer has computed beforehand.

    Args:
        branch: from an input ``(B, C, *size)`` to what the layer's branch gives for it.
        watch: over all that it was computed from.
        weights: of the branch.
        folded: terms into which branch and cells are folded, and from an input to the weights of the terms.
    """

    branch: Callable[[Tensor], Any]
    watch: Watch
    weights: BranchWeights
    folded: tuple[Terms, Callable[[Tensor], Tensor]] | None = None

    @property
    def branch_bytes(self) -> int:
        """Memory that the branch takes beyond the layer's parameters."""
        own = {tensor.untyped_storage().data_ptr() for _, _, tensor, _ in self.watch.tensors}
        new = {t.untyped_storage().data_ptr(): t for t in self.weights.tensors()}
        return sum(t.numel() * t.element_size() for place, t in new.items() if place not in own)

    @property
    def folded_bytes(self) -> int:
        """Memory that folded terms take."""
        return 0 if self.folded is None else self.folded[0].cells.numel() * self.folded[0].cells.element_size()
