""" "norm-pix" is three different losses in published code: each against its formula, written out with loops."""

import numpy as np
import pytest
import torch

from mae_ext.model.target import PixelTarget

PATCH, CHANNELS = (2, 3), 4
PIX = 24


def tokens(scale=1.0):
    return torch.randn(2, 5, PIX, generator=torch.Generator().manual_seed(0)) * scale + 0.5


def by_hand(values, normalize):
    out = np.empty_like(values)
    for b, i in np.ndindex(values.shape[:2]):
        patch = values[b, i].reshape(-1, CHANNELS)  # channels are the fastest axis
        if normalize == "mae":
            out[b, i] = ((patch - patch.mean()) / (patch.var(ddof=1) + 1e-6) ** 0.5).ravel()
        elif normalize == "layernorm":
            out[b, i] = ((patch - patch.mean()) / (patch.var() + 1e-6) ** 0.5).ravel()
        elif normalize == "channel":
            out[b, i] = ((patch - patch.mean(0)) / (patch.std(0, ddof=1) + 1e-6)).ravel()
        else:
            out[b, i] = patch.ravel()
    return out


@pytest.mark.parametrize("normalize", ["none", "mae", "channel", "layernorm"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_each_normalisation_is_its_published_formula(normalize, scale):
    x = tokens(scale)
    ours = PixelTarget(PATCH, CHANNELS, normalize)(x)
    expected = by_hand(x.double().numpy(), normalize)
    assert np.abs(ours.numpy() - expected).max() < (1e-5 if scale == 1 else 2e-3)


def test_the_three_really_differ():
    x = tokens(1e-3)
    a, b, c = (PixelTarget(PATCH, CHANNELS, n)(x) for n in ("mae", "channel", "layernorm"))
    assert min((a - b).abs().max(), (a - c).abs().max(), (b - c).abs().max()) > 1e-3


def test_layernorm_is_torchs_layer_norm():
    x = tokens()
    ours = PixelTarget(PATCH, CHANNELS, "layernorm")(x)
    assert torch.allclose(ours, torch.nn.functional.layer_norm(x, (PIX,), eps=1e-6), atol=1e-5)


@pytest.mark.parametrize("normalize", ["none", "mae", "channel", "layernorm"])
def test_statistics_take_a_target_back_to_its_pixels(normalize):
    x, target = tokens(), PixelTarget(PATCH, CHANNELS, normalize)
    mean, divisor = target.statistics(x)
    assert mean.shape == divisor.shape == (2, 5, CHANNELS if normalize == "channel" else 1)
    assert torch.allclose(target(x) * target.spread(divisor) + target.spread(mean), x, atol=1e-5)


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_brightness_and_contrast_of_a_patch_are_no_target(normalize):
    x, target = tokens(), PixelTarget(PATCH, CHANNELS, normalize)
    assert torch.allclose(target(x), target(7 * x - 3), atol=1e-4)


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_an_empty_patch_gives_zeros_and_no_infinity(normalize):
    assert (PixelTarget(PATCH, CHANNELS, normalize)(torch.full((1, 1, PIX), 3.0)) == 0).all()


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_noise_below_the_floor_is_not_blown_up_and_contrast_above_it_is_untouched(normalize):
    plain, floored = PixelTarget(PATCH, CHANNELS, normalize), PixelTarget(PATCH, CHANNELS, normalize, floor=0.1)
    air, body = tokens(1e-3), tokens(1.0)
    assert plain(air).std() > 0.6
    mean = plain.spread(plain.statistics(air)[0])
    assert torch.allclose(floored(air), (air - mean) / 0.1, rtol=1e-3, atol=1e-5)
    assert torch.equal(plain(body), floored(body))


def test_errors_are_squares_or_absolute_values_not_yet_averaged():
    wanted, predicted = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[3.0, 1.0]]])
    assert PixelTarget((1, 2), 1).error(predicted, wanted).tolist() == [[[4.0, 9.0]]]
    assert PixelTarget((1, 2), 1, loss="l1").error(predicted, wanted).tolist() == [[[2.0, 3.0]]]


@pytest.mark.parametrize("arguments", [{"normalize": "pix"}, {"loss": "huber"}, {"floor": -1}, {"floor": float("nan")}])
def test_arguments_without_meaning_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        PixelTarget(PATCH, CHANNELS, **arguments)


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_of_a_patch_that_counts_in_part_mean_and_variance_are_those_of_that_part(normalize):
    """Air beside a body would otherwise be in both."""
    x = tokens()
    counts = (torch.rand(2, 5, PIX // CHANNELS, 1, generator=torch.Generator().manual_seed(1)) < 0.6).expand(
        -1, -1, -1, 4
    )
    air = torch.where(counts.flatten(2), x, -50.0)
    target = PixelTarget(PATCH, CHANNELS, normalize)
    ours = target(air, counts.flatten(2).float())
    for b, i in np.ndindex(2, 5):
        part = air[b, i].view(-1, CHANNELS)[counts[b, i, :, 0]]
        assert len(part) >= 2
        expected = by_hand(part.double().numpy()[None, None].reshape(1, 1, -1), normalize).reshape(-1, CHANNELS)
        found = ours[b, i].view(-1, CHANNELS)[counts[b, i, :, 0]]
        assert np.abs(found.numpy() - expected).max() < 1e-4
        unbiased = normalize != "layernorm"
        variances = (
            found.var(0, correction=int(unbiased)) if normalize == "channel" else found.var(correction=int(unbiased))
        )
        assert torch.allclose(variances, torch.ones_like(variances), atol=1e-4)


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_a_patch_that_counts_whole_or_not_at_all_keeps_its_numbers_to_the_bit(normalize):
    x, target = tokens(), PixelTarget(PATCH, CHANNELS, normalize, floor=0.3)
    weight = torch.ones_like(x)
    weight[0, 1], weight[1, 2, :8] = 0, 0
    plain, found = target.statistics(x), target.statistics(x, weight)
    for one, other in zip(plain, found, strict=True):
        same = (one == other).all(-1)
        assert not same[1, 2] and int(same.sum()) == 9
    assert all(torch.equal(a, b) for a, b in zip(plain, target.statistics(x, torch.ones_like(x)), strict=True))


@pytest.mark.parametrize("normalize", ["mae", "channel", "layernorm"])
def test_a_single_pixel_that_counts_is_a_target_of_zero_and_no_infinity(normalize):
    x, weight = tokens(), torch.zeros(2, 5, PIX)
    weight[..., CHANNELS : 2 * CHANNELS] = 1
    found = PixelTarget(PATCH, CHANNELS, normalize)(x, weight)
    assert found.isfinite().all()
    if normalize == "channel":
        assert (found[..., CHANNELS : 2 * CHANNELS].abs() < 1e-6).all()


@pytest.mark.parametrize("normalize", ["none", "mae", "channel", "layernorm"])
def test_planes_alone_say_what_is_wanted_and_the_others_want_what_the_nearest_does(normalize):
    """Of three frames of a tubelet the first and the last: the middle one wants the first."""
    tokens = torch.randn(2, 5, 3 * 2 * 2 * 3, generator=torch.Generator().manual_seed(0))
    some = PixelTarget((3, 2, 2), 3, normalize, planes=[0, 2])
    frames = tokens.unflatten(-1, (3, -1))
    alone = PixelTarget((2, 2, 2), 3, normalize)(frames[:, :, [0, 2]].flatten(2)).unflatten(-1, (2, -1))
    wanted = some(tokens).unflatten(-1, (3, -1))
    assert torch.equal(wanted[:, :, [0, 2]], alone) and torch.equal(wanted[:, :, 1], wanted[:, :, 0])
    assert some.pix == 36 and torch.equal(PixelTarget((3, 2, 2), 3, normalize, planes=[0, 1, 2])(tokens),
                                          PixelTarget((3, 2, 2), 3, normalize)(tokens))  # fmt: skip


def test_what_does_not_count_in_planes_that_are_wanted_does_not_count_in_their_mean():
    tokens, weight = torch.tensor([[[1.0, 3.0, 9.0, 9.0]]]), torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])
    target = PixelTarget((2, 2), 1, "layernorm", planes=[0])
    assert target.statistics(tokens)[0].item() == 2.0 and target.statistics(tokens, weight)[0].item() == 1.0


@pytest.mark.parametrize("planes", [[], [2], [1, 0], [0, 0], [-1]], ids=str)
def test_planes_that_a_patch_does_not_have_are_refused(planes):
    with pytest.raises(ValueError, match=r"must be some of 0 to 1, ascending"):
        PixelTarget((2, 4), 1, planes=planes)
