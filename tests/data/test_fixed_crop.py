"""Crops of fixed length: exact, inside where there is room, evenly beyond where there is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import TRIES, FixedCrop, crop_sampler, evaluation_sampler
from mae_ext.data.sample import Crop
from mae_ext.errors import ConfigError
from mae_ext.rng import rng


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(*[st.integers(1, 12)] * 3),
    extent=st.tuples(*[st.integers(1, 30)] * 3),
    seed=st.integers(0, 99),
)
def test_a_box_is_exactly_as_long_as_asked_and_leaves_the_scan_only_where_it_must(size, extent, seed):
    sampler = crop_sampler(AugmentConfig(fixed=(0, 1, 2)), size, rng(seed))
    for box in (sampler(extent), evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), size)(extent)):
        for start, stop, wanted, length in zip(box.start, box.stop, size, extent, strict=True):
            assert stop - start == wanted
            if wanted <= length:
                assert start >= 0 and stop <= length
            else:
                assert abs((0 - start) - (stop - length)) <= 1


def test_every_place_is_reached_equally_often():
    places = [
        crop_sampler(AugmentConfig(fixed=(0,), scale=None), (4, 2, 2), rng(s))((8, 2, 2)).start[0] for s in range(800)
    ]
    assert set(places) == {0, 1, 2, 3, 4}
    assert max(map(places.count, range(5))) < 2 * min(map(places.count, range(5)))


def test_time_can_be_fixed_while_the_plane_is_resized():
    config = AugmentConfig(fixed=(0,), scale=(0.2, 0.3))
    boxes = [crop_sampler(config, (16, 8, 8), rng(s))((100, 60, 80)) for s in range(50)]
    shares = [(b.stop[1] - b.start[1]) * (b.stop[2] - b.start[2]) / 4800 for b in boxes]
    assert {b.stop[0] - b.start[0] for b in boxes} == {16}
    assert all(0.15 < share < 0.35 for share in shares)
    assert len({b.start[0] for b in boxes}) > 20


def test_what_is_drawn_without_fixed_axes_is_what_it_always_was():
    config = AugmentConfig()
    fixed = AugmentConfig(fixed=(0,))
    plain, other = (crop_sampler(c, (4, 8, 8), rng(5))((9, 40, 50)) for c in (config, fixed))
    assert (plain.start[1:], plain.stop[1:], plain.flip) == (other.start[1:], other.stop[1:], other.flip)


def test_a_sampler_has_alternatives_and_the_first_is_the_call():
    sampler = crop_sampler(AugmentConfig(fixed=(0, 1, 2)), (4, 4, 4), rng(0))
    assert isinstance(sampler, FixedCrop)
    boxes = list(sampler.alternatives((40, 40, 40)))
    assert len(boxes) == TRIES and boxes[0] == sampler((40, 40, 40))
    assert len({box.start for box in boxes}) == TRIES
    assert {box.flip for box in boxes} == {boxes[0].flip}


def test_an_axis_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"augment\.fixed: axis 3"):
        crop_sampler(AugmentConfig(fixed=(3,)), (4, 4, 4), rng(0))


def test_what_is_judged_is_the_middle_of_a_source():
    """Of 24 frames the 4 in the middle, of 17 slices the 8 with 5 before and 4 after; the plane at its largest."""
    assert evaluation_sampler(AugmentConfig(fixed=(0,)), (4, 8, 8))((24, 16, 24)) == Crop(
        (10, 0, 4), (14, 16, 20), (False, False, False)
    )
    assert evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (8, 8, 8))((17, 8, 5)) == Crop(
        (5, 0, -2), (13, 8, 6), (False, False, False)
    )
