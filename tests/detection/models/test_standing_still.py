"""What stands still in a detector's backbone does, whoever calls ``train``; all else learns."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import dynaconv
from tests.detection.models.tiny import KW, settings, tiny_detector, train_step

SHARED = dynaconv.KernelWarehouseConfig(cell_scale=0.5, sharing="model")
ALONE = dynaconv.KernelWarehouseConfig(cell_scale=0.5, sharing="layer")


def copied(detector):
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


def changed(detector, before):
    return {name for name, tensor in detector.state_dict().items() if not torch.equal(tensor, before[name])}


def norms_of(detector):
    body = detector.backbone.body
    return [f"backbone.body.{name}" for name, module in body.named_modules() if isinstance(module, _BatchNorm)]


@pytest.mark.parametrize("norms", ["train", "eval", "frozen"])
def test_norms(norms):
    detector = tiny_detector(config=KW, detector=settings(norms=norms))
    names = norms_of(detector)
    assert sum(".attention." in name for name in names) == 12  # those of the branches, too
    before = copied(detector)
    for _ in range(2):  # Lightning calls train() again after every validation
        detector.eval()
        train_step(detector, 2)
    found = changed(detector, before)
    learned = {name: bool({f"{name}.weight", f"{name}.bias"} & found) for name in names}
    counted = {name: f"{name}.running_mean" in found for name in names}
    assert learned == dict.fromkeys(names, norms != "frozen")
    assert counted == dict.fromkeys(names, norms == "train")
    assert "backbone.body.conv1.0.weight" in found
    assert detector.training
    assert detector.backbone.body.training


@pytest.mark.parametrize("stages", [1, 3])
def test_frozen_stages(stages):
    detector = tiny_detector(config=ALONE, detector=settings(freeze_stages=stages), drop_path_rate=0.5)
    before = copied(detector)
    train_step(detector, 2)
    still = ["conv1", "bn1", *(f"layer{stage}" for stage in range(1, stages + 1))]
    body = detector.backbone.body
    houses = {layer.plan.warehouse for name in still for layer in dynaconv.dynamic_layers(getattr(body, name))}
    assert houses
    standing = tuple(f"backbone.body.{name}." for name in [*still, *(f"warehouses.{house}" for house in houses)])
    found = changed(detector, before)
    assert not {name for name in found if name.startswith(standing)}
    assert not any(module.training for name in still for module in getattr(body, name).modules())
    for name, parameter in detector.named_parameters():
        assert parameter.requires_grad == (not name.startswith(standing)), name
        assert not parameter.requires_grad or parameter.grad is not None, name
    assert any(name.startswith(f"backbone.body.layer{stages + 1}.") for name in found)


def test_cells_shared_with_a_trained_stage_are_trained():
    detector = tiny_detector(config=SHARED, detector=settings(freeze_stages=2))
    before = copied(detector)
    train_step(detector, 2)
    found = changed(detector, before)
    layers = [layer.plan for layer in dynaconv.dynamic_layers(detector)]
    for house, cells in detector.backbone.body.warehouses.items():
        stages = {plan.name.partition(".")[0] for plan in layers if plan.warehouse == house}
        trained = not stages <= {"layer1", "layer2"}
        assert cells.cells.requires_grad == (cells.cells.grad is not None) == trained
        assert trained or f"backbone.body.warehouses.{house}.cells" not in found
    mixed = [plan.name for plan in layers if plan.warehouse == "model_conv_48x48"]
    assert mixed == ["layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2"]
    assert not {name for name in found if name.startswith("backbone.body.layer2.")}


def test_norms_of_several_processes_stand_still_too():
    detector = dynaconv.synchronise_norms(tiny_detector(config=KW, detector=settings(norms="eval")))
    before = copied(detector)
    train_step(detector, 2)
    assert not {name for name in changed(detector, before) if name.endswith("running_mean")}
