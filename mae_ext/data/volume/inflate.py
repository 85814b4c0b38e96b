"""Bytes out of a file in memory, gzip or plain, to the very end, where the checksum is."""

import zlib

import numpy as np
from numpy.typing import NDArray

from mae_ext.errors import BadSample

MOST_PER_BYTE = 1032
"""What one compressed byte can stand for at most (zlib technical details: 1032:1)."""

PIECE = 1 << 18
MOST_AT_ONCE = 1 << 20
MAX_TRAILING = 1 << 20
"""Bytes after the voxels, of padding, that are read for the checksum's sake; more than this is another file's data."""


class Source:
    """Reads `content` front to back. Raises BadSample: "truncated", "damaged" (the checksum among it)."""

    def __init__(self, address: str, content: bytes | memoryview, compressed: bool | None = None) -> None:
        self.address, self.content, self.at = address, memoryview(content), 0
        self.compressed = bytes(self.content[:2]) == b"\x1f\x8b" if compressed is None else compressed
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._waiting = b""

    def expect(self, count: int) -> None:
        """Refuse, before anything is allocated, a count that what is left cannot hold."""
        left = len(self.content) - self.at + len(self._waiting)
        most = (left + 64) * MOST_PER_BYTE if self.compressed else left
        if count > most:
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
            piece = self._piece(count - filled)
            if not piece:
                detail = f"ends after {filled} of {count} bytes"
                raise BadSample(self.address, "truncated", detail)
            out[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
        return out

    def finish(self) -> None:
        """Read what is left, so that the checksum at the end is compared, and let go of the content."""
        if self.compressed:
            self._to_the_end()
        self.content, self._waiting = memoryview(b""), b""

    def _to_the_end(self) -> None:
        trailing = 0
        while piece := self._piece(PIECE):
            trailing += len(piece)
            if trailing > MAX_TRAILING:
                raise BadSample(self.address, "damaged", f"more than {MAX_TRAILING} bytes follow the voxels")
        if not self._inflate.eof:
            raise BadSample(self.address, "truncated", "the compressed stream has no end")

    def _piece(self, most: int) -> bytes:
        """Some bytes, or none at the end of the stream."""
        try:
            while True:
                if self._inflate.eof:
                    self._waiting = self._inflate.unused_data or self._waiting
                    rest = self._waiting + bytes(self.content[self.at : self.at + 2])
                    if not rest.startswith(b"\x1f\x8b"):  # zero padding after the last member is usual on tapes
                        return b""
                    self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
                if not self._waiting:
                    self._waiting = bytes(self.content[self.at : self.at + PIECE])
                    self.at += len(self._waiting)
                fed = self._waiting
                piece = self._inflate.decompress(
                    fed, min(most, MOST_AT_ONCE)
                )  # with nothing to feed, what zlib holds back
                self._waiting = self._inflate.unconsumed_tail
                if self._inflate.eof:
                    self._waiting = self._inflate.unused_data
                if piece or not (fed or self._inflate.eof):
                    return piece
        except zlib.error as error:
            text = str(error)
            what = "the gzip checksum (CRC) does not match" if "incorrect" in text else "the gzip stream is broken"
            raise BadSample(self.address, "damaged", f"{what}: {text}") from error
