"""Which entry of a label file is whose: by the name where that can mean one image alone, and never by guessing."""

import pytest
from data.image.label_files import ONE, named, voc

from mae_ext.data.image.boxes import read_boxes
from mae_ext.errors import UserError


def lefts(table):
    return [table[i].boxes[0, 0].item() for i in range(len(table))]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["train\\images\\a.jpg", "train\\images\\b.jpg"], ["img/a.jpg", "img/b.jpg"]),
        (["C:\\data\\x\\a.jpg", "C:\\data\\y\\a.jpg"], ["x/a.jpg", "y/a.jpg"]),
        (["a.JPG", "b.JPG"], ["img/a.jpg", "img/b.jpg"]),
        (["a.png", "b.tif"], ["img/a.jpg", "img/b.jpg"]),
        (["IMG_A.jpg", "Img_b.jpg"], ["img_a.jpg", "img_b.JPG"]),
        (["caf\u00e9.jpg", "b.jpg"], ["cafe\u0301.jpg", "b.jpg"]),
        (["./a.jpg", "../images/b.jpg"], ["a.jpg", "b.jpg"]),
        (["x/a.png", "y/a.png"], ["d/x/a.jpg", "d/y/a.jpg"]),
    ],
    ids=["windows", "drive", "capitals", "suffix", "names", "accents", "dots", "folders"],
)
def test_names_that_can_mean_one_image_alone_are_that_image(coco, theirs, ours):
    assert lefts(read_boxes({"train": ours}, coco(**named(*theirs)))["train"]) == [0, 1]


def test_voc_files_whose_names_differ_in_capitals_are_found(labels):
    assert read_boxes({"train": ["x/One.JPG"]}, labels({"one": voc(("cat", 1, 1, 9, 9))}))["train"].most == 1


def test_an_image_does_not_take_the_entry_of_another_suffix_that_is_somebody_elses(coco):
    with pytest.raises(UserError, match=r"1 images have no labels: a\.jpg"):
        read_boxes({"train": ["a.png", "a.jpg"]}, coco(**named("a.png")))


def test_entries_that_differ_in_suffix_alone_are_not_guessed_between(coco):
    with pytest.raises(UserError, match=r"1 images fit several labels equally well: a\.jpg"):
        read_boxes({"train": ["a.jpg"]}, coco(**named("a.png", "a.tif")))


def test_how_the_labels_name_their_images_is_said_where_one_has_none(coco):
    rows = [{"id": 1, "image_id": 0, "category_id": 3, "bbox": [10, 20, 30, 40]}]
    path = coco(images=[{"id": 0, "file_name": "one_jpg.rf.0a1b.jpg"}], annotations=rows)
    with pytest.raises(UserError, match=r"1 entries are no image's, such as .*\(one_jpg\.rf\.0a1b\.jpg\)"):
        read_boxes(ONE, path)


def test_two_images_of_one_name_do_not_share_their_labels(labels):
    with pytest.raises(UserError, match=r"1 pairs of images share their labels: a/one\.jpg and b/one\.jpg"):
        read_boxes({"train": ["a/one.jpg", "b/one.jpg"]}, labels({"one": voc()}))


def test_labels_that_fit_equally_well_are_not_guessed_between(coco):
    with pytest.raises(UserError, match=r"fit several labels equally well: one\.jpg"):
        read_boxes({"train": ["one.jpg"]}, coco())


def test_members_of_shards_are_matched_by_their_own_name(labels):
    address = "train.tar::512+100::images/one.jpg"
    assert len(read_boxes({"train": [address]}, labels({"one": voc(("cat", 1, 1, 9, 9))}))["train"][0].boxes) == 1
