"""Mixing and point-wise (1x1) convolution in one Triton kernel: the kernels of the samples never reach memory.

y[b, (P, o), p] = sum_q sum_j alpha[b, (P, q), j] sum_c cells[j, o, c] x[b, (q, c), p]   (KernelWarehouse, eq. 3)

for out-blocks P, in-blocks q, cells j of shape (o, c) and positions p.

Samples and out-blocks differ in their attention alone and read the same cells. So one program takes a block of such
*rows* (b, P), which makes mixing a matrix product over j, (rows, n) x (n, o c), with every cell read once a block
instead of once a row. The mixed tile (rows, o, c) stays on the chip and meets x in a batched product.

Nothing here was timed on a GPU. What decides between this and mixing to memory is a count of elements moved, see
:func:`fuses`. Triton is optional and loaded at the first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dynaconv.errors import DynaconvError, require
from dynaconv.ops.mixing import assemble_kernels, mix_cells

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CAPABILITY = 8  # Ampere: older tensor cores have no batched product in Triton
ROWS = OUTPUTS = 16  # rows and outputs of a cell in one program: the height of a tensor core's product
MIXING_ROWS = 64  # rows at once where nothing but mixing has to fit into the registers
MEMORY_COST = 3  # an element to or from device memory, in elements from the L2 cache: a ratio of data sheets
PRODUCT_OUTPUTS = 128  # outputs at once in the library's own batched product
PROGRAMS = 128  # fewer would leave a part of a GPU idle

_INSTALLED = find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton reads it once too, when it is first imported

# Device code finds these among the globals of this file; _load puts Triton's in their place.
tl: Any = None
constexpr: TypeAlias = Any
mixed_tile: Any = None


def _mixed_tile(
    attention,  # pointers (ROWS,): every row's weight of cell 0
    row_ok,
    tile,  # pointers (COLUMNS,): the tile in cell 0
    tile_ok,
    num_cells,
    cells_j,
    ROWS: constexpr,
    COLUMNS: constexpr,
    BLOCK_N: constexpr,
    PRECISION: constexpr,
):
    """One tile of the kernel of every row: float32, shape (ROWS, COLUMNS)."""
    mixed = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, num_cells, BLOCK_N):
        j = start + tl.arange(0, BLOCK_N)
        j_ok = j < num_cells
        alpha = tl.load(attention[:, None] + j[None, :], mask=row_ok[:, None] & j_ok[None, :], other=0.0)
        offset = j.to(tl.int64) * cells_j
        cells = tl.load(tile[None, :] + offset[:, None], mask=j_ok[:, None] & tile_ok[None, :], other=0.0)
        mixed = tl.dot(alpha, cells, mixed, input_precision=PRECISION)
    return mixed


def _mix_and_convolve(
    y,  # (B, P, O), contiguous
    x,  # (B, P, C)
    attention,  # (B, m, n), contiguous
    cells,  # (n, o, c)
    rows,
    positions,
    out_blocks,
    in_blocks,
    num_cells,
    cell_out,
    cell_in,
    x_b,  # strides
    x_p,
    x_c,
    cells_j,
    cells_o,
    cells_c,
    ROWS: constexpr,
    BLOCK_P: constexpr,
    BLOCK_O: constexpr,
    BLOCK_C: constexpr,
    BLOCK_N: constexpr,
    PRECISION: constexpr,
):
    """Program (block of rows and positions, block of a cell's outputs)."""
    position_blocks = tl.cdiv(positions, BLOCK_P)
    row = tl.program_id(0) // position_blocks * ROWS + tl.arange(0, ROWS)
    row_ok = row < rows
    sample = (row // out_blocks).to(tl.int64)
    p = tl.program_id(0) % position_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    p_ok = p < positions
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_ok = o < cell_out
    column = tl.arange(0, BLOCK_O * BLOCK_C)  # the tile's outputs and inputs as one axis
    column_o = tl.program_id(1) * BLOCK_O + column // BLOCK_C
    column_c = column % BLOCK_C

    total = tl.zeros((ROWS, BLOCK_O, BLOCK_P), tl.float32)
    for q in range(in_blocks):
        alpha = attention + (row.to(tl.int64) * in_blocks + q) * num_cells
        for start in range(0, cell_in, BLOCK_C):
            tile = cells + column_o * cells_o + (start + column_c) * cells_c
            tile_ok = (column_o < cell_out) & (start + column_c < cell_in)
            mixed = mixed_tile(
                alpha, row_ok, tile, tile_ok, num_cells, cells_j, ROWS, BLOCK_O * BLOCK_C, BLOCK_N, PRECISION
            )
            kernels = tl.reshape(mixed, (ROWS, BLOCK_O, BLOCK_C)).to(x.dtype.element_ty)
            c = start + tl.arange(0, BLOCK_C)
            c_ok = c < cell_in
            place = (sample * x_b)[:, None, None] + ((q * cell_in + c) * x_c)[None, :, None] + (p * x_p)[None, None, :]
            place_ok = row_ok[:, None, None] & c_ok[None, :, None] & p_ok[None, None, :]
            total = tl.dot(kernels, tl.load(x + place, mask=place_ok, other=0.0), total, input_precision=PRECISION)

    out_channels = out_blocks * cell_out
    first = sample * positions * out_channels + row % out_blocks * cell_out
    place = first[:, None, None] + o[None, :, None] + (p * out_channels)[None, None, :]
    place_ok = row_ok[:, None, None] & o_ok[None, :, None] & p_ok[None, None, :]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=place_ok)


def _mix_to_memory(
    kernels,  # (B, O, C), contiguous
    attention,  # (B, m, n), contiguous
    cells,  # (n, o, c)
    rows,
    in_blocks,
    num_cells,
    cell_out,
    cell_in,
    cells_j,  # strides
    cells_o,
    cells_c,
    ROWS: constexpr,
    BLOCK_O: constexpr,
    BLOCK_C: constexpr,
    BLOCK_N: constexpr,
    PRECISION: constexpr,
):
    """Program (block of mixtures, block of a cell's outputs, block of its inputs); here rows are (b, P, q)."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    row_ok = row < rows
    column = tl.arange(0, BLOCK_O * BLOCK_C)
    o = tl.program_id(1) * BLOCK_O + column // BLOCK_C
    c = tl.program_id(2) * BLOCK_C + column % BLOCK_C
    tile_ok = (o < cell_out) & (c < cell_in)
    alpha = attention + row * num_cells
    tile = cells + o * cells_o + c * cells_c
    mixed = mixed_tile(alpha, row_ok, tile, tile_ok, num_cells, cells_j, ROWS, BLOCK_O * BLOCK_C, BLOCK_N, PRECISION)
    in_channels = in_blocks * cell_in
    first = row // in_blocks * cell_out * in_channels + row % in_blocks * cell_in
    place = first[:, None] + (o * in_channels + c)[None, :]
    tl.store(kernels + place, mixed.to(kernels.dtype.element_ty), mask=row_ok[:, None] & tile_ok[None, :])


@cache
def _load() -> tuple[Any, Any]:
    """The two kernels, once Triton is here."""
    jit: Callable[..., Any] = require("triton", "triton").jit
    language = require("triton.language", "triton")
    globals().update(tl=language, constexpr=language.constexpr, mixed_tile=jit(_mixed_tile))
    return jit(_mix_and_convolve), jit(_mix_to_memory)


def _block(size: int, most: int) -> int:
    """The power of two that covers a size, from 16, below which tensor cores are padded, to ``most``."""
    return min(max(16, 1 << (size - 1).bit_length()), most)


def _position_block(positions: int, dtype: torch.dtype) -> int:
    return _block(positions, 32 if dtype == torch.float32 else 64)


def _products(cells: Tensor) -> dict[str, Any]:
    """How products are made: float32 stays float32 unless PyTorch may use TF32."""
    single = cells.dtype == torch.float32
    precision = "tf32" if single and torch.get_float32_matmul_precision() != "highest" else "ieee"
    return {"BLOCK_N": _block(cells.shape[0], 16 if single else 32), "PRECISION": precision}


def _convolved(x: Tensor, attention: Tensor, cells: Tensor, out_blocks: int, in_blocks: int) -> Tensor:
    batch, positions, _ = x.shape
    rows, block = batch * out_blocks, _position_block(positions, x.dtype)
    y = x.new_empty(batch, positions, out_blocks * cells.shape[1])
    launch = _load()[0][(_blocks(rows, ROWS) * _blocks(positions, block), _blocks(cells.shape[1], OUTPUTS))]
    sizes = (rows, positions, out_blocks, in_blocks, *cells.shape, *x.stride(), *cells.stride())
    blocks = {"ROWS": ROWS, "BLOCK_P": block, "BLOCK_O": OUTPUTS, "BLOCK_C": 16}
    launch(y, x, attention.contiguous(), cells, *sizes, **blocks, **_products(cells), num_warps=8, num_stages=2)
    return y


def _mixed(attention: Tensor, cells: Tensor, out_blocks: int, in_blocks: int) -> Tensor:
    """All kernels, shape ``(B, O, C)``, every part written to its place at once."""
    batch, (_, cell_out, cell_in) = attention.shape[0], cells.shape
    kernels = cells.new_empty(batch, out_blocks * cell_out, in_blocks * cell_in)
    rows = batch * out_blocks * in_blocks
    blocks = {"ROWS": _block(rows, MIXING_ROWS), "BLOCK_O": 4, "BLOCK_C": _block(cell_in, 32)}
    grid = (_blocks(rows, blocks["ROWS"]), _blocks(cell_out, 4), _blocks(cell_in, blocks["BLOCK_C"]))
    sizes = (rows, in_blocks, *cells.shape, *cells.stride())
    _load()[1][grid](kernels, attention.contiguous(), cells, *sizes, **blocks, **_products(cells))
    return kernels


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def fuses(rows: int, positions: int, num_cells: int, cell_out: int, block: int) -> bool:
    """Whether mixing and convolving in one go should move less data than mixing to memory, by shapes alone.

    Counted for one element of the samples' kernels, in elements from the L2 cache. The fused kernel reads n elements
    of cells for 16 rows, again for every block of positions, and all positions of x for 16 outputs. Mixing to memory
    reads n elements of cells for 64 rows, writes the element to device memory and reads it back, and the product that
    follows reads x for 128 outputs. So the fused kernel is for small maps and few cells, where kernels outweigh maps,
    and for batches that fill a GPU with its programs. The counts ignore what stays in a cache between two kernels,
    and no GPU has confirmed them.

    Args:
        rows: samples times out-blocks.
        positions: of a map.
        num_cells: n.
        cell_out: outputs of a cell.
        block: positions a program of the fused kernel does at once.

    Example:
        >>> fuses(rows=128, positions=49, num_cells=24, cell_out=512, block=64)
        True
        >>> fuses(rows=128, positions=3136, num_cells=24, cell_out=64, block=64)
        False
    """
    row_blocks, position_blocks = _blocks(rows, ROWS), _blocks(positions, block)
    if row_blocks * position_blocks * _blocks(cell_out, OUTPUTS) < PROGRAMS:
        return False
    fused = position_blocks * num_cells * row_blocks / rows + positions / OUTPUTS
    mixing = num_cells * _blocks(rows, MIXING_ROWS) / rows + 2 * MEMORY_COST
    return fused < mixing + positions / PRODUCT_OUTPUTS


@torch.library.custom_op("dynaconv::pointwise_mixture", mutates_args=())
def _pointwise_mixture(
    x: Tensor, attention: Tensor, cells: Tensor, out_blocks: int, in_blocks: int, fused: bool | None
) -> Tensor:
    """``(B, P, C), (B, m, n), (n, o, c) -> (B, P, O)``; one operator, so that torch.compile does not look inside."""
    batch, positions, _ = x.shape
    if x.numel() == 0:
        return x.new_zeros(batch, positions, out_blocks * cells.shape[1])
    if fused is None:
        block = _position_block(positions, x.dtype)
        fused = fuses(batch * out_blocks, positions, cells.shape[0], cells.shape[1], block)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        if fused:
            return _convolved(x, attention, cells, out_blocks, in_blocks)
        return torch.bmm(x, _mixed(attention, cells, out_blocks, in_blocks).transpose(1, 2))


@_pointwise_mixture.register_fake
def _(x: Tensor, attention: Tensor, cells: Tensor, out_blocks: int, in_blocks: int, fused: bool | None) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], out_blocks * cells.shape[1])


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, attention, cells, ctx.out_blocks, ctx.in_blocks, _ = inputs
    ctx.save_for_backward(x, attention, cells)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Batched products with recomputed kernels, in PyTorch's own operations: differentiable once more.

    Here the kernels and their gradients do reach memory, ``2 B |W|`` elements for the time of one layer.
    """
    x, attention, cells = ctx.saved_tensors
    grid, (num_cells, cell_out, cell_in) = (1, ctx.out_blocks, ctx.in_blocks), cells.shape
    for_x, for_attention, for_cells = ctx.needs_input_grad[:3]
    grad_x = grad_attention = grad_cells = None
    if for_x:
        grad_x = torch.bmm(grad, assemble_kernels(mix_cells(attention, cells), grid, ()))
    if for_attention or for_cells:
        grad_kernels = torch.bmm(grad.transpose(1, 2), x)
        parts = grad_kernels.reshape(x.shape[0], ctx.out_blocks, cell_out, ctx.in_blocks, cell_in).transpose(2, 3)
        grad_mixed = parts.reshape(-1, cell_out * cell_in)
        if for_attention:
            grad_attention = torch.mm(grad_mixed, cells.reshape(num_cells, -1).t()).reshape(attention.shape)
        if for_cells:
            grad_cells = torch.mm(attention.reshape(-1, num_cells).t(), grad_mixed).reshape(cells.shape)
    return grad_x, grad_attention, grad_cells, None, None, None


_pointwise_mixture.register_autograd(_gradients, setup_context=_remember)


def _obstacle(x: Tensor) -> str | None:
    if not _INSTALLED:
        return "Triton is not installed"
    if not (x.is_cuda or _INTERPRETED):
        return f"the tensor is on {x.device}, not on CUDA"
    if x.is_cuda and torch.cuda.get_device_properties(x.device).major < CAPABILITY:
        return f"the kernels are written for compute capability {CAPABILITY}.0 and newer"
    if x.dtype not in DTYPES:
        return f"the tensor is {x.dtype}, not one of {', '.join(str(dtype) for dtype in DTYPES)}"
    return None


def available(x: Tensor) -> bool:
    """Whether the kernels run for such a tensor: Triton is installed, device and dtype are supported.

    In Triton's interpreter (``TRITON_INTERPRET=1`` set at start; for tests, very slow) the CPU will do.
    """
    return _obstacle(x) is None


def pointwise_mixture_conv(
    x: Tensor, attention: Tensor, cells: Tensor, grid: tuple[int, int, int], *, fused: bool | None = None
) -> Tensor:
    """Convolve every sample with its own mixture of 1x1 cells, on CUDA (KernelWarehouse, eq. 3).

    Args:
        x: shape ``(B, C, *size)``, in any memory layout: copied only if the positions do not lie at one distance.
        attention: shape ``(B, m, n)``; mixtures ordered (out-block, in-block).
        cells: shape ``(n, C_out, C_in, *ones)``, in any strides.
        grid: (1, out-blocks, in-blocks) of the kernel.
        fused: mix and convolve in one kernel, or mix to memory first; None leaves it to :func:`fuses`.

    Returns:
        Shape ``(B, O, *size)`` in channels_last memory. Products add up in float32; kernels are rounded to the dtype
        of ``x``.

    Raises:
        DynaconvError: if :func:`available` says no.
        ValueError: if shapes or dtypes do not fit.

    Source: arXiv 2406.07879, eq. 3.
    """
    obstacle = _obstacle(x)
    if obstacle:
        raise DynaconvError(f"backend 'triton' can not run: {obstacle}; use backend='auto'")
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, attention, cells = x.to(dtype), attention.to(dtype), cells.to(dtype)
    _check(x, attention, cells, grid)
    _, out_blocks, in_blocks = grid
    points = x.flatten(2).transpose(1, 2)
    y = _pointwise_mixture(points, attention, cells.flatten(2), out_blocks, in_blocks, fused)
    return y.transpose(1, 2).unflatten(2, x.shape[2:])


def _check(x: Tensor, attention: Tensor, cells: Tensor, grid: tuple[int, int, int]) -> None:
    spatial, out_blocks, in_blocks = grid
    if spatial != 1 or cells.shape[3:].numel() != 1:
        raise ValueError(f"backend 'triton' does 1x1 kernels, got cells {tuple(cells.shape)} in a grid {grid}")
    if x.shape[1] != in_blocks * cells.shape[2]:
        raise ValueError(
            f"input has {x.shape[1]} channels; {in_blocks} in-blocks of {cells.shape[2]} expect "
            f"{in_blocks * cells.shape[2]}"
        )
    expected = (x.shape[0], out_blocks * in_blocks, cells.shape[0])
    if attention.shape != expected:
        raise ValueError(f"attention has shape {tuple(attention.shape)}, expected (B, m, n) = {expected}")
    if not x.dtype == attention.dtype == cells.dtype:
        raise ValueError(f"dtypes differ: input {x.dtype}, attention {attention.dtype}, cells {cells.dtype}")
