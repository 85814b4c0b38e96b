"""A case as one scan: its files, each a scan of one channel or several, on one lattice, become its channels."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mae_ext.data.case_names import case_of, files_of, names_of
from mae_ext.data.volume.foreground import scaled
from mae_ext.data.volume.geometry import apart, canonical, canonical_affine, orientation
from mae_ext.data.volume.scan import Array, Declared, channels_first, check, pick_axis
from mae_ext.errors import BadSample

NEAR_MM = 0.01
"""By how much corners of files of one case may miss each other: what headers with few digits leave."""

EXACT_INTEGERS = 4
"""Bytes: of whole numbers of several types, one is taken that holds them all, if it is no larger."""


def declared(
    address: str, patterns: Sequence[str], one: Callable[[str], Declared], channel_axis: int | None, max_bytes: int
) -> Declared:
    """The files beside `address`, joined. one: the header of a file. channel_axis: of each; of time a case has none.

    Raises BadSample of the case: "missing file", "lattice", and whatever is wrong with one of them, which it names.
    """
    files = files_of(address, patterns)
    _, case = case_of(address, patterns[0]) or ("", "")
    parts = []
    for file in files:
        try:
            part = one(file)
            check(file, part, max_bytes)
            parts.append((part, pick_axis(file, part, channel_axis, None)))
        except BadSample as error:
            missing = error.kind == "no such file"
            kind, what = ("missing file", "has no") if missing else (error.kind, "file")
            raise BadSample(address, kind, f"case '{case}' {what} {file}: {error.detail}") from error
    first = parts[0][0]
    for file, (part, _) in zip(files[1:], parts[1:], strict=True):
        _check_lattice(address, case, file, first, part)
    channels = [1 if extra is None else part.shape[extra] for part, extra in parts]
    names = [
        name if count == 1 else f"{name}_{part.names[n] if len(part.names) == count else n}"
        for name, count, (part, _) in zip(names_of(patterns), channels, parts, strict=True)
        for n in range(count)
    ]
    dtype, in_units = _kind([part for part, _ in parts])
    shape = tuple(first.shape[a] for a in first.spatial)

    def load() -> Array:
        joined, at = np.empty((sum(channels), *shape[::-1]), dtype), 0
        for file, (part, extra), count in zip(files, parts, channels, strict=True):
            try:
                stored = part.load()
            except BadSample as error:
                raise BadSample(address, error.kind, f"case '{case}' file {file}: {error.detail}") from error
            values = _laid_as(first, part, channels_first(part, stored, extra))
            joined[at : at + count] = scaled(values, part.slope, part.inter) if in_units else values
            at += count
        return joined

    slope, inter = (1.0, 0.0) if in_units else (first.slope, first.inter)
    return replace(
        first, format=f"case of {len(files)} {first.format}", shape=(*shape, sum(channels)), dtype=dtype, load=load,
        affine=first.affine, spatial=(0, 1, 2), channel=3, slope=slope, inter=inter, slowest_first=False, contrast="",
        sided=all(part.sided for part, _ in parts), names=tuple(names),
    )  # fmt: skip


def _check_lattice(address: str, case: str, file: str, first: Declared, part: Declared) -> None:
    """Raises BadSample unless both have their voxels at the same places, in whatever order they are stored."""
    affines, shapes = [], []
    for scan in (first, part):
        affine, shape = canonical_affine(scan.affine, _spatial(scan), orientation(scan.affine))
        affines.append(affine)
        shapes.append(shape)
    if shapes[0] != shapes[1]:
        by = [" x ".join(map(str, shape)) for shape in shapes]
        raise BadSample(address, "lattice", f"case '{case}': {file} has {by[1]} voxels, the first file {by[0]}")
    if not (between := apart(affines[0], affines[1], shapes[0])).mm <= NEAR_MM:
        detail = f"case '{case}': {file} lies up to {between.mm:.3g} mm from the first file, more than {NEAR_MM} mm"
        raise BadSample(address, "lattice", f"{detail}; resample it onto the first")


def _spatial(scan: Declared) -> tuple[int, ...]:
    return tuple(scan.shape[a] for a in scan.spatial)


def _kind(parts: Sequence[Declared]) -> tuple[np.dtype[np.generic], bool]:
    """What holds all voxels: as stored where all have one slope and intercept, else in the scans' units (True)."""
    slopes = {(part.slope, part.inter) for part in parts}
    kinds = [part.dtype.newbyteorder("=") for part in parts]
    if len(slopes) == 1:
        common = np.result_type(*kinds)
        if len(set(kinds)) == 1 or (common.kind in "iu" and common.itemsize <= EXACT_INTEGERS):
            return common, False
    return np.dtype(np.float32), True


def _laid_as(first: Declared, part: Declared, stored: Array) -> Array:
    """(C, ...) of `part` -> (C, *reversed spatial shape of `first`): by way of the patient's own D, H, W."""
    upright = canonical(stored, part.spatial, orientation(part.affine))
    place = orientation(first.affine)
    flips = tuple(slice(None, None, -1) if flip else slice(None) for flip in place.flip)
    turned = upright[(slice(None), *flips)]
    # Axis d of D, H, W is the file's place.source[d]; the file's axes are wanted from the slowest, 2, to 0.
    return turned.transpose(0, *(1 + place.source.index(axis) for axis in (2, 1, 0)))
