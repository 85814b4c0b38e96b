"""What overlapping windows say of the same place, as one: a weighted mean on the grid of the whole sample."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.loading.windows import Float, Tiling
from mae_ext.data.sources.cache import on_disk

HELD = 2 << 30
"""Bytes of sums in memory; more than that are held in a file without a name, which is gone with its process."""

BEYOND = 1e-4
"""What a token counts at a place of the grid just beyond its window."""


def weights(size: tuple[int, ...], device: torch.device) -> Tensor:
    """(*size): a Gaussian of an eighth of each side, never below a thousandth (MONAI; nnU-Net, 1809.10486)."""
    from monai.data.utils import compute_importance_map

    gaussian: Tensor = compute_importance_map(size, mode="gaussian", device=device)
    return gaussian


def room_for(shape: tuple[int, ...], scratch: Path | None = None, aside: bool = False) -> NDArray[np.float32]:
    """(*shape) zeros for sums: in memory, or beyond HELD, and where `aside`, in a file in `scratch`. Raises OSError."""
    if not aside and 4 * prod(shape) <= HELD:
        return np.zeros(shape, np.float32)
    return on_disk(shape, np.float32, scratch)


class Blend:
    """Values of tokens of overlapping windows -> one value for each token of the whole sample: their weighted mean.

    A place of the grid between two tokens of a window has what lies between them (linearly), and counts what lies
    between their weights, those of `weights`: of tokens that follow a ramp, the map is that ramp. scratch: the folder
    for what does not fit into memory.
    """

    def __init__(self, tiling: Tiling, width: int, scratch: Path | None = None) -> None:
        self.grid = tiling.grid
        self.sums = room_for((*self.grid, width), scratch)
        self.counts = np.zeros(self.grid, np.float32)
        window = tuple(s // p for s, p in zip(tiling.size, tiling.patch, strict=True))
        self.weight = weights(window, torch.device("cpu")).numpy()

    def add(self, places: Sequence[Float], values: NDArray[np.float32]) -> None:
        """places: for each axis (g,), in tokens of the grid. values: (*g, width)."""
        count, spans = self.weight, []
        for axis, (at, length) in enumerate(zip(places, self.grid, strict=True)):
            span, onto, heard = _onto(at, length)
            values = np.moveaxis(np.tensordot(onto, values, (1, axis)), 0, axis)
            count = np.moveaxis(np.tensordot(heard[:, None] * onto, count, (1, axis)), 0, axis)
            spans.append(span)
        self.sums[tuple(spans)] += values * count[..., None]
        self.counts[tuple(spans)] += count

    def mean(self) -> NDArray[np.float32]:
        """(*grid, width), in place: nothing can be added afterwards. 0 where no token lies."""
        for n, count in enumerate(self.counts):  # no second map is made
            self.sums[n] /= np.where(count > 0, count, 1)[..., None]
        return self.sums


def _onto(at: Float, length: int) -> tuple[slice, NDArray[np.float32], NDArray[np.float32]]:
    """(g,) places -> the run of the grid that they touch; (run, g), of which tokens each place is made, a row adds up
    to 1; and (run,), how much it counts.

    Between its tokens a window is interpolated; just beyond its last it is heard where no other is.
    """
    near = np.rint(at)
    at = np.where(np.abs(at - near) < 1e-4, near, at)
    first, last = max(int(np.floor(at[0])), 0), min(int(np.ceil(at[-1])), length - 1)
    where = np.arange(first, last + 1)
    beyond = np.maximum(at[0] - where, where - at[-1])
    share = np.stack([np.interp(where, at, one) for one in np.eye(len(at))], 1).astype(np.float32)
    return slice(first, last + 1), share, np.where(beyond > 0, BEYOND * (1 - beyond), 1).astype(np.float32)
