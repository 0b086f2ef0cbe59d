"""Folders of classes: what is passed over, and what is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynaconv.errors import DynaconvError
from dynaconv.training.config import LoaderConfig
from dynaconv.training.data.folder import FolderImages
from dynaconv.training.data.sources import open_source
from tests.training.data.test_sources import make_folder


def plain(tmp_path: Path) -> Path:
    return make_folder(tmp_path, {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1}})


def names(images: FolderImages, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path, _ in images.samples]


def test_system_files_are_passed_over(tmp_path, caplog):
    train = plain(tmp_path) / "train"
    before = names(FolderImages(train), train)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden.jpg"):
        (train / "cat" / name).write_bytes(b"x")
    for name in (".ipynb_checkpoints", "__MACOSX", "cat/.cache"):
        (train / name).mkdir()
        (train / name / "copy.png").write_bytes(b"x")
    assert names(FolderImages(train), train) == before
    assert FolderImages(train).classes == ("cat", "dog")
    assert not caplog.records
    (train / "cat" / "notes.txt").write_text("x")
    assert names(FolderImages(train), train) == before
    assert "left out 1 files that are no images by name (1 .txt)" in caplog.text


def test_nested_folders_links_and_circles(tmp_path):
    train = plain(tmp_path) / "train"
    deeper = train / "cat" / "a" / "b"
    deeper.mkdir(parents=True)
    (train / "cat" / "0.png").rename(deeper / "0.PNG")
    (deeper / "up").symlink_to(train / "cat")
    (deeper / "self").symlink_to("self")
    (train / "dog" / "elsewhere").symlink_to(tmp_path / "val" / "dog")
    found = names(FolderImages(train), train)
    assert found == [
        "cat/1.png", "cat/2.png", "cat/a/b/0.PNG", "dog/0.png", "dog/1.png", "dog/elsewhere/0.png",
    ]  # fmt: skip


def test_the_order_is_torchvisions(tmp_path):
    from torchvision.datasets import ImageFolder

    train = make_folder(tmp_path, {"train": {"b": 12, "a": 3, "b/x": 2, "b/1": 2}}) / "train"
    assert FolderImages(train).samples == ImageFolder(str(train)).samples


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "train" / "cow").mkdir(), r"train has classes without images: cow \(empty\); expected"),
        (lambda root: [p.rename(p.with_suffix(".txt")) for p in (root / "val" / "dog").iterdir()],
         r"val has classes without images: dog \(1 other files\)"),
        (lambda root: (root / "val" / "dog").rename(root / "val" / "Dog"), r"\['dog'\] only in train/ and \['Dog'\]"),
        (lambda root: [p.rename(root / p.name) for p in (root / "train").iterdir()], r"train has no folders; expected"),
        (lambda root: (root / "val").rename(root / "rest"), r"has no val/; found the folders \['rest', 'train'\]"),
    ],
)  # fmt: skip
def test_folders_that_can_not_be_trained_on(tmp_path, change, text):
    change(plain(tmp_path))
    with pytest.raises(DynaconvError, match=text):
        open_source(str(tmp_path), LoaderConfig())


def test_paths_that_are_no_folder(tmp_path):
    (tmp_path / "a.zip").touch()
    (tmp_path / "a.tar").touch()
    (tmp_path / "empty").mkdir()
    for name, text in [
        ("a.zip", "a.zip is a file; expected a folder with train/ and val/$"),
        ("a.tar", r"a file; expected .*; for a WebDataset shard: wds:.*a.tar$"),
        ("empty", r"empty has no train/ and no val/; found the folders \[\]"),
        ("none", "data folder .*none does not exist"),
    ]:
        with pytest.raises(DynaconvError, match=text):
            open_source(str(tmp_path / name), LoaderConfig())
    with pytest.raises(DynaconvError, match="data='' is neither"):
        open_source("", LoaderConfig())


def test_a_folder_that_may_not_be_read(tmp_path):
    plain(tmp_path)
    tmp_path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything
            os.seteuid(65534)
        with pytest.raises(DynaconvError, match=r"can not be read: Permission denied"):
            open_source(f"folder:{tmp_path}", LoaderConfig())
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o700)


def test_a_number_of_classes_that_the_folder_does_not_have(tmp_path):
    with pytest.raises(DynaconvError, match=r"loader.num_classes=5, but .* has 2 classes; leave it out"):
        open_source(str(plain(tmp_path)), LoaderConfig(num_classes=5))
