"""Clips of the channels that are asked for."""

import torch
from torch import Tensor

LUMA = (19595, 38470, 7471)
"""ITU-R 601-2 in 1/65536, as the image reader has it from Pillow."""


def with_channels(x: Tensor, channels: int) -> Tensor:
    """(1 or 3, T, H, W) -> (channels, T, H, W)."""
    if len(x) == channels:
        return x
    if channels == 3:
        return x.expand(3, -1, -1, -1)
    weighted = torch.stack([weight * plane.int() for weight, plane in zip(LUMA, x, strict=True)])
    return ((weighted.sum(0) + (1 << 15)) >> 16).to(torch.uint8)[None]
