"""Label maps of scans: read onto the lattice that a scan's crops are cut from, and written back into its geometry."""

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mae_ext.data.labelmap import Labels
from mae_ext.data.sample import Extent
from mae_ext.data.volume.geometry import (
    Lattice,
    Orientation,
    apart,
    canonical,
    canonical_affine,
    lattice,
    orientation,
    upright,
)
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import NAMED, BadSample
from mae_ext.writing import staged

CORNER, MIDDLE = 0.5, 0.25
"""Of a voxel: by how much a label map may miss its scan at the corners and in the middle. Within half a voxel the
nearest voxel is still each label's own. A spacing that was rounded (0.977 for 0.9765625 is 0.23 voxels after 512) is
half as far off in the middle as at the last corner; a shift, such as a corner taken for a centre, is not."""

WHOLE = 1e-3
"""What a whole number may be off as a float."""

COARSEST = 0.5
"""Of a step between stored levels. With larger ones two whole numbers are no further apart than rounding may be."""

NO_EXTENSIONS = bytes(4)
PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""The fields of a NIfTI header that say where its voxels lie."""


def on_lattice(
    address: str, label_map: Declared, spacing: tuple[float, ...] | None, like: tuple[str, Declared] | None
) -> Labels:
    """(D, H, W) at the wanted spacing: of each voxel the label of the nearest stored one. Raises BadSample.

    A plane at a time, so that nothing of the size of the scan is made but the answer.
    """
    shape = tuple(label_map.shape[a] for a in sorted(label_map.spatial, reverse=True))
    if label_map.extra:
        raise BadSample(address, "label map", f"{len(label_map.shape)} axes; expected the three of space")
    place = orientation(label_map.affine) if like is None else _place(address, label_map, *like)
    stored = canonical(label_map.load().reshape(1, *shape), label_map.spatial, place)[0]
    # By the scan's spacing: a label map's may differ in its last digit, and would become another number of voxels.
    grid = lattice(stored.shape, (place if like is None else orientation(like[1].affine)).spacing, spacing)
    depth, *plane = (
        np.clip(np.rint(np.arange(n) * ratio), 0, stored_n - 1).astype(np.int64)
        for n, ratio, stored_n in zip(grid.shape, grid.ratio, stored.shape, strict=True)
    )
    labels = np.empty(grid.shape, np.int32)
    for z, whole in enumerate(_whole_numbers(address, stored, label_map)):
        for at in np.flatnonzero(depth == z):
            labels[at] = whole[np.ix_(*plane)]
    return labels


def _whole_numbers(address: str, stored: Array, label_map: Declared) -> Iterator[Array]:
    """Each plane's labels. Raises BadSample "label map" with the values that are none.

    What was stored as whole levels of a slope (nibabel scales floats that are saved as uint8: 0, 1, 2 become 0, 0.996,
    2) has lost at most half a step, and is the whole number within it.
    """
    step = (
        abs(label_map.slope) if label_map.dtype.kind in "iu" and (label_map.slope, label_map.inter) != (1, 0) else 0.0
    )
    allowed = max(WHOLE, step / 2 * (1 + WHOLE)) if step <= COARSEST else WHOLE
    exact = label_map.dtype.kind in "iu" and step == 0
    wrong: set[float] = set()
    for plane in stored:
        if exact and plane.min() >= 0 and plane.max() <= np.iinfo(np.int32).max:
            yield plane
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            values = plane.astype(np.float64) * label_map.slope + label_map.inter
            whole = np.rint(values)
            bad = ~((np.abs(values - whole) <= allowed) & (whole >= 0) & (whole <= np.iinfo(np.int32).max))
        if bad.any():
            wrong |= {nan if np.isnan(v) else float(f"{v:.4g}") for v in np.unique(values[bad])}
            if len(wrong) > NAMED:
                break
        if not wrong:
            yield whole
    if wrong:
        first = ", ".join(f"{v:g}" for v in sorted(wrong)[:NAMED]) + (" and others" if len(wrong) > NAMED else "")
        coarse = f", in steps of {step:.3g}, which are too coarse to tell" if step > COARSEST else ""
        raise BadSample(
            address,
            "label map",
            f"values that are not whole numbers from 0 on: {first} (stored as {label_map.dtype.name}{coarse}); save "
            f"the labels as integers, np.rint(labels).astype(np.uint8), and resample them to the nearest voxel",
        )


def _place(address: str, label_map: Declared, like: str, scan: Declared) -> Orientation:
    """Where the label map's axes point. Raises BadSample unless it lies where its scan lies.

    A map that was drawn on the scan in software that goes by the scan's other form lies there, voxel for voxel.
    """
    here, of_scan = orientation(label_map.affine), orientation(scan.affine)
    ours, our_shape = canonical_affine(label_map.affine, spatial_shape(label_map), here)
    theirs, their_shape = canonical_affine(scan.affine, spatial_shape(scan), of_scan)
    if our_shape == their_shape:
        between = apart(theirs, ours, their_shape)
        if between.voxels < CORNER and between.middle <= MIDDLE:
            return here
    if spatial_shape(label_map) == spatial_shape(scan) and any(
        between.voxels < CORNER and between.middle <= MIDDLE
        for between in (apart(a, b, spatial_shape(scan)) for a in _forms(scan) for b in _forms(label_map))
    ):
        return of_scan
    if our_shape != their_shape:
        detail = f"{_by(our_shape)} voxels, and the scan {like} has {_by(their_shape)}"
    else:
        detail = (
            f"lies up to {between.mm:.3g} mm from the scan {like}: another affine ({between.voxels:.2g} voxels at a "
            f"corner, {between.middle:.2g} in the middle; up to {CORNER} and {MIDDLE} count as rounding); make it on "
            f"the voxels of the scan, or give it the scan's header"
        )
    raise BadSample(address, "label map", detail)


def _forms(declared: Declared) -> list[NDArray[np.float64]]:
    return [a for a in (declared.affine, declared.other) if a is not None and np.isfinite(a).all()]


def spatial_shape(declared: Declared) -> tuple[int, ...]:
    return tuple(declared.shape[a] for a in declared.spatial)


def header_like(scan: Declared, dtype: DTypeLike) -> Any:
    """nibabel's header of a NIfTI that lies where `found` lies, on its three axes of space; NO_EXTENSIONS follow it.

    For a NIfTI: its version, and its qform, sform, both codes, voxel lengths and units, to the bit, so that whatever
    software shows the scan shows this on top of it. For any other scan: NIfTI-1 in mm with the affine as the sform, and
    as the qform what comes nearest to it without a lean, which ITK goes by where it refuses the sform.
    """
    import nibabel as nib

    kind = nib.Nifti1Header if scan.nifti is None else type(scan.nifti)
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(spatial_shape(scan))
    if scan.nifti is None:
        header.set_xyzt_units("mm")
        header.set_qform(upright(scan.affine), scan.code)
        header.set_sform(scan.affine, scan.code)
    else:
        for field in PLACE:
            header[field] = scan.nifti[field]
    header.set_slope_inter(1, 0)
    header["vox_offset"] = len(header.binaryblock) + len(NO_EXTENSIONS)
    return header


def write(values: NDArray[Any], scan: Declared, spacing: tuple[float, ...] | None, path: Path) -> None:
    """(D, H, W) on the lattice -> NIfTI on the voxels of `found`: of each the value of the nearest. Raises OSError.

    Whole numbers from 0 on become uint8 where they fit, else int32; floats become float32. A plane at a time: `values`
    may be a file that is mapped. The file appears when it is complete.
    """
    place, grid = _lattice(scan, spacing)
    assert values.shape == grid.shape
    nearest = [
        np.clip(np.rint(np.arange(n) / ratio), 0, m - 1).astype(np.int64)
        for n, ratio, m in zip(grid.extent, grid.ratio, grid.shape, strict=True)
    ]
    # The file's axes, slowest first: of the values' axes, that which comes from each.
    axes = [place.source.index(axis) for axis in (2, 1, 0)]
    slow, *plane = (nearest[axis][:: -1 if place.flip[axis] else 1] for axis in axes)
    kind = np.dtype(np.float32 if values.dtype.kind == "f" else np.uint8 if values.max(initial=0) < 256 else np.int32)
    header = header_like(scan, kind)
    with _complete(path) as file:
        file.write(header.binaryblock + NO_EXTENSIONS)
        turned = values.transpose(axes)
        for at in slow:
            file.write(turned[at][np.ix_(*plane)].astype(kind.newbyteorder("<")).tobytes())


def write_grid(
    values: NDArray[np.float32], first: Sequence[float], step: Sequence[float], scan: Declared, path: Path
) -> None:
    """(*grid, n) -> NIfTI in the axis order of the scan; n > 1 is its fourth axis. Raises OSError.

    first, step: where the middle of the grid's first element lies, in the scan's voxels along D, H, W, and how many lie
    between one and the next. The qform is what comes nearest to the sform without a lean.
    """
    import nibabel as nib

    place = orientation(scan.affine)
    voxels, _ = canonical_affine(scan.affine, spatial_shape(scan), place)
    affine = np.array(voxels)
    affine[:3, :3] = voxels[:3, :3] * np.array(step)
    affine[:3, 3] = voxels[:3, :3] @ np.array(first) + voxels[:3, 3]
    # From D, H, W back to the file's axes, the fastest first.
    columns = [place.source.index(axis) for axis in range(3)]
    turned = values.transpose(*columns, 3)
    turned = turned[tuple(slice(None, None, -1 if place.flip[c] else 1) for c in columns)]
    affine = affine @ _turned(columns, place.flip, turned.shape[:3])
    header = nib.Nifti1Header(endianness="<") if max(values.shape) < 1 << 15 else nib.Nifti2Header(endianness="<")
    header.set_data_dtype(np.float32)
    header.set_data_shape(turned.shape if values.shape[3] > 1 else turned.shape[:3])
    header.set_xyzt_units("mm")
    header.set_qform(upright(affine), scan.code)
    header.set_sform(affine, scan.code)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = len(header.binaryblock) + len(NO_EXTENSIONS)
    with _complete(path) as file:
        file.write(header.binaryblock + NO_EXTENSIONS)
        for n in range(values.shape[3]):
            file.write(turned[..., n].astype("<f4").tobytes("F"))


def _turned(columns: Sequence[int], flip: Sequence[bool], shape: Sequence[int]) -> NDArray[np.float64]:
    """(4, 4): places on a grid whose axis n is the canonical axis columns[n], backwards where that is flipped."""
    back = np.zeros((4, 4))
    back[3, 3] = 1
    for axis, column in enumerate(columns):
        back[column, axis] = -1 if flip[column] else 1
        back[column, 3] = shape[axis] - 1 if flip[column] else 0
    return back


@contextmanager
def _complete(path: Path) -> Iterator[IO[bytes]]:
    """A file to write into, gzipped where it is called so, that takes its name at the end. Always the same bytes."""
    with staged(path) as [partial], partial.open("wb") as raw:
        if path.name.endswith(".gz"):
            with gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
                yield packed  # type: ignore[misc]
        else:
            yield raw


def _lattice(scan: Declared, spacing: tuple[float, ...] | None) -> tuple[Orientation, Lattice]:
    place = orientation(scan.affine)
    return place, lattice(tuple(spatial_shape(scan)[axis] for axis in place.source), place.spacing, spacing)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def extent(scan: Declared, spacing: tuple[float, ...] | None) -> Extent:
    """The lattice at the wanted spacing, over the voxels of a scan in canonical order."""
    place, grid = _lattice(scan, spacing)
    return grid.over(place.spacing)
