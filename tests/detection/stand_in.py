"""A detector of torchvision's that finds many things, small and untrained, and one that knows the answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

CLASSES = ("cat", "dog", "tree")


def tiny_detector(masks: bool = True) -> nn.Module:
    """Random weights, a score threshold of 0: some detections in every image."""
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=16, padding=1), nn.ReLU())
    backbone.out_channels = 8
    pools = {"box_roi_pool": MultiScaleRoIAlign(["0"], 4, 1)}
    if masks:
        pools["mask_roi_pool"] = MultiScaleRoIAlign(["0"], 4, 1)
    detector = (MaskRCNN if masks else FasterRCNN)(
        backbone,
        len(CLASSES) + 1,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((24,),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_test=20,
        rpn_post_nms_top_n_test=20,
        box_score_thresh=0.0,
        box_detections_per_img=6,
        **pools,
    )
    return detector.eval()


class Knowing(nn.Module):
    """Says, of each image, what it is told: an image is known by the value of its first pixel."""

    def __init__(self, answers: dict[int, dict[str, Any]]) -> None:
        super().__init__()
        self.answers, self.weight = answers, nn.Parameter(torch.zeros(1))
        self.roi_heads = nn.Module()
        self.roi_heads.score_thresh = 0.05

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        return [self.answers[round(float(image[0, 0, 0]) * 255)] for image in images]


def description(masks: bool = True, **more: Any) -> dict[str, Any]:
    """What a checkpoint says."""
    kind = "mask_rcnn" if masks else "faster_rcnn"
    return {"classes": list(CLASSES), "category_ids": [2, 5, 9], "detector": {"kind": kind}, **more}
