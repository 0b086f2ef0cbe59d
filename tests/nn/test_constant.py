"""Tensors that follow from sizes: on the device they are asked for, and with no copy of what never changes."""

import copy
import pickle

import pytest
import torch

import dynaconv
from dynaconv.nn.constant import Constant


def test_it_is_on_the_device_it_is_asked_for():
    constant = Constant(torch.arange(3))
    assert constant.on(torch.device("cpu")) is constant.value
    assert constant.on(torch.device("meta")).is_meta
    assert constant.on(torch.device("cpu")) is constant.value  # what has no memory is not kept


def test_copies_share_it_and_pickles_hold_it():
    constant = Constant(torch.arange(3))
    assert copy.deepcopy(constant) is constant
    assert pickle.loads(pickle.dumps(constant)).on(torch.device("cpu")).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda device: dynaconv.KWConv2d(8, 8, 3, config=dynaconv.KernelWarehouseConfig(budget=2), device=device),
        lambda device: dynaconv.KWConv2d(8, 8, 3, config=dynaconv.KernelWarehouseConfig(sharing="none"), device=device),
        lambda device: dynaconv.FDConv2d(8, 8, 3, num_kernels=4, param_reduction=0.5, device=device),
    ],
    ids=["beta", "columns", "frequencies"],
)
def test_a_layer_made_without_memory_compiles_at_its_first_call(make):
    full, bare = make("cpu").eval(), make("meta").eval().to_empty(device="cpu")
    bare.load_state_dict(full.state_dict())
    for layer in (full, bare):
        layer.set_temperature(0.5)
    x = torch.randn(2, 8, 5, 5)
    torch.compiler.reset()
    compiled = torch.compile(bare, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), full(x))
    torch.testing.assert_close(bare(x), full(x))
