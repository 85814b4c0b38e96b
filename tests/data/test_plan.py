"""Which samples, in which order: arithmetic that no worker, rank or restart can change."""

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.data.plan import Plan


def keys(plan, steps):
    return [key for step in range(steps) for key in plan.keys(step)]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 3), st.integers(0, 5))
def test_an_epoch_is_every_file_once_with_all_its_views(num_files, reads, repeats, seed):
    plan = Plan(seed, "a", num_files, batch=reads * repeats, repeats=repeats)
    epochs = 3
    drawn = keys(plan, -(-epochs * plan.samples_per_epoch // plan.batch))
    for epoch in range(epochs):
        seen = Counter((key.index, key.repeat) for key in drawn if key.epoch == epoch)
        assert seen == Counter((index, repeat) for index in range(num_files) for repeat in range(repeats))
    assert plan.samples_per_epoch == num_files * repeats


def test_batches_are_full_and_run_across_epochs():
    plan = Plan(0, "a", 10, batch=4)
    assert [[key.epoch for key in plan.keys(step)] for step in (1, 2, 3)] == [[0] * 4, [0, 0, 1, 1], [1] * 4]
    assert all([key.slot for key in plan.keys(step)] == [0, 1, 2, 3] for step in range(20))


def test_more_samples_a_step_than_files_is_allowed():
    assert [key.epoch for key in Plan(0, "a", 3, batch=8).keys(0)] == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("repeats", [1, 2])
def test_any_number_of_ranks_sees_the_same_samples_in_the_same_slots(repeats):
    whole = Plan(3, "a", 50, batch=24, repeats=repeats)
    for world in (1, 2, 3, 4, 6, 12):
        ranks = [Plan(3, "a", 50, 24, repeats, rank, world) for rank in range(world)]
        for step in (0, 1, 7, 100):
            assert [key for rank in ranks for key in rank.keys(step)] == whole.keys(step)


def test_a_step_needs_no_step_before_it():
    plan = Plan(3, "a", 50, batch=24)
    later = plan.keys(1000)
    keys(plan, 20)
    assert Plan(3, "a", 50, batch=24).keys(1000) == later


def test_views_of_one_file_come_together_so_that_it_is_opened_once():
    plan = Plan(0, "a", 11, batch=12, repeats=4)
    for step in range(10):
        groups = [list(group) for _, group in groupby(plan.keys(step), key=lambda key: (key.epoch, key.place))]
        assert [[key.repeat for key in group] for group in groups] == [[0, 1, 2, 3]] * 3
        assert all(len({key.index for key in group}) == 1 for group in groups)


def test_epochs_seeds_and_modalities_have_orders_of_their_own():
    def order(seed, name, epoch):
        plan = Plan(seed, name, 30, batch=30)
        return tuple(key.index for key in plan.keys(epoch))

    orders = {order(seed, name, epoch) for seed in (0, 1) for name in ("a", "b") for epoch in (0, 1)}
    assert len(orders) == 8 and tuple(range(30)) not in orders


def test_what_stands_in_for_a_bad_file_is_fixed_and_runs_through_all_the_others():
    plan = Plan(0, "a", 10, batch=4)
    order = [key.index for key in keys(plan, 3)][:10]
    for key in plan.keys(1):
        stand_ins = list(plan.candidates(key))
        assert stand_ins[0] == key.index and sorted(stand_ins) == list(range(10))
        assert stand_ins == list(Plan(0, "a", 10, 4, 1, 1, 2).candidates(key))
        assert stand_ins == order[key.place :] + order[: key.place]


@pytest.mark.parametrize(("world", "repeats"), [(3, 1), (1, 3), (2, 4)])
def test_a_batch_that_does_not_split_is_refused(world, repeats):
    with pytest.raises(ValueError, match=f"batch=4 does not split over {world} ranks with {repeats} samples per file"):
        Plan(0, "a", 10, 4, repeats, 0, world)
