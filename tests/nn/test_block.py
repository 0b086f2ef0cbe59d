"""A branch that a block's convolutions share: the first owns it; in copies, checkpoints, threads and graphs too."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import dynaconv
from dynaconv import CondConvConfig, DynaconvError, WeightNetConfig
from dynaconv.nn import BlockBranch

CONFIGS = [CondConvConfig(num_experts=3), WeightNetConfig(expansion=4, grouping=2)]


class Block(nn.Module):
    """A residual block."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.norm1(self.conv1(x)))) + self.shortcut(x))


class Network(nn.Module):
    """A stem, two blocks, a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8, 8), Block(8, 12))
        self.classifier = nn.Linear(12, 5)

    def forward(self, x):
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture(params=CONFIGS, ids=lambda config: config.method)
def model(request):
    return dynaconv.convert(Network(), request.param).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 6, 5)


def saved_and_loaded(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


copying = pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), saved_and_loaded],
    ids=["deepcopy", "pickle", "torch.save"],
)


def by_hand(layer, branch, block_input, layer_input):
    """A layer's output, its kernels made from the block's input with torch's own operations."""
    reduced = block_input.mean((2, 3)) @ branch.weight.T + branch.bias
    if layer.config.method == "condconv":
        kernels = torch.einsum("bk,k...->b...", reduced.sigmoid(), layer.kernel)
        bias = None if layer.bias is None else reduced.sigmoid() @ layer.bias
    else:
        values = layer.attention.fc(reduced).sigmoid()
        outputs, width = layer.out_channels, layer.kernel.shape[-1]
        values = values.view(len(values), outputs, -1, 1, width)
        kernels = (values * layer.kernel.view(outputs, values.shape[2], -1, width)).sum(-1)
        kernels = kernels.view(-1, *layer.kernel.shape[:-1])
        bias = None if layer.bias is None else layer.bias.expand(len(values), -1)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    samples = range(len(layer_input))
    return torch.cat(
        [F.conv2d(layer_input[b : b + 1], kernels[b], None if bias is None else bias[b], *geometry) for b in samples]
    )


def shared_branches(model):
    """Name of the layer that owns a branch -> the branch, where others read it."""
    found = {n: m for n, m in model.named_modules() if isinstance(m, BlockBranch) and m.readers}
    return {name.partition(".attention")[0]: branch for name, branch in found.items()}


@torch.no_grad()
def check_every_layer(model, x):
    """Run a network, and compute every layer of every block by hand from what its first layer and it were given."""
    seen = {}

    def note(name):
        return lambda module, inputs, output: seen.__setitem__(name, (inputs[0], output))

    branches = shared_branches(model)
    owner = {id(branch): name for name, branch in branches.items()}
    layers = {}
    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, dynaconv.nn.DynamicLayer):
            branch = layer._leader[0] if layer._leader else layer.own_branch
            if id(branch) in owner:
                layers[name] = (layer, owner[id(branch)])
            handles.append(layer.register_forward_hook(note(name)))
    model(x)
    for handle in handles:
        handle.remove()
    for name, (layer, first) in layers.items():
        expected = by_hand(layer, branches[first], seen[first][0], seen[name][0])
        torch.testing.assert_close(
            seen[name][1], expected, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )
    return len(layers), len(branches)


def test_kernels_come_from_the_input_of_the_block(model, x):
    assert check_every_layer(model.double(), x.double()) == (5, 2)


@pytest.mark.parametrize("config", [CondConvConfig(num_experts=2), WeightNetConfig()], ids=lambda c: c.method)
@pytest.mark.parametrize(("name", "layers", "blocks"), [("resnet18", 19, 8), ("mobilenetv2_050", 50, 17)])
def test_timm_networks(config, name, layers, blocks):
    model = timm.create_model(name, num_classes=10)
    plan = dynaconv.plan(model, config)
    dynaconv.convert(model, plan).double().eval()
    assert sum(p.numel() for p in model.parameters()) == plan.parameters_after
    assert check_every_layer(model, torch.randn(2, 3, 32, 32, dtype=torch.float64)) == (layers, blocks)
    assert len({layer.branch_of for layer in plan.layers} - {None}) == blocks


def test_one_branch_a_block(model):
    assert list(shared_branches(model)) == ["blocks.0.conv1", "blocks.1.conv1"]
    own = ("attention.weight", "attention.reduce.weight")
    assert [key.partition(".attention")[0] for key in model.state_dict() if key.endswith(own)] == [
        "blocks.0.conv1",
        "blocks.1.conv1",
    ]
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_every_parameter_trains(model, x):
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("training", [True, False])
def test_small_batches(model, batch, training):
    for module in model.modules():  # nn.BatchNorm2d itself takes no empty batch in training
        module.train(training and not isinstance(module, nn.BatchNorm2d))
    y = model.blocks(torch.randn(batch, 8, 5, 5))
    y.sum().backward()
    assert y.shape == (batch, 12, 5, 5)


@copying
def test_copies_of_the_network_have_branches_of_their_own(model, duplicate, x):
    y = model(x)
    twin = duplicate(model)
    assert torch.equal(twin(x), y)
    assert {*twin.state_dict()} == {*model.state_dict()}
    _check_linked(twin, twin, x)
    assert torch.equal(model(x), y)


@copying
def test_copies_of_a_block_have_branches_of_their_own(model, duplicate):
    block, x = model.blocks[1], torch.randn(2, 8, 6, 5)
    y = block(x)
    twin = duplicate(block)
    assert torch.equal(twin(x), y)
    _check_linked(twin, twin, x)
    assert torch.equal(block(x), y)


@torch.no_grad()
def _check_linked(root, run, x):
    """Layers of a copy read the branch that the copy owns."""
    before = run(x)
    branches = shared_branches(root)
    followed = {id(layer._leader[0]) for layer in dynaconv.dynamic_layers(root) if layer._leader}
    assert followed == {id(branch) for branch in branches.values()}
    for branch in branches.values():
        branch.bias += 2
    assert not torch.allclose(run(x), before)


def test_state_goes_into_a_fresh_network(model, x):
    fresh = dynaconv.convert(Network(), next(dynaconv.dynamic_layers(model)).config).eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(x), model(x))


def test_a_layer_that_follows_can_not_run_alone(model):
    layer, x = model.blocks[0].conv2, torch.randn(2, 8, 6, 5)
    for alone in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.raises(DynaconvError, match=r"shares the branch of the first dynamic layer .* which has not run"):
            alone(x)
    model.blocks(x)
    with pytest.raises(DynaconvError, match="has not run"):
        layer(x)
    model.blocks[0].conv1(torch.randn(3, 8, 6, 5))
    with pytest.raises(DynaconvError, match=r"which ran on 3 samples, not 2; .*shared_branch=False"):
        layer(x)


def test_threads_keep_apart(model):
    inputs = [torch.randn(2, 3, 6, 5) for _ in range(24)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda x: torch.no_grad()(model)(x), inputs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(model, reentrant):
    x = torch.randn(3, 8, 6, 5)
    gradients = []
    for checkpointed in (False, True):
        model.zero_grad()
        model.train()
        given = x.clone().requires_grad_()
        y = given
        for block in model.blocks:
            y = checkpoint(block, y, use_reentrant=reentrant) if checkpointed else block(y)
        y.square().sum().backward()
        gradients.append([given.grad, *(p.grad for p in model.blocks.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)
    assert not kept(model)


def kept(model):
    """Outputs that branches still hold."""
    return [b._kept() for b in shared_branches(model).values() if b._kept() is not None or b._traced is not None]


def test_the_output_is_dropped(model):
    """It holds the graph of everything before the block."""
    block, x = model.blocks[0], torch.randn(2, 8, 6, 5, requires_grad=True)
    before = x * 2
    seen = weakref.ref(before)
    block(before)
    assert not kept(model)
    del before
    gc.collect()
    assert seen() is None


def test_a_block_that_failed_runs_again(model):
    block, x = model.blocks[0], torch.randn(2, 8, 6, 5)
    expected = block(x)
    handle = block.conv2.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("on purpose")))
    with pytest.raises(ValueError, match="on purpose"):
        block(torch.randn(2, 8, 6, 5))
    handle.remove()
    assert torch.equal(block(x), expected)


@pytest.mark.parametrize(("part", "size"), [("", (3, 6, 5)), ("blocks.1", (8, 6, 5))])
def test_compiles_for_any_batch(model, part, size):
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    module = model.get_submodule(part)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=count)
    for batch in (2, 5):
        x = torch.randn(batch, *size)
        torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1
    assert not kept(model)


def test_autocast_and_half_precision(model, x):
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    assert model.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_without_sharing_every_layer_has_its_own(config):
    model = dynaconv.convert(Network(), type(config)(shared_branch=False))
    assert not shared_branches(model)
    conv = model.blocks[0].conv2
    assert conv(torch.randn(2, 8, 6, 5)).shape == (2, 8, 6, 5)


def test_parts_of_a_block_at_a_time(model):
    half = dynaconv.convert(Network(), CondConvConfig(), where="*.conv1")
    assert not shared_branches(half)
    dynaconv.convert(half, CondConvConfig(), where=["blocks.1.conv2", "blocks.1.shortcut"])
    assert list(shared_branches(half)) == ["blocks.1.conv2"]
    assert half(torch.randn(2, 3, 6, 5)).shape == (2, 5)
    with pytest.raises(DynaconvError):
        dynaconv.convert(model, CondConvConfig())


def test_layers_outside_of_blocks_have_a_branch_of_their_own():
    model = dynaconv.convert(Network(), CondConvConfig(), where=["blocks.1.*", "classifier"])
    assert list(shared_branches(model)) == ["blocks.1.conv1"]
    assert model.classifier.attention.in_features == 12
    assert model(torch.randn(2, 3, 6, 5)).shape == (2, 5)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_blocks_that_are_sequences_of_layers(config):
    """Nothing is added to the block, which would run it."""

    def block():
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

    model = dynaconv.convert(nn.ModuleDict({"stages": nn.ModuleList([block(), block()])}), config, where="*")
    assert list(shared_branches(model)) == ["stages.0.0", "stages.1.0"]
    assert model["stages"][1](torch.randn(2, 4, 6, 5)).shape == (2, 4, 6, 5)


@pytest.mark.slow
@pytest.mark.parametrize("config", [CondConvConfig(num_experts=2), WeightNetConfig()], ids=lambda c: c.method)
@pytest.mark.parametrize("name", ["densenet121", "mixnet_s", "skresnet18", "googlenet", "shufflenet_v2_x0_5"])
def test_odd_blocks(config, name):
    maker = getattr(torchvision.models, name, None)
    if maker is None or name == "densenet121":
        model = timm.create_model(name, num_classes=10)
    else:
        options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
        model = maker(num_classes=10, **options)
    dynaconv.convert(model, config)
    model.train()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
