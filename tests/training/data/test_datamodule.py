from __future__ import annotations

import pytest
import torch

from dynaconv.errors import DynaconvError
from dynaconv.training import AugmentConfig, ImageDataModule, LoaderConfig
from tests.training.data.test_sources import make_folder


def opened(data: str, augment: AugmentConfig | None = None, **options) -> ImageDataModule:
    module = ImageDataModule(data, LoaderConfig(**options), augment)
    module.setup()
    return module


@pytest.mark.parametrize("data", ["digits", "mnist5k"])
def test_embedded_batches(data):
    module = opened(data, batch_size=32)
    assert (module.in_chans, module.image_size, module.crop_pct) == (1, 32, 1.0)
    for loader in (module.train_dataloader(), module.val_dataloader()):
        images, labels = next(iter(loader))
        assert images.shape == (32, 1, 32, 32)
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        low, high = (0 - module.mean[0]) / module.std[0], (1 - module.mean[0]) / module.std[0]
        assert low - 1e-4 <= images.min() < images.max() <= high + 1e-4
        assert abs(images.mean()) < 0.35  # normalised by the training images


def test_validation_is_whole_and_in_order():
    module = opened("digits", batch_size=64)
    labels = torch.cat([labels for _, labels in module.val_dataloader()])
    assert torch.equal(labels, module.source.val.labels)
    assert len(labels) % 64  # the last batch is a smaller one, and kept


def test_training_is_shuffled_augmented_and_repeatable():
    first, second = (opened("digits", batch_size=16, limit=64).train_dataloader() for _ in range(2))
    one, two = list(first), list(second)
    for (a, la), (b, lb) in zip(one, two, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)
    again = list(first)
    assert torch.equal(again[0][0], one[0][0])  # same epoch, same draws
    first.batch_sampler.set_epoch(1)
    assert not torch.equal(next(iter(first))[0], one[0][0])


def test_channels_on_request():
    images, _ = next(iter(opened("digits", in_chans=3, batch_size=4).val_dataloader()))
    assert images.shape[1] == 3
    assert torch.equal(images[:, 0], images[:, 2])


def test_embedded_images_take_flip_and_erasing():
    plain = AugmentConfig(shift=0, rotate_degrees=0, zoom=0)
    flipped = AugmentConfig(shift=0, rotate_degrees=0, zoom=0, flip=1.0)
    erased = AugmentConfig(shift=0, rotate_degrees=0, zoom=0, erasing=1.0)
    a, b, c = (next(iter(opened("digits", x, batch_size=8).train_dataloader()))[0] for x in (plain, flipped, erased))
    torch.testing.assert_close(a.flip(-1), b)
    assert ((a != c).flatten(1).sum(1) > 0).all()


def test_embedded_images_through_rand_augment():
    module = opened("digits", AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1"), batch_size=8, limit=32)
    loader = module.train_dataloader()
    assert [images.shape for images, _ in loader] == [(8, 1, 32, 32)] * 4
    assert torch.equal(next(iter(loader))[0], next(iter(loader))[0])


@pytest.mark.parametrize("workers", [0, 1])
def test_folder_batches(tmp_path, workers):
    make_folder(tmp_path, {"train": {"cat": 3, "dog": 2}, "val": {"cat": 2, "dog": 1}})
    module = opened(str(tmp_path), image_size=24, batch_size=2, workers=workers)
    assert (module.in_chans, module.crop_pct, module.classes) == (3, 0.95, ("cat", "dog"))
    train = module.train_dataloader()
    batches = list(train)
    assert [images.shape for images, _ in batches] == [(2, 3, 24, 24)] * 2
    again = list(train)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, again, strict=True))
    assert torch.cat([labels for _, labels in module.val_dataloader()]).tolist() == [0, 0, 1]


def test_folder_order_of_an_epoch_does_not_depend_on_workers(tmp_path):
    make_folder(tmp_path, {"train": {"cat": 3, "dog": 3}, "val": {"cat": 1, "dog": 1}})
    runs = [
        list(opened(str(tmp_path), image_size=16, batch_size=2, workers=workers).train_dataloader())
        for workers in (0, 2)
    ]
    for (a, la), (b, lb) in zip(*runs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_preprocessing_is_plain():
    values = opened("digits").preprocessing()
    assert values["classes"] == [str(i) for i in range(10)]
    assert {type(values[key]) for key in ("mean", "std", "classes")} == {list}


def test_before_setup():
    with pytest.raises(DynaconvError, match=r"call setup\(\)"):
        ImageDataModule("digits").train_dataloader()


@pytest.mark.parametrize("files", [False, True])
def test_validation_in_an_order_of_its_own(tmp_path, files):
    make_folder(tmp_path, {"train": {"cat": 1, "dog": 1}, "val": {"cat": 3, "dog": 4}})
    module = opened(str(tmp_path) if files else "digits", image_size=16, batch_size=3 if files else 64)
    loader, again = module.shuffled_val_dataloader(), module.shuffled_val_dataloader()
    ordered = list(module.val_dataloader())
    labels = torch.cat([labels for _, labels in ordered])
    first, second, third = (torch.cat([labels for _, labels in batches]) for batches in (loader, loader, again))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert torch.equal(first.sort().values, labels.sort().values)
    images, shuffled = (torch.cat([images for images, _ in batches]) for batches in (ordered, loader))
    order = [int((images - one).flatten(1).abs().amax(1).argmin()) for one in shuffled]
    assert sorted(order) == list(range(len(labels)))
    assert order != sorted(order)
    assert torch.equal(images[order], shuffled)
