"""DICOM: a folder is one series, sorted by position; a single file may be a mosaic or a multi-frame object."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.scan import Array, Declared
from mae_ext.data.source import fetch
from mae_ext.errors import BadSample, UserError

SUFFIXES = (".dcm", ".dicom", ".ima")

GAP_TOLERANCE = 0.1
"""Of the usual distance: positions are written with three digits, a missing slice is off by all of it."""

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

_TAGS = (
    *("SeriesInstanceUID", "SOPClassUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"),
    *("ImagePositionPatient", "InstanceNumber", "BitsAllocated", "SamplesPerPixel", "PhotometricInterpretation"),
    *("RescaleSlope", "RescaleIntercept", "NumberOfFrames", "ImageType", "PixelRepresentation", "BitsStored"),
)
_ERRORS = (
    *(ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, RuntimeError, NotImplementedError),
    *(IndexError, OverflowError, ArithmeticError, MemoryError),
)


def declared(address: str, files: Sequence[str], max_bytes: int) -> Declared:
    """One series. A position that comes n times in every place is n time points: a fourth axis.

    Raises BadSample: "not a scan", "header", "RGB", "mixed series", "missing slices", "axes", "too large", "truncated",
    "geometry". Raises UserError without pydicom.
    """
    headers = [_header(file, fetch(file, max_bytes)) for file in files]
    _same_series(address, headers)
    if all(_is_mosaic(h) or int(h.get("NumberOfFrames") or 1) > 1 for h in headers):
        return _whole_volumes(address, files, headers, max_bytes)
    return _stack(address, files, headers, max_bytes)


def _header(file: str, content: Any) -> Any:
    try:
        import pydicom
    except ImportError:
        raise UserError("DICOM is read by pydicom, which is not installed: pip install 'mae-ext[dicom]'") from None
    with _bad_sample(file):
        try:
            header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=list(_TAGS))
        except pydicom.errors.InvalidDicomError as error:
            raise BadSample(file, "not a scan", f"begins with {bytes(content[:12])!r}; no DICOM preamble") from error
        if not (header.get("Rows") and header.get("Columns")):
            what = getattr(header.get("SOPClassUID"), "name", "an object of unknown class")
            raise BadSample(file, "not a scan", f"{what}: it holds no pixels")
        if int(header.get("SamplesPerPixel", 1)) != 1:
            raise BadSample(file, "RGB", "colour pixels (a secondary capture or an overlay), not measured values")
        if header.get("PhotometricInterpretation", "MONOCHROME2") != "MONOCHROME2":
            detail = f"photometric interpretation {header.PhotometricInterpretation}; MONOCHROME2 is read"
            raise BadSample(file, "data type", detail)
        return header


def _is_mosaic(header: Any) -> bool:
    return "MOSAIC" in (header.get("ImageType") or ())


def _same_series(address: str, headers: Sequence[Any]) -> None:
    series = Counter(str(h.get("SeriesInstanceUID")) for h in headers)
    if len(series) > 1:
        counts = ", ".join(f"{n} files of ...{uid[-12:]}" for uid, n in series.most_common(4))
        raise BadSample(address, "mixed series", f"{counts}; a folder is one series, give each its own")
    for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "BitsAllocated"):
        found = [h.get(tag) for h in headers]
        if found.count(None) == len(found) and int(headers[0].get("NumberOfFrames") or 1) > 1:
            continue  # an enhanced object says it frame by frame
        if None in found:
            raise BadSample(address, "header", f"{tag} is missing in {found.count(None)} of {len(found)} files")
        values = np.array([np.ravel(v).astype(float) for v in found])
        if not np.isfinite(values).all() or np.ptp(values, axis=0).max() > 1e-3:
            kinds = len(np.unique(values.round(3), axis=0))
            raise BadSample(
                address, "mixed series", f"{tag} has {kinds} different values (a localizer among the slices?)"
            )


def _stack(address: str, files: Sequence[str], headers: Sequence[Any], max_bytes: int) -> Declared:
    first = headers[0]
    with _bad_sample(address):
        across, down = (np.array(first.ImageOrientationPatient, dtype=float)[i : i + 3] for i in (0, 3))
        if any(h.get("ImagePositionPatient") is None for h in headers):
            raise BadSample(address, "header", "ImagePositionPatient is missing: the order of the slices is unknown")
        origins = np.array([h.ImagePositionPatient for h in headers], dtype=float)
        normal = np.cross(across, down)
        places, times = _sorted(address, origins @ normal, headers)
        spacing = np.array(first.PixelSpacing, dtype=float)  # between rows, between columns
        order = places[:, 0]
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 1] = across * spacing[1], down * spacing[0]
        affine[:3, 2] = (origins[order[-1]] - origins[order[0]]) / (len(order) - 1)
        affine[:3, 3] = origins[order[0]]
        rescale = {(float(h.get("RescaleSlope") or 1), float(h.get("RescaleIntercept") or 0)) for h in headers}
        shape = (int(first.Columns), int(first.Rows), len(order)) + ((times,) if times > 1 else ())
        # PET scales slice by slice; then the values are scaled on the way.
        dtype = _stored_dtype(first) if len(rescale) == 1 else np.dtype(np.float32)
        slope, inter = rescale.pop() if len(rescale) == 1 else (1.0, 0.0)

    def load() -> Array:
        out = np.empty(shape[::-1], dtype)
        planes = out.reshape(times, len(order), *shape[1::-1])
        for z, row in enumerate(places):
            for t, index in enumerate(row):
                planes[t, z] = _pixels(files[index], headers[index], max_bytes, dtype)
        return out

    return Declared("DICOM series", shape, dtype, RAS_FROM_LPS @ affine, load, slope, inter)


def _sorted(address: str, heights: NDArray[np.float64], headers: Sequence[Any]) -> tuple[NDArray[np.int64], int]:
    """heights: mm along the normal. -> ((slices, times) file numbers, times)."""
    if not np.isfinite(heights).all():
        raise BadSample(address, "header", "ImagePositionPatient is not finite")
    numbers = [int(h.get("InstanceNumber") or 0) for h in headers]
    order = sorted(range(len(heights)), key=lambda i: (round(float(heights[i]), 3), numbers[i]))
    groups: list[list[int]] = []
    for i in order:
        if groups and abs(heights[i] - heights[groups[-1][0]]) < 0.01:
            groups[-1].append(i)
        else:
            groups.append([i])
    if len(groups) < 2:
        raise BadSample(address, "axes", f"a single slice ({len(heights)} files at one position); a volume has more")
    times = Counter(len(g) for g in groups).most_common(1)[0][0]
    if odd := [z for z, g in enumerate(groups) if len(g) != times]:
        here = heights[groups[odd[0]][0]]
        detail = (
            f"slice {odd[0]} of {len(groups)} (at {here:.2f} mm) comes {len(groups[odd[0]])} times, the others {times}"
        )
        raise BadSample(address, "repeated slices" if times == 1 else "missing slices", detail)
    gaps = np.diff([heights[g[0]] for g in groups])
    usual = float(np.median(gaps))
    if wide := np.flatnonzero(np.abs(gaps - usual) > GAP_TOLERANCE * usual).tolist():
        detail = (
            f"{gaps[wide[0]]:.2f} mm between slices {wide[0]} and {wide[0] + 1} of {len(groups)}, usually {usual:.2f}"
        )
        raise BadSample(address, "missing slices", detail)
    return np.array(groups), times


def _stored_dtype(header: Any) -> np.dtype[np.generic]:
    bits = int(header.BitsAllocated)
    if bits not in (8, 16, 32):
        raise ValueError(f"BitsAllocated {bits}; 8, 16 and 32 are read")
    return np.dtype(f"{'i' if int(header.get('PixelRepresentation') or 0) else 'u'}{bits // 8}")


def _pixels(file: str, header: Any, max_bytes: int, dtype: np.dtype[np.generic]) -> Array:
    """(rows, columns) as stored, or scaled where the series is held as float."""
    import pydicom

    content = fetch(file, max_bytes)
    assert isinstance(content, bytes)
    with _bad_sample(file):
        plane: Array = pydicom.dcmread(BytesIO(content)).pixel_array
        if plane.shape != (header.Rows, header.Columns):
            raise BadSample(file, "axes", f"{list(plane.shape)} pixels, expected {[header.Rows, header.Columns]}")
        if dtype.kind == "f":
            wide = plane.astype(np.float64)
            plane = wide * float(header.get("RescaleSlope") or 1) + float(header.get("RescaleIntercept") or 0)
        return plane.astype(dtype, copy=False)


def _whole_volumes(address: str, files: Sequence[str], headers: Sequence[Any], max_bytes: int) -> Declared:
    """Siemens mosaics and enhanced multi-frame objects: each file a volume, by nibabel's wrappers; several are time."""
    stored = sum(
        int(h.Rows) * int(h.Columns) * int(h.get("NumberOfFrames") or 1) * int(h.BitsAllocated) // 8 for h in headers
    )
    if stored > max_bytes:
        raise BadSample(address, "too large", f"{stored} bytes of pixels, the limit is {max_bytes}")
    order = sorted(range(len(files)), key=lambda i: int(headers[i].get("InstanceNumber") or 0))
    first = _wrapped(files[order[0]], max_bytes)
    with _bad_sample(files[order[0]]):
        shape = tuple(int(n) for n in first.image_shape or ())
        if len(shape) < 3:
            raise BadSample(address, "axes", f"{list(shape)} pixels; a volume has three axes")
        affine = RAS_FROM_LPS @ np.array(first.affine, dtype=float)

    def load() -> Array:
        volumes = []
        for i in order:
            with _bad_sample(files[i]):
                volumes.append(np.asarray(_wrapped(files[i], max_bytes).get_data(), dtype=np.float32).T)
            if volumes[-1].shape != shape[::-1]:
                raise BadSample(
                    files[i], "mixed series", f"a volume of {volumes[-1].shape[::-1]}, the first is {shape}"
                )
        return np.stack(volumes) if len(volumes) > 1 else np.ascontiguousarray(volumes[0])

    kind = "DICOM mosaic" if _is_mosaic(headers[0]) else "DICOM multi-frame"
    times = (len(files),) if len(files) > 1 else ()
    return Declared(kind, shape + times, np.dtype(np.float32), affine, load)


def _wrapped(file: str, max_bytes: int) -> Any:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental, and for Siemens above all
        from nibabel.nicom import dicomwrappers
    content = fetch(file, max_bytes)
    assert isinstance(content, bytes)
    with _bad_sample(file):
        return dicomwrappers.wrapper_from_data(pydicom.dcmread(BytesIO(content)))


@contextmanager
def _bad_sample(file: str) -> Iterator[None]:
    """The one place where what pydicom raises becomes a verdict on the file."""
    try:
        yield
    except _ERRORS as error:
        text = " ".join(str(error).split()) or type(error).__name__
        short = "less than" in text or ("expected" in text and "bytes" in text) or isinstance(error, EOFError)
        raise BadSample(file, "truncated" if short else "header", text[:300]) from error
