"""The elements of a DICOM file up to its pixels, without a parser's objects: what a listing of many files has time for.

PS3.5, 7.1 and 7.5. A file is read in pieces of 16 KiB and more; what is not wanted is stepped over. Knows nothing of
what the elements mean.
"""

import os
import stat
import struct
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from math import prod

PIECE = 1 << 14
MOST_ELEMENTS = 200_000
"""Of a header: enhanced objects of thousands of frames are not read so far, and what has more is hostile."""

MOST_VALUE = 1 << 12
"""Bytes of a value; what is longer is text that nobody asked for, or a wrong length."""

MOST_INFLATED = 1 << 22
DEEPEST = 32

PREAMBLE, MAGIC = 128, b"DICM"
BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
PIXELS = 0x7FE00008
"""The first of the elements that hold pixels, of floats, doubles or whole numbers."""

_LONG = frozenset((b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN", b"SV", b"UV"))
_SHORT = frozenset(
    (b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US")
)  # fmt: skip
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED = _SIZES = (
    0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100,
)  # fmt: skip
_CLASS, _OPEN, _SYNTAX, _META = 0x00020002, 0xFFFFFFFF, 0x00020010, 0x0002FFFF


class NotDicom(Exception):
    """A file whose beginning is none of DICOM's."""


class BrokenOff(Exception):
    """A header that ends in the middle, or leads out of the file."""


class _Bytes:
    """A file's bytes, of which a piece is at hand."""

    def __init__(self, handle: int, size: int, piece: bytes = b"") -> None:
        self._handle, self.size = handle, size
        self.piece, self.begin = piece, 0

    def at(self, position: int, count: int) -> bytes:
        offset = position - self.begin
        if offset < 0 or offset + count > len(self.piece):
            if position + count > self.size:
                raise BrokenOff
            self.piece, self.begin, offset = os.pread(self._handle, max(count, PIECE), position), position, 0
            if count > len(self.piece):
                raise BrokenOff
        return self.piece[offset : offset + count]


def elements(path: str, wanted: Container[int], last: int) -> tuple[dict[int, bytes], str]:
    """The values of those wanted, by tag, as the file has them, and "<" or ">": which byte of a number comes first.

    last: no tag above it is wanted. Raises NotDicom, BrokenOff, OSError.
    """
    values: dict[int, bytes] = {}
    with _opened(path) as file:
        return values, _through(file, wanted, last, values)[1]


def pixels_of(path: str) -> bytes:
    """All that stands in a file from the pixels on. Raises as `elements`."""
    with _opened(path) as file:
        position = _through(file, (), PIXELS, {})[0]
        return file.at(position, file.size - position)


def class_of(content: bytes) -> str:
    """What group 2 says of the object behind it, of a file that begins so; "" where it says nothing."""
    values: dict[int, bytes] = {}
    with suppress(BrokenOff, struct.error):
        _Walk(_Bytes(-1, len(content), content), "<", explicit=True).through(132, {_CLASS}, _META, values)
    return values.get(_CLASS, b"").strip(b" \0").decode("latin-1")


def pixels_declared(content: bytes) -> int:
    """Bytes that the pixels of a data set (explicit, little-endian) are by its own numbers; 0 where it has none, or
    where it is broken off before it says so."""
    values: dict[int, bytes] = {}
    with suppress(BrokenOff, struct.error):
        _Walk(_Bytes(-1, len(content), content), "<", explicit=True).through(0, _SIZES, PIXELS, values)
    numbers = [int.from_bytes(values.get(tag, b"")[:2], "little") for tag in (_ROWS, _COLUMNS, _ALLOCATED)]
    frames = values.get(_FRAMES, b"").strip(b" \0")
    samples = int.from_bytes(values.get(_SAMPLES, b"\1")[:2], "little")
    return -(-prod(numbers) * samples * (int(frames) if frames.isdigit() else 1) // 8)


@contextmanager
def _opened(path: str) -> Iterator[_Bytes]:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise NotDicom
        yield _Bytes(handle, status.st_size)
    except (struct.error, zlib.error):
        raise BrokenOff from None
    finally:
        os.close(handle)


def _through(file: _Bytes, wanted: Container[int], last: int, values: dict[int, bytes]) -> tuple[int, str]:
    """-> where the walk ended, and the order of bytes. What is deflated is walked through inflated."""
    start = PREAMBLE + len(MAGIC) if file.size >= PREAMBLE + 4 and file.at(PREAMBLE, 4) == MAGIC else 0
    if not start and not plausible(file.at(0, min(file.size, 16))):
        raise NotDicom
    start = _Walk(file, "<", explicit=True).through(start, {_SYNTAX}, _META, values)
    syntax = values.pop(_SYNTAX, b"").strip(b" \0").decode("latin-1")
    if syntax == DEFLATED:
        packed = file.at(start, min(MOST_INFLATED, file.size - start))
        file.piece = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, MOST_INFLATED)
        file.size, file.begin, start = len(file.piece), 0, 0
    order = ">" if syntax == BIG else "<"
    vr = file.at(start + 4, 2) if start + 8 <= file.size else b""
    explicit = vr in _LONG or vr in _SHORT  # what is written counts, whatever was announced
    return _Walk(file, order, explicit).through(start, wanted, last, values), order


def plausible(content: bytes) -> bool:
    """Whether a file without a preamble begins as DICOM does: an early element of group 2 or 8, of a fitting length."""
    if len(content) < 12:
        return False
    group, element, vr = content[:2], int.from_bytes(content[2:4], "little"), content[4:6]
    if group not in (b"\x02\0", b"\x08\0") or element > 0x0070:
        return False
    if vr in _SHORT or vr in _LONG:
        return int.from_bytes(content[6:8], "little") <= 1024
    return int.from_bytes(content[4:8], "little") <= 1024


class _Walk:
    def __init__(self, file: _Bytes, order: str, explicit: bool) -> None:
        self.file, self.explicit = file, explicit
        self._tag, self._explicit = struct.Struct(f"{order}HH2sH"), struct.Struct(f"{order}HHI")
        self._length = struct.Struct(f"{order}I")
        self.steps, self._unknown = 0, False

    def through(self, position: int, wanted: Container[int], last: int, into: dict[int, bytes]) -> int:
        """-> where the first element above `last`, the pixels or the file's end begins. Tags have to rise."""
        before = -1
        file, size = self.file, self.file.size
        meta = last == _META
        while position < size:
            if meta and file.at(position, 2) != b"\x02\0":  # what follows may be written in another way
                return position
            tag, length, value = self._head(position)
            if tag > last or tag >= PIXELS:
                return position
            if tag <= before:
                raise BrokenOff
            before = tag
            if length == _OPEN:
                position = self._past_items(value, 0, self._inner(explicit=self.explicit))
                continue
            if value + length > size:
                raise BrokenOff
            if tag in wanted and length <= MOST_VALUE:
                into[tag] = file.at(value, length)
            position = value + length
        return position

    def _inner(self, explicit: bool) -> bool:
        """Whether what is in the sequence that was met last is explicit: not where it is of an unknown kind (6.2.2)."""
        return explicit and not self._unknown

    def _head(self, position: int, explicit: bool | None = None) -> tuple[int, int, int]:
        """(tag, length, where its value begins)."""
        self.steps += 1
        if self.steps > MOST_ELEMENTS:
            raise BrokenOff
        content = self.file.at(position, 8)
        if self.explicit if explicit is None else explicit:
            group, element, vr, length = self._tag.unpack(content)
            if group != 0xFFFE:
                self._unknown = vr == b"UN"
                if vr in _LONG:
                    return group << 16 | element, self._length.unpack(self.file.at(position + 8, 4))[0], position + 12
                if vr not in _SHORT:
                    raise BrokenOff
                return group << 16 | element, length, position + 8
        group, element, length = self._explicit.unpack(content)
        return group << 16 | element, length, position + 8

    def _past_items(self, position: int, depth: int, explicit: bool) -> int:
        """Behind a sequence of no stated length, whose first item begins here."""
        if depth > DEEPEST:
            raise BrokenOff
        while True:
            tag, length, value = self._head(position, explicit)
            if tag == _SEQUENCE_END:
                return value
            if tag != _ITEM:
                raise BrokenOff
            position = value + length if length != _OPEN else self._past_elements(value, depth, explicit)

    def _past_elements(self, position: int, depth: int, explicit: bool) -> int:
        while True:
            tag, length, value = self._head(position, explicit)
            if tag == _ITEM_END:
                return value
            inner = self._inner(explicit)
            position = self._past_items(value, depth + 1, inner) if length == _OPEN else value + length
