"""FDConv against its formulas, in float64, the properties of its parts, and the contract of its parts one by one."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from fractions import Fraction

import pytest
import timm
import torch
from torch import nn

import dynaconv
from dynaconv import FDConv1d, FDConv2d, FDConv3d, FDConvConfig
from dynaconv.errors import DynaconvError
from dynaconv.nn import fdconv_graphs
from dynaconv.nn.fdconv import inverse_transform, sort_frequencies
from dynaconv.nn.fdconv_branches import BandModulation, frequency_bands
from dynaconv.planning import LayerSpec
from tests.oracles_fdconv import distance, groups_of_frequencies, oracle, spatial

KINDS = [FDConv1d, FDConv2d, FDConv3d]
SIZES = {1: (9,), 2: (5, 4), 3: (4, 3, 3)}
PARTS = {
    "all": {"num_kernels": 5, "bands": (2, 3)},
    "code": {},
    "fdw": {"num_kernels": 7, "modulations": (), "bands": ()},
    "fdw of two cut spectra": {"num_kernels": 3, "modulations": (), "param_ratio": 2, "param_reduction": 0.4},
    "ksm": {"num_kernels": 1, "bands": ()},
    "ksm global": {"num_kernels": 1, "bands": (), "modulations": ("filter", "spatial")},
    "ksm local": {"num_kernels": 1, "bands": (), "modulations": ("local",)},
    "fbm": {"num_kernels": 1, "modulations": (), "bands": (2, 4), "modulate_lowest": True},
}
GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": 2, "bias": False},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 2, "padding": 1},
    {"padding": "same", "stride": 2},
    {"padding": "same", "dilation": 2, "padding_mode": "reflect"},
    {"groups": 2, "padding": 1},
    {"groups": 4, "channels": (4, 4), "padding": 1, "stride": 2},
    {"groups": 4, "channels": (4, 8), "kernel_size": 1},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect", "stride": 2},
    {"padding": 1, "padding_mode": "replicate", "dilation": 2},
]


def scatter(layer):
    """Numbers everywhere: a fresh layer's zeros, ones and small numbers hide mistakes."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.5)
        for name, buffer in layer.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return layer


def make(kind, *arguments, training=False, dtype=torch.float64, **options):
    return scatter(kind(*arguments, dtype=dtype, **options)).train(training)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_over_the_signature_of_convolutions(kind, geometry):
    arguments = {"kernel_size": 3, "channels": (4, 6), **geometry}
    channels = arguments.pop("channels")
    layer = make(kind, *channels, **arguments, **PARTS["all"])
    x = torch.randn(2, channels[0], *SIZES[kind.dims], dtype=torch.float64)
    torch.testing.assert_close(layer(x), oracle(layer, x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("channels", [(5, 4), (8, 3)], ids=str)
@pytest.mark.parametrize("parts", list(PARTS))
def test_every_part_alone(parts, channels, training):
    layer = make(FDConv2d, *channels, 3, padding=1, training=training, **PARTS[parts])
    x = torch.randn(3, channels[0], 4, 5, dtype=torch.float64)
    expected = oracle(layer, x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (6, 1), (4, 6), (5, 7), (12, 9), (8, 8)])
@pytest.mark.parametrize("number", [1, 3, 64])
def test_groups_take_every_frequency_once(rows, columns, number):
    order = sort_frequencies(rows, columns).tolist()
    assert sorted(order) == list(range(rows * (columns // 2 + 1)))
    groups = groups_of_frequencies(rows, columns, len(order), min(number, len(order)))
    assert [divmod(place, columns // 2 + 1) for place in order] == list(groups)
    layer = FDConv1d(columns, rows, 1, num_kernels=number)
    assert layer.group.tolist() == [groups[divmod(p, columns // 2 + 1)] for p in range(len(order))]
    counts = [list(groups.values()).count(g) for g in range(layer.num_kernels)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("edges", [False, True], ids=["smallest", "edges"])
@pytest.mark.parametrize("kept", [1.0, 0.4])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (6, 1), (2, 9), (5, 7), (12, 9), (97, 64), (300, 16), (40, 640)])
@pytest.mark.parametrize("number", [1, 6, 64, 300])
def test_tables_of_exports_are_the_groups(rows, columns, number, kept, edges, monkeypatch):
    if edges:
        monkeypatch.setattr(fdconv_graphs, "UNPACKING_BYTES", -(10**9))
    layer = FDConv1d(columns, rows, 1, num_kernels=number, param_reduction=kept)
    table = layer.place_frequencies()[2]
    assert torch.equal(table.groups(torch.device("cpu")), layer.group)
    if edges:
        assert table.form != "groups"
    else:
        assert table.table.value.nbytes <= layer.places * (2 if layer.num_kernels > 256 else 1)


def test_the_kernels_of_all_groups_are_the_kernel_of_the_whole_spectrum():
    layer = make(FDConv2d, 6, 4, 3, num_kernels=5)
    single = torch.eye(5, dtype=torch.float64)
    parts, whole = layer._mix(single), layer._mix(None)
    torch.testing.assert_close(parts.sum(0, keepdim=True), whole, rtol=1e-12, atol=1e-12)
    spectra = torch.fft.rfft2(parts.permute(0, 1, 3, 2, 4).reshape(5, 12, 18))
    own = torch.zeros(5, 12 * 10, dtype=torch.bool)
    for place, group in enumerate(layer.group.tolist()):
        own[group, place] = True
    inner = (
        torch.arange(10).expand(12, 10).flatten() % 9 != 0
    )  # where v and -v are one, groups meet their mirror images
    assert not spectra.flatten(1)[:, inner][~own[:, inner]].abs().gt(1e-12).any()
    assert spectra.flatten(1)[:, inner][own[:, inner]].abs().gt(1e-3).all()


def test_transforms_drop_what_is_not_hermitian():
    spectrum = torch.randn(2, 4, 3, dtype=torch.complex128)
    places = dict.fromkeys(itertools.product(range(4), range(3)), 0)
    for columns in (4, 5):
        expected = torch.stack([spatial(torch.view_as_real(s).reshape(-1, 2), places, 4, columns) for s in spectrum])
        torch.testing.assert_close(inverse_transform(spectrum, columns), expected)


@pytest.mark.parametrize("size", [(1,), (16,), (7, 6), (32, 24), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("bands", [(2,), (2, 4, 8), (3, 5)], ids=str)
def test_bands_are_octaves_and_each_frequency_has_one(size, bands):
    band = frequency_bands(size, bands)
    assert band.shape == (*size[:-1], size[-1] // 2 + 1)
    for place in itertools.product(*map(range, band.shape)):
        highest = max(distance(i, n) for i, n in zip(place, size, strict=True))
        inside = [k for k in bands if highest <= Fraction(1, 2 * k)]
        assert band[place] == len(inside)
    masks = torch.stack([band == b for b in range(len(bands) + 1)])
    assert (masks.sum(0) == 1).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("lowest", [False, True])
def test_bands_with_maps_of_one_are_the_input(dims, lowest):
    fbm = BandModulation(4, dims, (2, 4), lowest, dtype=torch.float64)
    nn.init.zeros_(fbm.maps.weight)
    nn.init.zeros_(fbm.maps.bias)
    x = torch.randn(2, 4, *SIZES[dims], dtype=torch.float64)
    torch.testing.assert_close(fbm(x), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_starts_as_the_static_convolution(kind, groups):
    static = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[kind.dims - 1](32, 32, 3, padding=1, groups=groups)
    layer = kind(32, 32, 3, padding=1, groups=groups)
    layer.adopt_kernel(static.weight)
    layer.adopt_bias(static.bias)
    x = torch.randn(4, 32, *SIZES[kind.dims])
    torch.testing.assert_close(layer(x), static(x), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layer.kernels(x), static.weight.expand(4, *static.weight.shape), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "fields", [{}, {"param_ratio": 3}, {"param_reduction": 0.25}, {"num_kernels": 1}, {"bands": ()}], ids=str
)
def test_kernels_start_at_kaimings_scale(fields):
    layer = FDConv2d(64, 128, 3, groups=2, **fields)
    std = layer.kernels(torch.randn(2, 64, 6, 6)).std().item()
    assert std == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize(("ratio", "reduction"), [(1, 1.0), (2, 1.0), (1, 0.3)])
def test_parameters(groups, kernel_size, ratio, reduction):
    channels, outputs, k2 = 512, 128, kernel_size**2
    layer = FDConv2d(
        channels, outputs, kernel_size, groups=groups, param_ratio=ratio, param_reduction=reduction, device="meta"
    )
    frequencies = outputs * kernel_size * (channels // groups * kernel_size // 2 + 1)
    hidden, width = 32, 5
    heads = channels + outputs + 64 * ratio + (k2 if k2 > 1 else 0)
    expected = {
        "dft_weight": 2 * ratio * int(frequencies * reduction),
        "ksm_global": channels * hidden + 2 * hidden + 2 + heads * (hidden + 1),
        "ksm_local": 2 * channels + outputs // groups * k2 * width,
        "fbm": 3 * (9 * channels + 1) if k2 > 1 else 0,
        "bias": outputs,
    }
    counted = dict.fromkeys(expected, 0)
    for name, parameter in layer.named_parameters():
        part = name.split(".")[1] if name.startswith("attention") else name
        counted[part] += parameter.numel()
    assert counted == expected


@pytest.mark.parametrize(
    ("channels", "width"), [(1, 1), (2, 1), (4, 3), (16, 3), (64, 5), (512, 5), (1024, 7), (2048, 7)]
)
def test_width_of_the_local_branch(channels, width):
    layer = FDConv2d(channels, 1, 1, num_kernels=1, device="meta")
    assert layer.attention["ksm_local"].conv.weight.shape == (1, 1, width)


def test_a_whole_spectrum_is_a_kernel_and_its_mirror_column():
    """Columns 0 and C / 2 hold pairs of conjugates: 2 O k parameters more than the kernel has."""
    kernel = 64 * 32 * 9
    assert FDConv2d(32, 64, 3, device="meta").dft_weight.numel() == kernel + 2 * 64 * 3


@pytest.mark.parametrize("parts", list(PARTS))
@pytest.mark.parametrize("batch", [1, 3])
def test_every_parameter_has_a_gradient(parts, batch):
    layer = FDConv2d(8, 12, 3, padding=1, **PARTS[parts])
    x = torch.randn(batch, 8, 6, 5, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad.any()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("fields", [PARTS["all"], {**PARTS["fdw of two cut spectra"], "bands": (2,)}], ids=str)
def test_gradients(fields):
    layer = make(FDConv2d, 2, 3, 3, padding=1, **fields)
    names, values = zip(*layer.named_parameters(), strict=True)
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    run = lambda x, *values: torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, *values))


@pytest.mark.parametrize("parts", list(PARTS))
@pytest.mark.parametrize("training", [False, True])
def test_a_batch_of_none(parts, training):
    layer = FDConv2d(8, 12, 3, padding=1, **PARTS[parts]).train(training)
    y = layer(torch.randn(0, 8, 6, 5))
    assert y.shape == (0, 12, 6, 5)
    y.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_batch(kind):
    layer = make(kind, 8, 12, 3, stride=2, **PARTS["all"])
    x = torch.randn(8, *SIZES[kind.dims], dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


@pytest.mark.parametrize("parts", list(PARTS))
def test_copies_and_state(parts):
    layer = make(FDConv2d, 8, 12, 3, dtype=None, **PARTS[parts])
    x = torch.randn(2, 8, 6, 5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
    fresh = FDConv2d(8, 12, 3, **PARTS[parts]).eval()
    assert not torch.equal(fresh(x), layer(x))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    late = FDConv2d(8, 12, 3, **PARTS[parts], device="meta").to_empty(device="cpu").eval()
    late.reset_parameters()
    late.load_state_dict(layer.state_dict())
    assert torch.equal(late(x), layer(x))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind):
    layer = kind(16, 12, 3, padding=1, **PARTS["all"]).eval()
    x = torch.randn(3, 16, *SIZES[kind.dims])
    expected = layer(x)
    loose = {"rtol": 0.05, "atol": 0.05 * expected.abs().max().item()}
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y.float(), expected, **loose)
    y.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())
    layer.zero_grad()
    y = layer.to(torch.bfloat16)(x.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, **loose)
    y.sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("fields", list(PARTS.values()), ids=list(PARTS))
def test_channels_last(fields):
    layer, x = make(FDConv2d, 8, 12, 3, dtype=None, **fields), torch.randn(2, 8, 6, 5)
    expected = layer(x)
    layer.to(memory_format=torch.channels_last)
    y = layer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("parts", list(PARTS))
def test_compiles_to_one_graph_for_any_size(parts):
    layer, graphs = make(FDConv2d, 8, 12, 3, padding=1, dtype=None, **PARTS[parts]), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=count)
    for shape in ((2, 8, 6, 5), (5, 8, 7, 9)):
        x = torch.randn(shape)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


def test_madds_count_every_part():
    size, count = (2, 32, 8, 8), lambda **f: FDConv2d(32, 48, 3, padding=1, device="meta", **f).count_madds(size)
    kernel, off = 2 * 48 * 32 * 9, {"num_kernels": 1, "modulations": (), "bands": ()}
    fdw, ksm, fbm = (
        count(**off | {"num_kernels": 8}),
        count(**off | {"modulations": ("local",)}),
        count(**off | {"bands": (2,)}),
    )
    assert fdw.convolution == ksm.convolution == fbm.convolution == kernel * 64
    assert fdw.kernel_elements == kernel
    transform = math.ceil(math.log2(48 * 3 * 32 * 3))
    assert fdw.mixing == kernel * (transform + 1)
    assert fdw.attention == 2 * 32 * 64 + 2 * (32 * 16 + 8 * 16)
    assert ksm.mixing == kernel * (transform + 1)
    assert ksm.attention == 2 * 32 * 64 + 2 * 32 * 48 * 9 * 3
    assert fbm.mixing == kernel * transform + 2 * 32 * 64 * 2 * (6 + 2)
    assert fbm.attention == 2 * 32 * 64 + 2 * 64 * 32 * 9


def spec(inputs, outputs, kernel_size, **fields):
    return LayerSpec(name="layer", in_channels=inputs, out_channels=outputs, kernel_size=kernel_size, **fields)


def test_layers_that_the_code_leaves_static():
    config = FDConvConfig()
    for good in (spec(17, 64, (3, 3)), spec(64, 64, (1, 1)), spec(64, 64, (1, 3)), spec(64, 64, (3, 3), groups=64)):
        assert FDConv2d.refuses(good, config) is None
    assert "16 channels or fewer" in FDConv2d.refuses(spec(16, 64, (3, 3)), config)
    assert "16 channels or fewer" in FDConv2d.refuses(spec(64, 3, (3, 3)), config)
    assert "other sizes than (1, 3)" in FDConv2d.refuses(spec(64, 64, (7, 7)), config)
    assert FDConv2d.refuses(spec(64, 64, (7, 7)), FDConvConfig(kernel_sizes=(7,))) is None
    bands = FDConvConfig(num_kernels=1, modulations=("spatial",))
    assert "nothing of a point-wise layer" in FDConv2d.refuses(spec(64, 64, (1, 1)), bands)
    assert FDConv2d.refuses(spec(64, 64, (3, 3)), bands) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_kernels": 0}, "num_kernels=0; expected a whole number of at least 1"),
        ({"modulations": ("channels",)}, "modulations=.'channels',.; expected some of"),
        ({"modulations": "local"}, "modulations='local'; expected several values"),
        ({"bands": (4, 2)}, "expected rising numbers"),
        ({"bands": (1, 2)}, "an element of bands=1; expected a whole number of at least 2"),
        ({"param_reduction": 0}, "param_reduction=0 is out of range"),
        ({"param_ratio": 1.5}, "param_ratio=1.5; expected a whole number"),
        ({"num_kernels": 1, "modulations": (), "bands": ()}, "switch one part on"),
    ],
)
def test_configs_that_make_no_sense(fields, message):
    with pytest.raises(DynaconvError, match=message):
        FDConvConfig(**fields)


def test_resnet50_has_the_parameters_of_the_paper():
    """+3.6M by its README and abstract; shortcuts stay static, as in the code. Nothing is allocated."""
    model = timm.create_model("resnet50")
    plan = dynaconv.plan(model, FDConvConfig(), ["!*.downsample.*"])
    static = sum(p.numel() for p in model.parameters())
    assert len(plan.layers) == 48
    assert plan.parameters_after - static == 3_647_120
    converted = dynaconv.convert(model, plan)
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters_after == 29_204_152
    assert converted.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
