"""Truncated, empty and inflated scans of every format are named, and take no memory beyond the limit."""

import gzip
import json
import re
import resource
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pytest
from data.volume.formats.test_minc import write_minc1
from data.volume.formats.written import itk, numbered, write_itk

from mae_ext.data.sample import whole
from mae_ext.data.volume.formats.known import is_folder
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

LIMIT = 1 << 20
PEAK = 100 << 20
"""Bytes: what a chunk may always become (bounded.AT_ONCE), and half as much again for the rest."""

SHAPE = (16, 15, 14)


def write_hdf5(path):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=numbered(shape=SHAPE).T, chunks=(7, 8, 8), compression="gzip")


def write_zarr(path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed (extra zarr)")
    zarr.create_array(str(path), shape=SHAPE[::-1], dtype="i2", chunks=(7, 8, 8), zarr_format=2)[:] = numbered(
        shape=SHAPE
    ).T


WRITERS = {
    "a.mha": lambda path: write_itk(itk(shape=SHAPE), path),
    "b.mha": lambda path: write_itk(itk(shape=SHAPE), path, True),
    "a.mhd": lambda path: write_itk(itk(shape=SHAPE), path),
    "b.mhd": lambda path: write_itk(itk(shape=SHAPE), path, True),
    "a.nhdr": lambda path: write_itk(itk(shape=SHAPE), path),
    "b.nhdr": lambda path: write_itk(itk(shape=SHAPE), path, True),
    "a.hdr": lambda path: write_itk(itk(shape=SHAPE), path),
    "b.hdr": lambda path: nib.AnalyzeImage(numbered(shape=SHAPE), None).to_filename(path),
    "a.npy": lambda path: np.save(path, numbered(shape=SHAPE).T),
    "a.npz": lambda path: np.savez(path, x=numbered(shape=SHAPE).T),
    "b.npz": lambda path: np.savez_compressed(path, x=numbered(shape=SHAPE).T),
    "a.mnc": write_minc1,
    "b.mnc": lambda path: write_itk(itk(shape=SHAPE), path),
    "a.h5": write_hdf5,
    "a.zarr": write_zarr,
}
reader = VolumeReader((8, 8, 8), intensity="none", max_bytes=LIMIT)


def refused(path):
    """The kind by which a file is refused; the memory that finding it out took is bounded."""
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with pytest.raises(BadSample) as error:
            reader.read(str(path), [whole])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < PEAK and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < PEAK >> 10
    assert error.value.path == str(path)
    return error.value.kind


def files(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (".zattrs",))


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_cut_anywhere_is_named_and_never_read_as_something_else(tmp_path, name):
    if name.endswith(".mnc"):
        pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    path = tmp_path / name
    WRITERS[name](path)
    reader.read(str(path), [whole])
    contents = {file: file.read_bytes() for file in files(tmp_path)}
    largest = max(contents, key=lambda file: len(contents[file]))
    kinds = set()
    for share in np.linspace(0, 0.97, 18):
        largest.write_bytes(contents[largest][: int(share * len(contents[largest]))])
        kinds.add(refused(path))
    largest.write_bytes(contents[largest])
    for file, content in contents.items():
        if file.parent == tmp_path or name.endswith(".zarr"):
            file.write_bytes(b"")
            kinds.add(refused(path))
            file.write_bytes(content)
    assert kinds <= {"truncated", "empty", "damaged", "not a scan", "no such array", "header", "no such file"}
    assert not is_folder(str(path))


def declare(path, shape):
    """The header says other lengths, and nothing else changes."""
    text = path.read_bytes()
    x, y, z = SHAPE
    wanted = " ".join(map(str, shape)).encode()
    path.write_bytes(re.sub(rb"(DimSize = |sizes: )%d %d %d" % (x, y, z), lambda m: m[1] + wanted, text))


@pytest.mark.parametrize("name", ["a.mha", "b.mha", "a.mhd", "b.mhd", "a.nhdr", "b.nhdr"])
@pytest.mark.parametrize("shape", [(60_000, 60_000, 60_000), (100, 100, 52), (2, 2, 1 << 62), (-4, 4, 4), (0, 4, 4)])
def test_a_header_that_promises_more_than_there_is_takes_no_memory(tmp_path, name, shape):
    WRITERS[name](tmp_path / name)
    declare(tmp_path / name, shape)
    assert refused(tmp_path / name) in ("too large", "truncated", "damaged", "axes", "header")


ZEROS = bytes(96 << 20)


@pytest.fixture(scope="module")
def bomb():
    """96 MiB of zeros in 96 KiB."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(ZEROS), packer.flush()])


@pytest.mark.parametrize("name", ["b.mha", "b.mhd", "b.nhdr", "i.hdr"])
def test_voxels_that_unpack_to_more_than_they_should_are_damaged(tmp_path, name, bomb):
    path = tmp_path / name
    if name == "i.hdr":
        write_itk(itk(shape=SHAPE), path)
        (tmp_path / "i.img").rename(tmp_path / "i.img.gz")
    else:
        WRITERS[name](path)
    packed = bomb if name.startswith("b.mh") else gzip.compress(ZEROS, 1)
    if name == "b.mha":
        header = path.read_bytes()
        path.write_bytes(header[: header.index(b"LOCAL\n") + 6] + packed)
    else:
        next(file for file in files(tmp_path) if file != path).write_bytes(packed)
    assert refused(path) == "damaged"


def test_a_chunk_of_hdf5_that_is_a_bomb_is_damaged(tmp_path, bomb):
    h5py = pytest.importorskip("h5py", reason="h5py is not installed (extra hdf5)")
    write_hdf5(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["x"].id.write_direct_chunk((7, 0, 8), bomb)
    assert refused(tmp_path / "a.h5") == "damaged"


@pytest.mark.parametrize("packing", ["zlib", "gzip", "zstd", "blosc", "lz4"])
def test_a_chunk_of_zarr_that_is_a_bomb_is_damaged(tmp_path, bomb, packing):
    write_zarr(tmp_path / "a.zarr")
    import numcodecs

    codec = numcodecs.get_codec({"id": packing})
    (tmp_path / "a.zarr/1.0.1").write_bytes(bomb if packing == "zlib" else codec.encode(ZEROS))
    metadata = tmp_path / "a.zarr/.zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"compressor": {"id": packing}}))
    for file in (tmp_path / "a.zarr").glob("0.*"):
        file.unlink()
    assert refused(tmp_path / "a.zarr") == "damaged"


def test_a_npz_that_inflates_beyond_the_limit_is_too_large(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((100, 100, 100), np.int16))
    assert refused(tmp_path / "a.npz") == "too large"
