"""What does not fit is told by cause, on real networks: for each the cause, what it takes to itself, and the fix."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import nn

import dynaconv
from dynaconv import KernelWarehouseConfig, load_weights
from dynaconv.checkpoints import compare_weights, load_reference_checkpoint, save_checkpoint
from dynaconv.checkpoints.report import wrapper_prefix
from dynaconv.errors import CheckpointError

THIN = {"channels": (16, 16, 32, 32)}
WHOLE = {"partition": "channel"}


@cache
def network(name: str = "resnet18", config: Any = None, where: Any = None, **arguments: Any) -> nn.Module:
    """A thin network without memory."""
    with torch.device("meta"):
        return dynaconv.create_model(name, config=config, where=where, **{"num_classes": 10, **THIN, **arguments})


def shapes(*names: Any, **arguments: Any) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in network(*names, **arguments).state_dict().items()}


def warehouse(**fields: Any) -> KernelWarehouseConfig:
    return KernelWarehouseConfig(**{**WHOLE, **fields})


static = shapes()
odconv, dyconv = dynaconv.ODConvConfig(), dynaconv.DYConvConfig()
condconv, fdconv = dynaconv.CondConvConfig(), dynaconv.FDConvConfig(channels_above=8)
full = KernelWarehouseConfig(cell_scale=1.0, sharing="layer")

CAUSES = {
    "classes": (static, shapes(num_classes=7), "a classifier of 7 classes, here of 10", 2, "num_classes=7"),
    "no classes here": (shapes(num_classes=0), static, "a classifier, where the network has none", 2, "drop"),
    "no classes there": (
        static,
        shapes(num_classes=0),
        "a classifier, where the weights have none",
        2,
        "num_classes=0",
    ),
    "channels": (static, shapes(in_chans=1), "image channels: 1, here 3", 1, "in_chans=1"),
    "static, KW": (shapes(config=warehouse()), static, "kernels of static layers", 20, 'init="pretrained"'),
    "static, OD": (shapes(config=odconv), static, "kernels of static layers", 20, 'init="pretrained"'),
    "static, FD": (shapes(config=fdconv), static, "kernels of static layers", 20, 'init="pretrained"'),
    "KW, static": (static, shapes(config=warehouse()), "dynamic in the weights (KernelWarehouse)", 187, "convert the"),
    "Cond, static": (
        static,
        shapes(config=condconv),
        "dynamic in the weights (CondConv)",
        36,
        "convert the network first",
    ),
    "where": (
        shapes(config=warehouse()),
        shapes(config=warehouse(), where="layer4"),
        "static in the weights and dynamic here",
        15,
        "where=",
    ),
    "where, more": (
        shapes(config=warehouse(), where="layer4"),
        shapes(config=warehouse()),
        "dynamic in the weights and static here",
        140,
        "where=",
    ),
    "budget": (
        shapes(config=warehouse()),
        shapes(config=warehouse(budget=2)),
        "cells of another budget",
        47,
        "about 2 times this network's",
    ),
    "cells": (
        shapes(config=full),
        shapes(config=KernelWarehouseConfig(cell_scale=0.5, sharing="layer")),
        "cells of another size",
        60,
        "their cell_scale",
    ),
    "sharing": (
        shapes(config=warehouse()),
        shapes(config=warehouse(sharing="block")),
        "cells shared by other layers",
        55,
        "their sharing",
    ),
    "fields": (
        shapes(config=odconv),
        shapes(config=dynaconv.ODConvConfig(num_kernels=4)),
        "layers of ODConv with another config",
        60,
        "with the config",
    ),
    "DY, KW": (shapes(config=warehouse()), shapes(config=dyconv), "layers of DY-Conv in the weights", 94, "DY-Conv's"),
    "OD, FD": (shapes(config=fdconv), shapes(config=odconv), "layers of ODConv in the weights", 380 - 108, "ODConv's"),
    "gates": (shapes(config=dynaconv.SEConfig()), static, "behind a gate here", 40, "before converting"),
    "gates there": (static, shapes(config=dynaconv.ECAConfig()), "behind a gate in the weights", 48, "gates' config"),
    "deeper": (static, shapes("resnet34"), "another depth: 8 that are not here, 0 missing", 96, "backbone"),
    "shallower": (shapes("resnet34"), static, "another depth: 0 that are not here, 8 missing", 96, "backbone"),
    "width": (static, shapes(channels=(16, 16, 32, 64)), "a backbone of another width", 26, "arguments"),
    "temperature": (
        shapes(config=warehouse()),
        {k: v for k, v in shapes(config=warehouse()).items() if "temperature" not in k},
        "temperatures are missing",
        20,
        "dynaconv.set_temperature",
    ),
    "one lost": (
        shapes(config=warehouse()),
        {k: v for k, v in shapes(config=warehouse()).items() if k != "layer1.0.conv1.attention.fc1.weight"},
        "names that the weights lack",
        1,
        "all of its weights",
    ),
    "one more": (static, {**static, "loss.scale": (1,)}, "names that the network does not have", 1, "Drop"),
    "beside": (
        static,
        {**{f"model.{k}": v for k, v in static.items()}, "loss.weight": (3,)},
        "the network stands below a prefix",
        1,
        "k.removeprefix('model.')",
    ),
}


@pytest.mark.parametrize("case", CAUSES)
def test_a_cause_explains_all(case):
    expected, given, title, count, fix = CAUSES[case]
    report = compare_weights(expected, given)
    assert not report.fits
    (cause,) = report.causes
    assert title in cause.title
    assert len(cause.names) == count
    assert fix in cause.fix
    assert f"{cause.title} ({count}): {cause.names[0]}" in str(report)
    assert report.fitting == sum(given.get(name) == shape for name, shape in expected.items())


def test_causes_add_up():
    given = shapes(num_classes=7, in_chans=1, name="resnet34")
    given = {f"module.{k}": v for k, v in given.items()} | {"module.ema_decay": (1,)}
    report = compare_weights(shapes(config=warehouse()), given)
    assert [cause.title.partition(",")[0].partition(":")[0] for cause in report.causes] == [
        "kernels of static layers",
        "image channels",
        "a classifier of 7 classes",
        "blocks of a backbone of another depth",
        "names that the network does not have",
    ]
    assert report.notes == ("the prefix 'module.' was taken off",)
    text = str(report)
    assert "conv1.weight (64, 1, 7, 7), here (64, 3, 7, 7)" in text
    assert "layer1.0.conv1.weight, layer1.0.conv2.weight, layer1.0.downsample.0.weight, and 17 more" in text


def test_every_difference_is_told_once():
    expected, given = shapes(config=odconv, num_classes=3), shapes("resnet50", config=dyconv, in_chans=1)
    report = compare_weights(expected, given)
    told = [name.partition(" (")[0] for cause in report.causes for name in cause.names]
    assert len(told) == len(set(told))
    assert set(given) - set(expected) <= set(told)


def test_another_network():
    with torch.device("meta"):
        other = timm.create_model("mobilenetv2_050")
    report = compare_weights(static, {k: tuple(v.shape) for k, v in other.state_dict().items()})
    assert [cause.title for cause in report.causes] == ["other names and shapes"]
    assert compare_weights(static, static).fits


def small(**fields: Any) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    return dynaconv.convert(model, warehouse(**fields), where="2", init="scratch") if fields else model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda s: s, "given"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "the prefix 'module.' was taken off"),
        (lambda s: {f"model._orig_mod.{k}": v for k, v in s.items()}, "'model._orig_mod.' was taken off"),
        (lambda s: {"epoch": 3, "state_dict": {f"model.{k}": v for k, v in s.items()}}, "taken from its 'state_dict'"),
        (lambda s: {"ema": s, "step": 1}, "taken from its 'ema'"),
        (lambda s: {"model": {"state_dict": s}}, "taken from its 'state_dict'"),
        (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, "counters of batches are missing (2)"),
    ],
)
def test_what_makes_no_difference(wrap, note, tmp_path):
    source, model, again = small(), small(), small()
    with torch.no_grad():
        source[1].running_mean += 1
    assert note in str(load_weights(model, wrap(source.state_dict())))
    assert same(model, source)
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pth")
    load_weights(again, tmp_path / "weights.pth")
    assert same(again, source)


def test_wrappers_of_the_network():
    source = small(budget=2)
    wrapped = nn.DataParallel(small(budget=2))
    assert "the prefix 'module.' was put on" in str(load_weights(wrapped, source.state_dict()))
    assert same(wrapped.module, source)
    averaged = torch.optim.swa_utils.AveragedModel(source)
    model = small(budget=2)
    assert "n_averaged left out" in str(load_weights(model, averaged.state_dict()))
    assert same(model, source)
    assert wrapper_prefix([]) == wrapper_prefix(["conv.weight"]) == ""


def test_all_or_nothing(tmp_path):
    model = small()
    before = copy.deepcopy(model)
    state = {k: v + 1 for k, v in model.state_dict().items()}
    state["3.weight"] = torch.ones(9)
    with pytest.raises(
        CheckpointError, match=r"the state dict does not fit Sequential: 13 of the network's 14 tensors"
    ):
        load_weights(model, state)
    assert same(model, before)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"torn.safetensors' is damaged or no safetensors file"):
        load_weights(model, tmp_path / "torn.safetensors")
    with pytest.raises(CheckpointError, match="holds a str by the key 'a'; expected a state dict"):
        load_weights(model, {"a": "b"})


def test_a_converted_network_s_own_files_load_by_it(tmp_path):
    model, again = small(budget=2), small(budget=2)
    path = save_checkpoint(tmp_path / "net", model, {"model": {"name": "small"}})
    load_weights(again, path)
    assert same(again, model)
    with pytest.raises(CheckpointError, match=rf"'{path}' does not fit Sequential: [^>]*cells of another budget"):
        load_weights(small(budget=1), path)


@pytest.mark.parametrize("config", [warehouse(), odconv, condconv])
def test_static_weights_for_the_reference_loader(config):
    model = dynaconv.create_model("resnet18", config=config, num_classes=10, **THIN)
    state = dynaconv.create_model("resnet18", num_classes=10, **THIN).state_dict()
    with pytest.raises(CheckpointError, match=r"kernels of static layers, where the network's are dynamic \(20\)"):
        load_reference_checkpoint(model, state)


def test_public_names_for_the_plain_loader():
    model = dynaconv.create_model("resnet18", config=warehouse(), num_classes=10, **THIN)
    state = {
        k.replace("warehouses.stage0_conv_3x3.cells", "warehouse_manager.weights.0"): v
        for k, v in model.state_dict().items()
    }
    with pytest.raises(CheckpointError, match=r"names of KernelWarehouse's public code.*\n.*load_reference_checkpoint"):
        load_weights(model, state)
    heads = {"layer1.0.conv1.attention.channel_fc.weight": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"make the network with ODConv's config and load them with"):
        load_weights(model, {**model.state_dict(), **heads})
