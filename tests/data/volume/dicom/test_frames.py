"""Enhanced DICOM: place, direction, spacing and scale are those of each frame, wherever and in what order it stands."""

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import ENHANCED_CT, classic, enhanced, frame, series  # noqa: E402

from mae_ext.config import AugmentConfig  # noqa: E402
from mae_ext.data.crops import evaluation_sampler  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample  # noqa: E402

SHAPE = (6, 8, 10)  # slices, rows, columns
MACROS = ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")
ANGLE = np.deg2rad(18.5)
PLANES = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)


@pytest.fixture
def planes():
    return np.random.default_rng(0).integers(-500, 500, SHAPE).astype(np.int16)


def read(path, size=SHAPE, **options):
    reader = VolumeReader(size, **{"intensity": "none"} | options)
    crop = evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), size)
    return reader.read(f"{path}/" if path.is_dir() else str(path), [crop])[0]


def values(path, **options):
    """(D, H, W): feet to head, back to front, left to right, where these objects run to the left and to the back."""
    return read(path, **options).x[0].numpy()


def canonical(stored):
    return np.asarray(stored)[:, ::-1, ::-1]


def kind(path, **options):
    with pytest.raises(BadSample) as found:
        read(path, **options)
    assert found.value.detail
    return found.value.kind


@pytest.mark.parametrize("order", [range(6), [5, 4, 3, 2, 1, 0], [0, 2, 4, 1, 3, 5], [3, 0, 5, 1, 4, 2]], ids=str)
@pytest.mark.parametrize("shared", [(), MACROS], ids=["frame by frame", "once for all"])
def test_frames_in_any_order_lie_where_they_say(tmp_path, planes, order, shared):
    enhanced(tmp_path / "a.dcm", [frame(planes[z], z) for z in order], shared=shared)
    sample = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(sample.x[0].numpy(), canonical(planes) * 2.0 - 1024)
    assert sample.spacing == pytest.approx((2.5, 0.7, 0.8))


@pytest.mark.parametrize("angle", [0.0, ANGLE, -ANGLE])
def test_every_voxel_lies_where_its_frame_says_also_where_the_gantry_was_tilted(tmp_path, planes, angle):
    tilt = (1, 0, 0, 0, np.cos(angle), np.sin(angle))
    enhanced(tmp_path / "a.dcm", [frame(planes[z], z, orientation=tilt) for z in (4, 0, 3, 1, 5, 2)])
    found = VolumeReader(SHAPE, uneven="keep").formats.declared(str(tmp_path / "a.dcm"))
    voxels = found.load()  # the file's axes are row, column, slice
    assert found.shape == (8, 10, 6)
    for z in range(6):
        (k,) = [k for k in range(6) if np.array_equal(voxels[k].T, planes[z] * 2.0 - 1024)]
        for row, column in ((0, 0), (7, 0), (0, 9), (7, 9)):
            lps = (
                np.array([-100, -90, 30 + 2.5 * z]) + np.array(tilt[:3]) * 0.8 * column + np.array(tilt[3:]) * 0.7 * row
            )
            np.testing.assert_allclose((found.affine @ [row, column, k, 1])[:3], lps * [-1, -1, 1], atol=1e-6)


def test_a_tilted_classic_series_keeps_its_lean_where_that_is_asked_for(tmp_path, planes):
    tilt = (1, 0, 0, 0, np.cos(ANGLE), np.sin(ANGLE))
    series(tmp_path / "s", planes, ImageOrientationPatient=list(tilt))
    affine = VolumeReader(SHAPE, uneven="keep").formats.declared(f"{tmp_path / 's'}/").affine
    np.testing.assert_allclose(
        affine[:3, 1], np.array([0, np.cos(ANGLE), np.sin(ANGLE)]) * [-1, -1, 1] * 0.7, atol=1e-9
    )
    np.testing.assert_allclose(affine[:3, 2], [0, 0, 2.5], atol=1e-9)
    np.testing.assert_allclose(affine[:3, 3], [100, 90, 30], atol=1e-9)


def test_an_enhanced_object_lies_where_the_same_slices_in_files_of_their_own_do(tmp_path, planes):
    oblique = (0.8, 0.6, 0, 0, 0, -1)
    at = [tuple(np.array([-100, -90, 30]) + np.cross(oblique[:3], oblique[3:]) * 3.0 * z) for z in range(6)]
    enhanced(
        tmp_path / "a.dcm",
        [frame(p, 0, position=at[z], orientation=oblique) for z, p in enumerate(planes)],
        ENHANCED_CT,
    )
    for z, plane in enumerate(planes):
        classic(tmp_path / "s" / f"{z}.dcm", plane, at[z], oblique)
    one, other = read(tmp_path / "a.dcm", size=(8, 6, 10)), read(tmp_path / "s", size=(8, 6, 10))
    np.testing.assert_array_equal(one.x.numpy(), other.x.numpy())
    assert one.spacing == pytest.approx(other.spacing)


def test_an_enhanced_ct_is_read_and_called_by_its_name(tmp_path, planes):
    enhanced(tmp_path / "a.dcm", [frame(p, z) for z, p in enumerate(planes)], ENHANCED_CT, Modality="CT")
    assert values(tmp_path / "a.dcm")[0, -1, -1] == planes[0, 0, 0] * 2 - 1024
    assert VolumeReader(SHAPE).describe(str(tmp_path / "a.dcm")).startswith("DICOM Enhanced CT")


def test_without_a_transformation_the_stored_numbers_are_the_values(tmp_path, planes):
    enhanced(tmp_path / "a.dcm", [frame(p, z, scale=None) for z, p in enumerate(planes)])
    np.testing.assert_array_equal(values(tmp_path / "a.dcm"), canonical(planes))


def test_every_frame_has_a_scale_of_its_own(tmp_path, planes):
    enhanced(tmp_path / "a.dcm", [frame(p, z, scale=(z + 1, -10 * z)) for z, p in enumerate(planes)])
    expected = [p * (z + 1.0) - 10 * z for z, p in enumerate(planes)]
    np.testing.assert_allclose(values(tmp_path / "a.dcm"), canonical(expected))


@pytest.mark.parametrize("dimensions", [("position", "time"), ("time", "position")])
@pytest.mark.parametrize("key", ["time", "b"])
def test_volumes_of_one_object_keep_their_own_scales_and_order(tmp_path, planes, dimensions, key):
    several = [
        frame(planes[z] + 100 * t, z, index={"position": z + 1, "time": t + 1}, scale=(t + 1, 0))
        | ({"b": 1000.0 * t} if key == "b" else {})
        for z in (1, 0, 2, 5, 4, 3) for t in (2, 0, 1)
    ]  # fmt: skip
    if key == "b":  # told apart by what they are, and by no index
        several = [f | {"index": {"position": f["index"]["position"]}} for f in several]
    enhanced(tmp_path / "a.dcm", several, dimensions=dimensions)
    each = [(planes + 100.0 * t) * (t + 1) for t in range(3)]
    assert kind(tmp_path / "a.dcm") == "axes"
    np.testing.assert_array_equal(values(tmp_path / "a.dcm", time_axis=3, time="first"), canonical(each[0]))
    np.testing.assert_array_equal(values(tmp_path / "a.dcm", time_axis=3, time="middle"), canonical(each[1]))
    np.testing.assert_allclose(values(tmp_path / "a.dcm", time_axis=3), canonical(np.mean(each, axis=0)), rtol=1e-6)
    channels = read(tmp_path / "a.dcm", channel_axis=3, channels=3).x.numpy()
    np.testing.assert_array_equal(channels, np.stack([canonical(e) for e in each]))


def test_echoes_are_channels_and_no_time(tmp_path, planes):
    both = [frame(planes[z] + 10 * e, z, echo=2.3 + 0.1 * e) for e in (1, 0) for z in range(6)]
    enhanced(tmp_path / "a.dcm", both)
    assert kind(tmp_path / "a.dcm", time_axis=3) == "axes"
    channels = read(tmp_path / "a.dcm", channel_axis=3, channels=2).x.numpy()
    np.testing.assert_array_equal(channels[1] - channels[0], np.full(SHAPE, 20))


def changed(planes, **of):
    return [frame(p, z, **{k: v(z) for k, v in of.items()}) for z, p in enumerate(planes)]


WRONG = {
    "a slice is missing": (lambda p: [f for z, f in enumerate(changed(p)) if z != 2], "missing slices"),
    "the distance doubles": (
        lambda p: changed(p, position=lambda z: (-100, -90, 30 + 2.5 * (z if z < 3 else 2 * z - 3))), "missing slices",
    ),
    "the distance changes by 9 %": (
        lambda p: changed(p, position=lambda z: (-100, -90, 30 + 2.5 * (z if z < 3 else 3 + 1.09 * (z - 3)))),
        "missing slices",
    ),
    "half lies 30 mm aside": (
        lambda p: changed(p, position=lambda z: (-100 + 30 * (z > 2), -90, 30 + 2.5 * z)), "mixed series",
    ),
    "half lies a pixel aside": (
        lambda p: changed(p, position=lambda z: (-100, -90 + 0.7 * (z > 2), 30 + 2.5 * z)), "mixed series",
    ),
    "one lies a millimetre aside": (
        lambda p: changed(p, position=lambda z: (-100 + (z == 5), -90, 30 + 2.5 * z)), "mixed series",
    ),
    "three planes": (
        lambda p: changed(p, orientation=lambda z: PLANES[z // 2]),
        "mixed series",
    ),
    "two spacings": (lambda p: changed(p, spacing=lambda z: (0.7, 0.8 + (z > 2))), "mixed series"),
    "magnitude and phase": (lambda p: changed(p, kind=lambda z: "MP"[z % 2]), "mixed series"),
    "real and imaginary parts": (
        lambda p: changed(p, kind=lambda z: "M", component=lambda z: ("REAL", "IMAGINARY")[z % 2]), "mixed series",
    ),
    "a computed trace among directions": (
        lambda p: [
            *changed(p, b=lambda z: 0.0, diffusion=lambda z: {"DiffusionDirectionality": "DIRECTIONAL"}),
            *changed(p, b=lambda z: 9.0, diffusion=lambda z: {"DiffusionDirectionality": "ISOTROPIC"}),
        ],
        "mixed series",
    ),
    "stacks that are told apart by time as well": (
        lambda p: [*changed(p), *changed(p, stack=lambda z: 2, index=lambda z: {"time": 2})], "mixed series",
    ),
    "a line that bends": (
        lambda p: changed(p, position=lambda z: (-100 + 0.02 * z**2, -90, 30 + 2.5 * z)), "mixed series",
    ),
    "some are scaled": (lambda p: changed(p, scale=lambda z: None if z % 2 else (2, 0)), "mixed series"),
    "two echoes": (lambda p: changed(p, echo=lambda z: 2.0 + z % 2), "mixed series"),
    "a frame twice": (lambda p: [*changed(p), changed(p)[3]], "repeated slices"),
    "every frame twice": (lambda p: [*changed(p), *changed(p)], "repeated slices"),
    "one frame in two places": (
        lambda p: [*changed(p), *changed(p, position=lambda z: (-60, -90, 30 + 2.5 * z), index=lambda z: {"time": 2})],
        "mixed series",
    ),
    "two stacks over each other": (
        lambda p: [*changed(p), *changed(p, stack=lambda z: 2, index=lambda z: {"position": z + 9})], "repeated slices",
    ),
    "two stacks far apart": (
        lambda p: [*changed(p), *changed(p, position=lambda z: (-100, -90, 130 + 2.5 * z), stack=lambda z: 2)],
        "missing slices",
    ),
    "a direction of no length": (lambda p: changed(p, orientation=lambda z: (1, 0, 0, 0, 0, 0)), "geometry"),
    "directions that lean": (lambda p: changed(p, orientation=lambda z: (1, 0, 0, 0.6, 0.8, 0)), "geometry"),
    "one place": (lambda p: changed(p, position=lambda z: (0, 0, 0), index=lambda z: {"time": z}), "axes"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_frames_that_are_no_volume_are_refused_by_name(tmp_path, planes, what):
    frames, expected = WRONG[what]
    enhanced(tmp_path / "a.dcm", frames(planes), dimensions=("time", "position"))
    assert kind(tmp_path / "a.dcm", time_axis=-1) == expected


def test_what_a_frame_says_goes_before_what_is_said_for_all(tmp_path, planes):
    enhanced(tmp_path / "a.dcm", [frame(p, z, scale=(3, 0)) for z, p in enumerate(planes)])
    data = pydicom.dcmread(tmp_path / "a.dcm")
    shared = pydicom.Dataset()
    shared.RescaleSlope, shared.RescaleIntercept = 7, 7
    data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = pydicom.Sequence([shared])
    data.RescaleSlope, data.RescaleIntercept = 9, 9
    data.save_as(tmp_path / "a.dcm")
    np.testing.assert_array_equal(values(tmp_path / "a.dcm"), canonical(planes) * 3.0)


def test_small_roundings_of_the_position_are_no_fault(tmp_path, planes):
    jitter = np.random.default_rng(1).uniform(-0.02, 0.02, (6, 3))
    enhanced(tmp_path / "a.dcm", changed(planes, position=lambda z: tuple([-100, -90, 30 + 2.5 * z] + jitter[z])))
    np.testing.assert_array_equal(values(tmp_path / "a.dcm"), canonical(planes) * 2.0 - 1024)


def test_stacks_that_go_on_in_each_other_are_one_volume(tmp_path, planes):
    enhanced(tmp_path / "a.dcm", changed(planes, stack=lambda z: 1 + z // 3), dimensions=("stack", "position"))
    np.testing.assert_array_equal(values(tmp_path / "a.dcm"), canonical(planes) * 2.0 - 1024)


def test_files_that_are_volumes_are_time_by_their_numbers(tmp_path, planes):
    for name, number in (("a", 2), ("b", 1)):
        enhanced(tmp_path / "s" / f"{name}.dcm", changed(planes + 10 * number), InstanceNumber=number)
    first = values(tmp_path / "s", time_axis=3, time="first")
    np.testing.assert_array_equal(first, canonical(planes + 10) * 2.0 - 1024)


def test_volumes_of_one_number_are_time_by_their_names(tmp_path, planes):
    for name, more in (("b", 20), ("a", 10)):
        enhanced(tmp_path / "s" / f"{name}.dcm", changed(planes + more))
    first = values(tmp_path / "s", time_axis=3, time="first")
    np.testing.assert_array_equal(first, canonical(planes + 10) * 2.0 - 1024)


def halves(folder, planes, **tags):
    frames = changed(planes)
    enhanced(folder / "a.dcm", frames[:3], InConcatenationNumber=1, **tags)
    enhanced(folder / "b.dcm", frames[3:], InConcatenationNumber=2, **tags)


def test_halves_of_a_volume_are_joined_where_they_say_that_they_are_parts_and_never_averaged(tmp_path, planes):
    halves(tmp_path / "told", planes, ConcatenationUID="1.2.7", InConcatenationTotalNumber=2)
    halves(tmp_path / "untold", planes)
    np.testing.assert_array_equal(values(tmp_path / "told"), canonical(planes) * 2.0 - 1024)
    assert kind(tmp_path / "untold", time_axis=-1) == "mixed series"
    (tmp_path / "told" / "b.dcm").unlink()
    enhanced(tmp_path / "told" / "b.dcm", changed(planes)[3:], ConcatenationUID="1.2.8")
    assert kind(tmp_path / "told") == "mixed series"


def test_a_concatenation_that_lacks_a_part_is_not_complete(tmp_path, planes):
    halves(tmp_path / "s", planes, ConcatenationUID="1.2.7", InConcatenationTotalNumber=3)
    assert kind(tmp_path / "s") == "missing slices"


def test_objects_of_one_frame_each_are_slices(tmp_path, planes):
    for z, plane in enumerate(planes):
        enhanced(tmp_path / "s" / f"{5 - z}.dcm", [frame(plane, z)])
    np.testing.assert_array_equal(values(tmp_path / "s"), canonical(planes) * 2.0 - 1024)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"NumberOfFrames": 7}, "header"),
        ({"NumberOfFrames": -6}, "header"),
        ({"PerFrameFunctionalGroupsSequence": None}, "header"),
        ({"PerFrameFunctionalGroupsSequence": None, "SharedFunctionalGroupsSequence": None}, "header"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "not a scan"),
        ({"PixelData": None, "FloatPixelData": bytes(4 * 480)}, "data type"),
        ({"PixelData": bytes(100)}, "truncated"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else value,
)
def test_objects_that_cannot_be_read_are_named(tmp_path, planes, tags, expected):
    enhanced(tmp_path / "a.dcm", changed(planes), **tags)
    assert kind(tmp_path / "a.dcm") == expected


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
@pytest.mark.parametrize("form", ["classic", "enhanced"])
@pytest.mark.parametrize("written", [("US", 63536), ("SS", -2000)], ids=str)
def test_padding_is_no_value_and_not_valid(tmp_path, dtype, form, written):
    """-2000 in 16 bits, whatever sign it was written with: 62 512 HU, or -3024, is measured nowhere."""
    stored = np.random.default_rng(0).integers(100, 2000, SHAPE).astype(dtype)
    stored[:, :3] = 63536 if dtype == np.uint16 else -2000
    stored[0, 5, 5] = 24  # -976 HU: the least that was measured
    tags = {"PixelPaddingValue": pydicom.DataElement(0x00280120, *written)}
    if form == "classic":
        series(tmp_path / "s", stored, RescaleSlope=1, RescaleIntercept=-1000, **tags)
    else:
        enhanced(tmp_path / "s" / "a.dcm", changed(stored, scale=lambda z: (1, -1000)), **tags)
    sample = read(tmp_path / "s")
    padded = canonical(np.broadcast_to(np.arange(8)[None, :, None] < 3, SHAPE))
    np.testing.assert_array_equal(sample.valid[0].numpy(), ~padded)
    expected = np.where(padded, -976.0, canonical(stored.astype(float)) - 1000)
    np.testing.assert_array_equal(sample.x[0].numpy(), expected)


def test_padding_up_to_a_limit_and_with_a_falling_scale(tmp_path):
    stored = np.random.default_rng(0).integers(100, 2000, SHAPE).astype(np.int16)
    stored[:, 0], stored[:, 1], stored[:, 2] = -2000, -1999, -1998
    tags = {"PixelPaddingValue": -1999, "PixelPaddingRangeLimit": -2000}
    series(tmp_path / "s", stored, RescaleSlope=-1, RescaleIntercept=0, **tags)
    sample = read(tmp_path / "s")
    padded = canonical(np.broadcast_to(np.arange(8)[None, :, None] < 2, SHAPE))
    np.testing.assert_array_equal(sample.valid[0].numpy(), ~padded)
    assert sample.x[0].numpy()[padded].tolist() == [-float(stored.max())] * int(padded.sum())


def test_what_one_time_point_did_not_measure_another_may_have(tmp_path):
    stored = np.random.default_rng(0).integers(100, 2000, (2, *SHAPE)).astype(np.int16)
    stored[0, 2, 4] = -2000
    for t in range(2):
        for z in range(6):
            classic(
                tmp_path / "s" / f"{t}{z}.dcm", stored[t, z], (0, 0, z), InstanceNumber=t + 1, RescaleSlope=1,
                RescaleIntercept=0, PixelPaddingValue=-2000,
            )  # fmt: skip
    first = read(tmp_path / "s", time_axis=3, time="first").valid[0].numpy()
    assert not first[2, 3].any() and first.sum() == first.size - 10
    mean = read(tmp_path / "s", time_axis=3, time="mean")
    expected = stored.astype(float).mean(0)
    expected[2, 4] = stored[1, 2, 4]
    np.testing.assert_allclose(mean.x[0].numpy(), canonical(expected))
    assert mean.valid.all() and read(tmp_path / "s", time_axis=3, time="middle").valid.all()


def test_a_scan_of_nothing_but_padding_is_constant(tmp_path):
    series(tmp_path / "s", np.full(SHAPE, -2000, np.int16), PixelPaddingValue=-2000)
    assert kind(tmp_path / "s") == "constant"
