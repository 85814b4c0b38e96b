"""Boxes: from label files to one table, and along with a crop."""

import pytest
import torch
from data.image.label_files import ONE, named, voc
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.data.image.boxes import MIN_VISIBLE, crop_boxes, read_boxes, uncrop_boxes
from mae_ext.data.sample import Crop
from mae_ext.errors import BadSample, UserError

# Reading


def test_voc_counts_from_one_and_includes_both_ends(labels):
    table = read_boxes(ONE, labels({"one": voc(("cat", 1, 1, 100, 80), ("dog", 5, 6, 7, 8, True))}))["train"]
    assert table.classes == ("cat", "dog")
    assert table[0].boxes.tolist() == [[0, 0, 100, 80], [4, 5, 7, 8]]
    assert (table[0].labels.tolist(), table[0].ignored.tolist(), table[0].size) == ([0, 1], [False, True], (80, 100))


def test_coco_counts_from_zero_and_its_classes_are_in_the_order_of_their_ids(coco):
    sources = {"train": ["x/b/one.jpg", "x/a/one.jpg"]}
    table = read_boxes(sources, coco())["train"]
    assert table.classes == ("zebra", "cat")
    assert table[0].boxes.tolist() == [[10, 20, 40, 60], [0, 0, 100, 80]]
    assert (table[0].labels.tolist(), table[0].ignored.tolist()) == ([1, 0], [False, True])
    assert table[1].boxes.shape == (0, 4) and table.most == 2


def test_an_image_without_objects_is_legal_and_one_without_labels_is_not(labels):
    folder = labels({"one": voc(), "two": voc(("cat", 1, 1, 9, 9))})
    table = read_boxes({"train": ["one.png", "two.png"]}, folder)["train"]
    assert [len(table[i].boxes) for i in range(2)] == [0, 1]
    with pytest.raises(UserError, match=r"1 images have no labels: three\.png.*needs an entry"):
        read_boxes({"train": ["one.png", "two.png", "three.png"]}, folder)


def test_one_folder_or_file_may_have_labels_of_more_images_than_are_used_and_that_is_said(labels, coco, caplog):
    folder = labels({"one": voc(("cat", 1, 1, 9, 9)), "two": voc(("dog", 1, 1, 9, 9)), "three": voc()})
    table = read_boxes(ONE, folder)["train"]
    assert len(table) == 1 and table.classes == ("cat",)
    (said,) = caplog.messages
    assert "2 of its 3 images are not in train, and are not used, such as" in said and "three.xml" in said
    assert set(read_boxes({**ONE, "test": ["two.jpg"]}, folder, ("cat", "dog"))) == {"train", "test"}
    assert "1 of its 3 images are not in train and test" in caplog.messages[-1]
    assert len(read_boxes({"train": ["x/b/one.jpg"]}, coco())["train"][0].boxes) == 2


def test_the_same_entry_twice_counts_once_and_two_that_differ_are_named(coco):
    twice = named("a.jpg", "a.jpg")
    with pytest.raises(UserError, match=r"1 images have several entries that differ: .*with 1 and 1 boxes; keep the"):
        read_boxes({"train": ["a.jpg"]}, coco(**twice))
    with pytest.raises(UserError, match="with 1 and 0 boxes"):
        read_boxes({"train": ["a.jpg"]}, coco(**twice | {"annotations": twice["annotations"][:1]}))
    twice["annotations"][1]["bbox"] = twice["annotations"][0]["bbox"]
    assert len(read_boxes({"train": ["a.jpg"]}, coco(**twice))["train"][0].boxes) == 1


def test_one_box_of_two_classes_is_named(labels, caplog):
    read_boxes(ONE, labels({"one": voc(("cat", 1, 1, 9, 9), ("dog", 1, 1, 9, 9), ("dog", 1, 1, 9, 8))}))
    (said,) = caplog.messages
    assert "1 boxes have several classes" in said and "one.xml: 0 0 9 9 is cat and dog" in said


@pytest.mark.parametrize("side", [0, -1, None, "none"])
def test_a_size_that_coco_does_not_know_is_none(coco, side):
    sides = {} if side == "none" else {"height": side, "width": side}
    rows = [{"id": 1, "image_id": 0, "category_id": 3, "bbox": [10, 20, 30, 40]}]
    found = read_boxes(ONE, coco(images=[{"id": 0, "file_name": "one.jpg", **sides}], annotations=rows))["train"][0]
    assert found.size is None and found.boxes.tolist() == [[10, 20, 40, 60]]
    found.check("one.jpg", (80, 100))


@pytest.mark.parametrize(
    ("box", "fault"),
    [
        ((50, 50, 49, 60), "has no area"),
        ((50, 50, 50, 50), "has no area"),
        ((50, 50, 103, 60), "lies outside of its image of 100x80"),
        ((-5, 50, 60, 60), "lies outside"),
        ((101, 10, 102, 20), "lies outside"),
    ],
)
def test_a_box_outside_its_image_or_without_area_is_refused_or_dropped_by_name(labels, box, fault):
    folder = labels({"one": voc(("cat", *box), ("cat", 10, 10, 20, 20))})
    with pytest.raises(UserError, match=rf"1 boxes .*one\.xml: box 1, .*{fault}.*faulty_boxes: drop"):
        read_boxes(ONE, folder)
    table = read_boxes(ONE, folder, faulty="drop")["train"]
    assert len(table[0].boxes) == 1 and fault in table.dropped[0]


@pytest.mark.parametrize("bad", range(4))
def test_what_is_left_of_an_image_keeps_its_own_class_and_whether_it_is_ignored(labels, bad):
    rows = [("cat", 10, 10, 20, 20), ("dog", 30, 10, 40, 20, 1), ("cat", 50, 10, 60, 20, 1)]
    rows.insert(bad, ("cow", 70, 10, 60, 20, bad % 2) if bad % 2 else ("cow", 70, 10, 60, 20))
    found = read_boxes(ONE, labels({"one": voc(*rows)}), faulty="drop")["train"]
    kept = [(box[0], found.classes[i], flag) for box, i, flag in
            zip(found[0].boxes.tolist(), found[0].labels.tolist(), found[0].ignored.tolist(), strict=True)]  # fmt: skip
    assert kept == [(9, "cat", False), (29, "dog", True), (49, "cat", True)]


def test_a_box_that_leaves_its_image_by_rounding_is_cut(labels):
    table = read_boxes(ONE, labels({"one": voc(("cat", 0, 0, 101, 81))}))["train"]
    assert (table[0].boxes.tolist(), table.dropped) == ([[0, 0, 100, 80]], ())


def test_a_class_seen_only_in_test_is_refused(labels):
    folder = labels({"one": voc(("cat", 1, 1, 9, 9)), "two": voc(("dgo", 1, 1, 9, 9))})
    with pytest.raises(UserError, match=r"test has the classes dgo.*\(there: cat\)"):
        read_boxes({**ONE, "test": ["two.jpg"]}, folder)


def test_settled_classes_keep_their_numbers_whatever_occurs(labels):
    table = read_boxes(ONE, labels({"one": voc(("dog", 1, 1, 9, 9))}), classes=("cat", "dog"))["train"]
    assert table[0].labels.tolist() == [1]


def test_labels_for_an_image_of_another_size_are_a_bad_sample(labels):
    found = read_boxes(ONE, labels({"one": voc(("cat", 1, 1, 100, 80))}))["train"][0]
    found.check("one.jpg", (80, 100))
    with pytest.raises(BadSample, match=r"labels of another size \(the image has 80x100 pixels .* are for 100x80"):
        found.check("one.jpg", (100, 80))


def test_where_labels_know_no_size_the_boxes_are_held_against_the_image(labels):
    found = read_boxes(ONE, labels({"one": voc(("cat", 1, 1, 100, 80), size=(0, 0))}))["train"][0]
    found.check("one.jpg", (80, 100))
    with pytest.raises(BadSample, match="boxes outside"):
        found.check("one.jpg", (78, 100))


def test_the_identity_changes_with_a_box_and_with_nothing_else(labels, tmp_path):
    folder = labels({"one": voc(("cat", 1, 1, 9, 9))})
    before = read_boxes(ONE, folder)["train"].identity
    assert read_boxes({"train": ["elsewhere/one.jpg"]}, folder)["train"].identity == before
    (tmp_path / "Annotations" / "one.xml").write_text(voc(("cat", 1, 1, 9, 8)))
    assert read_boxes(ONE, folder)["train"].identity != before


def test_the_identity_changes_with_whatever_is_said_of_an_object_or_its_image(labels, tmp_path):
    folder, said = labels({"one": ""}), set()
    for text in (
        voc(("cat", 1, 1, 9, 9), ("dog", 2, 2, 8, 8)),
        voc(("dog", 1, 1, 9, 9), ("cat", 2, 2, 8, 8)),
        voc(("cat", 1, 1, 9, 9), ("cat", 2, 2, 8, 8)),
        voc(("cat", 1, 1, 9, 9, 1), ("dog", 2, 2, 8, 8)),
        voc(("cat", 1, 1, 9, 9), ("dog", 2, 2, 8, 8, 1)),
        voc(("cat", 1, 1, 9, 9), ("dog", 2, 2, 8, 8), size=(100, 81)),
        voc(("cat", 1, 1, 9, 9), ("dog", 2, 3, 8, 8)),
        voc(("cat", 1, 1, 9, 9), ("dgo", 2, 2, 8, 8)),
    ):
        (tmp_path / "Annotations" / "one.xml").write_text(text)
        said.add(read_boxes(ONE, folder)["train"].identity)
    assert len(said) == 8


# Along with a crop


def painted(box, extent=(40, 60)):
    left, top, right, bottom = box
    image = torch.zeros(extent)
    image[top:bottom, left:right] = 1
    return image


def bounds(image):
    rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(2, 10), st.integers(2, 10)),
    st.tuples(st.integers(0, 20), st.integers(0, 30), st.integers(20, 30), st.integers(15, 20)),
    st.tuples(st.booleans(), st.booleans()),
)
def test_a_cropped_flipped_and_resized_box_is_where_its_pixels_went(box, window, flip):
    left, top, width, height = box
    low_x, low_y, columns, rows = window
    rows = min(rows, 40 - low_y)
    crop = Crop((low_y, low_x), (low_y + rows, low_x + columns), flip)
    image = painted((left, top, left + width, top + height))[low_y : low_y + rows, low_x : low_x + columns]
    image = image.flip([axis for axis in (0, 1) if flip[axis]]).repeat_interleave(3, 0).repeat_interleave(2, 1)
    boxes, shown = crop_boxes(
        torch.tensor([[left, top, left + width, top + height]]).float(), crop, (3 * rows, 2 * columns)
    )
    visible = image.sum().item() / 6
    assert shown.item() == (visible >= MIN_VISIBLE * width * height - 1e-6)
    if visible:
        torch.testing.assert_close(boxes, torch.tensor([bounds(image)]).float())


def test_a_box_inside_the_crop_comes_back_when_the_crop_is_undone():
    crop, boxes = Crop((10, 20), (50, 80), (True, False)), torch.tensor([[22.0, 11, 60, 40], [30, 12, 79.5, 49]])
    there, shown = crop_boxes(boxes, crop, (16, 32))
    assert shown.all()
    torch.testing.assert_close(uncrop_boxes(there, crop, (16, 32)), boxes)


@pytest.mark.parametrize(("crop", "size", "shown"), [
    (Crop((0, 0), (40, 40), (False, False)), (40, 40), [True, True, True]),
    (Crop((0, 0), (40, 40), (True, True)), (20, 40), [True, False, True]),  # 1 pixel high becomes half of one
    (Crop((0, 0), (40, 40), (False, False)), (40, 20), [False, True, True]),  # 1 pixel wide does
    (Crop((0, 0), (40, 40), (False, True)), (19, 19), [False, False, False]),
])  # fmt: skip
def test_what_is_thinner_than_a_pixel_of_the_models_input_in_either_direction_is_not_well_visible(crop, size, shown):
    boxes = torch.tensor([[10.0, 10, 11, 30], [10, 10, 30, 11], [10, 10, 12, 12]])
    assert crop_boxes(boxes, crop, size)[1].tolist() == shown


def test_no_boxes_stay_no_boxes():
    boxes, shown = crop_boxes(torch.zeros(0, 4), Crop((0, 0), (4, 4), (False, True)), (8, 8))
    assert boxes.shape == (0, 4) and shown.shape == (0,)
