from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dynaconv.errors import DynaconvError
from dynaconv.training.config import AugmentConfig
from dynaconv.training.data.augment import (
    LabelMixer,
    eval_transform,
    make_mixer,
    random_affine,
    random_erase,
    random_flip,
    train_transform,
)
from dynaconv.training.data.sampling import seeded

GRAY, RGB = ((0.5,), (0.5,)), ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_no_affine_change_leaves_images_alone():
    images = torch.rand(3, 1, 9, 9)
    still = AugmentConfig(shift=0, rotate_degrees=0, zoom=0)
    torch.testing.assert_close(random_affine(images, still, generator()), images)


def test_shift_moves_an_image_by_at_most_its_share():
    images = torch.zeros(64, 1, 21, 21)
    images[:, :, 10, 10] = 1
    config = AugmentConfig(shift=0.2, rotate_degrees=0, zoom=0)
    moved = random_affine(images, config, generator())
    torch.testing.assert_close(moved.sum((1, 2, 3)), torch.ones(64))
    rows = (moved.sum((1, 3)) * torch.arange(21)).sum(1) - 10
    assert 3 < rows.abs().max() <= 0.2 * 21
    assert rows.std() > 1


def test_flip():
    images = torch.rand(6, 2, 4, 4)
    assert torch.equal(random_flip(images, 1.0, generator()), images.flip(-1))
    assert torch.equal(random_flip(images, 0.0, generator()), images)


def test_erasing_fills_one_rectangle():
    images = torch.full((200, 2, 16, 16), 9.0)
    erased = random_erase(images, 0.5, generator())
    changed = (erased != images).any(1)
    assert 60 < changed.flatten(1).any(1).sum() < 140
    for mask in changed[changed.flatten(1).any(1)][:20]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert mask.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert mask.sum() <= 16 * 16 * 0.45
    assert torch.equal(random_erase(images, 0.0, generator()), images)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("statistics", [GRAY, RGB])
def test_files_of_any_mode(mode, statistics):
    for transform in (
        train_transform(AugmentConfig(), 24, *statistics),
        eval_transform(24, *statistics, crop_pct=0.9, interpolation="bicubic"),
    ):
        tensor = transform(picture(mode))
        assert tensor.shape == (len(statistics[0]), 24, 24)
        assert tensor.dtype == torch.float32


def test_evaluation_normalises():
    white = Image.new("RGB", (30, 30), (255, 255, 255))
    tensor = eval_transform(16, *RGB, crop_pct=1.0, interpolation="bilinear")(white)
    expected = (1 - torch.tensor(RGB[0])) / torch.tensor(RGB[1])
    torch.testing.assert_close(tensor, expected.view(3, 1, 1).expand(3, 16, 16))


@pytest.mark.parametrize("name", ["rand-m9-mstd0.5-inc1", "rand-m10-n4-inc1", "rand-m1-n4"])
@pytest.mark.parametrize("statistics", [GRAY, RGB])
def test_rand_augment_runs_every_operation(name, statistics):
    transform = train_transform(AugmentConfig(rand_augment=name, erasing=0.5), 16, *statistics)
    plain = eval_transform(16, *statistics, crop_pct=1.0, interpolation="bicubic")(picture())
    for seed in range(60):
        with seeded(seed):
            tensor = transform(picture())
        assert tensor.shape == plain.shape
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("name", ["rand-x9", "augmix", "what"])
def test_rand_augment_that_timm_does_not_understand(name):
    with pytest.raises(DynaconvError, match="expected something like rand-m9"):
        train_transform(AugmentConfig(rand_augment=name), 16, *RGB)


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
@pytest.mark.parametrize("alphas", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixing_any_batch_size(batch, alphas):
    mixer = make_mixer(AugmentConfig(mixup=alphas[0], cutmix=alphas[1], label_smoothing=0.1), num_classes=4)
    images, labels = torch.rand(batch, 1, 8, 8), torch.arange(batch) % 4
    before = images.clone()
    for seed in range(8):
        with seeded(seed):
            mixed, targets = mixer(images, labels)
        assert mixed.shape == images.shape
        assert targets.shape == (batch, 4)
        torch.testing.assert_close(targets.sum(1), torch.ones(batch))
    assert torch.equal(images, before)
    if batch % 2:
        assert torch.equal(mixed[-1], images[-1])
        assert targets[-1].argmax() == labels[-1]
        assert targets[-1].max() == pytest.approx(0.925)


def test_mixup_mixes_images_and_targets_alike():
    mixer = make_mixer(AugmentConfig(mixup=1.0, label_smoothing=0.0), num_classes=2)
    images, labels = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)]), torch.tensor([0, 1])
    with seeded(0):
        mixed, targets = mixer(images, labels)
    torch.testing.assert_close(mixed[0].mean(), targets[0, 1])
    assert 0 < targets[0, 1] < 1


def test_nothing_to_mix():
    assert make_mixer(AugmentConfig(), 4) is None


def test_mixup_rises_once_an_epoch():
    """DCD: alpha is 0 in the first epoch, and there after `mixup_epochs`."""
    mixer = LabelMixer(AugmentConfig(mixup=0.4, mixup_epochs=4, label_smoothing=0.0), num_classes=3)
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    mixer.set_epoch(0)
    mixed, targets = mixer(images, labels)
    assert torch.equal(mixed, images)
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 3).float())
    alphas = []
    for epoch in (1, 2, 4, 9):
        mixer.set_epoch(epoch)
        alphas.append(mixer._mix.mixup_alpha)
    assert alphas == pytest.approx([0.1, 0.2, 0.4, 0.4])
    assert not torch.equal(mixer(images, labels)[0], images)


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_the_crop_is_resized_as_asked(name):
    transform = train_transform(AugmentConfig(crop_interpolation=name), 16, (0.5,) * 3, (0.5,) * 3)
    assert transform.steps.transforms[0].interpolation.value == name
