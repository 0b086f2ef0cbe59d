"""Where a network's feature maps of stride 4, 8, 16 and 32 come out, and what of the network they depend on.

Nothing is known here of any family of networks: a network runs once on shapes alone. A module that takes maps of one
stride and gives maps of the next begins a stage, so the output before the first such module is a level: `layer1` of a
ResNet, whoever wrote it. The last level is the last map of all, which in MobileNetV2 is behind `conv_head`. What the
levels do not depend on (the classifier, and a warehouse that it alone draws on) is told by their gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from dynaconv.analysis.profile import on_meta
from dynaconv.errors import DynaconvError
from dynaconv.nn import DynamicLayer, check_linked

STRIDES = (4, 8, 16, 32)
PROBE = (256, 320)
"""Height and width of the image that runs through; every stride divides both, and pooled maps have no such stride."""


@dataclass(frozen=True)
class Levels:
    """Feature maps of a network.

    Args:
        names: modules whose outputs they are, finest first.
        channels: of each.
        strides: pixels of the image per pixel of each.
        needs: for each, names of the parameters that it depends on.
    """

    names: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    needs: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class _Call:
    """A module's call, told when it begins and when it ends."""

    name: str
    input: Tensor | None
    output: Tensor | None
    began: int
    ended: int
    is_container: bool

    @property
    def depth(self) -> int:
        return self.name.count(".")


class Features(nn.Module):
    """A network without its head, called as its own code calls it.

    Args:
        network: with ``forward_features`` (timm's), or with a forward that needs nothing but images.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Whatever the network gives."""
        return features_of(self.network, images)


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """Run a network, without its head where it can do so by itself."""
    run = getattr(network, "forward_features", network)
    return run(images)


def find_levels(network: nn.Module, names: Sequence[str] | None = None, in_chans: int = 3) -> Levels:
    """Find a network's levels; it is left as it is.

    Args:
        network: images to anything, converted or not.
        names: modules whose outputs are the levels, finest first; None to find those of strides 4, 8, 16 and 32.
        in_chans: channels of an image.

    Raises:
        DynaconvError: if there are none, a name is unknown, or the network does not take such images.
        LostWarehouseError: if the network does not own the cells that its layers draw on.
    """
    check_linked(network)
    known = dict(network.named_modules())
    if names is not None and (unknown := [name for name in names if name not in known or not name]):
        raise DynaconvError(
            f"features={list(names)}: {type(network).__name__} has no {unknown}; expected names of its modules, such "
            f"as {[name for name in known if name][:4]}"
        )
    calls, parameters = _watch(network, in_chans)
    chosen = _named(network, calls, names) if names is not None else _found(network, calls)
    maps = [call.output for call in chosen]
    assert all(map is not None for map in maps)
    needs = [_needs(map, parameters) for map in maps if map is not None]
    shapes = [map.shape for map in maps if map is not None]
    return Levels(
        names=tuple(call.name for call in chosen),
        channels=tuple(shape[1] for shape in shapes),
        strides=tuple(PROBE[0] // shape[2] for shape in shapes),
        needs=tuple(needs),
    )


def _watch(network: nn.Module, in_chans: int) -> tuple[list[_Call], dict[str, Tensor]]:
    """Every call of a module in one forward pass on shapes alone, in the order of their ends."""
    clock, began, calls = 0, {}, []
    inside: set[nn.Module] = set()
    hooks = []

    def tick() -> int:
        nonlocal clock
        clock += 1
        return clock

    for name, module in network.named_modules():
        if module in inside or not name:
            continue
        if isinstance(module, DynamicLayer):
            inside.update(module.modules())

        def begin(module: nn.Module, inputs: tuple) -> None:
            began[module] = tick()

        def end(module: nn.Module, inputs: tuple, output: object, name: str = name) -> None:
            first = inputs[0] if inputs else None
            container = isinstance(module, nn.Sequential)
            calls.append(_Call(name, _map(first), _map(output), began[module], tick(), container))

        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    training = [module for module in network.modules() if module.training]
    state = on_meta(network)
    parameters = {name: state[name].requires_grad_() for name, _ in network.named_parameters()}
    images = torch.empty(1, in_chans, *PROBE, device="meta", dtype=next(iter(parameters.values())).dtype)
    try:
        network.eval()
        named = {f"network.{name}": tensor for name, tensor in state.items()}
        with torch.enable_grad():
            torch.func.functional_call(Features(network), named, (images,), tie_weights=False)
    except Exception as error:  # whatever a network of somebody's may raise
        raise DynaconvError(
            f"{type(network).__name__} is no backbone for a detector: it does not take images of any size, here "
            f"{PROBE[0]}x{PROBE[1]} ({error}); expected a ConvNet with stages, such as a ResNet"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return calls, parameters


def _map(value: object) -> Tensor | None:
    """A value, if it may be a feature map."""
    return value if isinstance(value, Tensor) and value.dim() == 4 else None


def _stride(map: Tensor | None) -> int | None:
    """Pixels of the image per pixel of a map; None if it is none."""
    if map is None or 0 in map.shape[2:]:
        return None
    height, width = PROBE[0] / map.shape[2], PROBE[1] / map.shape[3]
    return int(height) if height == width and height == int(height) else None


def _found(network: nn.Module, calls: Sequence[_Call]) -> list[_Call]:
    """The levels of strides 4 to 32."""
    levels = []
    for stride in STRIDES:
        after = _next_stage(calls, stride)
        before = [call for call in calls if _stride(call.output) == stride and (after is None or call.ended < after)]
        if not before or (after is None and stride != STRIDES[-1]):
            seen = sorted({s for call in calls if (s := _stride(call.output)) is not None})
            raise DynaconvError(
                f"{type(network).__name__} has no stage that ends at stride {stride}; its maps have strides {seen}, "
                f"expected {list(STRIDES)}; name the modules whose outputs to take with features=[...], finest first"
            )
        same = [call for call in before if call.output is before[-1].output]
        # Not a Sequential: networks that compute activations again call its members, and not itself.
        levels.append(min(same, key=lambda call: (call.is_container, call.depth)))
    return levels


def _next_stage(calls: Sequence[_Call], stride: int) -> int | None:
    """When the first module begins that takes maps of a stride and gives coarser ones."""
    if stride == STRIDES[-1]:
        return None
    steps = [call.began for call in calls if _stride(call.input) == stride and _stride(call.output) == 2 * stride]
    return min(steps, default=None)


def _named(network: nn.Module, calls: Sequence[_Call], names: Sequence[str]) -> list[_Call]:
    """The calls of named modules."""
    last = {call.name: call for call in calls}
    missing = [name for name in names if name not in last or _stride(last[name].output) is None]
    strides = [] if missing else [_stride(last[name].output) or 0 for name in names]
    if missing or len(names) < 2 or any(b != 2 * a for a, b in pairwise(strides)):
        raise DynaconvError(
            f"features={list(names)}: "
            + (f"{missing} give no feature maps" if missing else f"these have the strides {strides}")
            + f" in {type(network).__name__}; expected two modules or more, each of twice the stride of the one before"
        )
    return [last[name] for name in names]


def _needs(map: Tensor, parameters: dict[str, Tensor]) -> frozenset[str]:
    """Names of the parameters that a map depends on."""
    found = torch.autograd.grad(map.sum(), list(parameters.values()), retain_graph=True, allow_unused=True)
    return frozenset(name for name, gradient in zip(parameters, found, strict=True) if gradient is not None)
