"""Draws of labels: nested, stratified, the same as a fine-tuning's own, and with patients kept whole."""

import numpy as np
import pytest

from mae_ext.data.sources.classes import labelled_split
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import UserError
from mae_ext.worth.labels import Labels, Level, levels_of


def labels_of(numbers, patients=None):
    names = tuple(f"c{n}" for n in range(max(numbers) + 1))
    items = Items(
        PathTable(f"/d/{i}.png" for i in range(len(numbers))),
        np.array(numbers),
        names,
        patients=None if patients is None else PathTable(patients),
    )
    return Labels.of(items, "image", "picture", True)


def drawn(labels, word, seed=0):
    return labels.only(range(len(labels.kinds))).drawn(Level.of(word), seed)


def test_a_larger_draw_holds_the_smaller_one_and_as_many_of_each_class():
    labels = labels_of([0] * 20 + [1] * 40)
    rows = [set(drawn(labels, word).rows) for word in ("1", "3", "10", "all")]
    assert [len(one) for one in rows] == [2, 6, 20, 60] and rows[0] < rows[1] < rows[2] < rows[3]
    assert [sum(row < 20 for row in one) for one in rows] == [1, 3, 10, 20]
    share = drawn(labels, "10 %")
    assert len(share.rows) == 6 and sum(row < 20 for row in share.rows) == 2


def test_another_seed_draws_others_and_the_same_one_the_same():
    labels = labels_of([0] * 50 + [1] * 50)
    assert drawn(labels, "5").rows == drawn(labels, "5").rows != drawn(labels, "5", 1).rows


def test_a_draw_is_what_task_labels_would_have_taken(striped):
    path = str(striped / "train")
    labels = Labels.of(list_items(path, (".png",)), "image", "picture", True)
    own = labelled_split("image", path, None, (".png",), 3, 5).train
    assert [labels.items.addresses[row] for row in drawn(labels, "3", 5).rows] == list(own.addresses)


def test_levels_go_as_far_as_there_are_labels_and_have_no_two_names_for_the_same():
    labels = labels_of([0] * 10 + [1] * 12)
    assert [text for _, text in levels_of(None, labels)] == ["1 a class", "3 a class", "10 a class", "all"]
    assert [text for _, text in levels_of("10,1,100%,1", labels)] == ["1 a class", "10 a class", "all"]
    scans = Labels.of(Items(PathTable(f"{i}.nii" for i in range(5))), "volume", "scan", False)
    assert [text for _, text in levels_of("1,3,all", scans)] == ["1 scan", "3 scans", "all"]


@pytest.mark.parametrize(
    ("words", "says"),
    [("11", "--labels 11: class 'c0' has 10 labelled pictures"), ("few", "'few' is no number of labels"),
     ("0", "'0' is no number of labels"), ("200 %", "is no number of labels")],
)  # fmt: skip
def test_more_labels_than_there_are_and_what_is_no_number_is_refused(words, says):
    with pytest.raises(UserError, match=says):
        levels_of(words, labels_of([0] * 10 + [1] * 12))


def test_what_is_held_back_has_every_class_and_no_patient_of_what_is_learned_from():
    patients = [f"p{i // 3}" for i in range(60)]
    labels = labels_of([i % 2 for i in range(60)], patients)
    fit, held = labels.only(range(60)).held_back()
    assert not {patients[row] for row in fit.rows} & {patients[row] for row in held.rows}
    assert {labels.kinds[row] for row in fit.rows} == {"c0", "c1"} and len(held.rows) == 12
    assert labels_of([0, 1], ["a", "a"]).only(range(2)).held_back() is None
    assert labels_of([0, 1], ["a", "b"]).only(range(2)).held_back() is None  # a class would be on one side alone


def test_rows_of_an_array_are_listed_with_their_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("grey.npz", train_images=np.zeros((6, 8, 8), np.uint8), train_labels=np.arange(6) % 3)
    labels = Labels.of(list_items("grey.npz", (".png",)), "image", "picture", True)
    again = list_items(str(drawn(labels, "1").written(tmp_path / "draws" / "a.csv")), (".png",))
    assert again.classes == ("0", "1", "2") and sorted(again.labels.tolist()) == [0, 1, 2]
    assert all(address.startswith(f"{tmp_path}/grey.npz::train_images::") for address in again.addresses)


def test_names_that_are_no_text_and_patients_are_listed(tmp_path):
    name = b'\xff, "x".png'.decode("utf-8", "surrogateescape")
    for one in (name, "b.png"):
        (tmp_path / one).touch()
    table = PathTable(str(tmp_path / one) for one in (name, "b.png"))
    items = Items(table, np.array([0, 1]), ("dog", "cat"), patients=PathTable(["p", "q"]))
    part = Labels.of(items, "image", "picture", True).only(range(2))
    again = list_items(str(part.written(tmp_path / "some.csv")), (".png",))
    assert list(again.addresses) == list(table) and list(again.patients) == ["p", "q"]
    assert [again.classes[label] for label in again.labels] == ["dog", "cat"]
