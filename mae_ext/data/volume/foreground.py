"""What of a scan is body, what is air, and what no scanner measured."""

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.intensity import Foreground
from mae_ext.data.volume.scan import MAX_VALUE, Array
from mae_ext.errors import BadSample

MOST_VALUES = 1 << 20
"""Percentiles and thresholds are those of about so many voxels, evenly spread over the scan."""

BINS = 256

ROUNDED = 2.0**-21
"""Of an intercept: what its own rounding to float32, the slope's, and that of values held as float32 can add up to."""


def scaled(stored: Array, slope: float, inter: float) -> NDArray[np.float32]:
    """Stored values in the scan's units. What float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if slope == 1 and inter == 0:
            return stored.astype(np.float32)
        return (stored.astype(np.float64) * slope + inter).astype(np.float32)


def usable(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Finite, and of a size that anything measures."""
    with np.errstate(invalid="ignore"):
        return np.abs(x) <= MAX_VALUE


def without_padding(address: str, voxels: Array, slope: float) -> tuple[Array, NDArray[np.bool_] | None]:
    """(C, D, H, W), masked where nothing was measured -> the least value of its channel there, and (D, H, W) where all
    channels were measured; None is everywhere. Raises BadSample "constant" where nothing was."""
    if not isinstance(voxels, np.ma.MaskedArray):
        return voxels, None
    absent = np.ma.getmaskarray(voxels)
    plain = np.ma.getdata(voxels).copy()
    for channel, hole in zip(plain, absent, strict=True):
        if hole.all():
            raise BadSample(address, "constant", "every voxel is padding")
        channel[hole] = (np.min if slope > 0 else np.max)(channel[~hole])
    present: NDArray[np.bool_] = np.logical_and.reduce(~absent, axis=0)
    return plain, present


def survey(
    address: str, voxels: Array, slope: float, inter: float, min_finite: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """-> (C, 2), the least and the most finite value of each channel, and (D, H, W) where all channels are finite.

    Slice by slice, so that no float copy of the scan is ever made. Raises BadSample "non-finite", "constant".
    """
    good = np.ones(voxels.shape[1:], dtype=bool)
    least = np.full(len(voxels), np.inf, dtype=np.float32)
    most = -least
    for c, channel in enumerate(voxels):
        for z, plane in enumerate(channel):
            x = scaled(plane, slope, inter)
            fine = usable(x)
            good[z] &= fine
            if fine.any():
                least[c] = min(least[c], np.min(x, where=fine, initial=np.inf))
                most[c] = max(most[c], np.max(x, where=fine, initial=-np.inf))
    share = np.count_nonzero(good) / good.size
    if share < min_finite:
        bad = good.size - np.count_nonzero(good)
        raise BadSample(address, "non-finite", f"{bad} of {good.size} voxels are NaN, infinite or above {MAX_VALUE:g}")
    if flat := np.flatnonzero(least == most).tolist():
        which = f"channel {flat[0]} is" if len(voxels) > 1 else "every voxel is"
        raise BadSample(address, "constant", f"{which} {least[flat[0]]:g}")
    return np.stack([least, most], 1), good


def measured(
    voxels: Array, slope: float, inter: float, valid: NDArray[np.bool_], ends: NDArray[np.float32]
) -> Foreground:
    """Mean and standard deviation over all valid voxels, and a sample of their values, channel by channel. ends: of
    the whole scan, as `survey` has them."""
    means, stds, samples = [], [], []
    count = max(1, int(np.count_nonzero(valid)))
    for channel in voxels:
        total = square = 0.0
        pivot: float | None = None
        kept = [np.empty(0, np.float32)]
        for plane, ok in zip(channel, valid, strict=True):
            x = scaled(plane.ravel() if ok.all() else plane[ok], slope, inter)
            if not len(x):
                continue
            kept.append(x[spread_over(count)].copy())
            wide = x.astype(np.float64)
            pivot = float(wide.mean()) if pivot is None else pivot  # sums about it lose no digits to a large offset
            wide -= pivot
            total += float(wide.sum())
            square += float(wide @ wide)
        mean = total / count
        means.append((pivot or 0.0) + mean)
        stds.append(float(np.sqrt(max(square / count - mean**2, 0.0))))
        samples.append(np.concatenate(kept))
    return Foreground(tuple(means), tuple(stds), tuple(samples), tuple((float(a), float(b)) for a, b in ends))


def body_mask(
    voxels: Array, slope: float, inter: float, finite: NDArray[np.bool_], body: float | str
) -> NDArray[np.bool_]:
    """(C, D, H, W) as stored -> (D, H, W): what is not air in some channel, and all that it encloses.

    body: a threshold in the scan's units, "otsu", or "nonzero", which is of the scan's units too. Slice by slice, so
    that a byte for each voxel is all it takes.
    """
    thresholds = [_threshold(channel, slope, inter, body) for channel in voxels]
    inside = np.empty(voxels.shape[1:], dtype=bool)
    for z in range(len(inside)):
        above = np.zeros(inside.shape[1:], dtype=bool)
        for plane, threshold in zip(voxels[:, z], thresholds, strict=True):
            above |= ~_is_zero(plane, slope, inter) if threshold is None else scaled(plane, slope, inter) > threshold
        inside[z] = silhouette((above & finite[z])[None])[0]
    return inside


def _threshold(channel: Array, slope: float, inter: float, body: float | str) -> float | None:
    """None: whatever is not 0."""
    if body == "otsu":
        few = channel[tuple(spread_over(n, 128) for n in channel.shape)]
        values = scaled(few, slope, inter).ravel()
        return otsu(values[usable(values)])
    return None if isinstance(body, str) else body


def _is_zero(stored: Array, slope: float, inter: float) -> NDArray[np.bool_]:
    """Where a stored number stands for the value 0, which slope and intercept, rounded to float32, may miss.

    Of whole numbers it is the one nearest to 0, less than half a step away; else what rounding leaves of an intercept.
    """
    if inter == 0:
        return np.equal(stored, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        value = stored.astype(np.float64) * slope + inter
    step = abs(slope) / 2 if stored.dtype.kind in "iu" else 0.0
    near: NDArray[np.bool_] = (np.abs(value) < step) | (np.abs(value) <= ROUNDED * abs(inter))
    return near


def otsu(values: NDArray[np.float32]) -> float:
    """The threshold that separates air from body best: the one with the least variance within (Otsu 1979).

    Of the values up to their 99.5th percentile, so that a bright vessel does not stretch the histogram.
    """
    top = np.percentile(values, 99.5)
    counts, edges = np.histogram(values[values <= top], BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below, moment = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * below / below[-1] - moment) ** 2 / (below * above)
    return float(edges[1:][np.nanargmax(np.where(np.isfinite(between), between, -1.0))])


def silhouette(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(D, H, W) -> (D, H, W): the body and all it encloses. In each axial slice, air that is seen from the left, right,
    front or back is outside; so lungs and sinuses stay inside, and a face that was cut away does not.

    Specks narrower than two voxels in a slice, as noise is, hide nothing.
    """
    core = above[:, 1:, 1:] & above[:, :-1, 1:] & above[:, 1:, :-1] & above[:, :-1, :-1]
    solid = np.zeros_like(above)
    for rows in (slice(1, None), slice(None, -1)):
        for columns in (slice(1, None), slice(None, -1)):
            solid[:, rows, columns] |= core
    turned = np.ascontiguousarray(solid.transpose(0, 2, 1))
    return _between(solid) & _between(turned).transpose(0, 2, 1)


def _between(solid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(..., n) -> (..., n): from the first that is set to the last, of each row."""
    at = np.arange(solid.shape[-1], dtype=np.int32)
    first = np.argmax(solid, -1, keepdims=True).astype(np.int32)
    last = (len(at) - 1 - np.argmax(solid[..., ::-1], -1, keepdims=True)).astype(np.int32)
    within: NDArray[np.bool_] = (at >= first) & (at <= last) & np.any(solid, -1, keepdims=True)
    return within


def spread_over(count: int, most: int = MOST_VALUES) -> slice:
    """Every n-th of `count` values, so that at most about `most` are left."""
    return slice(None, None, max(1, -(-count // most)))
