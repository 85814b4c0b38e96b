"""Whole slides as pictures: which library opens which, how many µm a pixel has, and boxes of other makers' formats."""

import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np
from PIL import Image

from mae_ext.data.image.picture import WINDOW, Box, Cut, Turn
from mae_ext.data.image.tiff import Tiff
from mae_ext.errors import BadSample, UserError

OF_TIFFFILE = (".svs", ".tif", ".tiff", ".btf", ".tf8", ".qptiff")
"""Pyramids that are plain TIFF."""

OF_OPENSLIDE = (".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
"""Overlapping tiles, folders of parts, JPEGs of gigapixels: what OpenSlide knows."""

FINEST, COARSEST = 0.02, 20.0
"""µm a pixel of a scanner's full resolution: what is beyond is none, such as the 72 dpi that programs write."""

Mpp = tuple[float, float]
"""µm a pixel, down and across."""


def mpp_of(tiff: Tiff) -> Mpp | None:
    """What a TIFF says: Aperio's MPP, OME's PhysicalSize, or the resolution tags; None where it says none."""
    page = tiff.page
    text = tiff.file.pages.first.description
    if (aperio := re.search(r"\bMPP\s*=\s*([\d.]+)", text[:65536])) and (one := _number(aperio[1])):
        return _plausible((one, one))
    if tiff.file.is_ome:
        sides = [re.search(rf'\bPhysicalSize{axis}="([\d.eE+-]+)"', text[:65536]) for axis in "YX"]
        units = [re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', text[:65536]) for axis in "YX"]
        scales = [{"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}.get(unit[1] if unit else "µm", 0.0) for unit in units]
        if sides[0] and sides[1]:
            return _plausible((_number(sides[0][1]) * scales[0], _number(sides[1][1]) * scales[1]))
    unit = {2: 25400.0, 3: 10000.0}.get(int(page.tags.valueof(296) or 0))
    across, down = page.tags.valueof(282), page.tags.valueof(283)
    if unit is None or not isinstance(across, tuple) or not isinstance(down, tuple) or not (across[0] and down[0]):
        return None
    return _plausible((unit * down[1] / down[0], unit * across[1] / across[0]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _plausible(mpp: Mpp) -> Mpp | None:
    return mpp if all(FINEST <= one <= COARSEST for one in mpp) else None


_open: OrderedDict[tuple[int, str, int, int, int], Any] = OrderedDict()
"""The slides that were used last, by process (what was open before a fork is not used after it), path and version."""

MOST_OPEN = 8


def _slide(path: str) -> Any:
    """Once in each process. Raises OSError, UserError and what OpenSlide raises."""
    status = os.stat(path)  # noqa: PTH116
    key = os.getpid(), path, status.st_ino, status.st_size, status.st_mtime_ns
    if key not in _open:
        try:
            import openslide
        except ImportError as error:
            raise UserError(
                f"'{path}': read by OpenSlide, which is not there: pip install 'mae-ext[slides]'"
            ) from error
        _open[key] = openslide.OpenSlide(path)
        if len(_open) > MOST_OPEN:
            _open.popitem(last=False)
    _open.move_to_end(key)
    return _open[key]


def _forget(slide: Any) -> None:
    """A slide that has failed once refuses every tile from then on, also those that are whole."""
    for key in [key for key, one in _open.items() if one is slide]:
        del _open[key]


def _damaged(address: str, error: Exception) -> BadSample:
    return BadSample(address, "damaged", " ".join(str(error).split()) or type(error).__name__)


class OfSlide:
    """A slide that OpenSlide reads: in each level no more than a box needs."""

    turn = Turn()

    def __init__(self, address: str) -> None:
        if "::" in address:
            raise BadSample(address, "unsupported", "slides of this kind are read as files of their own, not in shards")
        try:
            self.slide = _slide(address)
        except OSError as error:
            raise BadSample(address, "no such file", str(error)) from error
        except UserError:
            raise
        except Exception as error:  # its own kinds, of a library that may not be there to name them
            raise _damaged(address, error) from error
        width, height = self.slide.dimensions
        self.address, self.extent = address, (height, width)
        self.summary = (
            f"{self.slide.properties['openslide.vendor']} slide {width}x{height}, {self.slide.level_count} levels"
        )

    @property
    def mpp(self) -> Mpp | None:
        down, across = (_number(self.slide.properties.get(f"openslide.mpp-{axis}", "")) for axis in "yx")
        return _plausible((down, across))

    def cut(self, boxes: Sequence[Box], size: tuple[int, int]) -> list[Cut]:
        return [self._cut(box, size) for box in boxes]

    def _cut(self, box: Box, size: tuple[int, int]) -> Cut:
        ratio = min((box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1])
        level = self.slide.get_best_level_for_downsample(max(1.0, ratio))
        (width, height), scale = self.slide.level_dimensions[level], self.slide.level_downsamples[level]
        margin = 8 + ceil(4 * max(1.0, ratio / scale))
        left, top, right, bottom = (edge / scale for edge in box)
        x, y = max(0, floor(left) - margin), max(0, floor(top) - margin)
        columns, rows = min(width, ceil(right) + margin) - x, min(height, ceil(bottom) + margin) - y
        step = max(1, int(ratio / scale / 2)) if columns * rows * 4 > WINDOW else 1
        strip = max(step, WINDOW // 4 // columns // step * step)
        parts = []
        for down in range(0, rows, strip):
            place = round(x * scale), round((y + down) * scale)
            try:
                part = self.slide.read_region(place, level, (columns, min(strip, rows - down)))
            except MemoryError:
                raise
            except Exception as error:
                _forget(self.slide)
                raise _damaged(self.address, error) from error
            white = Image.new("RGBA", part.size, (255, 255, 255, 255))
            opaque = Image.alpha_composite(white, part).convert("RGB")
            parts.append(np.asarray(opaque.reduce(step) if step > 1 else opaque))
        plane = Image.fromarray(np.concatenate(parts))
        return Cut([plane], ((left - x) / step, (top - y) / step, (right - x) / step, (bottom - y) / step))

    def close(self) -> None:
        pass
