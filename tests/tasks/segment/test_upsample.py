"""The light head: where a token's answer lies, what it sees, and that it needs nothing of a sample's company."""

import pytest
import torch

from mae_ext.errors import ConfigError
from mae_ext.tasks.segment.upsample import UpsampleHead

SHAPES = [((6,), (4,)), ((3, 5), (2, 3)), ((16, 4), (2, 2)), ((2, 7, 12), (2, 1, 2))]
"""patch, grid"""


def made(patch, grid, layers=1, features=3):
    """A head, what it is given, and the voxels of a sample."""
    torch.manual_seed(0)
    head, size = UpsampleHead(6, patch, 2, 4, features, layers), [g * p for g, p in zip(grid, patch, strict=True)]
    tokens = [torch.randn(2, torch.Size(grid).numel(), 6) for _ in range(layers)]
    return head, tokens, torch.randn(2, 2, *size)


def joined(head, tokens, grid, x):
    """(B, 2 features, *S): what the convolutions that join tokens and input are given."""
    seen = []
    with head.join.register_forward_pre_hook(lambda _, args: seen.append(args[0])), torch.no_grad():
        head(tokens, grid, x)
    return seen[0]


@pytest.mark.parametrize(("patch", "grid"), SHAPES, ids=str)
@pytest.mark.parametrize("layers", [1, 3])
def test_every_voxel_is_answered_whatever_the_patch_and_the_axes_and_every_weight_learns(patch, grid, layers):
    head, tokens, x = made(patch, grid, layers)
    out = head(tokens, grid, x)
    assert out.shape == (2, 4, *x.shape[2:]) and out.dtype == torch.float32
    out.square().sum().backward()
    assert all(bool(p.grad.abs().sum() > 0) for p in head.parameters())


@pytest.mark.parametrize(("patch", "grid"), SHAPES, ids=str)
def test_a_token_speaks_of_its_own_patch_alone_before_the_convolutions(patch, grid):
    head, (tokens,), x = made(patch, grid)
    before, number = joined(head, [tokens], grid, x), len(tokens[0]) - 1
    changed = tokens.clone()
    changed[:, number] += torch.randn(6)
    moved = (joined(head, [changed], grid, x) != before).flatten(0, 1).any(0)
    own = torch.zeros(x.shape[2:], dtype=torch.bool)
    own[tuple(slice(-p, None) for p in patch)] = True  # of the last token of a grid in row-major order
    assert torch.equal(moved, own)


def test_a_place_of_a_large_patch_is_repeated_and_of_a_small_one_is_not():
    head, tokens, x = made((16, 4), (2, 2))
    said = joined(head, tokens, (2, 2), x)[:, :3]
    assert head.places == (8, 4) and torch.equal(said[:, :, ::2], said[:, :, 1::2])
    assert not torch.equal(said[..., ::2], said[..., 1::2])
    assert UpsampleHead(6, (14, 7), 1, 2).places == (7, 7) and UpsampleHead(6, (11, 1), 1, 2).places == (1, 1)


@torch.no_grad()
def test_an_answer_does_not_depend_on_the_other_samples_of_a_batch():
    head, tokens, x = made((3, 5), (2, 3))
    both = head(tokens, (2, 3), x)
    alone = [head([tokens[0][i : i + 1]], (2, 3), x[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-6, rtol=0)


def test_axes_without_a_convolution_are_refused_with_what_to_use_instead():
    with pytest.raises(ConfigError, match=r"upsample takes 1 to 3 axes, not the 4 of \[2, 2, 2, 2\]; use linear"):
        UpsampleHead(6, (2, 2, 2, 2), 1, 2)
