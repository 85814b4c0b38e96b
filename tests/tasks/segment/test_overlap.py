"""Scores of one answer: overlap by classes, distances in millimetres, and what is missed, made up or ignored."""

import numpy as np
import pytest

from mae_ext.data.labelmap import IGNORED
from mae_ext.tasks.segment.overlap import dice, found_wrongly, mean_scores, surface_scores


def test_dice_counts_classes_that_occur_and_surfaces_are_in_millimetres():
    wanted = np.zeros((6, 8), int)
    wanted[1:5, 2:6] = 1
    found = np.roll(wanted, 1, 1)
    assert dice(wanted, wanted, ["a", "b"]) == {"dice/a": 1.0}
    assert dice(found, wanted, ["a"])["dice/a"] == 0.75
    assert dice(np.zeros_like(wanted), wanted, ["a"]) == {"dice/a": 0.0}
    assert surface_scores(found, wanted, ["a"], (1.0, 3.0))["hd95/a"] == pytest.approx(3.0)
    assert surface_scores(wanted, wanted, ["a"], None) == {"hd95/a": 0.0, "surface_dice/a": 1.0}
    assert mean_scores([{"dice/a": 1.0, "dice/b": 0.0}, {"dice/a": 0.5}]) == {
        "samples": 2.0, "dice": 0.375, "dice/a": 0.75, "dice/b": 0.0,
    }  # fmt: skip


def test_what_is_not_found_at_all_counts_in_every_score():
    wanted = np.zeros((6, 8), np.int32)
    wanted[1:5, 2:6] = 1
    nothing = np.zeros_like(wanted)
    diagonal = (6**2 + (3 * 8) ** 2) ** 0.5
    one = {"hd95/a": pytest.approx(diagonal), "surface_dice/a": 0.0}
    assert surface_scores(nothing, wanted, ["a", "b"], (1.0, 3.0)) == one
    assert surface_scores(wanted, nothing, ["a", "b"], (1.0, 3.0)) == one
    assert surface_scores(wanted, nothing, ["a"], None)["hd95/a"] == 10.0
    assert dice(wanted, nothing, ["a", "b"]) == {"dice/a": 0.0}
    missed = found_wrongly(nothing, wanted, ["a", "b"])
    spurious = found_wrongly(wanted, nothing, ["a", "b"])
    assert missed == {"background_only": 0, "missed/a": 1, "spurious/a": 0, "missed/b": 0, "spurious/b": 0}
    assert spurious == {"background_only": 1, "missed/a": 0, "spurious/a": 1, "missed/b": 0, "spurious/b": 0}
    found = found_wrongly(wanted, wanted, ["a", "b"])
    assert mean_scores([missed, missed, spurious, found]) == {
        "samples": 4, "background_only": 1, "missed": 2, "spurious": 1, "missed/a": 2, "spurious/a": 1,
    }  # fmt: skip


def test_what_is_ignored_counts_in_no_score():
    wanted = np.zeros((4, 6), np.int32)
    wanted[:, 2], wanted[:, 3:] = 1, IGNORED
    found = np.zeros((4, 6), np.int32)
    found[:, 2:5] = 1
    assert dice(found, wanted, ["a"]) == {"dice/a": 1.0}
    assert found_wrongly(found, wanted, ["a"]) == {"background_only": 0.0, "missed/a": 0.0, "spurious/a": 0.0}
    assert surface_scores(found, wanted, ["a"], None) == {"hd95/a": 0.0, "surface_dice/a": 1.0}
    nothing = np.where(wanted == 1, 0, wanted).astype(np.int32)
    assert found_wrongly(np.where(nothing == IGNORED, 1, 0), nothing, ["a"])["background_only"] == 1.0


def test_a_surface_within_a_millimetre_is_right_and_beyond_it_is_not():
    wanted = np.zeros((12, 12), np.int32)
    wanted[3:9, 3:9] = 1
    found = np.roll(wanted, 1, 0)
    assert surface_scores(found, wanted, ["a"], (0.9, 0.9))["surface_dice/a"] == 1.0
    # Of 20 surface voxels of each, those on the two sides that moved are 1.1 mm off, but for the corners' neighbours.
    assert 0.3 < surface_scores(found, wanted, ["a"], (1.1, 1.1))["surface_dice/a"] < 0.8
    assert surface_scores(np.roll(wanted, 3, 0), wanted, ["a"], (2.0, 2.0))["hd95/a"] == pytest.approx(6.0)


def test_one_voxel_in_a_hundred_that_is_far_off_does_not_decide_the_distance():
    wanted = np.zeros((60, 60), np.int32)
    wanted[10:50, 10:50] = 1
    found = wanted.copy()
    found[0, 0] = 1
    assert surface_scores(found, wanted, ["a"], None)["hd95/a"] == 0.0
