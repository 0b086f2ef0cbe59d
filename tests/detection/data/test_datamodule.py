"""The data module from end to end: what comes out, and what becomes of files that are broken."""

from __future__ import annotations

import copy

import pytest
import torch

from dynaconv.detection import (
    CocoLoaderConfig,
    DetectionAugmentConfig,
    DetectionDataModule,
    DetectionRecipe,
    DetectorConfig,
)
from dynaconv.errors import DynaconvError
from tests.detection.data.coco_sets import make_content, write_json, write_set


def opened(root, masks=True, seed=0, stage=None, flip=0.5, **options) -> DetectionDataModule:
    loader = CocoLoaderConfig(
        **{"batch_size": 3, "val_batch_size": 3, "workers": 0, "empty_images": True, "max_bad": 0.5, **options}
    )
    module = DetectionDataModule(str(root), loader, DetectionAugmentConfig(flip=flip), masks=masks, seed=seed)
    module.setup(stage)
    return module


def flat(batches):
    """Everything in batches, to be compared."""
    values = []
    for images, targets in batches:
        values.append([image.sum().item() for image in images])
        values.append([{k: v.tolist() if torch.is_tensor(v) else v for k, v in t.items()} for t in targets])
    return values


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("data") / "set", make_content(11), make_content(5, seed=1))


def test_what_comes_out(root):
    recipe = DetectionRecipe(
        data=str(root), loader=CocoLoaderConfig(workers=0), detector=DetectorConfig(kind="faster_rcnn")
    )
    module = DetectionDataModule.from_recipe(recipe)
    module.setup()
    module.setup()
    assert (module.classes, module.category_ids) == (("dog", "cat", "cow"), (3, 7, 90))
    assert module.preprocessing() == {"classes": ["dog", "cat", "cow"], "category_ids": [3, 7, 90]}
    assert module.summary() == {"classes": ["dog", "cat", "cow"], "train": 8, "val": 5}  # three train images are empty
    images, targets = next(iter(module.train_dataloader()))
    assert [len(images), len(targets)] == [2, 2]
    assert all(image.shape == (3, *target["size"]) for image, target in zip(images, targets, strict=True))
    assert all(0 <= image.min() <= image.max() <= 1 for image in images)
    assert "masks" not in targets[0]
    assert len(module.train_dataloader()) == module.iterations_per_epoch == 4
    assert len(opened(root, empty_images=False, limit=5)._train) == 5
    assert [entry["id"] for entry in module.val_truth.content["images"]] == [100, 103, 106, 109, 112]


def test_validation_is_whole_and_in_order(root):
    batches = list(opened(root, flip=1.0, empty_images=False).val_dataloader())
    assert [target["image_id"] for _, targets in batches for target in targets] == [100, 103, 106, 109, 112]
    assert batches[0][0][1][0, 0, 5] * 255 == 5  # red is the column: nothing was flipped
    assert [len(images) for images, _ in batches] == [3, 2]


def test_epochs_do_not_depend_on_workers(root):
    epochs = [list(opened(root, workers=workers).train_dataloader()) for workers in (0, 2)]
    assert flat(epochs[0]) == flat(epochs[1])
    assert flat(epochs[0]) != flat(opened(root, seed=1).train_dataloader())
    assert sum(len({t["size"][0] > t["size"][1] for t in targets}) > 1 for _, targets in epochs[0]) <= 1


def test_an_epoch_is_resumed(root):
    whole = opened(root).train_dataloader()
    whole.batch_sampler.set_epoch(3)
    batches = list(whole)
    iterator = iter(whole)
    next(iterator)
    again = opened(root).train_dataloader()
    again.load_state_dict(whole.state_dict())
    again.batch_sampler.set_epoch(3)
    assert flat(again) == flat(batches[1:])


class Processes:
    def __init__(self, global_rank, world_size):
        self.global_rank, self.world_size = global_rank, world_size


@pytest.mark.parametrize("group_shapes", [True, False])
def test_processes_share_an_epoch(root, group_shapes):
    seen = {"train": [], "val": []}
    for rank in range(2):
        module = opened(root, batch_size=2, group_shapes=group_shapes)
        module.trainer = Processes(rank, 2)
        assert module.iterations_per_epoch == 3
        for split, loader in (("train", module.train_dataloader()), ("val", module.val_dataloader())):
            seen[split] += [target["image_id"] for _, targets in loader for target in targets]
    assert len(seen["train"]) == 12
    assert set(seen["train"]) == {100 + 3 * i for i in range(11)}
    assert sorted(seen["val"]) == [100, 103, 106, 109, 112]


def test_broken_images(tmp_path):
    root = write_set(tmp_path, make_content(11), make_content(5, seed=1))
    (root / "train2017" / "2.png").write_bytes(b"")
    (root / "train2017" / "10.png").unlink()  # the last one: the next is the first
    (root / "val2017" / "1.png").write_bytes(b"no image")
    (root / "val2017" / "2.png").write_bytes((root / "val2017" / "0.png").read_bytes())  # another size
    module = opened(root)
    ids = [target["image_id"] for _, targets in module.train_dataloader() for target in targets]
    assert sorted(ids) == sorted([100, 100, 103, 109, 109, *(112 + 3 * i for i in range(6))])
    faults = {fault.name: fault.cause for fault in module.ledgers["unreadable"].faults}
    assert faults == {
        str(root / "train2017" / "2.png"): "it is empty",
        str(root / "train2017" / "10.png"): "there is no such file",
    }
    judged = [target["image_id"] for _, targets in module.val_dataloader() for target in targets]
    assert judged == [100, 109, 112]
    assert "1.png (none of" in str(module.ledgers["val_unreadable"])
    assert "2.png (it is 40x30 pixels, and 36x36 in the annotations)" in str(module.ledgers["val_unreadable"])
    with pytest.raises(
        DynaconvError, match=r"1 training image could not be read: .*/2.png \(it is empty\); loader.max_bad=0 allows"
    ):
        list(opened(root, max_bad=0.0).train_dataloader())


@pytest.mark.parametrize("size", [1, 2])
def test_a_broken_image_is_left_out_by_whichever_process_meets_it(tmp_path, size):
    root = write_set(tmp_path, make_content(4), make_content(5, seed=1))
    (root / "val2017" / "1.png").write_bytes(b"no image")
    judged = []
    for rank in range(2):
        module = opened(root, val_batch_size=size)
        module.trainer = Processes(rank, 2)
        judged += [target["image_id"] for _, targets in module.val_dataloader() for target in targets]
    assert sorted(judged) == [100, 106, 109, 112]


def test_an_epoch_is_not_gone_on_with_in_batches_of_another_size(tmp_path):
    root = write_set(tmp_path, make_content(9))
    loader = opened(root, batch_size=2).train_dataloader()
    next(iter(loader))
    state = loader.state_dict()
    opened(root, batch_size=2).train_dataloader().load_state_dict(state)
    with pytest.raises(DynaconvError, match=r"cut by .*'batch_size': 2.* now by .*'batch_size': 4"):
        opened(root, batch_size=4).train_dataloader().load_state_dict(state)


def test_faults_of_the_annotations_are_told(tmp_path, caplog):
    content = make_content()
    content["annotations"][0]["bbox"][2] = 0
    opened(write_set(tmp_path, content))
    assert len(caplog.records) == 1
    assert "instances_train2017.json: 1 boxes of no area; left out: 1 ([" in caplog.messages[0]
    assert caplog.messages[0].endswith("`dynaconv detect check` tells more")


def test_validation_alone(tmp_path):
    root = write_set(tmp_path)
    (root / "annotations/instances_train2017.json").unlink()
    module = opened(root, stage="validate")
    assert module.classes == ("dog", "cat", "cow")
    assert len(list(module.val_dataloader())) == 2
    with pytest.raises(DynaconvError, match=r"instances_train2017.json can not be read: No such file"):
        module.setup("fit")


def test_splits_of_different_classes(tmp_path):
    val = make_content(5)
    val["categories"][0]["name"] = "tiger"
    with pytest.raises(DynaconvError, match=r"different categories: 7: 'cat' and 'tiger'; expected the same"):
        opened(write_set(tmp_path, val=val))
    val = copy.deepcopy(make_content(5)) | {"categories": [*make_content()["categories"], {"id": 1, "name": "eel"}]}
    write_json(tmp_path / "annotations/instances_val2017.json", val)
    with pytest.raises(DynaconvError, match=r"1: None and 'eel'"):
        opened(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(DynaconvError, match=r"data='.*none' is no folder"):
        opened(tmp_path / "none")
    with pytest.raises(DynaconvError, match=r"there is no folder .*val2017; say where .* loader.val_images"):
        opened(tmp_path)
    module = DetectionDataModule("coco")
    for ask in (module.train_dataloader, module.val_dataloader, module.summary, lambda: module.val_truth):
        with pytest.raises(DynaconvError, match=r"call setup\(\)"):
            ask()
