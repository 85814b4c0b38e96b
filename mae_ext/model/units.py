"""What the numbers of a sample mean: 8-bit levels stand for 0..1, floats are in the reader's units already, and what
travels as its file stores it has levels beside it."""

import torch
from torch import Tensor

LEVELS = 6
"""Numbers that say what a stored one means: slope, intercept, shift, scale, low, high."""


def in_units(x: Tensor, dtype: torch.dtype = torch.float32, levels: Tensor | None = None) -> Tensor:
    """(...) uint8 or float -> (...) of `dtype` in the reader's units; x itself where it is so.

    levels: ([B,] C, 6) of x ([B,] C or 1, *S) as its file stores it, of any type: of each channel slope, intercept,
    shift, scale, low and high, in the dtype that slope and intercept are reckoned in (float64, or float32 where that
    is as exact). A channel is clip((x * slope + intercept - shift) / scale, low, high), rounded to float32 after the
    intercept and then by each step: NumPy's result on the same numbers, to the bit. One stored channel serves all.
    """
    if levels is not None:
        return _levelled(x, levels).to(dtype)
    return x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)


def _levelled(x: Tensor, levels: Tensor) -> Tensor:
    rows = levels.view(*levels.shape, *[1] * (x.ndim - levels.ndim + 1)).unbind(levels.ndim - 1)
    slope, inter = (row.narrow(levels.ndim - 2, 0, x.shape[levels.ndim - 2]) for row in rows[:2])
    shift, scale, low, high = (row.float() for row in rows[2:])
    y = (x.to(levels.dtype) * slope).add_(inter).float()
    return y.sub(shift).div_(scale).clamp_min_(low).clamp_max_(high)
