"""TIFF, by tifffile: what a file holds, and the pixels of any box of it, without reading the rest."""

import logging
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from math import ceil, prod

import numpy as np
import tifffile
from numpy.typing import NDArray

from mae_ext.data.image import tiff_segment
from mae_ext.data.image.tiff_colour import MASK, MINISBLACK, MINISWHITE, PALETTE, resolved
from mae_ext.data.image.tiff_nodata import is_map, nodata_of
from mae_ext.data.image.tiff_pages import At, axes_of, chosen, names_of, words
from mae_ext.data.image.tiff_segment import CMYK, NONE, RGB, YCBCR, Pixels
from mae_ext.errors import BadSample

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".lsm", ".stk")
"""The last six are slides and microscopes' files, which are TIFF."""

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

OLD_JPEG = 6
"""Compression of 1992, replaced in 1995: the few files that have it go to libtiff, which knows their ways, whole."""

MEANING = frozenset(
    [*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 317, 320, *range(322, 326), 338, 339, 347]
)
"""Tags without which the pixels are others: one that cannot be read has no default."""

LARGE_TILE = 4096
"""A side of a tile, where the picture is no larger: a tile takes its memory, however little of it the picture has."""

MOST_ROWS = 1 << 22
"""Values of an uncompressed strip that are read at a time: 4 to 32 MB."""

# It tells of everything odd, and a file that can be read is not worth a word.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Layout:
    """What the first picture of a file is. form: "grey", "grey+alpha", "rgb", "rgba" or "bands".

    height, width: as stored. pages: of one picture, in the order of the file; samples: of each pixel of a page, once
    palettes, inks and YCbCr are colours. full: what the largest number means in integers of at most 16 bits. numbers:
    of the pages that are taken. names: of the bands, or ().
    """

    form: str
    height: int
    width: int
    pages: int
    samples: int
    dtype: np.dtype[np.generic]
    full: int
    orientation: int
    held: str
    summary: str
    numbers: tuple[int, ...]
    names: tuple[str, ...] = ()

    @property
    def bands(self) -> int:
        return self.pages * self.samples


class Tiff:
    """A TIFF, open. Raises BadSample for what it cannot be read as, and whatever parsers raise."""

    def __init__(
        self, address: str, content: bytes | None, place: tuple[str, int, int] | None = None,
        z: At | None = None, t: At | None = None,
    ) -> None:  # fmt: skip
        """content: the file, or None and its `place`, (path, offset, size). z, t: which planes and times of a stack
        that has such axes, and the bands are what is left; None are all of them."""
        self.address, self.places = address, {"Z": z, "T": t}
        assert content is not None or place is not None
        self.content, self.place = content, place
        self.file = self._opened()
        try:
            if _is_stack(self.file):
                self.file.close()
                self.file = self._opened(is_shaped=False)
            self._parse()
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        self.file.close()

    def _opened(self, is_shaped: bool | None = None) -> tifffile.TiffFile:
        if self.content is not None:
            return tifffile.TiffFile(BytesIO(self.content), is_shaped=is_shaped)
        assert self.place is not None
        path, offset, size = self.place
        return tifffile.TiffFile(path, offset=offset, size=size, _multifile=False, is_shaped=is_shaped)

    def _parse(self) -> None:
        if not self.file.pages.first.tags:
            raise ValueError("the first page says nothing")
        self._check_end()
        # Other files that OME's description names are none of this sample's.
        series = self.file.series
        # A small one of the same may come first.
        self.series = next((s for s in series if not s.keyframe.subfiletype & 5), series[0])
        self.page = page = self.series.keyframe
        for level in self.series.levels:
            self._check_tags(level.keyframe)
        for tile, side in ((page.tilelength, page.imagelength), (page.tilewidth, page.imagewidth)):
            if tile > max(LARGE_TILE, side + 15):
                raise ValueError(f"tiles of {page.tilewidth} x {page.tilelength} pixels")
        if page.imagelength < 1 or page.imagewidth < 1:
            raise ValueError(f"a page of {page.imagewidth} x {page.imagelength} pixels")
        self.old_jpeg = page.compression == OLD_JPEG
        self.levels = [self.series, *(s for s in self.series.levels[1:] if self._is_smaller(s))]
        self.nodata, self.is_map = nodata_of(page), is_map(page)
        self.masks = {s.keyframe.shape[:2]: s for s in series if s.keyframe.subfiletype & 4 and len(s.pages) == 1}
        self.layout = self._layout(sum(not s.keyframe.subfiletype & 5 for s in series))

    def _check_end(self) -> None:
        """tifffile ends where the next page would lie behind the file's end, as if the last had been the last."""
        handle, form = self.file.filehandle, self.file.tiff
        handle.seek(self.file.pages[-1].offset)
        (count,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
        handle.seek(count * form.tagsize, 1)
        after = handle.read(form.offsetsize)
        place = struct.unpack(form.offsetformat, after)[0] if len(after) == form.offsetsize else 0
        if place >= handle.size and not self.file.is_ndpi:
            raise ValueError(f"truncated: the next page lies at {place} of {handle.size} bytes")

    def _check_tags(self, page: tifffile.TiffPage) -> None:
        """tifffile goes on without a tag that is damaged, as if it were not there."""
        handle, form = self.file.filehandle, self.file.tiff
        handle.seek(page.offset)
        (count,) = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))
        table = handle.read(count * form.tagsize)
        codes = {struct.unpack_from(f"{form.byteorder}H", table, i * form.tagsize)[0] for i in range(count)}
        if lost := sorted(code for code in codes & MEANING if code not in page.tags):
            raise ValueError(f"damaged tags: {', '.join(map(str, lost))}")

    def _is_smaller(self, level: tifffile.TiffPageSeries) -> bool:
        a, b = level.keyframe, self.series.keyframe
        same = all(getattr(a, k) == getattr(b, k) for k in ("dtype", "samplesperpixel", "photometric", "bitspersample"))
        return same and len(level.pages) == len(self.series.pages) and a.imagelength <= b.imagelength

    def _layout(self, pictures: int) -> Layout:
        page, series = self.page, self.series
        bits, photometric = page.bitspersample, page.photometric
        if page.imagedepth > 1 or series.is_multifile or any(p is None for p in series.pages):
            self._unsupported("parts of it lie in other files, or its pages are volumes")
        if page.dtype is None or page.dtype.kind not in "uifb" or not isinstance(bits, int):
            self._unsupported(f"samples of {bits} bits, format {page.sampleformat}")
        assert page.dtype is not None
        dtype: np.dtype[np.generic] = page.dtype
        per_page = page.imagelength * page.imagewidth * page.samplesperpixel
        pages, rest = divmod(prod(series.shape), per_page)
        if rest or pages < len(series.pages):
            raise ValueError(f"a picture of shape {series.shape} in pages of {page.shape}")
        self.inside = len(series.pages) == 1 and pages > 1  # one page that says it is several, one after the other
        if self.inside and (page.compression != NONE or self.page.tilewidth or series.dataoffset is None):
            self._unsupported("pages that are not written down")
        form, samples = self._form()
        if tiff_segment.is_picture(page) or bits < 8:
            dtype = np.dtype(np.uint8)
        shape = f"{page.imagewidth}x{page.imagelength}"
        kind = [] if dtype == np.uint8 and form != "bands" else [str(dtype)]
        said = [" ".join(["TIFF", *([_FORMS[form]] if form in _FORMS else []), *kind, shape])]
        held = f"{samples} bands" if form == "bands" or pages > 1 else form
        axes = axes_of(series, pages)
        numbers = chosen(self.address, axes, self.places)
        names = names_of(self.file, self.file.series.index(series), axes, samples, form)
        names = tuple(names[n * samples + i] for n in numbers for i in range(samples)) if names else ()
        if len(numbers) < pages:
            held = f"{len(numbers)} of {pages} pages{words(axes)}" + (f" of {held}" if samples > 1 else "")
        elif pages > 1:
            held = f"{pages} pages{words(axes)}" + (f" of {held}" if samples > 1 else "")
        if form == "bands" or pages > 1:
            said.append(held)
        if pictures > 1:
            said.append(f"first of {pictures} pictures")
        if len(self.levels) > 1:
            said.append(f"{len(self.levels)} levels")
        if any(names) and form not in ("rgb", "rgba"):
            said.append(f"named {', '.join(names)}")
        if self.nodata is not None:
            said.append(f"nodata {self.nodata:g}")
        if photometric == PALETTE or (photometric == CMYK and form == "rgb"):
            dtype = np.dtype(np.uint8) if photometric == PALETTE or bits == 8 else dtype
        tag = page.tags.valueof(274)
        return Layout(
            form, page.imagelength, page.imagewidth, len(numbers), samples, dtype, (1 << min(bits, 16)) - 1,
            tag if isinstance(tag, int) else 1, held, ", ".join(said), tuple(numbers), names,
        )  # fmt: skip

    def _form(self) -> tuple[str, int]:
        page = self.page
        # Where a file does not say it, which it has to, numbers are taken for light and not for ink.
        photometric = page.photometric if 262 in page.tags else MINISBLACK
        stored, extra = page.samplesperpixel, tuple(page.extrasamples)
        base = {MINISWHITE: 1, MINISBLACK: 1, MASK: 1, PALETTE: 1, RGB: 3, CMYK: 4, YCBCR: 3}.get(photometric)
        if base is None:
            self._unsupported(f"colours of the kind {getattr(photometric, 'name', photometric)}")
        assert base is not None
        alpha = stored == base + 1 and len(extra) == 1 and extra[0] in (1, 2)
        if photometric == CMYK and stored == 4:
            return "rgb", 3
        if photometric == PALETTE and stored == 1:
            if page.colormap is None:
                raise ValueError("a palette that is not there")
            return "rgb", 3
        if photometric == YCBCR and stored == 3:
            return "rgb", 3
        if photometric in (PALETTE, CMYK, YCBCR):
            self._unsupported(f"{stored} samples of the colours {getattr(photometric, 'name', photometric)}")
        if stored == base:
            return ("grey", 1) if base == 1 else ("rgb", 3)
        if alpha:
            return ("grey+alpha", 2) if base == 1 else ("rgba", 4)
        return "bands", stored

    def _unsupported(self, what: str) -> None:
        raise BadSample(self.address, "unsupported", f"TIFF: {what}")

    def level_for(self, ratio: float) -> tuple[int, float, float]:
        """(number, rows and columns of the whole to one of it) of the smallest level with a pixel for each `ratio`."""
        best = (0, 1.0, 1.0)
        for i, level in enumerate(self.levels[1:], 1):
            scale = self.layout.height / level.keyframe.imagelength, self.layout.width / level.keyframe.imagewidth
            if best[1] < max(scale) <= ratio:
                best = (i, *scale)
        return best

    def size(self, level: int) -> tuple[int, int]:
        page = self.levels[level].keyframe
        return page.imagelength, page.imagewidth

    def bands(
        self, level: int, box: tuple[int, int, int, int], pages: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Pixels]]:
        """(first row, (rows, columns, bands)) of a box (top, left, bottom, right), from above: some rows at a time.

        pages: those of the layout's that are decoded; by default all.

        Colours are resolved: ink, palettes and white that is 0; integers keep their numbers, but bits of fewer than 8
        are 0..255 of grey.
        """
        series, (top, left, bottom, right) = self.levels[level], box
        page = series.keyframe
        numbers = self.layout.numbers if pages is None else [self.layout.numbers[i] for i in pages]
        height = page.tilelength if page.tilewidth else min(page.rowsperstrip, page.imagelength)
        if page.compression == NONE and not page.tilewidth:  # a strip that is not packed can be entered anywhere
            most = max(1, MOST_ROWS // (page.imagewidth * self.layout.bands))
            cuts = sorted({*range(top, bottom, most), *range(ceil(top / height) * height, bottom, height), bottom})
        else:
            cuts = [top, *range((top // height + 1) * height, bottom, height), bottom]
        for above, below in pairwise(cuts):
            if above < below:
                parts = [self._rows(series, i, (above, left, below, right)) for i in numbers]
                yield above, parts[0] if len(parts) == 1 else np.concatenate(parts, -1)

    def mask(self, level: int, box: tuple[int, int, int, int]) -> NDArray[np.bool_] | None:
        """(rows, columns) of a box: where the mask beside a level says that there is a picture; None without one."""
        series = self.masks.get(self.size(level))
        if series is None:
            return None
        top, left, bottom, right = box
        page = series.keyframe
        height = page.tilelength if page.tilewidth else min(page.rowsperstrip, page.imagelength)
        cuts = [top, *range((top // height + 1) * height, bottom, height), bottom]
        parts = [self._rows(series, 0, (a, left, b, right), raw=True) for a, b in pairwise(cuts) if a < b]
        return np.concatenate(parts)[..., 0] > 0

    def _rows(
        self, series: tifffile.TiffPageSeries, number: int, box: tuple[int, int, int, int], raw: bool = False
    ) -> Pixels:
        """(rows, columns, samples) of one page; the rows are of one row of segments."""
        top, left, bottom, right = box
        page = series.keyframe
        height = page.tilelength if page.tilewidth else min(page.rowsperstrip, page.imagelength)
        width = page.tilewidth or page.imagewidth
        down, across = ceil(page.imagelength / height), ceil(page.imagewidth / width)
        planes = []
        for plane in range(page.samplesperpixel if page.planarconfig == 2 else 1):
            first = (plane * down + top // height) * across
            parts = []
            for column in range(left // width, ceil(right / width)):
                rows, start = height, top // height * height
                if not page.tilewidth:
                    rows = min(height, page.imagelength - start)
                part = self._segment(series, number, first + column, rows, width, (top - start, bottom - start))
                parts.append(part[:, max(0, left - column * width) : right - column * width])
            planes.append(parts[0] if len(parts) == 1 else np.concatenate(parts, 1))
        joined = planes[0] if len(planes) == 1 else np.concatenate(planes, -1)
        return joined if raw or tiff_segment.is_picture(page) else resolved(self.page, joined, self.layout.form)

    def _segment(
        self, series: tifffile.TiffPageSeries, number: int, index: int, rows: int, width: int, wanted: tuple[int, int]
    ) -> Pixels:
        """The wanted rows of a segment."""
        page, frame = series.keyframe, series.pages[0 if self.inside else number]
        assert frame is not None
        if index >= min(len(frame.dataoffsets), len(frame.databytecounts)):
            raise ValueError(f"truncated: {len(frame.dataoffsets)} segments, and no number {index}")
        offset, size = frame.dataoffsets[index], frame.databytecounts[index]
        begin, end = wanted
        if page.compression == NONE and not page.tilewidth and not tiff_segment.is_picture(page):
            samples = page.samplesperpixel if page.planarconfig == 1 else 1
            line = (width * samples * page.bitspersample + 7) // 8
            if self.inside:
                offset += number * line * page.imagelength * (page.samplesperpixel // samples)
            elif not rows * line <= size < 2 * rows * line:
                raise ValueError(f"truncated: a strip of {size} bytes where {rows * line} are due")
            offset, size, rows, wanted = offset + begin * line, (end - begin) * line, end - begin, (0, end - begin)
        if size == 0:
            if not self.is_map:  # GDAL's: a segment that is not there holds its number for nothing, or 0
                raise ValueError(f"truncated: segment {index} has no data")
            samples = page.samplesperpixel if page.planarconfig == 1 else 1
            return np.full((wanted[1] - wanted[0], width, samples), self.nodata or 0, self.layout.dtype)
        handle = self.file.filehandle
        handle.seek(offset)
        data = handle.read(size)
        if len(data) != size:
            raise ValueError(f"truncated: {len(data)} of {size} bytes at {offset}")
        return tiff_segment.decode(page, index, data, rows, width)[wanted[0] : wanted[1]]


def _is_stack(file: tifffile.TiffFile) -> bool:
    """Were pages that are alike written one by one by tifffile? It calls each a picture of its own."""
    if not file.is_shaped or len(file.pages) < 2:
        return False
    series = file.series
    first = series[0].keyframe
    return len(series) > 1 and all(
        len(s.pages) == 1 and s.size == first.size and s.keyframe.hash == first.hash and not s.keyframe.subfiletype & 5
        for s in series
    )


_FORMS = {"grey": "L", "grey+alpha": "LA", "rgb": "RGB", "rgba": "RGBA"}
