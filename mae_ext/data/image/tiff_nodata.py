"""Pixels of a map that were not measured: GDAL's number for them, not-a-number, and masks that lie beside a picture."""

import math

import numpy as np
import tifffile
from numpy.typing import NDArray

from mae_ext.data.image.tiff_segment import Pixels

NODATA = 42113
GEO = (33550, 33922, 34264, 34735, 42112, NODATA)
"""Tags that only maps have: GeoTIFF 1.1 (OGC 19-008r4) and GDAL's two."""


def is_map(page: tifffile.TiffPage) -> bool:
    return any(code in page.tags for code in GEO)


def nodata_of(page: tifffile.TiffPage) -> float | int | None:
    """The number that stands for nothing, as the file says it; None where it says none, or none that a sample can be.

    Not-a-number comes back as itself.
    """
    text = page.tags.valueof(NODATA)
    if not isinstance(text, str) or page.dtype is None:
        return None
    text = text.strip("\0 \t\r\n").lower()
    try:
        value: float | int = int(text)
    except ValueError:
        try:
            value = float(text)
        except ValueError:
            return None
    if page.dtype.kind == "f":
        return value
    info = np.iinfo(page.dtype) if page.dtype.kind in "iu" else None
    if info is None or not math.isfinite(value) or value != int(value) or not info.min <= value <= info.max:
        return None
    return int(value)


def holes(pixels: Pixels, nodata: float | int | None) -> NDArray[np.bool_]:
    """(H, W, n) as stored -> (H, W): where there is nothing.

    Where a band is not a number, or is `nodata`; a `nodata` of 0, and any of 8 bits, may be a value beside others: all
    bands have to have it, as rasterio's dataset_mask has it.
    """
    empty = np.zeros(pixels.shape[:2], bool)
    if pixels.dtype.kind == "f":
        empty |= np.isnan(pixels).any(-1)
    if nodata is not None and not math.isnan(nodata):
        with np.errstate(over="ignore"):
            equal = pixels == np.asarray(nodata).astype(pixels.dtype)
        empty |= equal.all(-1) if nodata == 0 or pixels.dtype == np.uint8 else equal.any(-1)
    return empty
