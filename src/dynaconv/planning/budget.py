"""Sizes that follow from a budget: cells in a warehouse, and parameters of the attention branches."""

from __future__ import annotations


def warehouse_size(budget: float, total_mixtures: int) -> int:
    """N = max(int(b * m_t), 1): cells in a warehouse (KernelWarehouse, section 3.2).

    Example:
        >>> warehouse_size(0.5, 224), warehouse_size(4, 47)
        (112, 188)
    """
    return max(int(budget * total_mixtures), 1)


def hidden_width(in_channels: int, reduction: float, minimum: int) -> int:
    """Width of the attention branch's hidden layer."""
    return max(int(in_channels * reduction), minimum)


def basis_size(num_cells: int, num_local: int, ratio: float, minimum: int = 16) -> int:
    """Width of the low-rank basis for the cells that a layer does not own."""
    return max(int((num_cells - num_local) * ratio), minimum)


def branch_parameters(
    *,
    in_channels: int,
    hidden: int,
    num_mixtures: int,
    logits: int,
    layer_norm: bool,
    basis: tuple[int, int] | None,
) -> int:
    """Parameters of one layer's attention branch.

    Args:
        in_channels: channels of the layer's input.
        hidden: width of the hidden layer.
        num_mixtures: m.
        logits: logits per mixture, n + 1 (the last belongs to the zero cell).
        layer_norm: with LayerNorm the first linear layer has a bias.
        basis: (local cells, basis width) of the low-rank form, or None.
    """
    trunk = in_channels * hidden + (hidden if layer_norm else 0) + 2 * hidden
    if basis is None:
        return trunk + (hidden + 1) * logits * num_mixtures
    local, width = basis
    mapped = width * (logits - 1 - local)
    return trunk + hidden * (local + width + 1) * num_mixtures + mapped + logits * num_mixtures
