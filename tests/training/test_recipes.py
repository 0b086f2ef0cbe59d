"""The papers' recipes: every file is a recipe, every network has one, and the figures are the papers'."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import dynaconv
from dynaconv.errors import DynaconvError
from dynaconv.models import get_preset, list_models
from dynaconv.training import Recipe, ScheduleConfig
from dynaconv.training.recipes import find_recipe, paper_recipe, paper_recipes, preset_of, read_family
from dynaconv.training.runs.classification import build_model
from dynaconv.training.schedule import OptimizerConfig, accumulation, learning_rate_factor
from dynaconv.training.yaml_files import parse_yaml

COUNTED = json.loads((Path(__file__).parents[1] / "data" / "papers-parameters.json").read_text())["parameters"]
RECIPES = {recipe.name: recipe for recipe in paper_recipes()}
FIRST = [recipe.model for recipe in paper_recipes() if recipe.first]


def test_every_network_has_one_recipe_of_its_bare_name():
    assert set(list_models()) <= set(FIRST)
    assert len(FIRST) == len(set(FIRST))
    assert len(RECIPES) == len(paper_recipes())
    statics = {recipe.model for recipe in paper_recipes()} - set(list_models())
    assert statics <= {get_preset(name).backbone for name in list_models()}


def one_of_each_kind() -> list[str]:
    """Of the networks whose recipes ask for the same changes of the backbone, and that have the same method, the first.

    That every preset is built with its parameters is tested beside the presets.
    """
    kinds: dict[str, str] = {}
    for model in FIRST:
        preset = preset_of(model)
        method = None if preset is None else type(preset.config).__name__
        kinds.setdefault(f"{method} {sorted(paper_recipe(model).recipe.backbone.items())}", model)
    return list(kinds.values())


def test_presets_have_the_papers_parameters():
    presets = {model: preset for model in FIRST if (preset := preset_of(model)) is not None}
    counted = {model: preset.params for model, preset in presets.items() if model in COUNTED}
    assert counted == {model: COUNTED[model] for model in counted}
    assert len(counted) > 50


@pytest.mark.parametrize("model", one_of_each_kind())
def test_its_network_is_built_with_the_papers_parameters(model):
    with torch.device("meta"):
        network = build_model(paper_recipe(model).recipe, 1000, 3)[0]
    found = sum(p.numel() for p in network.parameters())
    preset = preset_of(model)
    assert found == (COUNTED.get(model, found) if preset is None else preset.params)


def test_recipes_of_one_network_by_other_schedules_build_too():
    for recipe in paper_recipes():
        assert recipe.recipe.optimizer.global_batch % recipe.recipe.loader.batch_size == 0
        assert recipe.recipe.backbone.keys() <= {"zero_init_last", "constant_drop_path", "drop_path_rate", "drop_rate"}
    with torch.device("meta"):
        for name in ("dy4x_resnet18@300", "dcd_mobilenetv2_050@300", "kw2x_resnet18@100"):
            build_model(RECIPES[name].recipe, 10, 3)


def test_a_reported_schedule_is_the_recipes():
    """Unless a recipe says that it is only the nearest, its epochs are those of the figure in `dynaconv models`."""
    for recipe in paper_recipes():
        preset = preset_of(recipe.model)
        if preset is None or not recipe.first or recipe.nearest or not preset.results:
            continue
        assert any(result.recipe.startswith(f"{recipe.recipe.schedule.epochs} epochs") for result in preset.results)
    without = [r.model for r in paper_recipes() if r.first and not r.nearest and preset_of(r.model)]
    assert all(
        get_preset(name).results or name == "dcd_resnet50" for name in without
    )  # which has a command in its README


def rate(name: str, epoch: float, per_epoch: int = 1000) -> float:
    recipe = RECIPES[name].recipe
    step, lr = round(epoch * per_epoch), recipe.optimizer.lr
    return lr * learning_rate_factor(step, recipe.schedule, per_epoch, lr)


@pytest.mark.parametrize(
    ("name", "epoch", "expected"),
    [
        ("kw1x_resnet18@300", 0, 4e-3 / 20_000),
        ("kw1x_resnet18@300", 20, 4e-3),
        ("kw1x_resnet18@300", 30, 1e-6 + (4e-3 - 1e-6) / 2 * (1 + math.cos(math.pi * 10 / 280))),
        ("kw1x_resnet18@300", 299, 1e-6 + (4e-3 - 1e-6) / 2 * (1 + math.cos(math.pi * 279 / 280))),
        ("kw1x_resnet18@300", 300, 1e-6),
        ("kw1x_mobilenetv2_100@150", 0, 0.05),
        ("kw1x_mobilenetv2_100@150", 75, (0.05 + 1e-6) / 2),
        ("kw1x_mobilenetv2_100@150", 75.5, 1e-6 + (0.05 - 1e-6) / 2 * (1 + math.cos(math.pi * 75.5 / 150))),
        ("od4x_resnet18@100", 29.999, 0.1),
        ("od4x_resnet18@100", 30, 0.01),
        ("od4x_resnet18@100", 99, 1e-4),
        ("od1x_mobilenetv2_100@150", 30, 0.025 * (1 + math.cos(math.pi * 0.2))),
        ("od1x_mobilenetv2_100@150", 30.999, 0.025 * (1 + math.cos(math.pi * 0.2))),
        ("dcd_resnet50@120", 119, 1e-4),
        ("dcd_mobilenetv2_100@300", 150, 0.05),
        ("kw4x_deit_tiny@300", 5, 1e-3),
        ("cond8x_efficientnet_b0@350", 5, 0.128 * 0.97**2),
        ("cond8x_efficientnet_b0@350", 349, 0.128 * 0.97**145),
    ],
)
def test_learning_rates_are_the_papers(name, epoch, expected):
    assert rate(name, epoch) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("kw1x_resnet18@300", 20),
        ("kw1x_mobilenetv2_100@150", 15),
        ("kw2x_resnet18@100", 10),
        ("od4x_resnet18@100", 10),
        ("od1x_mobilenetv2_100@150", 10),
    ],
)
def test_temperature_lengths_are_the_papers(name, epochs):
    assert RECIPES[name].recipe.schedule.temperature_length == epochs


def test_what_differs_between_presets():
    fields = {name: recipe.recipe for name, recipe in RECIPES.items()}

    def drop_path(name):
        return fields[name].backbone.get("constant_drop_path", 0)

    assert [drop_path(f"kw{b}_resnet18@300") for b in ("1d4x", "1d2x", "1x", "2x", "4x")] == [0, 0, 0.1, 0.1, 0.1]
    assert [drop_path(f"kw{b}_resnet50@300") for b in ("1d2x", "1x", "4x")] == [0.1] * 3
    assert (fields["kw1d4x_resnet18@300"].augment.mixup, fields["kw1d2x_resnet18@300"].augment.mixup) == (0, 0.8)
    assert fields["kw1x_convnext_tiny@300"].backbone == {"drop_path_rate": 0.3}
    assert fields["convnext_tiny@300"].backbone == {"drop_path_rate": 0.1}
    assert fields["kw1x_convnext_tiny@300"].ema.decay == 0.9999
    smooth = [name for name in list_models("kw*_mobilenetv2*") if fields[f"{name}@150"].augment.label_smoothing]
    assert smooth == ["kw1x_mobilenetv2_100", "kw4x_mobilenetv2_100", "kw4x_mobilenetv2_050"]
    assert fields["od4x_resnet18@100"].optimizer.decay_norms
    assert not fields["kw1x_resnet18@300"].optimizer.decay_norms


def test_drop_path_is_the_same_in_every_block():
    model = dynaconv.create_model("kw1x_resnet18", num_classes=3, **RECIPES["kw1x_resnet18@300"].recipe.backbone)
    rates = [m.drop_path.drop_prob for m in model.modules() if hasattr(m, "drop_path")]
    assert rates == [0.1] * 8
    assert float(model.layer1[0].bn2.weight.detach().min()) == 1
    with pytest.raises(DynaconvError, match=r"constant_drop_path=0.1: expected .* a ResNet"):
        dynaconv.create_model("mobilenetv2_050", constant_drop_path=0.1)


def test_a_printed_recipe_is_a_recipe(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(paper_recipe("kw1d4x_resnet18").to_yaml())
    values, paper = find_recipe(str(file))
    assert paper is None
    assert Recipe.from_dict(values) == paper_recipe("kw1d4x_resnet18").recipe
    assert "timm 0.3.2" in file.read_text()
    for recipe in paper_recipes():
        assert Recipe.from_dict(parse_yaml(recipe.to_yaml(), recipe.name)) == recipe.recipe


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kw1x_resnet8", "no recipe 'kw1x_resnet8', and no such file; did you mean kw1x_resnet18"),
        ("kw1x_resnet18@90", "there is kw1x_resnet18@300, kw1x_resnet18@100"),
        ("here/not.yaml", "there is no recipe file here/not.yaml"),
    ],
)
def test_a_recipe_that_is_not_there(name, text):
    with pytest.raises(DynaconvError, match=text):
        find_recipe(name)


def test_a_family_is_no_recipe_and_is_read_strictly(tmp_path):
    family = {
        "about": "a", "source": "b", "trust": "read", "dataset": "imagenet", "differs": [],
        "recipe": {"optimizer": {"lr": 0.1}}, "networks": [{"models": ["resnet18"]}],
    }  # fmt: skip
    assert read_family("f", json.dumps(family))[0].recipe.optimizer.lr == 0.1
    file = tmp_path / "f.yaml"
    file.write_text(json.dumps(family))
    with pytest.raises(DynaconvError, match="recipes of many networks"):
        find_recipe(str(file))
    for changed, text in (
        ({"recipes": {}}, "unknown fields \\['recipes'\\]"),
        ({"recipe": {"optimizer": {"rl": 0.1}}}, "optimizer has unknown fields"),
        ({"networks": [{"models": ["resnet18"], "neares": "x"}]}, "f, network 1: unknown fields"),
        ({"networks": [{"models": ["kw9*"]}]}, "no preset matches 'kw9\\*'"),
    ):
        with pytest.raises(DynaconvError, match=text):
            read_family("f", json.dumps({**family, **changed}))


@pytest.mark.parametrize(
    ("wanted", "batch", "asked", "devices", "expected"),
    [(None, 7, None, 3, 1), (None, 7, 5, 3, 5), (4096, 128, None, 8, 4), (4096, 128, 4, 8, 4), (256, 32, None, 8, 1)],
)
def test_iterations_of_a_global_batch(wanted, batch, asked, devices, expected):
    assert accumulation(OptimizerConfig(global_batch=wanted), batch, asked, devices) == expected


@pytest.mark.parametrize(
    ("wanted", "batch", "asked", "devices", "text"),
    [
        (4096, 128, None, 3, "give optimizer.global_batch=3840 or 4224"),
        (256, 100, None, 2, "give loader.batch_size=64, or optimizer.global_batch=200 or 400"),
        (256, 128, None, 8, "give loader.batch_size=32, or optimizer.global_batch=1024, with"),
        (256, 32, 2, 8, "make 512; drop run.accumulate"),
    ],
)
def test_a_global_batch_that_does_not_divide(wanted, batch, asked, devices, text):
    with pytest.raises(DynaconvError, match=text):
        accumulation(OptimizerConfig(global_batch=wanted), batch, asked, devices)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: ScheduleConfig(kind="linear"), "schedule.kind='linear'; expected cosine or step"),
        (lambda: ScheduleConfig(update="day"), "schedule.update"),
        (lambda: ScheduleConfig(steps=()), "schedule.steps"),
        (lambda: ScheduleConfig(steps=(0.0, 3.0)), "schedule.steps"),
        (lambda: ScheduleConfig(factor=0), "schedule.factor"),
        (lambda: ScheduleConfig(min_lr=-1), "schedule.min_lr"),
        (lambda: OptimizerConfig(global_batch=0), "optimizer.global_batch"),
        (lambda: Recipe.from_dict({"schedule": {"kind": "linear"}}), "schedule.kind='linear'"),
        (lambda: Recipe.from_dict({"optimizer": {"lr": "4e-3"}}), "optimizer.lr='4e-3'"),
    ],
)
def test_values_outside_their_domain(make, text):
    with pytest.raises(DynaconvError, match=text):
        make()


def test_steps_survive_plain_types():
    for steps in ((30.0, 60.0), 2.4):
        recipe = Recipe(schedule=ScheduleConfig(kind="step", steps=steps))
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
