"""The two classifiers of a probe, number by number: how votes are weighed, and by what a strength is chosen."""

from math import exp

import numpy as np
import pytest
import torch
from probing.scored_votes import knn, linear
from torch import Tensor

from mae_ext.probing import classifiers
from mae_ext.probing.classifiers import (
    L2,
    WIDE,
    linear_votes,
    logistic_regression,
    logits,
    neighbour_votes,
    softmax_regression,
    standardised,
    whitened,
)
from mae_ext.probing.scores import DRAWS, score_marks, scores, split
from mae_ext.rng import rng

STRENGTHS = sorted(L2, reverse=True)


def at(*degrees: float) -> Tensor:
    """Directions in a plane, of different lengths: (n, 2)."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], 1) * torch.arange(1, len(degrees) + 1)[:, None]


def test_a_vote_weighs_exp_of_its_cosine_over_007_and_votes_are_shares() -> None:
    x, y = at(0, 20, 40, 90), torch.tensor([0, 1, 1, 2])
    votes, counts, settings = neighbour_votes(x, y, 5 * at(5), k=3)
    weight = [exp(float(torch.deg2rad(torch.tensor(d)).cos()) / 0.07) for d in (5.0, 15.0, 35.0)]
    assert votes[0].tolist() == pytest.approx(
        [w / sum(weight) for w in (weight[0], weight[1] + weight[2], 0)], rel=1e-4
    )
    # The nearest alone outweighs the two others, which outnumber it.
    assert votes.argmax() == 0 and counts.argmax() == 1
    assert settings == {"k": 3, "temperature": 0.07, "metric": "cosine"}


def test_between_equal_counts_the_larger_summed_similarity_decides_and_never_against_a_larger_count() -> None:
    y = torch.tensor([0, 1, 1, 0])
    _, counts, _ = neighbour_votes(at(10, 12, 40, 50), y, at(0), k=4)
    assert counts[0].floor().tolist() == [2, 2] and counts.argmax() == 1
    _, counts, _ = neighbour_votes(at(0, 80, 81, 82), torch.tensor([0, 1, 1, 1]), at(0), k=4)
    assert counts.argmax() == 1


def test_of_marks_neighbours_that_are_not_known_have_no_vote() -> None:
    marks = torch.tensor([[1, 0], [-1, 1], [0, -1]])
    votes, _, _ = neighbour_votes(at(0, 0, 0), marks, at(0), k=3)
    assert votes[0].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("n", [40, 5], ids=["more samples than numbers", "fewer"])
def test_whitened_axes_are_divided_by_the_root_of_their_variance_and_three(n: int) -> None:
    x, x_test = (torch.randn(k, 8, generator=rng(0, f"white{k}")) * 10 ** torch.arange(-2.0, 2, 0.5) for k in (n, 3))
    white, white_test = whitened(x, x_test)
    z, z_test = standard(x, x).double(), standard(x_test, x).double()
    variance, axes = torch.linalg.eigh(z.T @ z / n)
    turn = axes @ ((variance + 3).rsqrt()[:, None] * axes.T)
    assert torch.allclose(white.double(), z @ turn, atol=1e-4)
    assert torch.allclose(white_test.double(), z_test @ turn, atol=1e-4)
    assert torch.allclose(whitened(x, x_test[:1])[1], white_test[:1])


def test_numbers_that_are_only_large_or_many_choose_no_neighbours_once_whitened() -> None:
    y = torch.arange(60) % 2
    telling = (2.0 * y - 1)[:, None] + 0.3 * torch.randn(60, 1, generator=rng(0, "telling"))
    large = 10 * torch.randn(60, 3, generator=rng(0, "large")).repeat(1, 3)
    x = torch.cat([telling, large], 1)
    right = [
        (neighbour_votes(one[:40], y[:40], other, k=5)[0].argmax(1) == y[40:]).float().mean()
        for one, other in ((x, x[40:]), standardised(x, x[40:]), whitened(x, x[40:]))
    ]
    assert right[0] < right[1] < right[2] and right[2] > 0.9, right


def test_features_that_are_all_alike_are_whitened_to_nothing() -> None:
    white, other = whitened(torch.ones(4, 3), torch.full((2, 3), 2.0))
    assert (white == 0).all() and (other == 0).all()


def cloud(n: int, key: str, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """(n, 6), (n,): three clouds that overlap, in features of different scale and place."""
    centres = torch.randn(3, 6, generator=rng(0, "centres"))
    y = torch.arange(n) % 3
    x = centres[y] + spread * torch.randn(n, 6, generator=rng(0, key))
    return x * torch.tensor([1.0, 10, 0.1, 1, 1, 1]) + 3, y


def standard(x: Tensor, like: Tensor) -> Tensor:
    return (x - like.mean(0)) / like.std(0, correction=0)


def test_the_strength_is_the_best_on_held_out_tenths_and_then_all_of_train_is_fitted() -> None:
    (x, y), (x_test, _) = cloud(60, "train"), cloud(20, "test")
    votes, found = linear_votes(x, y, x_test, epochs=50, seed=3)
    z, z_test = standard(x, x), standard(x_test, x)
    held_out = dict.fromkeys(STRENGTHS, 0.0)
    for draw in range(5):
        fit, held = split(y, 3, draw)
        for l2 in STRENGTHS:
            right = logits(softmax_regression(z[fit], y[fit], l2, 50), z[held]).argmax(1) == y[held]
            held_out[l2] += float(right.double().mean()) / 5
    assert found["held_out_accuracy"] == pytest.approx({f"{l2:g}": value for l2, value in held_out.items()}, abs=1e-6)
    best = next(l2 for l2 in STRENGTHS if held_out[l2] > max(held_out.values()) - 1e-9)
    assert found["l2"] == best and len(set(held_out.values())) > 1
    weight = softmax_regression(z, y, best, 50)
    assert torch.allclose(votes.float(), logits(weight, z_test).softmax(1), atol=2e-3)
    assert found["train_accuracy"] == pytest.approx(float((logits(weight, z).argmax(1) == y).double().mean()))


def test_where_strengths_are_as_good_the_strongest_is_taken() -> None:
    x, y = cloud(60, "train", spread=0.01)
    _, found = linear_votes(x, y, x)
    assert set(found["held_out_accuracy"].values()) == {1.0} and found["l2"] == 1.0


def test_of_marks_the_strength_is_chosen_by_auroc_on_a_tenth_of_all() -> None:
    (x, y), (x_test, _) = cloud(80, "train"), cloud(20, "test")
    marks = torch.nn.functional.one_hot(y, 3).to(torch.int8)
    marks[::9, 1] = -1
    votes, found = linear_votes(x, marks, x_test, epochs=50, seed=1)
    z = standard(x, x)
    held_out = dict.fromkeys(STRENGTHS, 0.0)
    for draw in range(5):
        fit, held = split(torch.zeros(80, dtype=torch.long), 1, draw)
        for l2 in STRENGTHS:
            told = logits(logistic_regression(z[fit], marks[fit], l2, 50), z[held])
            held_out[l2] += (score_marks(told, marks[held], draws=1)["auroc"] or 0.5) / 5
    assert found["held_out_auroc"] == pytest.approx({f"{l2:g}": v for l2, v in held_out.items()}, abs=1e-5)
    assert held_out[found["l2"]] == pytest.approx(max(held_out.values()))
    weight = logistic_regression(z, marks, found["l2"], 50)
    assert torch.allclose(votes.float(), logits(weight, standard(x_test, x)).sigmoid(), atol=2e-3)


def test_patients_are_held_out_whole_when_a_strength_is_chosen() -> None:
    """Each patient's samples are one point, with a label that means nothing: only who has seen the patient knows it."""
    patients = torch.arange(40).repeat(5)
    y = (torch.arange(40) % 2).repeat(5)
    x = torch.randn(40, 60, generator=rng(0, "patients"))[patients]
    _, whole = linear_votes(x, y, x[:1], groups=patients)
    _, mixed = linear_votes(x, y, x[:1])
    assert min(mixed["held_out_accuracy"].values()) > 0.9
    assert max(whole["held_out_accuracy"].values()) < 0.85


def test_an_intercept_is_not_pulled_towards_zero() -> None:
    y = torch.tensor([0] * 90 + [1] * 10)
    x = torch.randn(100, 3, generator=rng(0, "nothing"))
    weight = softmax_regression(standard(x, x).double(), y, 1e3, 200)
    assert weight[:-1].abs().max() < 1e-2
    assert weight[-1].softmax(0).tolist() == pytest.approx([0.9, 0.1], abs=1e-3)


@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_a_class_is_fitted_on_what_is_known_of_it_as_if_it_were_alone(l2: float) -> None:
    """Whatever is known of others, and however few samples it is known of: the penalty is against their mean."""
    g = rng(0, "known in part")
    marks = torch.randint(2, (60, 3), generator=g)
    x = torch.randn(60, 5, generator=g).double() + marks[:, :1] - 0.5 * marks[:, 2:]
    marks[12:, 1] = -1
    marks[::3, 2] = -1
    together = logistic_regression(x, marks, l2, 400)
    for c in range(3):
        known = marks[:, c] >= 0
        alone = logistic_regression(x[known], marks[known][:, [c]], l2, 400)
        torch.testing.assert_close(together[:, [c]], alone, atol=2e-3, rtol=2e-3)


def clouds(n: int, classes: int = 4, width: int = 10, spread: float = 1.0, key: str = "train") -> tuple[Tensor, Tensor]:
    """(n, width), (n,): one Gaussian cloud for each class, the same centres for every key."""
    centres = torch.randn(classes, width, generator=rng(0, "centres")) * 2
    y = torch.arange(n) % classes
    return centres[y] + spread * torch.randn(n, width, generator=rng(0, key)), y


def test_a_linear_probe_finds_the_classes_of_separable_clouds() -> None:
    result = linear(*clouds(400, spread=0.5), *clouds(200, spread=0.5, key="test"))
    assert result["accuracy"] > 0.98 and result["balanced_accuracy"] > 0.98


def test_labels_that_say_nothing_of_the_features_give_chance() -> None:
    (x, y), (x_test, y_test) = clouds(400), clouds(400, key="test")
    shuffled = y[torch.randperm(len(y), generator=rng(0, "shuffle"))]
    assert 0.1 < linear(x, shuffled, x_test, y_test)["accuracy"] < 0.4
    assert 0.1 < knn(x, shuffled, x_test, y_test)["accuracy"] < 0.4


def test_the_linear_probe_does_not_depend_on_the_scale_and_offset_of_each_feature() -> None:
    (x, y), (x_test, y_test) = clouds(200, spread=2.0), clouds(400, spread=2.0, key="test")
    scale, offset = torch.logspace(-3, 3, 10), torch.linspace(-5, 5, 10)
    plain = linear(x, y, x_test, y_test)
    moved = linear(x * scale + offset, y, x_test * scale + offset, y_test)
    assert moved["accuracy"] == pytest.approx(plain["accuracy"], abs=0.01)


def test_a_constant_feature_changes_nothing() -> None:
    (x, y), (x_test, y_test) = clouds(200), clouds(200, key="test")
    wider, wider_test = (torch.cat([a, torch.full((len(a), 1), 3.0)], 1) for a in (x, x_test))
    assert linear(wider, y, wider_test, y_test)["accuracy"] == linear(x, y, x_test, y_test)["accuracy"]


def test_fewer_samples_than_numbers_have_the_minimum_of_all_numbers() -> None:
    x, y = torch.randn(12, WIDE + 1, generator=rng(0, "wide")).double(), torch.arange(12) % 3
    weight = softmax_regression(x, y, 1e-2, 500).requires_grad_()
    loss = torch.nn.functional.cross_entropy(logits(weight, x), y) + 1e-2 / 2 * weight[:-1].square().sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert weight.shape == (WIDE + 2, 3) and gradient.abs().max() < 1e-5


def test_softmax_regression_reaches_the_minimum_of_its_convex_loss() -> None:
    x, y = clouds(120)
    weight = softmax_regression(x.double(), y, 1e-2, 500).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x.double() @ weight[:-1] + weight[-1], y)
    (loss + 0.5e-2 * weight[:-1].square().sum()).backward()
    assert weight.grad is not None and weight.grad.abs().max() < 1e-4


def test_noise_features_make_the_probe_choose_more_regularisation() -> None:
    (x, y), (x_test, y_test) = clouds(100, spread=1.5), clouds(400, spread=1.5, key="test")
    noise, noise_test = (torch.randn(len(a), 200, generator=rng(0, "noise", len(a))) for a in (x, x_test))
    x, x_test = (torch.cat([a / a.std(0), b], 1) for a, b in ((x, noise), (x_test, noise_test)))
    noisy = linear(x, y, x_test, y_test)
    assert noisy["l2"] >= 1e-2
    weakest = softmax_regression(x, y, 1e-5, 200)
    guess = (x_test @ weakest[:-1] + weakest[-1]).argmax(1)
    assert noisy["accuracy"] > scores(guess, y_test)["accuracy"]


def test_axes_are_taken_once_a_draw_and_not_for_each_strength(monkeypatch) -> None:
    taken, real = [], classifiers.principal_axes
    monkeypatch.setattr(classifiers, "principal_axes", lambda x: taken.append(len(x)) or real(x))
    (x, y), (x_test, _) = clouds(40, spread=2.0), clouds(10, spread=2.0, key="test")
    linear_votes(x, y, x_test)
    assert len(taken) == DRAWS + 1 and taken[-1] == len(x) > max(taken[:-1])


def test_the_held_out_part_is_a_tenth_of_every_class_and_a_function_of_the_seed() -> None:
    y = torch.tensor([0] * 100 + [1] * 30 + [2] * 2 + [3])
    fit, held = split(y, seed=3)
    assert y[held].bincount(minlength=4).tolist() == [10, 3, 1, 0]
    assert sorted(fit.tolist() + held.tolist()) == list(range(len(y)))
    assert held.tolist() == split(y, seed=3)[1].tolist() != split(y, seed=4)[1].tolist()


def test_knn_matches_a_vote_counted_by_hand() -> None:
    (x, y), (x_test, y_test) = clouds(40, spread=2.0), clouds(30, spread=2.0, key="test")
    result = knn(x, y, x_test, y_test, k=5)
    hits = plain = 0
    for row, label in zip(x_test.numpy(), y_test.tolist(), strict=True):
        cosine = x.numpy() @ row / (np.linalg.norm(x.numpy(), axis=1) * np.linalg.norm(row))
        votes, counts = np.zeros(4), np.zeros(4)
        for i in np.argsort(-cosine)[:5]:
            votes[y[i]] += np.exp(cosine[i] / 0.07)
            counts[y[i]] += 1 + 1e-3 * cosine[i]
        hits += votes.argmax() == label
        plain += counts.argmax() == label
    assert result["accuracy"] == pytest.approx(hits / 30)
    assert result["majority_accuracy"] == pytest.approx(plain / 30)


def test_knn_does_not_see_the_length_of_features() -> None:
    (x, y), (x_test, y_test) = clouds(100, spread=2.0), clouds(100, spread=2.0, key="test")
    stretched = x * torch.rand(100, 1, generator=rng(0, "stretch")).add(0.1)
    assert knn(stretched, y, x_test * 7, y_test) == knn(x, y, x_test, y_test)


def test_more_neighbours_than_samples_are_all_samples() -> None:
    assert knn(*clouds(8), *clouds(8, key="test"), k=20)["k"] == 8


def test_balanced_accuracy_counts_classes_alike_however_many_samples_they_have() -> None:
    wanted = torch.tensor([0] * 9 + [1])
    result = scores(torch.zeros(10, dtype=torch.long), wanted)
    assert result == {"accuracy": pytest.approx(0.9), "balanced_accuracy": pytest.approx(0.5)}


def test_logistic_regression_reaches_the_minimum_of_each_class_over_what_is_known() -> None:
    x, y = clouds(120)
    marks = torch.nn.functional.one_hot(y, 4)
    marks[:30, 1] = -1
    together = logistic_regression(x.double(), marks, 1e-2, 500)
    known = marks[:, 1] >= 0
    weight = together[:, 1].clone().requires_grad_()
    wanted = (marks[known, 1] == 1).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(x.double()[known] @ weight[:-1] + weight[-1], wanted)
    (loss + 0.5e-2 * weight[:-1].square().sum()).backward()
    assert weight.grad is not None and weight.grad.abs().max() < 1e-4


@pytest.mark.slow
def test_ten_thousand_features_are_fitted_in_seconds() -> None:
    (x, y), (x_test, y_test) = clouds(10_000, 10, 192, 6.0), clouds(3000, 10, 192, 6.0, "test")
    result = linear(x, y, x_test, y_test)
    assert result["accuracy"] > 0.9
