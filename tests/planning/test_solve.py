"""Budgets as people state them: the largest network that fits, by the paper's rule for cells, and errors that help."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import timm
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dynaconv
from dynaconv import DynaconvError, KernelWarehouseConfig, KWConv2d, PlanWarning
from dynaconv.checkpoints import load_checkpoint, save_checkpoint
from dynaconv.config import parse_params
from dynaconv.convert import draft_plan
from dynaconv.errors import PlanError
from dynaconv.planning import make_plan
from tests.planning.test_structure import conv


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("4M", 4_000_000),
        ("850k", 850_000),
        ("4.03M", 4_030_000),
        ("1.5b", 1_500_000_000),
        ("4,000,000", 4_000_000),
        ("4e6", 4_000_000),
        (4_000_000, 4_000_000),
        (4e6, 4_000_000),
        (0.6, 0.6),
        ("0.6", 0.6),
        (1.0, 1.0),
        (1, 1),
    ],
)
def test_what_people_write(text, meant):
    found = parse_params(text)
    assert (found, type(found)) == (meant, type(meant))


@pytest.mark.parametrize(
    "wrong", ["much", "", "M", "4X", "1.2.3", -4, 0, 0.0, 100.5, True, [4], "0.00001k", "nan", "inf"]
)
def test_what_no_one_can_mean(wrong):
    with pytest.raises(DynaconvError, match="expected a number of parameters"):
        KernelWarehouseConfig(params=wrong)


def test_one_of_both():
    with pytest.raises(DynaconvError, match=r"budget=0.5 and params='4M' both say .* give one"):
        KernelWarehouseConfig(budget=0.5, params="4M")


@pytest.mark.parametrize("asked", ["4M", 0.6, 4_000_000])
def test_a_request_goes_through_files(asked):
    config = KernelWarehouseConfig(params=asked, overrides={"stage0*": {"budget": 2}})
    assert dynaconv.config_from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@st.composite
def networks(draw):
    """Convolutions of related widths, and the one warehouse, or two, that they share: no splitting by width."""
    unit = draw(st.sampled_from([6, 16, 128, 256]))
    widths = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    specs = [
        conv(f"layer{i}", unit * a, unit * b, draw(st.sampled_from([1, 3])))
        for i, (a, b) in enumerate(pairwise(widths))
    ]
    names = draw(st.lists(st.sampled_from(["left", "right"]), min_size=len(specs), max_size=len(specs)))
    return specs, {spec.name: name for spec, name in zip(specs, names, strict=True)}


def steps_of(specs, sharing) -> list[float]:
    """Every budget below 1 at which some warehouse of halved cells gets one more."""
    plan = make_plan(specs, KernelWarehouseConfig(sharing=sharing, budget=0.5, cell_scale=0.5))
    totals = {house.num_mixtures for house in plan.warehouses}
    return sorted({(step + 1e-6) / total for total in totals for step in range(total)})


@settings(deadline=None, max_examples=50)
@given(networks(), st.one_of(st.floats(0.05, 1), st.floats(0.5, 8)))
def test_the_largest_network_that_fits(network, share):
    specs, sharing = network
    config = KernelWarehouseConfig(sharing=sharing, params=share)
    target = int(share * sum(s.kernel_parameters for s in specs))
    halves = [
        make_plan(specs, KernelWarehouseConfig(sharing=sharing, budget=b, cell_scale=0.5))
        for b in steps_of(specs, sharing)
    ]
    best = max((p for p in halves if p.parameters_after <= target), key=lambda p: p.cell_parameters, default=None)
    pays = best is not None and 2 * best.branch_parameters <= best.cell_parameters
    least = make_plan(specs, KernelWarehouseConfig(sharing=sharing, budget=1e-4, cell_scale=1.0))
    if least.parameters_after > target and not pays:
        with pytest.raises(PlanError, match="can not be reached"):
            make_plan(specs, config)
        return
    plan = make_plan(specs, config)
    found = plan.config
    assert found.params is None
    assert plan.parameters_after == plan.solution.parameters <= target

    # By brute force: no budget above fits with these cells.
    def size(budget: float) -> int:
        return make_plan(specs, replace(found, budget=budget)).parameters_after

    totals = [house.num_mixtures for house in plan.warehouses]
    steps = sorted({(house.num_cells + 1) / m for house, m in zip(plan.warehouses, totals, strict=True)})
    larger = size(steps[0] + 1e-9)
    assert larger > target
    assert plan.solution.next_larger == larger or (found.cell_scale == 0.5 and steps[0] >= 1)

    # Below b = 1 cells are halved, unless their branches would hold more than half as much as the cells.
    if found.budget < 1:
        assert found.cell_scale == (0.5 if pays else 1.0)

    # The config alone rebuilds the plan.
    again = make_plan(specs, dynaconv.config_from_dict(json.loads(json.dumps(found.to_dict()))))
    assert (again.layers, again.warehouses) == (plan.layers, plan.warehouses)


NETWORKS = ("resnet18", "resnet50", "mobilenetv2_100", "efficientnet_b0", "convnext_tiny")


def outline(name: str) -> nn.Module:
    """A network without memory."""
    with torch.device("meta"):
        return timm.create_model(name)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.9, 1.2, 3.0])
def test_real_networks_weigh_what_was_asked_for(name, share):
    model = outline(name)
    asked = share * parameters(model)
    plan = draft_plan(model, KernelWarehouseConfig(params=share))
    close = 0.98 * int(asked) <= plan.parameters_after
    assert plan.parameters_after <= asked
    assert close == (not any("closest to" in note for note in plan.notes))
    assert parameters(dynaconv.convert(model, plan)) == plan.parameters_after


def test_the_papers_sizes_give_the_papers_networks():
    for preset, params in (("kw1d4x_resnet18", 4_031_768), ("kw1x_resnet18", 11_932_148), ("kw4x_resnet18", None)):
        with torch.device("meta"):
            paper = dynaconv.create_model(preset)
        plan = draft_plan(outline("resnet18"), KernelWarehouseConfig(params=params or parameters(paper)))
        assert plan.parameters_after == parameters(paper)
        cells = {name: house.cells.shape for name, house in paper.warehouses.items()}
        assert {h.name: (h.num_cells, *h.cell_shape) for h in plan.warehouses} == cells


def test_the_plan_says_what_was_found():
    plan = draft_plan(outline("resnet18"), KernelWarehouseConfig(params="4.1M"))
    line = next(line for line in str(plan).splitlines() if line.startswith("asked for:"))
    larger = plan.solution.next_larger
    assert f"params='4.1M': b = {plan.config.budget:g}, cells of half the channels' divisor" in line
    assert line.endswith(f"one step larger: {larger:,}")
    assert draft_plan(outline("resnet18"), plan.config).solution is None
    share = draft_plan(outline("resnet18"), KernelWarehouseConfig(params=0.5))
    assert "params=0.5 (5,844,756)" in str(share)
    pair = draft_plan(outline("resnet18"), KernelWarehouseConfig(params=0.9, cell_scale=(1, 0.25)))
    assert "cells of the whole out-channels' divisor, 0.25 of the in-channels'" in str(pair)


def test_what_is_given_stays():
    model = outline("resnet18")
    fixed = KernelWarehouseConfig(params="6M", cell_scale=0.25, nonlocal_basis_ratio=1 / 16, sharing="block")
    plan = draft_plan(model, fixed)
    assert plan.config == replace(fixed, params=None, budget=plan.config.budget)
    assert 0.95 * 6_000_000 < plan.parameters_after <= 6_000_000
    some = draft_plan(model, KernelWarehouseConfig(params="12M", overrides={"stage3*": {"budget": 1.0}}))
    assert some.warehouse("stage3_conv").num_cells == some.warehouse("stage3_conv").num_mixtures
    assert some.parameters_after <= 12_000_000


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"sharing": "none"}, lambda b: b == int(b)),
        ({"assignment": "several"}, lambda b: b >= 2),
        ({"assignment": "pairs"}, lambda b: b <= 0.5),
    ],
)
def test_budgets_that_the_assignment_allows(changes, allowed):
    share = 0.4 if changes.get("assignment") == "pairs" else 3.3
    plan = draft_plan(outline("resnet18"), KernelWarehouseConfig(params=share, **changes))
    assert allowed(plan.config.budget)
    assert plan.parameters_after <= plan.solution.target < plan.solution.next_larger


def test_odd_widths_keep_whole_cells_also_when_rebuilt():
    specs = [conv(f"layer{i}", 255, 256) for i in range(3)]
    plan = make_plan(specs, KernelWarehouseConfig(params=0.5, sharing={"*": "one"}))
    assert plan.config.cell_scale is None
    assert plan.warehouses[0].cell_shape == (128, 255, 1, 1)
    assert make_plan(specs, plan.config).warehouses == plan.warehouses


@pytest.mark.parametrize(
    ("asked", "changes", "message"),
    [
        ("850k", {}, r"params='850k' can not be reached: 973,770 parameters .* What helps: cell_scale=0.5 \(from 7"),
        (0.05, {}, r"params=0.05 \(584,475\) can not be reached.* Ask for more, or convert more layers"),
        (2, {}, r"params=2 can not .*; a share of the network has a point and is at most 64.0"),
        ("1050k", {"cell_scale": 1 / 16}, r"What helps: cell_scale=1.0 \(from 973,770\)"),
        (64.0, {}, r"params=64.0 \(748,128,768\) is more than these layers can hold: 7\d\d,.* is the largest"),
        ("10M", {"assignment": "pairs"}, r"is more than these layers can hold"),
    ],
)
def test_requests_out_of_reach(asked, changes, message):
    with pytest.raises(PlanError, match=message):
        draft_plan(outline("resnet18"), KernelWarehouseConfig(params=asked, **changes))


def test_a_coarse_step_is_told():
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1))
    with pytest.warns(PlanWarning, match=r"are the closest to .* from below, the next larger network has"):
        dynaconv.plan(model, KernelWarehouseConfig(params=1.6))


def test_a_layer_alone():
    layer = KWConv2d(64, 64, 3, config=KernelWarehouseConfig(params=20_000))
    assert 18_000 < parameters(layer) <= 20_000
    assert layer.config.params is None
    assert layer.config.budget < 1
    same = KWConv2d(64, 64, 3, config=layer.config)
    assert {k: v.shape for k, v in same.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


def test_a_checkpoint_holds_what_was_found(tmp_path):
    config = KernelWarehouseConfig(params="60k")
    thin = {"channels": [16, 16, 16, 16]}
    model = dynaconv.create_model("resnet18", config=config, num_classes=3, **thin)
    recipe = {"model": {"name": "resnet18", "config": config.to_dict(), "num_classes": 3, "backbone_kwargs": thin}}
    save_checkpoint(tmp_path / "net", model, recipe)
    loaded, read = load_checkpoint(tmp_path / "net")
    assert read["model"]["config"]["params"] is None
    assert read["model"]["config"] == model.warehouses.network_config.to_dict()
    assert parameters(loaded) == parameters(model) <= 60_000
    assert recipe["model"]["config"]["params"] == "60k"
