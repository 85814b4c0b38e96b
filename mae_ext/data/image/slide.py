"""The reader of whole slides: tiles of their tissue at a stated scale, drawn on the fly from pyramids."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from mae_ext.data.image.file import parsing
from mae_ext.data.image.picture import OfTiff, Turn
from mae_ext.data.image.reader import MAX_PIXELS, MOST_PIXELS, ImageReader, check_boxes
from mae_ext.data.image.slide_file import COARSEST, FINEST, OF_OPENSLIDE, OF_TIFFFILE, Mpp, OfSlide, mpp_of
from mae_ext.data.image.tiff import Tiff
from mae_ext.data.image.tissue import onto, places, tissue
from mae_ext.data.kind import Kind, Seen
from mae_ext.data.sample import Crop, CropSampler, Extent, Sample
from mae_ext.data.sources.address import locate
from mae_ext.errors import BadSample

CELLS = 1024
"""Of the longer side of a tissue mask: 50 µm of a slide of 5 cm."""

MOST_OVERVIEW = 400_000_000
"""Pixels of the smallest level, all of which are read once for the tissue."""

KNOWN = 256
"""Slides whose tissue a process remembers, a megabyte each at most."""


def recognise(beginning: bytes, address: str) -> Seen:
    """See `Kind.recognise`: by the suffix, as what a slide begins with is a TIFF's, or a photo's."""
    own = address.lower().endswith((".svs", ".qptiff", *OF_OPENSLIDE))
    return (1 << 4 if own and beginning else 0), ""


class SlideReader(ImageReader):
    """Whole slides -> (C, H, W) tiles, uint8 from 8-bit sources, with the spacing in mm.

    mpp: µm that a pixel of a tile has; slides are read from the level of their pyramid that is just finer. A crop of
    exactly `size` pixels (data.augment.fixed: [-2, -1], which this reader needs) is laid on tissue: its place among all
    places of the slide becomes its place among those around which a share of `min_tissue` of the tile is tissue in an
    overview of at most CELLS cells a side; 0 takes tiles from everywhere. A crop of another size is read where it is.
    slide_mpp: of slides at full resolution that do not say theirs; it overrides what others say. channels, bands, z and
    t as of the image reader. .svs, .tif, .tiff, .btf and .qptiff are read by tifffile, .ndpi, .mrxs, .scn, .bif, .vms
    and .svslide by OpenSlide (pip install 'mae-ext[slides]').

    Kinds of BadSample besides those of the image reader: "no resolution", "no tissue", "too small" (than a tile), and
    "no pyramid", of a slide whose overview would need all of its gigapixels.
    """

    suffixes: tuple[str, ...] = (*OF_TIFFFILE, *OF_OPENSLIDE)
    kind = Kind("whole slide", "whole slides", recognise=recognise)
    fixed_axes = (-2, -1)

    def __init__(
        self,
        size: tuple[int, ...],
        channels: int = 3,
        mpp: float = 0.5,
        min_tissue: float = 0.25,
        slide_mpp: float | None = None,
        bands: Sequence[int | str] | None = None,
    ) -> None:
        super().__init__(size, channels, MOST_PIXELS, bands)
        for name, value in (("mpp", mpp), ("slide_mpp", slide_mpp)):
            if value is not None and not FINEST <= value <= 100 * COARSEST:
                raise ValueError(f"{name}={value}: expected µm a pixel, {FINEST} to {100 * COARSEST:g}")
        if not 0 <= min_tissue <= 1:
            raise ValueError(f"min_tissue={min_tissue} must be a share, 0 to 1")
        self.mpp, self.min_tissue, self.slide_mpp = float(mpp), min_tissue, slide_mpp
        self._tissue: OrderedDict[str, tuple[tuple[int, int], NDArray[np.int64]]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tissue": OrderedDict()}

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        with parsing(address):
            picture, own = self._opened(address)
        try:
            with parsing(address):
                extent = self._extent(picture, own)
                grid, cells = self._cells(address, picture, extent) if self.min_tissue else ((1, 1), None)
            height, width = extent.size
            boxes = [crop((height, width)) for crop in crops]
            check_boxes(address, boxes, (height, width))
            if cells is not None:
                boxes = [onto(box, (height, width), cells, grid) if self._is_tile(box) else box for box in boxes]
            with parsing(address):
                stored = [_in_pixels(box, extent) for box in boxes]
                views = [
                    self._view(address, cut, box, Turn())
                    for cut, box in zip(picture.cut(stored, (self.size[0], self.size[1])), boxes, strict=True)
                ]
            return [
                Sample(x, address, valid, self._spacing(box), extent=extent, box=box)
                for (x, valid), box in zip(views, boxes, strict=True)
            ]
        finally:
            picture.close()

    def extent(self, address: str) -> Extent:
        """(height, width) in pixels of `mpp`, from the header alone."""
        with parsing(address):
            picture, own = self._opened(address)
            picture.close()
            return self._extent(picture, own)

    def describe(self, address: str) -> str:
        """Format, size, levels and µm a pixel, from the header alone."""
        with parsing(address):
            picture, own = self._opened(address)
            picture.close()
            return f"{picture.summary}, {own[1]:.4g} µm a pixel"

    def _opened(self, address: str) -> tuple[OfTiff | OfSlide, Mpp]:
        picture: OfTiff | OfSlide
        if address.lower().endswith(OF_OPENSLIDE):
            picture = OfSlide(address)
            own = picture.mpp
        else:
            tiff = Tiff(address, None, locate(address))
            picture = OfTiff(address, tiff, self.channels, self.bands)
            own = mpp_of(tiff)
        try:
            return picture, self._checked(address, picture, own)
        except BaseException:
            picture.close()
            raise

    def _checked(self, address: str, picture: OfTiff | OfSlide, own: Mpp | None) -> Mpp:
        """µm a pixel at full resolution. Raises BadSample for what cannot be read tile by tile."""
        if isinstance(picture, OfTiff):
            page = picture.tiff.page
            rows = page.tilelength if page.tilewidth else page.rowsperstrip
            if picture.turn != Turn():
                raise BadSample(address, "unsupported", "a slide that is turned by its orientation tag")
            if picture.tiff.old_jpeg or min(rows, page.imagelength) * (page.tilewidth or page.imagewidth) > MAX_PIXELS:
                detail = (
                    "one compressed part of it has gigapixels; write it again in tiles, as with vips tiffsave --tile"
                )
                raise BadSample(address, "unsupported", detail)
        if self.slide_mpp is not None:
            return self.slide_mpp, self.slide_mpp
        if own is None:
            detail = (
                "says no µm a pixel that a scanner has; where it is known, set the reader's slide_mpp, such as 0.25"
            )
            raise BadSample(address, "no resolution", detail)
        return own

    def _extent(self, picture: OfTiff | OfSlide, own: Mpp) -> Extent:
        step = self.mpp / own[0], self.mpp / own[1]
        size = tuple(max(1, int(length / by)) for length, by in zip(picture.extent, step, strict=True))
        return Extent(size, picture.extent, step, (own[0] / 1000, own[1] / 1000))

    def _spacing(self, box: Crop) -> tuple[float, ...]:
        """mm a pixel of a sample."""
        return tuple(self.mpp / 1000 * (b - a) / n for a, b, n in zip(box.start, box.stop, self.size, strict=True))

    def _is_tile(self, box: Crop) -> bool:
        return all(b - a == n for a, b, n in zip(box.start, box.stop, self.size, strict=True))

    def _cells(
        self, address: str, picture: OfTiff | OfSlide, extent: Extent
    ) -> tuple[tuple[int, int], NDArray[np.int64]]:
        """The grid of the tissue mask, and the cells of it that tiles may lie around."""
        if (known := self._tissue.get(address)) is not None:
            return known
        height, width = extent.size
        longer = max(height, width)
        grid = max(1, min(height, height * CELLS // longer)), max(1, min(width, width * CELLS // longer))
        smallest = min(
            (level.keyframe.imagelength * level.keyframe.imagewidth for level in picture.tiff.levels)
            if isinstance(picture, OfTiff)
            else (w * h for w, h in picture.slide.level_dimensions)
        )
        if smallest > MOST_OVERVIEW:
            detail = (
                f"its smallest level has {smallest} pixels; write it with a pyramid, as with vips tiffsave --pyramid"
            )
            raise BadSample(address, "no pyramid", detail)
        whole = Crop((0, 0), (height, width), (False, False))
        (cut,) = picture.cut([_in_pixels(whole, extent)], grid)
        overview, _ = self._sized(grid)._view(address, cut, whole, Turn())
        small = overview.numpy() if overview.numpy().dtype == np.uint8 else _as_bytes(overview.numpy())
        on = tissue(rearrange(small, "c h w -> h w c"))
        tile = self.size[0] * grid[0] / height, self.size[1] * grid[1] / width
        cells = places(on, tile, self.min_tissue)
        if not len(cells):
            detail = (
                f"no tile of {self.size[0]} x {self.size[1]} pixels of {self.mpp:g} µm is tissue by {self.min_tissue:g}"
            )
            raise BadSample(address, "no tissue", detail)
        self._tissue[address] = grid, cells
        if len(self._tissue) > KNOWN:
            self._tissue.popitem(last=False)
        return grid, cells

    def _sized(self, size: tuple[int, int]) -> "SlideReader":
        return SlideReader(size, self.channels, self.mpp, self.min_tissue, self.slide_mpp, self.bands)


def _in_pixels(box: Crop, extent: Extent) -> tuple[float, float, float, float]:
    """left, top, right, bottom in the slide's own pixels."""
    (top, left), (bottom, right) = (
        (edge[0] * extent.step[0], edge[1] * extent.step[1]) for edge in (box.start, box.stop)
    )
    return left, top, min(right, extent.stored[1]), min(bottom, extent.stored[0])


def _as_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Each channel from its least to its largest value, for telling what is bright."""
    low, high = values.min((1, 2), keepdims=True), values.max((1, 2), keepdims=True)
    scaled = (values - low) / np.maximum(high - low, 1e-12) * 255
    return np.asarray(scaled.round().astype(np.uint8))
