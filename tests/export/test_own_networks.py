"""Networks of people's own: what they take and give, what is around them, and where they are exported from."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import dynaconv
from dynaconv import DynaconvError
from dynaconv.export import open_session
from tests.nn.cases import animate

SIZE = (3, 8, 8)


class Network(nn.Module):
    """A dynamic layer between static ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), animate(dynaconv.KWConv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)

    def rows(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x).relu()).mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.rows(x)


class Pair(Network):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.rows(left) - self.rows(right)


class Several(Network):
    def forward(self, *views: Tensor) -> Tensor:
        return sum((self.rows(x) for x in views[1:]), self.rows(views[0]))


def export(model: nn.Module, place: Any, format: Any = "torch-export", **settings: Any) -> Any:
    if "example" not in settings:
        settings = {"input_size": SIZE, **settings}
    return dynaconv.export(model, place / "net", format=format, **settings)


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(2, *SIZE), torch.randn(2, *SIZE)


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda: torch.compile(Pair()), ["left", "right"]),
        (lambda: nn.DataParallel(Pair()), ["left", "right"]),
        (lambda: AveragedModel(Pair()), ["input_0", "input_1"]),
        (Several, ["input_0", "input_1"]),
    ],
    ids=["compile", "DataParallel", "average", "arguments"],
)
def test_wrappers_and_any_number_of_inputs(tmp_path, wrap, names):
    report = export(wrap(), tmp_path, example=pair(), dynamic_batch=True, dynamic_size=True)
    assert report.passed
    assert list(report.inputs) == names


def test_an_example_may_lie_channels_last(tmp_path):
    x = torch.randn(2, *SIZE).to(memory_format=torch.channels_last)
    assert export(Network(), tmp_path, example=x, dynamic_batch=True).passed


class Noting(Network):
    """It keeps an activation and a loss, as some do for a second term of the loss."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.stem(x)
        self.losses = [self.seen.mean()]
        return self.rows(x)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated", "ignore:The tensor attribute")
def test_what_autograd_made_does_not_hinder_the_copy(tmp_path):
    model = Noting()
    nn.utils.weight_norm(model.stem)
    nn.utils.spectral_norm(model.head)
    model(torch.randn(2, *SIZE)).sum().backward()
    assert export(model, tmp_path).passed
    assert model.seen.grad_fn is not None
    assert model.stem.weight.grad_fn is not None


class Outputs(NamedTuple):
    rows: Tensor
    same: Tensor
    given: Tensor
    constant: Tensor
    more: dict[str, Any]


class Giving(Network):
    """Outputs that are no value of their own, and some that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.rand(5, 4))

    def forward(self, x: Tensor) -> Outputs:
        rows = self.rows(x)
        return Outputs(rows, rows, x, self.anchors, {"none": None, "p/8": rows + 1, "stride": 8, "head.out": rows + 2})


def test_every_output_has_its_name_and_what_is_no_tensor_has_none(tmp_path):
    pytest.importorskip("onnxruntime")
    model, x = Giving(), torch.randn(3, *SIZE)
    report = export(model, tmp_path, "onnx", dynamic_batch=True)
    names = ("rows", "same", "given", "constant", "more_p_8", "more_head_out")
    assert report.outputs == names
    session = open_session("onnxruntime", report.path)
    assert session.outputs == names
    (taken,) = pytest.importorskip("onnx").load(str(report.path)).graph.input
    assert taken.name == "images"
    with torch.no_grad():
        wanted = model.eval()(x)
    expected = (*wanted[:4], wanted.more["p/8"], wanted.more["head.out"])
    for found, y in zip(session.run(x), expected, strict=True):
        torch.testing.assert_close(found, y, rtol=1e-4, atol=1e-4)


def test_named_tuples_are_not_saved_as_programs(tmp_path):
    with pytest.raises(DynaconvError, match=r"namedtuple class .* Let it give a tuple or a dictionary"):
        export(Giving(), tmp_path)
    assert not list(tmp_path.iterdir())


class Silent(Network):
    def forward(self, x: Tensor) -> Tensor:
        return self.rows(x) * 0


def test_a_network_that_says_nothing_is_told(tmp_path):
    (note,) = export(Silent(), tmp_path).notes
    assert "output 0 is the same for all inputs, so that a file which ignores them would pass" in note


class Patches(Network):
    """It takes multiples of 7 alone."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return self.rows(x.reshape(b, c, h // 7, 7, w // 7, 7).amax((3, 5)))


def test_the_second_size_is_one_that_the_network_takes(tmp_path):
    report = export(Patches(), tmp_path, input_size=(3, 14, 21), dynamic_size=True)
    assert {run.size for run in report.comparisons} == {(3, 14, 21), (3, 28, 21)}
    assert report.passed


def test_sizes_that_can_not_vary_are_refused(tmp_path):
    with pytest.raises(DynaconvError, match=r"no side of the input \(1, 6\) could vary"):
        export(nn.Linear(6, 2), tmp_path, input_size=(6,), dynamic_size=True)


def test_autocast_around_it_does_not_count(tmp_path):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = export(Network(), tmp_path)
    assert report.worst.error < 1e-4
    assert report.own_error < 1e-4


def test_float64_is_refused_where_convolutions_have_none(tmp_path):
    with pytest.raises(DynaconvError, match=r"in float64, .* export model\.float\(\)"):
        export(Network().double(), tmp_path, "onnx")
    assert export(Network().double(), tmp_path).passed


def test_threads_wait_for_each_other(tmp_path):
    found: list[Any] = []

    def one(number: int) -> None:
        try:
            found.append(export(Network(), tmp_path, dynamic_batch=number == 1).passed)
        except DynaconvError as error:
            found.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt2"]


FULL = """
import resource, signal, sys
import torch
import dynaconv
from dynaconv.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
try:
    dynaconv.export(torch.nn.Conv2d(3, 8, 9), sys.argv[1], format="torch-export", input_size=(3, 12, 12))
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system has no limits of files")
def test_a_full_disk_does_not_end_the_process(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "net")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "net.pt2 can not be written: File too large" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"classes": {0: "a", 1: "b"}}, "expected a list of names, by output"),
        ({"classes": "ab"}, "expected a list of names, by output"),
        ({"mean": [torch.tensor(0.5)]}, "Tensor is not JSON serializable"),
    ],
)
def test_a_description_that_no_file_can_hold(tmp_path, said, text):
    with pytest.raises(DynaconvError, match=text):
        export(Network(), tmp_path, description=said)
    assert not list(tmp_path.iterdir())
