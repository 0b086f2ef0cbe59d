"""What a detector costs on a backbone: parameters, and multiply-adds on one image; nothing is computed.

A detector's own forward depends on what it finds. Counted is what MMDetection's counter runs: the backbone and the
pyramid on an image, the region proposals on five maps, the box head on 1,000 regions, the mask head on 100.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import dynaconv
from dynaconv.analysis.profile import Profile
from dynaconv.detection.config import DetectorConfig
from dynaconv.detection.models.detector import create_detector
from dynaconv.detection.models.papers import Kind
from dynaconv.models import get_preset, list_models

BOXES, MASKS = 1000, 100
"""Regions that box head and mask head are run on."""
IMAGE = (800, 1280)
CLASSES = 80


@dataclass(frozen=True, kw_only=True)
class DetectorCount:
    """A detector's figures.

    Args:
        kind: of the detector.
        backbone: a preset, or a model of timm.
        method: of the preset; None for a static network.
        parameters: of the detector as it is built here: without the backbone's classifier.
        trained: those that learn with norms "eval" and one stage frozen, as in the papers' detectors.
        added: parameters of the backbone beside the static one's, both without classifier.
        as_papers: parameters as the papers count: with the static backbone's classifier of 1,000 classes, which their
            backbones keep unused, and without the outputs for the background that torchvision's predictors have more.
        madds: multiply-adds.
        convolution: of these, of convolutions and matrix products.
        mixing: of these, of making kernels.
        attention: of these, of attention branches.
        added_madds: multiply-adds beside the static backbone's.
        elementwise: what MMDetection's counter adds: two for every value that a norm gives, one for every value that
            a ReLU gives, a pool takes, or a bias is added to; of static layers.
    """

    kind: Kind
    backbone: str
    method: str | None
    parameters: int
    trained: int
    added: int
    as_papers: int
    madds: int
    convolution: int
    mixing: int
    attention: int
    added_madds: int
    elementwise: int


class OneImage(nn.Module):
    """The parts of a detector in the order in which they run, without choosing regions.

    Args:
        detector: of torchvision's.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> None:
        """Run the parts on images, shape ``(B, C, H, W)``."""
        detector: Any = self.detector
        maps = list(detector.backbone(images).values())
        detector.rpn.head(maps)
        heads = detector.roi_heads
        heads.box_predictor(heads.box_head(maps[0].new_empty(BOXES, maps[0].shape[1], *heads.box_roi_pool.output_size)))
        if heads.has_mask():
            regions = maps[0].new_empty(MASKS, maps[0].shape[1], *heads.mask_roi_pool.output_size)
            heads.mask_predictor(heads.mask_head(regions))


def count_detector(kind: Kind, backbone: str) -> DetectorCount:
    """Count a detector of 80 classes on images of 1280 x 800 pixels.

    Args:
        kind: faster_rcnn or mask_rcnn.
        backbone: a preset, or a model of timm.

    Raises:
        UnknownModelError: if there is no such model.
        DynaconvError: if it has no stages.
    """
    preset = get_preset(backbone) if backbone in list_models() else None
    twin = backbone if preset is None else preset.backbone
    own, static = _count(kind, backbone), _count(kind, twin)
    return DetectorCount(
        kind=kind,
        backbone=backbone,
        method=None if preset is None else preset.config.method,
        parameters=own.parameters,
        trained=own.trained,
        added=own.parameters - static.parameters,
        as_papers=own.parameters + static.classifier - own.background,
        madds=own.profile.madds,
        convolution=own.profile.convolution,
        mixing=own.profile.mixing,
        attention=own.profile.attention,
        added_madds=own.profile.madds - static.profile.madds,
        elementwise=own.elementwise,
    )


@dataclass(frozen=True)
class _Counts:
    """A detector's own figures; ``classifier``: parameters that its backbone lost; ``background``: outputs for it."""

    parameters: int
    trained: int
    classifier: int
    background: int
    elementwise: int
    profile: Profile


@functools.lru_cache(maxsize=16)
def _count(kind: Kind, backbone: str) -> _Counts:
    with torch.device("meta"):
        network = dynaconv.create_model(backbone)
        whole = _parameters(network)
        settings = DetectorConfig(kind=kind, norms="eval", freeze_stages=1)
        detector: Any = create_detector(network, num_classes=CLASSES, detector=settings)
    heads: Any = detector.roi_heads
    background = 4 * (heads.box_head.fc7.out_features + 1)
    if heads.has_mask():
        background += heads.mask_predictor.mask_fcn_logits.in_channels + 1
    profile, elementwise = _profile(detector)
    return _Counts(
        parameters=_parameters(detector),
        trained=sum(p.numel() for p in detector.parameters() if p.requires_grad),
        classifier=whole - _parameters(detector.backbone.body),
        background=background,
        elementwise=elementwise,
        profile=profile,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _profile(detector: nn.Module) -> tuple[Profile, int]:
    """Multiply-adds, and what MMDetection's counter adds to them, see :class:`DetectorCount`."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, _BatchNorm | nn.LayerNorm):
            total += 2 * output.numel()
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            total += inputs[0].numel()
        elif isinstance(module, nn.ReLU | nn.ReLU6) or _adds_bias(module):
            total += output.numel()

    inside = {part for layer in dynaconv.dynamic_layers(detector) for part in layer.modules()}
    hooks = [module.register_forward_hook(count) for module in detector.modules() if module not in inside]
    try:
        counted = dynaconv.profile(OneImage(detector), (3, *IMAGE))
    finally:
        for hook in hooks:
            hook.remove()
    return counted, total


def _adds_bias(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None
