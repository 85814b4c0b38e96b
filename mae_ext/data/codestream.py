"""What a compressed picture says of its own size, read before whatever decodes it makes room for that.

Decoders believe the codestream and not the file around it: a few hundred bytes may declare gigabytes.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SOI = b"\xff\xd8"
"""Where a JPEG begins (ISO 10918-1, B.1.1.3)."""

FRAME_MARKERS = (*(m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), 0xF7)
"""The last is JPEG-LS's (ISO 14495-1, C.1.1)."""

SIZ = b"\xff\x4f\xff\x51"
JP2, JXL = (b"\x00\x00\x00\x0c" + name + b"\r\n\x87\n" for name in (b"jP  ", b"JXL "))
"""Signatures of files of boxes (ISO 15444-1, I.5.1; 18181-2, 9.1) in which a codestream is one of the boxes."""

LERC = b"Lerc2 "


@dataclass(frozen=True)
class Said:
    """What a codestream says of itself. samples: of a pixel. bits: of a sample."""

    rows: int
    columns: int
    samples: int
    bits: int


def of_jpeg(stream: bytes) -> Said | None:
    """None where no frame is found, as in whatever is no JPEG. Of JPEG-LS too."""
    at = 2
    while stream[:2] == SOI and at + 10 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker in FRAME_MARKERS:
            bits, rows, columns, samples = struct.unpack_from(">BHHB", stream, at + 4)
            return Said(rows, columns, samples, bits)
        at += 1 if marker == 0xFF else 2 + length
    return None


def of_jpeg_2000(stream: bytes) -> Said | None:
    """SIZ (ISO 15444-1, A.5.1), of a codestream as it is or in a file of boxes."""
    at = _boxed(stream, b"jp2c") if stream.startswith(JP2) else 0
    if stream[at : at + 4] != SIZ or at + 43 > len(stream):
        return None
    x, y, left, top = struct.unpack_from(">4I", stream, at + 8)
    samples, bits = struct.unpack_from(">HB", stream, at + 40)
    return Said(y - top, x - left, samples, (bits & 0x7F) + 1)


def of_jpeg_xl(stream: bytes) -> Said | None:
    """SizeHeader (ISO 18181-1, 9.2). samples is 1: it does not say how many at once, and 4 is usual at the most.

    None of an animation, too, which has as many pictures as it likes in no room at all.
    """
    at = 0
    if stream.startswith(JXL):  # in one box, or in parts, each of which begins with its number
        at = _boxed(stream, b"jxlc") or (_boxed(stream, b"jxlp") + 4)
    if stream[at : at + 2] != b"\xff\x0a":
        return None
    bits = _Bits(stream[at + 2 : at + 66])
    rows, columns = _sides(bits)
    if not bits.take(1) and bits.take(1):  # not all as usual, and extra fields
        bits.take(3)
        if bits.take(1):
            _sides(bits)  # intrinsic size
        if bits.take(1) or bits.take(1):  # preview; animation
            return None
    return Said(rows, columns, 1, 8)


def _sides(bits: "_Bits") -> tuple[int, int]:
    """(rows, columns) of a SizeHeader."""
    small = bits.take(1)

    def side() -> int:
        return (bits.take(5) + 1) * 8 if small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1

    rows, ratio = side(), bits.take(3)
    if not ratio:
        return rows, side()
    across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return rows, rows * across // down


class _Bits:
    """The lowest first."""

    def __init__(self, content: bytes) -> None:
        self.number = int.from_bytes(content, "little")

    def take(self, count: int) -> int:
        value = self.number & ((1 << count) - 1)
        self.number >>= count
        return value


def of_lerc(stream: bytes) -> Said | None:
    """Of all blobs, one behind the other, each of which is a band of its own (Esri's LERC 2, `Lerc2::ReadHeader`)."""
    at, said, bands = 0, None, 0
    while stream.startswith(LERC, at) and at + 46 <= len(stream):
        (version,) = struct.unpack_from("<i", stream, at + 6)
        numbers = struct.unpack_from("<6i", stream, at + (14 if version >= 3 else 10))
        rows, columns, *rest = numbers if version >= 4 else (*numbers[:2], 1, *numbers[2:5])
        depth, size = rest[0], rest[3]
        if min(rows, columns, depth) < 1 or size < 46 or (said and (said.rows, said.columns) != (rows, columns)):
            return None
        bands += depth
        said = Said(rows, columns, bands, 64)
        at += size
    return said


def of_png(stream: bytes) -> Said | None:
    """IHDR (PNG, 11.2.1)."""
    if stream[:8] != b"\x89PNG\r\n\x1a\n" or stream[12:16] != b"IHDR" or len(stream) < 26:
        return None
    columns, rows, bits, kind = struct.unpack_from(">IIBB", stream, 16)
    return Said(rows, columns, {0: 1, 3: 1, 4: 2, 2: 3}.get(kind, 4), bits)


def of_webp(stream: bytes) -> Said | None:
    """RFC 9649, 2.5 to 2.7. samples is 3: there may be one more."""
    kind = stream[12:16] if stream[:4] == b"RIFF" and stream[8:12] == b"WEBP" and len(stream) >= 30 else b""
    if kind == b"VP8 ":
        columns, rows = struct.unpack_from("<HH", stream, 26)
        return Said(rows & 0x3FFF, columns & 0x3FFF, 3, 8)
    if kind == b"VP8L":
        both = int.from_bytes(stream[21:25], "little")
        return Said((both >> 14 & 0x3FFF) + 1, (both & 0x3FFF) + 1, 3, 8)
    if kind == b"VP8X":
        columns, rows = (int.from_bytes(stream[at : at + 3], "little") + 1 for at in (24, 27))
        return Said(rows, columns, 3, 8)
    return None


def of_jpeg_xr(stream: bytes) -> Said | None:
    """IMAGE_WIDTH and IMAGE_HEIGHT of the container (ITU-T T.832, A.7). samples is 1: they are a table's to say."""
    if stream[:4] != b"II\xbc\x01" or len(stream) < 8:
        return None
    (at,) = struct.unpack_from("<I", stream, 4)
    sides: dict[int, int] = {}
    count = struct.unpack_from("<H", stream, at)[0] if at + 2 <= len(stream) else 0
    for place in range(at + 2, min(at + 2 + 12 * count, len(stream) - 11), 12):
        code, kind, _, value = struct.unpack_from("<HHII", stream, place)
        sides[code] = value & 0xFFFF if kind == 3 else value
    return Said(sides[0xBC81], sides[0xBC80], 1, 8) if {0xBC80, 0xBC81} <= sides.keys() else None


def _boxed(stream: bytes, wanted: bytes) -> int:
    """Where the content of the first box of a kind begins; the end of the stream without one."""
    at = 0
    while at + 16 <= len(stream):
        length, kind = struct.unpack_from(">I4s", stream, at)
        head = 16 if length == 1 else 8
        if kind == wanted:
            return at + head
        length = struct.unpack_from(">Q", stream, at + 8)[0] if length == 1 else length
        if length < head:
            break
        at += length
    return len(stream)


IN_TIFF: Mapping[int, Callable[[bytes], Said | None]] = {
    **dict.fromkeys((7, 33007, 34892), of_jpeg), **dict.fromkeys((33003, 33004, 33005, 34712), of_jpeg_2000),
    **dict.fromkeys((50002, 52546), of_jpeg_xl), 34887: of_lerc, 34933: of_png,
    **dict.fromkeys((34927, 50001), of_webp), **dict.fromkeys((22610, 34934), of_jpeg_xr),
}  # fmt: skip
"""By a TIFF's number for a compression: those whose segments are pictures with sizes of their own."""
