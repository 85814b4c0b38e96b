"""What a scan's file declares, and whether it can be believed, before a voxel is read."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.volume.geometry import orientation
from mae_ext.errors import BadSample

Array = NDArray[np.generic]
Time = Literal["first", "middle", "mean"]

DTYPES = tuple(
    np.dtype(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
)  # fmt: skip
MIN_SPACING, MAX_SPACING = 0.01, 50.0
"""mm. Histology in NIfTI is finer and a scout coarser; neither is a volume to train on."""

MIN_SOLIDITY = 0.05
"""|det| of the voxel axes over the product of their lengths: 1 when they are at right angles, 0.87 when the gantry was
tilted by 30 degrees, 0 when two of them coincide."""

MAX_SLOPE = 1e9
MAX_VALUE = 1e12
"""Larger values count as non-finite: no unit of CT, MR or PET needs them, and float32 holds the square of this one."""


@dataclass(frozen=True)
class Declared:
    """A header. shape, fastest axis first as nibabel shows it. spatial: which of its axes the affine is about.

    affine: (4, 4), voxel indices of the spatial axes -> mm, RAS+. value = stored * slope + inter. load() -> the voxels,
    (*reversed(shape)), any dtype of DTYPES, read to the end of the file; masked where the file says that a number
    stands for no measurement. contrast: what the volumes along a fourth axis differ in, if the file says it is no time.
    """

    format: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    affine: NDArray[np.float64]
    load: Callable[[], Array]
    slope: float = 1.0
    inter: float = 0.0
    spatial: tuple[int, int, int] = (0, 1, 2)
    contrast: str = ""
    slowest_first: bool = False
    """Whether people count the axes from the slowest, as in arrays; channel_axis and time_axis then mean that."""

    nifti: Any = None
    """nibabel's header of a NIfTI, as it stands in the file: what is written in the scan's place has its fields."""

    other: NDArray[np.float64] | None = None
    """Where other software may see the scan: by a NIfTI's qform beside its sform; by neither, as ITK does. (4, 4) RAS+,
    not finite where it is damaged."""

    sided: bool = True
    """Whether the file says where left is. Where it does not, `affine` is the format's convention."""

    code: int = 1
    """What a NIfTI made of it calls its place (nifti1.h): 1 the scanner's coordinates, 2 those of something else."""

    channel: int | None = None
    """The axis that holds channels, where the source itself says so: components of a voxel, files of one case."""

    finest: float = MIN_SPACING
    """mm: the least length of a voxel that is believed. Microscopes see finer than scanners."""

    frame_of_reference: str = ""
    """A UID of DICOM: positions in files of another one are not of this patient, or of another visit."""

    resampled: str = ""
    """What the voxels are not any more as they were stored, where the reader was asked to put it right; for people."""

    names: tuple[str, ...] = ()
    """Of the channels along the axis that is not spatial, where the file names them."""

    @property
    def extra(self) -> tuple[int, ...]:
        """Axes longer than 1 that are not spatial."""
        return tuple(a for a, n in enumerate(self.shape) if a not in self.spatial and n != 1)

    @property
    def size_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        place = orientation(self.affine)
        lengths = " x ".join(f"{s:.3g}" for s in place.file_spacing)
        return f"{self.format} {self.dtype.name} {'x'.join(map(str, self.shape))}, {lengths} mm, {place.code}"


def check(address: str, scan: Declared, max_bytes: int) -> None:
    """Raises BadSample "axes", "too large", "data type", "scaling", "geometry" or "voxel size"."""
    shape = " x ".join(map(str, scan.shape))
    if len(scan.shape) < 3:
        raise BadSample(address, "axes", f"{len(scan.shape)} axes ({shape}); a volume has three")
    if min(scan.shape) < 1:
        raise BadSample(address, "axes", f"an axis without voxels ({shape})")
    if scan.size_bytes > max_bytes:
        detail = f"{shape} voxels of {scan.dtype} are {scan.size_bytes} bytes, the limit is {max_bytes}"
        raise BadSample(address, "too large", detail)
    if scan.dtype.newbyteorder("=") not in DTYPES:
        raise BadSample(address, "data type", f"{scan.dtype}; integers up to 64 bits and float16 to float64 are read")
    if thin := [a for a in scan.spatial if scan.shape[a] < 2]:
        raise BadSample(address, "axes", f"axis {thin[0]} has a single slice ({shape}); a volume has more")
    if not (np.isfinite([scan.slope, scan.inter]).all() and scan.slope != 0):
        raise BadSample(address, "scaling", f"slope {scan.slope} and intercept {scan.inter} are not finite")
    if not 1 / MAX_SLOPE**2 <= abs(scan.slope) <= MAX_SLOPE or abs(scan.inter) > MAX_SLOPE:
        raise BadSample(address, "scaling", f"slope {scan.slope:g}, intercept {scan.inter:g} mean no unit of a scan")
    axes = scan.affine[:3, :3]
    if not np.isfinite(scan.affine).all():
        raise BadSample(address, "geometry", "the affine is not finite; there is no telling where left is")
    lengths = np.linalg.norm(axes, axis=0)
    solid = abs(np.linalg.det(axes)) / max(float(np.prod(lengths)), 1e-30)
    if lengths.max() == 0 or (lengths.min() > 0 and solid < MIN_SOLIDITY):
        detail = "its determinant is 0" if solid < 1e-6 else f"voxel axes lean on each other (determinant {solid:.2g})"
        raise BadSample(address, "geometry", f"the affine is singular: {detail}")
    for axis, length in zip(scan.spatial, lengths, strict=True):
        if not scan.finest <= length <= MAX_SPACING:
            detail = f"axis {axis} has voxels of {length:g} mm; expected {scan.finest} to {MAX_SPACING}"
            raise BadSample(address, "voxel size", detail)


def pick_axis(address: str, scan: Declared, channel_axis: int | None, time_axis: int | None) -> int | None:
    """The one axis that is not spatial, or None. Raises BadSample "axes" unless the config says what it is."""
    if not scan.extra:
        return None
    shape = " x ".join(map(str, scan.shape))
    if len(scan.extra) > 1:
        raise BadSample(address, "axes", f"{shape}: {len(scan.extra)} axes besides the three of space; expected one")
    (extra,) = scan.extra
    last = len(scan.shape) - 1
    if extra == scan.channel:
        return extra
    stated = [axis % len(scan.shape) for axis in (channel_axis, time_axis) if axis is not None]
    stated = [last - axis for axis in stated] if scan.slowest_first else stated
    if scan.contrast and channel_axis is None:
        detail = f"{shape}: axis {extra} is no time: {scan.contrast}; set channel_axis, or split the series"
        raise BadSample(address, "axes", detail)
    if extra not in stated:
        detail = (
            f"{shape}: axis {extra} may be time, contrasts or directions; set the reader's channel_axis or time_axis"
        )
        raise BadSample(address, "axes", detail)
    return extra


def channels_first(scan: Declared, stored: Array, extra: int | None) -> Array:
    """(*reversed file shape) -> (C, three spatial axes in the reverse of their order in the file), a view.

    extra: the axis that is not spatial, as `pick_axis` gives it; others have length 1, and go.
    """
    shape = tuple(scan.shape[a] for a in sorted(scan.spatial, reverse=True))
    if extra is None:
        return stored.reshape(1, *shape)
    return np.moveaxis(stored, len(scan.shape) - 1 - extra, 0).reshape(scan.shape[extra], *shape)


def instant(stored: Array, time: Time) -> Array:
    """(T, ...) -> (1, ...)."""
    if time == "mean":
        with np.errstate(over="ignore", invalid="ignore"):
            return stored.mean(axis=0, dtype=np.float32, keepdims=True)  # type: ignore[no-any-return]
    at = 0 if time == "first" else len(stored) // 2
    return stored[at : at + 1]
