"""How large packed bytes become, found out before a library that would make it all is let at them."""

import zlib

AT_ONCE = 64 << 20
"""What a chunk may always become: no more is looked at where it cannot become more."""

MOST_PER_BYTE = 1032
"""What one byte of zlib can stand for at most."""

PIECE = 1 << 20
_ZSTD_MAGIC, _ZSTD_SKIPPED = 0xFD2FB528, range(0x184D2A50, 0x184D2A60)
_ZSTD_BLOCK = 128 << 10
"""What a block of Zstandard holds at most (RFC 8878, 3.1.1.2.4)."""


def allowed(chunk_bytes: int) -> int:
    """What may come out of a chunk that holds `chunk_bytes`: filters add a few bytes, and no bomb is that small."""
    return max(AT_ONCE, 2 * chunk_bytes)


def fits(content: bytes, packing: str, most: int) -> bool:
    """Whether `content` becomes `most` bytes or fewer; True of what is damaged, which whoever unpacks it says.

    packing: "zlib", "gzip", "zstd", "blosc", "lz4". No more than 1 MiB is ever unpacked at a time.
    """
    if packing in ("zlib", "gzip"):
        return len(content) * MOST_PER_BYTE <= most or _inflated(content, most) <= most
    if packing == "zstd":
        return _zstd(content) <= most
    if packing == "blosc":  # c-blosc's header: version, version, flags, size of a type, then the size of all of it
        return int.from_bytes(content[4:8], "little") <= most
    if packing == "lz4":  # numcodecs writes the size before the block
        return int.from_bytes(content[:4], "little") <= most
    raise ValueError(packing)


def _inflated(content: bytes, most: int) -> int:
    """Bytes that come out, counted as far as one piece above `most`; all members of a gzip file."""
    count = 0
    try:
        while content and count <= most:
            stream, left = zlib.decompressobj(47), content  # zlib or gzip, by what it begins with
            while not stream.eof and count <= most:
                piece = stream.decompress(left, PIECE)
                count += len(piece)
                left = stream.unconsumed_tail
                if not piece and not left:
                    return count
            content = stream.unused_data.lstrip(b"\0")
    except zlib.error:
        pass
    return count


def _zstd(content: bytes) -> int:
    """The most that the frames can become: what they say, or else what their blocks can hold."""
    total = at = 0
    while at + 5 <= len(content):
        magic = int.from_bytes(content[at : at + 4], "little")
        if magic in _ZSTD_SKIPPED:
            at += 8 + int.from_bytes(content[at + 4 : at + 8], "little")
            continue
        if magic != _ZSTD_MAGIC:
            break
        flags = content[at + 4]
        single = bool(flags & 32)
        size_bytes = (1 if single else 0, 2, 4, 8)[flags >> 6]
        field = at + 5 + (not single) + (0, 1, 2, 4)[flags & 3]
        said = int.from_bytes(content[field : field + size_bytes], "little") + (256 if size_bytes == 2 else 0)
        at, blocks, last = field + size_bytes, 0, False
        while not last and at + 3 <= len(content):
            block = int.from_bytes(content[at : at + 3], "little")
            last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
            at, blocks = at + 3 + (1 if kind == 1 else length), blocks + 1
        at += 4 * bool(flags & 4)
        total += said if size_bytes else blocks * _ZSTD_BLOCK
    return total
