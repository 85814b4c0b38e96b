"""The attentive probe finds what a few tokens say, and what the mean of all tokens does not."""

import pytest
import torch
from probing.scored_votes import attentive, linear

from mae_ext.probing.attentive import LEARNING_RATES, AttentiveHead, AttentivePool, Fitting, attentive_votes
from mae_ext.probing.scores import split
from mae_ext.rng import rng

GRID = (4, 6)


def one_token_tells(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 24, 12): the class stands in one marked token at a random place; elsewhere is noise."""
    g = rng(seed, "tokens")
    x, y = torch.randn(n, 24, 12, generator=g), torch.randint(3, (n,), generator=g)
    place = torch.randint(24, (n,), generator=g)
    rows = torch.arange(n)
    x[:, :, 0] = 0.1 * x[:, :, 0]
    x[rows, place, 0] = 4.0
    x[rows, place, 1:4] = 2.0 * torch.eye(3)[y]
    return x.half(), y


@pytest.fixture(scope="module")
def told():
    return one_token_tells(400, 0), one_token_tells(300, 1)


def test_it_reads_one_token_among_many_where_the_mean_says_little(told):
    (x, y), (x_test, y_test) = told
    found = attentive(x, y, x_test, y_test, GRID, epochs=30)
    by_mean = linear(x.float().mean(1), y, x_test.float().mean(1), y_test)
    assert found["accuracy"] > 0.9 > 0.75 > by_mean["accuracy"]
    assert found["accuracy"] == pytest.approx(found["balanced_accuracy"], abs=0.05)


def place_tells(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 24, 12): halves of the grid say opposite things, as of a rotation; the class is which says which."""
    g = rng(seed, "turns")
    x, y = torch.randn(n, *GRID, 12, generator=g), torch.randint(2, (n,), generator=g)
    sign = (2 * y - 1)[:, None, None]
    x[:, :, :3, 1] = 0.5 * x[:, :, :3, 1] - sign
    x[:, :, 3:, 1] = 0.5 * x[:, :, 3:, 1] + sign
    return x.flatten(1, 2).half(), y


def test_it_tells_apart_what_differs_only_in_where_it_is_seen():
    (x, y), (x_test, y_test) = place_tells(300, 0), place_tells(300, 1)
    assert attentive(x, y, x_test, y_test, GRID, epochs=30)["accuracy"] > 0.95
    assert linear(x.float().mean(1), y, x_test.float().mean(1), y_test)["accuracy"] < 0.6


def test_the_same_seed_gives_the_same_scores_and_the_test_set_teaches_nothing(told):
    (x, y), (x_test, y_test) = told
    first = attentive(x, y, x_test, y_test, GRID, epochs=3)
    torch.manual_seed(7)
    assert attentive(x, y, x_test, y_test, GRID, epochs=3) == first
    other = attentive(x, y, x_test[:50], y_test[:50], GRID, epochs=3)
    assert {k: other[k] for k in ("lr", "train_accuracy", "held_out_accuracy")} == {
        k: first[k] for k in ("lr", "train_accuracy", "held_out_accuracy")
    }


def test_without_anything_to_learn_it_stays_near_chance():
    g = rng(0, "noise")
    x, y = torch.randn(400, 8, 12, generator=g), torch.randint(4, (400,), generator=g)
    assert attentive(x[:200], y[:200], x[200:], y[200:], (8,), epochs=10)["accuracy"] < 0.35


def test_place_is_of_the_tokens_own_size_and_of_one_token_there_is_none():
    assert AttentivePool(12, GRID, rng(0, "pool")).place.square().mean() == pytest.approx(1.0)
    assert not AttentivePool(12, (1, 1), rng(0, "pool")).place.any()


def test_the_scale_of_features_is_taken_out():
    (a, y), (b, z) = one_token_tells(120, 0), one_token_tells(60, 1)
    plain = attentive(a, y, b, z, GRID, epochs=3)
    assert attentive(a.float() * 1000 + 50, y, b.float() * 1000 + 50, z, GRID, epochs=3)["accuracy"] == pytest.approx(
        plain["accuracy"], abs=0.05
    )


@pytest.mark.parametrize("by_patient", [False, True])
def test_the_rate_is_the_best_on_held_out_tenths_and_then_all_of_train_is_fitted(by_patient):
    (x, y), (x_test, _) = one_token_tells(60, 0), one_token_tells(9, 1)
    groups = torch.arange(60) // 3 if by_patient else None
    votes, found = attentive_votes(x, y, x_test, GRID, epochs=4, seed=2, groups=groups)
    fitting, flat = Fitting(x, y, GRID, 4, 2), x.flatten(0, 1).double()
    torch.testing.assert_close(fitting.mean, flat.mean(0).float())
    torch.testing.assert_close(fitting.scale, (1 / flat.std(0, correction=0)).float())
    held_out = dict.fromkeys(LEARNING_RATES, 0.0)
    for draw in range(5):
        fit, held = split(y, 2, draw, groups)
        for lr in LEARNING_RATES:
            guessed = fitting.votes(fitting.head(fit, lr), x[held]).argmax(1)
            held_out[lr] += float((guessed == y[held]).double().mean()) / 5
    assert found["held_out_accuracy"] == pytest.approx({f"{lr:g}": v for lr, v in held_out.items()}, abs=1e-6)
    assert held_out[found["lr"]] == pytest.approx(max(held_out.values())) and len(set(held_out.values())) > 1
    head = fitting.head(torch.arange(60), found["lr"])
    assert torch.allclose(votes, fitting.votes(head, x_test), atol=1e-6)


def test_it_is_fitted_by_adamw_in_batches_of_64_in_an_order_of_each_epoch_under_half_a_cosine():
    """By hand; of 100 samples 80 are learned from, in two batches, of which the second is short."""
    x, y = one_token_tells(100, 0)
    rows, mean, scale = torch.arange(0, 100).roll(7)[:80], torch.full((12,), 0.2), torch.full((12,), 1.5)
    fitting = Fitting(x, y, GRID, epochs=4, seed=5)
    fitting.mean, fitting.scale = mean, scale
    found = fitting.head(rows, 3e-3)
    head = AttentiveHead(12, GRID, 3, rng(5, "attentive"))
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.1)
    for epoch, share in enumerate((1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2)):
        optimizer.param_groups[0]["lr"] = 3e-3 * share
        order = rows[torch.randperm(80, generator=rng(5, "attentive", epoch))]
        for part in (order[:64], order[64:]):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head((x[part].float() - mean) * scale), y[part]).backward()
            optimizer.step()
    for name, wanted in head.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], wanted)
