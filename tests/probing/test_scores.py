"""Scores and their intervals: what a number from so many patients is worth."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mae_ext.probing.scores import resampled, score_classes, score_each_class, score_marks, scores, split
from mae_ext.rng import rng


def guesses(n: int, right: float, classes: int = 3, key: str = "guesses") -> tuple[Tensor, Tensor]:
    """(n, classes), (n,): scores whose largest is the true class for a share `right` of the samples."""
    g = rng(0, key)
    wanted = torch.arange(n) % classes
    said = torch.where(torch.rand(n, generator=g) < right, wanted, (wanted + 1) % classes)
    return torch.nn.functional.one_hot(said, classes) + 0.3 * torch.rand(n, classes, generator=g), wanted


def test_the_scores_are_those_without_intervals_and_intervals_are_around_them():
    votes, wanted = guesses(300, 0.8)
    found = score_classes(votes, wanted)
    assert {k: found[k] for k in ("accuracy", "balanced_accuracy")} == scores(votes.argmax(1), wanted)
    for name in ("accuracy", "balanced_accuracy", "auroc"):
        low, high = found[f"{name}_ci"]
        assert low < found[name] < high


def test_auroc_of_several_classes_is_the_mean_of_each_against_the_rest_and_of_two_that_of_one():
    metrics = pytest.importorskip("sklearn.metrics")
    votes, wanted = guesses(200, 0.6)
    p = votes.double().softmax(1)
    expected = metrics.roc_auc_score(wanted.numpy(), p.numpy(), multi_class="ovr")
    assert score_classes(p, wanted)["auroc"] == pytest.approx(expected)
    votes, wanted = guesses(200, 0.6, classes=2)
    p = votes.double().softmax(1)
    assert score_classes(p, wanted)["auroc"] == pytest.approx(metrics.roc_auc_score(wanted.numpy(), p[:, 1].numpy()))


def test_the_interval_of_an_accuracy_is_about_that_of_a_binomial():
    votes, wanted = guesses(400, 0.8)
    found = score_classes(votes, wanted)
    p = found["accuracy"]
    half = 1.96 * np.sqrt(p * (1 - p) / 400)
    assert found["accuracy_ci"] == pytest.approx([p - half, p + half], abs=0.006)


def test_twenty_clips_of_each_patient_are_no_more_witnesses_than_one():
    votes, wanted = guesses(20, 0.7, classes=2)
    one = score_classes(votes, wanted)
    many = score_classes(votes.repeat(20, 1), wanted.repeat(20), groups=torch.arange(20).repeat(20))
    alone = score_classes(votes.repeat(20, 1), wanted.repeat(20))
    assert many["accuracy_ci"] == pytest.approx(one["accuracy_ci"])
    width = [high - low for low, high in (one["accuracy_ci"], alone["accuracy_ci"])]
    assert width[1] < 0.4 * width[0]


def test_draws_are_a_function_of_the_seed_and_every_draw_has_as_many_patients():
    groups = torch.tensor([7, 7, 7, 3, 3, 9])
    drawn = resampled(6, 1, groups)
    assert torch.equal(drawn, resampled(6, 1, groups)) and not torch.equal(drawn, resampled(6, 2, groups))
    assert torch.equal(drawn[:, 0], drawn[:, 2]) and torch.equal(drawn[:, 3], drawn[:, 4])
    assert (drawn[:, 0] + drawn[:, 3] + drawn[:, 5] == 3).all()


def test_where_nothing_can_be_said_nothing_is():
    votes, wanted = guesses(12, 0.8, classes=2)
    one_patient = score_classes(votes, wanted, groups=torch.zeros(12, dtype=torch.long))
    assert one_patient["accuracy_ci"] is None and one_patient["auroc"] is not None
    one_class = score_classes(votes[wanted == 0], wanted[wanted == 0])
    assert one_class["auroc"] is None and one_class["auroc_ci"] is None


def test_areas_of_very_many_classes_have_no_interval_and_the_same_value(monkeypatch):
    """A thousand classes and as many draws over fifty thousand samples would be an hour after every probe."""
    votes, wanted = guesses(60, 0.8)
    with_intervals = score_classes(votes, wanted)
    monkeypatch.setattr("mae_ext.probing.scores.MOST_AREAS", 179)
    without = score_classes(votes, wanted)
    assert without == {**with_intervals, "auroc_ci": None} and with_intervals["auroc_ci"] is not None


def test_marks_are_judged_class_by_class_and_what_is_unknown_does_not_count():
    g = rng(0, "marks")
    marks = torch.randint(2, (120, 3), generator=g)
    votes = marks + torch.randn(120, 3, generator=g)
    votes[:40, 1] = 100 * (1 - marks[:40, 1])  # wrong, and about to be unknown
    unknown = marks.clone()
    unknown[:40, 1] = -1
    found, each = score_marks(votes, unknown), score_each_class(votes, unknown, "abc")
    assert found["auroc"] == pytest.approx(np.mean([each[c]["auroc"] for c in "abc"]))
    assert found["average_precision"] == pytest.approx(np.mean([each[c]["average_precision"] for c in "abc"]))
    assert each["b"]["positives"] + each["b"]["negatives"] == 80
    assert found["auroc"] > score_marks(votes, marks)["auroc"] + 0.05
    assert found["auroc_ci"][0] < found["auroc"] < found["auroc_ci"][1]


def test_a_class_that_all_or_none_have_is_left_out_of_the_mean():
    marks = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
    votes = torch.tensor([[0.1, 0.9, 0.2], [0.2, 0.1, 0.3], [0.3, 0.8, 0.4], [0.4, 0.2, 0.5]])
    found = score_marks(votes, marks)
    assert found["auroc"] == found["average_precision"] == 1
    each = score_each_class(votes, marks, "abc")
    assert each["a"]["auroc"] is None and each["a"]["average_precision"] is None
    assert each["c"]["auroc"] is None and each["c"]["average_precision"] is None


def test_patients_are_held_out_whole_and_every_class_keeps_something_to_fit_on():
    groups = torch.arange(60) // 4
    y = (groups % 3 == 0).long()
    fit, held = split(y, 0, 0, groups)
    assert len(held) >= 6 and not set(groups[fit].tolist()) & set(groups[held].tolist())
    assert sorted(fit.tolist() + held.tolist()) == list(range(60))
    lonely = torch.tensor([0, 0, 0, 0, 1, 1])
    fit, held = split(lonely, 0, 0, torch.tensor([0, 1, 2, 3, 4, 4]))
    assert set(lonely[fit].tolist()) == {0, 1} and len(held)


def test_an_interval_is_the_middle_95_percent_of_what_the_draws_give():
    """Of 400 samples with a rate of one half the standard deviation is 0.025."""
    votes, wanted = torch.eye(2)[torch.arange(400) % 2], torch.zeros(400, dtype=torch.long)
    rates = (resampled(400, 0).float() @ (votes.argmax(1) == wanted).float()) / 400
    low, high = score_classes(votes, wanted)["accuracy_ci"]
    assert (low, high) == pytest.approx(np.quantile(rates.numpy(), (0.025, 0.975)), abs=1e-6)


def test_the_interval_of_a_balanced_accuracy_is_of_the_mean_recall():
    """One class always right, the other never: whatever is drawn of both, the mean recall is one half."""
    wanted = torch.tensor([0] * 95 + [1] * 5)
    found = score_classes(torch.tensor([[1.0, 0.0]]).repeat(100, 1), wanted)
    assert (found["accuracy"], found["balanced_accuracy"]) == (0.95, 0.5)
    low, high = found["balanced_accuracy_ci"]
    assert low == 0.5 and high == 0.5
    assert 0.85 < found["accuracy_ci"][0] < 0.95 < found["accuracy_ci"][1]


def test_intervals_of_marks_draw_patients_and_only_what_is_known_of_a_class():
    marks = torch.tensor([[1, 0], [0, 1], [1, -1], [0, -1]] * 5)
    votes = torch.stack([marks[:, 0] + 0.0, torch.where(marks[:, 1] < 0, 9.0, 1.0 - marks[:, 1])], 1)
    found = score_marks(votes, marks, groups=torch.arange(4).repeat(5))
    assert found["auroc"] == 0.5
    assert score_marks(votes, marks, groups=torch.zeros(20, dtype=torch.long))["auroc_ci"] is None
    each = score_each_class(votes, marks, "ab")
    assert (each["a"]["positives"], each["a"]["negatives"], each["a"]["auroc"]) == (10, 10, 1.0)
    assert (each["b"]["positives"], each["b"]["negatives"], each["b"]["auroc"]) == (5, 5, 0.0)


def test_draws_of_the_held_out_part_differ_and_so_do_classes():
    y = torch.tensor([0] * 50 + [1] * 50)
    held = [split(y, 0, draw)[1] for draw in range(3)]
    assert len({tuple(h.tolist()) for h in held}) == 3
    assert (held[0][held[0] < 50]).tolist() != (held[0][held[0] >= 50] - 50).tolist()
    groups = torch.arange(100) // 2
    by_patient = [split(y, 0, draw, groups)[1] for draw in range(3)]
    assert len({tuple(h.tolist()) for h in by_patient}) == 3
    assert all(y[h].bincount(minlength=2).tolist() == [6, 6] for h in by_patient)


def test_a_class_that_nothing_is_predicted_of_counts_in_the_balanced_accuracy():
    assert scores(torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1]))["balanced_accuracy"] == 0.5
    assert scores(torch.tensor([0, 2, 1]), torch.tensor([0, 0, 1]))["balanced_accuracy"] == 0.75


def test_intervals_are_those_of_drawing_patients_again_and_again_by_hand():
    """Each draw is a list of patients, taken with all they have; what is not known of a class is left out of it."""
    g = rng(0, "by hand")
    marks = torch.randint(2, (24, 2), generator=g)
    marks[:7, 1] = -1
    votes = marks + torch.randn(24, 2, generator=g)
    groups = torch.randint(8, (24,), generator=g)
    found = score_marks(votes, marks, seed=5, groups=groups, draws=60)
    means = []
    for counts in resampled(24, 5, groups, 60):
        rows = torch.arange(24).repeat_interleave(counts.long())
        each = score_each_class(votes[rows], marks[rows], "ab").values()
        areas = [one["auroc"] for one in each if one["auroc"] is not None]
        if areas:
            means.append(np.mean(areas))
    assert found["auroc_ci"] == pytest.approx(np.percentile(means, (2.5, 97.5)))


def test_a_draw_without_a_rare_class_counts_with_the_classes_that_it_has():
    """Of a class with one sample every third draw has none; of the others it is as good a draw as any."""
    wanted = torch.tensor([0] * 8 + [1] * 6 + [2])
    votes = torch.nn.functional.one_hot(wanted, 3) + torch.randn(15, 3, generator=rng(0, "rare"))
    votes[14] = torch.tensor([3.0, 0.0, -1.0])  # the rare one, taken for another
    drawn = [torch.arange(15).repeat_interleave(counts.long()) for counts in resampled(15, 0)]
    by_hand = [scores(votes[rows].argmax(1), wanted[rows])["balanced_accuracy"] for rows in drawn]
    assert sum(not (wanted[rows] == 2).any() for rows in drawn) > 300
    found = score_classes(votes, wanted)
    assert found["balanced_accuracy_ci"] == pytest.approx(np.percentile(by_hand, (2.5, 97.5)))
    marks = torch.nn.functional.one_hot(wanted, 3)
    areas = score_marks(votes, marks, draws=40)["auroc_ci"]
    means = []
    for counts in resampled(15, 0, draws=40):
        rows = torch.arange(15).repeat_interleave(counts.long())
        each = [one["auroc"] for one in score_each_class(votes[rows], marks[rows], "abc").values()]
        means.append(np.mean([area for area in each if area is not None]))
    assert areas == pytest.approx(np.percentile(means, (2.5, 97.5)))
