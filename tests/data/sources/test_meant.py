"""What a source holds is said, and what of it can hardly be meant is refused as classes, or named."""

from pathlib import Path

import pytest

from mae_ext.data.sources.meant import check_classes, odd, one_class, opening
from mae_ext.data.sources.table import list_items
from mae_ext.errors import UserError

JPG = (".jpg",)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Files of the names in `set/`, seen from the current folder -> their Items."""
    monkeypatch.chdir(tmp_path)

    def go(*names):
        for name in names:
            path = Path("set", name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return list_items("set", JPG)

    return go


def checked(items):
    check_classes(items.classes, items.addresses, "set")


def test_the_opening_line_has_the_count_the_classes_and_the_first_files(make):
    items = make("cat/2.jpg", "cat/1.jpg", "dog/1.jpg", "loose.jpg")
    said = "image: 4 files of set: cat 2, dog 1, no class 1; first set/cat/1.jpg, set/cat/2.jpg"
    assert opening(items, "set", "image") == said


def test_many_classes_are_counted_and_some_are_named(make):
    items = make(*(f"c{n}/{i}.jpg" for n in range(7) for i in range(1 + n)))
    assert "7 classes of 1 to 7 each (c0 1, c1 2, c2 3, c3 4, c4 5, and 2 more)" in opening(items, "set", "image")


def test_patients_and_samples_of_several_classes_are_counted(make):
    make("a.jpg", "b.jpg", "c.jpg")
    Path("set/l.csv").write_text("path,label,patient\na.jpg,x|y,1\nb.jpg,x,1\nc.jpg,,2\n")
    items = list_items("set/l.csv", JPG)
    assert opening(items, "set/l.csv", "image").startswith(
        "image: 3 files of set/l.csv: x 2, y 1, no class 1, of 2 patients; first set/a.jpg"
    )


@pytest.mark.parametrize(
    ("folders", "first", "second"),
    [
        (("train", "test"), "train", "test"),
        (("Training", "Validation"), "Training", "Validation"),
        (("train_set", "val", "extra"), "train_set", "val"),
        (("test",), "test", None),
        (("seg_pred", "seg_test", "seg_train"), "seg_train", "seg_test"),
        (("stage1_test", "stage1_train"), "stage1_train", "stage1_test"),
        (("train_hq", "val_hq"), "train_hq", "val_hq"),
        (("fold1", "fold2"), "fold1", "fold2"),
    ],
)
def test_the_sides_of_a_split_are_no_classes_and_each_is_named_to_be_given(make, folders, first, second):
    items = make(*(f"{folder}/{c}/1.jpg" for folder in folders for c in ("cat", "dog")))
    with pytest.raises(UserError, match=rf"give set/{first} to be trained on") as info:
        checked(items)
    assert second is None or f"set/{second} to be tested on" in str(info.value)
    assert f"give set/{first}" in odd(items, "set")[0]


@pytest.mark.parametrize(
    "folders",
    [
        *(("train", "car", "bus"), ("dev", "prod"), ("trainer", "tester"), ("masks", "hats")),
        *(("bullet_train", "crash_test"), ("freight_train", "bullet_train"), ("fold", "crease")),
    ],
)
def test_classes_that_are_called_alike_are_classes(make, folders):
    items = make(*(f"{folder}/1.jpg" for folder in folders))
    checked(items)
    assert odd(items, "set") == []


def test_a_split_within_each_class_is_no_sample_of_the_class(make):
    items = make("cat/train/1.jpg", "cat/test/1.jpg", "dog/train/1.jpg", "dog/test/1.jpg")
    with pytest.raises(UserError, match=r"its classes hold 'test' and 'train', .* give each side as a list"):
        checked(items)
    assert "each of its folders holds 'test' and 'train'" in odd(items, "set")[0]
    checked(make("cat/1.jpg"))  # a class with a picture of its own beside them


@pytest.mark.parametrize(
    "folders",
    [
        ("images", "masks"),
        ("imagesTr", "labelsTr"),
        ("JPEGImages", "SegmentationClass"),
        ("leftImg8bit", "gtFine"),
        ("img_dir", "ann_dir"),
    ],
)
def test_images_and_their_label_maps_are_no_classes(make, folders):
    items = make(*(f"{folder}/1.jpg" for folder in folders))
    with pytest.raises(UserError, match=rf"task\.masks=set/{folders[1]}"):
        checked(items)
    assert f"give set/{folders[0]}" in odd(items, "set")[0]


def test_classes_that_differ_in_capitals_are_named(make):
    assert "'Cat' and 'cat' differ in capitals" in odd(make("Cat/1.jpg", "cat/1.jpg", "dog/1.jpg"), "set")[0]


def test_classes_that_differ_in_how_accents_are_coded_are_named(make):
    items = make("caf\u00e9/1.jpg", "cafe\u0301/1.jpg", "tea/1.jpg")
    assert "are two classes" in odd(items, "set")[0]


def test_images_and_maps_that_are_split_again_are_no_classes(make):
    items = make(*(f"{folder}/{side}/1.jpg" for folder in ("img_dir", "ann_dir") for side in ("train", "val")))
    with pytest.raises(UserError, match=r"task\.masks=set/ann_dir"):
        checked(items)


def test_label_maps_beside_their_images_are_named(make):
    """As in BUSI, where "benign (1)_mask.png" lies beside "benign (1).png" in the folder of its class."""
    items = make("benign/b (1).jpg", "benign/b (1)_mask.jpg", "benign/b (1)_mask_1.jpg", "normal/n (1).jpg")
    assert odd(items, "set")[0].startswith(
        "set: 2 files are called as label maps of others beside them, such as set/benign/b (1)_mask.jpg,"
    )
    assert odd(make("normal/face_mask.jpg"), "set") == odd(items, "set")


def test_one_folder_around_the_classes_is_seen_through(make):
    assert one_class(make("PetImages/Cat/1.jpg", "PetImages/Dog/1.jpg"), "set").endswith("give set/PetImages")
    assert one_class(list_items("set/PetImages/Cat", JPG), "set/PetImages/Cat") == ""


@pytest.mark.parametrize(
    "written",
    [
        ("config.yaml", "metrics.jsonl"),
        ("config.yaml", "checkpoints/x"),
        ("predict.manifest.jsonl",),
        ("bad_samples.jsonl",),
    ],
)
def test_what_a_run_or_a_prediction_wrote_is_no_sample_and_said_to_be_passed_over(make, written):
    items = make("cat/1.jpg", "runs/a/pictures/1.jpg", *(f"runs/a/{name}" for name in written))
    assert list(items.addresses) == ["set/cat/1.jpg"] and items.classes == ("cat",)
    assert items.ignored == {"folders that this program wrote": 1}
    assert list(list_items("set/runs/a/pictures", JPG).addresses) == ["set/runs/a/pictures/1.jpg"]


def test_a_run_in_the_folder_of_its_samples_has_pictures_that_are_none(make):
    items = make("cat/1.jpg", "pictures/1.jpg", "config.yaml", "metrics.jsonl", "checkpoints/step/model.bin")
    assert list(items.addresses) == ["set/cat/1.jpg"]


def test_a_folder_that_only_has_a_config_is_no_run(make):
    assert len(make("cat/1.jpg", "cat/config.yaml")) == 1
