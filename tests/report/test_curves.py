import re

import numpy as np
import pytest

from mae_ext.report.curves import Series, curve, limits, short, thin, ticks


def series(values: np.ndarray, name: str = "loss") -> Series:
    return Series(name, np.arange(1.0, len(values) + 1), values)


def points(svg: str) -> np.ndarray:
    found = re.search(r'<polyline points="([^"]*)"', svg)
    assert found
    return np.array([[float(v) for v in pair.split(",")] for pair in found[1].split()])


def test_a_falling_loss_falls_on_the_page_and_steps_go_right() -> None:
    drawn = points(curve("loss", [series(np.linspace(2, 1, 50))]))
    assert len(drawn) == 50
    assert (np.diff(drawn[:, 0]) > 0).all() and (np.diff(drawn[:, 1]) > 0).all()  # y grows downwards in SVG


def test_a_long_run_is_thinned_and_nothing_of_its_range_is_lost() -> None:
    values = np.random.default_rng(0).normal(size=123_457)
    steps, mean, low, high = thin(series(values))
    assert len(steps) == len(mean) <= 400
    assert low.min() == values.min() and high.max() == values.max()
    assert (low <= mean).all() and (mean <= high).all() and (np.diff(steps) > 0).all()
    weights = np.diff(np.append(np.linspace(0, len(values), 401).astype(int)[:-1], len(values)))
    assert np.average(mean, weights=weights) == pytest.approx(values.mean())


def test_one_spike_does_not_flatten_the_curve_and_is_counted() -> None:
    values = 1 + 0.1 * np.random.default_rng(0).normal(size=2000)
    values[70] = 1e6
    assert limits([series(values)], zero=True)[1] < 2
    assert "outside the frame" in curve("gradient norm", [series(values)], zero=True)


@pytest.mark.parametrize("values", [np.ones(5), np.zeros(3), np.array([3.0]), np.array([1e-30, 1e30])])
def test_degenerate_values_still_make_a_drawing(values: np.ndarray) -> None:
    svg = curve("loss", [series(values)], zero=True)
    assert np.isfinite(points(svg)).all()


def test_without_a_spike_every_value_is_in_the_frame() -> None:
    values = np.concatenate([np.linspace(1.6, 0.5, 300), np.full(3000, 0.5)])
    low, high = limits([series(values)], zero=False)
    assert low < 0.5 and high > 1.6


def test_nothing_to_draw_is_nothing() -> None:
    assert curve("loss", []) == ""
    assert curve("loss", [series(np.full(4, np.nan))]) == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.97), (-3, 12_345), (1e-7, 9e-7), (5, 5)])
def test_ticks_are_round_inside_and_evenly_spaced(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)
    if len(found) > 2:
        np.testing.assert_allclose(np.diff(found), found[1] - found[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234, "1234"), (12345, "12.3k"), (2.5e6, "2.5M"), (1.5e-4, "1.5e-4"), (0.25, "0.25")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_two_curves_have_a_legend_and_two_colours() -> None:
    svg = curve("loss", [series(np.arange(3.0), "a<b"), series(np.arange(3.0) + 1, "c")])
    assert "a&lt;b" in svg and svg.count("<polyline") == 2
    assert len(set(re.findall(r'stroke="(#\w+)"', svg))) == 2
