"""Conversion: select layers of any network, plan, and put dynamic ones in their place."""

from dynaconv.convert import methods as _methods  # registers them
from dynaconv.convert.convert import convert, draft_plan, plan
from dynaconv.convert.gates import GateMethod
from dynaconv.convert.layers import LayerMethod
from dynaconv.convert.registry import config_from_dict, config_types, register_method
from dynaconv.convert.select import Where, find_candidates, select_layers

__all__ = [
    "GateMethod",
    "LayerMethod",
    "Where",
    "config_from_dict",
    "config_types",
    "convert",
    "draft_plan",
    "find_candidates",
    "plan",
    "register_method",
    "select_layers",
]

del _methods
