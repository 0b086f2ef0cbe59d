"""Blocks that a framework fuses by type, written as ultralytics writes them, and heads known by their class."""

import copy
import pickle

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.nn.unfused import UnfusedConv

CONFIGS = [dynaconv.KernelWarehouseConfig(), dynaconv.ODConvConfig(), dynaconv.SEConfig()]


class Conv(nn.Module):
    def __init__(self, c1, c2, k=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, padding=k // 2, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


class RepConv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.conv2, self.act = Conv(c, c, 3), Conv(c, c, 1), nn.SiLU()

    def forward(self, x):
        return self.act(self.conv1(x) + self.conv2(x))


class Detect(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.cv2 = nn.Sequential(Conv(c, c, 3), nn.Conv2d(c, 4, 1))

    def forward(self, x):
        return self.cv2(x)


class Segment(Detect):
    pass


class MaskHead(nn.Conv2d):
    pass


class Yolo(nn.Module):
    def __init__(self):
        super().__init__()
        stages = [nn.Sequential(Conv(16, 16, 3), Conv(16, 16, 1)), nn.Sequential(Conv(16, 32, 3), Conv(32, 32, 1))]
        self.model = nn.Sequential(Conv(3, 16, 3), *stages, RepConv(32), Segment(32), MaskHead(4, 2, 1))

    def forward(self, x):
        return self.model(x)

    def fuse(self):
        for m in self.modules():
            if isinstance(m, Conv) and hasattr(m, "bn"):
                scale = m.bn.weight / (m.bn.running_var + m.bn.eps).sqrt()
                m.conv.bias = nn.Parameter(m.bn.bias - m.bn.running_mean * scale)
                m.conv.weight = nn.Parameter(m.conv.weight * scale.view(-1, 1, 1, 1))
                del m.bn
                m.forward = m.forward_fuse
        return self


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_a_framework_fuses_what_is_static_and_leaves_the_rest(config):
    model = Yolo()
    norms = {name for name in model.state_dict() if ".bn." in name}
    model = dynaconv.convert(model, config)
    x = torch.randn(2, 3, 8, 8)
    model.train()(x)
    fused = copy.deepcopy(model).eval().fuse()
    unfused = [name for name, module in fused.named_modules() if isinstance(module, UnfusedConv)]
    assert unfused
    assert all(hasattr(fused.get_submodule(name), "bn") for name in unfused)
    assert not hasattr(fused.model[0], "bn")
    torch.testing.assert_close(fused(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    if config.method != "se":  # gates stand around what they follow
        assert norms <= set(model.state_dict())
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(again(x), model(x))


def test_blocks_that_read_a_weight_to_fuse_it_keep_it():
    plan = dynaconv.plan(Yolo(), dynaconv.ODConvConfig())
    refused = dict(plan.refused)
    assert {name for name in refused if "model.3" in name} == {"model.3.conv1.conv", "model.3.conv2.conv"}
    assert "its parent, a RepConv, reads its weight" in refused["model.3.conv1.conv"]


def test_heads_are_known_by_their_class():
    """And by those it inherits from; ultralytics numbers its modules, so that no name tells."""
    plan = dynaconv.plan(Yolo(), dynaconv.ODConvConfig())
    assert {"model.4.cv2.0.conv", "model.4.cv2.1"} <= set(plan.left_static)
    assert not [layer.name for layer in plan.layers if layer.name.startswith(("model.4", "model.5"))]
    assert dynaconv.plan(Yolo(), dynaconv.ODConvConfig(), where="model.4").layers
    whole = dynaconv.plan(nn.Sequential(Segment(32)), dynaconv.ODConvConfig(), where="*")
    assert len(whole.layers) == 2


def test_the_networks_own_class_is_no_head():
    class TwoConvHead(nn.Sequential):
        pass

    model = TwoConvHead(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    assert [layer.name for layer in dynaconv.plan(model, dynaconv.ODConvConfig()).layers] == ["1"]


def test_a_block_of_another_kind_stays_what_it_is():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.act = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()

        def forward(self, x):
            return self.act(self.bn(self.conv(x)))

    model = dynaconv.convert(nn.Sequential(nn.Conv2d(3, 8, 3), Plain(), Plain()), dynaconv.ODConvConfig())
    assert type(model[1]) is Plain
