"""What every dynamic linear layer is: nn.Linear's signature over any number of positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dynaconv.config import check_count
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import DynamicLayer
from dynaconv.nn.prepared import OutputNorm, fold_output


class DynamicLinear(DynamicLayer):
    """The part of a dynamic linear layer that is nn.Linear's: features, bias, leading dimensions.

    The first dimension of the input is the sample; attention sees the mean over all others but the last. Subclasses
    implement :meth:`transform`.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether to add a static bias.
        device: where parameters live.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("out_features", out_features)
        self.in_features = in_features
        self.out_features = out_features
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_features, device=device, dtype=dtype)) if bias else None
        )

    def transform(self, x: Tensor) -> Tensor:
        """Map samples and their positions, bias included, shape ``(B, T, C)`` -> ``(B, T, O)``.

        Layers that compute the norm behind them (``folds_norm``) take it as ``norm``, an
        :class:`~dynaconv.nn.prepared.OutputNorm` or None.
        """
        raise NotImplementedError

    def fold_output(self, scale: Tensor, shift: Tensor) -> OutputNorm:
        """Scale, and shift with the layer's bias."""
        return fold_output(scale, shift, self.bias)

    def adopt_bias(self, bias: nn.Parameter) -> None:
        """Take over the bias of the static layer that this one replaces."""
        self.bias = bias

    def by_position(self, x: Tensor) -> Tensor:
        """Positions in one dimension, ``(B, ..., C)`` -> ``(B, T, C)``; ``(C,)`` is one sample."""
        if x.dim() == 3:
            return x
        batch = x.shape[0] if x.dim() > 1 else 1
        # Not torch.Size.numel, which makes a number of what torch.export keeps as a symbol.
        return x.reshape(batch, math.prod(x.shape[1:-1]), self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension, shape ``(B, ..., C)`` -> ``(B, ..., O)``, or ``(C,)`` -> ``(O,)``.

        Raises:
            DynaconvError: if the last dimension does not fit.
        """
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise DynaconvError(
                f"{type(self).__name__} got input of shape {tuple(x.shape)}; expected {self.in_features} features last"
            )
        norm = self.norm_for(x) if x.dim() == 2 else None  # of more dimensions the norm's channels are others
        if norm is not None:
            return norm.marked(self.transform(self.by_position(x), norm.output).squeeze(1))  # pyright: ignore[reportCallIssue]
        y = self.transform(self.by_position(x))
        return y if x.dim() == 3 else y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Arguments, as nn.Linear shows them."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"
