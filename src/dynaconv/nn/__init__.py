"""Dynamic layers: drop-in replacements for torch.nn's convolutions and linear layer."""

from dynaconv.nn.base import DynamicLayer, LayerStart
from dynaconv.nn.block import BlockBranch, SharesBlockBranch
from dynaconv.nn.cgc import CGCConfig, CGConv1d, CGConv2d, CGConv3d
from dynaconv.nn.condconv import CondConv1d, CondConv2d, CondConv3d, CondConvConfig, CondLinear
from dynaconv.nn.conv import DynamicConvNd
from dynaconv.nn.dcd import DCDConfig, DCDConv1d, DCDConv2d, DCDConv3d, DCDLinear
from dynaconv.nn.dyconv import DYConv1d, DYConv2d, DYConv3d, DYConvConfig
from dynaconv.nn.fdconv import FDConv1d, FDConv2d, FDConv3d, FDConvConfig
from dynaconv.nn.gates import CBAM, ECA, SE, CBAMConfig, ECAConfig, Gate, Gated, SEConfig
from dynaconv.nn.inference import InferenceReport, inference_report, prepare_inference, restore_training
from dynaconv.nn.kernel_warehouse import KWConv1d, KWConv2d, KWConv3d, KWLinear
from dynaconv.nn.linear import DynamicLinear
from dynaconv.nn.method import MethodConvNd, MethodLinear, Noise
from dynaconv.nn.network import (
    check_linked,
    dynamic_layers,
    get_temperature,
    relink,
    schedule_temperature,
    set_temperature,
    temperature_at,
)
from dynaconv.nn.observing import attending_layers, watching
from dynaconv.nn.odconv import ODConv1d, ODConv2d, ODConv3d, ODConvConfig
from dynaconv.nn.router import CellRouter
from dynaconv.nn.synchronised import synchronise_norms
from dynaconv.nn.warehouse import Warehouse, Warehouses
from dynaconv.nn.weightnet import WeightNetConfig, WeightNetConv1d, WeightNetConv2d, WeightNetConv3d

__all__ = [
    "CBAM",
    "ECA",
    "SE",
    "BlockBranch",
    "CBAMConfig",
    "CGCConfig",
    "CGConv1d",
    "CGConv2d",
    "CGConv3d",
    "CellRouter",
    "CondConv1d",
    "CondConv2d",
    "CondConv3d",
    "CondConvConfig",
    "CondLinear",
    "DCDConfig",
    "DCDConv1d",
    "DCDConv2d",
    "DCDConv3d",
    "DCDLinear",
    "DYConv1d",
    "DYConv2d",
    "DYConv3d",
    "DYConvConfig",
    "DynamicConvNd",
    "DynamicLayer",
    "DynamicLinear",
    "ECAConfig",
    "FDConv1d",
    "FDConv2d",
    "FDConv3d",
    "FDConvConfig",
    "Gate",
    "Gated",
    "InferenceReport",
    "KWConv1d",
    "KWConv2d",
    "KWConv3d",
    "KWLinear",
    "LayerStart",
    "MethodConvNd",
    "MethodLinear",
    "Noise",
    "ODConv1d",
    "ODConv2d",
    "ODConv3d",
    "ODConvConfig",
    "SEConfig",
    "SharesBlockBranch",
    "Warehouse",
    "Warehouses",
    "WeightNetConfig",
    "WeightNetConv1d",
    "WeightNetConv2d",
    "WeightNetConv3d",
    "attending_layers",
    "check_linked",
    "dynamic_layers",
    "get_temperature",
    "inference_report",
    "prepare_inference",
    "relink",
    "restore_training",
    "schedule_temperature",
    "set_temperature",
    "synchronise_norms",
    "temperature_at",
    "watching",
]
