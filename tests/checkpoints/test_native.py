from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint, read_recipe, save_checkpoint
from dynaconv.errors import CheckpointError, LostWarehouseError

MODEL = {
    "name": "resnet18",
    "config": {"method": "kernel_warehouse", "partition": "channel"},
    "where": "layer1.*",
    "num_classes": 3,
    "in_chans": 1,
    "backbone_kwargs": {"channels": [16, 16, 16, 16]},
}
RECIPE = {"model": MODEL, "classes": ["a", "b", "c"], "mean": [0.5], "std": [0.2], "image_size": 32}


def make() -> nn.Module:
    return dynaconv.create_model(
        "resnet18",
        config=dynaconv.config_from_dict(MODEL["config"]),
        where="layer1.*",
        num_classes=3,
        in_chans=1,
        channels=[16, 16, 16, 16],
    )


@pytest.fixture
def saved(tmp_path):
    model = make()
    dynaconv.set_temperature(model, 0.375)
    save_checkpoint(tmp_path / "net", model, RECIPE, {"epoch": 4, "metrics": {"val_top1": 0.5}})
    return tmp_path, model


def rewrite(folder, change) -> None:
    """Change the tensors of a checkpoint, and keep its identifier."""
    path = folder / "net.safetensors"
    tensors = load_file(path)
    change(tensors)
    identifier = json.loads((folder / "net.json").read_text())["id"]
    save_file(tensors, path, metadata={"id": identifier})


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".json"])
def test_round_trip(saved, suffix):
    folder, model = saved
    loaded, recipe = load_checkpoint(f"{folder / 'net'}{suffix}")
    assert not loaded.training
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert dynaconv.get_temperature(loaded) == 0.375
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(loaded(x), model.eval()(x))
    assert recipe["classes"] == ["a", "b", "c"]
    assert recipe["epoch"] == 4
    assert recipe["dynaconv"] == dynaconv.__version__
    assert recipe["model"] == MODEL


def test_static_network(tmp_path):
    model = dynaconv.create_model("resnet18", num_classes=2, channels=[8, 8, 8, 8])
    plain = {"name": "resnet18", "num_classes": 2, "backbone_kwargs": {"channels": [8, 8, 8, 8]}}
    save_checkpoint(tmp_path / "a" / "b.0.5", model, {"model": plain})
    loaded, _ = load_checkpoint(tmp_path / "a" / "b.0.5")
    assert torch.equal(loaded.conv1.weight, model.conv1.weight)


def test_leaves_two_files_and_replaces_them(saved):
    folder, model = saved
    save_checkpoint(folder / "net", model, RECIPE, {"epoch": 5})
    assert sorted(path.name for path in folder.iterdir()) == ["net.json", "net.safetensors"]
    assert load_checkpoint(folder / "net")[1]["epoch"] == 5


def test_a_failed_save_keeps_the_old_checkpoint(saved, monkeypatch):
    folder, model = saved

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("dynaconv.checkpoints.native.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(folder / "net", model, RECIPE, {"epoch": 9})
    assert sorted(path.name for path in folder.iterdir()) == ["net.json", "net.safetensors"]
    assert load_checkpoint(folder / "net")[1]["epoch"] == 4


def test_tensors_that_share_memory(tmp_path, monkeypatch):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.register_buffer("row", self.a.weight.detach()[0])
            self.register_buffer("turned", torch.rand(3, 2).t())

    model = Tied()
    path = save_checkpoint(tmp_path / "tied", model, {"model": {"name": "tied"}})
    assert "b.weight" not in load_file(path)
    monkeypatch.setattr(dynaconv, "create_model", lambda *_, **__: Tied())
    loaded, recipe = load_checkpoint(path)
    assert recipe["aliases"] == {"b.weight": "a.weight"}
    assert loaded.b.weight is loaded.a.weight
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"best.safetensors and best.json not found"):
        load_checkpoint(tmp_path / "best")


def test_one_file_missing(saved):
    (saved[0] / "net.json").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint at .*: net.json not found"):
        load_checkpoint(saved[0] / "net")


def test_missing_unexpected_and_misshapen_tensors_are_named(saved):
    def change(tensors):
        tensors["intruder"] = torch.zeros(1)
        del tensors["conv1.weight"]
        tensors["fc.bias"] = torch.zeros(7)

    rewrite(saved[0], change)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(saved[0] / "net")
    text = str(error.value)
    assert "names that the weights lack (1): conv1.weight" in text
    assert "names that the network does not have (1): intruder" in text
    assert "a classifier of 7 classes, here of 3 (1): fc.bias (7,), here (3,)" in text


def test_many_problems_are_counted(saved):
    rewrite(saved[0], lambda tensors: [tensors.pop(name) for name in list(tensors)[-20:]])
    with pytest.raises(CheckpointError, match=r"names that the weights lack \(\d+\): .* more"):
        load_checkpoint(saved[0] / "net")


def test_files_of_two_saves(saved):
    folder, model = saved
    old = (folder / "net.json").read_text()
    save_checkpoint(folder / "net", model, RECIPE)
    (folder / "net.json").write_text(old)
    with pytest.raises(CheckpointError, match="of two different saves"):
        load_checkpoint(folder / "net")


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"a": 1})])
def test_no_safetensors(saved, content):
    (saved[0] / "net.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or no safetensors"):
        load_checkpoint(saved[0] / "net")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "format 'list'"),
        ('{"format": 99}', "has format 99; this version of dynaconv reads 1 to 2"),
        ('{"format": 1, "id": "x"}', "does not say which model"),
    ],
)
def test_bad_description(saved, text, message):
    (saved[0] / "net.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        read_recipe(saved[0] / "net")


def test_a_save_before_the_normaliser_keeps_its_function(saved):
    """Format 1 knew the authors' normaliser alone and did not name it."""
    folder, model = saved
    description = json.loads((folder / "net.json").read_text())
    (folder / "net.json").write_text(json.dumps(description | {"format": 1}))
    old, recipe = load_checkpoint(folder / "net")
    assert recipe["model"]["config"]["normaliser"] == "paper"
    new = load_checkpoint_as(folder, description)
    x = torch.randn(2, 1, 32, 32)
    assert not torch.equal(old(x), new(x))
    torch.testing.assert_close(new(x), model.eval()(x))
    assert all(layer.config.normaliser == "paper" for layer in dynaconv.dynamic_layers(old))


def load_checkpoint_as(folder, description) -> nn.Module:
    (folder / "net.json").write_text(json.dumps(description))
    return load_checkpoint(folder / "net")[0]


def test_recipe_is_checked(tmp_path):
    model = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match="no 'model'"):
        save_checkpoint(tmp_path / "x", model, {"classes": []})
    with pytest.raises(CheckpointError, match=r"\['classes'\] are both"):
        save_checkpoint(tmp_path / "x", model, {"model": {}, "classes": []}, {"classes": []})
    with pytest.raises(CheckpointError, match="plain types"):
        save_checkpoint(tmp_path / "x", model, {"model": {}, "device": torch.device("cpu")})
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_its_shared_cells_is_not_saved(tmp_path):
    model = dynaconv.create_model("kw1x_resnet18", num_classes=3)
    del model.warehouses
    with pytest.raises(LostWarehouseError, match="neither trained nor saved"):
        save_checkpoint(tmp_path / "lost", model, {"model": {"name": "kw1x_resnet18"}})
    assert not list(tmp_path.iterdir())
