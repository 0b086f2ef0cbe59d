"""The study of a saved network from end to end, for methods and data that have less to draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import dynaconv.training.attention_study as study
from dynaconv import DynaconvError
from dynaconv.analysis.attention import AttentionMaps
from dynaconv.errors import ImageError
from dynaconv.training import LoaderConfig
from dynaconv.training.attention_study import attention_study
from tests.training.saved import save_network
from tests.training.tiny import METHOD

LOADER = LoaderConfig(batch_size=8, image_size=16)


def saved(folder: Path, method) -> Path:
    save_network(folder / "net", method, LOADER)
    return folder / "net"


@pytest.fixture(scope="module")
def odconv(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("odconv"), {"method": "odconv", "num_kernels": 1})


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("warehouse"), METHOD)


def test_odconv_with_one_kernel_has_pictures_and_no_maximum(odconv, tmp_path):
    found = attention_study(odconv, out=tmp_path / "seen", loader=LOADER, limit=17, classes=["3"], perturb="all")
    names = {path.name for path in found.files}
    kinds = ("channel", "filter", "spatial")
    pictures = {f"{what}-{kind}.png" for what in ("attention", "classes", "images") for kind in kinds}
    others = {"attention.npz", "attention.txt", "perturbed.md", "perturbed.png", "weights.png"}
    assert names == pictures | others
    for name in pictures:
        with Image.open(tmp_path / "seen" / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 100
    assert list(found.perturbed["all layers"]) == ["average", "shuffled within images", "shuffled across images"]
    assert found.images == 17


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Pairs of images that were to be drawn; nothing is, which takes seconds."""
    pairs: list = []
    monkeypatch.setattr(study, "draw_images", lambda images, *_: pairs.append(images))
    monkeypatch.setattr(study, "save_figure", lambda figure, path: path)
    return pairs


def test_data_of_one_class_give_two_images_of_it(warehouse, tmp_path, monkeypatch, drawn):
    real = study.first_batches

    def of_one_class(loader, limit, done):
        return (((images[labels == 3], labels[labels == 3])) for images, labels in real(loader, limit, done))

    monkeypatch.setattr(study, "first_batches", of_one_class)
    found = attention_study(warehouse, out=tmp_path, loader=LOADER, limit=64, classes=["3", "7"])
    assert AttentionMaps.load(found.files[0]).class_images[1] == 0
    assert {tuple(title for title, _ in pair) for pair in drawn} == {("3, image 1", "3, image 2")}
    assert not torch.equal(drawn[0][0][1], drawn[0][1][1])
    assert any(path.name.startswith("classes-") for path in found.files)
    found = attention_study(warehouse, out=tmp_path / "none", loader=LOADER, limit=64, classes=["7"])
    assert not any(path.name.startswith("classes-") for path in found.files)


def test_images_are_of_two_classes_and_all_classes_are_among_the_first(warehouse, tmp_path, drawn):
    found = attention_study(warehouse, "mnist5k", out=tmp_path, loader=LOADER, limit=80)  # lies sorted by class
    assert len({title for title, _ in drawn[0]}) == 2
    assert sum(found.maps.class_images) == 80
    assert min(found.maps.class_images) > 0


def test_files_of_one_name_are_two_images(warehouse, tmp_path, drawn):
    paths = []
    for folder, value in (("a", 0), ("b", 255)):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "cat.png")
        Image.new("L", (16, 16), value).save(paths[-1])
    attention_study(warehouse, out=tmp_path / "out", loader=LOADER, limit=8, pictures=paths)
    assert [title for title, _ in drawn[0]] == [str(path) for path in paths]


def test_bad_inputs_are_told_before_any_image_is_looked_at(warehouse, tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("images were looked at")

    monkeypatch.setattr(study, "collect_attention", forbidden)
    out, picture = tmp_path / "out", tmp_path / "cat.png"
    Image.new("L", (16, 16)).save(picture)
    with pytest.raises(ImageError, match=r"typo\.jpg"):
        attention_study(warehouse, out=out, loader=LOADER, pictures=[tmp_path / "typo.jpg", picture])
    with pytest.raises(DynaconvError, match="is a file; expected a folder"):
        attention_study(warehouse, out=picture, loader=LOADER)
    single = LoaderConfig(batch_size=1, image_size=16)
    for options in ({"loader": single}, {"loader": LOADER, "limit": 1}):
        with pytest.raises(DynaconvError, match="expected two or more"):
            attention_study(warehouse, out=out, perturb="all", **options)
    assert not out.exists()


def test_many_panels_are_several_pictures():
    assert [*study._pages("usage", ["a", "b", "c"], 3)] == [("usage", ["a", "b", "c"])]
    assert [*study._pages("usage", ["a", "b", "c"], 2)] == [("usage-1", ["a", "b"]), ("usage-2", ["c"])]
    assert not [*study._pages("usage", [], 2)]
