"""Patches of another size, with other channels, of other axes: what a token says of the same picture stays the same."""

from functools import lru_cache
from math import prod

import pytest
import torch
from interop.fitted_models import config_of

from mae_ext.interop.patches import bilinear, embedding, prediction, seeing
from mae_ext.modality_config import ModalityConfig
from mae_ext.model.grid import patchify, unpatchify

CHANNELS = ("mean", "repeat", "first")


def modality(patch, channels):
    return ModalityConfig(size=[4 * extent for extent in patch], patch=patch, channels=channels, batch=1)


@lru_cache
def some_config():
    return config_of(x={"size": [8, 8], "patch": [4, 4]})


def pair(theirs, ours, **init):
    config = some_config().model_copy(update={f"init_{key}": value for key, value in init.items()})
    return modality(*theirs), modality(*ours), config


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def tokens(x, weight, patch):
    """What `PatchEmbed` says, without its bias."""
    return patchify(x, patch) @ weight.T


def embedded(theirs, ours, **init):
    """-> (weights of theirs, those of ours, how)."""
    count = prod(theirs[0]) * theirs[1]
    weight = numbers(10, count) / count**0.5  # tokens of about 1
    return weight, *embedding(weight, *pair(theirs, ours, **init))


@pytest.mark.parametrize("how", ["centre", "mean"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_volume_of_equal_slices_has_the_tokens_of_one_slice(how, depth):
    weight, ours, said = embedded(((3, 5), 2), ((depth, 3, 5), 2), inflate=how)
    image = numbers(2, 2, 6, 10)
    volume = image[:, :, None].expand(-1, -1, 3 * depth, -1, -1)
    wanted = tokens(image, weight, (3, 5))
    for layer in tokens(volume, ours, (depth, 3, 5)).unflatten(1, (3, 4)).unbind(1):
        torch.testing.assert_close(layer, wanted, atol=1e-6, rtol=1e-6)
    assert said == f"inflated along axis 0, {how}"


def test_the_centre_of_an_even_patch_is_the_plane_after_the_middle():
    weight, ours, _ = embedded(((3, 5), 1), ((4, 3, 5), 1), inflate="centre")
    planes = ours.unflatten(1, (4, 15))
    assert torch.equal(planes[:, 2], weight) and (planes[:, [0, 1, 3]] == 0).all()
    shares = embedded(((3, 5), 1), ((4, 3, 5), 1), inflate="mean")[1].unflatten(1, (4, 15))
    torch.testing.assert_close(shares, weight[:, None].expand(-1, 4, -1) / 4)


@pytest.mark.parametrize("how", ["centre", "mean"])
def test_inflated_weights_that_are_summed_again_are_what_they_were(how):
    weight, ours, _ = embedded(((3, 5), 2), ((2, 4, 3, 5), 2), inflate=how)
    back, said = embedding(ours, *pair(((2, 4, 3, 5), 2), ((3, 5), 2)))
    torch.testing.assert_close(back, weight, atol=1e-6, rtol=0)
    assert said == "summed over axis 0, 1"


def test_a_clip_of_equal_frames_has_the_tokens_of_its_frame_by_the_summed_weights():
    weight, ours, said = embedded(((2, 3, 5), 3), ((3, 5), 3))
    image = numbers(2, 3, 6, 10)
    wanted = tokens(image[:, :, None].expand(-1, -1, 2, -1, -1), weight, (2, 3, 5))
    torch.testing.assert_close(tokens(image, ours, (3, 5)), wanted, atol=1e-6, rtol=1e-6)
    assert said == "summed over axis 0"


@pytest.mark.parametrize("how", CHANNELS)
@pytest.mark.parametrize(("have", "want"), [(3, 1), (1, 3), (3, 4), (4, 3), (2, 6), (6, 2), (5, 3)])
def test_an_input_of_equal_channels_has_the_same_tokens(how, have, want):
    weight, ours, said = embedded(((3, 5), have), ((3, 5), want), channels=how)
    grey = numbers(2, 1, 6, 10)
    one, other = (tokens(grey.expand(-1, c, -1, -1), w, (3, 5)) for c, w in ((have, weight), (want, ours)))
    torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)
    assert said == f"{'1 channel' if have == 1 else f'{have} channels'} -> {want}, {how}"


def test_which_channel_has_what_of_theirs():
    red, green, blue = embedded(((3, 5), 3), ((3, 5), 1))[0].unflatten(1, (15, 3)).unbind(-1)

    def ours(how, channels):
        return embedded(((3, 5), 3), ((3, 5), channels), channels=how)[1].unflatten(1, (15, channels)).unbind(-1)

    def is_near(some, wanted):
        torch.testing.assert_close(torch.stack(some), torch.stack(wanted))

    none = torch.zeros_like(red)
    is_near(ours("mean", 2), [(red + green + blue) / 2] * 2)
    is_near(ours("repeat", 4), [red / 2, green, blue, red / 2])
    is_near(ours("repeat", 2), [red + blue, green])
    is_near(ours("first", 5), [red, green, blue, none, none])
    is_near(ours("first", 2), [red + blue / 2, green + blue / 2])


@pytest.mark.parametrize("extents", [(14, 16), (8, 16), (4, 16), (16, 40), (1, 2), (7, 9)], ids=str)
def test_a_resize_to_more_pixels_and_back_is_the_identity(extents):
    few, many = extents
    back = seeing(many, few) @ seeing(few, many)
    torch.testing.assert_close(back, torch.eye(few, dtype=torch.float64), atol=1e-5, rtol=0)


def test_weights_of_a_larger_patch_and_back_are_what_they_were():
    weight, ours, said = embedded(((4, 8, 6), 2), ((6, 16, 7), 2))
    back, _ = embedding(ours, *pair(((6, 16, 7), 2), ((4, 8, 6), 2)))
    torch.testing.assert_close(back, weight, atol=1e-5, rtol=0)
    assert said == "patch 4x8x6 -> 6x16x7, pseudo-inverse"


def test_resizing_axis_by_axis_is_flexivits_pseudo_inverse_of_the_whole_patch():
    """(B^T)^+ of B, which resizes pictures: here PyTorch's, of every picture of one pixel, two axes at once."""
    weight, ours, _ = embedded(((4, 3), 1), ((7, 5), 1))
    pixels = torch.eye(12).view(12, 1, 4, 3)
    resize = torch.nn.functional.interpolate(pixels, (7, 5), mode="bilinear", align_corners=False).flatten(1).T
    torch.testing.assert_close(ours, weight @ torch.linalg.pinv(resize.T).T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("extents", [(8, 16), (16, 8), (16, 14), (14, 16), (16, 4)], ids=str)
def test_an_enlarged_picture_has_the_same_tokens_both_ways(extents):
    have, want = extents
    weight, ours, _ = embedded(((have, have), 3), ((want, want), 3))
    few, many = sorted(extents)
    small = numbers(2, 3, few, few)
    large = torch.nn.functional.interpolate(small, (many, many), mode="bilinear", align_corners=False)
    by = {few: small, many: large}
    one, other = (tokens(by[edge], w, (edge, edge)) for edge, w in ((have, weight), (want, ours)))
    torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def test_all_changes_at_once_keep_the_token_of_an_even_grey():
    weight, ours, said = embedded(((8, 6), 3), ((2, 4, 9), 1), channels="mean", inflate="centre")
    one = tokens(torch.full((1, 3, 8, 6), 0.7), weight, (8, 6))
    torch.testing.assert_close(tokens(torch.full((1, 1, 2, 4, 9), 0.7), ours, (2, 4, 9)), one, atol=1e-5, rtol=1e-5)
    assert said == "patch 8x6 -> 4x9, pseudo-inverse; inflated along axis 0, centre; 3 channels -> 1, mean"


def drawing(theirs, ours, **init):
    """-> (a map onto the pixels of theirs, that of ours, how): bias and weight."""
    count = prod(theirs[0]) * theirs[1]
    weight, bias = numbers(count, 10), numbers(count, 1)[:, 0]
    made = [prediction(rows, *pair(theirs, ours, **init)) for rows in (weight, bias)]
    assert made[0][1] == made[1][1]
    return (weight, bias), [rows for rows, _ in made], made[0][1]


@pytest.mark.parametrize("how", CHANNELS)
@pytest.mark.parametrize("ours", [((4, 6), 3), ((8, 6), 1), ((2, 16, 3), 2), ((6,), 3), ((5, 9), 2)], ids=str)
def test_a_flat_grey_prediction_stays_flat_grey(how, ours):
    rows, _ = prediction(torch.full((8 * 6 * 3, 4), 0.3), *pair(((8, 6), 3), ours, channels=how))
    torch.testing.assert_close(rows, torch.full((prod(ours[0]) * ours[1], 4), 0.3))


def test_a_prediction_is_the_picture_that_was_predicted_resized():
    (weight, bias), (rows, shift), said = drawing(((4, 3), 2), ((8, 5), 2))
    answer = numbers(1, 10)
    one, other = answer @ weight.T + bias, answer @ rows.T + shift
    picture = unpatchify(one[None], (1, 1), (4, 3))
    wanted = torch.nn.functional.interpolate(picture, (8, 5), mode="bilinear", align_corners=False)
    torch.testing.assert_close(unpatchify(other[None], (1, 1), (8, 5)), wanted, atol=1e-5, rtol=0)
    assert said == "patch 4x3 -> 8x5, bilinear"


def test_a_prediction_is_repeated_along_a_new_axis_and_the_mean_over_one_that_goes():
    (weight, bias), (rows, shift), said = drawing(((4, 3), 2), ((3, 4, 3), 2))
    assert torch.equal(rows, weight.repeat(3, 1)) and torch.equal(shift, bias.repeat(3))
    assert said == "repeated along axis 0"
    (weight, bias), (rows, shift), said = drawing(((2, 4, 3), 2), ((4, 3), 2))
    torch.testing.assert_close(rows, weight.unflatten(0, (2, 24)).mean(0))
    torch.testing.assert_close(shift, bias.unflatten(0, (2, 24)).mean(0))
    assert said == "mean over axis 0"


def test_channels_of_a_prediction_are_means_of_theirs():
    first = {how: drawing(((2, 2), 3), ((2, 2), 4), channels=how)[1][0].unflatten(0, (4, 4)) for how in CHANNELS}
    red, green, blue = numbers(12, 10).unflatten(0, (4, 3)).unbind(1)
    for how, wanted in {
        "mean": [(red + green + blue) / 3] * 4,
        "repeat": [red, green, blue, red],
        "first": [red, green, blue, 0 * red],
    }.items():
        torch.testing.assert_close(first[how], torch.stack(wanted, 1))


def test_rows_of_a_resize_sum_to_one_and_are_pytorchs():
    line = numbers(1, 2, 7)
    for want in (3, 7, 16):
        for antialias in (False, True):
            matrix = bilinear(7, want, antialias)
            torch.testing.assert_close(matrix.sum(1), torch.ones(want, dtype=torch.float64))
            picture = torch.nn.functional.interpolate(
                line[..., None].expand(-1, -1, -1, 3), (want, 3), mode="bilinear", antialias=antialias
            )
            torch.testing.assert_close((line.double() @ matrix.T).float(), picture[..., 0])
