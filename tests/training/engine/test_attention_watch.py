"""Attention while a network is trained: figures, maps and an animation, and the run is the one without them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dynaconv.analysis.attention import collect_attention
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import DynaconvError
from dynaconv.training import EmaConfig, ImageDataModule, LoaderConfig, RunConfig, ScheduleConfig, fit
from dynaconv.training.config import FULLY_SHARDED
from dynaconv.training.engine import attention_watch
from dynaconv.training.engine.attention_watch import SAMPLE, AttentionWatch, animate
from dynaconv.training.engine.trained_module import TrainedModule
from dynaconv.training.runs.classification import begin
from tests.training.data.test_sources import make_folder
from tests.training.digits_on_disk import make_shards
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


def test_one_epoch_of_the_moving_average(tmp_path):
    """What is drawn is what is judged and saved: far from the network in training, at this decay."""
    schedule = ScheduleConfig(epochs=1, warmup_epochs=0, temperature_epochs=1)
    run = RunConfig(accelerator="cpu", attention_maps=5)
    recipe = tiny_recipe(schedule=schedule, run=run, ema=EmaConfig(decay=0.99, warmup=False))
    result = fit(recipe, tmp_path / "run")
    events = EventAccumulator(str(result.run_dir / "tensorboard"))
    events.Reload()
    data = ImageDataModule.from_recipe(recipe)
    data.setup()
    saved, _ = load_checkpoint(result.run_dir / "last")
    maps = collect_attention(saved, [data.val_sample(SAMPLE)])
    assert maps.maps[0].images == SAMPLE
    for name in maps.groups():
        (drawn,) = (event.value for event in events.Scalars(f"attention/effective_cells/{name}"))
        assert drawn == pytest.approx(maps.effective_cells(name), rel=1e-5)
        with Image.open(result.run_dir / "attention" / f"{name}.gif") as film:
            assert film.n_frames == 1


def test_images_are_of_all_classes_where_the_first_batch_is_of_one(tmp_path):
    make_folder(tmp_path / "data", {"train": {"cat": 1, "dog": 1}, "val": {"cat": 40, "dog": 40}})
    module, data = watched_run(data=str(tmp_path / "data"), loader=LoaderConfig(image_size=16, batch_size=8, workers=0))
    assert set(next(iter(data.val_dataloader()))[1].tolist()) == {0}
    images, labels = data.val_sample(20)
    assert torch.equal(AttentionWatch.of_run(module, data, tmp_path).images, data.val_sample(SAMPLE)[0])
    assert images.shape == (20, 3, 16, 16)
    assert 5 <= int(labels.sum()) <= 15
    everything = torch.cat([batch for batch, _ in data.val_dataloader()])
    assert all((one == everything).flatten(1).all(1).any() for one in images)
    assert torch.equal(images, data.val_sample(20)[0])
    assert not torch.equal(images, data.val_sample(20, seed=1)[0])


def test_the_first_batch_where_there_are_no_numbers(tmp_path):
    shards = make_shards(tmp_path / "shards")
    loader = LoaderConfig(image_size=16, in_chans=1, batch_size=8, workers=0)
    module, data = watched_run(data=f"wds:{shards}", loader=loader)
    watch = AttentionWatch.of_run(module, data, tmp_path)
    assert watch.images is None
    for number, batch in enumerate(data.val_dataloader()):
        watch.on_validation_batch_start(None, module, batch, number)
    assert torch.equal(watch.images, next(iter(data.val_dataloader()))[0])


def watched_run(**changes):
    """Module and data of a run that is watched."""
    beginning = begin(tiny_recipe(run=RunConfig(accelerator="cpu", attention_maps=1), **changes), None)
    return beginning.module, beginning.data


@pytest.mark.parametrize("method", [None, {"method": "dcd"}])
def test_a_network_that_does_not_attend_is_refused_before_training(tmp_path, method):
    run = RunConfig(accelerator="cpu", attention_maps=1)
    with pytest.raises(DynaconvError, match=r"model=resnet18.*has no layer that mixes kernels.*expected one of"):
        fit(tiny_recipe(method=method, run=run), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kernels", "mixing"), [(1, []), (2, ["2 kernels"])])
def test_every_kind_of_attention_is_drawn(kernels, mixing, tmp_path):
    """With one kernel, ODConv has channels, filters and positions alone."""
    schedule = ScheduleConfig(epochs=2, warmup_epochs=1, temperature_epochs=1)
    run = RunConfig(accelerator="cpu", attention_maps=1)
    recipe = tiny_recipe(schedule=schedule, run=run, method={"method": "odconv", "num_kernels": kernels})
    result = fit(recipe, tmp_path / "run")
    scaling = ["channel", "filter", "spatial"]
    stems = [name.replace(" ", "_") for name in mixing + scaling]
    files = [f"{stem}{end}" for stem in stems for end in ("-0001.png", "-0002.png", ".gif")]
    assert sorted(path.name for path in (result.run_dir / "attention").iterdir()) == sorted(files)
    events = EventAccumulator(str(result.run_dir / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    assert sorted(events.Tags()["images"]) == sorted(f"attention/{name}" for name in mixing + scaling)
    assert bool(mixing) == any(tag.startswith("attention/effective_cells") for tag in events.Tags()["scalars"])
    data = ImageDataModule.from_recipe(recipe)
    data.setup()
    saved, _ = load_checkpoint(result.run_dir / "last")
    maps = collect_attention(saved, [data.val_sample(SAMPLE)])
    for kind in scaling:
        first, last = (event.value for event in events.Scalars(f"attention/dependence/{kind}"))
        found = [one.dependence for one in maps.maps if one.kind == kind]
        assert last == pytest.approx(sum(found) / len(found), rel=1e-4)
        assert first != last


def test_attention_without_maps_is_refused_before_training(tmp_path, monkeypatch):
    for kind in ("sheets", "scale_sheets"):
        monkeypatch.setattr(attention_watch, kind, lambda maps: {})
    with pytest.raises(DynaconvError, match="attends to channel, filter, spatial alone"):
        AttentionWatch.of_run(*watched_run(method={"method": "odconv", "num_kernels": 1}), tmp_path)


def test_what_can_not_be_watched_is_refused(tmp_path):
    with pytest.raises(DynaconvError, match=r"run\.attention_maps"):
        RunConfig(attention_maps=-1)
    with pytest.raises(DynaconvError, match=r"run\.attention_maps=1; expected 0 beside run\.strategy='fsdp'"):
        RunConfig(attention_maps=1, strategy=FULLY_SHARDED)
    module, data = watched_run()
    other = TrainedModule(module.model, module.recipe)
    with pytest.raises(DynaconvError, match="draws attention of classifiers; got resnet18 in a TrainedModule"):
        AttentionWatch.of_run(other, data, tmp_path)
