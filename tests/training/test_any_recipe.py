"""Any nested values as a recipe or a method: it is built, or a DynaconvError says why not; never anything else."""

from __future__ import annotations

import dataclasses
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import dynaconv
from dynaconv.convert import config_types
from dynaconv.errors import DynaconvError
from dynaconv.training import (
    AugmentConfig,
    LoaderConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    TuneConfig,
)
from dynaconv.training.runs.fitting import load_recipe
from tests.training.tiny import static_recipe

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.sampled_from(
        [2**64, -(2**70), 10**400, math.nan, math.inf, -math.inf, 0.5, 1e-300, "auto", "stage", "4M", "x", ""]
    ),
    st.floats(),
    st.text(max_size=5),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


def of_fields(cls):
    """Some fields of a dataclass with anything in them, and now and then a field that it does not have."""
    names = [field.name for field in dataclasses.fields(cls)]
    return st.dictionaries(st.sampled_from(names), anything, max_size=3)


groups = {
    "loader": LoaderConfig,
    "augment": AugmentConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "run": RunConfig,
    "tune": TuneConfig,
}
recipes = st.one_of(
    anything,
    of_fields(Recipe),
    st.fixed_dictionaries({}, optional={name: of_fields(cls) | anything for name, cls in groups.items()}),
)


@given(recipes)
@settings(max_examples=100, deadline=None)
def test_any_recipe(values):
    try:
        recipe = Recipe.from_dict(values)
    except DynaconvError:
        return
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    yaml.safe_dump(recipe.to_dict())


@pytest.mark.parametrize("method", config_types())
def test_any_method(method):
    cls = config_types()[method]

    @given(of_fields(cls) | anything)
    @settings(max_examples=40, deadline=None)
    def check(values):
        if isinstance(values, dict):
            values = {"method": method, **values}
        try:
            config = dynaconv.config_from_dict(values)
        except DynaconvError:
            return
        hash(config)
        assert dynaconv.config_from_dict(config.to_dict()) == config

    check()


@given(st.dictionaries(st.sampled_from(["method", "budget", "x"]), anything, max_size=2))
def test_any_method_name(values):
    try:
        dynaconv.config_from_dict(values)
    except DynaconvError:
        pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScheduleConfig(epochs=5, warmup_epochs=20), r"warmup_epochs=20; expected 0 to schedule.epochs, 5"),
        (lambda: ScheduleConfig(epochs=5, temperature_epochs=6), r"temperature_epochs=6; expected 0 to .* 5, or null"),
        (lambda: static_recipe(tune=TuneConfig(source="timm", freeze_epochs=3)), r"freeze_epochs=3; expected at most"),
        (
            lambda: static_recipe(loader=LoaderConfig(batch_size=1), augment=AugmentConfig(mixup=0.2)),
            r"loader.batch_size=1; expected at least 2 beside augment.mixup",
        ),
        (lambda: OptimizerConfig(lr=math.inf), r"optimizer.lr=inf; expected float"),
        (lambda: OptimizerConfig(lr="1e-3"), r"optimizer.lr='1e-3'; expected float"),  # pyright: ignore
        (lambda: AugmentConfig(mixup=math.nan), r"augment.mixup=nan"),
        (lambda: AugmentConfig(crop_scale=(0.1, 0.2, 0.3)), r"crop_scale=\(0.1, 0.2, 0.3\); expected tuple"),  # pyright: ignore
        (lambda: RunConfig(seed=2**32), r"run.seed=4294967296; expected 0 to 2\^32 - 1"),
        (lambda: static_recipe(where=[3]), r"where=\[3\]; expected"),
        (lambda: static_recipe(backbone={1: 2}), r"backbone=\{1: 2\}"),
    ],
)
def test_contradictions_are_refused_when_a_recipe_is_made(make, message):
    with pytest.raises(DynaconvError, match=message):
        make()


def test_a_preset_with_a_method_is_refused_before_anything_is_written(tmp_path):
    recipe = dataclasses.replace(static_recipe(), model="kw1x_resnet18", method={"budget": 0.5}, backbone={})
    with pytest.raises(DynaconvError, match="is a preset with a config of its own"):
        dynaconv.training.fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_file_with_wrong_types(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text, message in (
        ("- 1", "recipe is a list; expected a mapping"),
        ("run: {seed: [1]}", r"run.seed=\[1\]; expected int"),
        ("augment: {mixup: .nan}", "augment.mixup=nan"),
        ("? [1, 2]\n: 3", "can not be read as YAML"),
        ("1: 2", r"unknown fields \['1'\]"),
    ):
        path.write_text(text)
        with pytest.raises(DynaconvError, match=message):
            load_recipe(path)
