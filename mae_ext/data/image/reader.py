"""The image reader: one opening, as few pixels decoded as the crops need, each crop resized as it is cut out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from mae_ext.data.image import labels as label_image
from mae_ext.data.image.channels import MODES
from mae_ext.data.image.file import FORMATS, SUFFIXES, opened, parsing
from mae_ext.data.image.kind import KIND
from mae_ext.data.image.picture import Box, Cut, OfArray, OfFile, OfTiff, Picture, Plane, Turn
from mae_ext.data.image.tiff import MAGIC as TIFF_MAGIC
from mae_ext.data.image.tiff import SUFFIXES as TIFF_SUFFIXES
from mae_ext.data.image.tiff import Tiff
from mae_ext.data.image.tiff_pages import At, check_place
from mae_ext.data.labelmap import Labels
from mae_ext.data.picked import check_picks
from mae_ext.data.sample import Crop, CropSampler, Extent, Sample
from mae_ext.data.sources.address import fetch, head, locate
from mae_ext.errors import BadSample

MAX_PIXELS = 100_000_000
"""A medium-format camera's image: 0.4 GB when decoded, which all workers of a machine can hold at the same time."""

MOST_PIXELS = 10**12
"""More than any scanner makes: what asks for more is a mistake."""

BACKGROUND = (255, 255, 255, 255)


class ImageReader:
    """Image files and array rows -> (C, H, W), uint8 from 8-bit sources, float32 otherwise.

    Channels: 1 is luma (ITU-R 601-2), 3 is RGB with alpha composited on white, 4 is RGBA (opaque where a source has no
    alpha). Bands that are no colours (in a TIFF what its tags call neither colour nor alpha, and several pages; in
    arrays) come as they are: all, where `channels` is their number, or those that `bands` (a config's data.channels)
    takes, in its order, by number from 0 through the pages and the samples of each, or by the names that OME, ImageJ
    and GDAL give them. z, t: of pages along such axes (OME, ImageJ) the one plane and time that is taken, a number or
    "middle"; without them all pages are bands. Of other files `bands` chooses among their colours. None is left out or
    made up: a number that does not fit is a bad sample. Where a map (GeoTIFF) says that there is nothing (GDAL's
    nodata, not-a-number, a mask beside it), `valid` is false and values are the mean of the others. Integers of more
    than 8 bits are divided by the largest that their bits hold, 65535 for 16 and for more; float images keep their own
    units, and have to be finite. CMYK, palette and 1-bit become RGB or grey; of an animation the first frame is read;
    EXIF orientation is applied, ICC profiles are not. JPEG 2000, AVIF and HEIC of more than 8 bits are read with 8, as
    their libraries give them. Boxes refer to the upright image.

    Of a TIFF larger than picture.WINDOW no more is decoded than each crop needs, in the smallest level of a pyramid
    that has its pixels; all other formats are decoded whole, with 1 (grey) or 4 bytes a pixel.

    Kinds of BadSample besides those of `fetch`: "not an image", "truncated", "damaged", "unsupported", "too large"
    (over max_pixels, told from the header before anything is decoded), "too small" (for a crop of fixed length),
    "non-finite", "out of range", "channels" and "out of memory".
    """

    suffixes: tuple[str, ...] = SUFFIXES
    kind = KIND
    display = "image"
    label_suffix = ".png"

    def __init__(
        self,
        size: tuple[int, ...],
        channels: int = 3,
        max_pixels: int = MAX_PIXELS,
        bands: Sequence[int | str] | None = None,
        z: At | None = None,
        t: At | None = None,
    ) -> None:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"size={list(size)}: an image has two axes, height and width")
        if channels < 1:
            raise ValueError(f"channels={channels}: expected at least 1")
        if not 0 < max_pixels <= MOST_PIXELS:
            raise ValueError(f"max_pixels={max_pixels}: expected 1 to {MOST_PIXELS}")
        self.size, self.channels, self.max_pixels = tuple(size), channels, max_pixels
        self.bands = check_picks(bands, channels)
        self.z, self.t = check_place("z", z), check_place("t", t)

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        with parsing(address):
            picture = self._open(address)
        try:
            height, width = _upright(picture)
            # Outside of the net: a crop that fails is our fault, not the file's.
            boxes = [crop((height, width)) for crop in crops]
            check_boxes(address, boxes, (height, width))
            with parsing(address):
                turn = picture.turn
                size = self.size[::-1] if turn.swap else self.size
                stored = [_stored(box, turn, (height, width)) for box in boxes]
                cut = picture.cut(stored, (size[0], size[1]))
                views = [self._view(address, of, box, turn) for of, box in zip(cut, boxes, strict=True)]
                extent = Extent.as_stored((height, width))
                return [
                    Sample(x, address, valid, extent=extent, box=box)
                    for (x, valid), box in zip(views, boxes, strict=True)
                ]
        finally:
            picture.close()

    def extent(self, address: str) -> Extent:
        """(height, width) of the upright image in pixels, from the header alone."""
        with parsing(address):
            picture = self._open(address, described=True)
            picture.close()
            return Extent.as_stored(_upright(picture))

    def describe(self, address: str) -> str:
        """Format, mode and stored size in pixels, width first, from the header alone."""
        with parsing(address):
            picture = self._open(address, described=True)
            picture.close()
            return picture.summary

    def _open(self, address: str, described: bool = False) -> Picture:
        """The header of a file. described: not to be read, so that any number of channels will do."""
        content: bytes | NDArray[np.generic] | None = None
        tiff: Tiff | None = None
        if address.lower().endswith(TIFF_SUFFIXES) and head(address, 4) in TIFF_MAGIC:
            tiff = Tiff(
                address, None, locate(address), self.z, self.t
            )  # not fetched: it may be much larger than its crops
        else:
            content = fetch(address, 8 * self.max_pixels)  # 8 bytes: RGBA with 16 bits each, uncompressed
            if isinstance(content, np.ndarray):
                return OfArray(address, content, self.channels, self.bands)
            if content[:4] in TIFF_MAGIC:
                tiff = Tiff(address, content, z=self.z, t=self.t)
        if tiff is not None:
            try:
                self._check_pixels(address, tiff.layout.height, tiff.layout.width)
            except BadSample:
                tiff.close()
                raise
            if not tiff.old_jpeg:
                return OfTiff(address, tiff, self.channels, self.bands)
            tiff.close()
            content = content or fetch(address, 8 * self.max_pixels)
        assert isinstance(content, bytes)
        image = opened(address, content)
        self._check_pixels(address, image.height, image.width)
        if self.channels not in MODES and self.bands is None and not described:
            detail = f"a {image.format} file gives 1, 3 or 4 channels, the config wants {self.channels}"
            raise BadSample(address, "channels", detail)
        return OfFile(address, image, content, self.channels, self.bands)

    def _check_pixels(self, address: str, height: int, width: int) -> None:
        if (pixels := height * width) > self.max_pixels:
            detail = (
                f"{width}x{height} pixels, the limit is {self.max_pixels}; if it is meant to be so large, train with "
                f"--set modalities.image.data.reader.max_pixels={pixels}"
            )
            raise BadSample(address, "too large", detail)

    def label_map(self, address: str, like: str | None = None, as_stored: bool = False) -> Labels:
        """(H, W) of the numbers of a one-channel file. Raises BadSample, "label map" among others.

        A map of another size than the image `like` is found when both are cut: crops are drawn for one extent.
        """
        content = fetch(address, 8 * self.max_pixels)
        with parsing(address):
            return label_image.numbers(address, content, FORMATS, self.max_pixels)

    def write_labels(self, labels: Labels, like: str, path: Path, as_stored: bool = False) -> None:
        """(H, W) -> PNG. Raises OSError."""
        label_image.write(labels, path)

    def _view(self, address: str, cut: Cut, box: Crop, turn: Turn) -> tuple[Tensor, Tensor | None]:
        """One crop of decoded planes, at the output size: (C, H, W), and (1, H, W) where some of it is not valid."""
        height, width = self.size[::-1] if turn.swap else self.size
        x = torch.cat([_resized(plane, cut.box, (height, width), self.channels) for plane in cut.planes])
        valid = None
        if cut.measured is not None:
            x, valid = _unfilled(x, _resized(cut.measured, cut.box, (height, width), 1), cut)
        if x.dtype == torch.float32 and not torch.isfinite(x).all():
            raise BadSample(address, "out of range", "values overflow float32 when interpolated")
        x = _with_channels(_turned(x, box, turn), self.channels).contiguous()
        return x, None if valid is None else _turned(valid, box, turn).contiguous()


def _turned(x: Tensor, box: Crop, turn: Turn) -> Tensor:
    """As stored -> upright, and flipped as the box says."""
    if turn.swap:
        x = x.transpose(1, 2)
    reverse = [axis for axis, a, b in ((1, turn.rows, box.flip[0]), (2, turn.columns, box.flip[1])) if a != b]
    return x.flip(reverse) if reverse else x


def _unfilled(x: Tensor, share: Tensor, cut: Cut) -> tuple[Tensor, Tensor | None]:
    """What holes have in a pixel is taken out of it again; a pixel that is a hole by more than half is not valid."""
    share = torch.where(share > 1 - 1e-4, 1.0, share)
    fills, valid = x.new_tensor(cut.fills).view(-1, 1, 1), share >= 0.5
    apart = torch.where(share == 1, x, torch.where(valid, fills + (x - fills) / share.clamp(min=0.5), fills))
    ends = [plane.getextrema() for plane in cut.planes if isinstance(plane, Image.Image)]
    low, high = (x.new_tensor([float(end[i]) for end in ends]).view(-1, 1, 1) for i in (0, 1))  # type: ignore[arg-type]
    apart = torch.minimum(torch.maximum(apart, low), high)
    return apart.round().to(torch.uint8) if cut.whole else apart, None if valid.all() else valid


def _upright(picture: Picture) -> tuple[int, int]:
    """(height, width) as it is shown."""
    height, width = picture.extent
    return (width, height) if picture.turn.swap else (height, width)


def _stored(box: Crop, turn: Turn, extent: tuple[int, int]) -> Box:
    """A box of the upright image in the pixels that are stored."""
    rows, columns = zip(box.start, box.stop, strict=True)
    rows = (extent[0] - rows[1], extent[0] - rows[0]) if turn.rows else rows
    columns = (extent[1] - columns[1], extent[1] - columns[0]) if turn.columns else columns
    (top, bottom), (left, right) = (columns, rows) if turn.swap else (rows, columns)
    return left, top, right, bottom


def check_boxes(address: str, boxes: Sequence[Crop], extent: tuple[int, int]) -> None:
    """Raises BadSample "too small" for a crop of fixed length that is longer, ValueError for others that reach out."""
    for box in boxes:
        for start, stop, length in zip(box.start, box.stop, extent, strict=True):
            if start < 0 and stop - start > length:  # a crop of fixed length, which is centred
                detail = f"{extent[1]}x{extent[0]} pixels, and a crop has {stop - start} where it has {length}"
                raise BadSample(address, "too small", detail)
            if not -1e-3 <= start < stop <= length + 1e-3:
                raise ValueError(f"{box} does not lie in an image of {extent[0]}x{extent[1]} (height x width)")


def _opaque(image: Image.Image, channels: int) -> Image.Image:
    if channels == 4:
        return image
    white = Image.new("RGBA", image.size, BACKGROUND)
    return Image.alpha_composite(white, image).convert("L" if channels == 1 else "RGB")


def _resized(plane: Plane, box: Box, size: tuple[int, int], channels: int) -> Tensor:
    """A box of a plane, antialiased bicubic: (bands, *size) with size (height, width)."""
    height, width = size
    extent = plane.shape[:2] if isinstance(plane, np.ndarray) else (plane.height, plane.width)
    left, top, right, bottom = max(box[0], 0.0), max(box[1], 0.0), min(box[2], extent[1]), min(box[3], extent[0])
    whole = all(float(edge).is_integer() for edge in (left, top, right, bottom))
    ratio = max((right - left) / width, (bottom - top) / height)
    if whole and ratio < 4 and (isinstance(plane, np.ndarray) or plane.mode in ("L", "RGB")):
        # torch's kernel for bytes is vectorised, four times as fast as Pillow's and within rounding of it.
        x = _bytes(plane, (int(left), int(top), int(right), int(bottom)))
        return interpolate(rearrange(x, "h w c -> 1 c h w"), size, mode="bicubic", antialias=True)[0]
    if isinstance(plane, np.ndarray):
        plane = Image.fromarray(plane)
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


def _bytes(plane: Plane, box: tuple[int, int, int, int]) -> Tensor:
    """A box (left, top, right, bottom) of an L or RGB plane: (H, W, 1 or 3) uint8."""
    left, top, right, bottom = box
    if isinstance(plane, np.ndarray):
        # A copy: what is cut lies close together then, which is half the time of the filter.
        return torch.from_numpy(np.ascontiguousarray(plane[top:bottom, left:right])).view(
            bottom - top, right - left, -1
        )
    cut = torch.frombuffer(bytearray(plane.crop(box).tobytes()), dtype=torch.uint8)
    return cut.view(bottom - top, right - left, -1)


def _with_channels(x: Tensor, channels: int) -> Tensor:
    """Grey becomes colour by repetition; alpha, where there was none, is opaque."""
    if len(x) == channels:
        return x
    colour, opaque = x.expand(3, -1, -1), 255 if x.dtype == torch.uint8 else 1
    return colour if channels == 3 else torch.cat([colour, torch.full_like(x[:1], opaque)])
