"""Crops: inside, of the asked area and aspect, the same for the same key."""

import math
import pickle

import pytest
import torch

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import (
    CenterCrop,
    RandomResizedCrop,
    center_sampler,
    crop_sampler,
    evaluation_sampler,
    training_shape,
)
from mae_ext.data.sample import Crop
from mae_ext.errors import ConfigError
from mae_ext.rng import rng

EXTENTS = [(480, 640), (640, 480), (1, 1), (1, 5000), (5000, 1), (7, 11), (224, 224), (3, 2)]


def sides(crop: Crop) -> tuple[int, int]:
    height, width = (b - a for a, b in zip(crop.start[-2:], crop.stop[-2:], strict=True))
    return height, width


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("config", [AugmentConfig(), AugmentConfig(scale=None), AugmentConfig(scale=(1, 1))])
def test_every_box_lies_inside_and_holds_a_pixel(extent: tuple[int, int], config: AugmentConfig) -> None:
    for seed in range(200):
        crop = crop_sampler(config, (224, 160), rng(seed))(extent)
        for start, stop, length in zip(crop.start, crop.stop, extent, strict=True):
            assert 0 <= start < stop <= length
        assert all(isinstance(edge, int) for edge in (*crop.start, *crop.stop))


def test_area_and_aspect_are_those_asked_for() -> None:
    config = AugmentConfig(scale=(0.2, 0.5))
    boxes = [sides(crop_sampler(config, (224, 224), rng(i))((2000, 2000))) for i in range(2000)]
    areas = torch.tensor([h * w / 4e6 for h, w in boxes])
    ratios = torch.tensor([math.log(w / h) for h, w in boxes])
    assert areas.min() > 0.199 and areas.max() < 0.501
    assert ratios.abs().max() < math.log(4 / 3) + 1e-2
    # Uniform in area and in log aspect: the mean and spread of a uniform, within four standard errors.
    assert abs(areas.mean() - 0.35) < 0.3 / math.sqrt(12 * 2000) * 4
    assert abs(areas.std() - 0.3 / math.sqrt(12)) < 0.004
    assert abs(ratios.mean()) < 2 * math.log(4 / 3) / math.sqrt(12 * 2000) * 4


def test_every_place_is_reached_and_none_preferred() -> None:
    config = AugmentConfig(scale=(0.25, 0.25), aspect=(1, 1))
    tops = [crop_sampler(config, (8, 8), rng(i))((8, 8)).start[0] for i in range(2000)]
    counts = torch.bincount(torch.tensor(tops), minlength=5)
    assert len(counts) == 5 and counts.min() > 320 and counts.max() < 480


def test_the_aspect_is_relative_to_the_output() -> None:
    config = AugmentConfig(scale=(0.3, 0.3), aspect=(1, 1))
    height, width = sides(crop_sampler(config, (100, 200), rng(0))((1000, 1000)))
    assert width / height == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(("extent", "expected"), [((10, 1000), (10, 13)), ((1000, 10), (13, 10))])
def test_where_no_box_fits_the_centre_is_taken(extent: tuple[int, int], expected: tuple[int, int]) -> None:
    crop = crop_sampler(AugmentConfig(scale=(0.9, 1.0)), (224, 224), rng(3))(extent)
    assert sides(crop) == expected
    assert all(abs(a + b - n) <= 1 for a, b, n in zip(crop.start, crop.stop, extent, strict=True))


def test_the_same_key_gives_the_same_crop_and_another_key_another() -> None:
    config, extent = AugmentConfig(), (480, 640)
    first = crop_sampler(config, (224, 224), rng(0, "augment", 1))
    assert first(extent) == first(extent) == crop_sampler(config, (224, 224), rng(0, "augment", 1))(extent)
    assert len({crop_sampler(config, (224, 224), rng(0, "augment", i))(extent) for i in range(50)}) == 50


def test_a_sampler_survives_the_way_to_another_process() -> None:
    sampler = crop_sampler(AugmentConfig(), (224, 224), rng(0))
    assert pickle.loads(pickle.dumps(sampler))((30, 40)) == sampler((30, 40))


def test_what_a_key_consumes_never_depends_on_the_file() -> None:
    after = set()
    for config in (AugmentConfig(), AugmentConfig(scale=None), AugmentConfig(flip=())):
        for extent in EXTENTS:
            generator = rng(7)
            crop_sampler(config, (224, 224), generator)(extent)
            after.add(float(torch.rand((), generator=generator)))
    assert len(after) == 1


def test_only_the_named_axes_are_flipped_and_half_of_the_time() -> None:
    def flips(axes: tuple[int, ...]) -> torch.Tensor:
        config = AugmentConfig(flip=axes)
        drawn = [crop_sampler(config, (8, 8, 8), rng(i))((9, 9, 9)).flip for i in range(400)]
        return torch.tensor(drawn).float().mean(0)

    assert flips(()).tolist() == [0, 0, 0]
    assert flips((-1,))[:2].tolist() == [0, 0] and 0.4 < flips((-1,))[2] < 0.6
    assert flips((0, -2)).gt(0.4).tolist() == [True, True, False]


def test_an_axis_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="axis -3 does not exist"):
        crop_sampler(AugmentConfig(flip=(-3,)), (8, 8), rng(0))


def test_axes_before_the_last_two_stay_whole() -> None:
    for sampler in (crop_sampler(AugmentConfig(), (16, 8, 8), rng(0)), center_sampler((16, 8, 8))):
        crop = sampler((31, 90, 100))
        assert (crop.start[0], crop.stop[0]) == (0, 31) and len(crop.flip) == 3


def test_without_scale_the_whole_centre_is_taken() -> None:
    sampler = crop_sampler(AugmentConfig(scale=None, flip=()), (10, 10), rng(0))
    assert sampler == CenterCrop((10, 10), flip=(False, False))


@pytest.mark.parametrize(
    ("size", "share", "extent", "start", "stop"),
    [
        ((224, 224), 1.0, (480, 640), (0, 80), (480, 560)),
        ((224, 224), 0.875, (256, 256), (16, 16), (240, 240)),
        ((100, 200), 1.0, (300, 300), (75, 0), (225, 300)),
        ((8, 8), 0.5, (1, 1), (0, 0), (1, 1)),
        ((32, 32), 1.0, (32, 32), (0, 0), (32, 32)),
    ],
)
def test_the_evaluation_crop_is_the_largest_centred_box_of_the_outputs_aspect(
    size: tuple[int, int], share: float, extent: tuple[int, int], start: tuple[int, int], stop: tuple[int, int]
) -> None:
    assert center_sampler(size, share)(extent) == Crop(start, stop, (False, False))


@pytest.mark.parametrize("share", [0, -1, 1.01, math.nan])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        center_sampler((8, 8), share)


def test_parameters_are_drawn_apart_from_being_applied() -> None:
    sampler = crop_sampler(AugmentConfig(), (8, 8), rng(0))
    assert isinstance(sampler, RandomResizedCrop)
    state = torch.random.get_rng_state()
    sampler((100, 100))
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_place_is_reached_along_the_rows_too() -> None:
    config = AugmentConfig(scale=(0.25, 0.25), aspect=(1, 1))
    lefts = [crop_sampler(config, (8, 8), rng(i))((8, 8)).start[1] for i in range(1000)]
    counts = torch.bincount(torch.tensor(lefts), minlength=5)
    assert len(counts) == 5 and counts.min() > 140 and counts.max() < 260


def test_a_box_is_as_wide_as_the_aspect_says_and_not_as_tall() -> None:
    height, width = sides(crop_sampler(AugmentConfig(scale=(0.25, 0.25), aspect=(4, 4)), (8, 8), rng(0))((800, 800)))
    assert (height, width) == (200, 800)


def test_aspects_are_as_often_twice_as_half() -> None:
    config = AugmentConfig(scale=(0.1, 0.1), aspect=(1 / 4, 4))
    wide = [w > h for h, w in (sides(crop_sampler(config, (8, 8), rng(i))((900, 900))) for i in range(1000))]
    assert 440 < sum(wide) < 560  # uniform in the aspect itself, four in five would be wide


def test_each_axis_has_a_coin_of_its_own() -> None:
    config = AugmentConfig(flip=(0, 1, 2))
    drawn = [crop_sampler(config, (8, 8, 8), rng(i))((9, 9, 9)).flip for i in range(400)]
    counts = [drawn.count((a, b, c)) for a in (False, True) for b in (False, True) for c in (False, True)]
    assert sum(counts) == 400 and min(counts) > 25 and max(counts) < 80


def test_place_and_flip_are_drawn_apart() -> None:
    """A flip that went with the place would show the left side of pictures in mirror writing, and the right never."""
    config = AugmentConfig(scale=(0.25, 0.25), aspect=(1, 1))
    crops = [crop_sampler(config, (8, 8), rng(i))((101, 101)) for i in range(1000)]
    lefts = torch.tensor([float(crop.start[1]) for crop in crops])
    flipped = torch.tensor([crop.flip[1] for crop in crops])
    assert abs(lefts[flipped].mean() - lefts[~flipped].mean()) < 5


def test_crops_of_a_key_are_what_they_always_were() -> None:
    """A run of an older version goes on with the same samples."""
    image = [crop_sampler(AugmentConfig(), (224, 160), rng(0, "augment", i))((480, 640)) for i in range(2)]
    assert image == [Crop((56, 219), (400, 535), (False, True)), Crop((61, 114), (446, 327), (False, False))]
    clip = crop_sampler(AugmentConfig(fixed=(0,), flip=(0, -1)), (8, 32, 32), rng(0, "augment", 9))((100, 48, 64))
    assert clip == Crop((76, 14, 6), (84, 48, 46), (False, False, True))
    scan = crop_sampler(AugmentConfig(fixed=(0, 1, 2), flip=(0, 1, 2)), (8, 32, 32), rng(0, "augment", 9))
    assert scan((100, 48, 64)) == Crop((76, 3, 12), (84, 35, 44), (False, False, True))


def test_evaluation_sees_the_middle_along_every_fixed_axis_and_flips_nothing() -> None:
    clip = evaluation_sampler(AugmentConfig(fixed=(0,), flip=(0, -1)), (16, 8, 8))((101, 60, 80))
    assert clip == Crop((43, 0, 10), (59, 60, 70), (False,) * 3)
    scan = evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (16, 8, 10))((40, 8, 7))
    assert scan == Crop((12, 0, -2), (28, 8, 8), (False,) * 3)
    assert evaluation_sampler(AugmentConfig(), (8, 8))((60, 80)) == Crop((0, 10), (60, 70), (False, False))


@pytest.mark.parametrize(
    ("augment", "size", "extent", "shape"),
    [
        # A crop of the middle of the range shows 0.6 of the area: sides of sqrt(0.6), so 16 pixels are 30.98 of 40.
        ({}, (16, 16), (40, 40), (21, 21)),
        ({"scale": (0.2, 0.3)}, (16, 16), (40, 40), (32, 32)),
        ({"scale": None}, (16, 16), (40, 80), (16, 32)),
        ({"scale": None}, (16, 32), (40, 80), (16, 32)),
        # No square of 0.6 of the area lies in 40x80: the largest there is has a side of 40.
        ({}, (16, 16), (40, 80), (16, 32)),
        # Boxes twice as wide as `size` has it are pressed into it: half the pixels across.
        ({"scale": (0.25, 0.25), "aspect": (4.0, 4.0)}, (16, 16), (40, 40), (64, 16)),
        ({"scale": (0.2, 0.2), "aspect": (2.0, 2.0)}, (16, 16), (40, 40), (51, 25)),
        ({"fixed": (0, 1)}, (16, 16), (40, 70), (40, 70)),
        ({"fixed": (0, 1, 2)}, (8, 16, 16), (5, 40, 70), (5, 40, 70)),
        ({"fixed": (0,), "scale": None}, (8, 16, 16), (30, 40, 40), (30, 16, 16)),
        ({"scale": None}, (8, 16, 16), (30, 40, 40), (8, 16, 16)),
    ],
)
def test_a_whole_source_at_the_scale_of_training_shows_in_a_box_what_a_crop_shows(
    augment: dict[str, tuple[float, ...]], size: tuple[int, ...], extent: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    assert training_shape(AugmentConfig.model_validate(augment), size, extent) == shape
