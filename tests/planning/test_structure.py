"""Blocks and stages from names, shapes and strides."""

from dynaconv import KernelWarehouseConfig
from dynaconv.planning import LayerSpec, group_layers, read_structure


def conv(name, i, o, k=3, s=1, g=1):
    return LayerSpec(name=name, in_channels=i, out_channels=o, kernel_size=(k, k), stride=(s, s), groups=g)


RESNET = [
    conv("stem", 3, 8, 7, 2),
    conv("layer1.0.conv1", 8, 8),
    conv("layer1.0.conv2", 8, 8),
    conv("layer2.0.conv1", 8, 16, s=2),
    conv("layer2.0.conv2", 16, 16),
    conv("layer2.0.downsample.0", 8, 16, 1, 2),
    conv("layer2.1.conv1", 16, 16),
    conv("layer2.1.conv2", 16, 16),
]
# A flat list of inverted residuals, as torchvision numbers them; the last one keeps the resolution and is alone.
MOBILE = [
    conv("features.0.0", 3, 8, 3, 2),
    conv("features.1.conv.0.0", 8, 48, 1),
    conv("features.1.conv.1.0", 48, 48, 3, 2, 48),
    conv("features.1.conv.2", 48, 16, 1),
    conv("features.2.conv.0.0", 16, 96, 1),
    conv("features.2.conv.1.0", 96, 96, 3, 1, 96),
    conv("features.2.conv.2", 96, 16, 1),
    conv("features.3.conv.0.0", 16, 96, 1),
    conv("features.3.conv.1.0", 96, 96, 3, 2, 96),
    conv("features.3.conv.2", 96, 16, 1),
    conv("features.4.conv.0.0", 16, 96, 1),
    conv("features.4.conv.1.0", 96, 96, 3, 1, 96),
    conv("features.4.conv.2", 96, 16, 1),
    conv("features.5.conv.0.0", 16, 96, 1),
    conv("features.5.conv.1.0", 96, 96, 3, 1, 96),
    conv("features.5.conv.2", 96, 32, 1),
    conv("features.6.0", 32, 64, 1),
]
PLAIN = [conv("0", 3, 8), conv("3", 8, 16), conv("6", 16, 32), conv("9", 32, 32)]


def names(specs, **config):
    groups = group_layers(specs, specs, KernelWarehouseConfig(**config))
    return {house: [s.name for s in members] for house, members in groups.items()}


def test_resnet_hands_over_what_reads_the_previous_width():
    assert names(RESNET) == {
        "stem_conv": ["stem"],
        "stage0_conv": ["layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.downsample.0"],
        "stage1_conv": ["layer2.0.conv2", "layer2.1.conv1", "layer2.1.conv2"],
    }


def test_handover_can_be_turned_off():
    assert names(RESNET, handover=False)["stage0_conv"] == ["layer1.0.conv1", "layer1.0.conv2"]


def test_flat_inverted_residuals():
    structure = read_structure(MOBILE)
    assert [len(stage.units) for stage in structure.stages] == [2, 3]
    assert [spec.name for spec in structure.stem] == ["features.0.0"]
    groups = names(MOBILE, split_pointwise=True)
    # The whole first block goes to the stage before, although its widths recur in its own stage.
    assert groups["stage0_depthwise"] == ["features.1.conv.1.0", "features.2.conv.1.0", "features.3.conv.1.0"]
    assert groups["stage1_depthwise"] == ["features.4.conv.1.0", "features.5.conv.1.0"]
    assert groups["stage1_pointwise_reduce"] == ["features.4.conv.2", "features.5.conv.2", "features.6.0"]


def test_plain_network_is_staged_by_width():
    assert names(PLAIN) == {"stem_conv": ["0"], "stage0_conv": ["3", "6"], "stage1_conv": ["9"]}


def test_ranges_of_the_ablation():
    body = RESNET[1:]
    assert set(names(body, sharing="model")) == {"model_conv"}
    assert set(names(body, sharing="block")) == {"layer1_0_conv", "layer2_0_conv", "layer2_1_conv"}
    assert len(names(body, sharing="layer")) == len(body)


def test_dense_blocks_keep_kernel_sizes_apart_where_sharing_would_crumble_the_cells():
    dense = [conv("stem", 3, 64, 7, 2)]
    for index in range(3):
        width = 64 + 32 * index
        dense += [
            conv(f"block1.layer{index}.conv1", width, 128, 1),
            conv(f"block1.layer{index}.conv2", 128, 32),
        ]
    groups = names(dense)
    assert set(groups) == {"stem_conv", "stage0_pointwise", "stage0_conv"}
