"""Every command from end to end, on a network that trains in a second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import dynaconv.training.demo as demo
from dynaconv.analysis.attention import AttentionMaps
from dynaconv.cli.main import main
from dynaconv.cli.options import epoch_line, expand_short, format_table
from dynaconv.errors import RunWarning
from dynaconv.training import LoaderConfig
from dynaconv.training.data.sources import open_source
from tests.training.tiny import METHOD, tiny_recipe

TRAIN = [
    "train", "--model", "resnet18", "--method.partition", "channel", "--method.budget", "1",
    "--backbone.channels", "[16,16,32,32]", "--data", "digits", "--image-size", "16", "--batch-size", "16",
    "--loader.limit", "32", "--epochs", "1", "--seed", "3", "--run.accelerator", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    assert main([*TRAIN, "--out", str(out), "--name", "tiny", "--run-id", "one"]) == 0
    return out / "tiny" / "one"


@pytest.fixture
def digit(tmp_path) -> Path:
    images = open_source("digits", LoaderConfig()).val.images
    path = tmp_path / "digit.png"
    Image.fromarray(np.asarray(images[0, 0])).save(path)
    return path


def test_train_writes_a_run(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["method"] == {"partition": "channel", "budget": 1}
    assert config["run"]["seed"] == 3
    assert (run / "best.safetensors").is_file()
    assert len((run / "metrics.csv").read_text().splitlines()) == 2


def test_train_says_where_things_are(tmp_path, capsys):
    assert main([*TRAIN, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    folder = next((tmp_path / "resnet18").iterdir())
    assert f"everything goes to {folder}" in text
    assert "epoch 1/1  loss" in text
    assert "tau 0.00" in text
    assert f"dynaconv eval {folder / 'best'}" in text


def test_train_from_a_file_and_resume(run, tmp_path, capsys):
    arguments = ["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path), "--name", "a", "--run-id", "b"]
    assert main(arguments) == 0
    again = yaml.safe_load((tmp_path / "a" / "b" / "config.yaml").read_text())
    assert again == yaml.safe_load((run / "config.yaml").read_text())
    recipe = {**again, "schedule": {**again["schedule"], "epochs": 2}}
    config = tmp_path / "a" / "b" / "config.yaml"
    config.write_text(yaml.safe_dump(recipe))
    capsys.readouterr()
    with pytest.warns(RunWarning, match="schedule.epochs is 1 there and 2 now: from here on"):
        assert main(["train", "--resume", str(config.parent)]) == 0
    text = capsys.readouterr().out
    assert "epoch 2/2" in text
    assert "epoch 1/2" not in text
    assert "finished already" not in text
    assert main(["train", "--resume", str(config.parent)]) == 0
    text = capsys.readouterr().out
    assert "had finished already, with 2 of 2 epochs; nothing was trained" in text
    assert "best validation accuracy" in text
    assert main(["train", "--resume", str(config.parent), "--dry-run"]) == 2
    assert "drop --recipe and --dry-run" in capsys.readouterr().err
    config.write_text(config.read_text().replace("budget: 0.5", "budget: 1.0").replace("lr: 0.001", "lr: 0.01"))
    assert main(["train", "--resume", str(config.parent)]) == 2
    assert "than its config.yaml: optimizer.lr is 0.001 there and 0.01 now. Put the old" in capsys.readouterr().err


def test_train_refuses_a_folder_with_a_run(run, capsys):
    arguments = [*TRAIN, "--out", str(run.parent.parent), "--name", "tiny", "--run-id", "one"]
    assert main(arguments) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_eval(run, capsys):
    assert main(["eval", str(run / "best"), "--accelerator", "cpu"]) == 0
    text = capsys.readouterr().out
    assert main(["eval", str(run / "best"), "--accelerator", "cpu", "--batch-size", "7", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert f"top-1 {metrics['val_top1']:.2%}, top-5 {metrics['val_top5']:.2%}" in text


def test_predict(run, digit, capsys):
    assert main(["predict", str(digit), str(digit), "--checkpoint", str(run / "best"), "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[:3] == lines[3:]
    assert lines[0].startswith(str(digit))
    assert lines[0].endswith("%")


def test_predict_json(run, digit, capsys):
    assert main(["predict", str(digit), "--checkpoint", str(run / "best"), "--top", "99", "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)[0]
    shares = [item["probability"] for item in entry["classes"]]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert shares == sorted(shares, reverse=True)
    assert {item["class"] for item in entry["classes"]} == {str(i) for i in range(10)}


def test_predict_agrees_with_the_validation(run, tmp_path):
    """The file path and the memory path see the same digits."""
    import torch

    from dynaconv.checkpoints.native import load_checkpoint
    from dynaconv.training import ImageDataModule, predict

    data = ImageDataModule("digits", LoaderConfig(image_size=16, batch_size=20))
    data.setup()
    images, _ = next(iter(data.val_dataloader()))
    with torch.inference_mode():
        expected = load_checkpoint(run / "best")[0](images).softmax(1)
    paths = []
    for i in range(20):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.asarray(data.source.val.images[i, 0])).save(paths[-1])
    found = predict(run / "best", paths, top=10)
    values = torch.tensor([[dict(p.classes)[str(c)] for c in range(10)] for p in found])
    torch.testing.assert_close(values, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("name", "text"), [("none.png", "there is no such file"), ("text.png", "can not be read as an image: none of JPEG")]
)
def test_predict_bad_image(run, tmp_path, capsys, name, text):
    (tmp_path / "text.png").write_text("no image")
    assert main(["predict", str(tmp_path / name), "--checkpoint", str(run / "best")]) == 1
    assert text in capsys.readouterr().err


def test_plan(capsys, tmp_path):
    assert main(["plan", "kw1d2x_resnet18"]) == 0
    preset = capsys.readouterr().out
    assert "7,431,044" in preset
    assert main(["plan", "resnet18", "--method.budget", "0.5", "--method.cell_scale", "0.5"]) == 0
    assert "7,431,044" in capsys.readouterr().out
    config = tmp_path / "kw.yaml"
    config.write_text("method: {budget: 0.5, cell_scale: 0.5}\n")
    assert main(["plan", "resnet18", "--config", str(config)]) == 0
    assert "7,431,044" in capsys.readouterr().out
    assert main(["plan", "resnet18", "--method.params", "4.04M"]) == 0
    assert "asked for:         params='4.04M': b = 0.25" in capsys.readouterr().out
    assert main(["plan", "resnet18", "--where", "layer4.*"]) == 0
    assert "layer3.0.conv1" not in capsys.readouterr().out.partition("left static")[0]


def test_models(capsys):
    assert main(["models", "kw1*x_resnet18"]) == 0
    text = capsys.readouterr().out
    assert "paper's top-1 %" in text
    line = next(line for line in text.splitlines() if line.startswith("kw1x_resnet18"))
    assert "11,932,148" in line
    assert "74.77" in line
    assert "kw4x" not in text
    assert main(["models"]) == 0
    assert "kw1x_convnext_tiny" in capsys.readouterr().out


def test_demo(tmp_path, capsys, monkeypatch):
    """The whole command; the networks are thinner here than there."""

    def small(config, *, data, epochs, seed):
        return tiny_recipe(method=None if config is None else METHOD, schedule=demo.ScheduleConfig(epochs=epochs))

    monkeypatch.setattr(demo, "demo_recipe", small)
    for _ in range(2):  # the second replaces the first
        assert main(["demo", "--out", str(tmp_path), "--epochs", "1"]) == 0
    text = capsys.readouterr().out
    for label, figure in (("static", "70.44 %"), ("KW 1/2x", "73.33 %"), ("KW 1x", "74.77 %")):
        line = next(line for line in text.splitlines() if line.startswith(f"ResNet18, {label} "))
        assert figure in line
    assert (tmp_path / "curves.png").is_file()
    for folder in ("static", "kw-half", "kw-one"):
        assert (tmp_path / folder / "best.safetensors").is_file()
    assert f"dynaconv eval {tmp_path / 'kw-half' / 'best'}" in text


def test_demo_compares_on_one_recipe():
    recipes = [demo.demo_recipe(c.config, data="digits", epochs=5, seed=2).to_dict() for c in demo.contenders()]
    methods = [recipe.pop("method") for recipe in recipes]
    assert recipes[0] == recipes[1] == recipes[2]
    assert methods[0] is None
    assert (methods[1]["budget"], methods[2]["budget"]) == (0.5, 1.0)


def test_short_flags():
    assert expand_short(["--epochs", "3", "--lr=0.1", "--data", "x"]) == [
        "--schedule.epochs", "3", "--optimizer.lr=0.1", "--data", "x",
    ]  # fmt: skip


def test_table():
    assert format_table(("a", "bb"), [("long", "1")]).splitlines() == ["a     bb", "--------", "long   1"]


def test_epoch_line_leaves_out_what_is_not_there(capsys):
    epoch_line(4, "x ")({"epoch": 2, "train_loss": 1.0, "val_top1": None, "tau": None, "seconds": 2.0})
    assert capsys.readouterr().out == "x epoch 2/4  loss 1.000  2.0 s\n"


def test_plan_by_another_method(capsys):
    assert main(["plan", "resnet18", "--method", "odconv", "--method.num_kernels", "4", "--where", "layer4"]) == 0
    assert "attention branches" in capsys.readouterr().out
    assert main(["plan", "resnet18", "--method=condconv"]) == 0
    assert "branch of" in capsys.readouterr().out
    assert main(["plan", "vit_tiny_patch16_384", "--method", "dcd"]) == 0
    assert "one image of 384x384" in capsys.readouterr().out
    assert main(["plan", "resnet18", "--method", "odcon"]) == 2
    assert "--method odcon: no such method; did you mean odconv?" in capsys.readouterr().err
    assert main(["plan", "resnet18", "--method", "odconv", "--method.kernels", "4"]) == 2
    assert "unknown fields ['kernels'] for ODConvConfig; did you mean num_kernels?" in capsys.readouterr().err


def test_profile(capsys):
    assert main(["profile", "od1x_mobilenetv2_050", "--image-size", "64", "--by-layer"]) == 0
    text = capsys.readouterr().out
    assert "blocks.0.0.conv_dw" in text
    assert "parameters 2,425,537" in text
    assert main(["profile", "resnet18", "--method", "dyconv", "--json", "--num_classes", "10"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["madds"] == figures["convolution"] + figures["mixing"] + figures["attention"]
    assert figures["parameters"] == sum(row["parameters"] for row in figures["modules"])
    assert main(["profile", "od1x_resnet18", "--method.num_kernels", "4"]) == 2
    assert "'od1x_resnet18' is a preset with a config of its own" in capsys.readouterr().err
    assert main(["profile", "resnet18", "--image-size", "0"]) == 2
    assert "expected whole numbers above 0" in capsys.readouterr().err


def test_train_by_another_method(tmp_path, capsys):
    arguments = [a for a in TRAIN if not a.startswith("--method") and a not in ("channel", "1")]
    arguments[arguments.index("--epochs") + 1 : arguments.index("--epochs") + 1] = ["1"]
    assert main([*arguments, "--method", "odconv", "--out", str(tmp_path), "--name", "od", "--run-id", "x"]) == 0
    assert "tau 1.00" in capsys.readouterr().out
    assert main(["eval", str(tmp_path / "od" / "x" / "best")]) == 0
    assert "top-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "resnet18", "--backbone.chanels", "[8,16,32,64]"], "timm's 'resnet18' does not take these arguments"),
        (["compare", "--model", "kw1x_resnet18", "--methods", "static"], "is a preset with a method of its own"),
        ([*TRAIN, "--accelerator", "gpu"], "Lightning's Trainer refuses run.accelerator='gpu'"),
        ([*TRAIN, "--data", "folder:/nowhere"], "data folder /nowhere does not exist"),
        ([*TRAIN, "--optimizer.name", "adamx"], "optimizer.name='adamx'"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_leaves_nothing(arguments, message, tmp_path, capsys):
    if torch.cuda.is_available() and "gpu" in arguments:
        pytest.skip("there is a GPU")
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out)] if arguments[0] in ("train", "compare") else arguments) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert "everything goes to" not in said.out or arguments[0] == "compare"
    assert not list(out.rglob("config.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--epoch", "3", "--optimzer.lr=1"], "did you mean --epochs, --optimizer.lr?"),
        (["compare", "--metods", "static"], "did you mean --methods?"),
        (["models", "--markdwn"], "did you mean --markdown?"),
        (["train", "--config", "{schedule: {epoch: 3}}"], "did you mean --schedule.epochs?"),
        (["train", "--config", "{modell: resnet18}"], "did you mean --model?"),
        (["train", "--xyzzy", "3"], "unrecognized arguments: --xyzzy 3\n"),
        (["train", "--augment.mixup", "much"], "Got value: much"),
    ],
)
def test_a_mistyped_flag_names_the_one_that_was_meant(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_compare_takes_a_papers_recipe(monkeypatch, tmp_path):
    import dynaconv.training.comparison.compare as comparing

    seen = []

    def stop(contenders, seeds, recipe, folder, **options):
        seen.append(recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_compare", stop)
    command = ["compare", "--recipe", "kw4x_resnet18", "--data", "digits", "--epochs", "2", "--methods", "static", "se"]
    shorter = ["--schedule.warmup_epochs", "0.5", "--schedule.temperature_epochs", "1"]
    assert main([*command, *shorter, "--out", str(tmp_path)]) == 130
    assert (seen[0].model, seen[0].backbone["constant_drop_path"]) == ("resnet18", 0.1)
    assert (seen[0].data, seen[0].schedule.epochs, seen[0].augment.cutmix) == ("digits", 2, 1.0)


def test_a_missing_device_is_one_line(run, digit, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(["eval", str(run / "best"), "--accelerator", "gpu"]) == 2
    assert "Lightning's Trainer refuses accelerator='gpu'" in capsys.readouterr().err
    assert main(["predict", str(digit), "--checkpoint", str(run / "best"), "--device", "cuda"]) == 2
    assert "device 'cuda' can not be used here" in capsys.readouterr().err


def test_finetune_says_what_every_step_did(run, tmp_path, capsys):
    """From a trained network: before, converted, tuned; and its run can be resumed and repeated from its file."""
    place = TRAIN.index("--method.partition")
    static = [*TRAIN[:place], *TRAIN[place + 4 :], "--out", str(tmp_path), "--name", "s", "--run-id", "a"]
    assert main(static) == 0
    source = str(tmp_path / "s" / "a" / "best")
    tune = [
        "finetune",
        source,
        "--method.budget",
        "2",
        "--data",
        "digits",
        "--batch-size",
        "16",
        "--loader.limit",
        "32",
    ]
    assert main([*tune, "--epochs", "1", "--run.accelerator", "cpu", "--out", str(tmp_path), "--run-id", "b"]) == 0
    printed = capsys.readouterr().out
    assert "trained network:" in printed
    assert "exact)" in printed
    folder = tmp_path / "s-finetuned" / "b"
    assert json.loads((folder / "start.json").read_text())["exact"]
    assert main(["eval", str(folder / "best"), "--accelerator", "cpu"]) == 0
    repeated = ["--config", str(folder / "config.yaml"), "--out", str(tmp_path), "--name", "again"]
    assert main(["train", *repeated]) == 0
    assert main(["finetune", "nowhere", "--data", "digits", "--out", str(tmp_path)]) == 2
    assert "expected runs/NAME/TIME/best" in capsys.readouterr().err


def test_attention_writes_arrays_pictures_and_tables(run, digit, tmp_path, capsys):
    out, other = tmp_path / "seen", tmp_path / "other.png"
    Image.fromarray(255 - np.asarray(Image.open(digit))).save(other)
    flags = ["--out", str(out), "--limit", "24", "--classes", "3", "7", "--perturb", "stages", "--batch-size", "16"]
    flags += ["--images", str(digit), str(other), "--svg"]
    assert main(["attention", str(run / "best"), *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    maps = AttentionMaps.load(out / "attention.npz")
    assert found["images"] == maps.maps[0].images == 24
    assert maps.classes == ("3", "7")
    assert [row["layer"] for row in found["layers"]] == [one.layer for one in maps.maps]
    parts = ["as it is", "all layers", "layer1", "layer2", "layer3", "layer4"]
    assert list(found["perturbed"]) == parts
    assert "| layer4 |" in (out / "perturbed.md").read_text()
    assert "cells in use" in (out / "attention.txt").read_text()
    written = {path.name for path in out.iterdir()}
    assert {"weights.svg", "usage.svg", "similarity.svg", "perturbed.svg"} < written
    for kind in ("attention", "classes", "images"):
        assert {f"{kind}-{group}.svg" for group in maps.groups()} <= written
    assert "<image" in next(out.glob("images-*.svg")).read_text()
    assert {Path(file).name for file in found["files"]} == written


def test_attention_wants_two_images(run, digit, capsys):
    assert main(["attention", str(run / "best"), "--images", str(digit)]) == 2
    assert "expected two" in capsys.readouterr().err
