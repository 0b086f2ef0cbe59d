"""BatchNorm over the batches of all processes, on any device and backend.

torch.nn.SyncBatchNorm refuses CPU tensors, and DistributedDataParallel refuses it on the CPU; torch's conversion also
takes from attention branches what they do with a batch of one image. Here a norm keeps its parameters, buffers, hooks
and names, and changes its class.

Every process adds its count n_r, mean and sum of squares M_r (about its own mean) to one all-gather; with N = sum n_r:

    mean = sum n_r mean_r / N,    var = (sum M_r + sum n_r (mean_r - mean)^2) / N     (Chan, Golub and LeVeque, 1979)

so batches may be of unequal size, or empty. In the backward pass, with y^ = (x - mean) / sqrt(var + eps), the sums of
the gradient g of all processes meet in one all-reduce:

    dx = weight / sqrt(var + eps) * (g - (sum g + y^ sum g y^) / N)

Weight and bias get the gradient of the process's own images, as every parameter; DistributedDataParallel averages it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from dynaconv.errors import DynaconvError
from dynaconv.nn.dressing import plain_class
from dynaconv.nn.norm import BranchBatchNorm, has_too_few, normalise_as_known
from dynaconv.nn.norms import unfold_norms

NORMS_THAT_ACT = ("timm.layers.norm_act.BatchNormAct2d",)
"""BatchNorm that drops and acts after normalising, by name: the package need not be there."""


def count_processes() -> int:
    """Processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (shape ``(C,)``, not corrected) and count (shape ``()``) over the batches of all processes.

    Args:
        x: of this process, shape ``(B, C, *size)``; B may be 0 and differ between processes.
    """
    channels, own = x.shape[1], x.shape[0] * x.shape[2:].numel()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    packed = wide.new_zeros(2 * channels + 1)
    if own:
        variance, mean = torch.var_mean(wide, _all_but_channels(x), correction=0)
        torch.cat([mean, variance * own, packed.new_full((1,), own)], out=packed)
    everybody = [torch.empty_like(packed) for _ in range(count_processes())]
    dist.all_gather(everybody, packed)
    means, squares, counts = torch.stack(everybody).split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total.clamp(min=1)
    return mean, (squares + counts * (means - mean) ** 2).sum(0) / total.clamp(min=1), total


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


class _Normalise(torch.autograd.Function):
    """Normalise with statistics that were taken from all processes' x: their gradient is part of x's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        share: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, share)
        ctx.eps = eps
        if weight is not None and weight.dtype != mean.dtype:
            weight, bias = weight.to(mean.dtype), None if bias is None else bias.to(mean.dtype)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, mean, variance, share = ctx.saved_tensors
        shape, over = (1, -1, *(1,) * (x.dim() - 2)), _all_but_channels(x)
        scale = (variance + ctx.eps).rsqrt()
        normal = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        gradient = gradient.to(mean.dtype)
        sums = torch.stack([gradient.sum(over), (gradient * normal).sum(over)])
        of_weight = of_bias = of_x = None
        if ctx.needs_input_grad[1]:
            of_weight = sums[1].to(weight.dtype)
        if ctx.needs_input_grad[2]:
            of_bias = sums[0].to(weight.dtype)
        if ctx.needs_input_grad[0]:
            sums = sums.clone()
            dist.all_reduce(sums)
            both = (sums * share).view(2, *shape)
            scale = scale if weight is None else scale * weight
            of_x = ((gradient - both[0] - normal * both[1]) * scale.view(shape)).to(x.dtype)
        return of_x, of_weight, of_bias, None, None, None, None


class SynchronisedBatchNorm(_BatchNorm):
    """BatchNorm1d, 2d or 3d whose statistics are of all processes' batches while training.

    With one process, in evaluation, and without a process group it is the plain norm. Where a channel has fewer than
    two values in all processes together, the running statistics normalise.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected input of at least 2 dimensions, (B, C, *size); got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, shape ``(B, C, *size)``; then act, if the norm is one that does."""
        together = self.training and count_processes() > 1
        y = self._together(input) if together else self._alone(input)
        for name in ("drop", "act"):
            if name in self._modules:
                y = self.get_submodule(name)(y)
        return y

    def _alone(self, x: Tensor) -> Tensor:
        return super().forward(x)

    def _together(self, x: Tensor) -> Tensor:
        return nn.SyncBatchNorm.forward(self, x) if x.is_cuda else self._gathered(x)  # pyright: ignore[reportArgumentType]

    # What torch's forward, which is one fused kernel each way on CUDA, asks of its module.
    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def _gathered(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        with torch.no_grad():
            mean, variance, count = gather_statistics(x)
            share = 1 / count.clamp(min=1)
            if self.running_mean is not None and self.running_var is not None:
                known, enough = (self.running_mean.to(mean), self.running_var.to(mean)), count >= 2
                self._follow(mean, variance, count, enough)
                share = share * enough
                mean, variance = torch.where(enough, mean, known[0]), torch.where(enough, variance, known[1])
        return _Normalise.apply(x, self.weight, self.bias, mean, variance, share, self.eps)  # pyright: ignore[reportReturnType]

    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor, enough: Tensor) -> None:
        """Move the running statistics, as _BatchNorm does; the variance is the corrected one."""
        assert self.running_mean is not None  # the caller's branch
        assert self.running_var is not None
        pace = torch.as_tensor(0.0 if self.momentum is None else self.momentum, device=mean.device, dtype=mean.dtype)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(enough)
            if self.momentum is None:
                pace = 1 / self.num_batches_tracked.clamp(min=1).to(mean)
        pace = pace * enough
        corrected = variance * count / (count - 1).clamp(min=1)
        for running, new in ((self.running_mean, mean), (self.running_var, corrected)):
            running.copy_(running + pace * (new - running))


class SynchronisedBranchNorm(SynchronisedBatchNorm):
    """The norm of an attention branch: running statistics also where one process alone has a single value."""

    def _together(self, x: Tensor) -> Tensor:
        return self._gathered(x)

    def _alone(self, x: Tensor) -> Tensor:
        return normalise_as_known(self, x) if self.training and has_too_few(x) else super()._alone(x)


def synchronise_norms(model: nn.Module) -> nn.Module:
    """Let every BatchNorm of a network take its statistics from the batches of all processes while training, in place.

    On any device and backend of ``torch.distributed``, in DistributedDataParallel and outside; all processes have to
    run the network together. Norms of attention branches are among them. ``state_dict``, files, copies and
    :func:`prepare_inference` are as before; without a process group nothing changes.

    Args:
        model: a network, converted or not. Convert before: layers that come later have norms of their own.

    Returns:
        The same network.

    Raises:
        DynaconvError: if there is a BatchNorm with a forward of its own, of an unknown kind; nothing is changed then.

    Example:
        >>> type(synchronise_norms(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))[1]).__name__
        'SynchronisedBatchNorm'
    """
    chosen = {module: kind for name, module in model.named_modules() if (kind := _kind_for(name, module)) is not None}
    unfold_norms(model)
    for module, kind in chosen.items():
        module.__class__ = kind
    return model


def _kind_for(name: str, module: nn.Module) -> type[nn.Module] | None:
    """The class that a module is to have; None if it stays as it is."""
    if not isinstance(module, _BatchNorm) or isinstance(module, SynchronisedBatchNorm | nn.SyncBatchNorm):
        return None
    cls = plain_class(module)
    if cls is BranchBatchNorm:
        return SynchronisedBranchNorm
    plain = cls.forward is _BatchNorm.forward and not isinstance(module, LazyModuleMixin)
    if plain or f"{cls.__module__}.{cls.__qualname__}" in NORMS_THAT_ACT:
        return SynchronisedBatchNorm
    raise DynaconvError(
        f"{name or 'the network'} is a {cls.__name__}, a BatchNorm with a forward of its own, which can not be "
        "synchronised; expected torch.nn's BatchNorm1d, 2d, 3d, those of attention branches or timm's BatchNormAct2d"
    )
