"""What the numbers of a TIFF's page stand for: light, of ink, of palettes, of white as 0, of alpha in colours."""

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from mae_ext.data.image.tiff_segment import CMYK, Pixels

MINISWHITE, MINISBLACK, PALETTE, MASK = 0, 1, 3, 4
ASSOCIATED = 1
"""Of ExtraSamples: alpha that the colours are multiplied with."""


def resolved(page: tifffile.TiffPage, pixels: Pixels, form: str) -> Pixels:
    """(rows, columns, stored) as decoded -> (rows, columns, samples) of a `Layout.form`."""
    bits = page.bitspersample
    assert isinstance(bits, int)
    if page.photometric == PALETTE:
        table = np.asarray(page.colormap)  # (3, 2^bits) of 16 bits, though some write 8
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        return table.T[pixels[..., 0].astype(np.intp)]
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    if bits < 8:
        pixels = (pixels * (255 / ((1 << bits) - 1))).round().astype(np.uint8)
    if page.photometric == MINISWHITE and 262 in page.tags and pixels.dtype.kind == "u":
        grey = pixels[..., :1]
        top = 255 if bits < 8 else (1 << bits) - 1
        pixels = np.concatenate([(top - grey).astype(pixels.dtype), pixels[..., 1:]], -1)
    if page.photometric == CMYK:
        return _light(pixels, bits)
    if form in ("rgba", "grey+alpha") and page.extrasamples[0] == ASSOCIATED:
        return _apart(pixels)
    return pixels


def _apart(pixels: Pixels) -> Pixels:
    """Colours that were multiplied with alpha, as they were before."""
    alpha = pixels[..., -1:].astype(np.float64)
    full = 1.0 if pixels.dtype.kind == "f" else float(np.iinfo(pixels.dtype).max)
    colours = np.divide(pixels[..., :-1] * full, alpha, out=np.zeros(pixels[..., :-1].shape), where=alpha > 0)
    colours = colours if pixels.dtype.kind == "f" else colours.clip(0, full).round()
    return np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], -1)


def _light(ink: Pixels, bits: int) -> Pixels:
    """(..., cyan magenta yellow black) -> (..., 3): what all inks leave of white."""
    if ink.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(ink), "CMYK").convert("RGB"))
    full = (1 << bits) - 1
    left = (full - ink.astype(np.float64)) / full
    light: NDArray[np.float64] = left[..., :3] * left[..., 3:] * full
    return light.round().astype(ink.dtype)
