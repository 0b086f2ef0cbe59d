"""A benchmark of runtimes: who runs, what is compared, and how it is shown; small networks, and files that are not."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import nn

import dynaconv
import dynaconv.benchmark.measures as bench_measures
import dynaconv.benchmark.runtimes.measures as measures
from dynaconv.benchmark import results_of, run_bench
from dynaconv.benchmark.kinds import RUNTIMES
from dynaconv.benchmark.page import filled_text
from dynaconv.benchmark.runtimes.picture import groups
from dynaconv.benchmark.runtimes.settings import RuntimeSettings, estimate_minutes
from dynaconv.benchmark.runtimes.table import notes, tables
from dynaconv.benchmark.runtimes.ways import DYNAMIC, FILES, OURS, STATIC, Way, build_sides, make_way
from dynaconv.benchmark.small import SmallNet
from dynaconv.errors import DynaconvError
from dynaconv.nn.gates import SE

pytestmark = pytest.mark.xdist_group("bench")

NETWORK = "kw1x_resnet18"
SMALL = RuntimeSettings(networks=(NETWORK,), batches=(1, 3), image_size=16, rounds=2, threads=1)
SAMPLE = Path(__file__).parents[1] / "data" / "bench-runtimes-sample.json"


def small_sides(*_) -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours = dynaconv.convert(SmallNet(), dynaconv.KernelWarehouseConfig(), where="body.0")
        return {STATIC: SmallNet().eval(), OURS: ours.eval()}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Small networks, and no rounds beyond those asked for."""
    monkeypatch.setattr(bench_measures, "CHEAP_SECONDS", 0)
    monkeypatch.setattr(measures, "REST_SECONDS", 0)
    monkeypatch.setattr(measures, "build_sides", small_sides)


def stand_in(runtime, side, models, images, settings, folder) -> Way:
    """The network itself, in place of a file of it."""
    model = models[STATIC if side == STATIC else OURS]

    def run(x):
        with torch.inference_mode():
            return model(x)

    return Way(run=run, runtime=f"{runtime} 1.0", make_seconds=2.0, load_seconds=1.0, file_bytes=5_000_000)


def test_real_files_in_their_runtimes():
    settings = replace(SMALL, runtimes=("onnxruntime",), batches=(3,), dynamic_batch=False, rounds=1)
    found = measures.measure_network(NETWORK, settings)
    assert found["errors"] == []
    eager, exported = found["timings"]
    assert list(eager["sides"]) == [STATIC, OURS]
    assert eager["sides"][OURS]["file_bytes"] is None
    assert exported["version"].startswith("onnxruntime 1.")
    assert list(exported["sides"]) == [STATIC, OURS]
    for side in exported["sides"].values():
        assert side["difference"] < 1e-4
        assert side["make_seconds"] > 0
        assert side["file_bytes"] > 10_000


def test_figures_files_table_and_picture(monkeypatch, tmp_path):
    monkeypatch.setattr(measures, "make_way", stand_in)
    result = run_bench(SMALL, tmp_path)
    assert result.json.name.startswith("bench-runtimes-")
    values = json.loads(result.json.read_text())
    assert (values["kind"], values["complete"]) == ("bench-runtimes", True)
    (network,) = values["networks"]
    assert network["errors"] == []
    assert network["parameters"] > network["static_parameters"]
    rows = [(timing["batch"], timing["runtime"]) for timing in network["timings"]]
    assert rows == [(batch, runtime) for batch in (1, 3) for runtime in ("eager", "onnxruntime", "openvino")]
    for timing in network["timings"]:
        assert (DYNAMIC in timing["sides"]) == (timing["runtime"] != "eager")
        reference = timing["sides"][STATIC]["seconds_of_rounds"]
        for side in timing["sides"].values():
            rounds = side["seconds_of_rounds"]
            assert side["seconds_per_image"]["median"] == pytest.approx(median(rounds) / timing["batch"])
            ratio = median(a / b for a, b in zip(rounds, reference, strict=True))
            assert side["seconds_per_image"]["ratio"] == pytest.approx(ratio)
    ((header, shown),) = tables(values)
    row = dict(zip(header, shown[4], strict=True))
    timing = network["timings"][4]
    assert (row["runtime"], row["batch"], row["made in, s"], row["file, MB"]) == (
        "onnxruntime",
        "3",
        "3 / 3",
        "5.0 / 5.0",
    )
    assert row["ours"].startswith(f"{timing['sides'][OURS]['seconds_per_image']['ratio']:.2f}x (")
    assert row["ours, any batch"].startswith(f"{timing['sides'][DYNAMIC]['seconds_per_image']['ratio']:.2f}x (")
    group = groups(network)[4]
    assert group.label == "onnxruntime\n3"
    assert group.ratios["ours"][0] == timing["sides"][OURS]["seconds_per_image"]["ratio"]
    assert set(group.ratios) == {"ours", "ours, any batch"}
    assert result.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert result.markdown.read_text() == RUNTIMES.markdown(values, result.picture.name)


def test_a_runtime_that_fails_leaves_the_others(monkeypatch):
    def fail(runtime, side, *rest):
        if runtime == "openvino" and side == OURS:
            raise RuntimeError("no such\noperation")
        return stand_in(runtime, side, *rest)

    monkeypatch.setattr(measures, "make_way", fail)
    lines = []
    found = measures.measure_network(NETWORK, SMALL, lines.append)
    assert found["errors"] == [
        f"OpenVINO, ours, making it for batch {batch}: RuntimeError: no such operation" for batch in (1, 3)
    ]
    assert f"  {found['errors'][0]}" in lines
    by_runtime = {timing["runtime"]: list(timing["sides"]) for timing in found["timings"]}
    assert by_runtime["openvino"] == [STATIC, DYNAMIC]
    assert by_runtime["onnxruntime"] == [STATIC, OURS, DYNAMIC]


def test_another_function_is_no_figure(monkeypatch):
    def wrong(runtime, side, models, *rest):
        if runtime == "onnxruntime" and side == OURS:
            models = {**models, OURS: copy.deepcopy(models[OURS])}
            models[OURS].head.bias.data[0] += 1
        return stand_in(runtime, side, models, *rest)

    monkeypatch.setattr(measures, "make_way", wrong)
    found = measures.measure_network(NETWORK, SMALL)
    assert len(found["errors"]) == 2
    assert all("onnxruntime, ours, batch" in error and "differs from PyTorch by" in error for error in found["errors"])
    assert all((OURS in timing["sides"]) == (timing["runtime"] != "onnxruntime") for timing in found["timings"])
    values = {**json.loads(SAMPLE.read_text()), "networks": [found]}
    ((header, rows),) = tables(values)
    row = dict(zip(header, rows[1], strict=True))
    assert (row["ours, ms/image"], row["ours"], row["made in, s"]) == ("–", "–", "3 / –")
    assert notes(values)[0] == f"{NETWORK}: {found['errors'][0]}"


def test_files_take_turns_by_target_and_batch(tmp_path, monkeypatch):
    """Each runtime gets a file that is made for it, of this batch or of any."""
    import dynaconv.benchmark.runtimes.ways as ways

    asked = []

    def export(model, path, **settings):
        asked.append(settings)
        path.write_bytes(b"x" * 10)

    monkeypatch.setattr(ways, "export", export)
    monkeypatch.setattr(ways, "open_session", lambda runtime, path, threads: asked.append((runtime, threads)))
    models, images = small_sides(), torch.zeros(3, 3, 16, 16)
    with pytest.raises(AttributeError):  # there is no session
        make_way("openvino", DYNAMIC, models, images, SMALL, tmp_path)
    assert (asked[0]["format"], asked[0]["target"]) == FILES["openvino"]
    assert (asked[0]["dynamic_batch"], asked[0]["batch_size"]) == (True, 1)
    assert asked[1] == ("openvino", 1)


def test_the_presets_themselves_are_built():
    sides = build_sides("se_mobilenetv2_050", RuntimeSettings(image_size=32))
    assert [any(isinstance(m, SE) for m in side.modules()) for side in sides.values()] == [False, True]
    assert not any(side.training for side in sides.values())


def test_pytorch_runs_with_weights_in_their_own_layout(tmp_path):
    """Kernels lie channels_last; laid out as in a file, they slow PyTorch's convolutions down severalfold."""
    layer, seen = dynaconv.DYConv2d(4, 8, 3), []
    network = nn.Sequential(layer).eval()
    layer.register_forward_pre_hook(lambda layer, _: seen.append(layer.kernel.stride()))
    way = make_way("eager", OURS, {OURS: network}, torch.randn(2, 4, 5, 5), SMALL, tmp_path)
    way.run(torch.randn(2, 4, 5, 5))
    assert set(seen) == {layer.kernel.stride()}
    assert not layer.kernel.is_contiguous()


def test_pytorch_always_runs_and_runs_first():
    assert RuntimeSettings(runtimes=("openvino", "aoti")).runtimes == ("eager", "openvino", "aoti")


def test_compilers_are_expected_to_take_long():
    few, many = (RuntimeSettings(runtimes=runtimes) for runtimes in (("onnxruntime",), ("onnxruntime", "aoti")))
    assert estimate_minutes(many) > 2 * estimate_minutes(few)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"networks": ()}, "network: none is given"),
        ({"networks": ("kw1x_resnet180",)}, "no preset 'kw1x_resnet180'; did you mean kw1x_resnet18"),
        ({"runtimes": ()}, "runtime: none is given"),
        ({"runtimes": ("tensorrt",)}, "runtime='tensorrt' is not known; expected one of 'eager', 'compile'"),
        ({"runtimes": ("aoti", "aoti")}, "runtime: aoti is given more than once"),
        ({"batches": (0,)}, "batches: 0; expected a whole number"),
        ({"threads": 0}, "threads: 0"),
        ({"rounds": 0}, "rounds: 0"),
        ({"max_extra_mb": -1}, "max_extra_mb=-1"),
    ],
)
def test_requests_that_can_not_be_met(changes, text):
    with pytest.raises(DynaconvError, match=f"^{text}"):
        RuntimeSettings(**changes)


def test_the_sample_as_a_page(tmp_path):
    (tmp_path / "bench-runtimes-x.json").write_bytes(SAMPLE.read_bytes())
    result = results_of(tmp_path / "bench-runtimes-x.json")
    empty = "# Runtimes\n\n<!-- table: bench-runtimes-x.json -->\n<!-- end of table -->\n"
    text, shown = filled_text(empty, tmp_path)
    assert shown == [result.json]
    assert result.markdown.read_text() in text
    assert filled_text(text, tmp_path) == (text, shown)
    values = json.loads(SAMPLE.read_text())
    assert text.count("\n| ") == len(values["networks"][0]["timings"]) + 2
    assert values["networks"][0]["timings"][1]["version"] in text
