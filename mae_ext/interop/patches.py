"""Weights that see a patch or draw one, for another patch: of another size, with other channels, of other axes.

Pixels are `(p1 .. pn c)` on both sides. Axes are matched from the last: what a volume has more than an image is in
front (depth, time).
"""

from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mae_ext.config import Config
from mae_ext.modality_config import ModalityConfig

Channels = Literal["mean", "repeat", "first"]


def across(extents: tuple[int, ...]) -> str:
    """(16, 16) -> "16x16"."""
    return "x".join(map(str, extents))


def bilinear(have: int, want: int, antialias: bool = False) -> Tensor:
    """-> (want, have) float64, whose rows sum to 1: how torch's F.interpolate resizes a line, corners not aligned."""
    line = torch.eye(have, dtype=torch.float64)[None, None]
    return F.interpolate(line, (want, have), mode="bilinear", align_corners=False, antialias=antialias)[0, 0]


def seeing(have: int, want: int) -> Tensor:
    """-> (want, have) float64: weights of a line of `have` pixels -> those of `want`, which say the same of it.

    FlexiViT's pseudo-inverse resize (2212.08013, section 3.4), (B^T)^+ for the matrix B that resizes pictures. It is
    separable: B of several axes is a Kronecker product, and so is its pseudo-inverse. To more pixels, B is the bilinear
    enlargement U: an enlarged picture has the same tokens. To fewer, B is the reduction that U undoes, U^+, so weights
    are U^T w: a picture has the tokens of its enlargement. There is no question of antialiasing then, a flat picture
    keeps its tokens at any ratio, and up and down again is the identity.
    """
    return torch.linalg.pinv(bilinear(have, want).T) if want > have else bilinear(want, have).T


def along(values: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """(..., have, ...) and (want, have) -> (..., want, ...)."""
    out: Tensor = torch.tensordot(values, matrix.to(values), dims=([axis], [1]))
    return out.movedim(-1, axis)


def shares(how: Channels, have: int, want: int) -> Tensor:
    """-> (want, have) float64, 1 where a channel of ours has to do with one of theirs."""
    if how == "mean":
        return torch.ones(want, have, dtype=torch.float64)
    i, j = torch.arange(want)[:, None], torch.arange(have)[None]
    alike = i == j if how == "first" else (i - j) % min(have, want) == 0
    return alike.double()


def heard(how: Channels, have: int, want: int) -> Tensor:
    """-> (want, have) float64, columns summing to 1: what each of ours has of theirs. So a grey input says the same.

    Theirs that nobody has ("first", of fewer) is shared by all of ours.
    """
    pattern = shares(how, have, want)
    pattern[:, pattern.sum(0) == 0] = 1
    return pattern / pattern.sum(0)


def drawn(how: Channels, have: int, want: int) -> Tensor:
    """-> (want, have) float64, rows summing to 1 (or 0, "first", of more): a grey answer stays grey."""
    pattern = shares(how, have, want)
    return pattern / pattern.sum(1, keepdim=True).clamp(min=1)


def embedding(weight: Tensor, theirs: ModalityConfig, ours: ModalityConfig, config: Config) -> tuple[Tensor, str]:
    """(D, pix) -> (D, pix') of `PatchEmbed`, and how. A volume of equal slices has the tokens of one, both ways."""
    out = weight.double().unflatten(1, (*theirs.patch, theirs.channels))
    fewer, more = _axes(theirs, ours)
    if fewer:
        out = out.sum(fewer)
    common = out.ndim - 2
    for axis, (have, want) in enumerate(zip(theirs.patch[-common:], ours.patch[-common:], strict=True)):
        if have != want:
            out = along(out, 1 + axis, seeing(have, want))
    for extent in reversed(ours.patch[:more]):
        out = out[:, None] * _inflation(config.init_inflate, extent).view(-1, *[1] * (out.ndim - 1))
    if theirs.channels != ours.channels:
        out = along(out, out.ndim - 1, heard(config.init_channels, theirs.channels, ours.channels))
    words = ("summed over axis {}", "pseudo-inverse", f"inflated along axis {{}}, {config.init_inflate}")
    return out.flatten(1).to(weight.dtype), _how(theirs, ours, config, words)


def prediction(rows: Tensor, theirs: ModalityConfig, ours: ModalityConfig, config: Config) -> tuple[Tensor, str]:
    """(pix, ...) -> (pix', ...) of a map onto pixels, and how: its answer, resized as a picture is."""
    out = rows.double().flatten(1) if rows.ndim > 1 else rows.double()[:, None]
    out = out.unflatten(0, (*theirs.patch, theirs.channels))
    fewer, more = _axes(theirs, ours)
    if fewer:
        out = out.mean(tuple(axis - 1 for axis in fewer))
    common = out.ndim - 2
    for axis, (have, want) in enumerate(zip(theirs.patch[-common:], ours.patch[-common:], strict=True)):
        if have != want:
            out = along(out, axis, bilinear(have, want, antialias=True))
    if theirs.channels != ours.channels:
        out = along(out, out.ndim - 2, drawn(config.init_channels, theirs.channels, ours.channels))
    out = out.expand(*ours.patch[:more], *out.shape).reshape(prod(ours.patch) * ours.channels, *rows.shape[1:])
    return out.to(rows.dtype), _how(theirs, ours, config, ("mean over axis {}", "bilinear", "repeated along axis {}"))


def _axes(theirs: ModalityConfig, ours: ModalityConfig) -> tuple[tuple[int, ...], int]:
    """(axes of theirs that go, counted from 1, as behind rows of a weight; how many are new)."""
    more = len(ours.patch) - len(theirs.patch)
    return tuple(range(1, 1 - more)), max(more, 0)


def _inflation(how: Literal["centre", "mean"], extent: int) -> Tensor:
    """-> (extent,) float64, summing to 1. The centre of an even patch is the plane extent / 2, counted from 0, as in
    ViViT (2103.15691, section 3.4)."""
    if how == "mean":
        return torch.full((extent,), 1 / extent, dtype=torch.float64)
    return F.one_hot(torch.tensor(extent // 2), extent).double()


def _how(theirs: ModalityConfig, ours: ModalityConfig, config: Config, words: tuple[str, str, str]) -> str:
    """What was done, in order; "" for nothing. words: for axes that go, for another size and for new axes."""
    fewer, more = _axes(theirs, ours)
    common = min(len(theirs.patch), len(ours.patch))
    have, want = theirs.patch[-common:], ours.patch[-common:]
    axes = ", ".join(str(axis) for axis in range(more or len(fewer)))
    parts = [words[0].format(axes)] if fewer else []
    parts += [f"patch {across(have)} -> {across(want)}, {words[1]}"] if have != want else []
    parts += [words[2].format(axes)] if more else []
    if theirs.channels != ours.channels:
        count = "1 channel" if theirs.channels == 1 else f"{theirs.channels} channels"
        parts.append(f"{count} -> {ours.channels}, {config.init_channels}")
    return "; ".join(parts)
