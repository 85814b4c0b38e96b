"""From a scanner's units to the model's, by numbers worked out by hand; and what a header may say of a scan at most."""

from dataclasses import replace

import numpy as np
import pytest

from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.data.sample import whole
from mae_ext.data.volume.intensity import Foreground, build_intensity, check_body, check_lengths
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.data.volume.scan import Declared, check
from mae_ext.errors import BadSample

FOUND = Foreground(
    (10.0, 3.0), (4.0, 0.0), (np.arange(101, dtype=np.float32), np.full(5, 3, np.float32)), ((0, 900), (-1, 7))
)
X = np.array([[2.0, 10, 16, 900], [3, 4, 2, 3]], np.float32)


def levels(spec, channels=2, x=X):
    return build_intensity(spec).fit(channels, lambda: FOUND)(x).tolist()


def test_a_zscore_is_of_each_channel_and_a_channel_without_spread_is_centred_only():
    assert levels("zscore") == [[-2, 0, 1.5, 10], [0, 1, -1, 0]]  # clipped at 10 where nothing is said
    assert levels({"name": "zscore", "clip": 1}) == [[-1, 0, 1, 1], [0, 1, -1, 0]]
    assert levels({"name": "zscore", "clip": None})[0][3] == 222.5


def test_a_percentile_is_of_each_channel_and_one_without_spread_takes_the_ends_of_the_whole_scan():
    assert levels({"name": "percentile", "low": 10, "high": 60}) == pytest.approx(
        np.array([[0, 0, 0.12, 1], [0.5, 0.625, 0.375, 0.5]]), abs=1e-6
    )
    assert levels("percentile", x=np.full((2, 1), 50, np.float32))[0][0] == pytest.approx((50 - 0.5) / 99)


def test_windows_make_channels_and_as_stored_changes_nothing():
    both = {"name": "window", "windows": [[0, 20], [-10, 10]]}
    assert levels(both, 1, X[:1]) == [[pytest.approx(0.1), 0.5, pytest.approx(0.8), 1], [pytest.approx(0.6), 1, 1, 1]]
    assert levels({"name": "window", "windows": [[2, 4]]}) == [[0, 1, 1, 1], [0.5, 1, 0, 0.5]]
    assert levels("none") == X.tolist()


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "zscore", "clip": 0}, {"name": "percentile", "low": 50, "high": 50}, {"name": "percentile", "low": -1},
        {"name": "percentile", "high": 101}, {"name": "window", "windows": [[3, 3]]}, {"name": "window", "windows": []},
        {"name": "window", "width": 3},
    ],
    ids=str,
)  # fmt: skip
def test_rules_that_cannot_be_are_refused(spec):
    with pytest.raises(ValueError, match="intensity"):
        build_intensity(spec)


def test_a_clip_below_one_and_the_whole_range_of_percentiles_are_allowed():
    assert levels({"name": "zscore", "clip": 0.5})[0] == [-0.5, 0, 0.5, 0.5]
    assert levels({"name": "percentile", "low": 0, "high": 100})[0][:2] == pytest.approx([0.02, 0.1])


@pytest.mark.parametrize("body", [None, "otsu", "nonzero", -500, 0, 0.5])
def test_a_body_is_a_threshold_or_one_of_two_words(body):
    assert check_body(body) == body


@pytest.mark.parametrize("body", [True, np.nan, np.inf, "skin", [1], (0, 1)])
def test_a_body_of_another_kind_is_refused(body):
    with pytest.raises(ValueError, match="expected a threshold"):
        check_body(body)


@pytest.mark.parametrize("lengths", [(1, 1), (1, 1, 1, 1), (1, 1, 0), (1, 1, -1)])
def test_lengths_are_three_positive_numbers(lengths):
    assert check_lengths("spacing", None) is None and check_lengths("spacing", (1, 2, 3)) == (1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="expected 3 positive numbers"):
        check_lengths("spacing", lengths)


def test_the_spacing_of_arrays_is_one_millimetre_or_as_given_along_d_h_w(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5))
    for options, wanted in (({}, (1, 1, 1)), ({"array_spacing": (3, 2, 0.5)}, (3, 2, 0.5))):
        reader = VolumeReader((3, 4, 5), intensity="none", **options)
        assert reader.read(f"{tmp_path}/a.npz::train_images::0", [whole])[0].spacing == wanted


GOOD = Declared("NIfTI-1", (4, 5, 2), np.dtype("<i2"), np.eye(4), lambda: np.zeros((2, 5, 4), "<i2"))


def sized(*lengths):
    return {"affine": np.diag([*lengths, 1.0])}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, None),
        ({"shape": (4, 5, 1)}, "axes"), ({"shape": (4, 5)}, "axes"), ({"shape": (1, 5, 4)}, "axes"),
        ({"shape": (4, 5, 2, 0)}, "axes"), ({"shape": (4, 5, 2, 1)}, None),
        ({"shape": (40, 5, 2)}, None), ({"shape": (41, 5, 2)}, "too large"),
        (sized(0.01, 1, 50), None), (sized(0.009, 1, 1), "voxel size"), (sized(1, 1, 50.1), "voxel size"),
        (sized(1, 0, 1), "voxel size"), (sized(0, 0, 0), "geometry"), (sized(1, np.inf, 1), "geometry"),
        ({"slope": 0.0}, "scaling"), ({"slope": 1e9}, None), ({"slope": 1.1e9}, "scaling"), ({"slope": -2.0}, None),
        ({"slope": 1e-18}, None), ({"slope": 9e-19}, "scaling"), ({"inter": -1e9}, None), ({"inter": 1.1e9}, "scaling"),
        ({"inter": np.nan}, "scaling"), ({"dtype": np.dtype("c8"), "shape": (4, 5, 2)}, "data type"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_header_declares_is_believed_up_to_its_limits(change, kind):
    declared = replace(GOOD, **change)
    if kind is None:
        check("a", declared, 800)
        return
    with pytest.raises(BadSample) as info:
        check("a", declared, 800)
    assert info.value.kind == kind


def test_the_statistics_of_imagenet_are_those_that_everyone_uses():
    assert (IMAGENET.mean, IMAGENET.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


UNITS = np.array([[-100.0, 0.0, 40.0, 100.0, 300.0]], np.float32)


def by_hand(spec, x=UNITS, mean=40.0, std=20.0, values=()):
    found = Foreground((mean,), (std,), (np.array(values, np.float32),), ((0.0, 1.0),))
    return build_intensity(spec).fit(1, lambda: found)(x)[0].tolist()


def test_z_scores_are_clipped_on_both_sides():
    assert by_hand({"name": "zscore", "clip": 4}) == [-4, -2, 0, 3, 4]
    assert by_hand("zscore", 10 * UNITS) == [-10, -2, 10, 10, 10]
    assert by_hand({"name": "zscore", "clip": None}) == [-7, -2, 0, 3, 13]


def test_the_percentiles_that_are_asked_for_become_0_and_1():
    values = np.arange(1001)
    assert by_hand({"name": "percentile", "low": 10, "high": 30}, values=values) == pytest.approx([0, 0, 0, 0, 1])
    assert by_hand({"name": "percentile", "low": 0, "high": 50}, values=values) == pytest.approx([0, 0, 0.08, 0.2, 0.6])
    assert by_hand("percentile", values=values) == pytest.approx([0, 0, 35 / 990, 95 / 990, 295 / 990])


def test_a_window_is_from_its_low_end_to_its_high_one():
    assert by_hand({"name": "window", "windows": [[0, 200]]}) == pytest.approx([0, 0, 0.2, 0.5, 1])
