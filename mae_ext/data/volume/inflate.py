"""Bytes out of a file in memory, gzip, zlib or plain, to the very end, where the checksum is."""

import gzip
import zlib
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mae_ext.errors import BadSample

MAGIC = b"\x1f\x8b"
MOST_PER_BYTE = 1032
"""What one compressed byte can stand for at most (zlib technical details: 1032:1)."""

PIECE = 1 << 18
MAX_TRAILING = 1 << 20
"""Bytes after the voxels, of padding, that are read for the checksum's sake; more than this is another file's data."""


Packing = bool | Literal["zlib"]
"""Whether bytes are packed, by gzip unless zlib alone is named."""


class _Zlib:
    """A zlib stream without gzip around it, read as `gzip.GzipFile` is. The checksum is compared at its end."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at, self._stream = content, 0, zlib.decompressobj()

    def read1(self, most: int) -> bytes:
        """Some bytes, none at the end. Raises zlib.error, and EOFError where the stream has no end."""
        while not self._stream.eof:
            left = self._stream.unconsumed_tail
            if not left:
                left = bytes(self._content[self._at : self._at + PIECE])
                self._at += len(left)
            if piece := self._stream.decompress(left, most):
                return piece
            if not left:
                raise EOFError
        return b""


class Source:
    """Reads `content` front to back. Raises BadSample: "truncated", "damaged" (the checksum among it)."""

    def __init__(self, address: str, content: bytes | memoryview, compressed: Packing | None = None) -> None:
        self.address, self.content, self.at = address, memoryview(content), 0
        self.compressed = bytes(self.content[:2]) == MAGIC if compressed is None else bool(compressed)
        self._unpacked: gzip.GzipFile | _Zlib | None = None
        if self.compressed:
            self._unpacked = _Zlib(self.content) if compressed == "zlib" else gzip.GzipFile(fileobj=BytesIO(content))

    def expect(self, count: int) -> None:
        """Refuse, before anything is allocated, a count that the content cannot hold."""
        left = len(self.content) - self.at
        if count > ((left + 64) * MOST_PER_BYTE if self.compressed else left):
            packed = "compressed bytes" if self.compressed else "bytes"
            detail = f"its header declares {count} bytes of voxels, {left} {packed} are left"
            raise BadSample(self.address, "truncated", detail)

    def read(self, count: int) -> NDArray[np.uint8]:
        """Exactly `count` bytes. Plain content is not copied."""
        self.expect(count)
        if not self.compressed:
            self.at += count
            return np.frombuffer(self.content[self.at - count : self.at], np.uint8)
        out, filled = np.empty(count, np.uint8), 0
        while filled < count:
            cut = f"ends after {filled} of {count} bytes"
            piece = self._piece(count - filled, cut)
            if not piece:
                raise BadSample(self.address, "truncated", cut)
            out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
        return out

    def finish(self) -> None:
        """Read what is left, so that the checksum at the end is compared, and let go of the content."""
        trailing = 0
        while piece := self._piece(PIECE, "the compressed stream has no end"):
            trailing += len(piece)
            if trailing > MAX_TRAILING:
                raise BadSample(self.address, "damaged", f"more than {MAX_TRAILING} bytes follow the voxels")
        self.content, self._unpacked = memoryview(b""), None

    def _piece(self, most: int, cut: str) -> bytes:
        """Some bytes, or none at the end of the stream. cut: what to say where the file ends before that."""
        if self._unpacked is None:
            return b""
        try:
            return self._unpacked.read1(min(most, PIECE))
        except EOFError as error:
            raise BadSample(self.address, "truncated", cut) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            if str(error).startswith("Not a gzipped file") and self.content[:2] == MAGIC:
                return b""  # what follows the last member is none: padding, as is usual on tapes
            wrong = any(text in str(error) for text in ("CRC check failed", "Incorrect length", "incorrect data check"))
            kind = "zlib" if isinstance(self._unpacked, _Zlib) else "gzip"
            what = f"the {kind} checksum (CRC) does not match" if wrong else f"the {kind} stream is broken"
            raise BadSample(self.address, "damaged", f"{what}: {error}") from error
