"""KernelWarehouse layers: kernels mixed per sample from a warehouse of cells (arXiv 2406.07879, ICML 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from dynaconv.config import KernelWarehouseConfig
from dynaconv.errors import DynaconvError, LostWarehouseError
from dynaconv.nn.base import DynamicLayer, pool
from dynaconv.nn.conv import DynamicConvNd, PaddingMode
from dynaconv.nn.linear import DynamicLinear
from dynaconv.nn.prepared import OutputNorm, Prepared, Watch
from dynaconv.nn.router import CellRouter
from dynaconv.nn.warehouse import Warehouse
from dynaconv.ops import Madds, Mixture, mixture_conv
from dynaconv.ops.branch import prepared_branch
from dynaconv.ops.folding import fold_cells, folded_bytes, saved_madds
from dynaconv.ops.mixture_conv import LINEAR
from dynaconv.planning import LayerSpec, WarehouseLayerPlan, WarehousePlan, make_plan


def _plan_alone(spec: LayerSpec, config: KernelWarehouseConfig) -> tuple[WarehouseLayerPlan, WarehousePlan]:
    """Plan for a layer that shares with none."""
    sharing = "none" if config.sharing == "none" else "layer"
    bias = spec.out_channels if spec.bias else 0
    plan = make_plan([spec], replace(config, sharing=sharing, stage_splits={}, overrides={}), other_parameters=bias)
    return plan.layers[0], plan.warehouses[0]


class WarehouseLayer(DynamicLayer):
    """What convolution and linear layer have in common: an attention branch, and cells that may belong to others."""

    folds_norm = norm_pays = shows_attention = True
    attention: CellRouter
    bias: nn.Parameter | None
    warehouse: Warehouse | None
    plan: WarehouseLayerPlan
    config: KernelWarehouseConfig
    mixture: Mixture

    def _set_up(
        self,
        spec: LayerSpec,
        config: KernelWarehouseConfig | None,
        plan: WarehouseLayerPlan | None,
        warehouse: Warehouse | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        if (plan is None) != (warehouse is None):
            raise DynaconvError("plan and warehouse belong together: give both, or neither for a layer of its own")
        self.config = config or KernelWarehouseConfig()
        if not isinstance(self.config, KernelWarehouseConfig):
            raise DynaconvError(f"config is a {type(config).__name__}; expected a KernelWarehouseConfig")
        if plan is not None and plan.spec.kernel_shape != spec.kernel_shape:
            raise DynaconvError(
                f"the plan is for '{plan.name}' with a kernel of shape {plan.spec.kernel_shape}; "
                f"this layer's is {spec.kernel_shape}"
            )
        if plan is None or warehouse is None:
            plan, own = _plan_alone(spec, self.config)
            if self.config.params is not None:
                self.config = own.config  # with the budget that was found
            self.warehouse = Warehouse(own, [plan], device, dtype)
            self.warehouse.owned = True
            self._borrowed = None
        else:
            self.warehouse = None
            self._borrowed = (warehouse,)  # in a tuple, so that it is not registered a second time
        self.plan = plan
        self.layer_name = plan.name
        self.attention = CellRouter(plan, self.config, device, dtype)

    def borrowed_parts(self) -> dict[str, nn.Module]:
        """The warehouse, if it belongs to the network."""
        return {} if self._borrowed is None else {self.plan.warehouse: self._borrowed[0]}

    def adopt_warehouse(self) -> Self:
        """Make the warehouse this layer's own, when it stands for a whole network; returns the layer."""
        if self._borrowed is not None:
            (self.warehouse,), self._borrowed = self._borrowed, None
            self.warehouse.owned = True
        return self

    def reset_parameters(self) -> None:
        """Start afresh: bias, attention branch, and cells if they are the layer's own."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.attention.reset_parameters()
        if self.warehouse is not None:
            self.warehouse.reset_parameters()

    @property
    def cells(self) -> Tensor:
        """The warehouse's cells, shape ``(n, C_out, C_in, *k)``.

        Raises:
            LostWarehouseError: if the layer was copied away from the network that owns them.
        """
        warehouse = self.warehouse if self._borrowed is None else self._borrowed[0]
        if warehouse is None or not warehouse.owned:
            raise LostWarehouseError(
                f"layer '{self.plan.name}' draws on the warehouse '{self.plan.warehouse}' of the network it was copied "
                "or unpickled from; copy or save the whole network, which owns the cells"
            )
        return warehouse.cells

    def _conv_cells(self) -> Tensor:
        """The cells as those of a convolution."""
        return self.cells

    def mix(self, x: Tensor, padded: Tensor) -> tuple[Tensor, Tensor, Mixture]:
        """Attention to an input ``(B, C, *size)``, the cells it is over, and how they are mixed."""
        prepared, cells = self.prepared(), self._conv_cells()
        if prepared is not None and prepared.folded is not None:
            terms, weigh = prepared.folded
            if terms.pay(padded.shape, cells.shape, self.mixture):
                return weigh(x).to(terms.cells.dtype), terms.cells, terms.mixture
        attention = self.attention(pool(x)) if prepared is None else prepared.branch(x)
        return self.show(cells=attention)["cells"].to(cells.dtype), cells, self.mixture

    @torch.no_grad()
    def prepare(self) -> Prepared:
        """Fold the branch's normalisation and temperature."""
        weights, function = self.attention.fold()
        warehouse = self.warehouse if self._borrowed is None else self._borrowed[0]
        assert warehouse is not None  # a layer owns one or borrows one
        watch = Watch(self.attention, warehouse)
        return Prepared(prepared_branch(weights, function), watch, weights)

    def saved_by_folding(self) -> tuple[int, int]:
        """Multiply-adds a sample that folded cells save, and the bytes they take; zeros where they save none."""
        cells, hidden = self._conv_cells(), self.attention.fc1.out_features
        saved = saved_madds(hidden, self.mixture, cells) if self.attention.folds_into_cells() else 0
        return (saved, folded_bytes(hidden, self.mixture, cells)) if saved else (0, 0)

    @torch.no_grad()
    def fold(self) -> None:
        """Fold the branch into the cells; the layer is prepared and its branch folds."""
        prepared = self._prepared
        assert prepared is not None  # see prepare_inference
        terms = fold_cells(prepared.weights, self._conv_cells(), self.mixture)
        prepared.folded = terms, prepared_branch(prepared.weights, "hidden")

    def _count(self, batch: int, positions: int, convolution: int) -> Madds:
        """Multiply-adds for a batch: pooling, branch, mixing every kernel, and the convolution with it."""
        plan = self.plan
        pooled = batch * positions * plan.spec.in_channels
        branch = sum(p.numel() for p in self.attention.parameters() if p.dim() > 1)
        if plan.basis is not None:  # the basis acts on every mixture
            branch += (plan.num_mixtures - 1) * (plan.num_cells - plan.num_local) * plan.basis
        kernel = batch * plan.spec.kernel_parameters
        return Madds(
            convolution=convolution,
            mixing=kernel * (plan.logits - 1),
            attention=pooled + batch * branch,
            kernel_elements=kernel,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.warehouse is not None:
            self.warehouse.owned = True


class _KWConvNd(WarehouseLayer, DynamicConvNd):
    """A convolution whose kernel is mixed per sample from a warehouse of cells.

    Takes :class:`torch.nn.Conv2d`'s arguments (of the same dimension) and, by keyword:

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: size of the kernel.
        stride: step of the kernel.
        padding: whole numbers, ``"same"`` or ``"valid"``.
        dilation: spacing of the kernel.
        groups: groups of channels.
        bias: whether to add a static bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: where parameters live.
        dtype: of the parameters.
        config: budget, cells and attention of the layer; with the default a layer alone has b = 1.
        plan: the layer's part of a network's plan, together with ``warehouse``.
        warehouse: a warehouse that the network owns; without one the layer owns a private one.

    Raises:
        DynaconvError: if an argument is out of range or the plan can not be met.

    Example:
        >>> import torch
        >>> layer = KWConv2d(8, 16, 3, padding=1)
        >>> layer(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        config: KernelWarehouseConfig | None = None,
        plan: WarehouseLayerPlan | None = None,
        warehouse: Warehouse | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        spec = LayerSpec(
            name=type(self).__name__,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=self.kernel_size,
            stride=self.stride,
            groups=groups,
            bias=bias,
        )
        self._set_up(spec, config, plan, warehouse, device, dtype)
        self.mixture = Mixture(self.plan.grid, self.geometry)

    def convolve(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Convolve a batch, bias and, if given, norm included."""
        padded = self.pad(x)
        attention, cells, mixture = self.mix(x, padded)
        scale, bias = (None, self.bias) if norm is None else (norm.scale, norm.shift)
        return mixture_conv(padded, attention, cells, mixture, out_scale=scale, bias=bias)

    def kernels(self, x: Tensor) -> Tensor:
        """The kernel of every sample, shape ``(B, C, *size)`` -> ``(B, O, C / groups, *kernel_size)``."""
        attention, cells, mixture = self.mix(x, self.pad(x))
        return mixture.kernels(attention, cells)

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds of eq. 3 on an input of shape ``(B, C, *size)``: mix every kernel, then convolve."""
        return self._count(size[0], math.prod(size[2:]), self.convolution_madds(size))

    def extra_repr(self) -> str:
        """Arguments, and the warehouse."""
        return f"{super().extra_repr()}, warehouse={self.plan.warehouse}"


class KWConv1d(_KWConvNd):
    """KernelWarehouse convolution over sequences, shape ``(B, C, L)``."""

    dims = 1


class KWConv2d(_KWConvNd):
    """KernelWarehouse convolution over images, shape ``(B, C, H, W)``."""

    dims = 2


class KWConv3d(_KWConvNd):
    """KernelWarehouse convolution over volumes, shape ``(B, C, D, H, W)``."""

    dims = 3


class KWLinear(WarehouseLayer, DynamicLinear):
    """A linear layer whose matrix is mixed per sample from a warehouse of cells.

    The first dimension of the input is the sample; the attention sees the mean over all others but the last.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether to add a static bias.
        device: where parameters live.
        dtype: of the parameters.
        config: budget, cells and attention of the layer.
        plan: the layer's part of a network's plan, together with ``warehouse``.
        warehouse: a warehouse that the network owns.

    Raises:
        DynaconvError: if the plan can not be met.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        config: KernelWarehouseConfig | None = None,
        plan: WarehouseLayerPlan | None = None,
        warehouse: Warehouse | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        spec = LayerSpec(name="KWLinear", in_channels=in_features, out_channels=out_features, bias=bias)
        self._set_up(spec, config, plan, warehouse, device, dtype)
        self.mixture = Mixture(self.plan.grid, LINEAR)

    def _conv_cells(self) -> Tensor:
        return self.cells.unsqueeze(-1)

    def transform(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Map samples and positions, bias and, if given, norm included, shape ``(B, T, C)`` -> ``(B, T, O)``."""
        channels = x.transpose(1, 2)
        attention, cells, mixture = self.mix(channels, channels)
        scale, bias = (None, self.bias) if norm is None else (norm.scale, norm.shift)
        return mixture_conv(channels, attention, cells, mixture, out_scale=scale, bias=bias).transpose(1, 2)

    def kernels(self, x: Tensor) -> Tensor:
        """The matrix of every sample, shape ``(B, ..., C)`` -> ``(B, O, C)``."""
        channels = self.by_position(x).transpose(1, 2)
        attention, cells, mixture = self.mix(channels, channels)
        return mixture.kernels(attention, cells).squeeze(-1)

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds of eq. 3 on an input of shape ``(B, ..., C)``."""
        positions = math.prod(size[1:-1])
        return self._count(size[0], positions, size[0] * positions * self.plan.spec.kernel_parameters)

    def extra_repr(self) -> str:
        """Arguments, and the warehouse."""
        return f"{super().extra_repr()}, warehouse={self.plan.warehouse}"
