"""The plane that features are shown in is a function of them, and the picture is of every row."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_ext.features import map as maps
from mae_ext.features.map import REST, UNLABELLED, draw_map, palette, pca


def cloud(n: int = 200, seed: int = 0) -> np.ndarray:
    """(n, 5) float32: most variance along one diagonal, then along another."""
    chance = np.random.default_rng(seed)
    directions = np.linalg.qr(chance.normal(size=(5, 5)))[0]
    return (chance.normal(size=(n, 5)) * [9, 3, 1, 0.5, 0.1] @ directions.T + 7).astype(np.float32)


def test_pca_finds_the_two_directions_of_most_variance_whatever_the_order_and_offset_of_rows():
    x = cloud()
    points, shares = pca(x)
    spread = np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2
    assert shares == pytest.approx(spread[:2] / spread.sum(), rel=1e-4)
    assert np.abs(np.cov(points.T)[0, 1]) < 1e-3
    other = np.random.default_rng(1).permutation(len(x))
    np.testing.assert_allclose(pca(x[other] + 3)[0], points[other], atol=1e-3)


def test_features_of_one_number_and_features_that_are_all_alike_have_a_map_too(tmp_path: Path):
    assert pca(np.arange(4, dtype=np.float32)[:, None])[0].shape == (4, 2)
    same = draw_map(np.ones((5, 3), np.float32), ["a"] * 5, tmp_path / "same.png", "same")
    assert Image.open(same).size[0] > 400


def test_the_legend_names_numerous_classes_then_counts_the_rest_and_the_unlabelled():
    names = [f"c{i:02d}" for i in range(13) for _ in range(20 - i)] + [None]
    found = palette(names)
    assert list(found) == [f"c{i:02d}" for i in range(10)] + ["3 other classes", "no label"]
    assert found["3 other classes"] == REST and found["no label"] == UNLABELLED
    assert len(set(found.values())) == 12


def test_the_same_features_give_the_same_picture_and_names_of_any_kind_are_drawn(tmp_path: Path):
    names = [("cat", "$x_1$", "_hidden", None)[i % 4] for i in range(60)]
    one, other = (draw_map(cloud(60), names, tmp_path / f"{n}.png", "photos") for n in "ab")
    assert one.read_bytes() == other.read_bytes()
    assert not list(tmp_path.glob("*.tmp-*"))


def test_of_very_many_samples_a_part_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(maps, "MAX_POINTS", 30)
    drawn = []
    monkeypatch.setattr(maps, "pca", lambda x: (drawn.append(len(x)), pca(x))[1])
    draw_map(cloud(100), ["a"] * 100, tmp_path / "many.png", "many")
    assert drawn == [30]


@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_stands_beside_pca_where_it_is_installed(tmp_path: Path):
    wide = draw_map(cloud(60), ["a", "b"] * 30, tmp_path / "wide.png", "wide")
    assert Image.open(wide).size[0] > 1200


def test_signs_of_the_directions_are_fixed_by_their_largest_weight():
    x = np.zeros((4, 3), np.float32)
    x[:, 0], x[:, 2] = (-6, 6, -6, 6), (1, 1, -1, -1)
    points, shares = pca(x)
    np.testing.assert_allclose(points, [[-6, 1], [6, 1], [-6, -1], [6, -1]], atol=1e-6)
    assert shares == pytest.approx([36 / 37, 1 / 37])
    np.testing.assert_allclose(pca(-x)[0], -points, atol=1e-6)


def test_points_have_the_colour_of_their_own_class_in_whatever_order_they_are_drawn(tmp_path, monkeypatch):
    drawn = []

    def noted(axes, kind, points, titles, names, colours):
        drawn.append((kind, points, titles, names))

    monkeypatch.setattr(maps, "_scatter", noted)
    x = cloud(50)
    draw_map(x, [f"row {i}" for i in range(50)], tmp_path / "a.png", "a")
    kind, points, titles, names = drawn[0]
    expected, shares = pca(x)
    assert kind == "PCA" and titles == [f"{100 * share:.0f} % of the variance" for share in shares]
    order = [int(name.removeprefix("row ")) for name in names]
    assert sorted(order) == list(range(50)) and order != list(range(50))
    np.testing.assert_allclose(points, expected[order], atol=1e-4)
