"""Whether labels lie where their scan lies: how far two places are apart, and which of a header's two counts."""

import nibabel as nib
import numpy as np
import pytest
from data.volume.placed_scans import PLACE, SHAPE, TURN, in_itk, nifti, reader

from mae_ext.data.sample import whole
from mae_ext.data.volume.geometry import apart
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample


def pair(tmp_path, label_affine, shape=(512, 64, 8), affine=None):
    for name, place in (
        ("a", np.diag([0.9765625, 0.9765625, 5, 1]) if affine is None else affine),
        ("l", label_affine),
    ):
        data = np.zeros(shape, np.uint8)
        data[3, 1, 1] = 1
        nib.Nifti1Image(data, place).to_filename(tmp_path / f"{name}.nii")
    return reader.label_map(str(tmp_path / "l.nii"), str(tmp_path / "a.nii"))


def moved(x=0.0, y=0.0, z=0.0):
    affine = np.diag([0.9765625, 0.9765625, 5, 1])
    affine[:3, 3] = x, y, z
    return affine


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([0.977, 0.977, 5, 1]),  # 0.23 of a voxel at the far corner
        np.diag([0.9775, 0.977, 5, 1]),  # 0.49 of a voxel
        moved(0.2), moved(0, 0, 1.2),  # 0.2 and 0.24 of a voxel
    ],
    ids=str,
)  # fmt: skip
def test_a_header_that_was_rounded_is_of_its_scan(tmp_path, affine):
    assert pair(tmp_path, affine)[1, 1, 3] == 1


@pytest.mark.parametrize(
    ("affine", "told"),
    [
        (np.diag([0.978, 0.977, 5, 1]), r"0\.735 mm from the scan .*a\.nii: another affine \(0\.75 voxels at a corner"),
        (moved(0.30), r"0\.3 mm from .*\(0\.31 voxels at a corner, 0\.31 in the middle; up to 0\.5 and 0\.25 count"),
        (moved(0.49), r"0\.5 voxels at a corner, 0\.5 in the middle"),  # a corner taken for a centre
        (moved(0, 0, -1.3), r"0\.26 voxels"),
        (moved(0, 5), r"5 mm"),
    ],
    ids=str,
)
def test_a_shift_of_a_third_of_a_voxel_or_a_scale_that_misses_half_of_one_is_another_place(tmp_path, affine, told):
    with pytest.raises(BadSample, match=told):
        pair(tmp_path, affine)


def test_small_voxels_are_compared_by_their_own_size(tmp_path):
    fine, shifted = np.diag([0.02, 0.02, 0.02, 1]), np.diag([0.02, 0.02, 0.02, 1])
    shifted[0, 3] = 0.05  # 2.5 voxels, and less than a tenth of a millimetre
    with pytest.raises(BadSample, match=r"2\.5 voxels"):
        pair(tmp_path, shifted, (8, 8, 8), fine)


QUARTER = np.array([[0, -1, 0, 90], [1, 0, 0, 5], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("turn", [TURN, QUARTER, np.diag([-1.0, -1, 1, 1])], ids=["little", "quarter", "half"])
def test_labels_drawn_in_software_that_goes_by_the_qform_are_on_the_same_voxels(tmp_path, turn):
    """A scan with a registered sform; its labels, from ITK, have the qform in both places."""
    scan = nifti(tmp_path / "a.nii", sform=turn @ PLACE, codes=(2, 1))
    labels = nifti(tmp_path / "l.nii", sform=PLACE, codes=(1, 1))
    found = reader.label_map(labels, scan)
    all_of_it = VolumeReader(found.shape, intensity="none").read(scan, [whole])[0]
    np.testing.assert_array_equal(found, all_of_it.x[0].numpy())


def test_labels_drawn_in_itk_on_a_scan_that_says_nothing_of_its_sides_are_on_its_voxels(tmp_path):
    scan = nifti(tmp_path / "a.nii", codes=(0, 0))
    address = nifti(tmp_path / "l.nii", sform=np.diag([-0.8, -0.8, 2.5, 1]), qform=np.diag([-0.8, -0.8, 2.5, 1]))
    np.testing.assert_array_equal(in_itk(scan), in_itk(address))
    np.testing.assert_array_equal(
        reader.label_map(address, scan)[:, :, ::-1], np.arange(np.prod(SHAPE)).reshape(SHAPE).T
    )


def test_labels_of_another_place_than_either_form_are_refused(tmp_path):
    scan = nifti(tmp_path / "a.nii", sform=TURN @ PLACE, codes=(2, 1))
    far = PLACE.copy()
    far[0, 3] += 4
    with pytest.raises(BadSample, match="another affine"):
        reader.label_map(nifti(tmp_path / "l.nii", sform=far, qform=far), scan)


def test_how_far_two_places_lie_apart():
    other = np.diag([1.1, 1, 1, 1.0])
    between = apart(np.diag([1.0, 1, 2, 1]), np.diag([1.0, 1, 2.5, 1]), (3, 4, 11))
    assert (between.mm, between.voxels, between.middle) == pytest.approx((5, 2.5, 1.25))
    between = apart(np.eye(4), other, (11, 2, 2))
    assert (between.mm, between.voxels, between.middle) == pytest.approx((1, 1, 0.5))
