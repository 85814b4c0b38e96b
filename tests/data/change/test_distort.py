"""Distortions keep a sample's shape, depend on their key alone, and nothing asked is nothing done."""

import pytest
import torch

from mae_ext.data.change.distort import OPERATIONS, VALUES, brightness, distort, shift_down, shift_right, smooth
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


LEVELS = torch.arange(24.0).view(2, 3, 4)
"""Mean 11.5, standard deviation 50 ** 0.5; the rows differ by 4, the columns by 1, the channels by 12."""
SPREAD = 50**0.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("brightness", LEVELS + 0.45 * SPREAD),
        ("contrast", 11.5 + (LEVELS - 11.5) * 1.45),
        ("saturation", torch.stack([LEVELS[0] - 0.45 * 6, LEVELS[1] + 0.45 * 6])),  # 6 from the mean of the channels
        ("balance", torch.stack([LEVELS[0] - 0.25 * SPREAD, LEVELS[1] + 0.25 * SPREAD])),
    ],
)
def test_an_amount_of_a_half_does_what_it_says(name, expected):
    (operation,) = (o for o in OPERATIONS if o.__name__ == name)
    torch.testing.assert_close(operation(LEVELS, 0.5), expected)


def test_smoothing_goes_to_the_mean_of_five_neighbours_and_away_from_it_sharpens():
    point, cross = torch.zeros(1, 7, 9), torch.zeros(1, 7, 9)
    point[0, 3, 4] = 10.0
    cross[0, 3, 3:6] = cross[0, 2:5, 4] = 2.0
    torch.testing.assert_close(smooth(point, 1.0), cross)
    torch.testing.assert_close(smooth(point, 0.5), (point + cross) / 2)
    torch.testing.assert_close(smooth(point, -0.5), 1.5 * point - cross / 2)


def test_a_shift_moves_by_three_tenths_at_most_and_what_enters_is_the_mean():
    x = torch.arange(200.0).view(1, 10, 20)
    down, up, right, left = shift_down(x, 1.0), shift_down(x, -0.7), shift_right(x, 0.5), shift_right(x, -1.0)
    assert torch.equal(down[:, 3:], x[:, :-3]) and torch.equal(up[:, :-2], x[:, 2:])
    assert torch.equal(right[..., 3:], x[..., :-3]) and torch.equal(left[..., :-6], x[..., 6:])
    for entered in (down[:, :3], up[:, -2:], right[..., :3], left[..., -6:]):
        assert (entered == 99.5).all()


def seen(strength, operations=1, count=300, among=OPERATIONS):
    """What was asked of which operation, over many keys."""
    asked = []

    def noted(operation):
        return lambda x, amount: (asked.append((operation.__name__, amount)), operation(x, amount))[1]

    for key in range(count):
        distort(LEVELS, operations, strength, 0.0, rng(key), tuple(map(noted, among)))
    return asked


def test_every_operation_is_drawn_alike_in_both_directions_with_the_strength_asked_for():
    asked = seen(0.3, operations=2)
    assert len(asked) == 600 and {abs(amount) for _, amount in asked} == {0.3}
    assert 240 < sum(amount > 0 for _, amount in asked) < 360
    counts = [sum(name == o.__name__ for name, _ in asked) for o in OPERATIONS]
    assert min(counts) > 50 and max(counts) < 130
    assert {name for name, _ in seen(0.5, among=VALUES)} == {o.__name__ for o in VALUES}


def test_operations_on_values_leave_everything_where_it_is():
    """Of a sample that is the same along an axis, so is what they make of it: else boxes and labels would be wrong."""
    x = torch.arange(5.0).view(1, 5, 1).expand(1, 5, 8)
    for operation in VALUES:
        found = operation(x, 0.5)
        torch.testing.assert_close(found, found[..., :1].expand(1, 5, 8))
        assert bool((found.diff(dim=1)[:, 1:-1] > 0).all())
    assert {o.__name__ for o in OPERATIONS} - {o.__name__ for o in VALUES} == {"shift_down", "shift_right"}


def test_erasing_happens_as_often_as_asked_and_its_boxes_have_the_papers_areas_and_aspects():
    x = sample((1, 60, 60))
    boxes = []
    for key in range(400):
        changed = distort(x, 0, 0.0, 0.5, rng(key, "erase"))[0] != x[0]
        if changed.any():
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            boxes.append((int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1))
    assert 160 < len(boxes) < 240
    areas, aspects = (torch.tensor(v) for v in zip(*((h * w / 3600, h / w) for h, w in boxes), strict=True))
    assert areas.min() < 0.05 and 0.28 < areas.max() < 0.36 and 0.13 < areas.mean() < 0.22
    assert 0.25 < aspects.min() < 0.5 and 2 < aspects.max() < 4 and abs(aspects.log().mean()) < 0.2


def test_bytes_stay_between_0_and_1_after_every_operation():
    x = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 6, 6)
    found = torch.cat([distort(x, 1, 1.0, 0.0, rng(key), (brightness,)) for key in range(8)])
    assert found.min() == 0 and found.max() == 1 and len(found.unique()) > 2
