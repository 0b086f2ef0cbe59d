"""`dynaconv detect check`: what it finds, what it prints, and its exit codes."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from dynaconv.cli.main import main
from dynaconv.training.data.images import ENDINGS, image_size, load_image
from tests.detection.data.coco_sets import make_content, write_json, write_set


def check(root, *flags, capsys):
    code = main(["detect", "check", str(root), *flags])
    return code, *capsys.readouterr()


def found(root, *flags, capsys):
    code, out, _ = check(root, "--json", *flags, capsys=capsys)
    report = json.loads(out)
    kinds = [{entry["kind"]: entry for entry in split["found"]} for split in report["splits"].values()]
    assert report["faults"] == sum(e["count"] for split in kinds for e in split.values() if e["fault"])
    assert code == (report["faults"] > 0)
    return report, *kinds


def test_clean(tmp_path, capsys):
    root = write_set(tmp_path)
    code, out, _ = check(root, capsys=capsys)
    assert code == 0
    assert "6 images, 7 objects with masks (7 small, 0 medium, 0 large), 0 crowds, 3 classes" in out
    assert "note           2  gaps between the ids of categories; labels have none: '3 to 7', '7 to 90'" in out.replace(
        "3 to 7, 7 to 90", "'3 to 7', '7 to 90'"
    )
    assert out.endswith("no faults\n")
    report, train, _ = found(root, capsys=capsys)
    assert train.keys() == {"category_gap", "image_empty"}
    assert report["splits"]["train"]["classes"] == {"dog": 3, "cat": 2, "cow": 2}


def test_what_lies_on_disk(tmp_path, capsys):
    root = write_set(tmp_path)
    images = root / "train2017"
    (images / "0.png").unlink()
    (images / "1.png").write_bytes(b"GIF89a")
    Image.new("RGB", (36, 35)).save(images / "2.png")
    whole = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (3, 3)).save(images / "other.png")
    (images / "readme.txt").write_text("x")
    report, train, _ = found(root, capsys=capsys)
    examples = {kind: entry["examples"] for kind, entry in train.items() if kind.startswith("image")}
    assert examples.pop("image_empty") == ["0.png", "4.png"]
    assert examples["image_unreadable"][0].startswith("1.png (")
    assert {**examples, "image_unreadable": None} == {
        "image_missing": ["0.png"],
        "image_unreadable": None,
        "image_size": ["2.png (it is 36x35 pixels, and 36x36 in the annotations)"],
        "image_unlisted": ["other.png"],
    }
    assert report["faults"] == 3
    report, train, _ = found(root, "--decode", capsys=capsys)
    assert train["image_unreadable"]["count"] == 2
    code, out, _ = check(root, capsys=capsys)
    assert code == 1
    assert "fault          1  images that are not on disk; count as unreadable: 0.png\n" in out
    assert out.endswith("\n3 faults\n")


def test_masks(tmp_path, capsys):
    content = make_content()
    content["annotations"][1]["segmentation"] = [[5, 5, 5.01, 5, 5.01, 5.01]]
    x, y, w, h = content["annotations"][2]["bbox"]
    content["annotations"][2]["bbox"] = [x, y, w - 3, h]
    x, y, w, h = content["annotations"][3]["bbox"]
    content["annotations"][3]["bbox"] = [x, y, w - 1.5, h]
    tip = content["annotations"][4]
    x, y, w, h = tip["bbox"]
    left = 2.0  # the tip from here on is too thin for a pixel
    tip["segmentation"] = [[left, y + 3, x, y + 2.99, x, y, x + w, y, x + w, y + h, x, y + h, x, y + 3.01]]
    tip["bbox"] = [left, y, x + w - left, h]
    assert x - left > 3
    _, train, _ = found(write_set(tmp_path, content), capsys=capsys)
    faults = {kind: entry["examples"] for kind, entry in train.items() if entry["fault"]}
    assert {kind: len(examples) for kind, examples in faults.items()} == {"mask_empty": 1, "mask_box": 1}
    assert faults["mask_empty"] == ["2 (2.png)"]
    assert faults["mask_box"][0].startswith("3 (2.png: box [")


def test_boxes_alone_and_one_folder_for_both(tmp_path, capsys):
    contents = [make_content(4), make_content(6)]
    for content in contents:
        for entry in content["annotations"]:
            del entry["segmentation"]
    write_set(tmp_path, *contents)
    flags = ["--loader.train_images", "val2017"]
    code, out, _ = check(tmp_path, *flags, capsys=capsys)
    assert code == 0
    assert "4 images, 6 objects without masks" in out
    assert "do not name" not in out


def test_unusable(tmp_path, capsys):
    write_set(tmp_path)
    write_json(tmp_path / "annotations/instances_val2017.json", [])
    for flags, text in (
        ([], "instances_val2017.json holds a list"),
        (["--loader.val_annotations", "x.json"], "x.json can not be read"),
        (["--loader.val_images", "x"], "there is no folder"),
    ):
        code, out, err = check(tmp_path, *flags, capsys=capsys)
        assert (code, out) == (2, "")
        assert text in err
        assert err.count("\n") == 1


def test_hostile_names_are_printed_and_not_opened(tmp_path, capsys):
    content = make_content()
    root = write_set(tmp_path, content)
    for index, name in enumerate(["../val2017/0.png", "\ud800.png", "a\nb\x1b[31m.png"]):
        content["images"][index]["file_name"] = name
    write_json(root / "annotations/instances_train2017.json", content)
    _, train, _ = found(root, capsys=capsys)
    assert train["image_path"]["count"] == 1
    code, out, _ = check(root, capsys=capsys)
    assert code == 1
    assert "\x1b" not in out
    out.encode()


def test_progress_is_shown_on_a_terminal(tmp_path, capsys, monkeypatch):
    root = write_set(tmp_path)
    plain = check(root, capsys=capsys)[1]
    monkeypatch.setattr("dynaconv.cli.options.on_terminal", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = check(root, capsys=capsys)[1]
    assert shown.endswith(plain)
    assert "val: masks" in shown.removesuffix(plain)


def test_a_picture(tmp_path, capsys):
    root = write_set(tmp_path)
    (root / "train2017" / "1.png").write_bytes(b"")
    check(root, "--picture", str(tmp_path / "out" / "sheet.png"), capsys=capsys)
    pixels = load_image(tmp_path / "out" / "sheet.png")
    assert pixels.width == 8 + 4 * (8 * 40 + 8)  # the largest side, 40 pixels, is drawn eight times as large
    assert len(pixels.getcolors(pixels.width * pixels.height)) > 100


@pytest.mark.parametrize("ending", sorted(ENDINGS & {".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm"}))
def test_sizes_are_read_as_images_are(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    Image.new("RGB", (7, 5)).save(path)
    assert image_size(path) == load_image(path).size == (7, 5)
