"""A plan: an immutable value that says what a conversion would do, layer by layer, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from dynaconv.config import MethodConfig
from dynaconv.planning.spec import LayerSpec
from dynaconv.planning.table import plan_table


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """One layer's part of a plan.

    Args:
        spec: the layer's name and sizes.
        weight_parameters: parameters that make up its kernel and are its own (experts, a static kernel that stays).
        branch_parameters: parameters of its own attention branch, or of the gate behind it.
        branch_of: name of the layer whose branch it shares, the first in its block, or None.
    """

    spec: LayerSpec
    weight_parameters: int = 0
    branch_parameters: int
    branch_of: str | None = None

    @property
    def name(self) -> str:
        """The layer's dotted module name."""
        return self.spec.name


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a conversion would do.

    Args:
        config: what was asked for.
        layers: the layers to convert, in module order.
        other_parameters: parameters of the network outside the converted kernels.
        left_static: layers that could have been converted and were not selected.
        refused: layers that can not be converted, with the reason.
    """

    config: MethodConfig
    layers: tuple[LayerPlan, ...]
    other_parameters: int = 0
    left_static: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def kernel_parameters(self) -> int:
        """Parameters of the static kernels of the selected layers."""
        return sum(layer.spec.kernel_parameters for layer in self.layers)

    @property
    def weight_parameters(self) -> int:
        """Parameters from which the kernels are made afterwards."""
        return sum(layer.weight_parameters for layer in self.layers)

    @property
    def branch_parameters(self) -> int:
        """Parameters of all attention branches."""
        return sum(layer.branch_parameters for layer in self.layers)

    @property
    def parameters_before(self) -> int:
        """Parameters of the static network."""
        return self.other_parameters + self.kernel_parameters

    @property
    def parameters_after(self) -> int:
        """Parameters of the converted network."""
        return self.other_parameters + self.weight_parameters + self.branch_parameters

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know before converting."""
        return ()

    def __str__(self) -> str:
        """A table: layer, kernel, parameters before and after."""
        return plan_table(self)
