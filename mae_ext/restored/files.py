"""Rows of a whole sample brought to the voxels that its source is stored in, and written as the source's own kind."""

from collections.abc import Iterator
from contextlib import ExitStack
from math import prod
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mae_ext.data.image import deep_png
from mae_ext.data.loading.rows import onto
from mae_ext.data.sources.cache import on_disk
from mae_ext.data.video.written import Mp4
from mae_ext.data.volume.scan_windows import WholeScan
from mae_ext.restored.places import writing
from mae_ext.restored.source import Source
from mae_ext.writing import staged

HELD = 1 << 28
"""Bytes of one map in memory; a larger one is in a file without a name."""

IN_ONE = (1, 3, 4)
"""Numbers of channels that are one PNG: grey, colours, colours and alpha."""

Parts = Iterator[Tensor]
"""(r, *rest, k) of a sample at the scale of its model, in order."""

Map = NDArray[np.generic]


def collected(parts: Parts, shape: tuple[int, ...], kind: type[np.generic], scratch: Path | None) -> list[Map]:
    """-> k arrays of `shape`."""
    maps: list[Map] = []
    at = 0
    for part in parts:
        if not maps:
            large = prod(shape) * np.dtype(kind).itemsize > HELD
            maps = [on_disk(shape, kind, scratch) if large else np.empty(shape, kind) for _ in range(part.shape[-1])]
        for number, one in enumerate(maps):
            one[at : at + len(part)] = part[..., number].numpy()
        at += len(part)
    return maps


def as_stored(source: Source, parts: Parts) -> Parts:
    return onto(parts, source.places, source.shape)


def write_scans(source: Source, parts: Parts, paths: list[Path], scratch: Path | None = None) -> None:
    """k values of each voxel -> k NIfTI files in the scan's own geometry."""
    assert isinstance(source.wholes[0], WholeScan)
    for path, values in zip(
        paths, collected(as_stored(source, parts), source.stored, np.float32, scratch), strict=True
    ):
        with writing(path):
            source.wholes[0].write(values.astype(np.float32, copy=False), path)


def write_films(source: Source, parts: Parts, paths: list[Path]) -> str:
    """(r, h, w, k times 1 or 3) in 0..1 -> k .mp4 of the source's size, length and frame times. Returns how they are
    encoded."""
    assert source.times is not None
    height, width = source.stored[1:]
    with ExitStack() as stack:
        films = []
        for path in paths:
            stack.enter_context(writing(path))
            (partial,) = stack.enter_context(staged(path))
            films.append(stack.enter_context(Mp4(partial, (height, width), source.times)))
        for rows in as_stored(source, parts):
            for frame in _levels(rows, 255):
                for film, one in zip(films, np.split(frame, len(films), -1), strict=True):
                    film.write(np.broadcast_to(one, (height, width, 3)).astype(np.uint8))
    return films[0].codec


def write_pictures(source: Source, parts: Parts, paths: list[list[Path]]) -> str:
    """(r, w, C) in the reader's units, for each of paths -> PNG of the source's size, in 8 bits or 16 as the source
    has; of other numbers of channels than 1, 3 and 4 a file for each. Returns what their numbers mean.

    Floats in units of their own are laid between the least and the most of the input.
    """
    low, high = source.bounds
    full, kind = (255, np.uint8) if source.bits == 8 else (65535, np.uint16)
    levels = (torch.from_numpy(_levels((part - low) / (high - low), full)) for part in as_stored(source, parts))
    maps = collected(levels, source.stored, kind, None)
    files = [path for of in paths for path in of]
    each = len(maps) // len(files)
    for number, path in enumerate(files):
        pixels = np.stack(maps[number * each : (number + 1) * each], -1)
        with writing(path), staged(path) as [partial]:
            if full == 65535:
                deep_png.write(pixels, partial)  # type: ignore[arg-type]
            else:
                Image.fromarray(pixels[..., 0] if each == 1 else pixels).save(partial, format="PNG")
    if source.bits < 32:
        return f"0 to {full}, as the source has them"
    return f"0 to {full} for {low:g} to {high:g} of the source's own units"


def _levels(x: Tensor, full: int) -> NDArray[np.int32]:
    return (x.clamp(0, 1) * full).round().numpy().astype(np.int32)


def write_arrays(path: Path, arrays: dict[str, tuple[tuple[int, ...], type[np.generic], Iterator[Map]]]) -> None:
    """By name (shape, type, parts along the first axis) -> .npz, a part at a time; always the same bytes."""
    with writing(path), staged(path) as [partial], ZipFile(partial, "w") as archive:
        for name, (shape, kind, parts) in arrays.items():
            info = ZipInfo(f"{name}.npy")
            info.compress_type = ZIP_DEFLATED
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for part in parts:
                    file.write(np.ascontiguousarray(part.astype(kind, copy=False)).tobytes())
