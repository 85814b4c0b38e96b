"""DICOM: a folder is one series, classic slices or enhanced (multi-frame) objects; a file may be a Siemens mosaic.

Where a plane lies and how it is scaled is read plane by plane (frames.py), and all planes go one way from there
(stack.py).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sources.dicom.grouping import SUFFIXES
from mae_ext.data.volume.dicom import mosaic as dicom_mosaic
from mae_ext.data.volume.dicom import split as dicom_split
from mae_ext.data.volume.dicom.codecs import planes
from mae_ext.data.volume.dicom.even import Uneven
from mae_ext.data.volume.dicom.frames import Frame, check_alike, frames_of
from mae_ext.data.volume.dicom.header import frames_in, header, is_enhanced, is_mosaic, opened, parsing
from mae_ext.data.volume.dicom.stack import Stack, stacked
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def declared(address: str, files: Sequence[str], max_bytes: int, uneven: Uneven = "refuse") -> Declared:
    """One series. A position that comes n times in every place is n volumes: a fourth axis. uneven: what becomes of
    slices at uneven distances or under a tilted gantry; "keep" is of the latter, whose lean the affine then has.

    Raises BadSample: "not a scan", "header", "RGB", "mixed series", "missing slices", "repeated slices",
    "split series", "tilted gantry", "axes", "data type", "truncated", "damaged", "geometry". Raises UserError without
    pydicom, and where pixels are compressed in a way that an extra decodes.
    """
    with _by_name(address):
        headers = [header(file, max_bytes) for file in files]
    with _by_name(address), parsing(address):
        if all(map(is_mosaic, headers)):
            scan = dicom_mosaic.declared(address, files, headers, max_bytes)
        else:
            frames = _frames(files, headers)
            check_alike(address, frames)
            stack = stacked(address, frames, uneven)
            _check_whole(address, frames, stack, headers)
            dicom_split.check(address, frames, len(stack.rows), SUFFIXES, max_bytes)
            scan = _declared(frames, stack, headers[0], max_bytes)
    return replace(scan, load=lambda: _loaded(address, scan))


def _loaded(address: str, scan: Declared) -> Array:
    with _by_name(address):
        return scan.load()


@contextmanager
def _by_name(address: str) -> Iterator[None]:
    """What is wrong with one file is wrong with the series, which is what is read: named first, and then the file."""
    try:
        yield
    except BadSample as error:
        if error.path == address:
            raise
        file = os.path.relpath(error.path, address.partition("::")[0])
        raise BadSample(address, error.kind, f"{file}: {error.detail}" if error.detail else file) from error


def _frames(files: Sequence[str], headers: Sequence[Any]) -> list[Frame]:
    """All planes. Whole volumes in several files come one after the other, by their numbers, then their names."""
    several = [frames_in(h) > 1 and not h.get("ConcatenationUID") for h in headers]
    order = sorted(range(len(files)), key=lambda i: (int(headers[i].get("InstanceNumber") or 0), files[i]))
    place = {i: n if several[i] else 0 for n, i in enumerate(order)}
    return [frame for i, (file, data) in enumerate(zip(files, headers, strict=True))
            for frame in frames_of(file, data, place[i])]  # fmt: skip


def _check_whole(address: str, frames: Sequence[Frame], stack: Stack, headers: Sequence[Any]) -> None:
    """A multi-frame file is a volume, unless it says that it is a part of one: a concatenation."""
    if len(headers) == 1 or max(map(frames_in, headers)) == 1:
        return
    if len(parts := {str(h.get("ConcatenationUID") or "") for h in headers}) > 1:
        raise BadSample(address, "mixed series", f"parts of {len(parts)} concatenations; give each its own folder")
    if "" not in parts:
        total = int(headers[0].get("InConcatenationTotalNumber") or len(headers))
        if len(headers) != total:
            raise BadSample(address, "missing slices", f"{len(headers)} of the {total} parts of a concatenation")
        return
    covered: dict[str, set[int]] = {}
    for z, row in enumerate(stack.rows.tolist()):
        for i in row:
            covered.setdefault(frames[i].file, set()).add(z)
    for file, places in covered.items():
        if len(places) != len(stack.rows):
            detail = f"{Path(file).name} holds {len(places)} of {len(stack.rows)} slices and does not say of what it is"
            hint = "a part (no ConcatenationUID); give each object its own folder, or join them with dcm2niix"
            raise BadSample(address, "mixed series", f"{detail} {hint}")


def _declared(frames: Sequence[Frame], stack: Stack, data: Any, max_bytes: int) -> Declared:
    depth, times = stack.rows.shape
    rows, columns = int(data.Rows), int(data.Columns)
    # nibabel, and so every NIfTI that was made with it, counts an enhanced object's rows first, a classic one's last.
    rows_first = is_enhanced(data)
    slices, *plane = (depth, rows, columns) if stack.even is None else stack.even.shape
    shape = (*(plane if rows_first else plane[::-1]), slices, *((times,) if times > 1 else ()))
    affine = RAS_FROM_LPS @ (stack.affine[:, [1, 0, 2, 3]] if rows_first else stack.affine)
    rescale = {(_slope(f), f.inter or 0.0) for f in frames}
    # PET scales slice by slice, enhanced MR volume by volume; then the values are scaled on the way.
    # So are those that are resampled.
    stored = stack.even is None and (rescale == {(1.0, 0.0)} or (len(rescale) == 1 and not rows_first))
    dtype = _stored_dtype(data) if stored else np.dtype(np.float32)
    slope, inter = rescale.pop() if stored else (1.0, 0.0)
    place = {int(i): (t, z) for z, line in enumerate(stack.rows) for t, i in enumerate(line)}

    def load() -> Array:
        out = np.empty((times, depth, rows, columns), dtype)
        absent: NDArray[np.bool_] | None = None
        for file, group in groupby(enumerate(frames), key=lambda pair: pair[1].file):
            numbers, planes = zip(*group, strict=True)
            for i, frame, plane in zip(numbers, planes, _pixels(file, planes, max_bytes), strict=True):
                if frame.padding is not None:
                    least, most = frame.padding
                    hole = (plane >= least) & (plane <= most)
                    if absent is None and hole.any():
                        absent = np.zeros(out.shape, bool)
                    if absent is not None:
                        absent[place[i]] = hole
                out[place[i]] = plane if dtype.kind != "f" else _scaled(plane, frame)
        voxels: Array = out if absent is None else np.ma.MaskedArray(out, absent)
        if stack.even is not None:
            even = np.ma.stack([stack.even.resampled(volume) for volume in voxels])
            voxels = even if np.ma.getmaskarray(even).any() else np.ma.getdata(even)
        voxels = voxels if times > 1 else voxels[0]
        return voxels.swapaxes(-1, -2) if rows_first else voxels

    what = "" if stack.even is None else stack.even.what
    of = frames[0].alike.get("FrameOfReferenceUID", "")
    return Declared(
        _format(data), shape, dtype, affine, load, slope, inter, contrast=stack.contrast, frame_of_reference=of,
        resampled=what,
    )  # fmt: skip


def _scaled(plane: Array, frame: Frame) -> NDArray[np.float64]:
    return plane.astype(np.float64) * _slope(frame) + (frame.inter or 0.0)


def _slope(frame: Frame) -> float:
    return 1.0 if frame.slope is None else frame.slope


def _format(data: Any) -> str:
    if not is_enhanced(data):
        return "DICOM series"
    name = str(getattr(data.get("SOPClassUID"), "name", ""))
    return f"DICOM {name.removesuffix(' Image Storage')}" if "Enhanced" in name else "DICOM multi-frame"


def _stored_dtype(data: Any) -> np.dtype[np.generic]:
    bits = int(data.BitsAllocated)
    if bits not in (8, 16, 32):
        raise ValueError(f"BitsAllocated {bits}; 8, 16 and 32 are read")
    return np.dtype(f"{'i' if int(data.get('PixelRepresentation') or 0) else 'u'}{bits // 8}")


def _pixels(file: str, frames: Sequence[Frame], max_bytes: int) -> Iterator[Array]:
    """(rows, columns) of each plane, as stored."""
    data = opened(file, max_bytes)
    with parsing(file):
        if "PixelData" not in data:
            raise BadSample(file, "data type", "no PixelData: pixels of whole numbers are read, and no others")
        yield from planes(file, data, [frame.number for frame in frames])
