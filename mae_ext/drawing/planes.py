"""Slices of a volume as radiologists look at them, on a flat page."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate, pad

GAP = 2
"""Pixels between the planes."""


def three_planes(x: Tensor, spacing: tuple[float, ...] | None = None) -> Tensor:
    """(C, D, H, W) -> (C, h, w): the middle axial, coronal and sagittal slice, one under the other; see `planes_at`."""
    return planes_at(x, tuple(n // 2 for n in x.shape[1:]), spacing)


def planes_at(x: Tensor, at: tuple[int, ...], spacing: tuple[float, ...] | None = None) -> Tensor:
    """(C, D, H, W) -> (C, h, w): the axial, coronal and sagittal slice through a voxel, one under the other.

    D runs up, H forward, W to the right (data/volume/geometry.py). Shown as on a workstation: the patient's right on
    the left, the nose up (axial) or to the left (sagittal), the head up. spacing: mm along D, H, W; pixels come out
    square.
    """
    mm = spacing or (1.0, 1.0, 1.0)
    up, front, right = (s / min(mm) for s in mm)
    planes = [
        _square(x[:, at[0]].flip(1, 2), front, right),
        _square(x[:, :, at[1]].flip(1, 2), up, right),
        _square(x[:, :, :, at[2]].flip(1, 2), up, front),
    ]
    across = max(plane.shape[2] for plane in planes)
    rows = [pad(plane, (0, across - plane.shape[2], 0, GAP)) for plane in planes]
    return torch.cat(rows, dim=1)[:, :-GAP]


def _square(plane: Tensor, tall: float, wide: float) -> Tensor:
    """(C, h, w) with voxels of tall x wide -> the same with square ones, none interpolated."""
    size = (max(1, round(plane.shape[1] * tall)), max(1, round(plane.shape[2] * wide)))
    return rearrange(interpolate(rearrange(plane, "c h w -> 1 c h w"), size=size, mode="nearest"), "1 c h w -> c h w")
