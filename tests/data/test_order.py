"""The order of an epoch: that of a shuffle for sets of today, and as good as one, without memory, beyond."""

import time
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.data.order import LISTED, KeyedOrder, files_at
from mae_ext.data.plan import Plan
from mae_ext.rng import rng

BINS = 16
SIGMAS = 5
"""Chi-square of k degrees of freedom has mean k and variance 2k; a right order passes each bound 5 sigmas wide."""


def within(counts: np.ndarray, degrees: int, widths: np.ndarray | None = None) -> bool:
    """widths: of bins that do not hold equally many values."""
    expected = counts.sum() * (1 / counts.size if widths is None else widths / widths.sum())
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    return abs(chi_square - degrees) < SIGMAS * (2 * degrees) ** 0.5


def table(rows: np.ndarray, columns: np.ndarray, num_files: int) -> np.ndarray:
    cells = rows * BINS // num_files * BINS + columns * BINS // num_files
    return np.bincount(cells, minlength=BINS * BINS)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 5))
def test_every_file_comes_once_an_epoch_whatever_their_number(num_files: int, seed: int, epoch: int) -> None:
    files = KeyedOrder(seed, "a", epoch, num_files)(np.arange(num_files))
    assert sorted(files.tolist()) == list(range(num_files))


@pytest.mark.parametrize("num_files", [LISTED + 1, 2_500_007])
def test_every_file_comes_once_in_sets_that_are_ordered_so(num_files: int) -> None:
    assert (np.bincount(files_at(0, "a", 3, num_files, np.arange(num_files)), minlength=num_files) == 1).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(2**20, 2**62), st.data())
def test_different_places_have_different_files_in_sets_too_large_to_go_through(num_files: int, data) -> None:
    places = data.draw(st.lists(st.integers(0, num_files - 1), min_size=2, max_size=50, unique=True))
    files = KeyedOrder(1, "a", 0, num_files)(np.array(places))
    assert len(set(files.tolist())) == len(places) and files.min() >= 0 and files.max() < num_files


@pytest.mark.parametrize("num_files", [1000, 1024, 4095, 4096, 4097, 10_007, 65_537])
def test_files_are_spread_over_places_neighbours_and_epochs_as_by_a_shuffle(num_files: int) -> None:
    epochs = max(8, 400_000 // num_files)
    places = np.arange(num_files)
    files = np.stack([KeyedOrder(7, "image", epoch, num_files)(places) for epoch in range(epochs)])
    width = np.bincount(places * BINS // num_files)
    widths = np.outer(width, width).ravel()
    where = sum(table(places, row, num_files) for row in files)
    assert within(where, (BINS - 1) ** 2, widths)  # rows and columns have fixed sums
    pairs = sum(table(row[:-1], row[1:], num_files) for row in files)
    assert within(pairs, BINS**2 - 1, widths)
    later = sum(table(a, b, num_files) for a, b in pairwise(files))
    assert within(later, (BINS - 1) ** 2, widths)
    for steps in (1, 2):  # from one file to the next, and to the one after: no step is taken more often
        apart = ((files[:, steps:] - files[:, :-steps]) % num_files).ravel()
        bins = (np.arange(1, num_files) - 1) * 64 // (num_files - 1)
        assert within(np.bincount(bins[apart - 1], minlength=64), 63, np.bincount(bins))
    same = (files == places).sum()  # a shuffle leaves one file in its place, on average
    assert abs(same - epochs) < SIGMAS * epochs**0.5


@pytest.mark.parametrize("num_files", [10**9, 2**40 + 1])
def test_a_sample_of_a_set_beyond_memory_is_spread_evenly(num_files: int) -> None:
    places = np.arange(400_000)
    files = KeyedOrder(0, "image", 0, num_files)(places)
    assert within(np.bincount(files * 1000 // num_files if num_files < 2**50 else files, minlength=1000), 999)
    assert within(np.bincount((np.diff(files) % num_files) * 1000 // num_files, minlength=1000), 999)
    assert within(np.bincount(files % 1024, minlength=1024), 1023)


def test_a_single_bit_of_the_place_moves_half_of_the_bits_of_the_file() -> None:
    keyed = KeyedOrder(0, "a", 0, 2**32)
    places = np.arange(0, 2**32, 2**32 // 5000)
    for bit in (0, 15, 16, 31):
        moved = keyed(places) ^ keyed(places ^ (1 << bit))
        share = np.unpackbits(moved.astype("<u4").view(np.uint8)).mean()
        assert 0.49 < share < 0.51


def test_sets_of_today_keep_the_order_in_which_their_runs_began() -> None:
    for num_files in (1, 2, 1000, LISTED):
        shuffled = torch.randperm(num_files, generator=rng(3, "permutation", "image", 2)).numpy()
        assert (files_at(3, "image", 2, num_files, np.arange(num_files)) == shuffled).all()


def test_the_order_of_a_large_set_is_the_same_for_ever() -> None:
    assert files_at(0, "image", 0, 10**9, np.arange(4)).tolist() == GOLDEN


GOLDEN = [121101892, 910353660, 231018697, 584656436]


def test_a_billion_files_are_ordered_at_once_and_in_no_memory() -> None:
    plan = Plan(0, "image", 10**9, batch=256, rank=3, world=8)
    plan.keys(0)
    tracemalloc.start()
    began = time.process_time()
    keys = [key for step in (0, 10**6, 10**7) for key in plan.keys(step)]
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len({(key.epoch, key.index) for key in keys}) == 96 and peak < 1 << 20 and seconds < 1


def test_what_stands_in_for_a_bad_file_of_a_large_set_are_the_next_of_its_order() -> None:
    plan = Plan(0, "a", 10**7, batch=40)
    first, *_ = keys = plan.keys(0)
    stand_ins = plan.candidates(first)
    assert [next(stand_ins) for _ in keys] == [key.index for key in keys]


@pytest.mark.parametrize("num_files", [0, 2**62 + 1])
def test_a_number_of_files_that_has_no_order_is_refused(num_files: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        KeyedOrder(0, "a", 0, num_files)
