"""A cell of a Parquet file: its bytes, by way of its row group, of which the last that are small stay in memory."""

import os
import re
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any

from mae_ext.errors import BadSample, UserError

CELL = re.compile(r"(?s)(?P<file>.*\.parquet)::(?P<column>[^:]+)::(?P<row>\d+)")
"""An address: the row counts from 0 through the whole file."""

GROUP_BYTES = 64 << 20
"""Of a row group that is kept; a larger one is read up to the row that is asked for, again each time."""

KEPT_BYTES = 256 << 20
"""Of all row groups that a process keeps."""

MOST_GROUP_BYTES = 8 << 30
"""Of a row group at most: what promises more is no set of images."""

_kept: OrderedDict[tuple[Any, ...], list[bytes | None]] = OrderedDict()


@lru_cache(maxsize=64)
def opened(process: int, file: str, version: tuple[int, int, int]) -> Any:  # noqa: ARG001 part of the key
    """A file's footer. Once in each process: what was open before a fork is not used after it."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"'{file}': Parquet is read by pyarrow: pip install 'mae-ext[parquet]'") from error
    return pq.ParquetFile(file, memory_map=False, pre_buffer=False)


def version_of(file: str) -> tuple[int, int, int]:
    """What tells a file that was written again. Raises OSError."""
    status = Path(file).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_cell(address: str, max_bytes: int) -> bytes:
    """The bytes of an image. Raises BadSample."""
    cell = CELL.fullmatch(address)
    assert cell is not None
    file, column, row = cell["file"], cell["column"], int(cell["row"])
    try:
        value = _value(address, file, column, row)
    except (BadSample, UserError):
        raise
    except FileNotFoundError as error:
        raise BadSample(address, "no such file", str(error)) from error
    except MemoryError as error:
        raise BadSample(address, "out of memory", str(error)) from error
    except Exception as error:  # what pyarrow raises over damage is of many kinds
        raise BadSample(address, "damaged", one_line(error)) from error
    if not value:
        raise BadSample(
            address, "empty", "the row has no bytes; where it names a file instead, make a list of the files"
        )
    if len(value) > max_bytes:
        raise BadSample(address, "too large", f"{len(value)} bytes, the limit is {max_bytes}")
    return value


def _value(address: str, file: str, column: str, row: int) -> bytes | None:
    version = version_of(file)
    parquet = opened(os.getpid(), file, version)
    first, group = 0, 0
    while group < parquet.num_row_groups and row >= first + parquet.metadata.row_group(group).num_rows:
        first += parquet.metadata.row_group(group).num_rows
        group += 1
    if group == parquet.num_row_groups:
        raise BadSample(address, "truncated", f"the file has {first} rows")
    if (known := _kept.get(key := (os.getpid(), file, version, column, group))) is not None:
        _kept.move_to_end(key)
        return known[row - first]
    described = parquet.metadata.row_group(group)
    chunks = [described.column(i) for i in range(described.num_columns)]
    (chunk,) = (c for c in chunks if c.path_in_schema in (column, f"{column}.bytes"))
    size = chunk.total_uncompressed_size
    if size > MOST_GROUP_BYTES:
        raise BadSample(address, "too large", f"a row group of {size} bytes; write it again with row_group_size=100")
    packed = any("DICTIONARY" in encoding for encoding in chunk.encodings)
    # A word of a dictionary may stand in every row: as it is packed it takes the memory that the file says.
    source = _with_dictionary(os.getpid(), file, version, chunk.path_in_schema) if packed else parquet
    rows_at_once = max(1, min(64, (4 << 20) * described.num_rows // max(1, size)))
    values: list[bytes | None] = []
    keep = size <= GROUP_BYTES and not packed
    batches = source.iter_batches(rows_at_once, row_groups=[group], columns=[chunk.path_in_schema], use_threads=False)
    begin = first
    for batch in batches:
        array = batch.column(0)
        if array.type.num_fields and chunk.path_in_schema != column:
            array = array.field("bytes")
        if keep:
            values += array.to_pylist()
        elif row < begin + len(array):
            return array[row - begin].as_py()  # type: ignore[no-any-return]
        begin += len(array)
    if row - first >= len(values):
        raise BadSample(address, "truncated", f"row group {group} has {begin - first} rows")
    _kept[key] = values
    while len(_kept) > 1 and sum(sum(len(v or b"") for v in group) for group in _kept.values()) > KEPT_BYTES:
        _kept.popitem(last=False)
    return values[row - first]


@lru_cache(maxsize=8)
def _with_dictionary(process: int, file: str, version: tuple[int, int, int], path: str) -> Any:  # noqa: ARG001
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, memory_map=False, pre_buffer=False, read_dictionary=[path])


def one_line(error: Exception) -> str:
    """What an exception says, for a message."""
    return " ".join(str(error).split())[:300]
