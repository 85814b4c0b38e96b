"""Scans for `kinds_speed.py`: one real scan, written in each format by that format's own library."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

Array = NDArray[Any]
COPIES = 4
AFFINE = np.diag([0.8, 0.7, 2.5, 1.0])


def voxels_of(file: str) -> Array:
    """(z, y, x) int16 of a scan in NIfTI."""
    return np.asarray(nib.load(file).dataobj).T.astype(np.int16)


def by_nibabel(suffix: str, kind: Any, folder: Path, voxels: Array) -> Path:
    for i in range(COPIES):
        kind(voxels.T, None if kind is nib.AnalyzeImage else AFFINE).to_filename(folder / f"{i}{suffix}")
    return folder


def by_itk(suffix: str, packed: bool, folder: Path, voxels: Array) -> Path:
    import SimpleITK

    for i in range(COPIES):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(folder / f"{i}{suffix}"), packed)
    return folder


def minc_1(folder: Path, voxels: Array) -> Path:
    from scipy.io import netcdf_file

    for i in range(COPIES):
        with netcdf_file(folder / f"{i}.mnc", "w") as file:
            for name, length in zip(("zspace", "yspace", "xspace"), voxels.shape, strict=True):
                file.createDimension(name, length)
                axis = file.createVariable(name, "i", ())
                axis.spacing, axis.step, axis.start = b"regular__", 1.5, -10.0
            image = file.createVariable("image", "h", ("zspace", "yspace", "xspace"))
            image.signtype, image.valid_range = b"signed__", np.array([-32768.0, 32767.0])
            image[:] = voxels
            for name, end in (("image-max", 32767.0), ("image-min", -32768.0)):
                file.createVariable(name, "d", ("zspace",))[:] = end
    return folder


def arrays(suffix: str, folder: Path, voxels: Array) -> Path:
    for i in range(COPIES):
        if suffix == ".npy":
            np.save(folder / f"{i}.npy", voxels)
        else:
            np.savez_compressed(folder / f"{i}.npz", x=voxels)
    return folder


def hdf5(folder: Path, voxels: Array) -> Path:
    import h5py

    for i in range(COPIES):
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file.create_dataset("x", data=voxels, chunks=tuple(min(64, n) for n in voxels.shape), compression="gzip")
    return folder


def zarr_of(version: int, folder: Path, voxels: Array) -> Path:
    import zarr

    for i in range(COPIES):
        chunks = tuple(min(64, n) for n in voxels.shape)
        array = zarr.create_array(
            str(folder / f"{i}.zarr"), shape=voxels.shape, dtype="i2", chunks=chunks, zarr_format=version
        )
        array[:] = voxels
    return folder


def dicom(packing: str, folder: Path, voxels: Array) -> Path:
    from data.volume.dicom.compressed import save_as
    from data.volume.dicom.dicom_files import enhanced, frame, series

    for i in range(COPIES):
        if packing == "multi-frame":
            enhanced(folder / f"{i}" / "a.dcm", [frame(plane, z) for z, plane in enumerate(voxels)])
            continue
        bits = 12 if packing == "JPEG of 12 bits" else 16
        stored = (voxels.clip(0, 4095) if bits == 12 else voxels).astype(np.uint16 if bits == 12 else np.int16)
        series(folder / f"{i}", stored, BitsStored=bits, HighBit=bits - 1, SeriesInstanceUID=f"1.2.3.{i}")
        for file in sorted((folder / f"{i}").iterdir()):
            if packing:
                save_as(file, packing)
    return folder


SCANS: dict[str, Callable[[Path, Array], Path]] = {
    "NIfTI": partial(by_nibabel, ".nii", nib.Nifti1Image),
    "NIfTI, gzip": partial(by_nibabel, ".nii.gz", nib.Nifti1Image),
    "NIfTI pair": partial(by_nibabel, ".img", nib.Nifti1Pair),
    "Analyze 7.5": partial(by_nibabel, ".img", nib.AnalyzeImage),
    "MGZ": partial(by_nibabel, ".mgz", nib.MGHImage),
    "MINC 1": minc_1,
    "MINC 2": partial(by_itk, ".mnc", True),
    "NRRD": partial(by_itk, ".nrrd", False),
    "NRRD, gzip": partial(by_itk, ".nrrd", True),
    "MetaImage": partial(by_itk, ".mhd", False),
    "MetaImage, zlib": partial(by_itk, ".mha", True),
    ".npy": partial(arrays, ".npy"),
    ".npz, a scan": partial(arrays, ".npz"),
    "HDF5, gzip": hdf5,
    "Zarr 2": partial(zarr_of, 2),
    "Zarr 3": partial(zarr_of, 3),
    **{
        f"DICOM, {packing or 'raw'}": partial(dicom, packing)
        for packing in (
            *("", "RLE", "deflated", "JPEG 2000", "multi-frame"),
            *("JPEG-LS", "lossless JPEG", "JPEG of 12 bits", "HTJ2K"),
        )
    },
}
