"""Kinds of scans for `damaged_kinds.py`: how a good one is made, its bombs, and how its own library reads it."""

import gzip
import re
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from damaged_child import Array, Kind
from damaged_pictures import bomb_of_npz, zeros

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

SHAPE = (12, 14, 16)
VOXELS = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
"""Slices from the feet up, rows from back to front, columns from left to right, as a sample is."""

PLANES = VOXELS[:, ::-1, ::-1].copy()
"""The same as ITK and DICOM store it: rows to the back, columns to the left."""

AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])
AS_STORED = {"intensity": "none"}
Bomb = Callable[[Path], None]


def by_nibabel(path: Path) -> Array:
    if path.suffix == ".hdr":
        path = next(p for p in (path.with_suffix(".img"), path.with_suffix(".img.gz")) if p.exists())
    return nib.as_closest_canonical(nib.load(path)).get_fdata().transpose(2, 1, 0)[None]


def by_itk(path: Path | Sequence[str]) -> Array:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    name = str(path) if isinstance(path, Path) else [str(p) for p in path]
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(name))[:, ::-1, ::-1][None].copy()


def by_itk_series(folder: Path) -> Array:
    return by_itk([str(p) for p in sorted(folder.iterdir())])


def by_pydicom(folder: Path) -> Array:
    """Of what SimpleITK cannot decode, or of one object of many frames."""
    import pydicom

    read = [pydicom.dcmread(p) for p in sorted(folder.iterdir())]
    stored = np.concatenate([np.atleast_3d(d.pixel_array.T).T for d in read])
    return (stored * 2.0 - 1024)[None, :, ::-1, ::-1]


def by_imagecodecs(folder: Path) -> Array:
    import imagecodecs
    import pydicom
    from pydicom.encaps import generate_frames

    read = [next(generate_frames(pydicom.dcmread(p).PixelData)) for p in sorted(folder.iterdir())]
    return np.stack([imagecodecs.htj2k_decode(frame) for frame in read])[None, :, ::-1, ::-1] * 2.0 - 1024


def nifti(name: str, kind: Any, folder: Path) -> Path:
    kind(VOXELS.transpose(2, 1, 0).copy(), None if kind is nib.AnalyzeImage else AFFINE).to_filename(folder / name)
    header = re.sub(r"\.img", ".hdr", name)
    return folder / header


def itk(name: str, packed: bool, folder: Path) -> Path:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(PLANES)
    image.SetSpacing((2.0, 1.5, 3.0))
    SimpleITK.WriteImage(image, str(folder / name), packed)
    return folder / name


def minc_1(folder: Path) -> Path:
    from data.volume.formats.test_minc import write_minc1

    return Path(write_minc1(folder / "a.mnc"))


def npy(folder: Path) -> Path:
    np.save(folder / "a.npy", VOXELS)
    return folder / "a.npy"


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", x=VOXELS)
    return folder / "a.npz"


def hdf5(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=VOXELS, chunks=(6, 14, 16), compression="gzip", fletcher32=False)
    return folder / "a.h5"


def of_hdf5(path: Path) -> Array:
    import h5py

    with h5py.File(path) as file:
        return file["x"][()][None]  # type: ignore[no-any-return]


def zarr_of(version: int, ome: bool, folder: Path) -> Path:
    import zarr

    path, name = folder / "a.zarr", "s0" if ome else ""
    if ome:
        group = zarr.open_group(str(path), mode="w", zarr_format=version)
        scale = [{"type": "scale", "scale": [3000.0, 1500.0, 2000.0]}]
        axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "zyx"]
        said = {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": scale}], "version": "0.4"}
        group.attrs.update({"multiscales": [said]})
    zarr.create_array(str(path / name), shape=SHAPE, dtype="i2", chunks=SHAPE, zarr_format=version)[:] = VOXELS
    return path


def of_zarr(path: Path) -> Array:
    import zarr

    opened = zarr.open(str(path), mode="r")
    return np.asarray(opened["s0"] if isinstance(opened, zarr.Group) else opened)[None]


def dicom(packing: str, folder: Path) -> Path:
    from data.volume.dicom.compressed import save_as
    from data.volume.dicom.dicom_files import series

    low = packing in ("JPEG", "JPEG of 12 bits")
    wave = np.cumsum(PLANES.astype(np.int64) % 7, axis=-1) % (256 if packing == "JPEG" else 4096)
    bits = 8 if packing == "JPEG" else 12 if low else 16
    stored = wave.astype(np.uint8 if packing == "JPEG" else np.uint16) if low else PLANES
    series(folder / "s", stored, BitsStored=bits, HighBit=bits - 1)
    for file in sorted((folder / "s").iterdir()):
        if packing == "big endian":
            big_endian(file)
        elif packing:
            save_as(file, packing)
    return folder / "s"


def big_endian(path: Path) -> None:
    import pydicom

    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    data.PixelData = data.pixel_array.astype(">i2").tobytes()
    pydicom.dcmwrite(path, data, little_endian=False, implicit_vr=False, force_encoding=True)


def frames(folder: Path) -> Path:
    from data.volume.dicom.dicom_files import enhanced, frame

    enhanced(folder / "s" / "a.dcm", [frame(plane, z) for z, plane in enumerate(PLANES)])
    return folder / "s"


def claims(pattern: bytes, huge: bytes) -> Bomb:
    """What a header says of sizes becomes enormous."""

    def bomb(folder: Path) -> None:
        file = next(p for p in sorted(folder.rglob("*")) if p.is_file() and re.search(pattern, p.read_bytes()))
        file.write_bytes(re.sub(pattern, lambda m: m[0].replace(m[1], huge), file.read_bytes(), count=1))

    return bomb


def gigabytes(file: str, how: str, after: bytes | None = None) -> Bomb:
    """3.4 GB of zeros, packed. after: what they follow in the file."""

    def bomb(folder: Path) -> None:
        path = folder / file
        content = path.read_bytes()
        begin = b"" if after is None else content[: content.index(after) + len(after)]
        if how == "zlib":
            packed = zeros(52)
        elif how == "nifti":  # a good scan, and then no end
            packed = gzip.compress(gzip.decompress(content), 1) + gzip.compress(bytes(1 << 26), 1) * 52
        else:
            packed = gzip.compress(bytes(1 << 26), 1) * 52
        path.write_bytes(begin + packed)

    return bomb


def sizes(order: str, kind: str = "h", at: int = 42) -> Bomb:
    """Three lengths of a binary header."""

    def bomb(folder: Path) -> None:
        path = next(p for p in sorted(folder.iterdir()) if p.name.endswith((".nii", ".hdr", ".mgh")))
        content = bytearray(path.read_bytes())
        struct.pack_into(f"{order}3{kind}", content, at, *(30_000,) * 3)
        path.write_bytes(content)

    return bomb


def chunk_bomb(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "a.h5", "a") as file:
        file["x"].id.write_direct_chunk((0,) * file["x"].ndim, zeros(52))


def huge_hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", shape=(1 << 20,) * 3, dtype="i2", chunks=(64, 64, 64))


def huge_minc(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "a.mnc", "a") as file:
        group, said = file["minc-2.0/image/0"], dict(file["minc-2.0/image/0/image"].attrs)
        del group["image"]
        group.create_dataset("image", shape=(1 << 20,) * 3, dtype="i2", chunks=(64, 64, 64)).attrs.update(said)


def zarr_bomb(file: str) -> Bomb:
    def bomb(folder: Path) -> None:
        import numcodecs

        raw = bytes(1 << 28)
        (folder / "a.zarr" / file).write_bytes(numcodecs.Zstd(level=1).encode(raw) * 14)

    return bomb


def make_huge(path: Path) -> None:
    """Rows and Columns of a DICOM file, whose pixels stay as they are."""
    content = path.read_bytes()
    for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
        content = content.replace(tag + content[content.index(tag) + 8 :][:2], tag + struct.pack("<H", 65_000), 1)
    path.write_bytes(content)


def make_unpack(path: Path) -> None:
    """The data set of a deflated DICOM file unpacks to 3.4 GB."""
    content = path.read_bytes()
    at = content.index(b"\x02\x00\x00\x00UL\x04\x00") + 12
    end = at + struct.unpack("<I", content[at - 4 : at])[0]
    path.write_bytes(content[:end] + zeros(52, wrap=False))


def huge_frames(folder: Path) -> None:
    make_huge(folder / "s" / ("005.dcm" if (folder / "s/005.dcm").exists() else "a.dcm"))


def inflated_dicom(folder: Path) -> None:
    make_unpack(folder / "s/005.dcm")


def scan(make: Callable[[Path], Path], theirs: Callable[[Path], Array], *bombs: Bomb, harmed: tuple[str, ...] = (),
         allowed: float = 1e-3) -> Kind:  # fmt: skip
    return Kind(make, theirs, bombs, "volume", AS_STORED, 1, harmed, allowed)


def slices(packing: str, theirs: Callable[[Path], Array] = by_itk_series, *bombs: Bomb, allowed: float = 1e-3) -> Kind:
    return scan(partial(dicom, packing), theirs, *bombs, harmed=("s/005.dcm",), allowed=allowed)


TEXT = rb"(?:DimSize = |sizes: )(16 14 12)"
CLAIM = claims(TEXT, b"60000 60000 60000")
NPY = claims(rb"'shape': (\(12, 14, 16\), )", b"(90000, 90000, 90000), ")
LENGTHS = claims(rb'"shape":\s*(\[\s*12,\s*14,\s*16\s*\])', b"[1000000, 1000000, 1000000]")

SCANS: dict[str, Kind] = {
    "NIfTI .nii": scan(partial(nifti, "a.nii", nib.Nifti1Image), by_nibabel, sizes("<")),
    "NIfTI .nii.gz": scan(partial(nifti, "a.nii.gz", nib.Nifti1Image), by_nibabel, gigabytes("a.nii.gz", "nifti"),
                          gigabytes("a.nii.gz", "gzip")),
    "NIfTI-2": scan(partial(nifti, "a.nii", nib.Nifti2Image), by_nibabel, sizes("<", "q", 24)),
    "NIfTI pair": scan(partial(nifti, "a.img", nib.Nifti1Pair), by_nibabel, sizes("<"), harmed=("a.hdr", "a.img")),
    "NIfTI pair, gzip": scan(partial(nifti, "a.img.gz", nib.Nifti1Pair), by_nibabel, gigabytes("a.img.gz", "gzip"),
                             harmed=("a.hdr.gz", "a.img.gz")),
    "Analyze 7.5": scan(partial(nifti, "a.img", nib.AnalyzeImage), by_nibabel, sizes("<"), harmed=("a.hdr", "a.img")),
    "MGH": scan(partial(nifti, "a.mgh", nib.MGHImage), by_nibabel, sizes(">", "i", 4)),
    "MGZ": scan(partial(nifti, "a.mgz", nib.MGHImage), by_nibabel, gigabytes("a.mgz", "nifti")),
    "MINC 1": scan(minc_1, by_nibabel, claims(rb"zspace\0\0(\0\0\0\x05)", b"\x7f\0\0\0")),
    "MINC 2": scan(partial(itk, "a.mnc", False), by_nibabel, huge_minc),
    "NRRD": scan(partial(itk, "a.nrrd", False), by_itk, CLAIM),
    "NRRD, gzip": scan(partial(itk, "a.nrrd", True), by_itk, CLAIM, gigabytes("a.nrrd", "gzip", b"\n\n")),
    "NRRD, detached": scan(partial(itk, "a.nhdr", False), by_itk, CLAIM, harmed=("a.nhdr", "a.raw")),
    "NRRD, detached, gzip": scan(partial(itk, "a.nhdr", True), by_itk, CLAIM, gigabytes("a.raw.gz", "gzip"),
                                 harmed=("a.nhdr", "a.raw.gz")),
    "MetaImage .mha": scan(partial(itk, "a.mha", False), by_itk, CLAIM),
    "MetaImage .mha, zlib": scan(partial(itk, "a.mha", True), by_itk, CLAIM, gigabytes("a.mha", "zlib", b"LOCAL\n")),
    "MetaImage .mhd": scan(partial(itk, "a.mhd", False), by_itk, CLAIM, harmed=("a.mhd", "a.raw")),
    "MetaImage .mhd, zlib": scan(partial(itk, "a.mhd", True), by_itk, CLAIM, gigabytes("a.zraw", "zlib"),
                                 harmed=("a.mhd", "a.zraw")),
    ".npy": scan(npy, lambda p: np.load(p)[None], NPY),
    ".npz, a scan": scan(npz, lambda p: np.load(p)["x"][None], bomb_of_npz),
    "HDF5": scan(hdf5, of_hdf5, chunk_bomb, huge_hdf5),
    "Zarr 2": scan(partial(zarr_of, 2, False), of_zarr, zarr_bomb("0.0.0"), LENGTHS,
                   harmed=("a.zarr/.zarray", "a.zarr/0.0.0")),
    "Zarr 3": scan(partial(zarr_of, 3, False), of_zarr, zarr_bomb("c/0/0/0"), LENGTHS,
                   harmed=("a.zarr/zarr.json", "a.zarr/c/0/0/0")),
    "OME-Zarr": scan(partial(zarr_of, 2, True), of_zarr, zarr_bomb("s0/0.0.0"), LENGTHS,
                     harmed=("a.zarr/.zattrs", "a.zarr/s0/.zarray", "a.zarr/s0/0.0.0")),
    "DICOM, raw": slices("", by_itk_series, huge_frames),
    "DICOM, RLE": slices("RLE", by_itk_series, huge_frames),
    "DICOM, deflated": slices("deflated", by_itk_series, inflated_dicom),
    "DICOM, big endian": slices("big endian", by_itk_series),
    "DICOM, JPEG": slices("JPEG", by_itk_series, huge_frames, allowed=4),
    "DICOM, JPEG 2000": slices("JPEG 2000", by_itk_series, huge_frames),
    "DICOM, multi-frame": scan(frames, by_pydicom, huge_frames, harmed=("s/a.dcm",)),
    "DICOM, JPEG-LS": slices("JPEG-LS", by_itk_series, huge_frames),
    "DICOM, lossless JPEG": slices("lossless JPEG", by_itk_series, huge_frames),
    "DICOM, JPEG of 12 bits": slices("JPEG of 12 bits", by_itk_series, huge_frames, allowed=4),
    "DICOM, HTJ2K": slices("HTJ2K", by_imagecodecs, huge_frames),
}  # fmt: skip
