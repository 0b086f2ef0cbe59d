"""Trained kernels into a warehouse's cells, and the attention that reads them from there (KernelWarehouse).

With b >= 1 every mixture has a cell: it takes over the mixture's block, and attention is the assignment, at tau = 1 by
the blend and at tau = 0 by the branch's bias. With b < 1 cells and attention are the best approximation of all blocks
(:func:`dynaconv.ops.factorise`); rows that sum to less than one leave the rest to the zero cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dynaconv.convert.warm_start import WarmStart
from dynaconv.errors import PlanError
from dynaconv.nn import LayerStart, Warehouse
from dynaconv.nn.kernel_warehouse import WarehouseLayer
from dynaconv.ops import cut_kernel, factorise, mix_cells, with_zero_cell
from dynaconv.planning import WarehousePlan


@torch.no_grad()
def fill_warehouse(
    warehouse: Warehouse,
    plan: WarehousePlan,
    layers: Mapping[str, WarehouseLayer],
    sources: Mapping[str, nn.Module],
    start: WarmStart,
) -> None:
    """Let the layers of a warehouse compute what their static sources do, as far as its cells go.

    Args:
        warehouse: whose cells are filled.
        plan: its plan.
        layers: those that share it, in order.
        sources: static layers by name.
        start: noise, and moments of the inputs if there are any.

    Raises:
        PlanError: if the config's assignment or attention function can not give trained kernels.
    """
    _check(plan)
    blocks = {
        name: _blocks(layer, sources[name].get_parameter("weight"), plan.cell_shape) for name, layer in layers.items()
    }
    weights = None
    if start.moments:
        weights = {name: _weights(layer, start.moments[name], plan.cell_shape) for name, layer in layers.items()}
    together = torch.cat(list(blocks.values()))
    if plan.config.budget < 1:
        stacked = None if weights is None else torch.cat(list(weights.values()))
        scales = None if weights is None else _balance(blocks, weights)
        attention, cells = factorise(together, plan.num_cells, stacked, scales)
    else:
        attention, cells = _one_each(together, plan, layers, start)
    warehouse.cells.copy_(cells.reshape(warehouse.cells.shape))
    first = 0
    for name, layer in layers.items():
        rows = attention[first : first + layer.plan.num_mixtures]
        first += layer.plan.num_mixtures
        layer.attention.adopt(with_zero_cell(_own_columns(rows, layer)))
        layer.start = _measure(layer, warehouse, blocks[name], None if weights is None else weights[name])


def _check(plan: WarehousePlan) -> None:
    config = plan.config
    if config.assignment not in ("one-to-one", "none"):
        raise PlanError(
            f"assignment={config.assignment!r} gives mixtures other cells than one each, so that no attention is right "
            "at every temperature; start trained kernels with 'one-to-one' or 'none', or use init='scratch'"
        )
    allowed = ("contrasting",) if config.budget < 1 else ("contrasting", "nonnegative")
    if config.attention not in allowed:
        raise PlanError(
            f"attention={config.attention!r} can not be what trained kernels need at b = {config.budget:g}; expected "
            f"one of {allowed}, or init='scratch'"
        )


def _blocks(layer: WarehouseLayer, kernel: Tensor, cell_shape: Sequence[int]) -> Tensor:
    """A kernel's blocks as rows, shape ``(m, elements of a cell)``, float64."""
    return cut_kernel(kernel.double(), layer.plan.grid, cell_shape).flatten(1)


def _weights(layer: WarehouseLayer, moments: Tensor, cell_shape: Sequence[int]) -> Tensor:
    """What a squared error of every kernel element weighs, laid out as the blocks are."""
    spec = layer.plan.spec
    per_group = moments.reshape(spec.groups, 1, -1).expand(-1, spec.out_channels // spec.groups, -1)
    weights = per_group.reshape(*spec.kernel_shape[:2], *(1,) * len(spec.kernel_size)).expand(spec.kernel_shape)
    return _blocks(layer, weights, cell_shape)


def _balance(blocks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Tensor:
    """Scales by which layers of large outputs do not outweigh all others, shape ``(all mixtures,)``.

    Half-way (geometric mean) between errors as they are and errors relative to what a layer gives.
    """
    norms = ((weights[name] * rows.square()).sum().sqrt().expand(len(rows)) for name, rows in blocks.items())
    return torch.cat(list(norms)).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()


def _one_each(
    blocks: Tensor, plan: WarehousePlan, layers: Mapping[str, WarehouseLayer], start: WarmStart
) -> tuple[Tensor, Tensor]:
    """Every block in the cell that its mixture is assigned; cells of nobody are as large, at random."""
    cell_of = torch.arange(len(blocks), device=blocks.device) * int(plan.config.budget)
    cells = blocks.square().mean().sqrt() * start.noise.normal((plan.num_cells, blocks.shape[1])).to(blocks.device)
    cells[cell_of] = blocks
    attention = blocks.new_zeros(len(blocks), plan.num_cells)
    attention[torch.arange(len(blocks), device=blocks.device), cell_of] = 1
    return attention, cells


def _own_columns(attention: Tensor, layer: WarehouseLayer) -> Tensor:
    """The columns that a layer has logits for: all, or each mixture's own."""
    columns = layer.attention.columns
    return attention if columns is None else attention.gather(1, columns)


def _measure(layer: WarehouseLayer, warehouse: Warehouse, blocks: Tensor, weights: Tensor | None) -> LayerStart:
    """How far the layer is from its source, as it stands."""
    attention = layer.attention.attention_at_rest()
    lost = (mix_cells(attention, warehouse.cells.double()).flatten(1) - blocks).square()
    squares = blocks.square()
    weighted = (None, None) if weights is None else (float((weights * lost).sum()), float((weights * squares).sum()))
    return LayerStart(float(lost.sum()), float(squares.sum()), *weighted, warehouse=layer.plan.warehouse)
