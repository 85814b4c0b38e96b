"""Labelled splits: what is trained and judged on, and each kind of data that cannot be, by name."""

import numpy as np
import pytest

from mae_ext.data.sources.classes import labelled_split, share_or_count
from mae_ext.errors import UserError

SUFFIXES = (".png",)


@pytest.fixture
def folders(tmp_path):
    """Empty files in class folders; -> the folder. Nothing here opens a file."""

    def make(name, **counts):
        for called, count in counts.items():
            (tmp_path / name / called).mkdir(parents=True)
            for i in range(count):
                (tmp_path / name / called / f"{i}.png").touch()
        return str(tmp_path / name)

    return make


@pytest.fixture
def listed(tmp_path):
    def make(name, rows, header="path,label,patient"):
        for row in rows:
            (tmp_path / row.split(",")[0]).touch()
        (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")
        return str(tmp_path / name)

    return make


def split(path, test=None, labels=1.0, seed=0):
    return labelled_split("image", path, test, SUFFIXES, labels, seed)


def test_test_labels_are_numbers_into_the_classes_of_train(folders):
    found = split(folders("train", ant=3, bee=3, cat=3), folders("test", bee=2, cat=1))
    assert found.classes == ("ant", "bee", "cat")
    assert found.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert found.test.labels.tolist() == [1, 1, 2]


def test_a_share_of_the_labels_is_taken_of_every_class_and_depends_on_the_seed_alone(folders):
    path = folders("train", ant=40, bee=20, cat=3)
    found = split(path, labels=0.1)
    assert np.bincount(found.train.labels).tolist() == [4, 2, 1]
    assert list(found.train.addresses) == list(split(path, labels=0.1).train.addresses)
    assert list(found.train.addresses) != list(split(path, labels=0.1, seed=1).train.addresses)
    assert set(found.train.addresses) <= set(split(path, labels=0.2).train.addresses)


def test_a_share_is_rounded_to_the_nearest_number_of_samples(folders):
    path = folders("train", ant=17, bee=14, cat=4)
    assert np.bincount(split(path, labels=0.1).train.labels).tolist() == [2, 1, 1]


def test_a_count_of_labels_is_a_count_of_every_class(folders):
    path = folders("train", ant=9, bee=5)
    assert np.bincount(split(path, labels=4).train.labels).tolist() == [4, 4]
    with pytest.raises(UserError, match=r"task\.labels=6: .* has 5 samples of class 'bee'"):
        split(path, labels=6)


def test_unlabelled_rows_are_left_out_and_counted(listed):
    found = split(listed("all.csv", ["a.png,x,1", "b.png,y,1", "c.png,,2"]))
    assert len(found.train) == 2 and found.train.ignored == {"unlabelled": 1}


def test_no_labels_is_an_error_that_says_what_labels_are(listed):
    with pytest.raises(UserError, match=r"all\.csv: no labels; expected one folder for each class, a \.csv"):
        split(listed("all.csv", ["a.png,,1", "b.png,,1"]))


def test_one_class_is_an_error(folders):
    with pytest.raises(UserError, match="all samples are of one class, 'ant'"):
        split(folders("train", ant=4))


def test_a_class_seen_only_in_test_is_an_error_that_names_it(folders):
    with pytest.raises(UserError, match=r"test: class 'dog' is not in the training data .*there: 'ant', 'bee'"):
        split(folders("train", ant=2, bee=2), folders("test", ant=1, dog=1))


def test_patients_on_both_sides_are_refused_by_name(listed):
    train = listed("train.csv", ["a.png,x,P1", "b.png,y,P2", "c.png,y,P3"])
    test = listed("test.csv", ["d.png,x,P4", "e.png,y,P2"])
    with pytest.raises(UserError, match=r"1 patient on both sides of the split, in .*train\.csv and in .*: 'P2'"):
        split(train, test)
    assert len(split(train, listed("other.csv", ["f.png,x,P5", "g.png,y,"])).test) == 2


def test_rows_without_a_patient_are_of_nobody_and_of_no_one_patient(listed):
    train = listed("train.csv", ["a.png,x,", "b.png,y,P2", "c.png,y,"])
    assert len(split(train, listed("test.csv", ["d.png,x,", "e.png,y,P4"])).test) == 2
    with pytest.raises(UserError, match=r"1 patient on both sides .*: 'P2'; a score"):
        split(train, listed("both.csv", ["f.png,x,", "g.png,y,P2"]))


def test_files_on_both_sides_are_refused(folders):
    path = folders("train", ant=2, bee=2)
    with pytest.raises(UserError, match="4 files on both sides of the split"):
        split(path, path)


def test_a_test_folder_that_is_a_link_to_the_one_to_train_on_is_refused(folders, tmp_path):
    path = folders("train", ant=2, bee=2)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(UserError, match="4 files on both sides of the split"):
        split(path, str(tmp_path / "link"))


def test_one_list_with_a_column_of_splits_serves_both_sides(listed):
    rows = ["a.png,x,P1,train", "b.png,y,P2,train", "c.png,x,P3,test"]
    path = listed("all.csv", rows, "path,label,patient,split")
    found = split(f"{path}::train", f"{path}::test")
    assert (len(found.train), len(found.test)) == (2, 1)


def test_a_share_has_a_point_a_count_has_none_and_a_plain_1_is_asked_about():
    assert share_or_count(1.0) == 1.0 and isinstance(share_or_count(1.0), float)
    assert share_or_count(0.1) == 0.1 and share_or_count(10) == 10
    one = share_or_count("1 each")
    assert one == 1 and isinstance(one, int) and share_or_count("25 each") == 25
    with pytest.raises(ValueError, match=r"or one of each class\? Write 1\.0 for all, or '1 each' for one"):
        share_or_count(1)
    for wrong in (0, -3, 0.0, 1.5, 2.0, True, "1", "all", "0 each", "1 each!", float("nan")):
        with pytest.raises(ValueError, match="expected a share of each class, above 0 and at most 1"):
            share_or_count(wrong)


def test_all_labels_are_all_and_one_each_is_one_of_each_class(folders):
    path = folders("train", ant=9, bee=5)
    assert np.bincount(split(path, labels=1.0).train.labels).tolist() == [9, 5]
    assert np.bincount(split(path, labels=share_or_count("1 each")).train.labels).tolist() == [1, 1]


def test_which_samples_are_the_share_is_drawn_for_each_class_by_itself(folders):
    """One draw for all classes would take the files of the same places of each."""
    found = split(folders("train", **{f"k{i}": 10 for i in range(6)}), labels=0.3)
    places = [{a.rpartition("/")[2] for a in found.train.addresses if f"/k{i}/" in a} for i in range(6)]
    assert all(len(p) == 3 for p in places) and len(set(map(frozenset, places))) > 3
    more = split(folders("other", k0=10, zebra=4), labels=0.3)
    assert {a.rpartition("/")[2] for a in more.train.addresses if "/k0/" in a} == places[0]
