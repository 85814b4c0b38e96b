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


def test_points_stand_where_the_axis_says() -> None:
    """The frame is 230 high, less 10 above and 30 below; 560 wide, less 58 and 18; the range has 6 % of air."""
    drawn = points(curve("loss", [Series("loss", np.array([0.0, 50, 100]), np.array([1.0, 2.0, 3.0]))]))
    low, high = 1 - 0.12, 3 + 0.12
    expected = [[58 + (560 - 76) * x, 200 - 190 * (y - low) / (high - low)] for x, y in ((0, 1), (0.5, 2), (1, 3))]
    np.testing.assert_allclose(drawn, expected, atol=0.06)


def test_an_axis_that_starts_at_0_has_its_0_at_the_foot() -> None:
    svg = curve("rate", [series(np.array([5.0, 10.0]))], zero=True)
    assert points(svg)[0, 1] == pytest.approx(200 - 190 * 5 / 10.6, abs=0.06)
    assert '<line x1="58" x2="542" y1="200.0" y2="200.0"/><text x="51" y="203.5" text-anchor="end">0</text>' in svg


def test_labels_of_the_axis_are_the_values_of_its_lines() -> None:
    svg = curve("loss", [series(np.linspace(0.0, 4.0, 9))])
    labels = re.findall(r'y1="([\d.]+)" y2="[\d.]+"/><text [^>]*text-anchor="end">([^<]*)<', svg)
    low, high = -0.24, 4.24
    assert [text for _, text in labels] == ["0", "1", "2", "3", "4"]
    for y, text in labels:
        assert float(y) == pytest.approx(200 - 190 * (float(text) - low) / (high - low), abs=0.06)


def test_the_last_value_is_written_out_and_what_is_not_finite_is_counted() -> None:
    svg = curve("wait", [series(np.array([1.0, np.nan, 2.5, np.inf]))], " %")
    assert '<span class="now">2.5 %</span>' in svg and "2 not finite" in svg
    assert len(points(svg)) == 2 and 'data-name="loss">58.0;1;1|542.0;3;2.5<' in svg


def test_the_band_of_a_thinned_curve_goes_from_the_lowest_to_the_highest() -> None:
    values = np.tile([0.0, 2.0], 2000)
    steps, mean, low, high = thin(series(values))
    assert set(mean) == {1.0} and set(low) == {0.0} and set(high) == {2.0}
    assert (steps[0], steps[-1]) == (5.5, 3995.5)
    polygon = re.search(r'<polygon points="([^"]*)"', curve("loss", [series(values)]))
    assert polygon
    ys = [float(pair.split(",")[1]) for pair in polygon[1].split()]
    assert min(ys) == pytest.approx(200 - 190 * 2.12 / 2.24, abs=0.06)
    assert max(ys) == pytest.approx(200 - 190 * 0.12 / 2.24, abs=0.06)


def test_numbers_of_each_size_have_their_letter() -> None:
    found = [short(v) for v in (9999, 10_000, 1e6, 1e9, -12_345, 1e-3, 9.9e-4, float("nan"))]
    assert found == ["9999", "10k", "1M", "1G", "-12.3k", "0.001", "9.9e-4", "nan"]
