"""Where a slide has tissue, seen on a small picture of it, and tiles that lie on it."""

from math import floor

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mae_ext.data.sample import Crop

LEAST_COLOUR = 12
"""Of 255: what differs less between its colours than this is glass, however little else there is on a slide. The noise
of JPEG on white stays below 8."""


def tissue(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W, C) -> (H, W). Of three channels, stained tissue: what has colour, by Otsu's threshold (1979) over the
    difference of the largest and the smallest, after a median of 3 x 3; white glass, grey dust and black edges have
    none. Of other numbers of channels, as in fluorescence: what is bright."""
    wide = overview.max(-1).astype(np.int16)
    if overview.shape[-1] == 3:
        wide -= overview.min(-1)
    smooth = ndimage.median_filter(wide, 3)
    return np.asarray(smooth > max(_otsu(smooth), LEAST_COLOUR))


def _otsu(values: NDArray[np.int16]) -> int:
    """Of 0..255: the threshold that parts them best, what is above it being the upper class."""
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    below = counts.cumsum()
    total, moment = below[-1], (counts * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below / total - moment) ** 2 / (below * (total - below))
    return int(np.nan_to_num(between, posinf=0.0).argmax())


def places(on: NDArray[np.bool_], tile: tuple[float, float], least: float) -> NDArray[np.int64]:
    """(n, 2): cells of a mask around which a tile, of so many cells, is tissue by a share of `least` at the least."""
    share = on.astype(np.float32)
    for axis, length in enumerate(tile):
        share = ndimage.uniform_filter1d(share, max(1, round(length)), axis, mode="nearest")
    return np.argwhere(on & (share >= least - 1e-6))


def onto(box: Crop, extent: tuple[int, int], cells: NDArray[np.int64], grid: tuple[int, int]) -> Crop:
    """A box of a slide -> one of the same size and flips on tissue.

    extent: (height, width) that boxes are drawn from; cells: `places`, in a mask of `grid` cells over all of it. The
    box's place among all places, from 0 to 1, is its place among those on tissue: so what was uniform over the slide is
    uniform over its tissue, and the same for the same key.
    """
    height, width = (b - a for a, b in zip(box.start, box.stop, strict=True))
    rows, columns = extent[0] - height + 1, extent[1] - width + 1
    at = (box.start[0] * columns + box.start[1] + 0.5) / (rows * columns) * len(cells)
    number = min(int(at), len(cells) - 1)
    rest = (at - number) * 1024
    inside = floor(rest) / 1024, rest % 1
    start = []
    for cell, share, side, room, length in zip(
        cells[number], inside, (extent[0] / grid[0], extent[1] / grid[1]), (rows, columns), (height, width), strict=True
    ):
        start.append(min(max(round((float(cell) + share) * side - length / 2), 0), room - 1))
    stop = start[0] + height, start[1] + width
    return Crop((start[0], start[1]), stop, box.flip)
