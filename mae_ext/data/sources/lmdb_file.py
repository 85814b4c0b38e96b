"""Where the values of an LMDB lie in its file: a walk through its tree, and no lock, no library and no map.

A value is an offset and a size then, as a member of a tar shard is, so it is read by any number of processes and after
any fork, and a file that is damaged can crash nobody: every number in it is checked before it is followed. Written
after lmdb.h and mdb.c of LMDB 0.9 (format 1, 64 bits, little-endian); a file that is written to meanwhile is not read.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from mae_ext.data.sources.passed_over import NO_PICTURE, PassedOver
from mae_ext.errors import UserError

DATA = "data.mdb"
"""Where a database is a folder: its file."""

MAGIC, FORMAT = 0xBEEFC0DE, 1
BRANCH, LEAF = 1, 2
BIG, SUB, DUPLICATES = 1, 2, 4
HEADER = 16
NO_PAGE = 2**64 - 1
MOST_DEPTH = 32

SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"BM", b"qoif", b"\0\0\0\x0cjP")
"""What encoded pictures begin with; of WebP, AVIF and HEIC what follows is looked at."""


class _Damaged(Exception):
    pass


def file_of(path: Path) -> Path | None:
    """The file of the database at a path: itself, or what is in the folder; None where there is none."""
    if path.is_dir():
        return path / DATA if (path / DATA).is_file() else None
    return path if path.suffix in (".lmdb", ".mdb") else None


def list_lmdb(file: str, suffixes: tuple[str, ...], passed: PassedOver) -> Iterator[tuple[str, str | None]]:
    """(address, label or None) of each value that is a sample, in the order of keys.

    That is one whose key ends in one of `suffixes`; of a reader of pictures, also one whose key has no suffix and which
    begins as a picture does. What a key has before its first slash is the label. Raises UserError for what is no LMDB,
    or is damaged anywhere.
    """
    pictures = ".png" in suffixes
    single = tuple(s for s in suffixes if not s.endswith("/"))
    try:
        with open(file, "rb", buffering=0) as stream:  # noqa: PTH123
            for raw, offset, size in _Tree(stream.fileno()).values():
                key = "".join(
                    c if c.isprintable() else f"\\x{ord(c):02x}" for c in raw.decode("utf-8", "backslashreplace")
                )
                folder, slash, last = key.rpartition("/")
                if "." in last[1:] and not last.rpartition(".")[2].isdigit():
                    if not last.lower().endswith(single):
                        passed.other(key)
                        continue
                elif not pictures or not _is_picture(os.pread(stream.fileno(), min(size, 16), offset)):
                    passed.add(NO_PICTURE, key)
                    continue
                yield f"{file}::{offset}+{size}::{key}", folder.partition("/")[0] if slash else None
    except OSError as error:
        raise UserError(f"LMDB '{file}': cannot be read: {error.strerror}") from error
    except (_Damaged, struct.error, RecursionError) as error:
        raise UserError(f"LMDB '{file}': damaged: {error}; copy it again, while nobody writes to it") from error


def _is_picture(head: bytes) -> bool:
    return head.startswith(SIGNATURES) or head[8:12] == b"WEBP" or head[4:8] == b"ftyp"


class _Tree:
    def __init__(self, handle: int) -> None:
        self.handle, self.length = handle, os.fstat(handle).st_size
        first = self._meta(0, 4096)
        second = self._meta(first[0], first[0])
        self.page_bytes = first[0]
        newest = max(first, second, key=lambda meta: meta[2])
        _, self.last, _, self.root, self.entries = newest
        if (self.last + 1) * self.page_bytes > self.length:
            raise _Damaged(f"truncated: {self.length} bytes, and {(self.last + 1) * self.page_bytes} are due")
        self.seen: set[int] = set()

    def _meta(self, at: int, count: int) -> tuple[int, int, int, int, int]:
        """(bytes of a page, its last page, transaction, root, entries)."""
        page = os.pread(self.handle, count, at)
        if len(page) < 152:
            raise _Damaged(f"truncated: {self.length} bytes")
        magic, version = struct.unpack_from("<II", page, HEADER)
        if magic != MAGIC or version != FORMAT:
            raise _Damaged(f"begins with {page[HEADER : HEADER + 8].hex()}, which is no LMDB of format {FORMAT}")
        (size,) = struct.unpack_from("<I", page, 40)
        entries, root, last, transaction = struct.unpack_from("<4Q", page, 88 + 32)
        if not 256 <= size <= 1 << 16 or size & (size - 1):
            raise _Damaged(f"pages of {size} bytes")
        return size, last, transaction, root, entries

    def values(self) -> Iterator[tuple[bytes, int, int]]:
        """(key, offset, bytes) in order; of a database within the database, its name and a slash before each key."""
        yield from self._below(self.root, b"", 0)

    def _below(self, number: int, prefix: bytes, depth: int) -> Iterator[tuple[bytes, int, int]]:
        if number == NO_PAGE:
            return
        if number > self.last or number < 2 or number in self.seen or depth > MOST_DEPTH:
            raise _Damaged(f"page {number} does not belong where it stands")
        self.seen.add(number)
        base = number * self.page_bytes
        page = os.pread(self.handle, self.page_bytes, base)
        if len(page) != self.page_bytes:
            raise _Damaged(f"truncated: page {number} is not there")
        own, _, flags, lower, _ = struct.unpack_from("<QHHHH", page)
        kind, count = flags & 0xF, (lower - HEADER) // 2
        if own != number or kind not in (BRANCH, LEAF) or not 0 <= count <= self.page_bytes // 10:
            raise _Damaged(f"page {number} is no page of keys")
        for node in struct.unpack_from(f"<{count}H", page, HEADER):
            low, high, mark, key_bytes = struct.unpack_from("<4H", page, node)
            if kind == BRANCH:
                yield from self._below(low | high << 16 | mark << 32, prefix, depth + 1)
                continue
            start, size = node + 8 + key_bytes, low | high << 16
            key = page[node + 8 : start]
            if mark & SUB and not mark & DUPLICATES:
                (root,) = struct.unpack_from("<Q", page, start + 40)
                yield from self._below(root, prefix + key + b"/", depth + 1)
            elif mark & (SUB | DUPLICATES):
                raise _Damaged(f"key {key!r} has several values, of which none is the sample")
            elif mark & BIG:
                (far,) = struct.unpack_from("<Q", page, start)
                if not 2 <= far <= self.last or far * self.page_bytes + HEADER + size > self.length:
                    raise _Damaged(f"the value of {key!r} lies outside of the file")
                yield prefix + key, far * self.page_bytes + HEADER, size
            elif start + size > self.page_bytes:
                raise _Damaged(f"the value of {key!r} lies outside of its page")
            else:
                yield prefix + key, base + start, size
