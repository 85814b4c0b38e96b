"""Intervals of scores and differences over test samples, patients and seeds; the same scores on resampled tests."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mae_ext.data.image.boxes import BoxTable
from mae_ext.probing.scores import score_classes
from mae_ext.tasks.detect.average_precision import average_precision
from mae_ext.tasks.detect.fcos import Detections
from mae_ext.tasks.segment.overlap import mean_scores
from mae_ext.worth import outcome
from mae_ext.worth.intervals import Estimates, expansion, rescored
from mae_ext.worth.judged import _of_boxes
from mae_ext.worth.outcome import Asked, Outcome


def judged_on(n, groups=None, kind="classify"):
    score = {"classify": "accuracy", "segment": "dice", "detect": "mAP50"}[kind]
    return outcome.Tested(kind, score, ("a", "b"), tuple(map(str, range(n))), groups)


def right(hits, arm="finetuned", seed=0, labels="all", count=100):
    hits = np.asarray(hits, np.int64)
    judged = {"row": np.arange(len(hits)), "true": np.ones_like(hits), "predicted": hits}
    return Outcome(Asked(arm, labels, count, seed), "accuracy", float(hits.mean()), 1.0, judged)


def chance_of(rate, n=400, seed=0):
    return np.random.default_rng(seed).random(n) < rate


def test_the_interval_of_many_samples_and_one_seed_is_that_of_a_probe():
    hits = chance_of(0.7)
    votes = torch.nn.functional.one_hot(torch.from_numpy(hits.astype(np.int64)), 2).float()
    low, high = score_classes(votes, torch.ones(400, dtype=torch.int64))["accuracy_ci"]
    got = Estimates(judged_on(400), [right(hits)]).score("finetuned", "all")
    assert (got.value, got.seeds, got.units, got.spread) == (round(hits.mean(), 6), 1, 400, None)
    mean, wider = hits.mean(), expansion(400)
    assert [got.low, got.high] == pytest.approx([mean - (mean - low) * wider, mean + (high - mean) * wider], abs=2e-6)


def test_a_difference_is_of_the_same_test_samples_so_arms_that_agree_differ_by_little():
    hits = chance_of(0.5)
    other = hits.copy()
    other[:4] = ~other[:4]
    together = Estimates(judged_on(400), [right(hits), right(other, "scratch")]).gain("finetuned", "scratch", "all")
    apart = Estimates(judged_on(400), [right(hits), right(other[::-1], "scratch")]).gain("finetuned", "scratch", "all")
    assert together.value == apart.value and together.high - together.low < 0.025 < 0.1 < apart.high - apart.low


def test_patients_are_drawn_with_all_they_have():
    hits = np.repeat(chance_of(0.5, 20), 20)
    alone = Estimates(judged_on(400), [right(hits)]).score("finetuned", "all")
    groups = tuple(f"p{i // 20}" for i in range(400))
    whole = Estimates(judged_on(400, groups), [right(hits)]).score("finetuned", "all")
    assert whole.units == 20 and whole.high - whole.low > 3.5 * (alone.high - alone.low)


def test_few_seeds_widen_an_interval_as_students_t_says():
    base = np.arange(4000) % 2 == 0
    outcomes = []
    for seed, more in enumerate((300, 400, 500)):  # gains of 0.075, 0.1, 0.125
        better = base.copy()
        better[1 : 2 * more : 2] = True
        outcomes += [right(better, seed=seed), right(base, "scratch", seed)]
    gain = Estimates(judged_on(4000), outcomes).gain("finetuned", "scratch", "all")
    half = 4.303 * 0.025 / 3**0.5
    assert (gain.value, gain.spread, gain.seeds) == (0.1, 0.025, 3)
    assert gain.high - 0.1 == pytest.approx(half, rel=0.12) and 0.1 - gain.low == pytest.approx(half, rel=0.12)


def test_only_seeds_that_both_arms_have_are_compared():
    one, two = chance_of(0.9), chance_of(0.1)
    outcomes = [right(one), right(two, seed=1), right(one, "scratch")]
    estimates = Estimates(judged_on(400), outcomes)
    assert estimates.gain("finetuned", "scratch", "all").value == 0 and estimates.means("finetuned", "scratch", "all")
    assert Estimates(judged_on(400), outcomes[1:]).gain("finetuned", "scratch", "all") is None


def test_what_never_went_wrong_in_twelve_samples_may_in_a_quarter():
    assert Estimates(judged_on(12), [right([1] * 12)]).score("finetuned", "all").low == pytest.approx(0.75, abs=1e-3)


def test_one_test_sample_or_one_patient_has_no_interval():
    assert Estimates(judged_on(1), [right([1])]).score("finetuned", "all").low is None
    assert Estimates(judged_on(9, ("p",) * 9), [right([1] * 9)]).score("finetuned", "all").high is None


def test_the_order_of_outcomes_changes_no_bit():
    outcomes = [
        right(chance_of(0.4 + seed / 9, seed=seed), arm, seed) for arm in ("frozen", "raw") for seed in range(3)
    ]
    there, back = (Estimates(judged_on(400), rows).gain("frozen", "raw", "all") for rows in (outcomes, outcomes[::-1]))
    assert there == back


def test_dice_on_drawn_samples_is_the_task_s_own_mean_of_them():
    dice = np.array([[0.5, np.nan], [0.25, 1.0], [0.75, 0.0]])
    drawn = [0, 0, 2]
    judged = {"row": np.arange(3), "dice": dice}
    got = float(rescored(judged_on(3, kind="segment"), judged, torch.tensor([[2, 0, 1]])))
    rows = [{f"dice/{c}": v for c, v in zip("ab", dice[i], strict=True) if v == v} for i in drawn]
    assert got == pytest.approx(mean_scores(rows)["dice"], abs=1e-12)


def test_average_precision_on_drawn_images_is_that_of_pycocotools_on_them():
    chance = np.random.default_rng(4)
    images, classes = 8, ("a", "b")
    counts = chance.integers(0, 4, images)
    corners = chance.uniform(0, 40, (counts.sum(), 2))
    boxes = np.concatenate([corners, corners + 20], 1).astype(np.float32)
    labels, ignored = chance.integers(0, 2, counts.sum()), chance.random(counts.sum()) < 0.2
    table = BoxTable(classes, counts.cumsum(), np.full((images, 2), 99), boxes, labels, ignored)
    detected = []
    for i in range(images):
        moved = table[i].boxes.repeat(2, 1) + torch.from_numpy(chance.uniform(-6, 6, (2 * int(counts[i]), 4))).float()
        scores = torch.from_numpy(chance.random(len(moved))).sort(descending=True).values
        detected.append(Detections(moved, scores, table[i].labels.repeat(2)))
    value, judged = _of_boxes(np.arange(images), detected, SimpleNamespace(table=table))
    weight = torch.tensor([[1] * images, [2, 0, 1, 3, 0, 1, 0, 1]])
    drawn = [i for i, times in enumerate(weight[1].tolist()) for _ in range(times)]
    again = average_precision([table[i] for i in drawn], [detected[i] for i in drawn], classes)["mAP50"]
    assert rescored(judged_on(images, kind="detect"), judged, weight).tolist() == pytest.approx(
        [value, again], abs=1e-9
    )
    assert 0.1 < value < 0.9 and again != pytest.approx(value, abs=0.01)
