from __future__ import annotations

import pytest

from dynaconv.errors import DynaconvError
from dynaconv.training import AugmentConfig, LoaderConfig, Recipe, RunConfig, ScheduleConfig
from tests.training.tiny import tiny_recipe


def test_recipe_survives_plain_types():
    recipe = tiny_recipe(augment=AugmentConfig(crop_scale=(0.5, 0.9), mixup=0.2))
    plain = recipe.to_dict()
    assert plain["augment"]["crop_scale"] == [0.5, 0.9]
    assert Recipe.from_dict(plain) == recipe


def test_missing_fields_keep_their_defaults():
    assert Recipe.from_dict({"model": "resnet50", "schedule": {"epochs": 7}}) == Recipe(
        model="resnet50", schedule=ScheduleConfig(epochs=7)
    )


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"modell": "resnet18"}, "unknown fields \\['modell'\\]"),
        ({"schedule": {"epoch": 3}}, "schedule has unknown fields \\['epoch'\\]"),
        ({"schedule": {"epochs": "many"}}, "schedule.epochs='many'"),
        ({"schedule": {"epochs": 0}}, "schedule.epochs=0; expected at least 1"),
        ({"run": {"seed": True}}, "run.seed=True"),
        ({"loader": 3}, "loader is a int"),
    ],
)
def test_from_dict_says_what_is_wrong(values, text):
    with pytest.raises(DynaconvError, match=text):
        Recipe.from_dict(values)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LoaderConfig(batch_size=0), "loader.batch_size=0"),
        (lambda: LoaderConfig(in_chans=4), "1 or 3"),
        (lambda: AugmentConfig(label_smoothing=1.0), "label_smoothing"),
        (lambda: AugmentConfig(crop_scale=(0.9, 0.1)), "smallest <= largest"),
        (lambda: RunConfig(accumulate=0), "run.accumulate=0"),
        (lambda: ScheduleConfig(temperature_epochs=-1), "temperature_epochs"),
    ],
)
def test_values_outside_their_domain(make, text):
    with pytest.raises(DynaconvError, match=text):
        make()


def test_temperature_takes_a_tenth_of_the_epochs_unless_said():
    assert ScheduleConfig(epochs=300).temperature_length == 30
    assert ScheduleConfig(epochs=300, temperature_epochs=20).temperature_length == 20
    assert ScheduleConfig(epochs=300, temperature_epochs=0).temperature_length == 0
