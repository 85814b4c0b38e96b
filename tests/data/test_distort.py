"""Distortions keep a sample's shape, depend on their key alone, and nothing asked is nothing done."""

import pytest
import torch

from mae_ext.data.distort import OPERATIONS, distort
from mae_ext.rng import rng

SHAPES = [(3, 12, 10), (1, 5, 9, 11), (3, 4, 10, 12)]


def sample(shape, dtype=torch.float32):
    x = torch.randint(0, 256, shape, generator=rng(0, "x", *shape), dtype=torch.uint8)
    return x if dtype == torch.uint8 else (x.float() - 100) * 7


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_nothing_asked_returns_the_sample_itself(dtype):
    x = sample(SHAPES[0], dtype)
    assert distort(x, 0, 0.5, 0.0, rng(0)) is x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_same_key_gives_the_same_bits_and_another_key_others(shape, dtype):
    x = sample(shape, dtype)
    kept = x.clone()
    one, two, other = (distort(x, 2, 0.5, 0.5, rng(seed, "distort")) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == x.shape and one.dtype == torch.float32
    assert torch.equal(x, kept)
    if dtype == torch.uint8:
        assert one.min() >= 0 and one.max() <= 1


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.__name__)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_amount_of_0_changes_nothing(operation, shape):
    x = sample(shape)
    assert torch.allclose(operation(x, 0.0), x, atol=1e-4)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.__name__)
def test_an_operation_means_the_same_in_other_units(operation):
    """Of a sample in units a hundred times as large, the result is a hundred times as large."""
    x = sample((3, 12, 10))
    assert torch.allclose(operation(100 * x, 0.5), 100 * operation(x, 0.5), rtol=1e-4, atol=1.0)


def test_erasing_puts_the_mean_into_a_box():
    x = sample((3, 32, 32))
    erased = distort(x, 0, 0.0, 1.0, rng(0, "erase"))
    changed = erased != x
    share = changed.any(0).float().mean()
    assert 0.01 < share < 0.4
    assert torch.allclose(erased[changed], x.mean())
