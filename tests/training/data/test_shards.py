"""WebDataset shards and Parquet files as data of a run."""

from __future__ import annotations

import json
from itertools import chain

import pytest
import torch

from dynaconv.errors import DynaconvError
from dynaconv.training import (
    AugmentConfig,
    EmaConfig,
    ImageDataModule,
    LoaderConfig,
    RunConfig,
    ScheduleConfig,
    fit,
    resume,
)
from dynaconv.training.data.augment import eval_transform
from dynaconv.training.data.images import load_image
from dynaconv.training.data.shards import count_samples
from dynaconv.training.data.sources import open_source
from tests.training.digits_on_disk import digits, make_parquet, make_shards, members, split, write_tar
from tests.training.likeness import run_differences
from tests.training.test_resume import Interrupted, Trace
from tests.training.tiny import static_recipe


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    return make_parquet(tmp_path_factory.mktemp("parquet"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def name_of(kind: str, shards, parquet) -> str:
    return {"wds": f"wds:{shards}", "hfids": f"timm:hfids/{parquet}", "hfds": f"timm:hfds/{parquet}"}[kind]


def png(number: int):
    return load_image(digits()[0][number])


@pytest.mark.parametrize("kind", ["wds", "hfids", "hfds"])
def test_validation_sees_every_image_as_it_is(shards, parquet, kind):
    module = ImageDataModule(name_of(kind, shards, parquet), LoaderConfig(image_size=16, workers=0))
    module.setup()
    assert module.classes == tuple(str(i) for i in range(10))
    assert module.summary() | {"classes": 10} == {"classes": 10, "train": 48, "val": 13}
    numbers = list(chain(*split("validation")))
    transform = eval_transform(16, module.mean, module.std, module.crop_pct, module.interpolation)
    found = list(module.val_dataloader())
    assert torch.equal(torch.cat([images for images, _ in found]), torch.stack([transform(png(i)) for i in numbers]))
    assert torch.cat([labels for _, labels in found]).tolist() == [digits()[1][i] for i in numbers]


@pytest.mark.parametrize("kind", ["wds", "hfids"])
@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_whole_shuffled_and_repeatable(shards, parquet, kind, workers):
    plain = AugmentConfig(crop_scale=(1.0, 1.0), flip=0.0, color_jitter=0.0)
    options = LoaderConfig(image_size=16, batch_size=10, workers=workers, drop_last=False, shuffle_buffer=8)
    module = ImageDataModule(name_of(kind, shards, parquet), options, plain)
    module.setup()
    loader = module.train_dataloader()
    labels = [torch.cat([labels for _, labels in loader]) for _ in range(2)]
    assert torch.equal(*labels)
    assert sorted(labels[0].tolist()) == sorted(digits()[1][i] for i in chain(*split("train")))
    loader.batch_sampler.set_epoch(1)
    again = torch.cat([labels for _, labels in loader])
    assert again.tolist() != labels[0].tolist()
    resumed = module.train_dataloader()
    resumed.load_state_dict(loader.state_dict() | {"given": 3})
    assert torch.equal(torch.cat([labels for _, labels in resumed]), again[30:])
    assert sorted(again.tolist()) == sorted(labels[0].tolist())


@pytest.mark.parametrize("kind", ["wds", "hfids", "hfds"])
def test_resumed_equals_uninterrupted(shards, parquet, tmp_path, kind):
    recipe = static_recipe(
        data=name_of(kind, shards, parquet),
        loader=LoaderConfig(image_size=16, batch_size=16, workers=0, shuffle_buffer=8),
        augment=AugmentConfig(mixup=0.8, erasing=0.3),
        schedule=ScheduleConfig(epochs=2),
        ema=EmaConfig(decay=0.9),
        run=RunConfig(accelerator="cpu", checkpoint_every=1),
    )
    whole, before, after = Trace(), Trace((1, 1)), Trace()
    expected = fit(recipe, tmp_path / "whole", callbacks=(whole,))
    with pytest.raises(Interrupted):
        fit(recipe, tmp_path / "broken", callbacks=(before,))
    result = resume(tmp_path / "broken", callbacks=(after,))
    assert after.seen[0][:2] == (1, 1)
    assert [*before.seen, *after.seen] == whole.seen
    assert run_differences(tmp_path / "whole", tmp_path / "broken") == []
    assert [row["val_top1"] for row in result.rows] == [row["val_top1"] for row in expected.rows]
    assert {row["unreadable"] for row in result.rows} == {0}


def test_shards_without_a_description_are_found_and_counted(tmp_path):
    root = make_shards(tmp_path / "shards", info=False)
    found = open_source(f"wds:{root}", LoaderConfig(num_classes=10))
    assert found.train.lengths == (20, 9, 19)
    assert found.val.lengths == (7, 6)
    same = open_source("timm:wds/", LoaderConfig(num_classes=10, root=str(root)))
    assert same.train.shards == found.train.shards
    pattern = LoaderConfig(num_classes=10, val_split="validation-0001.tar")
    some = open_source(f"wds:{root}/train-{{0001..0002}}.tar", pattern)
    assert (some.train.lengths, some.val.lengths) == ((9, 19), (6,))


def test_shards_behind_a_url(tmp_path):
    import fsspec

    root = make_shards(tmp_path)
    memory = fsspec.filesystem("memory")
    for path in root.iterdir():
        memory.pipe(f"/digits/{path.name}", path.read_bytes())
    module = ImageDataModule("wds:memory://digits", LoaderConfig(image_size=16, workers=0))
    module.setup()
    assert len(list(module.val_dataloader())) == 1
    memory.rm("/digits/_info.json")
    with pytest.raises(DynaconvError, match=r"no split 'train'; found \[\]"):
        open_source("wds:memory://digits", LoaderConfig(num_classes=10))
    options = LoaderConfig(num_classes=10, val_split="validation-0000.tar")
    with pytest.raises(DynaconvError, match=r"how many samples memory://digits/train-0000.tar holds is not known"):
        open_source("wds:memory://digits/train-{0000..0001}.tar", options)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("wds:", {}, "expected wds:FOLDER"),
        ("wds:pipe:cat x.tar", {}, "expected wds:FOLDER"),
        ("wds:/no/such/folder", {}, "there is no folder /no/such/folder"),
        ("wds:ROOT", {"train_split": "tiny"}, r"no split 'tiny'; found \['train', 'validation'\]"),
        ("wds:ROOT/train-{0000..0009}.tar", {}, "7 of 10 shards are not there, such as .*train-0003.tar"),
        ("wds:ROOT", {"num_classes": 5}, "loader.num_classes=5, but .* has 10 classes"),
    ],
)
def test_shards_that_can_not_be_opened(shards, name, options, text):
    with pytest.raises(DynaconvError, match=text):
        open_source(name.replace("ROOT", str(shards)), LoaderConfig(**options))


def test_shards_that_do_not_name_their_classes(tmp_path):
    with pytest.raises(DynaconvError, match=r"do not name their classes; say how many with loader.num_classes"):
        open_source(f"wds:{make_shards(tmp_path, info=False)}", LoaderConfig())


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "can not be read as JSON"),
        ("[]", "is no description of shards"),
        ('{"splits": {"train": {"filenames": ["a.tar"]}}}', "needs filenames and as many shard_lengths"),
    ],
)
def test_descriptions_that_are_none(tmp_path, text, error):
    (tmp_path / "_info.json").write_text(text)
    with pytest.raises(DynaconvError, match=error):
        open_source(f"wds:{tmp_path}", LoaderConfig(num_classes=10))


def test_damaged_shards_are_told_before_training(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, members(list(range(5))))
    assert count_samples(str(path)) == 5
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(DynaconvError, match=r"a.tar can not be read as a tar file"):
        count_samples(str(path))
    path.write_bytes(whole[:2048] + b"x" * 512 + whole[2560:])
    with pytest.raises(DynaconvError, match=r"a.tar can not be read as a tar file"):
        count_samples(str(path))


def test_faulty_samples_of_a_shard_are_counted(tmp_path, caplog):
    root = make_shards(tmp_path / "shards")
    some = members(split("train")[1])
    some[0] = ("0020.png", b"no image")
    some[3] = ("0021.cls", b"seven")
    del some[5]  # 0022.cls
    write_tar(root / "train-0001.tar", some)
    options = LoaderConfig(image_size=16, batch_size=8, workers=0, max_bad=0.1)
    recipe = static_recipe(data=f"wds:{root}", loader=options, schedule=ScheduleConfig(epochs=1))
    result = fit(recipe, tmp_path / "run")
    assert result.rows[0]["unreadable"] == 3
    text = caplog.text
    assert "3 training images could not be read" in text
    assert "0020 (none of JPEG" in text
    assert "0021 (its cls is b'seven'; expected a class number)" in text
    assert "0022 (it has png; expected an image (jpg, png, ...) and cls)" in text


def test_labels_outside_the_classes(tmp_path):
    root = make_shards(tmp_path / "shards")
    (root / "_info.json").write_text((root / "_info.json").read_text().replace(', "9"]', "]"))
    assert len(json.loads((root / "_info.json").read_text())["classes"]) == 9
    recipe = static_recipe(data=f"wds:{root}", loader=LoaderConfig(image_size=16, batch_size=8, workers=0))
    with pytest.raises(DynaconvError, match=r"has the label 9; expected 0 to 8, as there are 9 classes$"):
        fit(recipe, tmp_path / "run")


def test_parquet_that_can_not_be_opened(parquet, tmp_path):
    with pytest.raises(DynaconvError, match=r"no split 'val'; found \['train', 'validation'\]"):
        open_source(f"timm:hfids/{parquet}", LoaderConfig(val_split="val"))
    with pytest.raises(DynaconvError, match="datasets can not open '/no/such/set'"):
        open_source("timm:hfids//no/such/set", LoaderConfig())
    broken = make_parquet(tmp_path / "broken")
    (broken / "train-0001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DynaconvError, match=r"train-0001.parquet can not be read as Parquet"):
        open_source(f"timm:hfids/{broken}", LoaderConfig())


def test_a_damaged_page_of_parquet_is_counted(tmp_path):
    root = make_parquet(tmp_path / "p")
    path = root / "validation-0000.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    module = ImageDataModule(f"timm:hfids/{root}", LoaderConfig(image_size=16, workers=0, max_bad=1.0))
    module.setup()
    assert sum(len(labels) for _, labels in module.val_dataloader()) == 6
    assert len(module.ledgers["val_unreadable"].faults) == 7
