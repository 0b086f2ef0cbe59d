"""The networks of the ODConv paper (Li, Zhou and Yao, ICLR 2022), to the last parameter of the authors' public code.

Parameters of the networks that the authors trained were counted by building their code; the others follow its rules.
"""

from __future__ import annotations

from dynaconv.models.preset import PaperResult, Preset
from dynaconv.nn import ODConvConfig

README = "ODConv README, a re-implementation by its authors"
PAPER = "ODConv paper (ICLR 2022), as quoted by later texts"
STEPS = "100 epochs"
COSINE = "150 epochs"
NO_SHORTCUT = ("!*.downsample.*",)
V1 = (
    "Multiply-adds in the paper are those of the original ResNet, which strides in its first 1x1 convolutions: "
    "create_model(..., v1_stride=True) builds it."
)


def _both(reproduced: tuple[float, float, float], paper: tuple[float, float, float]) -> tuple[PaperResult, ...]:
    """The README's figures and the paper's: top-1, top-5, parameters in millions as printed."""
    return _reported(*reproduced, COSINE), _reported(*paper, COSINE, PAPER)


def _reported(top1: float, top5: float | None, millions: float, recipe: str, source: str = README) -> PaperResult:
    return PaperResult(recipe=recipe, top1=top1, top5=top5, params_millions=millions, source=source)


def _resnet(depth: int, kernels: int, params: int, *results: PaperResult) -> Preset:
    note = "" if results else "Not among the networks that the authors trained; built by the same rules."
    return Preset(
        name=f"od{kernels}x_resnet{depth}",
        backbone=f"resnet{depth}",
        config=ODConvConfig(num_kernels=kernels),
        where=NO_SHORTCUT,
        params=params,
        results=results,
        note=" ".join(part for part in (note, V1 if depth >= 50 else "") if part),
    )


def _mobilenet(width: str, kernels: int, params: int, *results: PaperResult) -> Preset:
    return Preset(
        name=f"od{kernels}x_mobilenetv2_{width}",
        backbone=f"mobilenetv2_{width}",
        config=ODConvConfig(num_kernels=kernels),
        params=params,
        results=results,
        note="" if results else "Not among the networks that the authors trained; built by the same rules.",
    )


PRESETS: tuple[Preset, ...] = (
    _resnet(18, 1, 11_943_944, _reported(73.05, 91.05, 11.94, STEPS)),
    _resnet(18, 2, 22_930_056),
    _resnet(
        18,
        4,
        44_901_640,
        _reported(74.19, 91.47, 44.90, STEPS),
        _reported(73.97, 91.35, 44.90, STEPS, PAPER),
    ),
    _resnet(34, 1, 22_290_168),
    _resnet(34, 2, 43_377_624),
    _resnet(34, 4, 85_551_288),
    _resnet(50, 1, 28_635_112, _reported(77.87, 93.77, 28.64, STEPS)),
    _resnet(50, 2, 49_314_696),
    _resnet(
        50,
        4,
        90_670_888,
        _reported(78.50, 93.99, 90.67, STEPS),
        _reported(78.52, 94.01, 90.67, STEPS, PAPER),
    ),
    _resnet(101, 1, 50_818_769, _reported(78.84, 94.27, 50.82, STEPS)),
    _resnet(
        101,
        2,
        90_441_623,
        _reported(79.15, 94.34, 90.44, STEPS),
        _reported(79.27, 94.47, 90.44, STEPS, PAPER),
    ),
    _resnet(101, 4, 169_680_989),
    _mobilenet("100", 1, 4_940_185, *_both((74.74, 91.95, 4.94), (74.84, 92.13, 4.94))),
    _mobilenet("100", 2, 7_131_719),
    _mobilenet("100", 4, 11_512_149, *_both((75.29, 92.18, 11.51), (75.42, 92.18, 11.52))),
    _mobilenet("075", 1, 3_507_113, *_both((72.71, 90.85, 3.51), (72.43, 90.82, 3.51))),
    _mobilenet("075", 2, 4_837_495),
    _mobilenet("075", 4, 7_496_013, *_both((74.01, 91.37, 7.50), (73.81, 91.33, 7.50))),
    _mobilenet("050", 1, 2_425_537, *_both((68.06, 87.67, 2.43), (68.26, 87.98, 2.43))),
    _mobilenet("050", 2, 3_096_167),
    _mobilenet("050", 4, 4_435_501, *_both((70.23, 88.86, 4.44), (70.01, 89.01, 4.44))),
)
