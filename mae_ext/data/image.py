"""The image reader, on Pillow: one opening, one decode, any number of crops, resized as they are cut out."""

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from mae_ext.data import label_image
from mae_ext.data.labelmap import Labels, Stored
from mae_ext.data.sample import Crop, CropSampler, Sample, verdicts
from mae_ext.data.source import fetch
from mae_ext.errors import BadSample

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
"""The decoders that a file may choose by its first bytes. Pillow has forty more, some of which start other programs."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".jp2")

MAX_PIXELS = 100_000_000
"""A medium-format camera's image: 0.4 GB when decoded, which all workers of a machine can hold at the same time."""

PILLOW_MAX_PIXELS = 178_956_970
"""Twice Image.MAX_IMAGE_PIXELS: above it Pillow refuses by itself, and its limit is global, so it is left alone."""

BACKGROUND = (255, 255, 255, 255)

# Our own limit is checked on each image, from its header; a warning on the way to it says nothing more.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP")

# Everything that Pillow's decoders were seen to raise over damaged files.
_PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, MemoryError),
    *(RuntimeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class _Turn:
    """How stored pixels become upright: rows and columns swapped first, then each reversed or not."""

    swap: bool = False
    rows: bool = False
    columns: bool = False


# Exif 2.32, tag 0x0112. Values outside 1..8 mean nothing, and every viewer shows the image as stored.
_TURNS = {
    2: _Turn(False, False, True),
    3: _Turn(False, True, True),
    4: _Turn(False, True, False),
    5: _Turn(True, False, False),
    6: _Turn(True, False, True),
    7: _Turn(True, True, True),
    8: _Turn(True, True, False),
}


class ImageReader:
    """Image files and array rows -> (C, H, W), uint8 from 8-bit sources, float32 otherwise.

    Channels: 1 is luma (ITU-R 601-2), 3 is RGB with alpha composited on white, 4 is RGBA (opaque where a source has no
    alpha). Other counts come only from arrays with that many channels, (H, W, C). 16-bit grey is divided by 65535;
    float images keep their own units, and have to be finite; RGB with 16 bits a channel is read with 8, as Pillow does.
    CMYK, palette and 1-bit become RGB or grey; of an animation the first frame is read; EXIF orientation is applied,
    ICC profiles are not. Boxes refer to the upright image.

    Kinds of BadSample besides those of `fetch`: "not an image", "truncated", "damaged", "unsupported", "too large"
    (over max_pixels, told from the header before anything is decoded), "too small" (for a crop of fixed length),
    "non-finite", "out of range", "channels" and "out of memory".
    """

    suffixes: tuple[str, ...] = SUFFIXES
    display = "image"
    label_suffix = ".png"

    def __init__(self, size: tuple[int, ...], channels: int = 3, max_pixels: int = MAX_PIXELS) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size={list(size)}: an image has two axes, height and width")
        if channels < 1:
            raise ValueError(f"channels={channels}: expected at least 1")
        if not 0 < max_pixels <= PILLOW_MAX_PIXELS:
            raise ValueError(f"max_pixels={max_pixels}: expected 1 to {PILLOW_MAX_PIXELS}, where Pillow itself refuses")
        self.size, self.channels, self.max_pixels = tuple(size), channels, max_pixels

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        content = fetch(address, 8 * self.max_pixels)  # 8 bytes: RGBA with 16 bits each, uncompressed
        with _bad_sample(address):
            if isinstance(content, np.ndarray):
                height, width = _extent(address, content)
                image, turn = None, _Turn()
            else:
                image = self._open(address, content)
                turn = _orientation(image)
                width, height = image.size[::-1] if turn.swap else image.size
        # Outside of the net: a crop that fails is our fault, not the file's.
        boxes = [crop((height, width)) for crop in crops]
        _check(address, boxes, (height, width))
        with _bad_sample(address):
            if isinstance(content, np.ndarray):
                planes, shrink = _array_planes(address, content, self.channels), 1.0
            else:
                assert image is not None
                shrink = self._draft(image, boxes)
                planes = _planes(address, image, self.channels)
            return [Sample(self._view(address, planes, box, turn, (height, width), shrink), address) for box in boxes]

    def describe(self, address: str) -> str:
        """Format, mode and stored size in pixels, width first, from the header alone."""
        content = fetch(address, 8 * self.max_pixels)
        with _bad_sample(address):
            if isinstance(content, np.ndarray):
                return f"array {content.dtype} {'x'.join(map(str, content.shape))}"
            image = self._open(address, content)
            frames = getattr(image, "n_frames", 1)
            upright = ", turned by EXIF" if _orientation(image) != _Turn() else ""
            animated = f", first of {frames} frames" if frames > 1 else ""
            return f"{image.format} {image.mode} {image.width}x{image.height}{upright}{animated}"

    def _open(self, address: str, content: bytes) -> Image.Image:
        try:
            image = Image.open(BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            if content.startswith(_MAGIC) or content[8:12] == b"WEBP":
                raise BadSample(address, "damaged", "begins as an image, its header cannot be read") from error
            detail = f"begins with {content[:12]!r}; expected {', '.join(FORMATS)}"
            raise BadSample(address, "not an image", detail) from error
        if image.width * image.height > self.max_pixels:
            detail = f"{image.width}x{image.height} pixels, the limit is {self.max_pixels}"
            raise BadSample(address, "too large", detail)
        if self.channels not in _MODES:
            detail = f"a {image.format} file gives 1, 3 or 4 channels, the config wants {self.channels}"
            raise BadSample(address, "channels", detail)
        return image

    def _draft(self, image: Image.Image, boxes: Sequence[Crop]) -> float:
        """Let JPEG decode at 1/2, 1/4 or 1/8 where that leaves every crop at least as large as the output."""
        ratios = ((b - a) / n for box in boxes for a, b, n in zip(box.start, box.stop, self.size, strict=True))
        # Ratios are upright and the draft is not, so the smallest ratio of either axis serves both.
        most = min(ratios, default=1.0)
        shrink = next((k for k in (8, 4, 2) if k <= most), 1)
        drafted = image.draft("L" if self.channels == 1 else None, (image.width // shrink, image.height // shrink))
        return 1.0 if drafted is None else float(shrink)

    def stored(self, address: str) -> Stored:
        content = fetch(address, 8 * self.max_pixels)
        with _bad_sample(address):
            if isinstance(content, np.ndarray):
                extent = _extent(address, content)
            else:
                image = self._open(address, content)
                width, height = image.size[::-1] if _orientation(image).swap else image.size
                extent = height, width
        return Stored(extent, tuple(np.arange(n, dtype=np.float64) for n in extent))

    def label_map(self, address: str, like: str | None = None, as_stored: bool = False) -> Labels:
        """(H, W) of the numbers of a one-channel file. Raises BadSample, "label map" among others.

        A map of another size than the image `like` is found when both are cut: crops are drawn for one extent.
        """
        content = fetch(address, 8 * self.max_pixels)
        with _bad_sample(address):
            return label_image.numbers(address, content, FORMATS, self.max_pixels)

    def write_labels(self, labels: Labels, like: str, path: Path, as_stored: bool = False) -> None:
        """(H, W) -> PNG. Raises OSError."""
        label_image.write(labels, path)

    def _view(
        self, address: str, planes: list[Image.Image], box: Crop, turn: _Turn, extent: tuple[int, int], shrink: float
    ) -> Tensor:
        """One crop of the decoded planes, at the output size: (C, H, W)."""
        rows, columns = zip(box.start, box.stop, strict=True)
        rows = (extent[0] - rows[1], extent[0] - rows[0]) if turn.rows else rows
        columns = (extent[1] - columns[1], extent[1] - columns[0]) if turn.columns else columns
        (top, bottom), (left, right) = (columns, rows) if turn.swap else (rows, columns)
        stored = left / shrink, top / shrink, right / shrink, bottom / shrink
        height, width = self.size[::-1] if turn.swap else self.size
        x = torch.cat([_resized(plane, stored, (height, width), self.channels) for plane in planes])
        if x.dtype == torch.float32 and not torch.isfinite(x).all():
            raise BadSample(address, "out of range", "values overflow float32 when interpolated")
        if turn.swap:
            x = x.transpose(1, 2)
        reverse = [axis for axis, a, b in ((1, turn.rows, box.flip[0]), (2, turn.columns, box.flip[1])) if a != b]
        if reverse:
            x = x.flip(reverse)
        return _with_channels(x, self.channels).contiguous()


_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@contextmanager
def _bad_sample(address: str) -> Iterator[None]:
    """The one place where what Pillow raises becomes a verdict on the file."""
    with verdicts(address):  # whatever was not seen so far
        try:
            yield
        except _PILLOW_ERRORS as error:
            raise BadSample(address, _kind(error), f"{type(error).__name__}: {error}") from error


def _kind(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too large"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    if isinstance(error, NotImplementedError) or "conversion from" in str(error) or "nsupported" in str(error):
        return "unsupported"
    return "damaged"


def _check(address: str, boxes: Sequence[Crop], extent: tuple[int, int]) -> None:
    for box in boxes:
        for start, stop, length in zip(box.start, box.stop, extent, strict=True):
            if start < 0 and stop - start > length:  # a crop of fixed length, which is centred
                detail = f"{extent[1]}x{extent[0]} pixels, and a crop has {stop - start} where it has {length}"
                raise BadSample(address, "too small", detail)
            if not -1e-3 <= start < stop <= length + 1e-3:
                raise ValueError(f"{box} does not lie in an image of {extent[0]}x{extent[1]} (height x width)")


def _orientation(image: Image.Image) -> _Turn:
    if image.format == "TIFF":
        image.load()  # Pillow turns TIFF itself, while loading
        return _Turn()
    return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1), _Turn())


def _planes(address: str, image: Image.Image, channels: int) -> list[Image.Image]:
    """Decode: one image in L, RGB or RGBA (on its way to `channels`), or one in F (float32)."""
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return [_deep(address, np.asarray(image))]
    # Palette numbers and bits have no in-between, and ink is not light: all are made colours before interpolation.
    if image.has_transparency_data:
        return [_in_mode(image, "RGBA")]  # composited after scaling, when there are fewer pixels
    return [_in_mode(image, "L" if image.mode in ("1", "L") or channels == 1 else "RGB")]


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _opaque(image: Image.Image, channels: int) -> Image.Image:
    if channels == 4:
        return image
    white = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(white, image).convert("L" if channels == 1 else "RGB")


def _deep(address: str, pixels: NDArray[np.generic]) -> Image.Image:
    """(H, W) of more than 8 bits -> mode F: integers over 65535, floats in their own units."""
    if pixels.dtype.kind in "iu":
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > 65535:
            detail = f"integers from {low} to {high}, expected 0 to 65535; save as float with units of your own"
            raise BadSample(address, "out of range", detail)
        return Image.fromarray(pixels.astype(np.float32) / np.float32(65535))
    values = pixels.astype(np.float32)
    if not np.isfinite(values).all():
        raise BadSample(address, "non-finite", f"{int((~np.isfinite(values)).sum())} of {values.size} values")
    return Image.fromarray(values)


def _resized(
    plane: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int], channels: int
) -> Tensor:
    """A box (left, top, right, bottom) of a plane, antialiased bicubic: (bands, *size) with size (height, width)."""
    height, width = size
    left, top, right, bottom = max(box[0], 0.0), max(box[1], 0.0), min(box[2], plane.width), min(box[3], plane.height)
    whole = all(float(edge).is_integer() for edge in (left, top, right, bottom))
    ratio = max((right - left) / width, (bottom - top) / height)
    if plane.mode in ("L", "RGB") and whole and ratio < 4:
        # torch's kernel for bytes is vectorised, four times as fast as Pillow's and within rounding of it.
        cut = plane.crop((int(left), int(top), int(right), int(bottom)))
        x = torch.frombuffer(bytearray(cut.tobytes()), dtype=torch.uint8)
        x = rearrange(x, "(h w c) -> 1 c h w", h=cut.height, w=cut.width)
        return interpolate(x, size, mode="bicubic", antialias=True)[0]
    # reducing_gap=2: a box filter takes a much larger image to twice the output first, which is hard to tell from
    # bicubic all the way and several times faster. Alpha is premultiplied by Pillow.
    view = plane.resize((width, height), Image.Resampling.BICUBIC, (left, top, right, bottom), reducing_gap=2.0)
    if view.mode == "RGBA":
        view = _opaque(view, channels)
    raw = bytearray().join(view.tobytes("raw", band) for band in view.getbands())
    if view.mode != "F":
        return torch.frombuffer(raw, dtype=torch.uint8).view(-1, height, width)
    # Bicubic overshoots at edges; bytes are clipped anyway.
    low, high = (float(v) for v in np.ravel(plane.getextrema()))
    return torch.frombuffer(raw, dtype=torch.float32).view(1, height, width).clamp(low, high)


def _with_channels(x: Tensor, channels: int) -> Tensor:
    """Grey becomes colour by repetition; alpha, where there was none, is opaque."""
    if len(x) == channels:
        return x
    colour, opaque = x.expand(3, -1, -1), 255 if x.dtype == torch.uint8 else 1
    return colour if channels == 3 else torch.cat([colour, torch.full_like(x[:1], opaque)])


def _extent(address: str, array: NDArray[np.generic]) -> tuple[int, int]:
    if array.ndim not in (2, 3) or 0 in array.shape:
        detail = f"an array row of shape {list(array.shape)}, expected (H, W) or (H, W, C)"
        raise BadSample(address, "unsupported", detail)
    return array.shape[0], array.shape[1]


def _array_planes(address: str, array: NDArray[np.generic], channels: int) -> list[Image.Image]:
    """(H, W) or (H, W, C) -> one colour image where the channels are colours, one image a channel otherwise."""
    found = 1 if array.ndim == 2 else array.shape[2]
    deep = array.dtype.kind == "f" or array.dtype == np.uint16
    if not deep and array.dtype not in (np.uint8, np.bool_):
        raise BadSample(address, "unsupported", f"an array of {array.dtype}; expected uint8, uint16, bool or float")
    converts = channels in _MODES and (found == 1 or (found in _MODES and not deep))
    if found != channels and not converts:
        raise BadSample(address, "channels", f"the array has {found}, the config wants {channels}")
    array = array.reshape(*array.shape[:2], found)
    if deep:
        return [_deep(address, array[..., c]) for c in range(found)]
    pixels = np.ascontiguousarray(array) if array.dtype == np.uint8 else array.astype(np.uint8) * np.uint8(255)
    if found in _MODES and channels in _MODES:
        image = Image.fromarray(pixels[..., 0] if found == 1 else pixels)
        return [_in_mode(image, "L") if channels == 1 and image.mode == "RGB" else image]
    return [Image.fromarray(np.ascontiguousarray(pixels[..., c])) for c in range(found)]
