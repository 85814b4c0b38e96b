"""Folds for cross-validation: whole patients, even classes, one part and the rest of it never overlap."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.data.sources.folds import deal
from mae_ext.data.sources.table import list_items
from mae_ext.errors import UserError

samples = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=2, max_size=80)


@settings(max_examples=200, deadline=None)
@given(samples=samples, count=st.integers(2, 6), seed=st.integers(0, 9), order=st.randoms(use_true_random=False))
def test_a_group_is_in_one_fold_and_every_fold_has_some_whatever_the_order_of_rows(samples, count, seed, order):
    groups, kinds = [g for g, _ in samples], [k for _, k in samples]
    if len(set(groups)) < count:
        with pytest.raises(ValueError, match="folds"):
            deal(groups, kinds, count, seed)
        return
    fold = deal(groups, kinds, count, seed)
    assert len({(g, f) for g, f in zip(groups, fold, strict=True)}) == len(set(groups))
    assert set(fold) <= set(range(count))
    rows = list(range(len(samples)))
    order.shuffle(rows)
    again = deal([groups[r] for r in rows], [kinds[r] for r in rows], count, seed)
    assert again == [fold[r] for r in rows]


@given(sizes=st.lists(st.integers(2, 30), min_size=1, max_size=4), count=st.integers(2, 5), seed=st.integers(0, 9))
def test_where_every_sample_is_its_own_group_classes_are_as_even_as_can_be(sizes, count, seed):
    kinds = [k for k, n in enumerate(sizes) for _ in range(n)]
    if len(kinds) < count:
        return
    fold = deal(range(len(kinds)), kinds, count, seed)
    for k in range(len(sizes)):
        per = Counter(f for f, kind in zip(fold, kinds, strict=True) if kind == k)
        assert max(per.values()) - min(per.get(f, 0) for f in range(count)) <= 1


@pytest.fixture
def listed(tmp_path: Path) -> str:
    """30 files of 10 patients, three a patient; every fifth patient is of class b."""
    rows = ["path,label,patient"]
    for i in range(30):
        (tmp_path / f"{i:02}.jpg").write_bytes(b"x")
        rows.append(f"{i:02}.jpg,{'b' if i // 3 % 5 == 0 else 'a'},p{i // 3}")
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    return f"{tmp_path}/index.csv"


def test_a_fold_of_a_list_and_the_rest_are_the_list_and_share_no_patient(listed):
    whole = list(list_items(listed, (".jpg",)).addresses)
    parts = []
    for k in range(1, 6):
        fold, rest = (list_items(f"{listed}::{key}={k}/5", (".jpg",)) for key in ("fold", "rest"))
        assert sorted([*fold.addresses, *rest.addresses]) == sorted(whole)
        assert not set(fold.patients) & set(rest.patients)
        assert len(fold) == 6
        parts += list(fold.addresses)
    assert sorted(parts) == sorted(whole)
    labelled = [list_items(f"{listed}::fold={k}/2", (".jpg",)) for k in (1, 2)]
    assert [Counter(part.labels.tolist()) for part in labelled] == [{0: 12, 1: 3}] * 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("fold=0/5", "K-th of N parts"),
        ("fold=6/5", "K-th of N parts"),
        ("rest=two", "K-th of N parts"),
        ("fold=1/11", "there are 10 patients"),
        ("fold=1/1", "there are 10 patients"),
        ("fold=1/5,rest=1/5", "give fold="),
    ],
)
def test_a_fold_that_cannot_be_is_refused(listed, asked, told):
    with pytest.raises(UserError, match=told):
        list_items(f"{listed}::{asked}", (".jpg",))


def test_where_patients_are_known_every_row_needs_one(listed):
    text = Path(listed).read_text().replace("07.jpg,a,p2", "07.jpg,a,")
    Path(listed).write_text(text)
    with pytest.raises(UserError, match="line 9 has no patient"):
        list_items(f"{listed}::fold=1/5", (".jpg",))


def test_folds_are_the_same_for_everybody_for_good(listed):
    """Scores of fold=1/5 can be compared only while it holds the same patients. By hand: written down once."""
    found = [sorted(set(list_items(f"{listed}::fold={k}/5", (".jpg",)).patients)) for k in range(1, 6)]
    assert found == [["p0", "p3"], ["p5", "p6"], ["p7", "p9"], ["p2", "p8"], ["p1", "p4"]]
    groups, kinds = [0, 0, 0, 1, 1, 2, 3, 4, 5, 5], [0, 0, 1, 1, 1, 0, 0, 1, 1, 0]
    assert deal(groups, kinds, 3, 7) == [2, 2, 2, 0, 0, 0, 0, 1, 1, 1]


def test_a_group_counts_for_the_kind_of_most_of_its_samples_with_all_of_them():
    """Three groups of two b and one a, three of three a: each fold has one of either."""
    groups = [g for g in range(6) for _ in range(3)]
    kinds = ["b", "b", "a"] * 3 + ["a"] * 9
    fold = deal(groups, kinds, 3, 0)
    assert sorted(fold[:9:3]) == [0, 1, 2] and sorted(fold[9::3]) == [0, 1, 2]


def test_large_groups_are_dealt_first_so_that_folds_are_of_a_size():
    groups = [g for g, size in enumerate((1, 1, 1, 1, 4, 4)) for _ in range(size)]
    for seed in range(5):
        fold = deal(groups, [0] * 12, 2, seed)
        assert Counter(fold) == {0: 6, 1: 6}


def test_classes_are_spread_over_folds_before_their_sizes_are_evened_out():
    """Patients of class a with 6 samples and 1, of class b with 3 and 3: by sizes alone both of b would be together."""
    groups = [g for g, n in enumerate((6, 1, 3, 3)) for _ in range(n)]
    kinds = ["a"] * 7 + ["b"] * 6
    for seed in range(5):
        fold = deal(groups, kinds, 2, seed)
        assert Counter(f for f, kind in zip(fold, kinds, strict=True) if kind == "b") == {0: 3, 1: 3}
        assert sorted(Counter(fold).values()) == [4, 9]
