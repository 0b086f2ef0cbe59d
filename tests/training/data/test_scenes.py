"""Digits on photographs: a function of the seed, new in every epoch, and nothing of validation in training."""

from __future__ import annotations

import pytest
import torch

from dynaconv.errors import DynaconvError
from dynaconv.training import AugmentConfig, ImageDataModule, LoaderConfig, RunConfig, ScheduleConfig, fit, resume
from dynaconv.training._lightning import Callback
from dynaconv.training.data.scenes import cut_photos
from dynaconv.training.data.sources import open_source
from tests.training.tiny import static_recipe


@pytest.fixture(scope="module")
def source():
    return open_source("scenes", LoaderConfig())


def opened(augment: AugmentConfig | None = None, seed: int = 0, **options) -> ImageDataModule:
    module = ImageDataModule("scenes", LoaderConfig(**{"batch_size": 16, "limit": 64, **options}), augment, seed)
    module.setup()
    return module


def test_digits_are_those_of_mnist5k(source):
    digits = open_source("mnist5k", LoaderConfig())
    assert torch.equal(source.train.images, digits.train.images)
    assert torch.equal(source.train.labels, digits.train.labels)
    assert torch.equal(source.val.images[::2], digits.val.images)
    assert torch.equal(source.val.images[1::2], digits.val.images)
    assert torch.equal(source.val.labels[::2], source.val.labels[1::2])
    assert (len(source.train), len(source.val)) == (4000, 2000)


def test_photographs_are_cut_and_not_shared():
    from sklearn.datasets import load_sample_images

    train, val = cut_photos()
    height, width = load_sample_images().images[0].shape[:2]
    assert train.shape[2] + val.shape[2] == height // 2
    assert train.shape[3] == val.shape[3] == width // 2
    whole = torch.cat([train, val], 2)
    assert 0 <= whole.min() < 0.1 < 0.9 < whole.max() <= 1
    # Rows at both sides of the cut: neighbours, so alike, but not the same.
    assert 0 < (train[:, :, -1] - val[:, :, 0]).abs().mean() < (train[:, :, 0] - val[:, :, -1]).abs().mean()


@pytest.mark.parametrize(("size", "in_chans"), [(32, 3), (32, 1), (20, 3)])
def test_a_scene_is_a_function_of_its_seed(source, size, in_chans):
    digits, seeds = torch.tensor([5, 900, 5]), [7, 8, 9]
    scenes = source.train.render(digits, seeds, size, in_chans)
    assert scenes.shape == (3, in_chans, size, size)
    assert 0 <= scenes.min() < scenes.max() <= 1
    alone = source.train.render(digits[1:2], seeds[1:2], size, in_chans)
    torch.testing.assert_close(alone[0], scenes[1])  # whatever else is in the batch
    assert (scenes[0] - scenes[2]).abs().mean() > 0.01  # the same digit with another seed


def test_the_digit_shows_and_the_rest_is_photograph(source):
    """Against scenes of the same seeds without ink: what changes is as large as a digit, and as dark as promised."""
    digits, seeds = torch.arange(0, 4000, 40), list(range(100))
    blank = torch.zeros_like(source.train.images)
    bare = type(source.train)(blank, source.train.labels, source.train.photos).render(digits, seeds, 32)
    change = (source.train.render(digits, seeds, 32) - bare).abs().amax(1)
    touched = (change > 0.02).float().mean((1, 2))
    assert 0.02 < touched.min() < touched.max() < 0.5
    assert change.amax((1, 2)).min() > 0.15


def test_every_epoch_is_new_and_repeatable():
    first, second = opened().train_dataloader(), opened().train_dataloader()
    one, two = list(first), list(second)
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(one, two, strict=True))
    first.batch_sampler.set_epoch(1)
    other = list(first)
    order = [torch.cat([labels for _, labels in batches]) for batches in (one, other)]
    assert torch.equal(order[0].sort()[0], order[1].sort()[0])
    pixels = [torch.cat([images for images, _ in batches]).flatten(1) for batches in (one, other)]
    assert torch.cdist(*pixels).min() > 0.1
    assert not torch.equal(next(iter(opened(seed=1).train_dataloader()))[0], one[0][0])


def test_validation_is_fixed():
    first, second = (torch.cat([x for x, _ in opened(seed=seed).val_dataloader()]) for seed in (0, 1))
    assert torch.equal(first, second)
    assert first.shape == (2000, 3, 32, 32)
    assert abs(first.mean()) < 1  # normalised by the training scenes; the lower parts of the photographs are darker


def test_limit_keeps_photographs():
    module = opened()
    assert len(module.source.train) == 64
    assert module.source.train.photos.shape[0] == 2


def test_gray_flip_and_erasing():
    images, _ = next(iter(opened(in_chans=1, image_size=24).train_dataloader()))
    assert images.shape == (16, 1, 24, 24)
    plain, flipped, erased = (
        next(iter(opened(augment).train_dataloader()))[0]
        for augment in (AugmentConfig(), AugmentConfig(flip=1.0), AugmentConfig(erasing=1.0))
    )
    torch.testing.assert_close(plain.flip(-1), flipped)
    assert ((plain != erased).flatten(1).sum(1) > 0).all()


def test_rand_augment_is_refused():
    with pytest.raises(DynaconvError, match="vary by themselves; drop rand_augment"):
        opened(AugmentConfig(rand_augment="rand-m9")).train_dataloader()


def test_a_resumed_run_sees_the_same_scenes(tmp_path):
    class Trace(Callback):
        def __init__(self, stop=None):
            self.seen, self.stop = [], stop

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == self.stop:
                raise RuntimeError("stopped")

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append((batch[0].double().sum().item(), outputs["loss"].item()))

    recipe = static_recipe(
        data="scenes",
        schedule=ScheduleConfig(epochs=2, warmup_epochs=1),
        run=RunConfig(accelerator="cpu", checkpoint_every=1),
    )
    whole, before, after = Trace(), Trace((1, 1)), Trace()
    fit(recipe, tmp_path / "whole", callbacks=(whole,))
    with pytest.raises(RuntimeError, match="stopped"):
        fit(recipe, tmp_path / "broken", callbacks=(before,))
    resume(tmp_path / "broken", callbacks=(after,))
    assert before.seen + after.seen == whole.seen
    assert len({total for total, _ in whole.seen}) == 6
