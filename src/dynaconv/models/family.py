"""The methods that the ODConv and KernelWarehouse papers compare with, on the layers that their tables imply.

Which layers are dynamic follows from the printed parameters; a preset's note says where a source is silent or another
count exists. Accuracies are those that the two papers report, as quoted by later texts, unless a source says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynaconv.config import MethodConfig
from dynaconv.models.preset import PaperResult, Preset
from dynaconv.nn import (
    CGCConfig,
    CondConvConfig,
    DCDConfig,
    DYConvConfig,
    FDConvConfig,
    WeightNetConfig,
)

TABLES = "ODConv and KernelWarehouse papers, as quoted by later texts"
TPU = "README of the authors' TensorFlow code"
STEPS = "100 epochs"
COSINE = "150 epochs"

LAST_THREE = {18: ("layer3.1", "layer4", "!*.downsample.*", "fc")}
LAST_STAGE = ("layer4", "!*.downsample.*", "fc")
LAST_SIX = ("blocks.4.[12]", "blocks.[56]", "classifier")
NO_BIAS = {"classifier_bias": False}
POINTWISE = ("blocks.[1-6].*.conv_pw", "blocks.[1-6].*.conv_pwl", "classifier")
LAST_GROUPS = ("blocks.[456].*.conv_pw", "blocks.[456].*.conv_dw", "blocks.[456].*.conv_pwl")

DY_NOTE = "Every convolution but the stem, shortcuts included; the DY-Conv paper itself prints fewer parameters."
COND_NOTE = "The last three residual blocks without shortcuts, and a classifier without bias; one routing a block."
COND_MOBILE = "The last six blocks and a classifier without bias, as in a public PyTorch version; one routing a block."
WEIGHT_NOTE = (
    "One reduction a block, as in the authors' code, shortcuts included, M = G = 2. The papers print 11.93M for "
    "ResNet18, which no variant tried gives (11.92M here; 11.94M with a reduction a layer and static shortcuts)."
)
FD_NOTE = "Every convolution of the blocks but shortcuts, as in the authors' ResNet; the paper is on dense prediction."
CGC_NOTE = "Every kernel larger than 1x1, the stem included, by the authors' layer; tables print 11.69M for ResNet18."


def _table(top1: float, top5: float, millions: float | None, recipe: str, source: str = TABLES) -> PaperResult:
    return PaperResult(recipe=recipe, top1=top1, top5=top5, params_millions=millions, source=source)


def _preset(
    name: str,
    backbone: str,
    config: MethodConfig,
    params: int,
    where: tuple[str, ...] | None,
    note: str,
    results: tuple[PaperResult, ...] = (),
    backbone_kwargs: Mapping[str, Any] | None = None,
) -> Preset:
    return Preset(
        name=f"{name}_{backbone.removeprefix('tf_')}",
        backbone=backbone,
        config=config,
        where=where,
        params=params,
        results=results,
        note=note,
        backbone_kwargs=backbone_kwargs or {},
    )


def _dyconv() -> tuple[Preset, ...]:
    def make(backbone: str, params: int, *results: PaperResult) -> Preset:
        return _preset("dy4x", backbone, DYConvConfig(num_kernels=4), params, None, DY_NOTE, results)

    return (
        make("resnet18", 45_472_052, _table(72.76, 90.79, 45.47, STEPS)),
        make("resnet34", 86_167_700),
        make(
            "resnet50",
            100_878_072,
            _table(79.00, 94.27, 100.88, "300 epochs, ConvNeXt recipe"),
        ),
        make("resnet101", 181_736_260),
        make("mobilenetv2_100", 12_404_540, _table(74.94, 91.83, 12.40, COSINE)),
        make("mobilenetv2_075", 7_948_422, _table(72.75, 90.93, 7.95, COSINE)),
        make("mobilenetv2_050", 4_567_338, _table(69.05, 88.37, 4.57, COSINE)),
    )


def _condconv() -> tuple[Preset, ...]:
    def resnet(depth: int, params: int, *results: PaperResult) -> Preset:
        where = LAST_THREE.get(depth, LAST_STAGE)
        return _preset("cond8x", f"resnet{depth}", CondConvConfig(), params, where, COND_NOTE, results, NO_BIAS)

    def mobilenet(width: str, params: int, *results: PaperResult) -> Preset:
        name = f"mobilenetv2_{width}"
        return _preset("cond8x", name, CondConvConfig(), params, LAST_SIX, COND_MOBILE, results, NO_BIAS)

    def efficientnet(size: str, experts: int, params: int, *results: PaperResult) -> Preset:
        config = CondConvConfig(num_experts=experts)
        note = "timm's tf_efficientnet_cc, whose published weights load with load_reference_checkpoint."
        if size == "b1":
            note += " The authors call it CondConv-B0-Depth: B0 with 1.1 times the layers."
        return _preset(f"cond{experts}x", f"tf_efficientnet_{size}", config, params, LAST_GROUPS, note, results)

    def tpu(top1: float, millions: float) -> PaperResult:
        return PaperResult(recipe="authors' TPU training", top1=top1, params_millions=millions, source=TPU)

    return (
        resnet(18, 81_345_120, _table(71.99, 90.27, 81.35, STEPS)),
        resnet(34, 116_227_936),
        resnet(50, 129_864_800),
        resnet(101, 148_856_928),
        mobilenet("100", 22_877_496, _table(74.13, 91.67, 22.88, COSINE)),
        mobilenet("075", 17_513_176, _table(71.79, 90.17, 17.51, COSINE)),
        mobilenet("050", 13_612_920, _table(67.24, 87.51, 13.61, COSINE)),
        efficientnet("b0", 4, 13_314_116, tpu(77.8, 13.3)),
        efficientnet("b0", 8, 24_013_284, tpu(78.3, 24.0)),
        efficientnet("b1", 8, 39_715_968, tpu(79.5, 39.7)),
    )


def _dcd() -> tuple[Preset, ...]:
    note = "As the authors' code, dynamic classifier included."

    def resnet(depth: int, params: int, *results: PaperResult) -> Preset:
        config = DCDConfig(layout="basic" if depth < 50 else "bottleneck")
        return _preset("dcd", f"resnet{depth}", config, params, ("!*.downsample.*", "fc"), note, results)

    def mobilenet(width: str, squeeze: int, params: int, *results: PaperResult) -> Preset:
        config = DCDConfig(layout="mobile", squeeze=squeeze)
        text = f"{note} The printed parameters imply a squeeze of {squeeze}."
        return _preset("dcd", f"mobilenetv2_{width}", config, params, POINTWISE, text, results)

    return (
        resnet(18, 14_703_332, _table(72.33, 90.65, 14.70, STEPS)),
        resnet(34, 27_649_068),
        resnet(50, 29_835_056),
        resnet(101, 53_227_056),
        mobilenet("100", 16, 5_720_028, _table(74.18, 91.72, 5.72, COSINE)),
        mobilenet("075", 16, 4_081_621, _table(71.92, 90.20, 4.08, COSINE)),
        mobilenet("050", 8, 3_056_616, _table(69.32, 88.44, 3.06, COSINE)),
    )


def _weightnet() -> tuple[Preset, ...]:
    def make(backbone: str, params: int, *results: PaperResult) -> Preset:
        return _preset("weightnet", backbone, WeightNetConfig(), params, None, WEIGHT_NOTE, results)

    return (
        make("resnet18", 11_915_192, _table(71.56, 90.38, None, STEPS)),
        make("resnet34", 22_220_360),
        make("resnet50", 30_215_784),
        make("resnet101", 53_717_672),
        make("mobilenetv2_100", 3_998_764),
        make("mobilenetv2_075", 3_014_848),
        make("mobilenetv2_050", 2_234_616),
    )


def _cgc() -> tuple[Preset, ...]:
    def make(backbone: str, params: int, *results: PaperResult) -> Preset:
        where = ("conv_stem", "*.conv_dw") if "mobile" in backbone else ("conv1", "*.conv[12]")
        if backbone in ("resnet50", "resnet101"):
            where = ("conv1", "*.conv2")
        return _preset("cgc", backbone, CGCConfig(), params, where, CGC_NOTE, results)

    return (
        make("resnet18", 11_721_791, _table(71.60, 90.35, None, STEPS)),
        make("resnet34", 21_858_479),
        make("resnet50", 25_589_951),
        make("resnet101", 44_614_838),
        make("mobilenetv2_100", 3_554_642),
        make("mobilenetv2_075", 2_676_346),
        make("mobilenetv2_050", 1_997_250),
    )


def _fdconv() -> tuple[Preset, ...]:
    def make(backbone: str, params: int, note: str = "") -> Preset:
        where = None if "mobile" in backbone else ("!*.downsample.*",)
        return _preset("fd", backbone, FDConvConfig(), params, where, f"{FD_NOTE} {note}".strip())

    return (
        make("resnet18", 12_258_712),
        make("resnet34", 22_921_432),
        make("resnet50", 29_204_152, "3.6M more than the static network, as its abstract says."),
        make("resnet101", 52_048_378),
        make("mobilenetv2_100", 5_332_009),
        make("mobilenetv2_075", 3_812_265),
        make("mobilenetv2_050", 2_599_378),
    )


PRESETS: tuple[Preset, ...] = (*_dyconv(), *_condconv(), *_dcd(), *_weightnet(), *_cgc(), *_fdconv())
