"""Features of pool "moments": what they are made of, and what they do not depend on."""

import pytest
import torch

from mae_ext.model.moments import last_blocks, moments
from mae_ext.rng import rng


def drawn(*shape, key="tokens"):
    return torch.randn(*shape, generator=rng(0, key))


def test_means_and_deviations_of_normed_tokens_are_side_by_side_block_by_block():
    one, other = drawn(2, 6, 8), drawn(2, 6, 8, key="others")
    features = moments([one, other])
    assert features.shape == (2, 2 * 2 * 8)
    for tokens, part in zip((one, other), features.split(16, dim=1), strict=True):
        normed = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        assert torch.allclose(part[:, :8], normed.mean(1), atol=1e-5)
        assert torch.allclose(part[:, 8:], (normed.square().mean(1) - normed.mean(1).square()).sqrt(), atol=1e-3)


def test_the_order_of_patches_and_the_size_of_tokens_change_nothing():
    tokens = drawn(3, 9, 16)
    for same in (tokens.flip(1), 7 * tokens + 3):
        assert torch.allclose(moments([same]), moments([tokens]), atol=1e-4)


def test_one_token_spreads_nowhere():
    assert (moments([drawn(2, 1, 8)])[:, 8:] == 0).all()


@pytest.mark.parametrize(("depth", "blocks"), [(12, [9, 10, 11, 12]), (4, [1, 2, 3, 4]), (2, [1, 2])])
def test_the_last_four_blocks_are_taken_or_all_where_there_are_fewer(depth, blocks):
    assert [*last_blocks(depth)] == blocks
