"""What a run would be: on data that are there, on a data set's numbers, for other machines, and how true it is."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import dynaconv
import dynaconv.training.estimates.step_cost as step_cost
from dynaconv.cli.main import main
from dynaconv.errors import DynaconvError
from dynaconv.training import EmaConfig, LoaderConfig, OptimizerConfig, RunConfig, ScheduleConfig, TuneConfig
from dynaconv.training.estimates.dry_run import count_processes, dry_run, numbers_of
from dynaconv.training.estimates.dry_run_text import describe
from dynaconv.training.estimates.schedule_picture import PLAIN, chart, course_of
from dynaconv.training.recipes import DATASETS, paper_recipe
from dynaconv.training.runs.classification import build_model
from tests.training.data.test_sources import make_folder
from tests.training.tiny import BATCH, IMAGES, METHOD, static_recipe, tiny_recipe

HERE = RunConfig(accelerator="cpu", devices=1)


def test_a_dry_run_of_a_real_set():
    recipe = tiny_recipe(
        optimizer=OptimizerConfig(name="sgd", lr=0.5, weight_decay=0.1, global_batch=2 * BATCH),
        schedule=ScheduleConfig(epochs=4, warmup_epochs=0, temperature_epochs=2),
        ema=EmaConfig(decay=0.9),
        run=HERE,
    )
    found = dry_run(recipe)
    assert (found.data.train, found.data.val, found.data.classes) == (IMAGES, 359, 10)
    assert found.data.origin == "counted in digits"
    network = build_model(recipe, 10, 1)[0]
    weights = sum(p.numel() for p in network.parameters())
    assert found.parameters == weights == found.plan.parameters_after
    assert sum(group.parameters for group in found.groups) == weights
    assert {group.weight_decay for group in found.groups} == {0, 0.1}
    assert (found.processes, found.accumulate, found.iterations, found.steps) == (1, 2, 3, 2)
    assert found.global_batch == 2 * BATCH
    assert found.course.temperature[:5] == (1, 0.75, 0.5, 0.25, 0)
    assert found.course.learning_rate[0] == 0.5
    memory = found.memory
    assert memory.gradients == memory.optimizer == 4 * weights
    assert memory.average == memory.weights >= 4 * weights
    assert memory.buckets == 0
    assert memory.activations > BATCH * 16 * 16 * 4
    time = found.step_time
    assert time.batch_size <= BATCH
    assert 0 < time.spread[0] <= time.seconds <= time.spread[1]
    assert found.epoch_seconds == pytest.approx(IMAGES * time.seconds / time.batch_size)


def test_text_says_it_all():
    paper = paper_recipe("kw1x_deit_tiny")
    recipe = dataclasses.replace(paper.recipe, optimizer=dataclasses.replace(paper.recipe.optimizer, lr=0.5), run=HERE)
    found = dry_run(recipe, paper, measure=False)
    text = describe(found, short=True, blocks=PLAIN)
    for part in (
        "kw1x_deit_tiny@300: DeiT-Tiny on ImageNet",
        "NEAREST       not this network's own: how KernelWarehouse's paper trained DeiT-Tiny was not found",
        "by flags: optimizer.lr=0.5",
        "6,430,648 parameters",
        "1,281,167 training and 50,000 validation images, 1000 classes, 3 x 224 x 224 (ImageNet's numbers",
        "cosine to 1e-05, moved every epoch",
        "1,024 images = 1 device x 256 images x 4 iterations",
        "1,251 an epoch (5,004 iterations), 375,300 in all",
        "time          not asked for",
    ):
        assert part in text
    assert "blocks.0.attn.qkv" not in text
    assert "blocks.0.attn.qkv" in describe(found)


def test_a_static_network_and_one_of_another_method():
    text = describe(dry_run(static_recipe(run=HERE), measure=False))
    assert "none: a static network" in text
    assert "temperature   none" in text
    found = dry_run(tiny_recipe(method={"method": "odconv"}, run=HERE), measure=False)
    assert found.course.temperature[0] == 30


def test_numbers_of_data_that_are_there_or_not(tmp_path):
    imagenet = DATASETS["imagenet"]
    paper = paper_recipe("kw1x_resnet18").recipe
    for data in (f"folder:{tmp_path}/none", f"{tmp_path}/none"):
        numbers = numbers_of(dataclasses.replace(paper, data=data), imagenet)
        assert (numbers.train, numbers.val, numbers.classes, numbers.image_size) == (1_281_167, 50_000, 1000, 224)
        assert "does not exist" in numbers.origin
    with pytest.raises(DynaconvError, match="does not exist or is no folder"):
        numbers_of(dataclasses.replace(paper, data=f"folder:{tmp_path}/none"), None)
    root = make_folder(tmp_path / "data", {"train": {"a": 2, "b": 1}, "val": {"a": 1, "b": 1}})
    numbers = numbers_of(dataclasses.replace(paper, data=f"folder:{root}"), imagenet)
    assert (numbers.train, numbers.val, numbers.classes) == (3, 2, 2)
    assert numbers.origin == f"counted in folder:{root}"
    assert numbers_of(dataclasses.replace(paper, data="digits"), imagenet).train == 1438


@pytest.mark.parametrize(("devices", "expected"), [(8, 8), ("8", 8), ("0,1,3", 3), ("2,", 1)])
def test_devices_that_are_named_need_not_be_here(devices, expected):
    assert count_processes(RunConfig(accelerator="gpu", devices=devices)) == expected


def test_devices_that_must_be_looked_for():
    assert count_processes(RunConfig(accelerator="cpu")) == 1
    if not torch.cuda.is_available():
        with pytest.raises(DynaconvError, match=r"finds no device here .* say how many, as --devices 8"):
            count_processes(RunConfig(accelerator="gpu"))


def test_several_devices_share_the_images():
    recipe = dataclasses.replace(paper_recipe("kw1x_mobilenetv2_100").recipe, run=RunConfig(devices=8))
    found = dry_run(recipe, paper_recipe("kw1x_mobilenetv2_100"), measure=False)
    assert (found.accumulate, found.iterations, found.global_batch) == (1, 160_146 // 32, 256)
    assert found.memory.buckets == found.memory.gradients


def test_a_run_that_goes_on_from_another_has_none():
    with pytest.raises(DynaconvError, match="this recipe has a tune"):
        dry_run(tiny_recipe(tune=TuneConfig(source="x")))


def test_a_step_that_does_not_fit_is_not_measured(monkeypatch):
    monkeypatch.setattr(step_cost, "available_bytes", lambda device: 10**6)
    found = dry_run(static_recipe(run=HERE))
    assert found.step_time.startswith("not measured: some 0.0 GB are needed, 0.0 GB are free here")
    assert found.epoch_seconds is None
    assert "time          not measured" in describe(found)


def test_what_can_not_be_counted_is_left_out(monkeypatch):
    def refuse(*arguments):
        raise DynaconvError("no shapes")

    monkeypatch.setattr(step_cost, "saved_bytes", refuse)
    found = dry_run(static_recipe(run=HERE), measure=False)
    assert found.memory.activations is None
    assert found.memory.total == found.memory.weights + found.memory.gradients + found.memory.optimizer
    assert "without activations, which could not be counted on shapes" in describe(found)


def test_chart_and_course():
    assert chart([0, 1, 2, 3, 4], height=4, blocks=" #") == ["    #", "   ##", "  ###", " ####"]
    assert chart([0, 0], height=1) == ["  "]
    model = dynaconv.create_model("resnet18", num_classes=3)
    course = course_of(static_recipe(schedule=ScheduleConfig(epochs=2, kind="step", steps=(1,))), model, 2, points=60)
    assert course.epochs == (0, 0.5, 1, 1.5)
    assert course.learning_rate == pytest.approx([2e-3, 4e-3, 4e-4, 4e-4])
    assert course.temperature is None


def test_the_command_writes_no_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--devices", "1", "--accelerator", "cpu", "--data", "digits", "--loader.limit", "64"]
    flags += ["--image-size", "32", "--batch-size", "32", "--optimizer.global_batch", "32"]
    flags += ["--schedule.warmup_epochs", "1", "--schedule.temperature_epochs", "1"]
    command = ["train", "--epochs", "3", "--recipe", "kw1d4x_resnet18", *flags]
    assert main([*command, "--dry-run", "--out", "pictures"]) == 0
    text = capsys.readouterr().out
    assert "layer1.0.conv1" in text
    assert "counted in digits" in text
    assert "schedule.epochs=3" in text
    assert "a step of" in text
    assert [str(p) for p in tmp_path.rglob("*") if p.is_file()] == [
        str(tmp_path / "pictures" / "kw1d4x_resnet18@300-schedule.png")
    ]
    assert main(["train", "--model", "resnet19", "--dry-run"]) == 2
    assert "'resnet19' is neither a preset" in capsys.readouterr().err


def test_a_dry_run_says_what_training_takes(tmp_path):
    """Steps, rates and batch of a real run of the same recipe."""
    from dynaconv.training import fit
    from dynaconv.training._lightning import Callback

    rates = []

    class Rates(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    recipe = tiny_recipe(
        method=METHOD,
        loader=LoaderConfig(image_size=16, batch_size=8, limit=IMAGES),
        optimizer=OptimizerConfig(
            lr=1.0, name="momentum", global_batch=16, decay_norms=True, options={"dampening": 0.1}
        ),
        schedule=ScheduleConfig(epochs=3, kind="step", steps=(1, 2), warmup_epochs=0),
        run=HERE,
    )
    found = dry_run(recipe, measure=False)
    fit(recipe, tmp_path, callbacks=(Rates(),))
    assert len(rates) == found.steps * 3 == 9
    assert rates == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 3)
    assert rates == pytest.approx(found.course.learning_rate)
    assert len(found.groups) == 1  # norms decay, too


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes", "kw*_resnet18"]) == 0
    text = capsys.readouterr().out
    assert "kw1x_resnet18@100" in text
    assert "nearest" in text
    assert main(["recipes", "kw1x_resnet18@100"]) == 0
    assert "KernelWarehouse's paper has it at 100 epochs; its settings were not found" in capsys.readouterr().out
    assert main(["recipes", "--markdown"]) == 0
    assert "| RandAugment, mixup 0.8, cutmix 1, erasing 0.25, smoothing 0.1" in capsys.readouterr().out
    assert main(["recipes", "kw9*"]) == 2
    assert "no recipe matches 'kw9*'" in capsys.readouterr().err


def test_a_step_of_a_batch_in_parts_is_the_papers(capsys):
    command = ["train", "--recipe", "kw1x_resnet18", "--data", "digits", "--run.accelerator", "cpu"]
    assert main([*command, "--devices", "1", "--batch-size", "100"]) == 2
    assert "optimizer.global_batch=4096 is no multiple of 1 device x loader.batch_size=100" in capsys.readouterr().err
    assert main(["train", "--recipe", "kw1x_resnet18"]) == 2
    assert "recipe kw1x_resnet18@300 is for ImageNet: say where it lies" in capsys.readouterr().err
    assert main(["train", "--recipe", "kw1x_resnet18", "--recipe", "x"]) == 2
    assert "expected it once" in capsys.readouterr().err


def test_a_printed_config_holds_the_recipe_and_what_overrides_it(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--lr", "0.5", "--recipe=kw1x_convnext_tiny", "--backbone.drop_rate", "0.1", "--print_config"])
    values = json.loads(json.dumps(__import__("yaml").safe_load(capsys.readouterr().out)))
    assert values["optimizer"]["lr"] == 0.5
    assert values["backbone"] == {"drop_path_rate": 0.3, "drop_rate": 0.1}
    assert (values["model"], values["schedule"]["min_lr"]) == ("kw1x_convnext_tiny", 1e-6)
