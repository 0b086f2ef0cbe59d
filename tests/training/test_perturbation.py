"""Parts of networks, and what they are worth with other attention."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv import DynaconvError
from dynaconv.analysis.attention import PERTURBATIONS, collect_attention
from dynaconv.training.perturbation import join_lone, perturbation_study, perturbation_table, scopes, stages


def batches_of(*sizes):
    return [(torch.full((size, 1), float(i)), torch.full((size,), i)) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "joined"),
    [
        ((3, 3, 1), [3, 4]),
        ((1, 3, 2), [4, 2]),
        ((3, 1, 3, 1), [4, 4]),
        ((2, 2), [2, 2]),
        ((1,), [1]),
        ((), []),
    ],
)
def test_no_image_is_alone(sizes, joined):
    found = list(join_lone(batches_of(*sizes)))
    assert [len(labels) for _, labels in found] == joined
    if sizes:
        assert torch.equal(torch.cat([x for x, _ in found]), torch.cat([x for x, _ in batches_of(*sizes)]))
        assert all(torch.equal(images[:, 0].long(), labels) for images, labels in found)


class Giving(nn.Module):
    """Says of an image whatever its attention says: the class whose kernel has the largest weight."""

    def __init__(self) -> None:
        super().__init__()
        self.body = dynaconv.DYConv2d(3, 3, 1, num_kernels=3, bias=False)
        with torch.no_grad():
            self.body.kernel.copy_(torch.eye(3).view(3, 3, 1, 1, 1).expand(3, 3, 3, 1, 1))

    def forward(self, x):
        own = nn.functional.one_hot(x.mean((2, 3)).argmax(1), 3) * 5.0  # what it should attend to
        attention = own.softmax(1)
        return self.body.show(kernel=attention)["kernel"]


def test_across_images_is_judged_without_one_that_keeps_its_own():
    """Every image of a class of its own: with the attention of any other, all are wrong."""
    x = torch.eye(3).view(3, 3, 1, 1).repeat(1, 1, 2, 2)
    pairs = [(x, torch.arange(3))] * 2 + [(x[:1], torch.zeros(1, dtype=torch.long))]
    model = Giving()
    maps = collect_attention(model, pairs)
    found = perturbation_study(model, maps, lambda text: iter(pairs), {"all": ["body"]})
    assert found["as it is"][""] == 1
    assert list(found["all"]) == list(PERTURBATIONS)
    assert found["all"]["maximum"] == 1
    assert found["all"]["shuffled across images"] <= 2 / 7  # of the class that two images of the last batch have
    with pytest.raises(DynaconvError, match="no other to take attention from"):
        perturbation_study(model, maps, lambda text: iter(pairs[2:]), {"all": ["body"]})


def test_a_way_that_changes_nothing_is_no_figure():
    model = nn.Sequential(dynaconv.ODConv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    pairs = [(torch.randn(4, 3, 6, 6), torch.arange(4))]
    maps = collect_attention(model, pairs)
    found = perturbation_study(model, maps, lambda text: iter(pairs), scopes(model, maps, "layers"))
    assert scopes(model, maps, "layers") == {"all layers": ["0"], "0": ["0"]}
    for part in ("all layers", "0"):
        assert list(found[part]) == [way for way in PERTURBATIONS if way != "maximum"]
    row = perturbation_table(found).splitlines()[-1].split(" | ")
    assert (row[0], row[2]) == ("| 0", "–")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"]),
        ("mobilenetv2_050", ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5, blocks.6"]),
        ("efficientnet_b0", None),
    ],
)
def test_stages_are_those_of_plans(name, expected):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, num_classes=4)
    dynaconv.convert(model, dynaconv.DYConvConfig(), where=None if expected else "blocks")
    found = stages(model)
    assert list(found) == list(dynaconv.nn.attending_layers(model))
    titles = list(dict.fromkeys(found.values()))
    if expected is not None:
        assert [title for title in titles if title != "stem"] == expected
    assert len(titles) > 3
    for layer, title in found.items():
        if title.startswith("blocks"):
            assert layer.startswith(tuple(f"{part}." for part in title.split(", "))) or not layer.startswith("blocks")


def test_stages_without_names_go_by_their_blocks():
    def block(inputs, outputs, stride):
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride), nn.Conv2d(outputs, outputs, 3))

    body = nn.Sequential(block(8, 8, 1), block(8, 8, 1), block(8, 16, 2), block(16, 16, 1), block(16, 32, 2))
    model = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 8, 3), body=body))
    dynaconv.convert(model, dynaconv.DYConvConfig(), where=["body.0", "body.2.*", "body.4.*"])
    titles = stages(model)
    assert set(titles) == {f"body.{block}.{layer}" for block in (0, 2, 4) for layer in (0, 1)}
    assert list(dict.fromkeys(titles.values())) == ["body.0 to body.1", "body.2 to body.3", "body.4"]
    plain = nn.Sequential(nn.Conv2d(3, 8, 3))
    dynaconv.convert(plain, dynaconv.DYConvConfig(), where="0")
    assert stages(plain) == {"0": "stem"}
