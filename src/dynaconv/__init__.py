"""Dynamic convolution for PyTorch: KernelWarehouse as drop-in layers, and any network converted in one line.

Three verbs::

    plan  = dynaconv.plan(model, dynaconv.KernelWarehouseConfig(budget=0.5))  # printable: who shares what
    model = dynaconv.convert(model, plan)                                     # or convert(model, config)
    model = dynaconv.create_model("kw1x_resnet18", num_classes=10)            # a paper's network
"""

from dynaconv._version import __version__
from dynaconv.checkpoints import load_reference_checkpoint
from dynaconv.config import KernelWarehouseConfig, config_from_dict
from dynaconv.convert import convert, plan
from dynaconv.errors import DynaconvError, PlanWarning
from dynaconv.models import create_model, list_models
from dynaconv.nn import (
    KWConv1d,
    KWConv2d,
    KWConv3d,
    KWLinear,
    dynamic_layers,
    get_temperature,
    relink,
    set_temperature,
    temperature_at,
)
from dynaconv.planning import LayerSpec, Plan

__all__ = [
    "DynaconvError",
    "KWConv1d",
    "KWConv2d",
    "KWConv3d",
    "KWLinear",
    "KernelWarehouseConfig",
    "LayerSpec",
    "Plan",
    "PlanWarning",
    "__version__",
    "config_from_dict",
    "convert",
    "create_model",
    "dynamic_layers",
    "get_temperature",
    "list_models",
    "load_reference_checkpoint",
    "plan",
    "relink",
    "set_temperature",
    "temperature_at",
]
