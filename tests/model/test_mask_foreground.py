"""The foreground masker: exact counts in the body and outside of it, whatever part of the grid the body is."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.model.mask import draw_mask, from_scores
from mae_ext.model.maskers import ForegroundMasker
from mae_ext.rng import rng


def hidden_of(masker, grid, valid, seed=0):
    mask = from_scores(masker.scores(grid, rng(seed, "mask"), valid)[None], masker.num_keep(grid))
    hidden = torch.zeros(prod(grid), dtype=torch.bool)
    hidden[mask.pred[0]] = True
    return hidden.view(grid)


@settings(max_examples=100, deadline=None)
@given(
    grid=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple).filter(lambda g: prod(g) >= 8),
    share=st.floats(0, 1, allow_subnormal=False),
    ratio=st.floats(0, 0.85, allow_subnormal=False),
    seed=st.integers(0, 1000),
)
def test_the_hidden_share_of_the_body_is_the_ratio_to_within_half_a_token(grid, share, ratio, seed):
    valid = (torch.rand(grid, generator=rng(seed, "body")) < share).float()
    masker = ForegroundMasker(ratio)
    hidden = hidden_of(masker, grid, valid, seed)
    body = valid > 0
    assert int(hidden.sum()) == prod(grid) - masker.num_keep(grid)
    # One token more at most, where the total's own rounding leaves no other place.
    assert abs(int(hidden[body].sum()) - ratio * int(body.sum())) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_small_body_is_neither_hidden_whole_nor_left_in_sight(seed):
    valid = torch.zeros(6, 6, 6)
    valid[2:4, 2:4, 2] = 0.3
    assert int(hidden_of(ForegroundMasker(0.75), (6, 6, 6), valid, seed)[valid > 0].sum()) == 3


def test_every_token_of_the_body_is_hidden_equally_often():
    valid = torch.zeros(5, 8)
    valid[:, 3:] = 1
    often = sum(hidden_of(ForegroundMasker(0.6), (5, 8), valid, s).float() for s in range(1000)) / 1000
    assert (often - 0.6).abs().max() < 0.07


def test_as_a_decode_masker_it_has_the_body_answered_first():
    grid, masker = (4, 6, 8), ForegroundMasker(0.75)
    valid = torch.zeros(grid)
    valid[:2] = 1
    decode = ForegroundMasker(0.6, body_ratio=0)
    mask = draw_mask(masker, decode, grid, [rng(0)], [valid], [rng(1)])
    hidden_body = 72  # three quarters of the 96 tokens of the body; 0.4 of 144 hidden tokens, 57, are answered
    assert mask.pred.shape[1] == 57 < hidden_body
    assert (valid.flatten()[mask.pred] == 1).all()


def test_tokens_with_too_little_of_the_body_are_not_body():
    valid = torch.full((4, 4), 0.2)
    valid[0] = 0.9
    masker = ForegroundMasker(0.5, min_share=0.5)
    # Were all 16 tokens body, chance would hide 2 of these 4 in four of ten draws.
    assert [int(hidden_of(masker, (4, 4), valid, seed)[0].sum()) for seed in range(20)] == [2] * 20


def test_without_valid_it_is_the_random_masker():
    masker = ForegroundMasker(0.75)
    assert torch.equal(masker.scores((4, 5), rng(3)), torch.rand((4, 5), generator=rng(3)))


@pytest.mark.parametrize("arguments", [{"body_ratio": 1.5}, {"min_share": -0.1}, {"body_ratio": float("nan")}])
def test_shares_that_are_none_are_refused_by_name(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        ForegroundMasker(0.75, **arguments)
