"""Whatever a file in COCO's format holds, it is used, mended and counted, or refused in one line."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from dynaconv.detection import read_annotations
from dynaconv.detection.data.entries import stays_inside
from dynaconv.detection.data.report import KINDS
from dynaconv.errors import DynaconvError
from tests.detection.data.coco_sets import make_content, write_json


def read(tmp_path, content, masks=True):
    return read_annotations(write_json(tmp_path / "a.json", content), tmp_path / "images", masks)


def test_a_clean_file_is_kept_as_it_is(tmp_path):
    content = make_content()
    found = read(tmp_path, content)
    assert found.content["annotations"] == content["annotations"]
    assert found.content["images"] == content["images"]
    assert found.report.faults == 0
    assert dict(found.report.counts) == {"category_gap": 2, "image_empty": 2}
    assert (found.category_ids, found.classes) == ((3, 7, 90), ("dog", "cat", "cow"))
    boxes = read(tmp_path, content, masks=False).content["annotations"]
    assert boxes == [{k: v for k, v in entry.items() if k != "segmentation"} for entry in content["annotations"]]
    assert [read(tmp_path, content, masks=None).masks, read(tmp_path, strip(content), masks=None).masks] == [
        True,
        False,
    ]


def strip(content):
    return content | {"annotations": [{**entry, "segmentation": []} for entry in content["annotations"]]}


NAN, INF = float("nan"), float("inf")
SQUARE = [1, 1, 9, 1, 9, 9]
FAULTS = [
    # list, entry, fields to change (None takes one away), kinds that are counted, entries of the list that are lost
    ("annotations", 0, {"bbox": [1, 2, 0, 5]}, ["box_empty"], 1),
    ("annotations", 0, {"bbox": [1, 2, 5, -5]}, ["box_empty"], 1),
    ("annotations", 0, {"bbox": [1, 2, 1e-30, 5]}, ["box_empty"], 1),
    ("annotations", 0, {"bbox": [50, 2, 5, 5]}, ["box_outside"], 1),
    ("annotations", 0, {"bbox": [-5, 2, 5, 5]}, ["box_outside"], 1),
    ("annotations", 0, {"bbox": [-5, 2, 9, 5]}, ["box_clipped"], 0),
    ("annotations", 0, {"bbox": [5, -5, 9, 9]}, ["box_clipped"], 0),
    ("annotations", 0, {"bbox": [25, 5, 9, 9]}, ["box_clipped"], 0),
    ("annotations", 0, {"bbox": [5, 35, 9, 9]}, ["box_clipped"], 0),
    ("annotations", 0, {"bbox": [-0.5, 2, 9, 5]}, [], 0),
    ("annotations", 0, {"bbox": [NAN, 2, 5, 5]}, ["box_values"], 1),
    ("annotations", 0, {"bbox": [1, 2, INF, 5]}, ["box_values"], 1),
    ("annotations", 0, {"bbox": [1, 2, 5, 10**400]}, ["box_values"], 1),
    ("annotations", 0, {"bbox": [1, 2, 5]}, ["box_values"], 1),
    ("annotations", 0, {"bbox": [1, 2, "5", 5]}, ["box_values"], 1),
    ("annotations", 0, {"bbox": [1, 2, True, 5]}, ["box_values"], 1),
    ("annotations", 0, {"bbox": None}, ["box_values"], 1),
    ("annotations", 0, {"image_id": 5}, ["object_image"], 1),
    ("annotations", 0, {"image_id": "103"}, ["object_entry"], 1),
    ("annotations", 0, {"category_id": 4}, ["object_category"], 1),
    ("annotations", 0, {"category_id": [7]}, ["object_entry"], 1),
    ("annotations", 0, {"category_id": True}, ["object_entry"], 1),
    ("annotations", 0, {"iscrowd": 2}, ["object_entry"], 1),
    ("annotations", 0, {"iscrowd": None}, [], 0),
    ("annotations", 0, {"iscrowd": 1}, ["crowd"], 0),
    ("annotations", 0, {"id": 2}, ["object_id"], 0),
    ("annotations", 0, {"id": None}, ["object_id"], 0),
    ("annotations", 0, {"id": {}}, ["object_id"], 0),
    ("annotations", 0, {"id": 0}, [], 0),
    ("annotations", 0, {"area": NAN}, ["object_area"], 0),
    ("annotations", 0, {"area": None}, ["object_area"], 0),
    ("annotations", 0, {"segmentation": None}, ["mask_missing"], 1),
    ("annotations", 0, {"segmentation": []}, ["mask_missing"], 1),
    ("annotations", 0, {"segmentation": "x"}, ["mask_type"], 1),
    ("annotations", 0, {"segmentation": SQUARE}, ["mask_values"] * 6, 1),
    ("annotations", 0, {"segmentation": [[1, 1, 9, 9]]}, ["mask_short"], 1),
    ("annotations", 0, {"segmentation": [[*SQUARE, 5]]}, ["mask_short"], 1),
    ("annotations", 0, {"segmentation": [SQUARE, []]}, ["mask_short"], 0),
    ("annotations", 0, {"segmentation": [[*SQUARE[:5], NAN]]}, ["mask_values"], 1),
    ("annotations", 0, {"segmentation": [[NAN, *SQUARE[1:]]]}, ["mask_values"], 1),
    ("annotations", 0, {"segmentation": [[*SQUARE[:5], 1e12]]}, ["mask_values"], 1),
    ("annotations", 0, {"segmentation": [[*SQUARE[:5], 10**400]]}, ["mask_values"], 1),
    ("annotations", 0, {"segmentation": [[*SQUARE[:5], "9"]]}, ["mask_values"], 1),
    ("annotations", 0, {"segmentation": {"size": [3, 4], "counts": [12]}}, ["mask_size"], 1),
    ("annotations", 0, {"segmentation": {"counts": [1200]}}, ["mask_size"], 1),
    ("annotations", 0, {"segmentation": {"size": [40.0, 30.0], "counts": [1200]}}, ["mask_size"], 1),
    ("annotations", 0, {"segmentation": {"size": [40, 30], "counts": [1199]}}, ["mask_counts"], 1),
    ("annotations", 0, {"segmentation": {"size": [40, 30], "counts": [1300, -100]}}, ["mask_counts"], 1),
    ("annotations", 0, {"segmentation": {"size": [40, 30], "counts": "P"}}, ["mask_counts"], 1),
    ("annotations", 0, {"segmentation": {"size": [40, 30], "counts": "é"}}, ["mask_counts"], 1),
    ("annotations", 0, {"segmentation": {"size": [40, 30]}}, ["mask_counts"], 1),
    ("images", 3, {"file_name": "../3.png"}, ["image_path"], 1),
    ("images", 3, {"file_name": "/etc/passwd"}, ["image_path"], 1),
    ("images", 3, {"file_name": "a\0b"}, ["image_path"], 1),
    ("images", 3, {"file_name": 3}, ["image_entry"], 1),
    ("images", 3, {"height": None}, ["image_entry"], 1),
    ("images", 3, {"height": 0}, ["image_entry"], 1),
    ("images", 3, {"width": 36.5}, ["image_entry"], 1),
    ("images", 3, {"width": NAN}, ["image_entry"], 1),
    ("images", 3, {"width": 10**9}, ["image_entry"], 1),
    ("images", 3, {"width": 40.0}, [], 0),
    ("images", 3, {"id": "3"}, ["image_entry"], 1),
    ("images", 4, {"file_name": "0.png"}, ["image_repeated"], 0),
    ("categories", 2, {"id": None}, ["category_entry"], 1),
    ("categories", 2, {"name": None}, ["category_name"], 0),
    ("categories", 2, {"name": "cat"}, ["category_name"] * 2, 0),
]  # fmt: skip


@pytest.mark.parametrize(("section", "index", "change", "kinds", "lost"), FAULTS)
def test_faults_are_counted(tmp_path, section, index, change, kinds, lost):
    content, before = make_content(), read(tmp_path, make_content())
    content[section][index].update(change)
    found = read(tmp_path, content)
    expected_loss = {section: lost}
    losses = {name: len(before.content[name]) - len(found.content[name]) for name in before.content}
    assert losses[section] == expected_loss[section]
    counted = found.report.counts - before.report.counts
    indirect = {"object_image", "object_category", "image_empty", "category_empty"} - set(kinds)
    assert sorted(kind for kind in counted.elements() if kind not in indirect) == sorted(kinds)
    if section != "annotations":
        assert losses["annotations"] == counted["object_image"] + counted["object_category"]
    assert all(found.report.examples[kind] for kind in kinds)
    usable(found)


def test_boxes_are_cut_at_the_edge(tmp_path):
    content = make_content()
    for entry, box in zip(content["annotations"], ([-5, 35, 9, 9], [20, -5.5, 90, 9]), strict=False):
        entry["bbox"] = box
    boxes = [entry["bbox"] for entry in read(tmp_path, content).content["annotations"]]
    assert boxes[:2] == [[0, 35, 4, 5], [20, 0, 16, 3.5]]


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, 3, "x", [], {}])
def test_entries_that_are_none(tmp_path, section, entry):
    content = make_content()
    content[section].append(entry)
    found = read(tmp_path, content)
    assert found.report.faults >= 1
    assert {name: found.content[name] for name in ("images", "annotations")} == {
        name: make_content()[name] for name in ("images", "annotations")
    }


UNUSABLE = [
    (b"", "holds no JSON"),
    (b"\xff\xfe\x00", "holds no JSON"),
    (b"{", "holds no JSON"),
    (b"[" * 100_000, "holds no JSON"),
    (b"1" * 5000, "holds no JSON"),
    (b"[]", "holds a list; expected a mapping"),
    (b"{}", "needs a list 'images' with entries, as COCO's files have it; found none"),
    (b'{"images": {}}', "needs a list 'images' .* found a dict"),
    (b'{"images": [1]}', "needs a list 'annotations'"),
    (b'{"images": [1], "annotations": []}', "needs a list 'annotations' .* found an empty list"),
    (b'{"images": [1], "annotations": [1], "categories": []}', "needs a list 'categories'"),
    (b'{"images": [1], "annotations": [1], "categories": [1]}', "no usable category; 1 categories that are malformed"),
]


@pytest.mark.parametrize(("data", "text"), UNUSABLE)
def test_files_that_can_not_be_used(tmp_path, data, text):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DynaconvError, match=text) as error:
        read_annotations(tmp_path / "a.json", tmp_path, True)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(DynaconvError, match="can not be read"):
            read_annotations(path, tmp_path, True)


@pytest.mark.parametrize("section", ["images", "categories"])
def test_repeated_ids(tmp_path, section):
    content = make_content()
    content[section].append(content[section][0])
    with pytest.raises(DynaconvError, match="ids must be unique"):
        read(tmp_path, content)


def test_objects_without_masks_where_masks_are_needed(tmp_path):
    with pytest.raises(DynaconvError, match=r"no usable object with a mask; 9 objects without a mask"):
        read(tmp_path, strip(make_content(7)))
    assert len(read(tmp_path, strip(make_content(7)), masks=False).content["annotations"]) == 9


@pytest.mark.parametrize(
    "name", ["", ".", "/a", "../a", "a/../../b", "a\\..\\b", "C:a", "C:\\a", "\\\\host\\a", "\\a", "\0"]
)
def test_names_that_lead_out_of_the_folder(name):
    assert not stays_inside(name)


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a..b/..c.jpg", ".hidden", "a b", "ä.png"])
def test_names_that_stay_inside(name):
    assert stays_inside(name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=8,
)
FIELDS = {
    "images": ["id", "file_name", "height", "width"],
    "annotations": ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation"],
    "categories": ["id", "name"],
}


def usable(found):
    """Nothing of it makes pycocotools stumble, and ids refer to what is there."""
    truth = COCO()
    truth.dataset = copy.deepcopy(found.content)
    truth.createIndex()
    assert len(truth.anns) == len(found.content["annotations"])
    assert all(entry["id"] > 0 for entry in found.content["annotations"])
    for entry in found.content["annotations"]:
        image = truth.imgs[entry["image_id"]]
        assert entry["category_id"] in truth.cats
        x, y, w, h = entry["bbox"]
        assert -1 <= x < x + w <= image["width"] + 1
        assert -1 <= y < y + h <= image["height"] + 1
        if found.masks:
            assert truth.annToMask(entry).shape == (image["height"], image["width"])


@given(
    changes=st.lists(
        st.sampled_from([(section, field) for section, fields in FIELDS.items() for field in fields]).flatmap(
            lambda place: st.tuples(st.just(place), st.integers(0, 20), JSON)
        ),
        min_size=1,
        max_size=6,
    ),
    whole=st.dictionaries(st.sampled_from([*FIELDS, "info"]), JSON, max_size=2),
    masks=st.sampled_from([True, False, None]),
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_crashes(tmp_path, capsys, changes, whole, masks):
    content = make_content()
    for (section, field), index, value in changes:
        content[section][index % len(content[section])][field] = value
    try:
        found = read(tmp_path, content | whole, masks)
    except DynaconvError:
        return
    json.dumps(found.report.to_dict()).encode()
    str(found.report).encode()
    assert set(found.report.counts) <= set(KINDS)
    usable(found)
