"""A picture that is open: its size, how it is turned, and what a box of it is resized from."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from mae_ext.data.image.channels import MODES, NAMES, as_planes, meant, scaled
from mae_ext.data.image.file import Tiles, deep, tiles_of
from mae_ext.data.image.jpeg import decoded
from mae_ext.data.image.tiff import Tiff
from mae_ext.data.image.tiff_nodata import holes
from mae_ext.data.image.tiff_segment import Pixels
from mae_ext.data.picked import Picks, picked
from mae_ext.errors import BadSample

WINDOW = 1 << 24
"""Numbers (pixels times channels) of a TIFF that are decoded at once: a smaller one whole, of a larger one what each
crop needs, and a crop that is larger itself is averaged on the way. 16 to 64 MB."""

# The limit is checked on each image, from its header; a warning on the way to it says nothing more.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Box = tuple[float, float, float, float]
"""left, top, right, bottom, in pixels."""

Plane = Image.Image | NDArray[np.uint8]
"""L, RGB, RGBA or F; as an array (H, W) or (H, W, 3), which L and RGB may be."""


@dataclass(frozen=True)
class Cut:
    """Planes and a box in their pixels.

    measured: (H, W) F of 0..1, where something was measured; the planes are F then, and hold their `fills` elsewhere,
    one for each. whole: they are bytes.
    """

    planes: Sequence[Plane]
    box: Box
    measured: Image.Image | None = None
    fills: tuple[float, ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Turn:
    """How stored pixels become upright: rows and columns swapped first, then each reversed or not."""

    swap: bool = False
    rows: bool = False
    columns: bool = False


# Exif 2.32, tag 0x0112. Values outside 1..8 mean nothing, and every viewer shows the image as stored.
_TURNS = {
    2: Turn(False, False, True),
    3: Turn(False, True, True),
    4: Turn(False, True, False),
    5: Turn(True, False, False),
    6: Turn(True, False, True),
    7: Turn(True, True, True),
    8: Turn(True, True, False),
}


PNG_NOTES = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks in which a PNG may say how it is turned (PNG 3.0, 11.3)."""


class Picture(Protocol):
    """extent: (height, width) as stored. summary: format, mode and stored size in pixels, width first."""

    extent: tuple[int, int]
    turn: Turn
    summary: str

    def cut(self, boxes: Sequence[Box], size: tuple[int, int]) -> list[Cut]:
        """What each box, in stored pixels, is resized from to size (height, width)."""
        ...

    def close(self) -> None: ...


class OfFile:
    """A file that Pillow decodes, whole."""

    def __init__(self, address: str, image: Image.Image, content: bytes, channels: int, bands: Picks | None) -> None:
        self.address, self.image, self.content, self.channels, self.bands = address, image, content, channels, bands
        self.tiles = tiles_of(image)  # before asking for EXIF, which may lie behind the pixels, and decodes them
        self.turn = _orientation(image, content)
        self.extent = image.height, image.width
        frames = getattr(image, "n_frames", 1)
        animated = f", first of {frames} frames" if frames > 1 else ""
        self.summary = f"{image.format} {image.mode} {image.width}x{image.height}{_turned(self.turn)}{animated}"

    def cut(self, boxes: Sequence[Box], size: tuple[int, int]) -> list[Cut]:
        shrink = self._draft(boxes, size)
        planes = _planes(self.address, self.image, self.content, self.tiles, self.channels, self.bands)
        cuts = []
        for left, top, right, bottom in boxes:
            stored = left / shrink, top / shrink, right / shrink, bottom / shrink
            cuts.append(Cut(planes, stored))
        return cuts

    def _draft(self, boxes: Sequence[Box], size: tuple[int, int]) -> float:
        """Let JPEG decode at 1/2, 1/4 or 1/8 where that leaves every crop at least as large as the output."""
        ratios = (ratio for box in boxes for ratio in _ratios(box, size))
        most = min(ratios, default=1.0)
        shrink = next((k for k in (8, 4, 2) if k <= most), 1)
        grey = self.channels == 1 and self.bands is None
        drafted = self.image.draft("L" if grey else None, (self.image.width // shrink, self.image.height // shrink))
        return 1.0 if drafted is None else float(shrink)

    def close(self) -> None:
        self.image.close()


class OfArray:
    """A row of an archive: (H, W) or (H, W, C)."""

    turn = Turn()

    def __init__(self, address: str, array: NDArray[np.generic], channels: int, bands: Picks | None) -> None:
        if array.ndim not in (2, 3) or 0 in array.shape:
            detail = f"an array row of shape {list(array.shape)}, expected (H, W) or (H, W, C)"
            raise BadSample(address, "unsupported", detail)
        self.address, self.array, self.channels, self.bands = address, array, channels, bands
        self.extent = array.shape[0], array.shape[1]
        self.summary = f"array {array.dtype} {'x'.join(map(str, array.shape))}"

    def cut(self, boxes: Sequence[Box], size: tuple[int, int]) -> list[Cut]:
        planes = _array_planes(self.address, self.array, self.channels, self.bands)
        return [Cut(planes, box) for box in boxes]

    def close(self) -> None:
        pass


class OfTiff:
    """A TIFF: whole where it is small, and else what the boxes touch."""

    def __init__(self, address: str, tiff: Tiff, channels: int, bands: Picks | None) -> None:
        self.address, self.tiff, self.channels, self.bands = address, tiff, channels, bands
        layout = tiff.layout
        self.extent = layout.height, layout.width
        self.turn = _TURNS.get(layout.orientation, Turn())
        self.summary = layout.summary + _turned(self.turn)
        self._decoded: dict[tuple[int, tuple[int, int, int, int], int], Cut] = {}

    def cut(self, boxes: Sequence[Box], size: tuple[int, int]) -> list[Cut]:
        return [self._cut(box, size) for box in boxes]

    def _cut(self, box: Box, size: tuple[int, int]) -> Cut:
        level, down, across = self.tiff.level_for(min(_ratios(box, size)))
        left, top, right, bottom = box[0] / across, box[1] / down, box[2] / across, box[3] / down
        (height, width), values, step = self.tiff.size(level), self.tiff.layout.bands, 1
        window = 0, 0, height, width
        if height * width * values > WINDOW:
            ratios = _ratios((left, top, right, bottom), size)
            margin = 8 + ceil(4 * max(1.0, *ratios))  # more than any filter that scales the box reaches beyond it
            window = (
                max(0, floor(top) - margin), max(0, floor(left) - margin),
                min(height, ceil(bottom) + margin), min(width, ceil(right) + margin),
            )  # fmt: skip
            if (window[2] - window[0]) * (window[3] - window[1]) * values > WINDOW:
                step = max(1, int(min(ratios) / 2))  # twice the output is left, as of other formats
        key = level, window, step
        if key not in self._decoded:
            self._decoded[key] = self._planes(level, window, step)
        a, b = window[1], window[0]
        place = (left - a) / step, (top - b) / step, (right - a) / step, (bottom - b) / step
        return replace(self._decoded[key], box=place)

    def _planes(self, level: int, window: tuple[int, int, int, int], step: int) -> Cut:
        layout, bands = self.tiff.layout, self.bands
        pages: list[int] | None = None
        if bands is not None and layout.pages > 1:  # no page is decoded of which no band is taken
            numbers = picked(self.address, bands, layout.bands, layout.names, layout.held)
            pages = sorted({n // layout.samples for n in numbers})
            bands = tuple(pages.index(n // layout.samples) * layout.samples + n % layout.samples for n in numbers)
        chunks = self.tiff.bands(level, window, pages)
        if self.tiff.nodata is not None or self.tiff.masks or (self.tiff.is_map and layout.dtype.kind == "f"):
            return self._with_holes(level, window, step, bands, chunks)
        if step > 1:
            return Cut(_averaged((self._meant(chunk, bands) for _, chunk in chunks), step, self._blended), _NOWHERE)
        return Cut(as_planes(self._meant(_joined(chunks, window), bands), self._blended), _NOWHERE)

    def _with_holes(
        self, level: int, window: tuple[int, int, int, int], step: int, bands: Picks | None,
        chunks: Iterator[tuple[int, Pixels]],
    ) -> Cut:  # fmt: skip
        whole = True

        def parts() -> Iterator[Pixels]:
            """(rows, W, m + 1) float32: values where there are some, then where these are."""
            nonlocal whole
            for first, chunk in chunks if step > 1 else iter([(window[0], _joined(chunks, window))]):
                among = chunk if bands is None else chunk[..., self._numbers(bands, chunk.shape[-1])]
                empty = holes(among, self.tiff.nodata)
                masked = self.tiff.mask(level, (first, window[1], first + len(chunk), window[3]))
                empty = empty if masked is None else empty | ~masked
                values = self._meant(np.where(empty[..., None], np.zeros((), chunk.dtype), chunk), bands)
                whole &= values.dtype == np.uint8
                present = ~empty[..., None]
                yield np.concatenate([np.where(present, values, 0).astype(np.float32), present.astype(np.float32)], -1)

        if step > 1:
            *values, measured = _averaged(parts(), step, False)
        else:
            (one,) = parts()
            *values, measured = as_planes(one, False)
        share = np.asarray(measured)
        if share.all():
            if whole and step == 1:
                values = [Image.fromarray(np.asarray(v).astype(np.uint8)) for v in values]
            return Cut(values, _NOWHERE)
        total = float(share.sum(dtype=np.float64)) or 1.0
        fills = tuple(float(np.asarray(v).sum(dtype=np.float64)) / total for v in values)
        filled = (np.asarray(v) + np.float32(f) * (1 - share) for v, f in zip(values, fills, strict=True))
        return Cut([Image.fromarray(v.astype(np.float32)) for v in filled], _NOWHERE, measured, fills, whole)

    def _numbers(self, bands: Picks, held: int) -> list[int]:
        layout = self.tiff.layout
        names = layout.names or NAMES.get(layout.form, ())
        return picked(self.address, bands, held, names, layout.held)

    def _meant(self, pixels: Pixels, bands: Picks | None) -> Pixels:
        layout = self.tiff.layout
        form = layout.form if layout.pages == 1 else "bands"
        return meant(self.address, pixels, form, layout.full, self.channels, bands, layout.held, layout.names)

    @property
    def _blended(self) -> bool:
        return self.bands is None and self.tiff.layout.pages == 1 and self.tiff.layout.form != "bands"

    def close(self) -> None:
        self.tiff.close()


_NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)


def _joined(chunks: Iterator[tuple[int, Pixels]], window: tuple[int, int, int, int]) -> Pixels:
    """Rows from above, as they come -> all of a window."""
    whole: Pixels | None = None
    for first, chunk in chunks:
        if whole is None:
            whole = np.empty((window[2] - window[0], *chunk.shape[1:]), chunk.dtype)
        whole[first - window[0] : first - window[0] + len(chunk)] = chunk
    assert whole is not None
    return whole


def _averaged(chunks: Iterator[Pixels], step: int, blended: bool) -> list[Image.Image]:
    """Rows from above, as they come -> planes of a step-th of the size, by a box filter."""
    done: list[list[Pixels]] = []
    rest: Pixels | None = None
    for chunk in chunks:
        rest = chunk if rest is None else np.concatenate([rest, chunk])
        if ready := len(rest) // step * step:
            done.append([np.asarray(plane.reduce(step)) for plane in as_planes(rest[:ready], blended)])
            rest = rest[ready:]
    if rest is not None and len(rest):
        done.append([np.asarray(plane.reduce(step)) for plane in as_planes(rest, blended)])
    return [Image.fromarray(np.concatenate(parts)) for parts in zip(*done, strict=True)]


def _ratios(box: Box, size: tuple[int, int]) -> tuple[float, float]:
    return (box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]


def _turned(turn: Turn) -> str:
    return ", turned by EXIF" if turn != Turn() else ""


def _orientation(image: Image.Image, content: bytes) -> Turn:
    if image.format == "TIFF":
        image.load()  # Pillow turns TIFF itself, while loading
        return Turn()
    if image.format == "PNG" and not any(chunk in content[content.rfind(b"IDAT") :] for chunk in PNG_NOTES):
        exif = Image.Image.getexif(image)  # PNG's own decodes all pixels, for what may be behind them
    else:
        exif = image.getexif()
    return _TURNS.get(exif.get(ExifTags.Base.Orientation, 1), Turn())


def _planes(
    address: str, image: Image.Image, content: bytes, tiles: Tiles, channels: int, bands: Picks | None
) -> Sequence[Plane]:
    """Decode: one image in L, RGB or RGBA (on its way to `channels`), or one for each channel."""
    if numbers := deep(image, content, tiles):
        pixels, form, full = numbers
        return as_planes(meant(address, pixels, form, full, channels, bands), bands is None)
    if bands is None and (plane := decoded(image, content)) is not None:
        return [plane]
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return as_planes(meant(address, np.asarray(image)[..., None], "grey", 65535, channels, bands), bands is None)
    # Palette numbers and bits have no in-between, and ink is not light: all are made colours before interpolation.
    if image.has_transparency_data:
        colours = _in_mode(image, "RGBA")  # composited after scaling, when there are fewer pixels
    else:
        grey = channels == 1 and bands is None
        colours = _in_mode(image, "L" if image.mode in ("1", "L") or grey else "RGB")
    if bands is None:
        return [colours]
    form = {"L": "grey", "RGB": "rgb", "RGBA": "rgba"}[colours.mode]
    pixels = np.asarray(colours).reshape(colours.height, colours.width, -1)
    return as_planes(meant(address, pixels, form, 255, channels, bands), False)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _array_planes(address: str, array: NDArray[np.generic], channels: int, bands: Picks | None) -> list[Image.Image]:
    """(H, W) or (H, W, C) -> one colour image where the channels are colours, one image a channel otherwise."""
    bands_held = 1 if array.ndim == 2 else array.shape[2]
    floats = array.dtype.kind == "f" or array.dtype == np.uint16
    if not floats and array.dtype not in (np.uint8, np.bool_):
        raise BadSample(address, "unsupported", f"an array of {array.dtype}; expected uint8, uint16, bool or float")
    array = array.reshape(*array.shape[:2], bands_held)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if bands is not None:
        return as_planes(meant(address, array, "bands", 65535, channels, bands, f"array of {bands_held}"), False)
    converts = channels in MODES and (bands_held == 1 or (bands_held in MODES and not floats))
    if bands_held != channels and not converts:
        raise BadSample(address, "channels", f"the array has {bands_held}, the config wants {channels}")
    if floats:
        return as_planes(scaled(address, array), False)
    if bands_held in MODES and channels in MODES:
        (image,) = as_planes(array, True)
        return [_in_mode(image, "L") if channels == 1 and image.mode == "RGB" else image]
    return as_planes(array, False)
