"""Trained backbones arrive in detectors whole."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

import dynaconv
from dynaconv.checkpoints.native import save_checkpoint
from dynaconv.detection import DetectionRecipe, build_detector, create_detector, open_backbone
from dynaconv.errors import CheckpointError, DynaconvError
from tests.detection.models.tiny import KW, settings, tiny_detector
from tests.golden import read_model, weights_from_names

NORMALISATION = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def arguments(config=KW, **changes):
    plain = None if config is None else config.to_dict()
    made = {"name": "test_resnet", "config": plain, "where": None, "num_classes": 7, "in_chans": 3}
    return {**made, "backbone_kwargs": {}, **changes}


def classifier(config=KW, **changes):
    """A network as after training, temperature half-way."""
    torch.manual_seed(1)
    network = dynaconv.create_model("test_resnet", config=config, num_classes=7, **changes)
    network.train()(torch.randn(4, 3, 64, 64))
    dynaconv.set_temperature(network, 0.5)
    return network.eval()


def same_features(detector, network):
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        last = detector.eval().backbone.levels(images)[-1]
        torch.testing.assert_close(last, network.eval().forward_features(images))


def recipe(weights, **changes):
    return DetectionRecipe(model="test_resnet", detector=settings(weights=str(weights)), **changes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "best"
    network = classifier()
    save_checkpoint(path, network, {"model": arguments(), **NORMALISATION})
    return path, network


def test_a_checkpoint_brings_config_classes_and_normalisation(checkpoint):
    path, network = checkpoint
    detector, made = build_detector(recipe(path), 3)
    assert made == arguments()
    assert dynaconv.get_temperature(detector) == 0.0
    dynaconv.schedule_temperature(network, 1.0)
    same_features(detector, network)
    assert detector.transform.image_mean == NORMALISATION["mean"]
    assert detector.transform.image_std == NORMALISATION["std"]


def test_a_checkpoint_may_be_trained_on_with_other_drop_path(checkpoint):
    path, network = checkpoint
    detector, made = build_detector(recipe(path, backbone={"drop_path_rate": 0.2}), 3)
    assert made == arguments(backbone_kwargs={"drop_path_rate": 0.2})
    assert any(type(module).__name__ == "DropPath" for module in detector.modules())
    dynaconv.schedule_temperature(network, 1.0)
    same_features(detector, network)


def test_arguments_make_the_same_detector_again(checkpoint):
    path, _ = checkpoint
    detector, made = build_detector(recipe(path), 3)
    config = dynaconv.config_from_dict(made["config"])
    again = create_detector("test_resnet", num_classes=3, detector=settings(), config=config, backbone_classes=7)
    again.load_state_dict(detector.state_dict(), strict=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_of_weights(tmp_path, suffix):
    network, path = classifier(), tmp_path / f"weights{suffix}"
    state = {f"module.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    detector, made = build_detector(recipe(path, method=KW.to_dict()), 3)
    assert made == arguments()
    assert dynaconv.get_temperature(detector) == 0.0
    dynaconv.schedule_temperature(network, 1.0)
    same_features(detector, network)
    direct = create_detector("test_resnet", num_classes=3, config=KW, detector=settings(weights=str(path)))
    same_features(direct, network)


def test_static_weights_are_converted_as_they_are(tmp_path):
    network, path = classifier(None), tmp_path / "static.safetensors"
    save_file(network.state_dict(), path)
    config = dynaconv.KernelWarehouseConfig(budget=2, cell_scale=0.5)
    detector, made = build_detector(recipe(path, method=config.to_dict()), 3)
    assert made == arguments(config)
    same_features(detector, network)


def test_the_authors_own_weights(tmp_path):
    """Of the MobileNetV2 at b = 1/2, whose classifier has a warehouse of its own."""
    golden, path = read_model("kw1d2x_mobilenetv2_100"), tmp_path / "authors.pth"
    state = weights_from_names(golden["keys"])
    torch.save({"model": {name: tensor.float() for name, tensor in state.items()}}, path)
    opened = open_backbone("kw1d2x_mobilenetv2_100", weights=str(path))
    expected = dynaconv.load_reference_checkpoint(dynaconv.create_model("kw1d2x_mobilenetv2_100"), state)
    torch.testing.assert_close(opened.network.state_dict(), expected.state_dict())
    assert opened.arguments["num_classes"] == 1000


def test_timm_brings_weights_and_normalisation(monkeypatch):
    asked, create_model = [], dynaconv.create_model

    def offline(name, pretrained=False, **options):
        asked.append(pretrained)
        return create_model(name, **options)

    monkeypatch.setattr(dynaconv, "create_model", offline)
    opened = open_backbone("test_resnet", weights="timm")
    assert asked == [True]
    assert (opened.mean, opened.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert opened.arguments == arguments(None, num_classes=1000)


def test_what_does_not_fit_is_told(checkpoint, tmp_path):
    path, _ = checkpoint
    with pytest.raises(DynaconvError, match="of another network: name: 'resnet18' asked for, 'test_resnet' saved"):
        open_backbone("resnet18", weights=str(path))
    other = dynaconv.KernelWarehouseConfig(cell_scale=0.5, budget=2)
    with pytest.raises(DynaconvError, match="of another network: config"):
        open_backbone("test_resnet", weights=str(path), config=other)
    with pytest.raises(DynaconvError, match="'nowhere' is no file and no checkpoint; expected"):
        open_backbone("test_resnet", weights="nowhere")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"fc.weight": torch.rand(7, 3)}, foreign)
    with pytest.raises(CheckpointError, match=r"(?s)foreign\.safetensors'.*0 of the network's"):
        open_backbone("test_resnet", weights=str(foreign), config=KW)
    detector = tiny_detector(config=KW)
    save_checkpoint(tmp_path / "detector", detector, {"model": arguments(), "detector": {"kind": "mask_rcnn"}})
    with pytest.raises(CheckpointError, match="holds a detector, no classification network"):
        open_backbone("test_resnet", weights=str(tmp_path / "detector"))
    with pytest.raises(DynaconvError, match=r"backbone\.num_classes=4: leave it out"):
        build_detector(recipe(path, backbone={"num_classes": 4}), 3)
