"""The two verbs on a network: plan what a conversion would do, and do it."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from dynaconv.convert.registry import method_of
from dynaconv.convert.select import Selection, Where, find_candidates, named_directly, select_layers
from dynaconv.convert.warm_start import Init, Pretrained, begin, resolve_init
from dynaconv.errors import DynaconvError, NothingSelectedError, PlanError, PlanWarning
from dynaconv.planning import Plan


def plan(model: nn.Module, config: Any, where: Where | None = None) -> Plan:
    """Plan a conversion; nothing changes.

    Args:
        model: any network. Layers are found by module identity: one that is used twice stays one.
        config: a method's config, e.g. :class:`dynaconv.KernelWarehouseConfig`.
        where: which layers; None for the method's own choice: in general every convolution of the body but the stem
            (linear layers only inside blocks, gates and classifiers not); a name pattern or several (``"layer4.*"``,
            ``"!*.downsample.*"``); or a function of name and module.

    Returns:
        The plan; ``print`` it to see who shares what and what it costs.

    Raises:
        NothingSelectedError: if no layer is selected; it lists what could have been.
        PlanError: if the request can not be met; it names the layer, the sizes and what would work.

    Warns:
        PlanWarning: if the attention branches outweigh the kernels, or layers start empty; it says what helps.

    Example:
        >>> from torch import nn
        >>> from dynaconv import KernelWarehouseConfig
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 3))
        >>> [(layer.name, layer.num_mixtures) for layer in plan(net, KernelWarehouseConfig()).layers]
        [('1', 9), ('2', 18)]
    """
    return _warned(draft_plan(model, config, where))


def _warned(planned: Plan) -> Plan:
    for note in planned.notes:
        warnings.warn(note, PlanWarning, stacklevel=3)
    return planned


def draft_plan(model: nn.Module, config: Any, where: Where | None = None) -> Plan:
    """:func:`plan` without its warnings, for networks that are known to be meant as they are."""
    if not isinstance(model, nn.Module):
        raise DynaconvError(f"expected an nn.Module, got {type(model).__name__}")
    method = method_of(config)
    candidates = find_candidates(model)
    if where is None and len(candidates.convertible) == 1 and candidates.convertible[0].name == "":
        where = "*"
    named = select_layers(model, candidates, where, method.default(candidates, config))
    chosen = method.narrow(named, named_directly(named, where), candidates, config)
    reasons = {spec.name: why for spec in chosen if (why := method.refuses(spec, config))}
    selected = [spec for spec in chosen if spec.name not in reasons]
    if not selected:
        listed = "; ".join(f"'{name}': {why}" for name, why in list(reasons.items())[:4])
        raise NothingSelectedError(f"{config.method} converts none of the {len(reasons)} layers chosen: {listed}")
    names = {spec.name for spec in selected}
    left = (spec.name for spec in candidates.convertible if spec.name not in names and spec.name not in reasons)
    rest = {
        "other_parameters": sum(p.numel() for p in model.parameters()) - sum(s.kernel_parameters for s in selected),
        "left_static": tuple(left),
        "refused": tuple({**candidates.refused, **reasons}.items()),
    }
    return method.plan(Selection(tuple(selected), candidates.trunk, rest), config)


def _check_same_layers(model: nn.Module, planned: Plan) -> None:
    """Refuse a plan that was made for a network with other layers."""
    expected = {layer.name for layer in planned.layers} | set(planned.left_static)
    refused = {name for name, _ in planned.refused}
    found = {spec.name for spec in find_candidates(model).convertible}
    missing, extra = sorted(expected - found), sorted(found - expected - refused)
    if missing or extra:
        raise PlanError(
            f"the plan was made for another network: it names {missing[:4]} ({len(missing)} layers), which "
            f"{type(model).__name__} does not have to convert, and does not know {extra[:4]} ({len(extra)} layers); "
            "plan this network itself"
        )


def convert(model: nn.Module, config: Any, where: Where | None = None, init: Init | Pretrained = "auto") -> nn.Module:
    """Make a network dynamic, in place.

    From trained kernels the converted network computes the same function as before, at every temperature, and goes on
    from there; :func:`dynaconv.warm_start_report` says what was lost where not all can be held (KernelWarehouse with
    b < 1: cells and attention are the best approximation, and no assignment is left for temperature to blend with).
    Biases, all other layers, device, dtype and training mode stay. Make the optimiser afterwards: parameters are new.
    The shared cells belong to the network's new member ``warehouses``; in an ``nn.Sequential`` that is a last module
    which hands its input through.

    Args:
        model: the network; it is changed.
        config: a method's config, or a plan made for this network.
        where: which layers, see :func:`plan`; only together with a config.
        init: ``"pretrained"`` starts from the network's kernels, ``"scratch"`` as the method does by itself;
            ``"auto"`` is the former if the network holds trained weights
            (:func:`~dynaconv.convert.holds_trained_weights`: a normalisation has learned), else the latter.
            :class:`dynaconv.Pretrained` has options.

    Returns:
        The same network (or, if it was a single layer, that layer's replacement).

    Raises:
        NothingSelectedError: if no layer is selected.
        PlanError: if the request can not be met, or the plan belongs to another network.
        DynaconvError: if ``init`` is not known, or there is nothing to start from.
    """
    if isinstance(config, Plan):
        if where is not None:
            raise DynaconvError("a plan says already which layers to convert; give where= to dynaconv.plan instead")
        planned = config
        _check_same_layers(model, planned)
    else:
        planned = _warned(draft_plan(model, config, where))
    options = resolve_init(init, model)
    start = None if options is None else begin(options, model, [layer.name for layer in planned.layers])
    return method_of(planned.config).apply(model, planned, start)
