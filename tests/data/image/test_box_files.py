"""A label file that is none, or is not whole, is refused by name and place."""

import contextlib

import pytest
from data.image.label_files import ONE, voc
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.data.image.box_files import MAX_XML_BYTES, parse_xml
from mae_ext.data.image.boxes import read_boxes
from mae_ext.errors import UserError


@pytest.mark.parametrize("form", [str, float, lambda number: f"image_{number}"])
def test_ids_may_be_text_or_whole_floats(coco, form):
    images = [{"id": form(i), "file_name": f"{i}.jpg"} for i in (1, 2)]
    categories = [{"id": form(i), "name": name} for i, name in ((10, "late"), (9, "early"))]
    rows = [
        {"id": form(3), "image_id": form(2), "category_id": form(10), "bbox": [10, 20, 30, 40]},
        {"id": form(4), "image_id": form(1), "category_id": form(9), "bbox": [1, 2, 3, 4]},
    ]
    table = read_boxes({"train": ["1.jpg", "2.jpg"]}, coco(images=images, categories=categories, annotations=rows))
    found = table["train"]
    assert set(found.classes) == {"early", "late"} and [found[i].boxes.tolist() for i in (0, 1)] == [
        [[1, 2, 4, 6]],
        [[10, 20, 40, 60]],
    ]
    assert [found.classes[int(found[i].labels)] for i in (0, 1)] == ["early", "late"]
    assert form(9) == "image_9" or found.classes == ("early", "late")  # 9 comes before 10, also as text


@pytest.mark.parametrize(("name", "told"), [("one.txt", "YOLO's text files are not read"), ("a.json", "of COCO, name")])
def test_a_folder_of_other_label_files_is_told_what_to_do(tmp_path, name, told):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=told):
        read_boxes(ONE, str(tmp_path))


# Files that are not what they seem


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (BOMB, "DOCTYPE"),
        (OUTSIDE, "DOCTYPE"),
        ("<annotation>", "not XML"),
        ("<annotation>&c;</annotation>", "not XML"),
        ("", "empty"),
        ("<html/>", "expected <annotation>"),
        ("<a>" * 20 + "</a>" * 20, "nested more than"),
        ("<annotation><object><name>x</name></object></annotation>", "object 1: has no bndbox"),
        (voc(("cat", 1, 1, "nan", 9)), "xmax is 'nan'; expected a number"),
        (voc(("cat", 1, "", 9, 9)), "ymin is ''"),
        (voc((" ", 1, 1, 9, 9)), "has no name"),
        (voc(size=("wide", 3)), "size/width is 'wide'"),
    ],
)
def test_an_xml_file_that_is_not_voc_is_refused_by_name(labels, text, fault):
    with pytest.raises(UserError, match=rf"(?s)one\.xml.*{fault}"):
        read_boxes(ONE, labels({"one": text}))


def test_an_xml_file_larger_than_any_label_is_not_read(labels):
    with pytest.raises(UserError, match="too large"):
        read_boxes(ONE, labels({"one": f"<annotation>{' ' * MAX_XML_BYTES}</annotation>"}))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_the_xml_parser_raise_anything_else(content):
    with contextlib.suppress(UserError):
        parse_xml(content, "x.xml")


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ({"images": 3}, "no list 'images'"),
        (
            {"annotations": [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]}]},
            r"annotations\[0\]: image_id is 1",
        ),
        ({"annotations": [{"image_id": 7, "category_id": 6, "bbox": [1, 2, 3, 4]}]}, "category_id is 6"),
        ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 2, 3]}]}, "bbox is .1, 2, 3.; expected"),
        ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 2, "x", 4]}]}, r"bbox\[2\] is 'x'"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]}, r"categories\[1\]: id is 5"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 3, "name": "a"}]}, "categories a have more than one id"),
        ({"images": [{"id": 7, "file_name": ""}]}, "file_name is ''"),
        ({"images": [{"id": 7, "file_name": "a.jpg", "height": float("nan"), "width": 3}]}, "not JSON"),
    ],
)
def test_a_json_file_that_is_not_coco_is_refused_by_place(coco, overrides, fault):
    with pytest.raises(UserError, match=rf"labels\.json.*{fault}"):
        read_boxes({"train": ["a/one.jpg", "b/one.jpg"]}, coco(**overrides))


@pytest.mark.parametrize("path", ["nowhere", "nowhere.json"])
def test_labels_that_are_not_there_are_said_to_be_missing(tmp_path, path):
    with pytest.raises(UserError, match="there is no such file or folder"):
        read_boxes(ONE, str(tmp_path / path))
