"""Jitter of views: the right colours and intensities, one draw for a whole clip, 8 bits in and out."""

import numpy as np
import pytest
import torch

from mae_ext.data.change.jitter import LUMA, _colours, _intensities, jitter
from mae_ext.data.sample import Sample
from mae_ext.rng import rng


def photo(*shape):
    return Sample(torch.randint(0, 256, (3, *(shape or (16, 12))), dtype=torch.uint8, generator=rng(0, "x")), "a.png")


def changed(sample, seed=0, operations=4, strength=0.4, grey=0.0):
    return jitter(sample, operations, strength, grey, rng(seed, "distort"))


def coloured(x, *steps, grey=False):
    matrix, offset = _colours(x, list(steps), grey)
    return matrix @ x.double().numpy() + offset[:, None]


RED_AND_GREY = torch.tensor([[200.0, 100.0], [0.0, 100.0], [0.0, 100.0]])
"""Two pixels; their light is 59.8 and 100, and 79.9 in the mean."""


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ((0, 0.5), [[300, 150], [0, 150], [0, 150]]),  # brightness
        ((1, -0.5), [[139.95, 89.95], [39.95, 89.95], [39.95, 89.95]]),  # contrast
        ((2, -0.5), [[129.9, 100], [29.9, 100], [29.9, 100]]),  # saturation
    ],
)
def test_an_amount_of_a_half_does_what_it_says_to_two_colours(step, expected):
    np.testing.assert_allclose(coloured(RED_AND_GREY, step), expected, atol=1e-9)


def test_hue_turns_red_toward_green_or_blue_and_leaves_the_light_and_greys():
    greener, bluer = coloured(RED_AND_GREY, (3, 1.0)), coloured(RED_AND_GREY, (3, -1.0))
    assert (greener[1, 0] - greener[2, 0]) * (bluer[1, 0] - bluer[2, 0]) < 0
    for turned in (greener, bluer):
        np.testing.assert_allclose(LUMA @ turned, [59.8, 100.0], atol=0.2)
        np.testing.assert_allclose(turned[:, 1], 100.0, atol=0.2)
    np.testing.assert_allclose(coloured(RED_AND_GREY, *[(3, 1.0)] * 4), RED_AND_GREY, atol=1e-6)  # a whole turn


def test_what_comes_later_works_on_what_came_before():
    one_by_one = torch.from_numpy(coloured(torch.from_numpy(coloured(RED_AND_GREY, (0, 0.3))), (1, 0.4)))
    np.testing.assert_allclose(coloured(RED_AND_GREY, (0, 0.3), (1, 0.4)), one_by_one, atol=1e-5)


def test_without_a_strength_or_an_operation_a_photo_is_as_it_was():
    assert torch.equal(changed(photo(), strength=0.0).x, photo().x)
    assert torch.equal(changed(photo(), operations=0).x, photo().x)


def test_grey_is_the_light_in_all_channels_as_often_as_it_says():
    one = changed(photo(), operations=0, grey=1.0).x
    assert torch.equal(one[0], one[1]) and torch.equal(one[1], one[2])
    expected = (torch.tensor(LUMA).view(3, 1, 1) * photo().x).sum(0)
    assert (one[0] - expected).abs().max() <= 0.5 + 1e-4
    often = sum(torch.equal(x[0], x[1]) for x in (changed(photo(), seed, grey=0.2).x for seed in range(400)))
    assert 40 < often < 120  # five standard deviations


@pytest.mark.parametrize("shape", [(16, 12), (4, 8, 6)])
def test_the_same_key_gives_the_same_bytes_and_another_key_others(shape):
    sample = photo(*shape)
    one, two, other = (changed(sample, seed).x for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.dtype == torch.uint8 and one.shape == sample.x.shape
    assert torch.equal(sample.x, photo(*shape).x)


def test_all_frames_of_a_clip_are_changed_alike():
    frame = photo().x
    clip = changed(Sample(frame[:, None].expand(-1, 5, -1, -1), "a.mp4")).x
    assert all(torch.equal(clip[:, 0], clip[:, t]) for t in range(5)) and not torch.equal(clip[:, 0], frame)


def test_fewer_operations_are_drawn_from_all():
    alone = {seed: changed(photo(), seed, operations=1, strength=1.0).x for seed in range(30)}
    kept_grey = [seed for seed, x in alone.items() if torch.equal(x, photo().x)]
    assert len({x.numpy().tobytes() for x in alone.values()}) == 30 and not kept_grey


def scan(valid=None):
    return Sample(
        torch.randn(2, 6, 8, 8, generator=rng(0, "scan")) * torch.tensor([1.0, 50.0]).view(2, 1, 1, 1), "a", valid
    )


def test_a_scan_is_scaled_about_its_mean_and_shifted_by_its_deviation_channel_by_channel():
    x = scan().x.flatten(1)
    factor, offset = _intensities(x, None, [(0, 0.5)])
    np.testing.assert_allclose(factor, [1.5, 1.5])
    np.testing.assert_allclose(offset, -0.5 * x.mean(1), rtol=1e-4, atol=1e-6)
    factor, offset = _intensities(x, None, [(0, 0.5), (1, -0.2)])
    np.testing.assert_allclose(offset, -0.5 * x.mean(1) - 0.3 * x.std(1, correction=0), rtol=1e-4)
    one = changed(scan(), operations=2)
    assert one.x.dtype == torch.float32 and one.x.shape == scan().x.shape and not torch.equal(one.x, scan().x)


def test_what_pads_a_scan_has_no_part_in_its_mean():
    valid = torch.ones(1, 6, 8, 8, dtype=torch.bool)
    valid[:, 3:] = False
    padded = scan(valid)
    padded.x[:, 3:] = 1e6
    half = Sample(padded.x[:, :3], "a")
    torch.testing.assert_close(changed(padded).x[:, :3], changed(half).x, rtol=1e-4, atol=1e-4)
    assert changed(scan(torch.zeros(1, 6, 8, 8, dtype=torch.bool))).x.isfinite().all()


def test_a_grey_photo_stays_grey_in_8_bits_and_is_brighter_or_flatter():
    grey = Sample(photo().x[:1], "a.png")
    one = changed(grey, seed=3)
    assert one.x.dtype == torch.uint8 and one.x.shape == grey.x.shape and not torch.equal(one.x, grey.x)
