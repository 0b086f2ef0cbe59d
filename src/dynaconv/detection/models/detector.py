"""Faster R-CNN and Mask R-CNN of torchvision's on any backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from dynaconv.config import MethodConfig
from dynaconv.convert import Where, config_from_dict
from dynaconv.detection.config import DetectionRecipe, DetectorConfig
from dynaconv.detection.models.backbone import PyramidBackbone
from dynaconv.detection.models.levels import find_levels
from dynaconv.detection.models.sources import IMAGENET_MEAN, IMAGENET_STD, open_backbone
from dynaconv.errors import DynaconvError, require
from dynaconv.training.data.sampling import seeded

RATIOS = (0.5, 1.0, 2.0)
"""Height by width of the anchors."""


def create_detector(
    model: str | nn.Module,
    *,
    num_classes: int,
    detector: DetectorConfig | None = None,
    config: MethodConfig | None = None,
    where: Where | None = None,
    features: Sequence[str] | None = None,
    backbone_classes: int = 1000,
    in_chans: int = 3,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    **backbone_kwargs: Any,
) -> nn.Module:
    """Make a detector: Faster R-CNN or Mask R-CNN with a feature pyramid.

    The backbone is made, converted and loaded as the classification network that it is, with its classifier, so that
    trained weights fit and warehouses are shared as they were; then the classifier is taken out.

    Args:
        model: name of the backbone (a preset, a model of timm), or a network, which becomes part of the detector:
            any ConvNet whose maps have the strides 4, 8, 16 and 32, converted or not.
        num_classes: kinds of objects, background not counted.
        detector: what stands on the backbone, and which weights it starts with.
        config: for a timm backbone: how to convert it.
        where: for a timm backbone with a config: which layers.
        features: modules whose outputs the pyramid stands on, finest first; found if None.
        backbone_classes: outputs of the backbone's classifier; that of a file of weights comes before it.
        in_chans: channels of an image.
        image_mean: what is taken from every channel; what the backbone was trained with if None.
        image_std: what every channel is divided by afterwards; as above.
        backbone_kwargs: further arguments of :func:`dynaconv.create_model`, e.g. ``drop_path_rate``.

    Returns:
        A detector with torchvision's calling convention: images ``list[(in_chans, H, W)]`` with values of 0 to 1, and
        in training targets (``boxes``, ``labels``, ``masks``), to a dictionary of losses; in evaluation to
        dictionaries of ``boxes (N, 4)``, ``labels (N,)``, 1 to ``num_classes``, ``scores (N,)`` and, with masks,
        ``masks (N, 1, H, W)``. Resizing and normalisation are inside (``detector.transform``).

    Raises:
        DynaconvError: if the network has no such maps, or arguments do not fit it.
        CheckpointError: if the weights do not fit the backbone.
        UnknownModelError: if there is no such model.

    Example:
        >>> import torch
        >>> detector = create_detector("test_resnet", num_classes=3, detector=DetectorConfig(image_size=64))
        >>> [sorted(found) for found in detector.eval()([torch.rand(3, 50, 60)])]
        [['boxes', 'labels', 'masks', 'scores']]
    """
    settings = detector or DetectorConfig()
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        raise DynaconvError(f"num_classes={num_classes!r}; expected the number of kinds of objects, at least 1")
    if isinstance(model, nn.Module):
        _refuse_for_modules(settings, config, where, backbone_kwargs)
        network, mean, std = model, None, None
    else:
        opened = open_backbone(
            model,
            weights=settings.weights,
            config=config,
            where=where,
            num_classes=backbone_classes,
            in_chans=in_chans,
            backbone_kwargs=backbone_kwargs,
        )
        network, mean, std = opened.network, opened.mean, opened.std
    levels = find_levels(network, features, in_chans)
    backbone = PyramidBackbone(
        network, levels, settings.pyramid_channels, settings.norms, freeze_stages=settings.freeze_stages
    )
    mean, std = _normalisation(image_mean or mean, image_std or std, in_chans)
    return _on(backbone, len(levels.names), settings, num_classes + 1, mean, std)


def build_detector(recipe: DetectionRecipe, num_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The detector of a recipe at its start, its backbone trained if the recipe says so.

    What images are normalised with stands in ``detector.transform.image_mean`` and ``image_std``.

    Args:
        recipe: ``model``, ``method``, ``where``, ``backbone``, ``detector`` and the seed of the start.
        num_classes: kinds of objects, background not counted.

    Returns:
        The detector, and the arguments of :func:`dynaconv.create_model` that make its backbone without weights, as
        plain types. To build the same detector again: :func:`create_detector` on the backbone that
        ``dynaconv.checkpoints.description.build`` makes of them, with ``weights=None``.

    Raises:
        DynaconvError: as :func:`create_detector`.
    """
    for name in ("num_classes", "in_chans"):
        if name in recipe.backbone:
            raise DynaconvError(f"backbone.{name}={recipe.backbone[name]}: leave it out; detectors decide it")
    with seeded(recipe.run.seed):
        opened = open_backbone(
            recipe.model,
            weights=recipe.detector.weights,
            config=None if recipe.method is None else config_from_dict(recipe.method),
            where=recipe.where,
            backbone_kwargs=recipe.backbone,
        )
        made = create_detector(
            opened.network,
            num_classes=num_classes,
            detector=replace(recipe.detector, weights=None),
            image_mean=opened.mean,
            image_std=opened.std,
        )
    return made, opened.arguments


def _refuse_for_modules(settings: DetectorConfig, config: Any, where: Any, backbone_kwargs: Any) -> None:
    """A network that is there already is neither made, nor converted, nor loaded."""
    given = [name for name, value in (("config", config), ("where", where)) if value is not None]
    given += [*backbone_kwargs, *(["detector.weights"] if settings.weights is not None else [])]
    if given:
        raise DynaconvError(
            f"a network was given together with {', '.join(given)}, which are for names of backbones; convert and load "
            "it first (dynaconv.convert, dynaconv.load_weights), then give it alone"
        )


def _normalisation(mean: Any, std: Any, in_chans: int) -> tuple[list[float], list[float]]:
    mean, std = list(mean or IMAGENET_MEAN), list(std or IMAGENET_STD)
    if len(mean) != in_chans or len(std) != in_chans:
        raise DynaconvError(
            f"image_mean={mean}, image_std={std} for in_chans={in_chans}; expected a value a channel of each: give both"
        )
    return mean, std


def _on(
    backbone: PyramidBackbone, levels: int, settings: DetectorConfig, outputs: int, mean: list[float], std: list[float]
) -> nn.Module:
    """A detector of torchvision's on a backbone; ``outputs`` are classes with background."""
    faster = require("torchvision.models.detection.faster_rcnn", "detection")
    mask = require("torchvision.models.detection.mask_rcnn", "detection")
    anchors = require("torchvision.models.detection.anchor_utils", "detection")
    ops = require("torchvision.ops", "detection")
    width, names = settings.pyramid_channels, [str(level) for level in range(levels)]
    sizes = tuple((settings.anchor_size * 2**level,) for level in range(levels + 1))
    pool = ops.MultiScaleRoIAlign(featmap_names=names, output_size=7, sampling_ratio=2)
    parts = {
        "min_size": settings.image_size,
        "max_size": settings.max_size,
        "image_mean": mean,
        "image_std": std,
        "rpn_anchor_generator": anchors.AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        "box_roi_pool": pool,
        "box_head": faster.TwoMLPHead(width * 7**2, settings.box_channels),
        "box_predictor": faster.FastRCNNPredictor(settings.box_channels, outputs),
        "box_score_thresh": settings.score_threshold,
        "box_nms_thresh": settings.nms_threshold,
        "box_detections_per_img": settings.detections,
        "box_batch_size_per_image": settings.box_samples,
        "rpn_post_nms_top_n_train": settings.proposals,
        "rpn_post_nms_top_n_test": settings.proposals,
    }
    if not settings.masks:
        return _places_in_float32(faster.FasterRCNN(backbone, **parts))
    channels = settings.mask_channels
    made = mask.MaskRCNN(
        backbone,
        mask_roi_pool=ops.MultiScaleRoIAlign(featmap_names=names, output_size=14, sampling_ratio=2),
        mask_head=mask.MaskRCNNHeads(width, (channels,) * 4, 1),
        mask_predictor=mask.MaskRCNNPredictor(channels, channels, outputs),
        **parts,
    )
    return _places_in_float32(made)


def _places_in_float32(detector: nn.Module) -> nn.Module:
    """Let boxes be computed in 32 bits under autocast: in bfloat16, places beyond 256 are whole pixels and coarser."""
    for name in ("rpn.head", "roi_heads.box_predictor"):
        detector.get_submodule(name).register_forward_hook(_widen)
    return detector


def _widen(module: nn.Module, inputs: Any, output: Any) -> Any:
    return tree_map(lambda tensor: tensor.to(torch.promote_types(tensor.dtype, torch.float32)), output)
