"""Attention while a network is trained: figures, maps and an animation, and the run is the one without them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynaconv.errors import DynaconvError
from dynaconv.training import RunConfig, ScheduleConfig, fit
from dynaconv.training.config import FULLY_SHARDED
from dynaconv.training.engine.attention_watch import AttentionWatch, animate
from tests.training.tiny import tiny_recipe

EPOCHS = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    schedule = ScheduleConfig(epochs=EPOCHS, warmup_epochs=1, temperature_epochs=2)
    recipe = tiny_recipe(schedule=schedule)
    watched = replace(recipe, run=RunConfig(accelerator="cpu", attention_maps=2))
    return fit(recipe, folder / "plain"), fit(watched, folder / "watched")


def test_watching_changes_nothing(runs):
    plain, watched = ([{k: v for k, v in row.items() if k != "seconds"} for row in run.rows] for run in runs)
    assert plain == watched
    assert not (runs[0].run_dir / "attention").exists()


def test_pictures_and_an_animation_of_every_warehouse(runs):
    folder = runs[1].run_dir / "attention"
    films = sorted(folder.glob("*.gif"))
    assert films
    for film in films:
        names = sorted(path.name for path in folder.glob(f"{film.stem}-*.png"))
        assert names == [f"{film.stem}-000{epoch}.png" for epoch in (1, 2, 3)]  # the first, the second, the last
        with Image.open(film) as image, Image.open(folder / names[0]) as first:
            assert image.n_frames == 3
            assert image.size == first.size


def test_tensorboard_has_maps_and_figures_that_follow_the_temperature(runs):
    events = EventAccumulator(str(runs[1].run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    films = {path.stem for path in (runs[1].run_dir / "attention").glob("*.gif")}
    assert {tag.removeprefix("attention/") for tag in tags["images"]} == films
    shares = {}
    for name in films:
        assert len(events.Images(f"attention/{name}")) == 3
        shares[name] = [event.value for event in events.Scalars(f"attention/on_assignment/{name}")]
        assert 0 <= min(shares[name]) <= max(shares[name]) <= 1
        assert len(events.Scalars(f"attention/effective_cells/{name}")) == 3
    first, second, _ = (sum(values) for values in zip(*shares.values(), strict=True))
    assert first > second  # temperature falls over two epochs


def test_an_animation_shows_its_last_picture_longest(tmp_path):
    paths = []
    for number, colour in enumerate(("red", "blue")):
        paths.append(tmp_path / f"w-{number}.png")
        Image.new("RGB", (8, 6), colour).save(paths[-1])
    with Image.open(animate(paths, tmp_path / "w.gif")) as film:
        times = []
        for number in range(film.n_frames):
            film.seek(number)
            times.append(film.info["duration"])
    assert times[1] > times[0] > 0


def test_what_can_not_be_watched_is_refused(tmp_path):
    with pytest.raises(DynaconvError, match=r"run\.attention_maps"):
        RunConfig(attention_maps=-1)
    watch = AttentionWatch(1, tmp_path)
    with pytest.raises(DynaconvError, match="classifiers"):
        watch.on_validation_batch_start(None, None, ([1, 2], [3]), 0)
    module = type("Module", (), {"recipe": tiny_recipe(run=RunConfig(strategy=FULLY_SHARDED))})()
    with pytest.raises(DynaconvError, match="fsdp"):
        watch.on_fit_start(None, module)
