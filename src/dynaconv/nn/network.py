"""Functions on whole networks: find dynamic layers, keep shared cells together, set temperatures."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dynaconv.errors import DynaconvError, LostWarehouseError
from dynaconv.nn.base import DynamicLayer
from dynaconv.nn.warehouse import Warehouse, Warehouses


def dynamic_layers(model: nn.Module) -> Iterator[DynamicLayer]:
    """Every dynamic layer of a network, each once, in module order."""
    return (module for module in model.modules() if isinstance(module, DynamicLayer))


def _borrowed(model: nn.Module) -> dict[str, nn.Module]:
    """Shared parts that a network's layers draw on and that it does not own, by name."""
    owned = {id(module) for module in model.modules()}
    layers = () if isinstance(model, DynamicLayer) else dynamic_layers(model)
    return {name: part for layer in layers for name, part in layer.borrowed_parts().items() if id(part) not in owned}


def check_linked(model: nn.Module) -> None:
    """Check that a network owns the cells that its layers draw on, so that they are trained, moved and saved with it.

    Raises:
        LostWarehouseError: if it does not: it was built from parts of a converted network.
    """
    lost = sorted(_borrowed(model))
    if lost:
        raise LostWarehouseError(
            f"{type(model).__name__} has layers of a converted network without the warehouses {lost} that they share: "
            "their cells would be neither trained nor saved. Convert after taking a network apart, or call "
            "dynaconv.relink(model)"
        )


def relink(model: nn.Module) -> nn.Module:
    """Give a network the shared cells that its layers draw on, after it was built from parts of a converted one.

    Returns:
        The same network, with a member ``warehouses``.

    Raises:
        DynaconvError: if it has a member of that name already.
    """
    lost = _borrowed(model)
    if lost:
        if hasattr(model, "warehouses"):
            raise DynaconvError(f"{type(model).__name__} has an attribute 'warehouses' already; rename it first")
        model.add_module("warehouses", Warehouses({n: p for n, p in lost.items() if isinstance(p, Warehouse)}))
    return model


def set_temperature(model: nn.Module, value: float) -> None:
    """Set the temperature of every dynamic layer. A network without any is left as it is.

    Args:
        model: a network, converted or not; wrappers such as DDP or ``torch.compile`` are fine.
        value: KernelWarehouse: tau, from 1 (the assignment alone) to 0 (the attention alone); DY-Conv and ODConv: the
            divisor of the logits, from 30 to 1. Methods without temperature are left as they are.

    Raises:
        DynaconvError: if the value is outside the method's range.
        LostWarehouseError: if the network was taken apart and its shared cells were left behind.
    """
    check_linked(model)
    layers = list(dynamic_layers(model))
    for layer in layers:  # all or none
        layer.check_temperature(value)
    for layer in layers:
        layer.set_temperature(value)


def get_temperature(model: nn.Module) -> float | None:
    """The temperature of a network's dynamic layers (of the first, should they differ); None without any."""
    return next((t for layer in dynamic_layers(model) if (t := layer.get_temperature()) is not None), None)


def temperature_at(model: nn.Module, progress: float) -> float | None:
    """What the network's method schedules after a share (0 to 1) of the schedule; None for a static network."""
    return next((t for layer in dynamic_layers(model) if (t := layer.temperature_at(progress)) is not None), None)


def schedule_temperature(model: nn.Module, progress: float) -> float | None:
    """Set every dynamic layer to its own method's schedule, so that a network may mix methods.

    Args:
        model: a network, converted or not.
        progress: share of the schedule that has passed, 0 to 1.

    Returns:
        The temperature of the first layer that has one, or None.

    Raises:
        LostWarehouseError: if the network was taken apart and its shared cells were left behind.
    """
    check_linked(model)
    for layer in dynamic_layers(model):
        value = layer.temperature_at(progress)
        if value is not None:
            layer.set_temperature(value)
    return temperature_at(model, progress)
