"""What the channels of a picture mean: grey, colours, alpha or bands, and what becomes of them for a config."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mae_ext.data.image.tiff_pages import COLOURS
from mae_ext.data.image.tiff_segment import Pixels
from mae_ext.data.picked import Picks, picked
from mae_ext.errors import BadSample

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Numbers of channels that grey and colours can be turned into."""

NAMES = {"grey": ("grey",), "grey+alpha": ("grey", "alpha"), "rgb": COLOURS[:3], "rgba": COLOURS}
"""Of channels, by form, where a file does not name them itself."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""ITU-R BT.601, as Pillow has it."""


def meant(
    address: str, pixels: Pixels, form: str, full: int, channels: int, bands: Picks | None, held: str = "",
    names: tuple[str, ...] = (),
) -> Pixels:  # fmt: skip
    """(H, W, n) numbers as stored -> (H, W, m) uint8, or float32 of whatever has more than 8 bits.

    form: "grey", "grey+alpha", "rgb", "rgba" or "bands", which never become anything else. bands: those that are
    taken, as they are; names: of those that there are. held: how a message calls what there is. m is `channels`, or 1
    where grey is yet to be repeated, 3 where an opaque alpha is to be added. Raises BadSample: "channels",
    "non-finite", "unsupported".
    """
    bands_held = pixels.shape[-1]
    if bands is not None:
        chosen = picked(address, bands, bands_held, names or NAMES.get(form, ()), held or form)
        return _numbers(address, pixels[..., chosen], full)
    if bands_held == channels and (form == "bands" or channels not in MODES):
        return _numbers(address, pixels, full)
    if form == "bands" or channels not in MODES:
        detail = f"{held or form}, the config wants {channels} channels; set channels to {bands_held}"
        choice = f", or choose {channels} with data.channels, such as {list(range(channels))}"
        raise BadSample(address, "channels", f"{detail}{choice if bands_held > channels else ''}")
    if form in ("grey+alpha", "rgba"):
        return _with_alpha(address, pixels, form, full, channels)
    if form == "rgb" and channels == 1:
        return _luma(_numbers(address, pixels, full))
    return _numbers(address, pixels, full)


def _numbers(address: str, pixels: Pixels, full: int) -> Pixels:
    return pixels if pixels.dtype == np.uint8 else scaled(address, pixels, full)


def scaled(address: str, pixels: Pixels, full: int = 65535) -> NDArray[np.float32]:
    """Integers over `full`, floats in their own units. Raises BadSample for what is not finite.

    Signed integers go below 0 so, and those of 32 bits beyond 1: one scale, whatever a file happens to hold.
    """
    if pixels.dtype.kind in "iu":
        share: NDArray[np.float32] = pixels.astype(np.float32) / np.float32(full)
        return share
    with np.errstate(over="ignore", invalid="ignore"):
        values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadSample(address, "non-finite", f"{int((~np.isfinite(values)).sum())} of {values.size} values")
    return values


def _with_alpha(address: str, pixels: Pixels, form: str, full: int, channels: int) -> Pixels:
    """Over white, or as RGBA."""
    if pixels.dtype.kind == "f" and channels != 4:
        detail = f"alpha over floats, whose white is not known; take the others with data.channels: {form}"
        raise BadSample(address, "unsupported", detail)
    values = _numbers(address, pixels, full)
    if channels == 4:
        return values if form == "rgba" else values[..., [0, 0, 0, 1]]
    white = np.float32(255 if values.dtype == np.uint8 else 1)
    alpha = values[..., -1:].astype(np.float32) / white
    over = values[..., :-1] * alpha + white * (1 - alpha)
    opaque = over.round().astype(np.uint8) if values.dtype == np.uint8 else over.astype(np.float32)
    return _luma(opaque) if channels == 1 else opaque


def _luma(colours: Pixels) -> Pixels:
    if colours.shape[-1] == 1:
        return colours
    if colours.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))[..., None]
    return np.asarray(colours @ LUMA)[..., None]


def as_planes(pixels: Pixels, blended: bool) -> list[Image.Image]:
    """(H, W, m) of `meant` -> one image where channels are colours, one a channel otherwise. blended: 4 are RGBA."""
    count = pixels.shape[-1]
    if pixels.dtype == np.uint8 and (count in (1, 3) or (count == 4 and blended)):
        return [Image.fromarray(np.ascontiguousarray(pixels[..., 0] if count == 1 else pixels))]
    return [Image.fromarray(np.ascontiguousarray(pixels[..., i])) for i in range(count)]
