"""Recalibrated networks: SE, CBAM and ECA behind every block, as in the tables beside dynamic convolution."""

from __future__ import annotations

from dynaconv.config import MethodConfig
from dynaconv.models.preset import PaperResult, Preset
from dynaconv.nn import CBAMConfig, ECAConfig, SEConfig

TABLES = "KernelWarehouse paper, as quoted by later texts"
STEPS = "100 epochs"
CONFIGS: dict[str, MethodConfig] = {"se": SEConfig(), "cbam": CBAMConfig(), "eca": ECAConfig()}
NOTES = {
    "se": "Without biases, which gives the printed 28.07M for ResNet50 and 49.29M for ResNet101; with biases 28.09M.",
    "cbam": "By the paper's equations: no biases, no normalisation.",
    "eca": "Kernel size by the paper's rule.",
}
MOBILE = "Behind every block's projection; the tables have no such network."
# gate -> backbone -> parameters, and what the tables report: top-1, top-5, parameters in millions as printed
NETWORKS: dict[str, dict[str, tuple[int, tuple[float, float, float] | None]]] = {
    "se": {
        "resnet18": (11_776_552, (70.98, 90.03, 11.78)),
        "resnet34": (21_954_856, None),
        "resnet50": (28_071_976, (77.31, 93.63, 28.07)),
        "resnet101": (49_292_328, (78.42, 94.15, 49.29)),
        "mobilenetv2_100": (3_533_288, None),
        "mobilenetv2_075": (2_651_816, None),
        "mobilenetv2_050": (1_975_832, None),
    },
    "cbam": {
        "resnet18": (11_777_336, (71.01, 89.85, 11.78)),
        "resnet34": (21_956_424, None),
        "resnet50": (28_073_544, (77.46, 93.59, 28.07)),
        "resnet101": (49_295_562, (78.50, 94.20, 49.30)),
        "mobilenetv2_100": (3_534_954, None),
        "mobilenetv2_075": (2_653_482, None),
        "mobilenetv2_050": (1_977_498, None),
    },
    "eca": {
        "resnet18": (11_689_548, (70.60, 89.68, 11.69)),
        "resnet34": (21_797_746, None),
        "resnet50": (25_557_118, (77.34, 93.64, 25.56)),
        "resnet101": (44_549_331, (78.60, 94.34, 44.55)),
        "mobilenetv2_100": (3_504_931, None),
        "mobilenetv2_075": (2_636_477, None),
        "mobilenetv2_050": (1_968_733, None),
    },
}


def _reported(figures: tuple[float, float, float] | None) -> tuple[PaperResult, ...]:
    if figures is None:
        return ()
    top1, top5, millions = figures
    return (PaperResult(recipe=STEPS, top1=top1, top5=top5, params_millions=millions, source=TABLES),)


PRESETS: tuple[Preset, ...] = tuple(
    Preset(
        name=f"{gate}_{backbone}",
        backbone=backbone,
        config=CONFIGS[gate],
        params=params,
        results=_reported(figures),
        note=f"{MOBILE if 'mobile' in backbone else 'Behind every block.'} {NOTES[gate]}",
    )
    for gate, networks in NETWORKS.items()
    for backbone, (params, figures) in networks.items()
)
