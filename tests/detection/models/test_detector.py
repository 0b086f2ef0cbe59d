"""Detectors on backbones of every kind."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import set_checkpoint_early_stop

import dynaconv
from dynaconv.detection import create_detector
from dynaconv.errors import DynaconvError, UnknownModelError
from dynaconv.training.engine.activation_checkpointing import checkpoint_activations
from tests.detection.models.tiny import KW, METHODS, batch, settings, tiny_detector, train_step


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_whole_and_loads_strictly(method):
    arguments = {"config": METHODS[method], "where": None if method in ("static", "se", "cbam", "eca") else "layer4.*"}
    detector = tiny_detector(**arguments)
    losses = train_step(detector, 2)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert set(losses) >= {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    # What has no gradient would stop training on several processes.
    assert [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None] == []
    assert [name for name, p in detector.named_parameters() if not p.requires_grad] == []
    tiny_detector(**arguments).load_state_dict(detector.state_dict(), strict=True)


@pytest.mark.parametrize("model", ["test_convnext", "test_efficientnet", "test_byobnet"])
def test_one_image_trains(model):
    detector = tiny_detector(model, config=KW)
    train_step(detector)
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def test_a_loaded_detector_finds_the_same():
    detector, again = tiny_detector(config=KW), tiny_detector(config=KW)
    train_step(detector)
    again.load_state_dict(detector.state_dict(), strict=True)
    images, _ = batch(2)
    with torch.no_grad():
        found, same = detector.eval()(images), again.eval()(images)
    torch.testing.assert_close(found, same)


def test_outputs():
    detector = tiny_detector(detector=settings(score_threshold=0.0, detections=5)).eval()
    images, _ = batch(2)
    for image, found in zip(images, detector(images), strict=True):
        count = len(found["scores"])
        assert 0 < count <= 5
        assert found["boxes"].shape == (count, 4)
        assert found["masks"].shape == (count, 1, *image.shape[1:])
        assert set(found["labels"].tolist()) <= {1, 2, 3}
    boxes_alone = tiny_detector(detector=settings(kind="faster_rcnn")).eval()
    assert sorted(boxes_alone(images)[0]) == ["boxes", "labels", "scores"]


def test_settings_arrive():
    changes = {"anchor_size": 8, "nms_threshold": 0.3, "score_threshold": 0.2, "detections": 9, "mask_channels": 24}
    changes |= {"proposals": 40, "box_samples": 12}
    detector = tiny_detector(detector=settings(**changes), image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6))
    assert detector.rpn.anchor_generator.sizes == ((8,), (16,), (32,), (64,), (128,))
    heads = detector.roi_heads
    assert (heads.nms_thresh, heads.score_thresh, heads.detections_per_img) == (0.3, 0.2, 9)
    assert heads.mask_head[0][0].out_channels == 24
    assert heads.fg_bg_sampler.batch_size_per_image == 12
    assert detector.rpn._post_nms_top_n == {"training": 40, "testing": 40}
    assert (detector.transform.min_size, detector.transform.max_size) == ((64,), 96)
    assert detector.transform.image_mean == [0.1, 0.2, 0.3]
    assert detector.transform.image_std == [0.4, 0.5, 0.6]


def test_temperature_reaches_the_backbone():
    detector = tiny_detector(config=KW)
    dynaconv.set_temperature(detector, 0.4)
    found = [layer.get_temperature() for layer in dynaconv.dynamic_layers(detector.backbone)]
    assert found == pytest.approx([0.4] * 12)


def test_modules_of_torchvision():
    made = torchvision.models.resnet18(weights=None, num_classes=5)
    dynaconv.convert(made, dynaconv.KernelWarehouseConfig(budget=0.5))
    detector = tiny_detector(made)
    assert detector.backbone.level_names == ("layer1.1", "layer2.1", "layer3.1", "layer4.1")
    train_step(detector)
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def test_copies_and_pickles_run_on_their_own():
    detector = tiny_detector(config=KW).eval()
    images = torch.rand(1, 3, 64, 64)
    expected = [map.detach() for map in detector.backbone.levels(images)]
    for other in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        torch.testing.assert_close([map.detach() for map in other.backbone.levels(images)], expected)
        assert detector.backbone._taken.maps == {}
        assert other.backbone._taken is not detector.backbone._taken


def test_activations_may_be_computed_again():
    detector = tiny_detector(detector=settings(norms="eval"))
    again = copy.deepcopy(detector)
    checkpoint_activations(again.backbone.body)
    for each in (detector, again):
        torch.manual_seed(0)
        with set_checkpoint_early_stop(False):  # blocks run to their ends a second time
            train_step(each)
    assert again.backbone._taken.maps == {}  # nothing of the second forward lies about
    gradients = [dict(each.named_parameters())["backbone.body.conv1.0.weight"].grad for each in (detector, again)]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_backbone_is_one_graph():
    backbone = tiny_detector(config=KW, where="layer4.*").eval().backbone
    images = torch.rand(1, 3, 64, 96)
    expected = {name: map.detach() for name, map in backbone(images).items()}
    compiled = torch.compile(backbone, backend="eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        torch.testing.assert_close(dict(compiled(images)), expected)


def test_errors():
    with pytest.raises(DynaconvError, match=r"VisionTransformer has no stage that ends at stride 4.*strides \[16\]"):
        tiny_detector("test_vit")
    with pytest.raises(DynaconvError, match=r"Sequential is no backbone for a detector.*expected a ConvNet"):
        tiny_detector(nn.Sequential(nn.Flatten(), nn.Linear(7, 7)))
    with pytest.raises(DynaconvError, match=r"Sequential has no stage that ends at stride 4.*features="):
        tiny_detector(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)))
    with pytest.raises(DynaconvError, match=r"num_classes=0; expected"):
        create_detector("test_resnet", num_classes=0)
    with pytest.raises(DynaconvError, match=r"together with config, drop_path_rate"):
        tiny_detector(nn.Sequential(), config=KW, drop_path_rate=0.1)
    with pytest.raises(DynaconvError, match=r"for in_chans=1; expected a value a channel"):
        tiny_detector(in_chans=1)
    with pytest.raises(UnknownModelError):
        create_detector("kw9x_resnet18", num_classes=1)
