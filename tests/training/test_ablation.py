"""Variants are the paper's to the last parameter, figures have a source, and verdicts follow from the seeds."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from scipy import stats

import dynaconv
import dynaconv.training.runs.fitting as fitting
from dynaconv.convert import draft_plan
from dynaconv.errors import DynaconvError
from dynaconv.models.kernel_warehouse import published
from dynaconv.training import ScheduleConfig
from dynaconv.training.ablation import page
from dynaconv.training.ablation.ablate import ablation_of, judge, run_ablation
from dynaconv.training.ablation.statistics import NOT_SEPARATED, SEPARATED, TOO_FEW, difference_of
from dynaconv.training.ablation.tables import TABLES, find_tables
from dynaconv.training.ablation.variants import NARROW, Backbone, contenders_of, label_of
from tests.training.tiny import BACKBONE, static_recipe

RECIPE = static_recipe(schedule=ScheduleConfig(epochs=1, warmup_epochs=0))
PARTITION, DIMS = TABLES["partition"], TABLES["kernel-dims"]
EVERY = [(table, variant) for table in TABLES.values() for variant in table.variants]


@pytest.fixture(scope="module")
def full_width():
    """Every contender at the paper's width, by label; planned once."""
    return {contender.label: contender for contender in contenders_of(find_tables("all"), Backbone())}


def count(contender):
    config = None if contender.method is None else dynaconv.config_from_dict(contender.method)
    with torch.device("meta"):
        model = dynaconv.create_model(contender.model, config=config, where=contender.where)
    return sum(p.numel() for p in model.parameters())


def test_parameters_are_those_of_the_authors_networks(full_width):
    counted = {label: count(contender) for label, contender in full_width.items()}
    for table, variant in EVERY:
        assert counted[label_of(table.model, variant)] == variant.paper.params, (table.name, variant.name)


def test_variants_in_common_are_one_network(full_width):
    assert len(full_width) == 17
    assert len(contenders_of(find_tables("all"), Backbone(model="resnet18"))) == 15  # resnet50's and resnet18's are one
    assert [c.label for c in contenders_of([PARTITION], Backbone())] == [
        "resnet18 KW 1x",
        "resnet18 KW 1x, partition=none",
        "resnet18 static",
    ]


def test_the_first_row_is_the_authors_network(full_width):
    for label, preset in (("resnet18 KW 1x", "kw1x_resnet18"), ("resnet50 KW 1x", "kw1x_resnet50")):
        config = dynaconv.config_from_dict(full_width[label].method)
        expected = dynaconv.models.get_preset(preset)
        same = dataclasses.replace(config, branch_limit=expected.config.branch_limit)
        assert same == dataclasses.replace(expected.config, cell_scale=None)
        assert full_width[label].where == (None if expected.where is None else list(expected.where))


def test_narrow_networks_share_as_the_wide_ones_do(full_width):
    narrow = {c.label: c for c in contenders_of(find_tables("all"), Backbone(arguments=NARROW))}
    for label, contender in narrow.items():
        if contender.method is None:
            continue
        plans = []
        for one in (contender, full_width[label]):
            with torch.device("meta"):
                model = dynaconv.create_model(one.model, **one.backbone)
            plans.append(draft_plan(model, dynaconv.config_from_dict(one.method), one.where))
        here, there = ([(w.num_mixtures, w.num_cells) for w in plan.warehouses] for plan in plans)
        assert here == there, label


def test_no_start_is_the_one_to_one_network_at_the_end_of_its_temperature():
    """The paper's row without temperature and beta: the same function at every temperature, from the same weights."""
    networks = []
    for assignment in ("one-to-one", "none"):
        torch.manual_seed(0)
        config = published(assignment=assignment)
        networks.append(dynaconv.create_model("resnet18", config=config, **BACKBONE, num_classes=5).eval())
    usual, free = networks
    free.load_state_dict(usual.state_dict())
    images = torch.randn(2, 3, 32, 32)
    dynaconv.set_temperature(usual, 0.0)
    for temperature in (0.0, 0.5, 1.0):
        dynaconv.set_temperature(free, temperature)
        assert torch.equal(free(images), usual(images))
    dynaconv.set_temperature(usual, 0.5)
    assert not torch.allclose(free(images), usual(images))


def test_layers_at_the_same_place_share(full_width):
    sharing = full_width["resnet50 KW 1x, same place"].method["sharing"]
    assert sharing["layer2.1.conv1"] == sharing["layer2.2.conv1"] == sharing["layer3.0.downsample.0"]
    assert len({sharing[f"layer2.1.conv{i}"] for i in (1, 2, 3)}) == 3
    assert sharing["layer2.0.conv2"] != sharing["layer3.0.conv2"]


def test_backbones_that_do_not_fit():
    with pytest.raises(DynaconvError, match=r"'kw1x_resnet18' is a preset .* 'resnet18'"):
        contenders_of([PARTITION], Backbone(model="kw1x_resnet18"))
    with pytest.raises(DynaconvError, match=r"'KW 1x, same place' does not fit vgg11: no layers of different dim"):
        contenders_of([DIMS], Backbone(model="vgg11", where="features.*"))
    with pytest.raises(DynaconvError, match=r"does not fit resnet18: where pattern 'nowhere"):
        contenders_of([PARTITION], Backbone(where="nowhere*"))
    with pytest.raises(DynaconvError, match=r"'sharing' is not known; expected one of sharing-range, .*, all"):
        find_tables("sharing")


def test_fields_of_all_variants():
    backbone = Backbone(fields={"branch_start": 4.0, "assignment": "none"})
    methods = {c.label: c.method for c in contenders_of([TABLES["init-b1"]], backbone) if c.method}
    assert {m["branch_start"] for m in methods.values()} == {4.0}
    assert [m["assignment"] for m in methods.values()] == ["none", "all", "none"]


def test_every_number_of_the_paper_has_a_source():
    for _, variant in EVERY:
        figure = variant.paper
        if figure.top1 is None:
            assert figure.trust is None
            assert (figure.says == "") == (figure.source == "")
        else:
            assert figure.trust in ("read", "derived")
            assert figure.source


def test_numbers_known_from_memory_alone_are_nowhere():
    root = Path(__file__).parents[2]
    files = [*(root / "src/dynaconv/training/ablation").glob("*.py"), *root.glob("docs/ablations.md")]
    assert len(files) > 5
    for path in files:
        assert not re.search(r"\b(74\.34|72\.49|79\.80?|76\.03)\b", path.read_text()), path


def test_an_interval_is_students():
    first, second = [0.91, 0.94, 0.92, 0.95], [0.95, 0.95, 0.97, 0.96]
    found = difference_of([b - a for a, b in zip(first, second, strict=True)], rows=1)
    expected = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.verdict == NOT_SEPARATED
    shared = difference_of([b - a for a, b in zip(first, second, strict=True)], rows=3)
    expected = stats.ttest_rel(second, first).confidence_interval(1 - 0.05 / 3)
    assert (shared.low, shared.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("differences", "rows", "step", "verdict"),
    [
        ([0.02, 0.03, 0.025, 0.03], 1, 0.0, SEPARATED),
        ([-0.02, -0.03, -0.025, -0.03], 1, 0.0, SEPARATED),
        ([-0.02, 0.03, 0.025, -0.03], 1, 0.0, NOT_SEPARATED),
        ([0.02, 0.03, 0.025], 1, 0.0, SEPARATED),
        ([0.02, 0.03, 0.025], 5, 0.0, NOT_SEPARATED),  # one of five rows
        ([0.001, 0.001, 0.001], 1, 0.001, NOT_SEPARATED),  # an image more, three times
        ([0.0, 0.0, 0.0], 1, 0.0, NOT_SEPARATED),
        ([0.5], 1, 0.0, TOO_FEW),
    ],
)
def test_verdicts(differences, rows, step, verdict):
    assert difference_of(differences, rows, step).verdict == verdict


def test_differences_are_over_common_seeds():
    def entry(label, top1):
        runs = [{"seed": seed, "last_top1": value} for seed, value in top1.items()]
        return {
            "label": label,
            "runs": runs,
            "errors": [],
            **dict.fromkeys(("top1_mean", "top1_lowest", "top1_highest")),
        }

    entries = {
        "net KW 1x": entry("net KW 1x", {0: 0.9, 1: 0.8, 2: 0.7}),
        "net KW 1x, partition=none": entry("net KW 1x, partition=none", {1: 0.7, 2: 0.65, 5: 0.1}),
        "net static": entry("net static", {0: 0.8, 1: 0.7}),
    }
    table = judge(PARTITION, "net", entries)
    reference, variant, static = table["rows"]
    assert reference["difference"] is None
    assert variant["difference"]["mean"] == pytest.approx(-0.075)
    assert variant["difference"]["seeds"] == 2
    assert static["difference"]["verdict"] is None  # stands beside, and takes no share of the level
    assert table["level"] == 0.95
    assert judge(PARTITION, "other", entries) is None
    assert judge(TABLES["attention"], "net", entries) is None  # the reference and the static network alone


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    backbone = Backbone(model="resnet18", arguments=BACKBONE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "save_curves", lambda runs, path, panels: path)
        return out, run_ablation([PARTITION, DIMS], backbone, (0, 1), RECIPE, out)


def test_results_hold_all_tables(finished):
    _, result = finished
    values = json.loads(result.json.read_text())
    assert [table["table"] for table in values["tables"]] == ["partition", "kernel-dims"]
    assert len(values["contenders"]) == 4
    by_label = {entry["label"]: entry for entry in values["contenders"]}
    row = values["tables"][0]["rows"][1]
    runs = [[run["last_top1"] for run in by_label[f"resnet18 {name}"]["runs"]] for name in ("KW 1x", row["name"])]
    assert row["difference"]["mean"] == pytest.approx(sum(b - a for a, b in zip(*runs, strict=True)) / 2)
    assert row["parameters"] == by_label[row["label"]]["parameters"]
    assert row["paper"]["difference"] == -4.28
    assert values["step"] == 1 / 359
    assert result.picture.stat().st_size > 5_000


def test_page_says_what_is_known(finished):
    _, result = finished
    text = result.markdown.read_text()
    assert "70.49 (-4.28), derived" in text
    assert "| lower; number not known for certain |" in text
    assert "on resnet18 (the paper's: resnet50)" in text
    assert "Paper, 80.38, 78.44: read: KernelWarehouse README (June 2024)." in text
    assert result.values["command"] in text
    for table in result.values["tables"]:
        assert all(len(row) == len(page.HEADER) for row in page.table_rows(table))


def test_results_again_without_training(finished, monkeypatch):
    out, result = finished
    monkeypatch.setattr("dynaconv.training.comparison.runs.fit", None)
    again = ablation_of([PARTITION], out)
    assert again.values["tables"] == result.values["tables"][:1]


def test_a_folder_without_the_table(finished, monkeypatch):
    monkeypatch.setattr(
        "dynaconv.training.ablation.ablate.measure", lambda *_: {"errors": {}, "contenders": {}, "conditions": None}
    )
    with pytest.raises(DynaconvError, match="has no variants of attention"):
        ablation_of([TABLES["attention"]], finished[0])
