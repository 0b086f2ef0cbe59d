"""Warehouses: the cells that layers share, each owned once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.config import KernelWarehouseConfig
from dynaconv.ops import empty_cells, keeping_layout
from dynaconv.planning import WarehouseLayerPlan, WarehousePlan


class Warehouse(nn.Module):
    """The cells of one warehouse, shape ``(n, C_out, C_in, *k)``.

    ``owned`` is true while the warehouse is registered in a network. A copy of a layer alone drags along a copy of the
    cells that nobody trains or saves; that copy stays unowned, and the layer refuses to run on it.
    """

    def __init__(
        self,
        plan: WarehousePlan,
        layers: Sequence[WarehouseLayerPlan],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.name = plan.name
        self.owned = False
        self.cells = nn.Parameter(empty_cells(plan.num_cells, *plan.cell_shape, device=device, dtype=dtype))
        self._slices = [(p.first_cell, p.first_cell + p.own_cells) for p in layers if p.own_cells]
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out, over each layer's own slice of cells; cells that nobody owns as the last slice."""
        start = end = 0
        for start, end in self._slices:
            self._fill(self.cells[start:end], rows=end - start)
        if end < len(self.cells):
            self._fill(self.cells[end:], rows=max(end - start, 1))

    @staticmethod
    def _fill(cells: Tensor, rows: int) -> None:
        fan_out = rows * cells[0, :, 0].numel()
        nn.init.normal_(cells, std=(2.0 / fan_out) ** 0.5)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Warehouse:
        return super()._apply(keeping_layout(fn), recurse)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.owned = False

    def extra_repr(self) -> str:
        """Number and shape of the cells."""
        return f"{len(self.cells)} cells of shape {tuple(self.cells.shape[1:])}"


class Warehouses(nn.ModuleDict):
    """All warehouses of a network, by name: the one owner of its shared cells.

    As the last member of an ``nn.Sequential`` it hands its input through.

    Args:
        warehouses: the warehouses, by name.
        network_config: what the network was converted with, budget and cells as they were found if parameters were
            asked for; None if that is not known.
    """

    def __init__(self, warehouses: dict[str, Warehouse], network_config: KernelWarehouseConfig | None = None) -> None:
        super().__init__(warehouses)
        self.network_config = network_config
        self._claim()

    def _claim(self) -> None:
        for warehouse in self.values():
            if isinstance(warehouse, Warehouse):
                warehouse.owned = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._claim()

    def forward(self, x: Any) -> Any:
        """The input, unchanged."""
        return x
