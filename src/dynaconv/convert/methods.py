"""Every method of the library, registered with one line each."""

from __future__ import annotations

from dynaconv.config import KernelWarehouseConfig
from dynaconv.convert.gates import GateMethod
from dynaconv.convert.kernel_warehouse import KernelWarehouseMethod
from dynaconv.convert.layers import LayerMethod
from dynaconv.convert.registry import register_method
from dynaconv.nn import cgc, condconv, dcd, dyconv, fdconv, gates, odconv, weightnet

register_method(KernelWarehouseConfig, KernelWarehouseMethod())
register_method(odconv.ODConvConfig, LayerMethod(odconv.ODConv1d, odconv.ODConv2d, odconv.ODConv3d))
register_method(dyconv.DYConvConfig, LayerMethod(dyconv.DYConv1d, dyconv.DYConv2d, dyconv.DYConv3d))
register_method(
    condconv.CondConvConfig,
    LayerMethod(condconv.CondLinear, condconv.CondConv1d, condconv.CondConv2d, condconv.CondConv3d),
)
register_method(dcd.DCDConfig, LayerMethod(dcd.DCDLinear, dcd.DCDConv1d, dcd.DCDConv2d, dcd.DCDConv3d))
register_method(
    weightnet.WeightNetConfig,
    LayerMethod(weightnet.WeightNetConv1d, weightnet.WeightNetConv2d, weightnet.WeightNetConv3d),
)
register_method(cgc.CGCConfig, LayerMethod(cgc.CGConv1d, cgc.CGConv2d, cgc.CGConv3d))
register_method(fdconv.FDConvConfig, LayerMethod(fdconv.FDConv1d, fdconv.FDConv2d, fdconv.FDConv3d))
register_method(gates.SEConfig, GateMethod(gates.SE))
register_method(gates.CBAMConfig, GateMethod(gates.CBAM))
register_method(gates.ECAConfig, GateMethod(gates.ECA))
