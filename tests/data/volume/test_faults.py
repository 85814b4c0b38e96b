"""Forty kinds of bad NIfTI, each made in the test: every one is named, none crashes, none is believed."""

import gzip
import struct
import time
import tracemalloc
from math import prod

import nibabel as nib
import numpy as np
import pytest

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

SIZE = (8, 8, 8)
CENTRE = evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), SIZE)


def shape_of(seed, axes=3):
    return tuple(int(n) for n in np.random.default_rng(seed).integers(9, 20, axes))


def nifti(seed, dtype=np.int16, shape=None, affine=None, fix=None, data=None):
    """Bytes of a good .nii, after `fix(header)` where it is given."""
    chance = np.random.default_rng(seed)
    if data is None:
        data = chance.integers(0, 100, shape or shape_of(seed)).astype(dtype)
    header = nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_sform(np.diag([1.5, 1.0, 2.0, 1.0]) if affine is None else affine, 1)
    header["pixdim"][1:4] = 1.5, 1, 2
    header["vox_offset"], header["magic"], header["scl_slope"] = 352, b"n+1", 1
    if fix:
        fix(header)
    return header.binaryblock + bytes(4) + np.asfortranarray(data).tobytes("F")


def field(name, value, **options):
    def make(seed):
        def fix(header):
            header[name] = value

        return nifti(seed, fix=fix, **options)

    return make


def item(name, index, value):
    def make(seed):
        def fix(header):
            header[name][index] = value

        return nifti(seed, fix=fix)

    return make


def with_voxels(value, count=1000, dtype=np.float32):
    def make(seed):
        chance = np.random.default_rng(seed)
        data = chance.normal(100, 20, shape_of(seed)).astype(dtype)
        data.reshape(-1)[chance.choice(data.size, min(count, data.size // 2), replace=False)] = value
        return nifti(seed, data=data)

    return make


def zipped(make):
    return lambda seed: gzip.compress(make(seed) if callable(make) else make, mtime=0)


def cut(make, low, high):
    def made(seed):
        content = make(seed)
        return content[: int(len(content) * np.random.default_rng(seed).uniform(low, high))]

    return made


def flipped(seed):
    content = bytearray(zipped(nifti)(seed))
    at = np.random.default_rng(seed).integers(20, len(content) - 20)
    content[at] ^= 0x10
    return bytes(content)


def trailer(offset):
    def make(seed):
        content = bytearray(zipped(nifti)(seed))
        content[len(content) - 8 + offset + seed % 4] ^= 0x21
        return bytes(content)

    return make


def bomb(seed):
    block = nifti(seed, fix=lambda h: h.__setitem__("dim", [3, 1024, 1024, 512, 1, 1, 1, 1]))[:352]
    return gzip.compress(block, 9, mtime=0)


def doubled(seed):
    affine = np.eye(4)
    affine[:3, 1] = affine[:3, 0]
    return nifti(seed, affine=affine)


def rgb(seed, code=128, channels=3):
    def fix(header):
        header["datatype"], header["bitpix"] = code, 8 * channels

    return nifti(seed, fix=fix, data=np.zeros((*shape_of(seed), channels), np.uint8)[..., 0])


NII, GZ = "scan.nii", "scan.nii.gz"
LIMIT = 1 << 18
BAD = {
    "empty": (NII, lambda seed: b"", "empty"),
    "three bytes": (NII, lambda seed: b"\0\1\2", "truncated"),
    "header cut": (NII, lambda seed: nifti(seed)[: 20 + seed], "truncated"),
    "voxels cut": (NII, cut(nifti, 0.3, 0.99), "truncated"),
    "gzip cut": (GZ, cut(zipped(nifti), 0.2, 0.9), "truncated"),
    "gzip trailer cut": (GZ, lambda seed: zipped(nifti)(seed)[: -1 - seed % 8], "truncated"),
    "web page": (NII, lambda seed: b"<html><body>404</body></html>" * (20 + seed), "not a scan"),
    "web page, zipped": (GZ, zipped(b"<html>not found</html>" * 30), "not a scan"),
    "picture": (NII, lambda seed: b"\x89PNG\r\n\x1a\n" + bytes(400 + seed), "not a scan"),
    "gzip of nothing": (GZ, zipped(b""), "truncated"),
    "flipped byte": (GZ, flipped, "damaged"),
    "wrong CRC": (GZ, trailer(0), "damaged"),
    "wrong length field": (GZ, trailer(4), "damaged"),
    "bomb": (GZ, bomb, "truncated"),
    "Analyze": (NII, field("magic", b""), "not a scan"),
    "header of a pair": (NII, field("magic", b"ni1"), "header"),
    "unknown data type": (NII, field("datatype", 3), "header"),
    "dim[0] is 0": (NII, item("dim", 0, 0), "header"),
    "dim[0] is 9": (NII, item("dim", 0, 9), "header"),
    "negative dim": (NII, item("dim", 2, -5), "axes"),
    "axis of length 0": (NII, item("dim", 3, 0), "axes"),
    "32767 cubed": (NII, field("dim", [3, 32767, 32767, 32767, 1, 1, 1, 1]), "too large"),
    "negative offset": (NII, field("vox_offset", -352.0), "header"),
    "NaN offset": (NII, field("vox_offset", np.nan), "header"),
    "offset inside the header": (NII, field("vox_offset", 100.0), "header"),
    "offset past the end": (NII, field("vox_offset", 1e6), "truncated"),
    "slope NaN": (NII, field("scl_slope", np.nan), "scaling"),
    "slope infinite": (NII, field("scl_slope", np.inf), "scaling"),
    "slope 1e30": (NII, field("scl_slope", 1e30), "scaling"),
    "intercept infinite": (NII, field("scl_inter", np.inf), "scaling"),
    "RGB": (NII, rgb, "RGB"),
    "RGBA": (NII, lambda seed: rgb(seed, 2304, 4), "RGB"),
    "complex": (NII, lambda seed: nifti(seed, np.complex64), "complex"),
    "float128": (NII, field("datatype", 1536), "data type"),
    "affine 0": (NII, lambda seed: nifti(seed, affine=np.diag([0.0, 0, 0, 1])), "geometry"),
    "affine NaN": (NII, lambda seed: nifti(seed, affine=np.diag([1.0, np.nan, 1, 1])), "geometry"),
    "two axes the same way": (NII, doubled, "geometry"),
    "pixdim 0": (NII, item("pixdim", 2, 0), "voxel size"),
    "pixdim NaN": (NII, item("pixdim", 3, np.nan), "voxel size"),
    "voxels of a metre": (NII, field("xyzt_units", 1), "voxel size"),
    "plane": (NII, lambda seed: nifti(seed, shape=shape_of(seed, 2)), "axes"),
    "one slice": (NII, lambda seed: nifti(seed, shape=(*shape_of(seed, 2), 1)), "axes"),
    "four axes": (NII, lambda seed: nifti(seed, shape=(*shape_of(seed), 5)), "axes"),
    "five axes": (NII, lambda seed: nifti(seed, shape=(*shape_of(seed), 2, 3)), "axes"),
    "one voxel": (NII, lambda seed: nifti(seed, shape=(1, 1, 1)), "axes"),
    "constant": (NII, lambda seed: nifti(seed, data=np.full(shape_of(seed), seed, np.int16)), "constant"),
    "NaN voxels": (NII, with_voxels(np.nan), "non-finite"),
    "infinite voxels": (GZ, zipped(with_voxels(-np.inf)), "non-finite"),
    "1e300": (NII, with_voxels(1e300, dtype=np.float64), "non-finite"),
    "all NaN": (NII, lambda seed: nifti(seed, data=np.full(shape_of(seed), np.nan, np.float32)), "non-finite"),
}


def verdict(tmp_path, name, make, seed, **options):
    path = tmp_path / name
    path.write_bytes(make(seed))
    with pytest.raises(BadSample) as found:
        VolumeReader(SIZE, **options).read(str(path), [CENTRE])
    assert found.value.path == str(path)
    assert found.value.detail
    return found.value.kind


def test_a_good_file_of_the_same_making_is_read(tmp_path):
    for name, content in ((NII, nifti(0)), (GZ, zipped(nifti)(0)), ("a.nii", nifti(1, np.float64))):
        (tmp_path / name).write_bytes(content)
        (sample,) = VolumeReader(SIZE).read(str(tmp_path / name), [CENTRE])
        assert sample.x.shape == (1, *SIZE) and sample.valid.all()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_file_is_named(tmp_path, kind, seed):
    name, make, expected = BAD[kind]
    assert verdict(tmp_path, name, make, seed) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_file_is_named_for_ten_seeds_and_takes_little_memory(tmp_path, kind):
    name, make, expected = BAD[kind]
    verdict(tmp_path, name, make, 2)  # what is imported for it is not counted
    for seed in range(2, 12):
        tracemalloc.start()
        found = verdict(tmp_path, name, make, seed, max_bytes=LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found == expected or (kind == "bomb" and found == "too large"), seed
        assert peak < 2 * LIMIT, seed


def test_a_damaged_file_as_large_as_the_limit_takes_no_more_than_twice_the_limit(tmp_path):
    shape = (200, 160, 120)
    content = bytearray(zipped(nifti(0, shape=shape))(0))
    content[-6] ^= 0x21
    path, limit = tmp_path / GZ, 2 * prod(shape) + 400
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(BadSample, match="CRC"):
        VolumeReader(SIZE, max_bytes=limit).read(str(path), [CENTRE])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert limit < peak < 2 * limit


def test_a_flipped_byte_anywhere_in_the_stream_is_caught_or_changes_nothing(tmp_path):
    good, path = zipped(nifti)(5), tmp_path / GZ
    path.write_bytes(good)
    (whole,) = VolumeReader(SIZE).read(str(path), [CENTRE])
    for at in range(10, len(good), max(1, len(good) // 150)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x04]) + good[at + 1 :])
        try:
            (sample,) = VolumeReader(SIZE).read(str(path), [CENTRE])
        except BadSample:
            continue
        assert sample.x.equal(whole.x)  # padding bits before the trailer mean nothing


def test_a_bomb_of_61_bytes_is_refused_at_once_and_without_memory(tmp_path):
    path = tmp_path / GZ
    path.write_bytes(bomb(0))
    assert path.stat().st_size < 200
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(BadSample, match="1073741824 bytes"):
        VolumeReader(SIZE).read(str(path), [CENTRE])
    assert time.perf_counter() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_stream_that_goes_on_past_its_voxels_is_not_followed(tmp_path):
    path = tmp_path / GZ
    path.write_bytes(gzip.compress(nifti(0) + bytes(64 << 20), mtime=0))
    tracemalloc.start()
    with pytest.raises(BadSample, match="follow the voxels"):
        VolumeReader(SIZE).read(str(path), [CENTRE])
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_memory_stays_below_twice_the_limit(tmp_path):
    path, limit = tmp_path / GZ, 4 << 20
    path.write_bytes(gzip.compress(nifti(0, data=np.zeros((128, 128, 120), np.int16)), mtime=0))
    tracemalloc.start()
    with pytest.raises(BadSample, match="constant"):
        VolumeReader(SIZE, max_bytes=limit).read(str(path), [CENTRE])
    assert tracemalloc.get_traced_memory()[1] < 2 * limit
    with pytest.raises(BadSample, match="the limit is"):
        VolumeReader(SIZE, max_bytes=limit // 2).read(str(path), [CENTRE])
    tracemalloc.stop()


def test_a_few_voxels_that_are_not_finite_are_replaced_and_carry_no_loss(tmp_path):
    data = np.random.default_rng(0).normal(100, 20, (8, 8, 8 * 25)).astype(np.float32)
    data[3, 4, 100], data[5, 5, 99] = np.nan, np.inf
    path = tmp_path / NII
    path.write_bytes(nifti(0, data=data))
    (sample,) = VolumeReader(SIZE, intensity="none").read(str(path), [CENTRE])
    assert sample.x.isfinite().all()
    bad = ~sample.valid[0]
    assert bad.nonzero().tolist() == [[3, 5, 5], [4, 4, 3]]
    assert (sample.x[0][bad] == data[np.isfinite(data)].min()).all()


def test_a_slope_of_0_means_none(tmp_path):
    (tmp_path / NII).write_bytes(field("scl_slope", 0)(3))
    (sample,) = VolumeReader(SIZE, intensity="none").read(str(tmp_path / NII), [CENTRE])
    assert sample.x.max() > 50


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders_and_nifti_2_are_read(tmp_path, order):
    data = np.random.default_rng(0).integers(-999, 999, (8, 8, 8)).astype(f"{order}i2")
    for cls in (nib.Nifti1Image, nib.Nifti2Image):
        header = cls.header_class(endianness=order)
        header.set_data_dtype(data.dtype)
        image = cls(data, np.eye(4), header)
        image.to_filename(tmp_path / NII)
        (sample,) = VolumeReader(SIZE, intensity="none").read(str(tmp_path / NII), [CENTRE])
        np.testing.assert_array_equal(sample.x[0].numpy(), data.T)


def test_mgh_is_checked_alike(tmp_path):
    data = np.random.default_rng(0).integers(0, 200, (9, 10, 11)).astype(np.int16)
    path = tmp_path / "a.mgz"
    nib.MGHImage(data, np.diag([1.0, 1, 2, 1])).to_filename(path)
    (sample,) = VolumeReader((11, 10, 9), intensity="none").read(
        str(path), [evaluation_sampler(AugmentConfig(fixed=(0, 1, 2)), (11, 10, 9))]
    )
    np.testing.assert_array_equal(sample.x[0].numpy(), data.T)
    assert sample.spacing == (2.0, 1.0, 1.0)
    content = gzip.decompress(path.read_bytes())
    for bad, kind in (
        (gzip.compress(content[:400]), "truncated"),
        (gzip.compress(struct.pack(">i", 2) + content[4:]), "not a scan"),
        (gzip.compress(content[:4] + struct.pack(">iii", 30000, 30000, 30000) + content[16:]), "too large"),
    ):
        path.write_bytes(bad)
        with pytest.raises(BadSample) as found:
            VolumeReader(SIZE).read(str(path), [CENTRE])
        assert found.value.kind == kind
