"""The attention branch: from a pooled input to the weights of every cell in every mixture.

KernelWarehouse, arXiv 2406.07879, section 3.3, with the normalisation of the authors' code:
pool -> fc1 -> norm -> ReLU -> fc2 -> contrasting-driven attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.config import KernelWarehouseConfig
from dynaconv.nn.base import TemperedBranch
from dynaconv.nn.constant import Constant
from dynaconv.nn.norm import BranchBatchNorm
from dynaconv.ops.attention import Normaliser, attention_function, blend_with_assignment
from dynaconv.ops.branch import Basis, BranchWeights, Result, fold_batch_norm
from dynaconv.planning import WarehouseLayerPlan

RATIOS = ("contrasting", "nonnegative")
"""Attention functions that divide logits by the sum of their absolute values."""


class CellRouter(TemperedBranch):
    """Attention of one layer over the cells of its warehouse.

    Args:
        plan: the layer's plan: m, n, hidden width, assignment.
        config: attention function and normalisation.
        device: where parameters live.
        dtype: of the parameters.
    """

    coldest, hottest = 0.0, 1.0

    def __init__(
        self,
        plan: WarehouseLayerPlan,
        config: KernelWarehouseConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_mixtures, self.num_cells, self.logits = plan.num_mixtures, plan.num_cells, plan.logits
        self.function = attention_function(config.attention, config.normaliser)
        self.function_name: Result = config.attention
        self.normaliser: Normaliser = config.normaliser
        self.start = config.branch_start if config.attention in RATIOS else 0.0
        layer_norm = config.norm == "layer"
        norm = nn.LayerNorm if layer_norm else BranchBatchNorm
        self.fc1 = nn.Linear(plan.spec.in_channels, plan.hidden, bias=layer_norm, device=device, dtype=dtype)
        self.norm = norm(plan.hidden, device=device, dtype=dtype)
        self.num_local, self.first_cell = plan.num_local, plan.first_cell
        if plan.basis is None:
            outputs = plan.logits * plan.num_mixtures
            self.fc2 = nn.Linear(plan.hidden, outputs, device=device, dtype=dtype)
            self.basis, self.basis_bias = None, None
        else:
            outputs = (plan.num_local + plan.basis + 1) * plan.num_mixtures
            others = plan.num_cells - plan.num_local
            self.fc2 = nn.Linear(plan.hidden, outputs, bias=False, device=device, dtype=dtype)
            self.basis = nn.Parameter(torch.empty(others, plan.basis, device=device, dtype=dtype))
            self.basis_bias = nn.Parameter(torch.empty(plan.logits * plan.num_mixtures, device=device, dtype=dtype))
        self.plan = plan
        self.register_temperature(0.0, device)
        self._place_assignment()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming normal (fan-out) weights, identity normalisation, zero biases but the last, which is the assignment.

        With ``branch_start=0`` it is zero, too, as in the authors' code.
        """
        for weight in (self.fc1.weight, self.fc2.weight, self.basis):
            if weight is not None and weight.numel():
                nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        for bias in (self.fc1.bias, self.fc2.bias, self.basis_bias):
            if bias is not None:
                nn.init.zeros_(bias)
        self.norm.reset_parameters()
        self.temperature.zero_()
        if self.start and self.beta is not None and not self.beta.is_meta:
            self._start_from(self.beta)

    @torch.no_grad()
    def _start_from(self, beta: Tensor) -> None:
        """Let attention without temperature start as the assignment, each row's share spread over its ones.

        Logits count against their sum over all n + 1 columns, and every column moves with the learning rate; so they
        start in proportion to the number of columns. A mixture that waits at the zero cell would be slow to leave it:
        it gets some other mixture's cell, with a random sign, and fades in as temperature falls.
        """
        start = beta / beta.sum(1, keepdim=True)
        waiting = beta[:, -1].nonzero().flatten()
        if len(waiting):
            cells = beta.shape[1] - 1
            rounds = [torch.randperm(cells) for _ in range(math.ceil(len(waiting) / cells))]
            signs = torch.randint(0, 2, (len(waiting),)) * 2 - 1
            if self.function_name == "nonnegative":
                signs.abs_()
            start[waiting] = 0
            start[waiting, torch.cat(rounds)[: len(waiting)].to(beta.device)] = signs.to(beta)
        self._last_bias().copy_((self.start * self.logits * start).flatten())

    @torch.no_grad()
    def adopt(self, attention: Tensor) -> None:
        """Give every input the same attention: the last bias holds it, its weights are zero and wait for a gradient.

        Logits are as large as those of a fresh branch, by ``branch_start``, so that they move as slowly.

        Args:
            attention: shape ``(m, logits)``, the zero cell last, its absolute rows summing to one: contrasting
                attention with the unit normaliser gives them back.
        """
        nn.init.zeros_(self.fc2.weight)
        self._last_bias().copy_((self.start or 1.0 / self.logits) * self.logits * attention.flatten())

    def _last_bias(self) -> Tensor:
        """What logits are where the hidden units are silent, shape ``(m * logits,)``."""
        bias = self.fc2.bias if self.basis_bias is None else self.basis_bias
        assert bias is not None  # of fc2 without a basis, of the basis with one
        return bias

    @torch.no_grad()
    def attention_at_rest(self) -> Tensor:
        """Attention where the hidden units are silent, shape ``(m, n)``, in float64."""
        return self._attend(self._last_bias().double().view(1, self.num_mixtures, self.logits))[0]

    def set_temperature(self, value: float) -> None:
        """Set the temperature; where there is no assignment to blend with, it stays at 0."""
        if self.beta is None:
            self.check_temperature(value)
        else:
            super().set_temperature(value)

    def _place_assignment(self) -> None:
        """Derive the assignment and the columns of private cells from the plan."""
        plan = self.plan
        self._beta = self._columns = None
        if plan.is_private:
            self._columns = Constant(torch.arange(plan.num_cells, device="cpu").view(plan.num_mixtures, -1))
        if not any(plan.rows):
            return
        ones = [
            (mixture, cell - (plan.first_cell + mixture * (plan.logits - 1) if plan.is_private else 0))
            for mixture, row in enumerate(plan.rows)
            for cell in row
        ]
        beta = torch.zeros(plan.num_mixtures, plan.logits, device="cpu")
        mixtures, cells = torch.tensor(ones, device="cpu").unbind(1)
        beta[mixtures, cells] = 1
        self._beta = Constant(beta)

    @property
    def beta(self) -> Tensor | None:
        """The assignment, shape ``(m, logits)``; None where attention starts free."""
        return None if self._beta is None else self._beta.on(self.fc1.weight.device)

    @property
    def columns(self) -> Tensor | None:
        """Every mixture's own cells, shape ``(m, logits - 1)``; None where all cells are everybody's."""
        return None if self._columns is None else self._columns.on(self.fc1.weight.device)

    def compute_logits(self, pooled: Tensor) -> Tensor:
        """Logits of every mixture over the cells and the zero cell.

        Args:
            pooled: the layer's input, averaged over all positions, shape ``(B, C)``.

        Returns:
            Shape ``(B, m, n + 1)``.
        """
        z = self.fc2(F.relu(self.norm(self.fc1(pooled))))
        if self.basis is None:
            return z.reshape(-1, self.num_mixtures, self.logits)
        width = self.basis.shape[1]
        z = z.reshape(-1, self.num_mixtures, self.num_local + width + 1)
        local, coded, zero = z.split([self.num_local, width, 1], dim=-1)
        others = F.linear(coded, self.basis)
        first = self.first_cell
        z = torch.cat([others[..., :first], local, others[..., first:], zero], dim=-1)
        return z + self.basis_bias.reshape(self.num_mixtures, self.logits)  # pyright: ignore[reportOptionalMemberAccess]

    def forward(self, pooled: Tensor) -> Tensor:
        """Attention of every mixture over all cells, shape ``(B, C)`` -> ``(B, m, n)``, at least float32."""
        return self._attend(self.compute_logits(pooled))

    def _attend(self, z: Tensor) -> Tensor:
        """From logits to attention, shape ``(B, m, logits)`` -> ``(B, m, n)``."""
        normalised = self.function(z.to(torch.promote_types(z.dtype, torch.float32)))
        if self.beta is None:
            attention = normalised[..., :-1]
        else:
            attention = blend_with_assignment(normalised, self.beta, self.temperature)
        if self.columns is None:
            return attention
        spread = attention.new_zeros(*attention.shape[:2], self.num_cells)
        return spread.scatter(-1, self.columns.expand(attention.shape[0], -1, -1), attention)

    def folds_into_cells(self) -> bool:
        """Whether mixtures are affine in the hidden units but for a factor, see :mod:`dynaconv.ops.folding`."""
        return self.function_name == "contrasting" and (self.beta is None or not float(self.temperature))

    @torch.no_grad()
    def fold(self) -> tuple[BranchWeights, Result]:
        """The branch for inference: normalisation folded into fc1, the assignment's share multiplied out."""
        if isinstance(self.norm, nn.LayerNorm):
            norm, fc1, shift = self.norm, self.fc1.weight.detach(), self.fc1.bias
        else:
            norm, (fc1, shift) = None, fold_batch_norm(self.fc1, self.norm)
        bias = self._last_bias()
        assert shift is not None  # fc1 has a bias before a LayerNorm
        basis, start, tau = None, None, float(self.temperature)
        if self.basis is not None:
            basis = Basis(self.basis.detach(), self.num_local, self.first_cell)
        if self.beta is not None and tau:
            start = tau * self.beta[:, :-1]
        weights = BranchWeights(
            fc1=fc1,
            shift=shift.detach(),
            fc2=self.fc2.weight.detach(),
            bias=bias.detach().view(self.num_mixtures, self.logits),
            norm=norm,
            basis=basis,
            start=start,
            share=1.0 if start is None else 1 - tau,
            places=self.columns,
            num_cells=self.num_cells,
            normaliser=self.normaliser,
        )
        return weights, self.function_name

    def extra_repr(self) -> str:
        """Sizes."""
        return f"m={self.num_mixtures}, n={self.num_cells}"
