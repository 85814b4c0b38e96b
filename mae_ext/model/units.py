"""What the numbers of a sample mean: 8-bit levels stand for 0..1, floats are in the reader's units already."""

import torch
from torch import Tensor


def in_units(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(...) uint8 or float -> (...) of `dtype` in the reader's units; x itself where it is so."""
    return x.to(dtype) / 255 if x.dtype == torch.uint8 else x.to(dtype)
