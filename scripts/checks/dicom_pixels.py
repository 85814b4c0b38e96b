"""Real DICOM series in other clothes, voxel for voxel and corner for corner beside SimpleITK.

    python scripts/checks/dicom_pixels.py ../shared/data/volume/dicom_series

Of each series of classic slices the first volume is written anew: compressed in every way that is read, as one enhanced
object, under a tilted gantry, with a slice left out, and with a segmentation. SimpleITK reads the raw series; where it
reads the variant as well, that too. Prints a row for each: largest difference of a voxel, and of a corner in mm (0.01
may be). Needs pydicom, imagecodecs and SimpleITK (extras dicom-codecs and dev).
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from data.volume.dicom.compressed import SYNTAX, save_as
from data.volume.dicom.dicom_files import enhanced
from data.volume.dicom.label_objects import segmentation

from mae_ext.data.volume.reader import VolumeReader

MM = 0.01
LOSSY = ("JPEG", "JPEG of 12 bits")  # these want other numbers than 16 bits
TO_RAS = np.array([-1.0, -1.0, 1.0])
Array = NDArray[Any]


def first_volume(folder: Path) -> list[Any]:
    """A data set for each slice, from the lowest: the first of those at each place."""
    slices: dict[float, Any] = {}
    for data in sorted(map(pydicom.dcmread, folder.glob("*.dcm")), key=lambda d: int(d.InstanceNumber)):
        normal = np.cross(data.ImageOrientationPatient[:3], data.ImageOrientationPatient[3:])
        slices.setdefault(round(float(np.dot(data.ImagePositionPatient, normal)), 2), data)
    return [slices[height] for height in sorted(slices)]


def save(slices: list[Any], folder: Path, change: Callable[[int, Any], None] | None = None) -> str:
    folder.mkdir()
    for k, data in enumerate(slices):
        other = pydicom.dcmread(data.filename)
        if change is not None:
            change(k, other)
        other.save_as(folder / f"{k:03d}.dcm")
    return f"{folder}/"


def in_itk(files: list[str]) -> tuple[Array, Array]:
    """Voxels (slices, rows, columns), and the corners in mm RAS."""
    image = sitk.ReadImage(files) if len(files) > 1 else sitk.ReadImage(files[0])
    ends = [(0, n - 1) for n in image.GetSize()]
    corners = [image.TransformIndexToPhysicalPoint((x, y, z)) for x in ends[0] for y in ends[1] for z in ends[2]]
    return sitk.GetArrayFromImage(image).astype(float), np.array(corners) * TO_RAS


def ours(address: str, uneven: str = "refuse") -> tuple[Array, Array]:
    scan = VolumeReader((4, 4, 4), uneven=uneven).formats.declared(address)  # type: ignore[arg-type]
    ends = [(0, n - 1) for n in scan.shape]
    corners = np.array([(x, y, z) for x in ends[0] for y in ends[1] for z in ends[2]])
    voxels = scan.load()
    values = np.ma.MaskedArray(np.ma.getdata(voxels) * scan.slope + scan.inter, np.ma.getmaskarray(voxels))
    return values, corners @ scan.affine[:3, :3].T + scan.affine[:3, 3]


def row(name: str, values: Array, corners: Array, of: tuple[Array, Array], allowed: float = 0.0) -> bool:
    """Corners are compared as sets: an enhanced object counts its rows first."""
    far = max(np.linalg.norm(of[1] - corner, axis=1).min() for corner in corners)
    off = float(np.abs(values - of[0]).max())
    good = off <= allowed and far < MM
    print(f"    {name:56} voxels {off:8.4g}   corners {far:7.5f} mm   {'right' if good else 'WRONG'}", flush=True)
    return good


def tilt(slices: list[Any], folder: Path, degrees: float) -> bool:
    """The values on the even lattice, by SimpleITK's linear resampling of the same planes through a shear."""
    direction = [1, 0, 0, 0, np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]
    step = 4.0

    def change(k: int, data: Any) -> None:
        data.ImageOrientationPatient = [f"{v:.9f}" for v in direction]
        data.ImagePositionPatient = [-100, -90, 30 + step * k]

    values, corners = ours(save(slices, folder, change), "resample")
    stored = np.stack([d.pixel_array * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0))
                       for d in slices])  # fmt: skip
    dy, dx = map(float, slices[0].PixelSpacing)
    planes = sitk.GetImageFromArray(stored)
    planes.SetSpacing((dx, dy, step * np.cos(np.deg2rad(degrees))))
    depth, rows, columns = values.shape
    aside = step * np.sin(np.deg2rad(degrees))
    low = min(0.0, aside * (depth - 1))
    lattice = sitk.Image((columns, rows, depth), sitk.sitkFloat64)
    lattice.SetSpacing(planes.GetSpacing())
    lattice.SetOrigin((0, low, 0))
    shear = sitk.AffineTransform(3)
    shear.SetMatrix((1, 0, 0, 0, 1, -np.tan(np.deg2rad(degrees)), 0, 0, 1))
    expected = sitk.GetArrayFromImage(sitk.Resample(planes, lattice, shear, sitk.sitkLinear, 0.0))
    inside = ~np.ma.getmaskarray(values)
    down, normal = np.array(direction[3:]), np.cross(direction[:3], direction[3:])
    begin = np.array([-100, -90, 30]) + low * down
    ends = [(0, (n - 1) * s) for n, s in zip((columns, rows, depth), planes.GetSpacing(), strict=True)]
    wanted = np.array([begin + x * np.array(direction[:3]) + y * down + z * normal
                       for x in ends[0] for y in ends[1] for z in ends[2]]) * TO_RAS  # fmt: skip
    share = f"{degrees:g} degrees, {inside.mean():.2f} inside"
    return row(share, np.where(inside, values, 0), corners, (np.where(inside, expected, 0), wanted), 1e-2)


def without_one(slices: list[Any], folder: Path, of: tuple[Array, Array]) -> bool:
    """Where slice 2 is gone there is the mean of its neighbours; everything else is as it was."""
    values, corners = ours(save([s for k, s in enumerate(slices) if k != 2], folder), "resample")
    expected = of[0].copy()
    expected[2] = (expected[1] + expected[3]) / 2
    return row("a slice left out", values, corners, (expected, of[1]), 1e-2)


def as_one(slices: list[Any], path: Path, of: tuple[Array, Array]) -> bool:
    frames = []
    for data in reversed(slices):
        scale = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        place = {"position": list(data.ImagePositionPatient), "orientation": list(data.ImageOrientationPatient)}
        frames.append(
            {"stored": data.pixel_array, "scale": scale, "spacing": list(data.PixelSpacing), "index": {}} | place
        )
    enhanced(path, frames)
    values, corners = ours(str(path))
    return row("one enhanced object", values.swapaxes(-1, -2), corners, of)


def labelled(slices: list[Any], raw: str, path: Path, of: tuple[Array, Array]) -> bool:
    """What is brighter than the median, as a BINARY segmentation with two of three slices, the last first."""
    mask = of[0] > np.median(of[0])
    frames = [(k, 1, mask[k]) for k in reversed(range(len(slices))) if k % 3]
    mask[::3] = False
    first, step = slices[0], np.subtract(slices[1].ImagePositionPatient, slices[0].ImagePositionPatient)
    direction = tuple(map(float, first.ImageOrientationPatient))
    normal = np.cross(direction[:3], direction[3:])
    at = [float(v) for v in first.ImagePositionPatient]
    segmentation(path, frames, ("bright",), orientation=direction, corner=at, spacing=list(first.PixelSpacing))
    data = pydicom.dcmread(path)
    for (k, _, _), groups in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(at) + k * float(step @ normal) * normal
        groups.PlanePositionSequence[0].ImagePositionPatient = [f"{v:.6f}" for v in place]
    data.save_as(path)
    reader = VolumeReader((4, 4, 4))
    labels, stored = reader.label_map(str(path), raw), reader.scan(raw).voxels[0]
    slope = reader.formats.declared(raw)
    return row("a segmentation", (labels * (stored * slope.slope + slope.inter)).sum()[None], of[1],
               ((mask * of[0]).sum()[None], of[1]), 1e-6 * abs((mask * of[0]).sum()))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    sitk.ProcessObject_SetGlobalWarningDisplay(False)
    right = []
    for folder in sorted({file.parent for file in parser.parse_args().root.rglob("*.dcm")}):
        slices = first_volume(folder)
        if len(slices) < 4 or "MOSAIC" in slices[0].ImageType:
            continue
        print(f"{folder.name}: {len(slices)} slices of {slices[0].Rows} x {slices[0].Columns}, {slices[0].Modality}")
        with tempfile.TemporaryDirectory() as made:
            root = Path(made)
            raw = save(slices, root / "raw")
            of = in_itk([f"{raw}{k:03d}.dcm" for k in range(len(slices))])
            right.append(row("raw", *ours(raw), of))
            for kind in (kind for kind in SYNTAX if kind not in LOSSY):
                address = save(slices, root / kind)
                for file in sorted((root / kind).iterdir()):
                    save_as(file, kind)
                values, corners = ours(address)
                # How much is lost is the encoder's affair; that SimpleITK makes the same of it is the next row's.
                lossy = kind in ("JPEG-LS, nearly", "JPEG 2000, lossy")
                right.append(row(kind, values, corners, of, 0.2 * np.ptp(of[0]) if lossy else 0.0))
                try:
                    theirs = in_itk([str(file) for file in sorted((root / kind).iterdir())])
                except RuntimeError:
                    print(f"    {kind:34} SimpleITK does not read it")
                    continue
                right.append(row(f"{kind}, as SimpleITK decodes it", values, corners, theirs))
            right.append(as_one(slices, root / "enhanced.dcm", of))
            right.append(without_one(slices, root / "fewer", of))
            right += [tilt(slices, root / f"tilt{degrees}", degrees) for degrees in (18.5, -27.0)]
            right.append(labelled(slices, raw, root / "seg.dcm", of))
    print(f"{sum(right)} of {len(right)} right")
    return 0 if right and all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
