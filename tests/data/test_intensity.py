"""From the scan's units to the model's, by hand."""

import numpy as np
import pytest

from mae_ext.data.intensity import Foreground, build_intensity

X = np.array([[-100.0, 0.0, 40.0, 100.0, 300.0]], np.float32)


def levels(spec, x=X, mean=40.0, std=20.0, values=()):
    found = Foreground((mean,), (std,), (np.array(values, np.float32),))
    return build_intensity(spec).fit(1, lambda: found)(x)[0].tolist()


def test_z_scores_are_clipped_on_both_sides():
    assert levels({"name": "zscore", "clip": 4}) == [-4, -2, 0, 3, 4]
    assert levels("zscore", 10 * X) == [-10, -2, 10, 10, 10]
    assert levels({"name": "zscore", "clip": None}) == [-7, -2, 0, 3, 13]


def test_the_percentiles_that_are_asked_for_become_0_and_1():
    values = np.arange(1001)
    assert levels({"name": "percentile", "low": 10, "high": 30}, values=values) == pytest.approx([0, 0, 0, 0, 1])
    assert levels({"name": "percentile", "low": 0, "high": 50}, values=values) == pytest.approx([0, 0, 0.08, 0.2, 0.6])
    assert levels("percentile", values=values) == pytest.approx([0, 0, 35 / 990, 95 / 990, 295 / 990])


def test_a_window_is_from_its_low_end_to_its_high_one():
    assert levels({"name": "window", "windows": [[0, 200]]}) == pytest.approx([0, 0, 0.2, 0.5, 1])
