"""What convolutions and linear layers of every method but KernelWarehouse share: a config, and how they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dynaconv.config import MethodConfig
from dynaconv.errors import DynaconvError
from dynaconv.nn.conv import DynamicConvNd, PaddingMode
from dynaconv.nn.linear import DynamicLinear
from dynaconv.ops import keeping_layout, per_sample_conv


def settle_config(config_type: type[Any], config: Any, changes: Mapping[str, Any]) -> Any:
    """The config that a layer was given, with the fields that were given beside it.

    Raises:
        DynaconvError: if it is another method's, or there is no such field.
    """
    config = config_type() if config is None else config
    if not isinstance(config, config_type):
        raise DynaconvError(f"config is a {type(config).__name__}; expected a {config_type.__name__}")
    known = [f.name for f in fields(config_type)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise DynaconvError(f"unknown arguments {unknown}; {config_type.__name__} has the fields {known}")
    return replace(config, **changes)


@dataclass(frozen=True)
class Noise:
    """What makes equal parts of a layer differ, so that training can tell them apart, without changing their sum.

    Args:
        strength: standard deviation relative to the kernel's.
        generator: of random numbers, on the CPU.
    """

    strength: float
    generator: torch.Generator

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Normal numbers in float64, the same on every device."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def copies(self, kernel: Tensor, count: int) -> Tensor:
        """Copies whose mean is the kernel, in float64, shape ``(*any)`` -> ``(count, *any)``."""
        wide = kernel.detach().double()
        if count == 1 or not self.strength or wide.numel() < 2:
            return wide.expand(count, *wide.shape)
        noise = self.normal((count, *wide.shape)).to(wide.device)
        return wide + self.strength * wide.std() * (noise - noise.mean(dim=0))


@torch.no_grad()
def hold(layer: Any, kernel: Tensor, bias: Tensor | None) -> float:
    """Let a layer's ``kernel`` and ``bias`` be these; returns 0, the error of a start that is exact."""
    layer.kernel.copy_(kernel)
    if bias is not None:
        layer.bias.copy_(bias)
    return 0.0


def silence(*layers: nn.Module) -> None:
    """Zero weights and biases, so that what follows starts at the same value for every input."""
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            nn.init.zeros_(parameter)


def fill_kaiming(weight: Tensor, kernel_shape: Sequence[int], groups: int = 1) -> None:
    """Kaiming normal, fan-out, ReLU, for one kernel or many: std = sqrt(2 / fan_out).

    Args:
        weight: kernels, shape ``(..., *kernel_shape)``.
        kernel_shape: ``(O, C / groups, *k)``.
        groups: by which the fan-out is divided, as timm does; torch.nn.init does not.
    """
    fan_out = kernel_shape[0] * math.prod(kernel_shape[2:]) // groups
    nn.init.normal_(weight, std=(2.0 / fan_out) ** 0.5)


class MethodConvNd(DynamicConvNd):
    """A convolution of a method: torch.nn's arguments, then by keyword a config, or any of its fields.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: size of the kernel.
        stride: step of the kernel.
        padding: whole numbers, ``"same"`` or ``"valid"``.
        dilation: spacing of the kernel.
        groups: groups of channels.
        bias: whether to add a bias.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: where parameters live.
        dtype: of the parameters.
        config: the method's config; its defaults if not given.
        changes: fields of the config that differ.

    Raises:
        DynaconvError: if an argument is out of range.
    """

    config_type: ClassVar[type[MethodConfig]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Literal["same", "valid"] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        config: Any = None,
        **changes: Any,
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
        self.config = settle_config(self.config_type, config, changes)
        self.make(device, dtype)
        self.reset_parameters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Stacks of kernels and spectra have more or fewer dimensions than a kernel: a memory format that is meant for
        # kernels would fail on them or shuffle them. Flattened, device and dtype change and the layout stays.
        stack = keeping_layout(fn)

        def keep_layout(tensor: Tensor) -> Tensor:
            if tensor.dim() == self.dims + 2:
                return fn(tensor)
            return stack(tensor) if tensor.dim() == self.dims + 3 else fn(tensor.flatten()).view(tensor.shape)

        return super()._apply(keep_layout, recurse)

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of one sample's kernel, ``(O, C / groups, *k)``."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the method's parameters and branch."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Start afresh, as the method's paper or code does."""
        raise NotImplementedError

    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static convolution with that kernel and bias, at every temperature.

        Args:
            kernel: shape ``(O, C / groups, *kernel_size)``.
            bias: shape ``(O,)``, of a layer that has one.
            noise: what makes equal parts differ.

        Returns:
            What is lost of the kernel, relative to its norm; 0 for methods that can hold any.
        """
        raise NotImplementedError

    def kernels(self, x: Tensor) -> Tensor:
        """The kernel of every sample, shape ``(B, C, *size)`` -> ``(B, O, C / groups, *kernel_size)``."""
        raise NotImplementedError

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve every sample with its own kernel, bias included; methods that need not make kernels do otherwise."""
        return self.add_bias(per_sample_conv(self.pad(x), self.kernels(x), self.geometry), self.bias)


class MethodLinear(DynamicLinear):
    """A linear layer of a method: torch.nn's arguments, then by keyword a config, or any of its fields.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether to add a bias.
        device: where parameters live.
        dtype: of the parameters.
        config: the method's config; its defaults if not given.
        changes: fields of the config that differ.

    Raises:
        DynaconvError: if an argument is out of range.
    """

    config_type: ClassVar[type[MethodConfig]]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        config: Any = None,
        **changes: Any,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.config = settle_config(self.config_type, config, changes)
        self.make(device, dtype)
        self.reset_parameters()

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the method's parameters and branch."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Start afresh, as the method's paper or code does."""
        raise NotImplementedError

    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static layer with that matrix ``(O, C)`` and bias, see :meth:`MethodConvNd.adopt`."""
        raise NotImplementedError
