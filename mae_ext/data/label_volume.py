"""Label maps of scans: read onto the lattice that a scan's crops are cut from, and written back into its geometry."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.geometry import Orientation, canonical, lattice, orientation
from mae_ext.data.labelmap import Labels, Stored
from mae_ext.data.scan import Declared
from mae_ext.errors import BadSample

APART_MM = 0.1
"""Corners of a scan and of its label map that are farther from each other than this are not of one place."""


def on_lattice(
    address: str, found: Declared, spacing: tuple[float, ...] | None, like: tuple[str, Declared] | None
) -> Labels:
    """(D, H, W) at the wanted spacing: of each voxel the label of the nearest stored one. Raises BadSample."""
    place = orientation(found.affine)
    shape = tuple(found.shape[a] for a in sorted(found.spatial, reverse=True))
    if found.extra:
        raise BadSample(address, "label map", f"{len(found.shape)} axes; expected the three of space")
    stored = canonical(found.load().reshape(1, *shape), found.spatial, place)[0]
    values = stored.astype(np.float64) * found.slope + found.inter
    labels = np.rint(np.where(np.isfinite(values), values, -1)).astype(np.int32)
    if labels.min() < 0 or np.abs(labels - values).max() > 1e-3:
        raise BadSample(address, "label map", "values that are not whole numbers from 0 on")
    if like is not None:
        _same_place(address, found, place, *like)
    # By the scan's spacing: a label map's may differ in its last digit, and would become another number of voxels.
    grid = lattice(labels.shape, (place if like is None else orientation(like[1].affine)).spacing, spacing)
    index = [
        np.clip(np.rint(np.arange(n) * ratio), 0, stored_n - 1).astype(np.int64)
        for n, ratio, stored_n in zip(grid.shape, grid.ratio, labels.shape, strict=True)
    ]
    return np.ascontiguousarray(labels[np.ix_(*index)])


def _same_place(address: str, found: Declared, place: Orientation, like: str, scan: Declared) -> None:
    there = orientation(scan.affine)
    ours, theirs = _canonical_shape(found, place), _canonical_shape(scan, there)
    if ours != theirs:
        raise BadSample(address, "label map", f"{_by(ours)} voxels, and the scan {like} has {_by(theirs)}")
    apart = float(np.abs(_corners(found, place, ours) - _corners(scan, there, theirs)).max())
    if not apart <= APART_MM:
        raise BadSample(address, "label map", f"lies up to {apart:.3g} mm from the scan {like}: another affine")


def _canonical_shape(found: Declared, place: Orientation) -> tuple[int, ...]:
    return tuple(found.shape[found.spatial[a]] for a in place.source)


def _corners(found: Declared, place: Orientation, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """-> (8, 3) mm of the corner voxels, in canonical order."""
    rows = []
    for corner in np.ndindex(2, 2, 2):
        voxel = np.zeros(3)
        for axis, (a, flip, n) in enumerate(zip(place.source, place.flip, shape, strict=True)):
            voxel[a] = (n - 1) * (corner[axis] != flip)
        rows.append(found.affine[:3, :3] @ voxel + found.affine[:3, 3])
    return np.stack(rows)


def write(labels: Labels, found: Declared, spacing: tuple[float, ...] | None, path: Path) -> None:
    """(D, H, W) on the lattice -> NIfTI on the voxels of `found`: of each the label of the nearest. Raises OSError."""
    import nibabel as nib

    place = orientation(found.affine)
    shape = _canonical_shape(found, place)
    grid = lattice(shape, place.spacing, spacing)
    assert labels.shape == grid.shape
    index = [
        np.clip(np.rint(np.arange(n) / ratio), 0, m - 1).astype(np.int64)
        for n, ratio, m in zip(shape, grid.ratio, grid.shape, strict=True)
    ]
    stored = labels[np.ix_(*index)]
    stored = stored[tuple(slice(None, None, -1) if flip else slice(None) for flip in place.flip)]
    # Axis k of `stored` is axis source[k] of the file.
    stored = stored.transpose([place.source.index(a) for a in range(3)])
    kind = np.uint8 if stored.max(initial=0) < 256 else np.int32
    image = nib.Nifti1Image(np.ascontiguousarray(stored.astype(kind)), found.affine)
    image.header.set_xyzt_units("mm")
    partial = path.with_name(f"tmp-{path.name}")
    image.to_filename(partial)
    partial.replace(path)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def stored(found: Declared, spacing: tuple[float, ...] | None) -> Stored:
    """The voxels of `found` in canonical order, on the lattice at the wanted spacing."""
    place = orientation(found.affine)
    grid = lattice(_canonical_shape(found, place), place.spacing, spacing)
    return Stored(
        grid.shape, tuple(np.arange(n) / r for n, r in zip(grid.extent, grid.ratio, strict=True)), place.spacing
    )
