"""What a network costs: parameters, multiply-adds and memory, module by module.

Static modules are counted by PyTorch's own flop counter; dynamic layers by their method's formula, as its paper writes
it, so that the figure does not depend on the order of products that this library picks. What it really runs is counted
beside it. Everything happens on shapes alone: nothing is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dynaconv.analysis.table import profile_table
from dynaconv.errors import DynaconvError
from dynaconv.nn import DynamicLayer, Warehouse
from dynaconv.ops import Madds


@dataclass(frozen=True, kw_only=True)
class ModuleProfile:
    """One module's part; counts are of one batch.

    Args:
        name: dotted module name; empty for the network itself.
        kind: the module's class.
        parameters: of the module.
        convolution: multiply-adds of convolutions and matrix products.
        mixing: multiply-adds of making kernels, or of scaling maps in their place.
        attention: multiply-adds of attention branches, pooling included.
        activation_bytes: size of the output.
        kernel_bytes: size of the kernels that are made for the batch.
    """

    name: str
    kind: str
    parameters: int = 0
    convolution: int = 0
    mixing: int = 0
    attention: int = 0
    activation_bytes: int = 0
    kernel_bytes: int = 0

    @property
    def madds(self) -> int:
        """All multiply-adds."""
        return self.convolution + self.mixing + self.attention


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a network costs on one batch; one multiply and one add count as one.

    Args:
        rows: modules that hold parameters or do work, in the order of the network.
        input_size: channels and spatial sizes of an image.
        batch_size: images.
        executed_madds: multiply-adds of the products that this library's order really runs, by PyTorch's flop counter;
            element-wise work is not in it.
    """

    rows: tuple[ModuleProfile, ...]
    input_size: tuple[int, ...]
    batch_size: int
    executed_madds: int

    def _sum(self, field_name: str) -> int:
        return sum(getattr(row, field_name) for row in self.rows)

    @property
    def parameters(self) -> int:
        """Parameters, each once."""
        return self._sum("parameters")

    @property
    def convolution(self) -> int:
        """Multiply-adds of convolutions and matrix products."""
        return self._sum("convolution")

    @property
    def mixing(self) -> int:
        """Multiply-adds of making kernels."""
        return self._sum("mixing")

    @property
    def attention(self) -> int:
        """Multiply-adds of attention branches."""
        return self._sum("attention")

    @property
    def madds(self) -> int:
        """All multiply-adds."""
        return self._sum("madds")

    @property
    def activation_bytes(self) -> int:
        """Outputs of all rows together: what training keeps, at least."""
        return self._sum("activation_bytes")

    @property
    def kernel_bytes(self) -> int:
        """Kernels of all layers for the batch, if every sample's is made."""
        return self._sum("kernel_bytes")

    def table(self, by_layer: bool = False) -> str:
        """Text: a row a layer, or a row a stage."""
        return profile_table(self, by_layer)

    def __str__(self) -> str:
        """The table by stages."""
        return self.table()


@dataclass
class _Seen:
    """What hooks gather of a module."""

    madds: Madds = field(default_factory=Madds)
    activation_bytes: int = 0
    kernel_bytes: int = 0


def profile(
    model: nn.Module, input_size: Sequence[int] = (3, 224, 224), batch_size: int = 1, dtype: torch.dtype | None = None
) -> Profile:
    """Count parameters, multiply-adds and memory of a network.

    Args:
        model: any network, converted or not; it is left as it is.
        input_size: channels and spatial sizes of an image.
        batch_size: images; counts are of the whole batch.
        dtype: of the images; that of the network's first parameter if None.

    Returns:
        The profile; ``print`` it, or read ``madds``, ``parameters`` and its rows.

    Raises:
        DynaconvError: if the network does not take such an input.

    Example:
        >>> from dynaconv.nn import ODConv2d
        >>> p = profile(ODConv2d(16, 16, 3, padding=1, bias=False), (16, 8, 8))
        >>> p.parameters, p.convolution
        (3289, 147456)
    """
    size = (batch_size, *input_size) if isinstance(input_size, Sequence) else ()
    if not size or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in size):
        raise DynaconvError(
            f"input_size={input_size!r}, batch_size={batch_size!r}; expected whole numbers above 0, as (3, 224, 224)"
        )
    units = {module: name for name, module in _units(model)}
    first = next(model.parameters(), None)
    images = torch.empty(size, device="meta", dtype=dtype or (first.dtype if first is not None else torch.float32))
    seen, flops = _run(model, images, units)
    root = type(model).__name__
    rows = [_row(name, module, seen.get(module, _Seen()), flops, root) for module, name in units.items()]
    kept = [row for row in rows if row.parameters or row.madds or row.activation_bytes]
    executed = sum(flops[_ROOT].values()) // 2 if _ROOT in flops else 0
    return Profile(rows=tuple(kept), input_size=tuple(input_size), batch_size=batch_size, executed_madds=executed)


_ROOT = "Global"


def _units(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules that get a row: dynamic layers whole, every other module for what is its own."""
    found, inside = [], set()
    for name, module in model.named_modules():
        if module in inside:
            continue
        found.append((name, module))
        if isinstance(module, DynamicLayer):
            inside.update(module.modules())
    return found


def _run(
    model: nn.Module, images: Tensor, units: dict[nn.Module, str]
) -> tuple[dict[nn.Module, _Seen], dict[str, dict[Any, int]]]:
    """One forward pass in evaluation mode on shapes alone."""
    seen: dict[nn.Module, _Seen] = {}

    def watch(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        entry = seen.setdefault(module, _Seen())
        given = next((x for x in (*inputs, *named.values()) if isinstance(x, Tensor)), None)
        if isinstance(module, DynamicLayer) and given is not None:
            madds = module.count_madds(_size(module, given))
            entry.madds = Madds(*(a + b for a, b in zip(_fields(entry.madds), _fields(madds), strict=True)))
            entry.kernel_bytes += madds.kernel_elements * given.element_size()
        is_leaf = isinstance(module, DynamicLayer) or not any(True for _ in module.children())
        if isinstance(output, Tensor) and is_leaf and output is not given:  # an identity makes nothing
            entry.activation_bytes += output.numel() * output.element_size()

    hooks = [module.register_forward_hook(watch, with_kwargs=True) for module in units]
    training = [module for module in model.modules() if module.training]
    counter = FlopCounterMode(display=False)
    try:
        model.eval()
        with torch.no_grad(), counter:
            torch.func.functional_call(model, on_meta(model), (images,), tie_weights=False)
    except Exception as error:  # whatever a network of somebody's may raise
        raise DynaconvError(
            f"{type(model).__name__} could not be profiled on an input of shape {tuple(images.shape)}: {error}; "
            "input_size is one sample's (C, H, W); a network that needs more than images is profiled by its backbone"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return seen, counter.get_flop_counts()  # pyright: ignore[reportReturnType]


def on_meta(model: nn.Module) -> dict[str, Tensor]:
    """A stand-in without memory for every parameter and buffer, by one name for each module that owns it.

    Given two names of one module, functional_call would put the stand-in of the first back as if it were the original.
    """
    stand_ins: dict[int, Tensor] = {}
    named: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                named[f"{prefix}.{name}".removeprefix(".")] = stand_ins.setdefault(
                    id(tensor), tensor.detach().to("meta")
                )
    return named


def _size(module: nn.Module, x: Tensor) -> tuple[int, ...]:
    """Shape of an input, batch first."""
    dims = getattr(module, "dims", None)
    unbatched = dims is not None and x.dim() == dims + 1
    return (1, *x.shape) if unbatched else tuple(x.shape)


def _own_flops(name: str, module: nn.Module, flops: dict[str, dict[Any, int]], root: str) -> int:
    """What a module runs itself, outside of its children."""

    def total(path: str) -> int:
        return sum(flops.get(".".join(part for part in (root, path) if part), {}).values())

    children = (child for child, _ in module.named_children())
    return total(name) - sum(total(".".join(part for part in (name, child) if part)) for child in children)


def _fields(madds: Madds) -> tuple[int, int, int, int]:
    return madds.convolution, madds.mixing, madds.attention, madds.kernel_elements


def _row(name: str, module: nn.Module, seen: _Seen, flops: dict[str, dict[Any, int]], root: str) -> ModuleProfile:
    whole = isinstance(module, DynamicLayer)
    own = module.parameters(recurse=whole)
    madds = seen.madds if whole else Madds(convolution=_own_flops(name, module, flops, root) // 2)
    return ModuleProfile(
        name=name,
        kind=type(module).__name__,
        parameters=sum(p.numel() for p in own),
        convolution=madds.convolution,
        mixing=madds.mixing,
        attention=madds.attention,
        activation_bytes=0 if isinstance(module, Warehouse) else seen.activation_bytes,
        kernel_bytes=seen.kernel_bytes,
    )
