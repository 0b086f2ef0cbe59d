"""Layers of one to three dimensions, linear ones and gates, in one file with its numbers beside it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dynaconv.export import onnx_file
from dynaconv.export.network import deployable
from dynaconv.export.program import trace
from dynaconv.export.runtimes import open_session
from dynaconv.export.settings import ExportSettings
from tests.nn.cases import CASES, animate

SEQUENCES, IMAGES, VOLUMES = ("KWConv1d",), ("DCDConv2d", "CondConv2d"), ("KWConv3d", "DYConv3d")
SHAPES = ((16, 7), (16, 7, 6), (16, 5, 4, 3))


class Layers(nn.Module):
    """Each on the input of its number of dimensions; one of them a static convolution without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.sequences, self.images, self.volumes = (
            nn.ModuleList(CASES[name].make() for name in names) for names in (SEQUENCES, IMAGES, VOLUMES)
        )
        self.linear, self.gate = CASES["KWLinear"].make(), CASES["CBAM-2d"].make()
        self.volumes.append(nn.Conv3d(16, 8, 3, bias=False))

    def forward(self, sequence: Tensor, image: Tensor, volume: Tensor) -> list[Tensor]:
        return [
            *(layer(sequence) for layer in self.sequences),
            self.linear(sequence.transpose(1, 2)),
            *(layer(image) for layer in self.images),
            self.gate(torch.cat([image, -image], dim=1)),
            *(layer(volume) for layer in self.volumes),
        ]


def inputs(batch: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(batch, *shape) for shape in SHAPES)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    network = animate(Layers()).eval()
    program = trace(deployable(network), inputs(2), ExportSettings(dynamic_batch=True))
    path = tmp_path_factory.mktemp("layers") / "net.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_file, "LARGEST_BYTES", 1000)
        names = [f"y{i}" for i in range(8)]
        file = onnx_file.write_onnx(program, path, inputs=("a", "b", "c"), outputs=names)
    return copy.deepcopy(network).double(), path, file


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_networks_own_function(written, runtime, batch):
    pytest.importorskip(runtime)
    network, path, _ = written
    given = inputs(batch)
    with torch.no_grad():
        expected = network(*(x.double() for x in given))
    for layer, (y, found) in enumerate(zip(expected, open_session(runtime, path, 1).run(*given), strict=True)):
        assert found.shape == y.shape
        assert (found - y).abs().max() < 2e-5 * y.abs().max(), layer


def test_numbers_of_a_large_network_stand_beside_its_graph(written):
    _, path, file = written
    assert file.external is not None
    assert file.external.parent == path.parent
    assert file.external.stat().st_size > 4 * 16 * 8 * 27  # the last volume's kernel, and more
    assert path.stat().st_size < file.external.stat().st_size


def test_convolutions_without_a_bias_have_none(written):
    onnx = pytest.importorskip("onnx")
    nodes = onnx.load(str(written[1]), load_external_data=False).graph.node
    assert [len(node.input) for node in nodes if node.op_type == "Conv" and node.name.startswith("volumes.2/")] == [2]
