"""One axis order for every scan, and resampling that touches only the voxels a crop needs.

Canonical order is (D, H, W) = (inferior -> superior, posterior -> anterior, left -> right): RAS+ as NIfTI means it, the
slowest axis first. Oblique scans go to the nearest such order; nothing is rotated.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import Crop, Extent

KEEP_MM = 1e-3
"""A spacing this near to the wanted one is kept as it is (MONAI, AFFINE_TOL); below 0.01 mm a tenth of it."""

_LETTERS = ("LR", "PA", "IS")

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Orientation:
    """source: for D, H, W, the spatial axis of the file (0..2) it comes from. flip: whether that axis runs backwards.

    spacing: mm along D, H, W. file_spacing: mm along the file's axes. code: where the file's axes point, "RAS".
    """

    source: tuple[int, int, int]
    flip: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    file_spacing: tuple[float, float, float]
    code: str


def orientation(affine: NDArray[np.float64]) -> Orientation:
    """(4, 4) voxel -> mm RAS+, finite and not singular. Each axis goes to the direction it is nearest to."""
    import nibabel as nib

    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    order = np.asarray(nib.orientations.io_orientation(affine))
    world = [int(w) for w in order[:, 0]]
    forward = [bool(f > 0) for f in order[:, 1]]
    source = tuple(world.index(w) for w in (2, 1, 0))
    code = "".join(_LETTERS[w][f] for w, f in zip(world, forward, strict=True))
    return Orientation(
        source,  # type: ignore[arg-type]
        tuple(not forward[a] for a in source),  # type: ignore[arg-type]
        tuple(float(lengths[a]) for a in source),  # type: ignore[arg-type]
        tuple(float(v) for v in lengths),  # type: ignore[arg-type]
        code,
    )


def lean(affine: NDArray[np.float64]) -> float:
    """Degrees by which two voxel axes miss a right angle at most: those of a gantry's tilt, 0 for all other scans."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.rad2deg(np.arcsin(min(1.0, np.abs(axes.T @ axes - np.eye(3)).max()))))


def upright(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest a place without lean comes: first axis, first plane, lengths and first voxel as they are.

    So a tilted series has its slices in their own planes, stacked along their normal: ITK reads the DICOM files so.
    """
    turned, upper = np.linalg.qr(affine[:3, :3])
    straight = np.array(affine, dtype=np.float64)
    straight[:3, :3] = turned * np.sign(np.diag(upper)) * np.linalg.norm(affine[:3, :3], axis=0)
    return straight


@dataclass(frozen=True)
class Apart:
    """How far two places of one grid lie from each other. mm, voxels: at the corners, the most along any axis for
    voxels. middle: voxels between the centres."""

    mm: float
    voxels: float
    middle: float


def apart(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> Apart:
    """Two affines of a grid of `shape` voxels; those of `one`, which is not singular, are what is counted in."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(shape) - 1)
    between = corners @ (other - one)[:3, :3].T + (other - one)[:3, 3]
    voxels = np.linalg.solve(one[:3, :3], between.T)
    mm = np.linalg.norm(between, axis=1).max()
    return Apart(float(mm), float(np.abs(voxels).max()), float(np.abs(voxels.mean(1)).max()))


def canonical_affine(
    affine: NDArray[np.float64], shape: tuple[int, ...], place: Orientation
) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """(4, 4) of voxels (d, h, w), and how many there are. shape: along the file's spatial axes."""
    turned = np.array(affine, dtype=np.float64)
    for column, (axis, flip) in enumerate(zip(place.source, place.flip, strict=True)):
        turned[:3, column] = affine[:3, axis] * (-1 if flip else 1)
        if flip:
            turned[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
    return turned, tuple(shape[axis] for axis in place.source)


def canonical(stored: Array, spatial: tuple[int, int, int], place: Orientation) -> Array:
    """(C, *reversed spatial shape of the file) -> (C, D, H, W), a view."""
    # After the channel, the file's spatial axes stand in the reverse of their order in the file.
    rank = sorted(spatial, reverse=True)
    where = [1 + rank.index(spatial[a]) for a in place.source]
    view = stored.transpose(0, *where)
    return view[(slice(None), *(slice(None, None, -1) if f else slice(None) for f in place.flip))]


@dataclass(frozen=True)
class Taps:
    """One axis of a resampled box: output voxel n is source[low[n]] * (1 - weight[n]) + source[low[n] + 1] * weight[n].

    inside: whether n lies in the scan at all. Where no weight is above 0, low + 1 is never looked at.
    """

    low: NDArray[np.int64]
    weight: NDArray[np.float64]
    inside: NDArray[np.bool_]

    def part(self, which: slice) -> "Taps":
        return Taps(self.low[which], self.weight[which], self.inside[which])


@dataclass(frozen=True)
class Lattice:
    """The voxels of a scan at a spacing. extent: stored voxels. ratio: wanted over stored spacing, per axis.

    The first voxels of both coincide, and the last ones as nearly as the spacing lets them: MONAI's Spacing
    (compute_shape_offset with scale_extent=False). Trilinear, without smoothing, as there.
    """

    extent: tuple[int, ...]
    ratio: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels at the wanted spacing."""
        return tuple(
            n if r == 1 else max(1, int(np.round((n - 1) / r + 1)))
            for n, r in zip(self.extent, self.ratio, strict=True)
        )

    def over(self, spacing: tuple[float, ...]) -> Extent:
        """As what crops are drawn from. spacing: mm between stored voxels."""
        return Extent(self.shape, self.extent, self.ratio, spacing)

    def taps(self, box: Crop, size: tuple[int, ...]) -> list[Taps]:
        """For a box in voxels of `shape`, which may reach beyond it, cut into `size` voxels."""
        axes = []
        for a, b, n, length, stored, ratio in zip(
            box.start, box.stop, size, self.shape, self.extent, self.ratio, strict=True
        ):
            step = (b - a) / n
            at = a + np.arange(n) if step == 1 else a + (np.arange(n) + 0.5) * step - 0.5
            inside = (at > -0.5 - 1e-6) & (at < length - 0.5 + 1e-6)
            source = np.clip(np.clip(at, 0, length - 1) * ratio, 0, stored - 1)
            low = np.minimum(np.floor(source).astype(np.int64), max(stored - 2, 0))
            weight = source - low
            if np.isin(weight, (0, 1)).all():
                low, weight = low + weight.astype(np.int64), np.zeros(n)
            axes.append(Taps(low, weight, inside))
        return axes

    def runs(self, box: Crop, size: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
        """The stored voxels that a box shows and where they stand in it; None where it takes more than a copy."""
        stored, placed = [], []
        for a, b, n, extent, ratio in zip(box.start, box.stop, size, self.extent, self.ratio, strict=True):
            first, last = max(a, 0), min(b, extent)
            if ratio != 1 or b - a != n or first >= last:
                return None
            stored.append(slice(first, last))
            placed.append(slice(first - a, last - a))
        return tuple(stored), tuple(placed)


def lattice(extent: tuple[int, ...], spacing: tuple[float, ...], wanted: tuple[float, ...] | None) -> Lattice:
    """wanted=None, or within KEEP_MM of the spacing: the stored voxels as they are."""
    if wanted is None:
        return Lattice(extent, (1.0,) * len(extent))
    ratio = tuple(1.0 if abs(w - s) <= min(KEEP_MM, s / 10) else w / s for s, w in zip(spacing, wanted, strict=True))
    return Lattice(extent, ratio)


def window(taps: list[Taps]) -> tuple[slice, ...]:
    """The stored voxels that the taps touch."""
    return tuple(slice(int(t.low.min()), int(t.low.max()) + 1 + bool(t.weight.any())) for t in taps)


def touched(x: NDArray[Any], taps: list[Taps]) -> tuple[NDArray[Any], list[Taps]]:
    """(C, *stored) -> (C, *near), the voxels that the taps need, and the taps among them.

    A long box that is cut into few voxels needs two for each of them: half a scan made 64 voxels wide is no copy of
    half a scan. Elsewhere a view.
    """
    x, near, where = x[(slice(None), *window(taps))], [], []
    for t, length in zip(taps, x.shape[1:], strict=True):
        low = t.low - t.low.min()
        some = np.unique(np.concatenate([low, low + 1]) if t.weight.any() else low)
        if 2 * len(some) > length:
            some = np.arange(length)
        where.append(some)
        near.append(replace(t, low=np.searchsorted(some, low)))
    if any(len(some) < length for some, length in zip(where, x.shape[1:], strict=True)):
        x = x[np.ix_(np.arange(len(x)), *where)]
    return x, near


def laid(x: NDArray[Any], where: tuple[slice, ...], size: tuple[int, ...], fill: Any) -> NDArray[Any]:
    """(C, *stored) -> (C, *size): x where `runs` places it, fill, which broadcasts, in the rest; x where none is."""
    if all(r.stop - r.start == n for r, n in zip(where, size, strict=True)):
        return x
    out = np.empty((len(x), *size), x.dtype)
    out[:] = fill
    out[(slice(None), *where)] = x
    return out


def interpolate(x: NDArray[np.float32], taps: list[Taps]) -> NDArray[np.float32]:
    """(C, *window) -> (C, *size), in float64 between: HU have four digits before the point."""
    y: NDArray[Any] = x
    for axis, t in enumerate(taps, start=1):
        low = t.low - t.low.min()
        if not t.weight.any():
            y = _picked(y, low, axis)
            continue
        weight = t.weight.reshape(-1, *[1] * (y.ndim - axis - 1))
        wide = y.astype(np.float64, copy=False)
        y = _picked(wide, low, axis) * (1 - weight) + _picked(wide, low + 1, axis) * weight
    return y.astype(np.float32, copy=False)


def covered(valid: NDArray[np.bool_], taps: list[Taps]) -> NDArray[np.bool_]:
    """(*window) -> (*size): where every voxel that contributes is valid, and the place is inside the scan."""
    y = valid
    for axis, t in enumerate(taps):
        low = t.low - t.low.min()
        along = (-1, *[1] * (y.ndim - axis - 1))
        whole = _picked(y, low, axis)
        if t.weight.any():
            whole = whole & (_picked(y, low + 1, axis) | (t.weight == 0).reshape(along))
        y = whole if t.inside.all() else whole & t.inside.reshape(along)
    return y


def _picked(x: NDArray[Any], index: NDArray[np.int64], axis: int) -> NDArray[Any]:
    """x.take(index, axis), and a view where the index is a run: the common case, and ten times faster."""
    if index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return x[(slice(None),) * axis + (slice(int(index[0]), int(index[-1]) + 1),)]
    return x.take(index, axis)
