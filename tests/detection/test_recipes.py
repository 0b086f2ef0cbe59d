"""The authors' recipes of COCO are what their configs say."""

from __future__ import annotations

import pytest

from dynaconv.cli.main import main
from dynaconv.detection import DetectionRecipe
from dynaconv.detection.recipes import DETECTORS
from dynaconv.errors import DynaconvError
from dynaconv.training.recipes import find_recipe, paper_recipe, paper_recipes

RECIPES = paper_recipes(DETECTORS)


def test_names_are_unique_and_kinds_fit():
    names = [recipe.name for recipe in RECIPES]
    assert len(set(names)) == len(names) > 15
    for recipe in RECIPES:
        assert recipe.network.startswith(recipe.recipe.detector.kind)
        assert isinstance(recipe.recipe, DetectionRecipe)
        assert (recipe.dataset.title, recipe.dataset.classes) == ("COCO 2017", 80)


@pytest.mark.parametrize("model", ["resnet50", "kw1x_resnet50", "kw4x_resnet50", "kw1x_mobilenetv2_100"])
def test_kernel_warehouse_with_mask_rcnn(model):
    recipe = paper_recipe(f"mask_rcnn-{model}", DETECTORS).recipe
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay, optimizer.global_batch) == ("adamw", 1e-4, 0.05, 16)
    assert tuple(optimizer.options["betas"]) == (0.9, 0.999)
    assert (schedule.epochs, schedule.kind, schedule.steps, schedule.factor) == (12, "step", (8, 11), 0.1)
    assert schedule.temperature_length == 0
    assert (recipe.detector.norms, recipe.detector.freeze_stages) == ("eval", 1)
    assert (recipe.detector.image_size, recipe.detector.max_size) == (800, 1333)
    assert recipe.augment.sizes == tuple(range(480, 801, 32))


def test_convnext_falls_later_and_drops_more():
    recipe = paper_recipe("mask_rcnn-kw1x_convnext_tiny", DETECTORS).recipe
    assert recipe.schedule.steps == (9, 11)
    assert recipe.backbone == {"drop_path_rate": 0.4}
    assert (recipe.detector.norms, recipe.detector.freeze_stages) == ("train", 0)


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_odconv_with_sgd(kind):
    recipe = paper_recipe(f"{kind}-od4x_resnet50-sgd", DETECTORS).recipe
    optimizer = recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("momentum", 0.02, 0.9, 1e-4)
    assert (recipe.schedule.steps, recipe.augment.sizes, recipe.augment.crop) == ((8, 11), (), 0.0)


def test_the_command_lists_and_prints(capsys, tmp_path):
    assert main(["detect", "recipes", "mask_rcnn-*"]) == 0
    listed = capsys.readouterr().out
    assert all(recipe.network in listed for recipe in RECIPES if recipe.network.startswith("mask_rcnn"))
    assert "faster_rcnn" not in listed
    assert main(["detect", "recipes", "mask_rcnn-kw1x_resnet50"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    values, _ = find_recipe(str(tmp_path / "mine.yaml"), DETECTORS)
    assert DetectionRecipe.from_dict(values) == paper_recipe("mask_rcnn-kw1x_resnet50", DETECTORS).recipe


def test_a_name_that_is_none():
    with pytest.raises(DynaconvError, match=r"did you mean .*faster_rcnn-od4x_resnet50-sgd"):
        find_recipe("faster_rcnn-od4x_resnet50", DETECTORS)
    with pytest.raises(DynaconvError, match="dynaconv detect recipes"):
        find_recipe("zzz", DETECTORS)
