"""Conversion: select layers of any network, plan, and put dynamic ones in their place."""

from dynaconv.convert import methods as _methods  # registers them
from dynaconv.convert.convert import convert, draft_plan, plan
from dynaconv.convert.gates import GateMethod
from dynaconv.convert.layers import LayerMethod
from dynaconv.convert.moments import recalibrate_norms
from dynaconv.convert.registry import config_from_dict, config_types, register_method
from dynaconv.convert.select import Where, find_candidates, select_layers
from dynaconv.convert.warm_start import (
    Init,
    Pretrained,
    WarmStart,
    WarmStartReport,
    holds_trained_weights,
    warm_start_report,
)

__all__ = [
    "GateMethod",
    "Init",
    "LayerMethod",
    "Pretrained",
    "WarmStart",
    "WarmStartReport",
    "Where",
    "config_from_dict",
    "config_types",
    "convert",
    "draft_plan",
    "find_candidates",
    "holds_trained_weights",
    "plan",
    "recalibrate_norms",
    "register_method",
    "select_layers",
    "warm_start_report",
]

del _methods
