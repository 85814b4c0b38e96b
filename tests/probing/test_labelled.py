"""What a probe learns from and is judged on: patients on one side, classes by name, folds of whole patients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ext.errors import UserError
from mae_ext.features.encoder import Features
from mae_ext.probing.labelled import Labelled, confounds, folds, labelled, matched, people


def table(labels, classes, patients=None, source="list.csv", folder=None):
    """A Labelled of len(labels) rows with two features."""
    y = torch.tensor(labels)
    paths = tuple(f"{folder[i] if folder else 'all'}/{source}.{i}.png" for i in range(len(y)))
    who = None if patients is None else tuple(patients)
    x = torch.arange(2.0 * len(y)).view(-1, 2)
    return Labelled(source, x, y, tuple(classes), paths, who, 0)


def test_a_patient_on_both_sides_is_refused_by_name():
    train, test = table([0, 1], "ab", ["p1", "p2"], "train.csv"), table([0, 1], "ab", ["p3", "p2"], "test.csv")
    with pytest.raises(UserError, match=r"1 patient\(s\) are in both train\.csv and test\.csv: p2; .*use --folds"):
        matched(train, test)
    assert matched(train, replace(test, patients=("p3", "p4"))).y.tolist() == [0, 1]


def test_the_same_files_on_both_sides_are_said(capsys):
    train = table([0, 1], "ab")
    matched(train, train)
    assert "2 of 2 test samples are in the training data too" in " ".join(capsys.readouterr().err.split())


def test_a_row_without_its_patient_is_named():
    features = Features(np.zeros((2, 3), np.float32), np.array([0, 1]), ("a", "b"), ["x.png", "y.png"], [])
    with pytest.raises(UserError, match=r"y\.png has no patient"):
        labelled(replace(features, patients=["p", ""]), "list.csv")
    unlabelled = replace(features, labels=np.array([0, -1]), patients=["p", ""])
    assert labelled(unlabelled, "list.csv").patients == ("p",)


def test_marks_are_matched_by_name_and_a_class_that_a_list_never_names_nobody_has():
    train = table([[1, 0, 1], [0, 1, 0]], ["edema", "mass", "scar"])
    test = table([[1, 0], [0, 1], [-1, -1]], ["scar", "edema"])
    assert matched(train, test).y.tolist() == [[0, 0, 1], [1, 0, 0], [-1, -1, -1]]
    with pytest.raises(UserError, match="class 'cyst' is not in the training data"):
        matched(train, table([[1, 0]], ["cyst", "edema"]))
    with pytest.raises(UserError, match=r"test\.csv gives a sample several classes and list\.csv one"):
        matched(table([0, 1], "ab"), table([[1]], ["a"], source="test.csv"))


def test_of_a_sample_that_is_known_in_part_the_rest_stays_unknown_and_what_is_never_named_is_absent():
    train = table([[1, 0, 1], [0, 1, 0]], ["edema", "mass", "scar"])
    test = table([[1, -1], [-1, 0], [-1, -1]], ["scar", "edema"])
    assert matched(train, test).y.tolist() == [[-1, 0, 1], [0, 0, -1], [-1, -1, -1]]


def test_folds_keep_patients_together_and_spread_classes_and_sizes():
    patients = [f"p{i // 3}" for i in range(90)]
    data = table([int(i // 3 % 5 == 0) for i in range(90)], "ab", patients)
    fold = folds(data, 3, seed=1)
    of = {}
    for who, number in zip(patients, fold.tolist(), strict=True):
        assert of.setdefault(who, number) == number
    assert fold.bincount().tolist() == [30, 30, 30]
    assert fold[data.y == 1].bincount().tolist() == [6, 6, 6]
    assert torch.equal(fold, folds(data, 3, seed=1)) and not torch.equal(fold, folds(data, 3, seed=2))


def test_without_patients_samples_are_dealt_to_folds():
    fold = folds(table([0] * 7 + [1] * 5, "ab"), 4, seed=0)
    assert sorted(fold.bincount().tolist()) == [3, 3, 3, 3]


def test_folds_that_cannot_be_are_refused_by_name():
    data = table([0, 0, 0, 1, 1], "ab", ["p", "q", "q", "r", "r"])
    with pytest.raises(UserError, match=r"folds=4: .* number of patients in list\.csv, 3"):
        folds(data, 4, 0)
    with pytest.raises(UserError, match=r"class 'b' \(patient r\) fall into one fold"):
        folds(data, 2, 0)


def test_patients_are_counted_by_class_and_what_comes_with_a_class_is_said():
    folders = ["here", "there", "clinic", "clinic", "here", "there"]
    data = table([0, 0, 1, 1, 2, 2], ["calm", "ill", "odd"], "abcdee", folder=folders)
    assert people(data) == {"count": 5, "classes": {"calm": 2, "ill": 2, "odd": 1}}
    ill, odd = confounds(data)
    assert "all 2 patients of class 'ill' are from clinic" in ill and "class 'odd' is one patient, e" in odd
    assert people(table([0, 1], "ab")) is None and confounds(table([0, 1], "ab")) == []
    assert Path(data.paths[0]).name.startswith("list.csv")


def test_rows_without_a_label_take_their_features_paths_and_patients_with_them():
    features = Features(
        np.arange(8, dtype=np.float32).reshape(4, 2), np.array([-1, 1, -1, 0]), ("a", "b"),
        ["w.png", "x.png", "y.png", "z.png"], [], patients=["p", "q", "r", "s"],
    )  # fmt: skip
    found = labelled(features, "list.csv")
    assert found.x.tolist() == [[2, 3], [6, 7]] and found.y.tolist() == [1, 0] and found.left_out == 2
    assert (found.paths, found.patients) == (("x.png", "z.png"), ("q", "s"))
    marks = np.array([[-1, -1], [0, -1], [1, 0], [-1, 1]], np.int8)
    several = labelled(replace(features, labels=None, marks=marks), "list.csv")
    assert several.y.tolist() == [[0, -1], [1, 0], [-1, 1]] and several.left_out == 1
    assert several.paths == ("x.png", "y.png", "z.png")
    with pytest.raises(UserError, match="not finite"):
        labelled(replace(features, features=np.full((4, 2), np.nan, np.float32)), "list.csv")


def test_labels_of_test_are_numbers_into_the_classes_of_train_by_name():
    train, test = table([0, 1, 2], ["ant", "bee", "cat"]), table([0, 1, 1], ["bee", "cat"], source="test.csv")
    assert matched(train, test).y.tolist() == [1, 2, 2]
    assert matched(train, test).classes == ("ant", "bee", "cat")
    # A class that train names and has no sample of cannot be learned.
    with pytest.raises(UserError, match="class 'cat' is not in the training data"):
        matched(table([0, 2], ["ant", "cat", "bee"]), test)


def test_chosen_rows_keep_what_is_theirs():
    data = table([0, 1, 2], "abc", ["p", "q", "r"]).rows(torch.tensor([2, 0]))
    assert data.y.tolist() == [2, 0] and data.patients == ("r", "p")
    assert data.x.tolist() == [[4, 5], [0, 1]] and [p[-5] for p in data.paths] == ["2", "0"]


def test_a_sample_and_its_mirror_image_are_one_witness_with_and_without_patients():
    mirrored = torch.full((3, 2), 9.0)
    for patients, groups in ((None, [0, 1, 2, 0, 1, 2]), ("qpq", [1, 0, 1, 1, 0, 1])):
        both = table([0, 1, 0], "ab", patients).and_mirrored(mirrored)
        assert both.groups.tolist() == groups and both.y.tolist() == [0, 1, 0, 0, 1, 0]
        assert both.x[3:].tolist() == mirrored.tolist() and both.paths[3:] == both.paths[:3]


def test_a_class_from_one_folder_that_others_are_in_too_says_nothing():
    data = table([0, 0, 1, 1], ["calm", "ill"], "abcd", folder=["here", "there", "here", "here"])
    assert confounds(data) == []
    spread_out = table([0, 0, 1, 1], ["calm", "ill"], "abcd", folder=["here", "here", "there", "far"])
    assert [sentence.split("'")[1] for sentence in confounds(spread_out)] == ["calm"]


def test_labels_of_one_class_are_nothing_to_tell_apart_and_one_class_of_marks_is():
    with pytest.raises(UserError, match="its labels have 1 class; a probe needs at least two"):
        matched(table([0, 0], "ab"), table([0], "ab"))
    assert matched(table([[1], [0]], ["a"]), table([[1]], ["a"])).y.tolist() == [[1]]
