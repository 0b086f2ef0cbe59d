"""A benchmark from end to end: figures, files, table and picture agree, and failures stay apart."""

from __future__ import annotations

import copy
import json
import random
from statistics import median

import pytest
import torch

import dynaconv
import dynaconv.benchmark.measures as measures
import dynaconv.benchmark.roofline as roofline
from dynaconv.benchmark import BenchSettings, results_of, run_bench
from dynaconv.benchmark.contenders import CONTENDERS, REFERENCE, build, contenders_of, settle
from dynaconv.benchmark.kinds import PASSES, Kind
from dynaconv.benchmark.measures import measure_network
from dynaconv.benchmark.picture import groups
from dynaconv.benchmark.settings import NETWORKS, find_networks
from dynaconv.benchmark.table import memory_table, notes, time_table
from dynaconv.errors import DynaconvError, UnknownModelError
from dynaconv.models import get_preset

pytestmark = pytest.mark.xdist_group("bench")

MACHINE = {"madds_per_second": 1e11, "read_bytes_per_second": 2e10, "by_product": {"conv": 1e11}}
SMALL = {"image_size": 32, "rounds": 2, "inference_batches": (1, 3), "training_batches": (2,)}
FAST = ("se_mobilenetv2_050", "od1x_mobilenetv2_050")
PEAKS = {"static_channels_last": 100, "static": 101, "ours": 130, "ours_prepared": 135, "textbook": 200}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """No processes that take long to start, no rounds beyond those asked for, no timing of the machine."""
    monkeypatch.setattr(measures, "measure_peak", lambda name, *rest: PEAKS[name] * 2**20)
    monkeypatch.setattr(measures, "CHEAP_SECONDS", 0)
    monkeypatch.setattr(roofline, "measure_machine", lambda device: MACHINE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    starts, lines = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "measure_peak", lambda name, *rest: PEAKS[name] * 2**20)
        patch.setattr(measures, "CHEAP_SECONDS", 0)
        patch.setattr(roofline, "measure_machine", lambda device: MACHINE)
        settings = BenchSettings(networks=FAST, **SMALL)
        return run_bench(settings, out, start=starts.append, note=lines.append), starts, lines


def test_figures_agree_with_each_other(finished):
    values = finished[0].values
    assert [network["name"] for network in values["networks"]] == list(FAST)
    for network in values["networks"]:
        assert network["errors"] == []
        passes = [(timing["pass"], timing["batch"]) for timing in network["timings"]]
        assert passes == [("inference", 1), ("inference", 3), ("training", 2)]
        for timing in network["timings"]:
            training, entries = timing["pass"] == "training", timing["contenders"]
            assert list(entries) == [c.name for c in contenders_of(BenchSettings(), training)]
            reference = entries[REFERENCE]["seconds_of_rounds"]
            for entry in entries.values():
                rounds = entry["seconds_of_rounds"]
                assert entry["rounds"] == len(rounds) == 2
                assert entry["seconds_per_image"]["median"] == pytest.approx(median(rounds) / timing["batch"])
                ratio = median(a / b for a, b in zip(rounds, reference, strict=True))
                assert entry["seconds_per_image"]["ratio"] == pytest.approx(ratio)
                low, high = entry["ratio_quartiles"]
                assert low <= ratio <= high
            pairs = zip(entries["textbook"]["seconds_of_rounds"], entries["ours"]["seconds_of_rounds"], strict=True)
            assert timing["textbook_to_ours"]["ratio"] == pytest.approx(median(a / b for a, b in pairs))
            assert timing["limit"]["ratio"] > 1


def test_counts_and_memory(finished):
    od = finished[0].values["networks"][1]
    assert od["parameters"] == get_preset(FAST[1]).params
    assert od["static_parameters"] < od["parameters"]
    assert od["madds"] > od["static_madds"]
    assert [(entry["pass"], entry["batch"]) for entry in od["memory"]] == [("inference", 16), ("training", 2)]
    assert od["memory"][1]["excess"]["bytes"] == {"ours": 30 * 2**20, "textbook": 100 * 2**20}
    assert od["memory"][1]["excess"]["share_of_textbook"] == 0.3


def test_json_is_complete_and_plain(finished):
    result = finished[0]
    values = json.loads(result.json.read_text())
    assert values == result.values
    assert (values["kind"], values["complete"]) == ("bench", True)
    assert values["settings"]["networks"] == list(FAST)
    assert values["settings"]["image_size"] == 32
    assert set(values["environment"]) == {"versions", "hardware", "allocator"}
    assert values["machine"] == MACHINE
    assert "compiled kernels" in values["native"]
    assert values["command"]
    assert {path.name for path in result.json.parent.iterdir()} == {
        result.json.name,
        result.markdown.name,
        result.picture.name,
    }


def test_tables_show_the_figures(finished):
    result = finished[0]
    header, rows = time_table(result.values)
    assert len(rows) == 6
    assert all(len(row) == len(header) for row in rows)
    od = result.values["networks"][1]["timings"][1]
    shown = dict(zip(header, rows[4], strict=True))
    assert (shown["network"], shown["pass"], shown["batch"]) == (FAST[1], "inference", "3")
    assert shown["static, ms/image"] == f"{1000 * od['contenders'][REFERENCE]['seconds_per_image']['median']:.3g}"
    assert shown["ours"].startswith(f"{od['contenders']['ours']['seconds_per_image']['ratio']:.2f}x (")
    assert shown["limit"].startswith(f"{od['limit']['ratio']:.2f}x")
    assert shown["textbook / ours"] == f"{od['textbook_to_ours']['ratio']:.2f}x"
    assert "ours, compiled" not in header
    header, rows = memory_table(result.values)
    assert dict(zip(header, rows[0], strict=True))["excess / textbook's"] == "30% of 100 MiB"
    text = result.markdown.read_text()
    assert text == PASSES.markdown(result.values, result.picture.name)
    assert text.count("\n| ") == 6 + 1 + 4 + 1 + 1
    assert result.values["command"] in text
    said = " ".join(notes(result.values))
    assert "100 G multiply-adds/s" in said
    assert result.values["environment"]["allocator"] in said
    assert result.values["native"] in said


def test_picture(finished):
    result = finished[0]
    assert result.picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    od = result.values["networks"][1]
    group = groups(od)[2]
    assert group.label == "training\n2"
    assert group.limit == od["timings"][2]["limit"]["ratio"]
    assert REFERENCE not in group.ratios
    assert group.ratios["ours"][0] == od["timings"][2]["contenders"]["ours"]["seconds_per_image"]["ratio"]


def test_it_says_what_it_does(finished):
    _, starts, lines = finished
    assert [(start.network, start.number, start.total) for start in starts] == [(FAST[0], 1, 2), (FAST[1], 2, 2)]
    assert starts[0].seconds_left is None
    assert starts[1].seconds_left > 0
    assert lines[0] == "measuring what the machine can do"
    assert lines[1].startswith("  inference, batch 1: static ")
    assert sum("memory of training, batch 2, MiB: static 100" in line for line in lines) == 2


def test_results_again_over_nothing(finished, tmp_path):
    path = tmp_path / "bench-x.json"
    path.write_bytes(finished[0].json.read_bytes())
    first, second = results_of(path), results_of(path)
    assert (first.markdown.name, second.markdown.name) == ("bench-x.md", "bench-x-2.md")
    assert first.markdown.read_text() == second.markdown.read_text().replace("-2.png", ".png")
    assert first.picture.is_file()


def test_an_interruption_keeps_what_was_measured(tmp_path, monkeypatch, finished):
    known = finished[0].values["networks"]

    def measured(network, *rest):
        if network == FAST[1]:
            raise KeyboardInterrupt
        return known[0]

    monkeypatch.setattr(measures, "measure_network", measured)
    with pytest.raises(KeyboardInterrupt):
        run_bench(BenchSettings(networks=FAST, **SMALL), tmp_path)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text())["complete"] is False
    again = results_of(path)
    assert "Interrupted: 1 of 2 networks." in again.markdown.read_text()
    assert len(time_table(again.values)[1]) == 3


def test_threads_are_put_back(tmp_path, monkeypatch, finished):
    seen = []

    def measured(*rest):
        seen.append(torch.get_num_threads())
        return finished[0].values["networks"][0]

    monkeypatch.setattr(measures, "measure_network", measured)
    monkeypatch.setattr(Kind, "save_picture", lambda kind, values, path: path)
    before = torch.get_num_threads()
    result = run_bench(BenchSettings(networks=FAST[:1], threads=before + 1, **SMALL), tmp_path)
    assert seen == [before + 1]
    assert result.values["environment"]["hardware"]["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_failure_leaves_the_others(monkeypatch):
    make = measures.make_pass

    def fail(contender, *rest):
        if contender.name == "textbook":
            raise RuntimeError("out of\nmemory")
        return make(contender, *rest)

    monkeypatch.setattr(measures, "make_pass", fail)
    lines = []
    settings = BenchSettings(image_size=32, rounds=1, inference_batches=(2,), training_batches=(), memory=False)
    found = measure_network(FAST[0], settings, MACHINE, lines.append)
    assert found["errors"] == ["textbook, inference, batch 2: RuntimeError: out of memory"]
    assert f"  {found['errors'][0]}" in lines
    (timing,) = found["timings"]
    assert "textbook" not in timing["contenders"]
    assert "ours" in timing["contenders"]
    assert timing["textbook_to_ours"] is None
    assert found["memory"] == []


def test_without_a_static_network_there_are_seconds_alone(monkeypatch, tmp_path, finished):
    values = copy.deepcopy(finished[0].values)
    for network in values["networks"]:
        for timing in network["timings"]:
            del timing["contenders"][REFERENCE]
            timing["limit"] = None
            for entry in timing["contenders"].values():
                entry["seconds_per_image"]["ratio"] = entry["ratio_quartiles"] = None
    header, rows = time_table(values)
    row = dict(zip(header, rows[0], strict=True))
    assert row["static, ms/image"] == row["limit"] == "–"
    assert row["ours"].endswith(" ms")
    assert PASSES.save_picture(values, tmp_path / "x.png").is_file()


def test_the_hopeless_are_timed_once(monkeypatch):
    clock = {"now": 0.0}

    def fake_pass(contender, *rest):
        def call():
            clock["now"] += 30 if contender.name == "textbook" else 1 + random.random()

        return call

    monkeypatch.setattr(measures, "make_pass", fake_pass)
    monkeypatch.setattr("time.perf_counter", lambda: clock["now"])
    settings = BenchSettings(image_size=32, rounds=4, inference_batches=(2,), training_batches=(), memory=False)
    (timing,) = measure_network(FAST[0], settings, MACHINE)["timings"]
    rounds = {name: entry["rounds"] for name, entry in timing["contenders"].items()}
    assert rounds.pop("textbook") == 1
    assert set(rounds.values()) == {4}
    assert timing["contenders"]["textbook"]["seconds_per_image"]["median"] == pytest.approx(15)
    values = {"networks": [{"name": "x", "timings": [timing]}]}
    assert any(cell.endswith("(once)") for cell in time_table(values)[1][0])


def test_short_passes_run_more_rounds(monkeypatch):
    monkeypatch.setattr(measures, "CHEAP_SECONDS", 10)
    assert [measures.enough_rounds(4, seconds) for seconds in (0.1, 1, 5, 100)] == [20, 10, 4, 4]


def test_a_compiler_that_fails_is_a_note(monkeypatch):
    def no_compiler(*arguments, **options):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    settings = BenchSettings(
        image_size=32, rounds=1, inference_batches=(1,), training_batches=(), memory=False, compiled=True
    )
    found = measure_network(FAST[0], settings, MACHINE)
    assert found["errors"] == ["ours, compiled, inference, batch 1: RuntimeError: no C++ compiler"]


def test_compiling_is_timed_apart(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    settings = BenchSettings(
        image_size=32, rounds=1, inference_batches=(1,), training_batches=(), memory=False, compiled=True
    )
    values = {"networks": [measure_network(FAST[0], settings, MACHINE)]}
    entry = values["networks"][0]["timings"][0]["contenders"]["compiled"]
    assert entry["compile_seconds"] > 0
    assert "ours, compiled" in time_table(values)[0]


@pytest.mark.parametrize("contender", CONTENDERS.values(), ids=lambda contender: contender.name)
def test_contenders_compute_the_same_function(contender):
    """Static ones the static backbone's, all others that of the preset."""
    name = "od1x_mobilenetv2_050"
    plain = build(CONTENDERS["ours" if contender.dynamic else "static"], name, "cpu", 0, settle_on=32)
    model = build(contender, name, "cpu", 0)
    if contender.prepared:  # which is free to store something else
        plain = build(CONTENDERS["ours"], name, "cpu", 0)
    else:
        model.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = plain.eval().double()(images)
        with dynaconv.use_backend(contender.backend):
            found = model.eval().double()(images.contiguous(memory_format=contender.layout))
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)


def test_settling_keeps_numbers_in_bounds():
    model = build(CONTENDERS["ours"], FAST[0], "cpu", 0)
    momenta = [m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    settle(model, 32)
    assert [m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)] == momenta
    outputs = []
    model.bn2.register_forward_hook(lambda module, given, output: outputs.append(output))
    with torch.no_grad():
        model.eval()(torch.randn(8, 3, 32, 32))
    assert 0.1 < outputs[0].std() < 10


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"networks": ()}, "no networks"),
        ({"networks": ("kw1x_resnet180",)}, "no preset 'kw1x_resnet180'; did you mean kw1x_resnet18"),
        ({"networks": ("kw1x_resnet18",) * 2}, "network: kw1x_resnet18 is given more than once"),
        ({"inference_batches": (0,)}, "inference_batches: 0; expected a whole number"),
        ({"training_batches": (4, 4)}, "training_batches: 4 is given more than once"),
        ({"inference_batches": (), "training_batches": ()}, "are both empty"),
        ({"image_size": -1}, "image_size: -1"),
        ({"rounds": 0}, "rounds: 0"),
        ({"threads": 0}, "threads: 0"),
        ({"memory_batch": 0}, "memory_batch: 0"),
        ({"patience": 0}, "patience=0"),
        ({"max_extra_mb": -1}, "max_extra_mb=-1"),
        ({"device": "tpu"}, "device='tpu'; expected 'cpu' or 'cuda'"),
    ],
)
def test_requests_that_can_not_be_met(changes, text):
    with pytest.raises(DynaconvError, match=text):
        BenchSettings(**changes)


def test_networks_by_pattern():
    assert find_networks(["kw4x_resnet*", "kw4x_resnet18", "se_resnet18"]) == (
        "kw4x_resnet18",
        "kw4x_resnet50",
        "se_resnet18",
    )
    assert set(NETWORKS) <= set(find_networks(["*"])) == set(dynaconv.list_models())
    with pytest.raises(DynaconvError, match=r"no preset matches 'x\*'"):
        find_networks(["x*"])
    with pytest.raises(UnknownModelError, match="did you mean se_resnet18"):
        find_networks(["se_resnet1"])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "can not be read as JSON"),
        ("{", "can not be read as JSON"),
        ("[]", "is not of a benchmark"),
        ('{"kind": "bench", "format": 99}', "has format 99"),
        ('{"kind": "bench", "format": 1, "networks": []}', "holds no network"),
    ],
)
def test_files_that_can_not_be_shown(tmp_path, content, text):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DynaconvError, match=text):
        results_of(path)
