"""Synchronised norms in one process; what several do is in tests/distributed."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import timm
import torch
from torch import nn

import dynaconv
from dynaconv.convert import config_types
from dynaconv.errors import DynaconvError
from dynaconv.nn.norm import BranchBatchNorm
from dynaconv.nn.synchronised import SynchronisedBatchNorm, SynchronisedBranchNorm, synchronise_norms
from tests.distributed.networks import make_config
from tests.nn.cases import animate


def network(backbone: str = "resnet18", method: str = "kernel_warehouse", **options) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=4, **options)
    return animate(dynaconv.convert(model, make_config(method, 0)))


def thin(method: str = "kernel_warehouse") -> nn.Module:
    return network(method=method, channels=[8, 8, 16, 16], stem_width=8)


@pytest.mark.parametrize("method", [*config_types()])
def test_it_stays_the_same_network(method):
    images = torch.randn(3, 3, 32, 32)
    plain, model = thin(method), synchronise_norms(thin(method))
    left = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert {type(m) for m in left} <= {SynchronisedBatchNorm, SynchronisedBranchNorm}
    assert [*model.state_dict()] == [*plain.state_dict()]
    assert [*map(id, model.parameters())] == [*map(id, synchronise_norms(model).parameters())]
    torch.testing.assert_close(model(images), plain(images), rtol=0, atol=0)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in copied.modules()] == [type(m) for m in model.modules()]
        torch.testing.assert_close(copied(images), model(images), rtol=0, atol=0)
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.eval()(images), plain.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize(("backbone", "options"), [("resnet18", {"channels": [8, 8, 16, 16]}), ("mobilenetv2_035", {})])
def test_inference_folds_what_it_folded(backbone, options):
    plain, model = network(backbone, **options), synchronise_norms(network(backbone, **options))
    images = torch.randn(2, 3, 32, 32)
    expected = model.eval()(images)
    for each in (plain, model):
        dynaconv.prepare_inference(each)
    assert dynaconv.inference_report(model).norms == dynaconv.inference_report(plain).norms != {}
    assert not dynaconv.inference_report(model).kept
    with torch.inference_mode():
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert not dynaconv.inference_report(synchronise_norms(plain)).norms


def test_checkpoints_and_conversion(tmp_path):
    model = timm.create_model("resnet18", num_classes=4, channels=[8, 8, 16, 16])
    model(torch.randn(8, 3, 32, 32))
    images, before = torch.randn(2, 3, 32, 32), copy.deepcopy(model).eval()
    dynaconv.convert(synchronise_norms(model), dynaconv.SEConfig(), init="pretrained")
    torch.testing.assert_close(model.eval()(images), before(images), rtol=1e-4, atol=1e-4)
    fresh = dynaconv.convert(copy.deepcopy(before), dynaconv.SEConfig())
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    dynaconv.load_weights(fresh, tmp_path / "weights.pth")
    torch.testing.assert_close(fresh.eval()(images), model(images), rtol=0, atol=0)


def test_a_norm_that_acts():
    model = network("mobilenetv2_035")
    images = torch.randn(2, 3, 32, 32)
    expected = copy.deepcopy(model)(images)
    torch.testing.assert_close(synchronise_norms(model)(images), expected, rtol=0, atol=0)


def test_a_branch_takes_one_image_and_a_plain_norm_does_not():
    branch, plain = (synchronise_norms(nn.Sequential(n)) for n in (animate(BranchBatchNorm(3)), nn.BatchNorm1d(3)))
    image = torch.randn(1, 3)
    torch.testing.assert_close(branch(image), branch.eval()(image))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        plain(image)
    with pytest.raises(ValueError, match=r"at least 2 dimensions.*\(3,\)"):
        plain(torch.randn(3))


def test_a_forward_of_its_own_is_refused():
    class Halved(nn.BatchNorm2d):
        def forward(self, input):
            return super().forward(input) / 2

    model = nn.Sequential(nn.BatchNorm2d(3), Halved(3))
    with pytest.raises(DynaconvError, match="1 is a Halved, a BatchNorm with a forward of its own"):
        synchronise_norms(model)
    assert type(model[0]) is nn.BatchNorm2d


def test_torchs_own_is_left_alone():
    model = synchronise_norms(nn.Sequential(nn.SyncBatchNorm(3)))
    assert type(model[0]) is nn.SyncBatchNorm


def test_cuda_takes_torchs_kernels():
    """As far as that can be seen without a GPU: what torch's forward hands to them is this norm's own."""
    norm = synchronise_norms(nn.Sequential(nn.BatchNorm2d(3)))[0]
    images = mock.MagicMock(spec=torch.Tensor, is_cuda=True, device=mock.Mock(type="cuda"))
    images.dim.return_value, images.size.return_value = 4, 3
    with (
        mock.patch("dynaconv.nn.synchronised.count_processes", return_value=2),
        mock.patch("torch.distributed.is_initialized", return_value=True),
        mock.patch("torch.distributed.is_available", return_value=True),
        mock.patch("torch.distributed.get_world_size", return_value=2),
        mock.patch("torch.nn.modules.batchnorm.sync_batch_norm") as kernels,
    ):
        assert norm(images) is kernels.apply.return_value
    given = kernels.apply.call_args.args
    assert given[0] is images
    assert given[1] is norm.weight
    assert given[3] is norm.running_mean
    assert norm.num_batches_tracked == 1
