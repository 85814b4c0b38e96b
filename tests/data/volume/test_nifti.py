"""What a NIfTI, MGH or NRRD header says is what is read: place, units, values, to the last bit."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from data.volume.placed_scans import PLACE, SHAPE, TURN, nifti

from mae_ext.data.sample import whole
from mae_ext.data.volume.nifti import MAX_OFFSET
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

reader = VolumeReader((5, 6, 7), intensity="none")
VOXELS = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


def read(address):
    return reader.read(str(address), [whole])[0]


@pytest.mark.parametrize(
    ("code", "factor"), [(0, 1), (1, 0.001), (2, 1), (3, 1000), (1 | 8, 0.001), (3 | 16, 1000), (2 | 24, 1), (8, 1)]
)
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (0, 0), (2, 1)])
def test_metres_and_micrometres_become_millimetres_and_the_unit_of_time_means_nothing(tmp_path, code, factor, codes):
    """factor: of that unit in a millimetre. Of the sform, the qform, the lengths without either, and the places."""
    scale = np.diag([factor, factor, factor, 1])

    def fix(header):
        header["xyzt_units"] = code

    address = nifti(tmp_path / "a.nii", sform=scale @ PLACE, qform=scale @ PLACE, codes=codes, fix=fix)
    found = reader.formats.declared(address)
    assert read(address).spacing == pytest.approx((2.5, 0.8, 0.8), rel=1e-6)
    wanted = np.array([[-0.8, 0, 0, 2.4], [0, 0.8, 0, -2], [0, 0, 2.5, -5], [0, 0, 0, 1]]) if not any(codes) else PLACE
    np.testing.assert_allclose(found.affine, wanted, rtol=1e-5, atol=1e-6)
    if codes == (2, 1):
        np.testing.assert_allclose(found.other, PLACE, rtol=1e-5, atol=1e-6)
    if codes == (0, 0):
        np.testing.assert_allclose(found.other, np.diag([-0.8, -0.8, 2.5, 1]), rtol=1e-6)


def test_the_sform_comes_before_the_qform_and_the_qform_before_nothing_at_all(tmp_path):
    for codes, wanted in (((4, 1), TURN @ PLACE), ((1, 1), TURN @ PLACE), ((1, 0), TURN @ PLACE), ((0, 3), PLACE)):
        found = reader.formats.declared(nifti(tmp_path / "a.nii", sform=TURN @ PLACE, qform=PLACE, codes=codes))
        np.testing.assert_allclose(found.affine, wanted, atol=1e-5)
        assert (found.other is None) == (0 in codes) and found.sided


@pytest.mark.parametrize(("qfac", "sign"), [(1, 1), (0, 1), (7, 1), (-1, -1), (np.nan, 1)])
def test_a_qform_whose_handedness_is_not_said_is_right_handed(tmp_path, qfac, sign):
    """nifti1.h: pixdim[0] of 0 or anything else above -1 counts as 1."""

    def fix(header):
        header["pixdim"][0] = qfac

    found = reader.formats.declared(nifti(tmp_path / "a.nii", codes=(0, 1), fix=fix))
    np.testing.assert_allclose(found.affine, PLACE * [1, 1, sign, 1], atol=1e-5)


def test_values_are_scaled_and_axes_of_length_1_after_the_third_are_nothing(tmp_path):
    address = nifti(
        tmp_path / "a.nii", data=VOXELS[..., None, None], fix=lambda h: h.set_slope_inter(0.5, -1024)
    )  # fmt: skip
    np.testing.assert_array_equal(read(address).x[0].numpy(), VOXELS.T * np.float32(0.5) - 1024)


def test_a_slope_of_0_is_no_scaling_at_all(tmp_path):
    address = nifti(tmp_path / "a.nii", fix=lambda h: (h.__setitem__("scl_slope", 0), h.__setitem__("scl_inter", 9)))
    np.testing.assert_array_equal(read(address).x[0].numpy(), VOXELS.T)


@pytest.mark.parametrize("offset", [0, 352, 360, 4096])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_begin_where_the_header_says(tmp_path, offset, name):
    path = tmp_path / "b.nii"
    nifti(path, fix=lambda h: h.__setitem__("vox_offset", offset))
    content = path.read_bytes()
    content = content[:352] + b"\x07" * (max(offset, 352) - 352) + content[352:]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    np.testing.assert_array_equal(read(tmp_path / name).x[0].numpy(), VOXELS.T)


@pytest.mark.parametrize(
    ("offset", "told"), [(347, "352"), (351.5, "351.5"), (MAX_OFFSET + 16, "67108864"), (-1, "-1")]
)
def test_an_offset_that_cannot_be_is_refused_by_its_number(tmp_path, offset, told):
    address = nifti(tmp_path / "a.nii", fix=lambda h: h.__setitem__("vox_offset", offset))
    with pytest.raises(BadSample, match="voxels begin at byte") as info:
        read(address)
    assert info.value.kind == "header" and f"{offset:g}" in info.value.detail and told


@pytest.mark.parametrize(("slope", "inter"), [(1, -1024), (2, 0), (0.5, 3), (-1, 0)])
def test_slope_and_intercept_are_both_applied(tmp_path, slope, inter):
    address = nifti(tmp_path / "a.nii", fix=lambda h: h.set_slope_inter(slope, inter))
    np.testing.assert_array_equal(read(address).x[0].numpy(), VOXELS.T * np.float32(slope) + np.float32(inter))


@pytest.mark.parametrize(
    ("second", "told"),
    [((0.8, 0, 0), "its determinant is 0"), ((0.8, 0.03, 0), r"lean on each other \(determinant 0\.037")],
)
def test_axes_that_all_but_coincide_are_refused_with_their_determinant(tmp_path, second, told):
    affine = PLACE.copy()
    affine[:3, 1] = second
    with pytest.raises(BadSample, match=told) as info:
        read(nifti(tmp_path / "a.nii", sform=affine, codes=(1, 0)))
    assert info.value.kind == "geometry"


def test_a_table_of_surface_points_is_no_volume(tmp_path):
    for code, bad in ((2999, False), (3000, True), (3099, True), (3100, False)):
        address = nifti(tmp_path / "a.nii", fix=lambda h, code=code: h.__setitem__("intent_code", code))
        if bad:
            with pytest.raises(BadSample, match="CIFTI"):
                read(address)
        else:
            read(address)


NRRD = "NRRD0004\n# a comment: with a colon\nscanner:=A\n"
NRRD += "type: short\ndimension: 3\nspace: {space}\nsizes: 7 6 5\nendian: {endian}\n"
NRRD += "space directions: {directions}\n{more}encoding: raw\nspace origin: ({origin})\n\n"
DIRECTIONS = "(0.8,0,0) (0,0.8,0) (0,0,2.5)"


def nrrd(
    path, space="RAS", endian="little", directions=DIRECTIONS, more="", origin="-25,-22,10", data=VOXELS, factor=1
):
    text = NRRD.format(space=space, endian=endian, directions=directions, more=more, origin=origin)
    path.write_bytes(text.encode() + data.astype("<i2" if endian == "little" else ">i2").tobytes("F"))
    return str(path)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)), ("RAS", (1, 1, 1)), ("LAS", (-1, 1, 1)), ("LPS", (-1, -1, 1)),
        ("left-anterior-superior", (-1, 1, 1)), ("left-posterior-superior", (-1, -1, 1)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("endian", ["little", "big"])
def test_the_world_of_a_nrrd_and_its_byte_order_are_its_own(tmp_path, space, signs, endian):
    address = nrrd(tmp_path / "a.nrrd", space, endian)
    np.testing.assert_allclose(reader.formats.declared(address).affine, np.diag([*signs, 1]) @ PLACE)
    turned = VOXELS[:: signs[0], :: signs[1], :: signs[2]]
    np.testing.assert_array_equal(read(address).x[0].numpy(), turned.T)


@pytest.mark.parametrize(
    ("units", "factor"),
    [('"mm" "mm" "mm"', 1), ('"um" "um" "um"', 1000), ('"m" "m" "m"', 0.001), ('"" "" ""', 1), ('"cm" "cm" "cm"', 0.1)],
)
def test_a_nrrd_in_other_units_becomes_millimetres(tmp_path, units, factor):
    directions = f"({0.8 * factor},0,0) (0,{0.8 * factor},0) (0,0,{2.5 * factor})"
    origin = f"{-25 * factor},{-22 * factor},{10 * factor}"
    address = nrrd(tmp_path / "a.nrrd", directions=directions, origin=origin, more=f"space units: {units}\n")
    np.testing.assert_allclose(reader.formats.declared(address).affine, PLACE)


@pytest.mark.parametrize("units", ['"inch" "inch" "inch"', '"mm" "mm" "s"'])
def test_a_nrrd_in_units_that_are_not_known_is_refused(tmp_path, units):
    with pytest.raises(BadSample, match="space units") as info:
        read(nrrd(tmp_path / "a.nrrd", more=f"space units: {units}\n"))
    assert info.value.kind == "geometry"


@pytest.mark.parametrize("key", ["line skip", "byte skip", "lineskip", "byteskip"])
def test_a_nrrd_that_skips_is_refused_and_one_that_skips_nothing_is_read(tmp_path, key):
    np.testing.assert_array_equal(read(nrrd(tmp_path / "a.nrrd", more=f"{key}: 0\n")).x[0].numpy(), VOXELS.T)
    with pytest.raises(BadSample, match=f"'{key}: 5'"):
        read(nrrd(tmp_path / "a.nrrd", more=f"{key}: 5\n"))


@pytest.mark.parametrize(
    "directions", ["(0.8,0,0) (0,0.8,0)", "(0.8,0,0) (0,0.8,0) none", "(0.8,0,0) (0,0.8,0) (0,0,2.5) none"]
)
def test_a_nrrd_without_three_directions_for_its_axes_is_refused(tmp_path, directions):
    with pytest.raises(BadSample, match="a volume has three") as info:
        read(nrrd(tmp_path / "a.nrrd", directions=directions))
    assert info.value.kind == "axes"


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_a_nrrd_has_its_channels_on_whichever_axis_has_no_direction(tmp_path, at):
    data = np.stack([VOXELS, 500 - VOXELS], at)
    rows = DIRECTIONS.split()
    rows.insert(at, "none")
    text = NRRD.format(space="RAS", endian="little", directions=" ".join(rows), more="", origin="0,0,0")
    text = text.replace("dimension: 3", "dimension: 4").replace(
        "sizes: 7 6 5", f"sizes: {' '.join(map(str, data.shape))}"
    )
    (tmp_path / "a.nrrd").write_bytes(text.encode() + data.tobytes("F"))
    found = VolumeReader((5, 6, 7), 2, intensity="none", channel_axis=at).read(str(tmp_path / "a.nrrd"), [whole])[0]
    np.testing.assert_array_equal(found.x.numpy(), [VOXELS.T, 500 - VOXELS.T])


def test_mgh_is_placed_about_its_middle_and_its_voxels_follow_284_bytes(tmp_path):
    nib.MGHImage(VOXELS, TURN @ PLACE).to_filename(tmp_path / "a.mgh")
    found = reader.formats.declared(str(tmp_path / "a.mgh"))
    np.testing.assert_allclose(found.affine, TURN @ PLACE, atol=1e-4)
    assert found.sided and found.code == 1
    np.testing.assert_array_equal(read(tmp_path / "a.mgh").x[0].numpy(), VOXELS.T)
