"""One axis order for every scan; resampling as MONAI's Spacing does it, only where it is asked for."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.data.sample import Crop
from mae_ext.data.volume.geometry import (
    KEEP_MM,
    Lattice,
    canonical,
    canonical_affine,
    covered,
    interpolate,
    laid,
    lattice,
    lean,
    orientation,
    upright,
    window,
)

SHAPE = (5, 7, 11)  # along left-right, posterior-anterior, inferior-superior


def stored_as(order, flip):
    """A RAS volume whose voxels are numbered, stored with other axes -> (voxels as a file has them, affine)."""
    data = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    ras = nib.Nifti1Image(data.astype(np.int32), np.diag([1.5, 2.0, 3.0, 1.0]))
    turn = np.array([[axis, -1 if f else 1] for axis, f in zip(order, flip, strict=True)])
    image = ras.as_reoriented(turn)
    return np.asarray(image.dataobj), image.affine


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flip", list(product([False, True], repeat=3)))
def test_all_48_axis_orders_become_one(order, flip):
    data, affine = stored_as(order, flip)
    place = orientation(affine)
    found = canonical(np.ascontiguousarray(data.T)[None], (0, 1, 2), place)[0]
    assert found.shape == (11, 7, 5)
    np.testing.assert_array_equal(found, np.arange(np.prod(SHAPE)).reshape(SHAPE).T)
    assert place.spacing == pytest.approx((3.0, 2.0, 1.5))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flip", list(product([False, True], repeat=3)))
def test_every_voxel_lies_where_it_lay_in_its_file(order, flip):
    """Voxels as the file numbers them, laid out canonically, and their places by either affine."""
    data, affine = stored_as(order, flip)
    affine = affine + np.outer([0.4, -7, 20, 0], [0, 0, 0, 1])
    affine[:3, :3] = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ affine[:3, :3]
    place = orientation(affine)
    found, shape = canonical_affine(affine, data.shape, place)
    numbered = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij"))
    each = [canonical(np.ascontiguousarray(n.T)[None], (0, 1, 2), place)[0] for n in numbered]
    assert shape == each[0].shape
    ours = np.stack([n.ravel() for n in np.meshgrid(*map(np.arange, shape), indexing="ij")])
    theirs = np.stack([n.ravel() for n in each])
    np.testing.assert_allclose(
        found[:3, :3] @ ours + found[:3, 3:], affine[:3, :3] @ theirs + affine[:3, 3:], atol=1e-9
    )


@pytest.mark.parametrize("off", [-1.0, 1.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_spacing_is_kept_within_a_thousandth_of_a_millimetre_and_no_further(axis, off):
    spacing = [0.9, 1.0, 5.0]
    for times, kept in ((0.9, True), (1.1, False), (20, False), (90, False)):
        wanted = [s + off * times * KEEP_MM * (a == axis) for a, s in enumerate(spacing)]
        grid = lattice((20, 30, 40), tuple(spacing), tuple(wanted))
        assert (grid.ratio[axis] == 1) == kept and [r for a, r in enumerate(grid.ratio) if a != axis] == [1, 1]
        assert kept or grid.ratio[axis] == pytest.approx(wanted[axis] / spacing[axis])


@pytest.mark.parametrize("degrees", [-30, -5, 0, 0.02, 5, 30])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)])
def test_a_lean_is_the_angle_to_either_side_and_of_any_two_axes(axes, degrees):
    affine = np.diag([0.5, -0.5, 3.0, 1.0])
    leaning, towards = axes
    length, angle = affine[leaning, leaning], np.deg2rad(degrees)
    affine[leaning, leaning], affine[towards, leaning] = length * np.cos(angle), length * np.sin(angle)
    assert lean(affine) == pytest.approx(abs(degrees), abs=1e-6)


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flip", list(product([False, True], repeat=3)))
def test_a_place_without_lean_is_upright_and_one_with_keeps_its_first_plane_its_lengths_and_its_side(order, flip):
    _, affine = stored_as(order, flip)
    turn = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    )
    affine[:3, :3] = turn @ affine[:3, :3]
    np.testing.assert_allclose(upright(affine), affine, atol=1e-9)
    leaning = affine.copy()
    leaning[:3, 2] += 0.3 * leaning[:3, 1] - 0.2 * leaning[:3, 0]
    found = upright(leaning)
    np.testing.assert_allclose(found[:, [0, 3]], leaning[:, [0, 3]], atol=1e-9)
    np.testing.assert_allclose(found[:, 1], leaning[:, 1], atol=1e-9)  # at a right angle to the first already
    np.testing.assert_allclose(np.linalg.norm(found[:3, :3], axis=0), np.linalg.norm(leaning[:3, :3], axis=0))
    assert lean(found) < 1e-6 < lean(leaning)
    assert np.linalg.det(found[:3, :3]) * np.linalg.det(leaning[:3, :3]) > 0


@pytest.mark.parametrize(("start", "stop", "size", "inside"), [
    (0, 6, 6, "111111"),
    (0, 6, 12, "111111111111"),  # at -0.25, 0.25 .. 5.25: all in a voxel of the scan
    (0, 6, 18, "111111111111111111"),
    (0, 6, 3, "111"),
    (-2, 8, 10, "0011111100"),
    (-2, 8, 20, "00001111111111110000"),  # from -0.25 to 5.25, as of the box that ends with the scan
    (-3, 9, 4, "0110"),  # at -2, 1, 4 and 7
])  # fmt: skip
@pytest.mark.parametrize("spacing", [None, 1.5])
def test_what_lies_in_a_scan_is_what_lies_in_one_of_its_voxels_however_a_box_is_resized(
    start, stop, size, inside, spacing
):
    stored = 6 if spacing is None else 9  # at 1.5 times the spacing, 9 voxels are 6
    grid = lattice((stored,), (1.0,), spacing and (spacing,))
    assert grid.shape == (6,)
    (taps,) = grid.taps(Crop((start,), (stop,), (False,)), (size,))
    assert "".join(str(int(i)) for i in taps.inside) == inside
    assert covered(np.ones(stored, bool)[window([taps])], [taps]).tolist() == taps.inside.tolist()


def test_the_first_axis_points_up_the_second_forward_the_third_right():
    data = np.zeros((3, 3, 3))
    data[2, 1, 1], data[1, 2, 1], data[1, 1, 2] = 1, 2, 3  # right, front, top in RAS
    found = canonical(data.T[None], (0, 1, 2), orientation(np.eye(4)))[0]
    assert (found[1, 1, 2], found[1, 2, 1], found[2, 1, 1]) == (1, 2, 3)


def test_an_oblique_scan_goes_to_the_nearest_order_and_keeps_its_spacing():
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.8, 0.9, 5.0])
    place = orientation(affine)
    assert (place.code, place.source, place.flip) == ("RAS", (2, 1, 0), (False, False, False))
    assert place.spacing == pytest.approx((5.0, 0.9, 0.8))


def whole(grid):
    return Crop((0, 0, 0), grid.shape, (False,) * 3)


def resample(x, grid, box=None, size=None):
    box = box or whole(grid)
    taps = grid.taps(box, size or tuple(b - a for a, b in zip(box.start, box.stop, strict=True)))
    return interpolate(x[(slice(None), *window(taps))], taps)


@pytest.mark.parametrize("wanted", [(2.0, 2.0, 2.0), (1.0, 1.7, 0.6), (4.0, 0.9, 1.3), (3.0, 2.0, 1.5)])
def test_resampling_agrees_with_monai(wanted):
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    chance = np.random.default_rng(0)
    x = chance.normal(0, 500, (2, 17, 23, 19)).astype(np.float32)  # (C, D, H, W), HU
    grid = lattice(x.shape[1:], (3.0, 2.0, 1.5), wanted)
    found = resample(x, grid)
    ras = MetaTensor(torch.from_numpy(x.transpose(0, 3, 2, 1).copy()), affine=torch.diag(torch.tensor([1.5, 2, 3, 1])))
    peer = Spacing(wanted[::-1], mode="bilinear", padding_mode="border")(ras)
    assert found.shape == tuple(np.array(peer.shape)[[0, 3, 2, 1]])
    np.testing.assert_allclose(found, peer.numpy().transpose(0, 3, 2, 1), atol=1e-4)


def test_at_its_own_spacing_a_scan_is_not_touched():
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 7)).astype(np.float32)
    for wanted in (None, (3.0, 2.0, 1.5), (3.0005, 2.0, 1.4995)):
        grid = lattice((6, 5, 7), (3.0, 2.0, 1.5), wanted)
        assert grid.shape == (6, 5, 7)
        np.testing.assert_array_equal(resample(x, grid), x)


@settings(max_examples=60, deadline=None)
@given(
    extent=st.tuples(*[st.integers(2, 20)] * 3),
    ratio=st.tuples(*[st.floats(0.3, 3, allow_subnormal=False)] * 3),
    data=st.data(),
)
def test_a_crop_of_a_resampled_scan_is_the_resampled_crop_bit_for_bit(extent, ratio, data):
    grid = Lattice(extent, ratio)
    x = np.random.default_rng(0).normal(size=(2, *extent)).astype(np.float32)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, grid.shape, strict=True))
    part = resample(x, grid, Crop(start, stop, (False,) * 3))
    everything = resample(x, grid)
    near = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    np.testing.assert_array_equal(part, everything[(slice(None), *near)])


def test_beyond_the_scan_nothing_is_valid():
    grid = Lattice((4, 5, 6), (1.0, 1.0, 1.0))
    taps = grid.taps(Crop((-2, 0, 3), (6, 5, 9), (False,) * 3), (8, 5, 6))
    valid = covered(np.ones((4, 5, 6), bool)[window(taps)], taps)
    expected = np.zeros((8, 5, 6), bool)
    expected[2:6, :, :3] = True
    np.testing.assert_array_equal(valid, expected)


def test_a_voxel_that_is_not_valid_spoils_exactly_those_that_it_enters():
    grid = Lattice((4, 4, 9), (1.0, 1.0, 0.5))
    valid = np.ones((4, 4, 9), bool)
    valid[1, 2, 4] = False
    taps = grid.taps(whole(grid), grid.shape)
    found = covered(valid[window(taps)], taps)
    assert (~found).nonzero()[2].tolist() == [7, 8, 9]  # at 3.5, 4.0 and 4.5 of the stored axis
    assert {*(~found).nonzero()[0].tolist()} == {1}


def test_a_box_of_another_length_is_resized_about_its_centre():
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8).repeat(2, 1).repeat(2, 2)
    grid = Lattice((2, 2, 8), (1.0, 1.0, 1.0))
    halved = resample(x, grid, Crop((0, 0, 0), (2, 2, 8), (False,) * 3), (2, 2, 4))
    np.testing.assert_allclose(halved[0, 0, 0], [0.5, 2.5, 4.5, 6.5])


@settings(max_examples=300, deadline=None)
@given(
    start=st.tuples(*[st.integers(-6, 10)] * 3), size=st.tuples(*[st.integers(1, 9)] * 3),
    ratio=st.sampled_from([1.0, 1.5, 2.0]),
)  # fmt: skip
def test_a_box_that_needs_no_interpolation_is_a_copy_of_what_is_there(start, size, ratio):
    grid = Lattice((7, 5, 11), (1.0, ratio, 1.0))
    x = np.random.default_rng(0).normal(size=(2, *grid.extent)).astype(np.float32)
    valid = np.random.default_rng(1).random(grid.extent) < 0.7
    box = Crop(start, tuple(a + n for a, n in zip(start, size, strict=True)), (False,) * 3)
    taps, found = grid.taps(box, size), grid.runs(box, size)
    overlaps = all(a < n and a + m > 0 for a, m, n in zip(start, size, grid.shape, strict=True))
    assert (found is not None) == (overlaps and ratio == 1)
    if found is not None:
        here, where = found
        near = window(taps)
        inside = np.logical_and.outer(np.logical_and.outer(taps[0].inside, taps[1].inside), taps[2].inside)
        fill = np.array([-3.0, 5.0], np.float32).reshape(-1, 1, 1, 1)
        expected = np.where(inside, interpolate(x[(slice(None), *near)], taps), fill)
        np.testing.assert_array_equal(laid(x[(slice(None), *here)], where, size, fill), expected)
        np.testing.assert_array_equal(laid(valid[here][None], where, size, False)[0], covered(valid[near], taps))


def test_a_box_that_is_stretched_is_not_a_copy():
    grid = Lattice((7, 5, 11), (1.0, 1.0, 1.0))
    assert grid.runs(Crop((0, 0, 0), (4, 4, 4), (False,) * 3), (4, 4, 8)) is None
