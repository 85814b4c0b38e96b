"""Compressed pixels: those of the raw twin where nothing is lost, and no more of them than the header declares."""

import re
import struct
import sys

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.compressed import SYNTAX, save_as  # noqa: E402
from data.volume.dicom.dicom_files import enhanced, frame, series  # noqa: E402
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.encaps import generate_frames  # noqa: E402

from mae_ext.data.volume.dicom.codecs import planes as planes_of  # noqa: E402
from mae_ext.data.volume.dicom.header import opened  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample, UserError  # noqa: E402

SHAPE = (3, 40, 56)
CORE = ("RLE", "deflated")
EXTRA = ("lossless JPEG", "lossless JPEG of any predictor", "JPEG-LS", "HTJ2K")
LOST = {"JPEG-LS, nearly": 2, "JPEG 2000, lossy": 40, "JPEG of 12 bits": 60}


def smooth(dtype=np.int16, bits=16):
    """Something as smooth as a scan, over all of the numbers that the bits hold; what is signed begins below 0."""
    z, y, x = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    wave = np.sin(y / 7 + z) * np.cos(x / 9) + np.random.default_rng(0).normal(0, 0.01, SHAPE)
    half = (1 << (bits - 1)) - 1
    return np.rint(wave / np.abs(wave).max() * half + (0 if np.dtype(dtype).kind == "i" else half)).astype(dtype)


def written(folder, stored, kind, **tags):
    bits = tags.pop("bits", 8 * stored.itemsize)
    series(folder, stored, RescaleSlope=1, RescaleIntercept=0, BitsStored=bits, HighBit=bits - 1)
    for file in sorted(folder.iterdir()):
        save_as(file, kind, **tags)
    return f"{folder}/"


def load(address, **options):
    scan = VolumeReader(SHAPE, **options).formats.declared(address)
    return scan.load()


def refused(address, **options):
    """The kind and what is wrong, without the name of the file of a series."""
    with pytest.raises(BadSample) as bad:
        load(address, **options)
    return f"{bad.value.kind}: {re.sub(r'^[^ :]+[.]dcm: ', '', bad.value.detail)}"


@pytest.mark.parametrize("kind", [*CORE, "JPEG 2000", *EXTRA])
@pytest.mark.parametrize(("dtype", "bits"), [(np.int16, 16), (np.uint16, 16), (np.int16, 12)], ids=str)
def test_what_loses_nothing_gives_the_stored_numbers(tmp_path, kind, dtype, bits):
    if kind not in CORE:
        pytest.importorskip("imagecodecs", reason="not installed (extra dicom-codecs)")
    stored = smooth(dtype, bits)
    voxels = load(written(tmp_path / "s", stored, kind, bits=bits))
    assert voxels.dtype == dtype
    np.testing.assert_array_equal(voxels, stored)


@pytest.mark.parametrize("kind", LOST)
def test_what_loses_something_loses_no_more_than_that(tmp_path, kind):
    pytest.importorskip("imagecodecs", reason="not installed (extra dicom-codecs)")
    stored = smooth(np.uint16, 12)
    voxels = load(written(tmp_path / "s", stored, kind, bits=12)).astype(int)
    assert 0 < np.abs(voxels - stored).max() <= LOST[kind]


def test_a_jpeg_of_8_bits_is_what_pillow_makes_of_it(tmp_path):
    stored = smooth(np.uint8, 8)
    voxels = load(written(tmp_path / "s", stored, "JPEG")).astype(int)
    assert voxels.shape == SHAPE and 0 < np.abs(voxels - stored).max() <= 12


@pytest.mark.parametrize("kind", ["RLE", "JPEG 2000", "JPEG-LS"])
def test_frames_of_an_enhanced_object_are_decoded_each_in_its_place(tmp_path, kind):
    pytest.importorskip("imagecodecs", reason="not installed (extra dicom-codecs)")
    stored = smooth()
    enhanced(tmp_path / "a.dcm", [frame(stored[z], z, scale=None) for z in (2, 0, 1)])
    save_as(tmp_path / "a.dcm", kind)
    np.testing.assert_array_equal(load(str(tmp_path / "a.dcm")).swapaxes(-1, -2), stored)


TWINS = {
    "MR_small.dcm": ("RLE", "jp2klossless", "jpeg_ls_lossless", "expb", "bigendian", "implicit"),
    "rtdose.dcm": ("rle", "expb"),
}


@pytest.mark.parametrize(("twin", "name"), [(twin, name) for twin, names in TWINS.items() for name in names])
def test_real_files_have_the_pixels_of_their_raw_twins(twin, name):
    if "jpeg" in name:
        pytest.importorskip("imagecodecs", reason="not installed (extra dicom-codecs)")
    file, twin = (get_testdata_file(n, download=False) for n in (twin.replace(".", f"_{name}."), twin))
    data = opened(file, 1 << 20)
    made = np.stack(list(planes_of(file, data, range(int(data.get("NumberOfFrames") or 1)))))
    np.testing.assert_array_equal(made.squeeze(), pydicom.dcmread(twin).pixel_array)


def test_a_codestream_whose_sign_the_header_contradicts_is_read_by_the_header():
    """Of 13 bits, written as if they had no sign: the least is -2000, which SimpleITK says as well."""
    file = get_testdata_file("J2K_pixelrep_mismatch.dcm", download=False)
    (plane,) = planes_of(file, opened(file, 1 << 20), [0])
    assert (plane.min(), plane.max()) == (-2000, 1896)


def test_without_its_decoder_one_line_names_the_extra(tmp_path, monkeypatch):
    file = get_testdata_file("MR_small_jpeg_ls_lossless.dcm", download=False)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UserError, match=r"JPEG-LS.*pip install 'mae-ext\[dicom-codecs\]'"):
        VolumeReader(SHAPE).describe(file)


@pytest.mark.parametrize("kind", [*CORE, "JPEG", "JPEG 2000", *EXTRA])
def test_pixels_that_are_cut_short_are_named(tmp_path, kind):
    pytest.importorskip("imagecodecs", reason="not installed (extra dicom-codecs)")
    address = written(tmp_path / "s", smooth(np.uint8, 8) if kind == "JPEG" else smooth(), kind)
    whole = (tmp_path / "s" / "001.dcm").read_bytes()
    if kind == "deflated":
        (tmp_path / "s" / "001.dcm").write_bytes(whole[: len(whole) - 200])
        assert refused(address).startswith("truncated: the deflated data set has no end")
        return
    folder = tmp_path / "cut"
    address = written(folder, smooth(np.uint8, 8) if kind == "JPEG" else smooth(), kind,
                      change=lambda frames: [f[: len(f) // 4 * 2] for f in frames])  # fmt: skip
    assert refused(address).split(":")[0] in ("truncated", "damaged")


@pytest.mark.parametrize("kind", ["JPEG", "JPEG 2000", *EXTRA])
@pytest.mark.parametrize("grown", [2, 400])
def test_a_frame_that_says_it_is_larger_than_its_header_does_is_never_unpacked(tmp_path, kind, grown):
    pytest.importorskip("imagecodecs", reason="not installed (extra dicom-codecs)")
    stored = smooth(np.uint8, 8) if kind == "JPEG" else smooth()

    def lie(frames):
        changed = []
        for made in frames:
            jpeg_2000 = made[:4] == b"\xff\x4f\xff\x51"
            old = struct.pack(">2I", 56, 40) if jpeg_2000 else struct.pack(">2H", 40, 56)
            new = struct.pack(">2I", 56 * grown, 40) if jpeg_2000 else struct.pack(">2H", 40, 56 * grown)
            assert old in made
            changed.append(made.replace(old, new, 1))
        return changed

    told = refused(written(tmp_path / "s", stored, kind, change=lie))
    assert told.startswith("damaged: compressed frame 1: 40 x ") and "declares 40 x 56" in told


def test_runs_that_go_on_and_on_end_where_the_plane_does(tmp_path, tmp_path_factory):
    """Two bytes stand for 128: 4 MiB of them would be 256."""
    bomb = struct.pack("<16I", 2, 64, 64 + (1 << 22), *[0] * 13) + b"\x81\x07" * (1 << 22)
    address = written(tmp_path / "s", smooth(), "RLE", change=lambda frames: [bomb] * len(frames))
    import tracemalloc

    tracemalloc.start()
    voxels = load(address)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert (voxels == 0x0707).all()


def test_a_deflated_file_unpacks_to_the_limit_and_no_further(tmp_path):
    series(tmp_path / "s", smooth())
    for file in (tmp_path / "s").iterdir():
        data = pydicom.dcmread(file)
        data.PixelData = bytes(64 << 20)
        data.file_meta.TransferSyntaxUID = SYNTAX["deflated"]
        data.save_as(file, enforce_file_format=True)
        assert file.stat().st_size < 1 << 18
    assert refused(f"{tmp_path / 's'}/", max_bytes=1 << 20).startswith("too large: it inflates to more than 1048576")
    for file in (tmp_path / "s").iterdir():
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 :])
    assert refused(f"{tmp_path / 's'}/").split(":")[0] in ("damaged", "truncated")


@pytest.mark.parametrize("more", [30, 200])
def test_what_a_deflated_file_holds_beside_its_pixels_is_not_unpacked_without_end(tmp_path, more):
    """MiB of zeros behind the pixels: it may have some, and a bomb is let alone long before the limit of 2 GiB."""
    series(tmp_path / "s", smooth(), RescaleSlope=1, RescaleIntercept=0)
    for file in (tmp_path / "s").iterdir():
        data = pydicom.dcmread(file)
        data.add_new(0xFFFCFFFC, "OB", bytes(more << 20))
        data.file_meta.TransferSyntaxUID = SYNTAX["deflated"]
        data.save_as(file, enforce_file_format=True)
    if more == 30:
        assert (np.sort(load(f"{tmp_path / 's'}/").ravel()) == np.sort(smooth().ravel())).all()
    else:
        told = refused(f"{tmp_path / 's'}/")
        assert told.startswith("too large: it inflates to more than 67113344 bytes, and declares 4480 bytes of pixels")


def test_a_deflated_file_that_declares_more_than_the_limit_is_refused_before_it_is_unpacked(tmp_path):
    address = written(tmp_path / "s", smooth(), "deflated", Rows=60_000, Columns=60_000, NumberOfFrames=3)
    assert refused(address).startswith("too large: it declares 21600000000 bytes of pixels")


def test_fewer_frames_than_are_declared_and_segments_that_point_nowhere_are_named(tmp_path):
    enhanced(tmp_path / "a.dcm", [frame(p, z) for z, p in enumerate(smooth())])
    save_as(tmp_path / "a.dcm", "RLE", change=lambda frames: frames[:2])
    assert refused(str(tmp_path / "a.dcm")).startswith("truncated: 2 compressed frames of 3")
    header = struct.pack("<16I", 2, 64, 1 << 30, *[0] * 13) + bytes(99)
    address = written(tmp_path / "s", smooth(), "RLE", change=lambda frames: [header] * len(frames))
    assert refused(address).startswith("damaged: compressed frame 1: segment 1 of RLE at 64 to 1073741824")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"HighBit": 15, "BitsStored": 12}, "data type: HighBit 15 with BitsStored 12"),
        ({"BitsStored": 17}, "data type: BitsStored 17 of BitsAllocated 16"),
    ],
    ids=str,
)
def test_pixels_that_do_not_begin_at_their_lowest_bit_are_refused(tmp_path, tags, expected):
    series(tmp_path / "s", smooth(), **tags)
    assert refused(f"{tmp_path / 's'}/").startswith(expected)


def test_bits_beyond_those_that_are_stored_are_no_part_of_a_number(tmp_path):
    """Old software keeps an overlay there, or leaves the sign of 12 bits to whoever reads them."""
    stored = smooth(np.int16, 12)
    dirty = (stored & 0x0FFF) | np.int16(0x5000)
    series(tmp_path / "s", dirty, RescaleSlope=1, RescaleIntercept=0, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(load(f"{tmp_path / 's'}/"), stored)


def test_films_in_dicom_are_refused_by_name(tmp_path):
    enhanced(tmp_path / "a.dcm", [frame(p, z) for z, p in enumerate(smooth())])
    save_as(tmp_path / "a.dcm", "RLE")
    data = pydicom.dcmread(tmp_path / "a.dcm")
    data.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    assert len(list(generate_frames(data.PixelData, number_of_frames=3))) == 3
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert refused(str(tmp_path / "a.dcm")).startswith("data type: pixels as MPEG2")
