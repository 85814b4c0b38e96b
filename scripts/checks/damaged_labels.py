"""Kinds for `damaged_kinds.py` that are beside a scan, or many in one array: SEG, RTSTRUCT, and rows of HDF5."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from damaged_child import Array, Kind
from damaged_scans import AS_STORED, PLANES, SHAPE, VOXELS, chunk_bomb, make_huge, make_unpack

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

NAMES = ("Liver", "Left_Kidney")
EDGES = ((2, 3.5, 9.5, 2.5, 12.5), (5, 1.5, 6.5, 4.5, 8.5), (5, 8.5, 11.5, 9.5, 13.5))
"""Of RTSTRUCT: slice, first and last row, first and last column; between the middles of voxels."""


def ct(folder: Path) -> None:
    from data.volume.dicom.dicom_files import series

    series(folder / "ct", PLANES, FrameOfReferenceUID="1.2.3.5")


def seg(kind: str, folder: Path) -> Path:
    from data.volume.dicom.label_objects import segmentation

    ct(folder)
    frames = [(z, 1 + z % 2, PLANES[z] > 500) for z in (1, 2, 7)]
    if kind == "LABELMAP":
        frames = [(z, 0, (PLANES[z] > 500) * segment) for z, segment, _ in frames]
    elif kind == "FRACTIONAL":
        frames = [(z, segment, plane * 200) for z, segment, plane in frames]
    segmentation(folder / "label.dcm", frames, NAMES, kind)
    return folder / "label.dcm"


def of_seg(path: Path) -> Array:
    """By pydicom's pixels, each laid where its frame says it lies."""
    import pydicom

    data = pydicom.dcmread(path)
    stored = np.atleast_3d(data.pixel_array.T).T
    labels = np.zeros(SHAPE, np.int32)
    for plane, groups in zip(stored, data.PerFrameFunctionalGroupsSequence, strict=True):
        place = (float(groups.PlanePositionSequence[0].ImagePositionPatient[2]) - 30) / 2.5
        if data.SegmentationType == "LABELMAP":
            labels[round(place)] = plane
            continue
        segment = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        on = plane * 2.0 > (data.MaximumFractionalValue if data.SegmentationType == "FRACTIONAL" else 1)
        labels[round(place)][on] = segment
    return labels[:, ::-1, ::-1]


def rtstruct(folder: Path) -> Path:
    from data.volume.dicom.label_objects import structures

    ct(folder)
    outlines = [
        [(-100 + 0.8 * c, -90 + 0.7 * r, 30 + 2.5 * z) for r, c in ((a, left), (a, right), (b, right), (b, left))]
        for z, a, b, left, right in EDGES
    ]
    structures(folder / "label.dcm", {NAMES[0]: outlines[:1], NAMES[1]: outlines[1:]}, "1.2.3.5")
    return folder / "label.dcm"


def of_rtstruct(path: Path) -> Array:
    """By pydicom's outlines, filled by scikit-image."""
    import pydicom
    from skimage.draw import polygon

    labels = np.zeros(SHAPE, np.int32)
    data = pydicom.dcmread(path)
    for region in data.ROIContourSequence:
        for outline in region.ContourSequence:
            points = np.array(outline.ContourData, float).reshape(-1, 3)
            z, rows, columns = (points[:, 2] - 30) / 2.5, (points[:, 1] + 90) / 0.7, (points[:, 0] + 100) / 0.8
            labels[round(z[0])][polygon(rows, columns, SHAPE[1:])] = int(region.ReferencedROINumber)
    return labels[:, ::-1, ::-1]


def inflated_label(folder: Path) -> None:
    """Deflated, it unpacks to 3.4 GB."""
    from data.volume.dicom.compressed import save_as

    path = folder / "label.dcm"
    if b"1.2.840.10008.5.1.4.1.1.481.3" in path.read_bytes()[:600]:
        import pydicom

        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        data.save_as(path, enforce_file_format=True)
    else:
        save_as(path, "deflated")
    make_unpack(path)


def huge_label(folder: Path) -> None:
    make_huge(folder / "label.dcm")


def many_points(folder: Path) -> None:
    """An outline with 200 000 points, all of them one and the same that lies far beyond the scan."""
    import pydicom

    path = folder / "label.dcm"
    data = pydicom.dcmread(path)
    data.ROIContourSequence[0].ContourSequence[0].ContourData = ["1e300", "-1e300", "35"] * 200_000
    data.save_as(path, enforce_file_format=True)


def rows(folder: Path) -> Path:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=np.stack([VOXELS, VOXELS + 1, VOXELS + 2]), chunks=(1, 12, 14, 16),
                            compression="gzip")  # fmt: skip
    return folder / "a.h5::x"


def of_row(address: Path) -> Array:
    import h5py

    name, key, row = str(address).split("::")
    with h5py.File(name) as file:
        return file[key][int(row)][None]  # type: ignore[no-any-return]


def huge_rows(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", shape=(3, 1 << 20, 1 << 20, 1 << 20), dtype="i2", chunks=(1, 64, 64, 64))


def labels(make: Callable[[Path], Path], theirs: Callable[[Path], Array], *bombs: Callable[[Path], None]) -> Kind:
    return Kind(make, theirs, bombs, "volume", AS_STORED, 1, ("label.dcm",), like="ct", classes=NAMES)


LABELS: dict[str, Kind] = {
    **{
        f"SEG, {kind.lower()}": labels(partial(seg, kind), of_seg, inflated_label, huge_label)
        for kind in ("BINARY", "FRACTIONAL", "LABELMAP")
    },
    "RTSTRUCT": labels(rtstruct, of_rtstruct, inflated_label, many_points),
    "HDF5, rows": Kind(rows, of_row, (chunk_bomb, huge_rows), "volume", AS_STORED, 1, ("a.h5",)),
}
