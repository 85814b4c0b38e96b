"""Zarr, versions 2 and 3, and OME-Zarr: a folder is an array, or a picture at several levels with axes by name.

Metadata are read here, as plain JSON, and checked; the chunks are read by zarr.
"""

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np

from mae_ext.data.sources.archive import ARRAY
from mae_ext.data.sources.bounded import allowed, fits
from mae_ext.data.volume.formats.arrays import Taken, declared_array
from mae_ext.data.volume.scan import Array, Declared
from mae_ext.errors import BadSample, UserError

SUFFIXES = (".zarr",)
MAX_METADATA = 16 << 20
MAX_CHUNKS = 200_000
"""Of one array: zarr takes about 0.1 ms for each, whether it is there or not."""

FINEST = 1e-6
"""mm: pictures of electron microscopes have voxels of some nanometres."""

_MM = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "meter": 1e3,
    "nm": 1e-6,
    "um": 1e-3,
    "\N{MICRO SIGN}m": 1e-3,
    "mm": 1.0,
    "cm": 10.0,
    "m": 1e3,
}
_PACKINGS = {"zlib", "gzip", "zstd", "blosc", "lz4"}
_HARMLESS = {"bytes", "transpose", "crc32c", "crc32", "adler32", "delta", "shuffle", "fixedscaleoffset", "bitround"}
"""Codecs that make as many bytes as they are given, or nearly, and run nothing."""

_OLD_AXES = "tczyx"


@dataclass(frozen=True)
class _Stored:
    """An array as its metadata say. packing: of a chunk, or of each chunk inside a shard, whose shape is `inner`."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    packing: str
    inner: tuple[int, ...] | None = None
    index_first: bool = False


def declared(address: str, how: Taken) -> Declared:
    """address: `x.zarr`, `x.zarr::LEVEL or path of an array`, `x.zarr::LEVEL::TIME POINT`. Raises BadSample."""
    inside = ARRAY.fullmatch(address)
    folder, key = (inside["file"], inside["key"]) if inside else (address.rstrip("/"), how.dataset)
    moment = int(inside["row"]) if inside and inside["row"] else None
    try:
        path, level = _chosen(address, folder, key)
        array = _array(address, path)
        return _declared(address, array, level, moment, how)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError) as error:
        text = f"no field {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise BadSample(address, "header", f"its metadata cannot be understood: {text}") from error


def _json(address: str, *names: str) -> dict[str, Any] | None:
    """The first of these files that there is."""
    for name in names:
        try:
            status = os.stat(name)  # noqa: PTH116
            if not stat.S_ISREG(status.st_mode):
                raise BadSample(address, "not a regular file", name)
            if status.st_size > MAX_METADATA:
                detail = f"{name} has {status.st_size} bytes, the limit is {MAX_METADATA}"
                raise BadSample(address, "too large", detail)
            content = Path(name).read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadSample(address, "unreadable", str(error)) from error
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadSample(address, "truncated" if content else "empty", f"{name}: {error}") from error
        if not isinstance(values, dict):
            raise BadSample(address, "header", f"{name} is no JSON object")
        return values
    return None


def _chosen(address: str, folder: str, key: str | None) -> tuple[str, dict[str, Any] | None]:
    """The folder of an array, and what OME-Zarr says of it: {"axes", "scale", "shift", "labels": of channels}."""
    if not Path(folder).is_dir():
        raise BadSample(address, "no such file", f"there is no folder {folder}")
    parts = [] if key is None else key.strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise BadSample(address, "no such array", f"'{key}' is no path inside it")
    # A key may go through groups, and end at a level: labels/cells/0, labels/cells or 1.
    for depth in range(len(parts) + 1):
        group = os.path.join(folder, *parts[:depth])  # noqa: PTH118
        level = _level(address, group, "/".join(parts[depth:]) or None)
        if level is not None:
            return level
    path = os.path.join(folder, *parts)  # noqa: PTH118
    if _json(address, f"{path}/.zarray") or (_json(address, f"{path}/zarr.json") or {}).get("node_type") == "array":
        return path, None
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    except OSError:
        names = []
    if len(names) == 1:
        return os.path.join(path, names[0]), None  # noqa: PTH118
    known = f"it holds {', '.join(names[:20])}" if names else "it holds no array"
    raise BadSample(
        address, "no such array", f"no array of Zarr at '{key or folder}'; {known}; say which: reader.dataset"
    )


def _level(address: str, group: str, key: str | None) -> tuple[str, dict[str, Any]] | None:
    """Of a group with levels that of `key`, its path or its number; None where there is none of the kind."""
    attributes = _json(address, f"{group}/.zattrs") or (_json(address, f"{group}/zarr.json") or {}).get(
        "attributes", {}
    )
    of_ome = attributes.get("ome", attributes)
    several = of_ome.get("multiscales")
    if not several:
        return None
    first = several[0]
    levels = first["datasets"]
    paths = [str(level["path"]) for level in levels]
    wanted = "0" if key is None else key
    if wanted in paths:
        number = paths.index(wanted)
    elif key is None or (wanted.isdigit() and len(wanted) < 6):
        number = int(wanted)
    else:
        return None
    if number >= len(levels):
        raise BadSample(address, "no such array", f"level {number} of {len(levels)}: there are {', '.join(paths)}")
    if any(part in ("", ".", "..") for part in paths[number].split("/")):
        raise BadSample(address, "header", f"its level is at '{paths[number]}', which is no path inside it")
    axes = first.get("axes") or list(_OLD_AXES)
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    for each in (*levels[number].get("coordinateTransformations", ()), *first.get("coordinateTransformations", ())):
        if each["type"] == "scale":
            scale, shift = scale * _numbers(each["scale"], axes), shift * _numbers(each["scale"], axes)
        elif each["type"] == "translation":
            shift = shift + _numbers(each["translation"], axes)
    labels = [str(channel.get("label") or "") for channel in (of_ome.get("omero") or {}).get("channels") or ()]
    level = {"axes": axes, "scale": scale, "shift": shift, "labels": tuple(labels)}
    return os.path.join(group, *paths[number].split("/")), level  # noqa: PTH118


def _numbers(values: Any, axes: list[Any]) -> Any:
    numbers = np.array(values, dtype=np.float64)
    if numbers.shape != (len(axes),):
        raise ValueError(f"{values} for {len(axes)} axes")
    return numbers


def _array(address: str, path: str) -> _Stored:
    """Raises BadSample "no such array", "compression", "header"."""
    if old := _json(address, f"{path}/.zarray"):
        codecs = [*(old.get("filters") or ()), *([old["compressor"]] if old.get("compressor") else ())]
        packing = _packing(address, [str(codec["id"]) for codec in codecs])
        if not isinstance(old["dtype"], str):
            raise BadSample(address, "data type", f"{old['dtype']}; numbers were expected")
        dtype = np.dtype(old["dtype"])
        return _Stored(path, _lengths(old["shape"]), dtype, _lengths(old["chunks"]), packing)
    new = _json(address, f"{path}/zarr.json")
    if new is None or new.get("node_type") != "array":
        raise BadSample(address, "no such array", f"no array of Zarr at {path}")
    if not isinstance(new["data_type"], str):
        raise BadSample(address, "data type", f"{new['data_type']}; numbers were expected")
    grid, names = new["chunk_grid"], [str(codec["name"]) for codec in new["codecs"]]
    if grid["name"] != "regular":
        raise BadSample(address, "header", f"chunks of the kind '{grid['name']}'; regular ones are read")
    inner, first, codecs = None, False, names
    if "sharding_indexed" in names:
        shard = new["codecs"][names.index("sharding_indexed")]["configuration"]
        inner, first = _lengths(shard["chunk_shape"]), shard.get("index_location", "end") == "start"
        codecs = [str(codec["name"]) for codec in shard["codecs"]]
        plain = [str(codec["name"]) for codec in shard["index_codecs"]] == ["bytes", "crc32c"]
        if not plain or set(names) - {"sharding_indexed"}:
            raise BadSample(address, "compression", "its shards, or their indices, are packed themselves")
    shape, chunks = _lengths(new["shape"]), _lengths(grid["configuration"]["chunk_shape"])
    return _Stored(path, shape, np.dtype(new["data_type"]), chunks, _packing(address, codecs), inner, first)


def _lengths(values: Any) -> tuple[int, ...]:
    lengths = tuple(int(n) for n in values)
    if any(n < 0 or n != m for n, m in zip(lengths, values, strict=True)):
        raise ValueError(f"{values} are no lengths")
    return lengths


def _packing(address: str, codecs: list[str]) -> str:
    packings = [codec for codec in codecs if codec in _PACKINGS]
    if unknown := [codec for codec in codecs if codec not in _PACKINGS | _HARMLESS]:
        detail = f"packed by '{unknown[0]}'; {', '.join(sorted(_PACKINGS))} are read: write it again with one of them"
        raise BadSample(address, "compression", detail)
    if len(packings) > 1:
        raise BadSample(address, "compression", f"packed more than once: {', '.join(packings)}")
    return packings[0] if packings else ""


def _declared(address: str, array: _Stored, level: dict[str, Any] | None, moment: int | None, how: Taken) -> Declared:
    axes, shape = len(array.shape), array.shape
    if array.dtype.kind not in "biuf":
        raise BadSample(address, "data type", f"{array.dtype}; numbers were expected")
    if len(array.chunks) != axes or 0 in array.chunks:
        raise ValueError(f"chunks of {list(array.chunks)} for an array of {list(shape)}")
    names = [""] * axes if level is None else [str(axis["name"]).lower() for axis in level["axes"]]
    if len(names) != axes:
        raise ValueError(f"{len(names)} axes by name, and {axes} in the array")
    first = names.index("t") if "t" in names else 0
    taken: tuple[Any, ...] = (slice(None),) * axes
    if moment is not None:
        if axes < 4 or moment >= shape[first]:
            raise BadSample(address, "truncated", f"there is no time point {moment} in {list(shape)}")
        taken = (*taken[:first], moment, *taken[first + 1 :])
        shape, names = (*shape[:first], *shape[first + 1 :]), [*names[:first], *names[first + 1 :]]

    def load() -> Array:
        return _read(address, array, taken, how.max_bytes)

    if level is None:
        return declared_array(shape, array.dtype, load, how, "Zarr")
    if missing := [name for name in "zyx" if name not in names]:
        detail = f"no axis {missing[0]} among {', '.join(names)}; a volume has z, y and x"
        raise BadSample(address, "axes", detail)
    of = [str(axis["name"]).lower() for axis in level["axes"]]
    affine, spatial = np.eye(4), []
    for column, name in enumerate("xyz"):
        at = of.index(name)
        unit = level["axes"][at].get("unit") or "millimeter"
        if str(unit) not in _MM:
            raise BadSample(
                address, "geometry", f"the unit of axis {name} is '{unit}'; expected one of {', '.join(_MM)}"
            )
        affine[column, column] = level["scale"][at] * _MM[str(unit)]
        affine[column, 3] = level["shift"][at] * _MM[str(unit)]
        spatial.append(len(shape) - 1 - names.index(name))
    truth = array.dtype == np.bool_
    return Declared(
        "OME-Zarr", shape[::-1], np.dtype(np.uint8) if truth else array.dtype, affine,
        (lambda: load().astype(np.uint8)) if truth else load,
        spatial=(spatial[0], spatial[1], spatial[2]), slowest_first=True, code=2, finest=FINEST,
        channel=len(shape) - 1 - names.index("c") if "c" in names else None, names=level["labels"],
    )  # fmt: skip


def _read(address: str, array: _Stored, taken: tuple[Any, ...], max_bytes: int) -> Array:
    try:
        import zarr
    except ImportError:
        raise UserError("Zarr is read by zarr, which is not installed: pip install 'mae-ext[zarr]'") from None
    chunk = prod(array.chunks) * array.dtype.itemsize
    if chunk > max_bytes:
        raise BadSample(address, "too large", f"a chunk of {chunk} bytes, the limit is {max_bytes}")
    chunks = prod(
        ceil(n / m)
        for n, m, which in zip(array.shape, array.inner or array.chunks, taken, strict=True)
        if which == slice(None)
    )
    if chunks > MAX_CHUNKS:
        raise BadSample(address, "too large", f"{chunks} chunks, the limit is {MAX_CHUNKS}; write it in larger ones")
    _check_chunks(address, array)
    try:
        opened = zarr.open_array(zarr.storage.LocalStore(array.path, read_only=True), mode="r")
        values: Array = np.asarray(opened[taken])
    except MemoryError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise BadSample(address, "damaged", f"a chunk cannot be unpacked: {text}") from error
    return values


def _check_chunks(address: str, array: _Stored) -> None:
    """Nothing that a chunk unpacks to is larger than it should be, and no plain one is shorter."""
    whole = prod(array.chunks) * array.dtype.itemsize
    each = whole if array.inner is None else prod(array.inner) * array.dtype.itemsize
    for name, size in _chunk_files(address, array.path):
        if array.inner is None and not array.packing:
            if size < whole:
                raise BadSample(address, "truncated", f"chunk {name} has {size} bytes of {whole}")
            continue
        if array.inner is None and (array.packing not in ("zlib", "gzip") or size * 1032 > allowed(each)):
            with open(name, "rb") as file:  # noqa: PTH123
                content = file.read(16 if array.packing in ("blosc", "lz4") else -1)
            _check(address, name, content, array.packing, each)
        elif array.inner is not None:
            content = Path(name).read_bytes()
            for start, length in _index(address, name, content, array):
                _check(address, name, content[start : start + length], array.packing, each)


def _check(address: str, name: str, content: bytes, packing: str, each: int) -> None:
    if packing and not fits(content, packing, allowed(each)):
        raise BadSample(address, "damaged", f"chunk {name} unpacks to more than the {each} bytes that it can hold")


def _index(address: str, name: str, content: bytes, array: _Stored) -> Iterator[tuple[int, int]]:
    """(place, length) of the chunks in a shard, those that are there."""
    assert array.inner is not None
    count = prod(n // m for n, m in zip(array.chunks, array.inner, strict=True))
    length = 16 * count + 4
    if len(content) < length:
        raise BadSample(address, "truncated", f"shard {name} is shorter than its own index of {length} bytes")
    index = content[:length] if array.index_first else content[-length:]
    for start, size in np.frombuffer(index[:-4], "<u8").reshape(-1, 2).tolist():
        if start != 2**64 - 1 or size != 2**64 - 1:
            if start + size > len(content):
                raise BadSample(address, "truncated", f"shard {name} ends before one of its chunks does")
            yield start, size


def _chunk_files(address: str, path: str) -> Iterator[tuple[str, int]]:
    pending = [path]
    try:
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.name not in (".zarray", ".zattrs", ".zmetadata", "zarr.json"):
                        status = entry.stat()
                        if not stat.S_ISREG(status.st_mode):
                            raise BadSample(address, "not a regular file", f"chunk {entry.path}")
                        yield entry.path, status.st_size
    except OSError as error:
        raise BadSample(address, "unreadable", str(error)) from error
