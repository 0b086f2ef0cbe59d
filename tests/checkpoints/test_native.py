from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint, read_recipe, save_checkpoint
from dynaconv.errors import CheckpointError, DynaconvError, LostWarehouseError, RunWarning, StorageError

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


def rewrite(folder, change=lambda tensors: None, **fields) -> None:
    """Make a save of before format 3, whose weights hold an identifier alone, with other tensors and fields."""
    path = folder / "net.safetensors"
    tensors = load_file(path)
    change(tensors)
    description = json.loads((folder / "net.json").read_text()) | {"format": 2} | fields
    (folder / "net.json").write_text(json.dumps(description))
    save_file(tensors, path, metadata={"id": description["id"]})


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

    monkeypatch.setattr("dynaconv.checkpoints.tensors.save_file", fail)
    with pytest.raises(StorageError, match=r"net.safetensors can not be written: no space left; what was saved before"):
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


def test_the_weights_alone_are_the_checkpoint(saved):
    (saved[0] / "net.json").unlink()
    loaded, recipe = load_checkpoint(saved[0] / "net")
    assert recipe["epoch"] == 4
    assert torch.equal(loaded.conv1.weight, saved[1].conv1.weight)


def test_one_file_missing(saved):
    rewrite(saved[0])
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


def test_a_save_that_was_torn_is_the_new_one(saved):
    folder, model = saved
    old = (folder / "net.json").read_text()
    save_checkpoint(folder / "net", model, RECIPE, {"epoch": 5})
    (folder / "net.json").write_text(old)
    with pytest.warns(RunWarning, match=r"net.json is of another save than net.safetensors, whose own description is"):
        assert load_checkpoint(folder / "net")[1]["epoch"] == 5


def test_files_of_two_old_saves(saved):
    folder, _ = saved
    rewrite(folder)
    (folder / "net.json").write_text(json.dumps(json.loads((folder / "net.json").read_text()) | {"id": "another"}))
    with pytest.raises(CheckpointError, match="of two different saves"):
        load_checkpoint(folder / "net")


def test_a_description_that_was_changed(saved):
    path = saved[0] / "net.json"
    path.write_text(path.read_text().replace('"a"', '"cat"'))
    with pytest.raises(
        CheckpointError, match=r"net.json was changed after it was saved \(classes differ from net.safe"
    ):
        read_recipe(saved[0] / "net")


def test_weights_that_were_changed(saved):
    path = saved[0] / "net.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for read in (load_checkpoint, lambda p: dynaconv.load_weights(make(), f"{p}.safetensors")):
        with pytest.raises(CheckpointError, match="is damaged: its checksum is not that of its content"):
            read(saved[0] / "net")


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
        ('{"format": 99}', "has format 99; this version of dynaconv reads 1 to 3"),
        ('{"format": 1, "id": "x"}', "does not say which model"),
        ("[" * 10**6, "is damaged: maximum recursion"),
        ('{"format": 1, "model": {"name": "resnet18", "config": 3}}', "model.config=3; expected a mapping"),
        ('{"format": 1, "model": {"name": "resnet18"}, "aliases": {"a": []}}', "expected names of tensors"),
    ],
)
def test_bad_description(saved, text, message):
    (saved[0] / "net.json").write_text(text)
    with pytest.warns(RunWarning, match=f"{message}.*; the description in net.safetensors is used"):
        assert read_recipe(saved[0] / "net")["epoch"] == 4
    rewrite_alone(saved[0])
    with pytest.raises(CheckpointError, match=message):
        read_recipe(saved[0] / "net")


def rewrite_alone(folder) -> None:
    save_file(load_file(folder / "net.safetensors"), folder / "net.safetensors", metadata={"id": "x"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../../etc/passwd"}, "neither a preset"),
        ({"name": "hf-hub:somebody/model"}, "neither a preset"),
        ({"name": "local-dir:/tmp"}, "neither a preset"),
        ({"pretrained": True}, r"asks for a model with \['pretrained'\]"),
        ({"backbone_kwargs": {"num_classes": 3}}, r"asks for a model with \['num_classes'\]"),
        ({"backbone_kwargs": {"layers": "x"}}, "does not take these arguments"),
        ({"num_classes": -3}, "do not fit"),
        ({"num_classes": 10**15}, "no network that can be built"),
        ({"config": {"method": ["odconv"]}}, "method"),
    ],
)
def test_descriptions_that_ask_for_what_they_must_not(saved, change, message):
    rewrite(saved[0], model=MODEL | change)
    with pytest.raises(DynaconvError, match=message):
        load_checkpoint(saved[0] / "net")


def test_weights_come_from_the_checkpoint_alone(saved, monkeypatch):
    """A network that began with published weights, or says so, is loaded without fetching any."""
    import timm

    asked = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **given: asked.append(given) or create(name, **given))
    elsewhere = {"pretrained": True, "checkpoint_path": "/etc/passwd", "pretrained_cfg": {"file": "/etc/passwd"}}
    rewrite(saved[0], model=MODEL | {"backbone_kwargs": MODEL["backbone_kwargs"] | elsewhere})
    load_checkpoint(saved[0] / "net")
    assert asked == [{"pretrained": False, "num_classes": 3, "in_chans": 1, "channels": [16, 16, 16, 16]}]


def test_a_save_before_the_normaliser_keeps_its_function(saved):
    """Format 1 knew the authors' normaliser alone and did not name it."""
    folder, model = saved
    new = load_checkpoint(folder / "net")[0]
    rewrite(folder, format=1)
    old, recipe = load_checkpoint(folder / "net")
    assert recipe["model"]["config"]["normaliser"] == "paper"
    x = torch.randn(2, 1, 32, 32)
    assert not torch.equal(old(x), new(x))
    torch.testing.assert_close(new(x), model.eval()(x))
    assert all(layer.config.normaliser == "paper" for layer in dynaconv.dynamic_layers(old))


def test_saves_of_format_2_load(saved):
    rewrite(saved[0])
    assert torch.equal(load_checkpoint(saved[0] / "net")[0].conv1.weight, saved[1].conv1.weight)


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
