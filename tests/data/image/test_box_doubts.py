"""Boxes that cannot be meant, as shares, swapped sizes or corners, are refused with what to do."""

import pytest
from data.image.label_files import ONE, named, voc

from mae_ext.data.image.boxes import read_boxes
from mae_ext.errors import BadSample, UserError


def test_shares_of_the_image_are_refused_with_what_to_multiply(coco, labels):
    shares = {
        "annotations": [{"id": i, "image_id": 0, "category_id": 3, "bbox": [0.25, 0.5, 0.25, 0.5]} for i in (1, 2)]
    }
    with pytest.raises(UserError, match=r"2 of 2 boxes lie within 0\.\.1, .*shares of the image.*multiply x and width"):
        read_boxes(ONE, coco(**named("one.jpg") | shares))
    with pytest.raises(UserError, match=r"1 of 1 boxes lie within 0\.\.1"):
        read_boxes(ONE, labels({"one": voc(("cat", 0.1, 0.1, 0.5, 0.5))}))


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_one_share_of_the_image_among_boxes_in_pixels_is_a_faulty_box(coco, labels, kind):
    """As where two label files were made one."""
    if kind == "coco":
        boxes = [[0.25, 0.5, 0.25, 0.5], [10, 20, 30, 40]]
        rows = [{"id": i, "image_id": 0, "category_id": 3, "bbox": box} for i, box in enumerate(boxes)]
        path = coco(**named("one.jpg") | {"annotations": rows})
    else:
        path = labels({"one": voc(("cat", 0.25, 0.5, 0.5, 1), ("cat", 11, 21, 40, 60))})
    with pytest.raises(UserError, match=r"1 boxes .*: box 1, .* as shares of the image do \(0\.\.1\)"):
        read_boxes(ONE, path)
    table = read_boxes(ONE, path, faulty="drop")["train"]
    assert table[0].boxes.tolist() == [[10, 20, 40, 60]] and len(table.dropped) == 1


def test_labels_without_any_box_for_what_is_trained_on_are_refused(labels):
    with pytest.raises(UserError, match="the 1 images to train on have no box at all: nothing to learn"):
        read_boxes(ONE, labels({"one": voc()}))


def test_a_small_box_among_others_is_no_share(labels):
    folder = labels({"one": voc(("cat", 0, 0, 1, 1), ("cat", 10, 10, 20, 20), ("cat", 30, 10, 40, 20))})
    assert len(read_boxes(ONE, folder)["train"][0].boxes) == 3


def test_corners_where_coco_has_width_and_height_are_recognised(coco):
    corners = {
        "annotations": [{"id": i, "image_id": 0, "category_id": 3, "bbox": [50, 40, 90 + i, 70]} for i in (1, 2)]
    }
    with pytest.raises(UserError, match=r"2 boxes lie outside.* All boxes fit as \[x1, y1, x2, y2\]"):
        read_boxes(ONE, coco(**named("one.jpg") | corners))


def test_a_swapped_size_is_recognised_by_the_boxes_and_by_the_image(labels):
    folder = labels(
        {"one": voc(("cat", 61, 11, 90, 40), size=(80, 100)), "two": voc(("cat", 1, 1, 9, 9), size=(80, 100))}
    )
    with pytest.raises(UserError, match="All boxes fit with width and height swapped: correct the sizes"):
        read_boxes(ONE, folder)
    found = read_boxes({"train": ["two.jpg"]}, folder)["train"][0]
    with pytest.raises(BadSample, match="width and height may be swapped in the label file"):
        found.check("two.jpg", (80, 100))
