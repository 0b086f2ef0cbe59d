"""A branch that a block's layers share: from the block's input, one a block, in copies, checkpoints and graphs too."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import dynaconv
from dynaconv import CondConvConfig, DynaconvError, WeightNetConfig
from dynaconv.errors import PlanError
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
        kernels = torch.einsum("bk,k...->b...", reduced.sigmoid(), layer.weight)
        bias = None if layer.bias is None else reduced.sigmoid() @ layer.bias
    else:
        values = layer.attention.fc(reduced).sigmoid()
        outputs, width = layer.out_channels, layer.weight.shape[-1]
        values = values.view(len(values), outputs, -1, 1, width)
        kernels = (values * layer.weight.view(outputs, values.shape[2], -1, width)).sum(-1)
        kernels = kernels.view(-1, *layer.weight.shape[:-1])
        bias = None if layer.bias is None else layer.bias.expand(len(values), -1)
    geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
    samples = range(len(layer_input))
    return torch.cat(
        [F.conv2d(layer_input[b : b + 1], kernels[b], None if bias is None else bias[b], *geometry) for b in samples]
    )


@torch.no_grad()
def check_every_layer(model, x):
    """Run a network, and compute every layer of every block by hand from what the block and the layer were given."""
    seen = {}

    def note(name):
        return lambda module, inputs, output: seen.__setitem__(name, (inputs[0], output))

    names = [name for name, module in model.named_modules() if isinstance(module, BlockBranch)]
    blocks = [name.removesuffix(".block_branch") for name in names]
    layers = {}
    handles = []
    for block in blocks:
        module = model.get_submodule(block)
        handles.append(module.register_forward_hook(note(block)))
        for name, layer in module.named_modules(prefix=block):
            if isinstance(layer, dynaconv.nn.DynamicLayer):
                layers[name] = (layer, block)
                handles.append(layer.register_forward_hook(note(name)))
    model(x)
    for handle in handles:
        handle.remove()
    for name, (layer, block) in layers.items():
        branch = model.get_submodule(f"{block}.block_branch")
        expected = by_hand(layer, branch, seen[block][0], seen[name][0])
        torch.testing.assert_close(
            seen[name][1], expected, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}"
        )
    return len(layers), len(blocks)


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
    assert sum(key.endswith("block_branch.weight") for key in model.state_dict()) == blocks == len(plan.blocks)


def test_one_branch_a_block(model):
    branches = [key for key in model.state_dict() if "block_branch" in key]
    assert branches == [f"blocks.{block}.block_branch.{part}" for block in (0, 1) for part in ("weight", "bias")]
    own = ("attention.weight", "attention.reduce.weight")
    assert not [key for key in model.state_dict() if key.endswith(own)]
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
    """Layers and hooks of a copy read the branch that the copy owns."""
    before = run(x)
    for name, module in root.named_modules():
        if isinstance(module, BlockBranch):
            block = root.get_submodule(name.rpartition(".")[0])
            shared = {id(layer._shared[0]) for layer in dynaconv.dynamic_layers(block)}
            assert shared == {id(module)}
            module.bias += 2
    assert not torch.allclose(run(x), before)


def test_state_goes_into_a_fresh_network(model, x):
    fresh = dynaconv.convert(Network(), next(dynaconv.dynamic_layers(model)).config).eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(x), model(x))


def test_a_layer_outside_of_its_block_says_so(model):
    layer, x = model.blocks[0].conv1, torch.randn(2, 8, 6, 5)
    for alone in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.raises(DynaconvError, match="shares the branch of the block it was made for, and runs outside"):
            alone(x)
    model.blocks(x)
    with pytest.raises(DynaconvError, match="runs outside"):
        layer(x)


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
    assert all(block.block_branch.output is None for block in model.blocks)


def test_the_output_is_dropped(model):
    """It holds the graph of everything before the block."""
    block, x = model.blocks[0], torch.randn(2, 8, 6, 5, requires_grad=True)
    before = x * 2
    seen = weakref.ref(before)
    block(before)
    assert block.block_branch.output is None
    del before
    gc.collect()
    assert seen() is None


def test_the_output_is_dropped_when_a_block_fails(model):
    block = model.blocks[0]
    handle = block.conv2.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ValueError("on purpose")))
    with pytest.raises(ValueError, match="on purpose"):
        block(torch.randn(2, 8, 6, 5))
    assert block.block_branch.output is None
    handle.remove()
    block(torch.randn(2, 8, 6, 5))


# torch looks at .grad of the branch's output and hides its own warning, but not from a run where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("part", "size", "expected"), [("", (3, 6, 5), 1), ("blocks.1", (8, 6, 5), 2)])
def test_compiles_for_any_batch(model, part, size, expected):
    """A network is one graph. Of a block alone torch compiles the hooks apart, which makes two."""
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
    assert len(graphs) == expected
    assert all(block.block_branch.output is None for block in model.blocks)


def test_autocast_and_half_precision(model, x):
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    assert model.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_without_sharing_every_layer_has_its_own(config):
    model = dynaconv.convert(Network(), type(config)(shared_branch=False))
    assert not [key for key in model.state_dict() if "block_branch" in key]
    conv = model.blocks[0].conv2
    assert conv(torch.randn(2, 8, 6, 5)).shape == (2, 8, 6, 5)


def test_a_block_with_another_input_says_what_it_expects(model):
    for wrong, got in ((torch.randn(2, 7, 6, 5), r"shape \(2, 7, 6, 5\)"), (torch.randn(2, 8), r"shape \(2, 8\)")):
        with pytest.raises(DynaconvError, match=rf"a Block got {got} .* expects \(B, 8, \*size\).*shared_branch=False"):
            model.blocks[0](wrong)
    with pytest.raises(DynaconvError, match="a Block got list as its first input"):
        model.blocks[0]([torch.randn(2, 8, 6, 5)])


def test_a_block_is_converted_once(model):
    with pytest.raises(DynaconvError):
        dynaconv.convert(model, CondConvConfig())
    half = dynaconv.convert(Network(), CondConvConfig(), where="*.conv1")
    with pytest.raises(PlanError, match="has a member 'block_branch' already"):
        dynaconv.convert(half, CondConvConfig(), where="*.conv2")


def test_layers_outside_of_blocks_have_a_branch_of_their_own():
    model = dynaconv.convert(Network(), CondConvConfig(), where=["blocks.1.*", "classifier"])
    assert [key for key in model.state_dict() if key.endswith("block_branch.weight")] == [
        "blocks.1.block_branch.weight"
    ]
    assert model.classifier.attention.in_features == 12
    assert model(torch.randn(2, 3, 6, 5)).shape == (2, 5)
