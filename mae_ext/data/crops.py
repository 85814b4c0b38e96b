"""Which box of a source becomes a sample: parameters are drawn here and applied in the readers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import exp, log, sqrt

import torch

from mae_ext.config import AugmentConfig
from mae_ext.data.sample import Crop, CropSampler
from mae_ext.errors import ConfigError

TRIES = 10
"""Boxes drawn before the centred fallback is taken (Inception, 1409.4842; kept by MAE)."""


@dataclass(frozen=True)
class CenterCrop:
    """The largest centred box with the aspect of `size` on the last two axes, times `share` of each side."""

    size: tuple[int, ...]
    share: float = 1.0
    flip: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share} must be above 0 and at most 1")

    def __call__(self, extent: tuple[int, ...]) -> Crop:
        height, width = extent[-2:]
        scale = self.share * min(height / self.size[-2], width / self.size[-1])
        return _centred(extent, self.size[-2] * scale, self.size[-1] * scale, self.flip)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A box of random area and aspect on the last two axes; the other axes whole.

    draws: TRIES tuples of four numbers in 0..1 (area, aspect, top, left), taken before the extent is known: the same
    object gives the same box every time, and how many numbers a key consumes never depends on the file.
    """

    scale: tuple[float, float]
    aspect: tuple[float, float]
    draws: tuple[tuple[float, float, float, float], ...]
    flip: tuple[bool, ...] = ()

    def __call__(self, extent: tuple[int, ...]) -> Crop:
        height, width = extent[-2:]
        low, high = self.aspect
        for area_at, aspect_at, top_at, left_at in self.draws:
            area = height * width * (self.scale[0] + area_at * (self.scale[1] - self.scale[0]))
            aspect = exp(log(low) + aspect_at * (log(high) - log(low)))
            h, w = round(sqrt(area / aspect)), round(sqrt(area * aspect))
            if 0 < h <= height and 0 < w <= width:
                top, left = int(top_at * (height - h + 1)), int(left_at * (width - w + 1))
                return _crop(extent, (top, left), (top + h, left + w), self.flip)
        aspect = min(max(width / height, low), high)
        return _centred(extent, min(height, width / aspect), min(width, height * aspect), self.flip)


@dataclass(frozen=True)
class FixedCrop:
    """Boxes as long as `size` on `axes`, and as `rest` says on the others.

    draws: places along the axes, in 0..1 (0 is the first place, 1 the last); several, for a reader that refuses some.
    Where the source is shorter than the box, the box reaches beyond it evenly on both sides, `start` below 0: readers
    that take fixed crops pad.
    """

    size: tuple[int, ...]
    axes: tuple[int, ...]
    rest: CropSampler
    draws: tuple[tuple[float, ...], ...]

    def __call__(self, extent: tuple[int, ...]) -> Crop:
        return next(self.alternatives(extent))

    def alternatives(self, extent: tuple[int, ...]) -> Iterator[Crop]:
        """The box that a call returns, then the others, in the order of draws."""
        rest = self.rest(extent)
        for row in self.draws:
            start, stop = list(rest.start), list(rest.stop)
            for axis, place in zip(self.axes, row, strict=True):
                room = extent[axis] - self.size[axis]
                start[axis] = min(int(place * (room + 1)), room) if room >= 0 else room // 2
                stop[axis] = start[axis] + self.size[axis]
            yield Crop(tuple(start), tuple(stop), rest.flip)


def crop_sampler(augment: AugmentConfig, size: tuple[int, ...], generator: torch.Generator) -> CropSampler:
    """Random resized crop and flips, as in MAE (2111.06377, appendix A: scale 0.2..1, no other augmentation).

    augment.scale: share of the source's area; None takes the largest centred box with the aspect of `size`.
    augment.aspect: width/height of the box over that of `size`, log-uniform; 1 distorts nothing. The generator is the
    caller's, and is used up here: applying the sampler draws nothing.
    """
    draws = torch.rand(TRIES, 4, dtype=torch.float64, generator=generator)
    coins = torch.rand(len(size), generator=generator) < 0.5
    for axis in augment.flip:
        if not -len(size) <= axis < len(size):
            raise ConfigError(f"data.augment.flip: axis {axis} does not exist, size {list(size)} has {len(size)} axes")
    axes = {axis % len(size) for axis in augment.flip}
    flip = tuple(i in axes and bool(coin) for i, coin in enumerate(coins.tolist()))
    rest: CropSampler
    if augment.scale is None:
        rest = CenterCrop(size, flip=flip)
    else:
        shape = size[-1] / size[-2]
        rows = tuple((a, b, c, d) for a, b, c, d in draws.tolist())
        rest = RandomResizedCrop(augment.scale, (augment.aspect[0] * shape, augment.aspect[1] * shape), rows, flip)
    if not augment.fixed:
        return rest
    fixed = _fixed_axes(augment, size)
    places = torch.rand(TRIES, len(fixed), dtype=torch.float64, generator=generator)
    return FixedCrop(size, fixed, rest, tuple(map(tuple, places.tolist())))


def evaluation_sampler(augment: AugmentConfig, size: tuple[int, ...]) -> CropSampler:
    """What a model trained with `augment` is shown afterwards: the middle of a source, at the scale of its training."""
    if not augment.fixed:
        return CenterCrop(size)
    fixed = _fixed_axes(augment, size)
    return FixedCrop(size, fixed, CenterCrop(size), ((0.5,) * len(fixed),))


def always(box: Crop) -> CropSampler:
    """Of any source the same box."""
    return partial(_always, box)


def _always(box: Crop, _: tuple[int, ...]) -> Crop:
    return box


def training_shape(augment: AugmentConfig, size: tuple[int, ...], extent: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a whole source at the scale of training: in it, a box of `size` shows as much as a crop does.

    A crop of the middle of augment.scale and augment.aspect, as far as the source has room for its shape; of the
    source's own voxels on fixed axes, so they stay; of all of the source on the others, which become as long as `size`.
    """
    shown = [float(n) for n in extent]
    height, width = extent[-2:]
    if augment.scale is None:
        fit = min(height / size[-2], width / size[-1])
        shown[-2:] = size[-2] * fit, size[-1] * fit
    else:
        area = height * width * (augment.scale[0] + augment.scale[1]) / 2
        aspect = sqrt(augment.aspect[0] * augment.aspect[1]) * size[-1] / size[-2]
        h, w = sqrt(area / aspect), sqrt(area * aspect)
        fit = min(1.0, height / h, width / w)
        shown[-2:] = h * fit, w * fit
    for axis in _fixed_axes(augment, size):
        shown[axis] = size[axis]
    return tuple(max(1, round(n * s / part)) for n, s, part in zip(extent, size, shown, strict=True))


def center_sampler(size: tuple[int, ...], share: float = 1.0) -> CropSampler:
    """For evaluation: the largest centred box with the aspect of `size`, times `share` of each side; no randomness.

    share=0.875 is the usual "resize 256, crop 224".
    """
    return CenterCrop(size, share)


def _fixed_axes(augment: AugmentConfig, size: tuple[int, ...]) -> tuple[int, ...]:
    for axis in augment.fixed:
        if not -len(size) <= axis < len(size):
            raise ConfigError(f"data.augment.fixed: axis {axis} does not exist, size {list(size)} has {len(size)} axes")
    return tuple(sorted({axis % len(size) for axis in augment.fixed}))


def _centred(extent: tuple[int, ...], height: float, width: float, flip: tuple[bool, ...]) -> Crop:
    h, w = (min(max(round(a), 1), b) for a, b in zip((height, width), extent[-2:], strict=True))
    top, left = (extent[-2] - h) // 2, (extent[-1] - w) // 2
    return _crop(extent, (top, left), (top + h, left + w), flip)


def _crop(extent: tuple[int, ...], start: tuple[int, int], stop: tuple[int, int], flip: tuple[bool, ...]) -> Crop:
    rest = extent[:-2]
    return Crop((0,) * len(rest) + start, rest + stop, flip or (False,) * len(extent))
