"""One strip or tile of a TIFF: its bytes -> pixels.

Bytes are inflated by zlib, or by the libtiff that Pillow brings; predictors and packed bits are undone here. Segments
that are pictures (JPEG, fax, YCbCr) are pictures to Pillow too. What neither knows is for tifffile, with imagecodecs.
"""

import struct
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from mae_ext.data.codestream import IN_TIFF, of_jpeg

Pixels = NDArray[Any]

NONE, JPEG = 1, 7
DEFLATE = (8, 32946, 50013)
OLD_ZSTD, ZSTD = 34926, 50000
BYTES = {5: "LZW", 32773: "PackBits", 34925: "LZMA", OLD_ZSTD: "ZSTD", ZSTD: "ZSTD"}
"""Compressions of bytes that libtiff undoes: whatever the bytes mean, to it they are grey."""

PREDICTED = (*DEFLATE, 5, 34925, OLD_ZSTD, ZSTD)
"""Where libtiff, and so everybody, heeds the tag Predictor."""

FAX = (2, 3, 4)
GREY, RGB, CMYK, YCBCR = 1, 2, 5, 6
HORIZONTAL, FLOATING = 2, 3
CARRIED = (262, 266, 292, 293, 332, 347, 529, 530, 531, 532, 338)
"""Tags without which a segment is another picture: colours, order of bits, fax and JPEG options, JPEG's tables."""

SPARE, PIECE = 64 << 20, 1 << 20
"""Bytes that a segment may have beyond its pixels, whatever its size; and that are inflated of them at a time."""

REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def is_picture(page: tifffile.TiffPage) -> bool:
    """Whether segments are decoded to grey or colours of 8 bits, and not to the numbers of the file."""
    known = page.compression in (NONE, JPEG, *DEFLATE, *BYTES, *FAX)
    packed = page.compression in (JPEG, *FAX) or page.photometric == YCBCR
    return known and packed and page.bitspersample in (1, 8)


def decode(page: tifffile.TiffPage, index: int, data: bytes, rows: int, columns: int) -> Pixels:
    """Segment number `index` of a page -> (rows, columns, samples).

    Numbers in the type of the page, bits of fewer than 8 or between in the next larger one; of pictures uint8. Raises
    ValueError, and what Pillow and zlib raise, for damage; ValueError "unsupported" for what nothing here can decode.
    """
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    if is_picture(page):
        return _picture(page, data, rows, columns, samples)
    if page.compression not in (NONE, *DEFLATE, *BYTES):
        return _by_tifffile(page, index, data, rows, columns)
    if page.fillorder == 2:
        data = data.translate(REVERSED)
    bits = page.bitspersample
    line = (columns * samples * bits + 7) // 8
    raw = _inflated(page, data, rows, line)
    predictor = page.predictor if page.compression in PREDICTED else 1
    if predictor == FLOATING:
        return _floating(raw.reshape(rows, line), columns, samples, bits // 8)
    if bits not in (8, 16, 32, 64):
        return _unpacked(raw.reshape(rows, line), columns, samples, bits)
    assert page.dtype is not None
    stored = page.dtype.newbyteorder(page.parent.byteorder)
    pixels = raw.view(stored).reshape(rows, columns, samples).astype(page.dtype)
    if predictor == HORIZONTAL:
        whole = pixels.view(f"u{page.dtype.itemsize}")
        return np.cumsum(whole, axis=1, dtype=whole.dtype).view(page.dtype)
    if predictor != 1:
        raise ValueError(f"unsupported predictor {predictor}")
    return pixels


def _inflated(page: tifffile.TiffPage, data: bytes, rows: int, line: int) -> NDArray[np.uint8]:
    """The bytes of a segment, exactly as many as it has to have."""
    size = rows * line
    if page.compression in DEFLATE:
        stream = zlib.decompressobj()
        raw = stream.decompress(data, max(1, size))
        # The last strip may be stored as long as the others, and much more than that is no strip; to the end for its
        # sum, and let go piece by piece: rows that are wide would be gigabytes.
        left = max(SPARE, line * min(page.rowsperstrip, page.imagelength))
        while not stream.eof and left > 0 and (piece := stream.decompress(stream.unconsumed_tail, min(left, PIECE))):
            left -= len(piece)
        if not stream.eof:
            raise ValueError("truncated: a compressed segment does not end where its pixels do")
    elif page.compression in BYTES:
        known = ZSTD if page.compression == OLD_ZSTD else page.compression
        grey = {256: line, 257: rows, 258: 8, 259: known, 262: GREY, 277: 1, 278: rows, 284: 1}
        with _as_file(grey, data) as image:
            raw = image.tobytes()
    else:
        raw = data
    if len(raw) < size:
        raise ValueError(f"truncated: a segment of {len(raw)} bytes where {size} are due")
    return np.frombuffer(raw, np.uint8, size)


def _picture(page: tifffile.TiffPage, data: bytes, rows: int, columns: int, samples: int) -> Pixels:
    """(rows, columns, 1, 3 or 4) uint8. CMYK is RGB; four are RGB and what the tags say of the fourth."""
    tags: dict[int, int | tuple[int, ...] | bytes] = {
        256: columns, 257: rows, 258: (page.bitspersample,) * samples, 259: page.compression, 277: samples, 278: rows,
        284: 1,
    }  # fmt: skip
    for code in CARRIED:
        value = page.tags.valueof(code)
        if value is not None:
            tags[code] = value
    if samples == 1:
        tags[262] = page.photometric if page.photometric in (0, GREY) else GREY
        tags.pop(338, None)
    said = of_jpeg(data) if page.compression == JPEG else None
    if said and not (said.rows >= rows and said.columns >= columns):  # libtiff would leave the rest as it happens to be
        raise ValueError(f"a JPEG of {said.columns}x{said.rows} where {columns}x{rows} are due")
    with _as_file(tags, data) as image:
        mode = {"CMYK": "RGB", "YCbCr": "RGB", "1": "L"}.get(image.mode, image.mode)
        if mode not in ("L", "RGB", "RGBA", "RGBX"):
            raise ValueError(f"unsupported segments of mode {mode}")
        pixels = np.asarray(image.convert(mode))
    return pixels.reshape(rows, columns, -1)


def _as_file(tags: Mapping[int, int | tuple[int, ...] | bytes], data: bytes) -> Image.Image:
    """A segment as a TIFF of its own, decoded."""
    count = len(tags) + 2
    entries: list[tuple[int, int, int, bytes | None]] = []
    after = bytearray()
    behind = 8 + 2 + 12 * count + 4
    for code, value in sorted({**tags, 273: 0, 279: len(data)}.items()):
        if isinstance(value, bytes):
            kind, number, packed = 7, len(value), value
        elif code in (529, 532):  # rationals: numerator and denominator by turns
            assert isinstance(value, tuple)
            kind, number, packed = 5, len(value) // 2, struct.pack(f"<{len(value)}I", *value)
        else:
            values = value if isinstance(value, tuple) else (value,)
            kind, number, packed = 4, len(values), struct.pack(f"<{len(values)}I", *values)
            if code not in (256, 257, 273, 278, 279, 292, 293):
                kind, packed = 3, struct.pack(f"<{len(values)}H", *values)
        if code == 273:
            entries.append((code, kind, number, None))
        elif len(packed) <= 4:
            entries.append((code, kind, number, packed.ljust(4, b"\0")))
        else:
            entries.append((code, kind, number, struct.pack("<I", behind + len(after))))
            after += packed + bytes(len(packed) % 2)
    place = struct.pack("<I", behind + len(after))
    table = b"".join(struct.pack("<HHI", c, k, n) + (place if v is None else v) for c, k, n, v in entries)
    head = b"II*\0" + struct.pack("<IH", 8, count) + table + bytes(4)
    # Not by Image.open: a segment has its own limit, and Pillow's is for whole images.
    image = TiffImagePlugin.TiffImageFile(BytesIO(head + bytes(after) + data))
    image.load()
    return image


def _floating(raw: NDArray[np.uint8], columns: int, samples: int, size: int) -> Pixels:
    """Adobe's TIFF technical note 3: the bytes of a row, highest of all its numbers first, as differences."""
    rows = len(raw)
    steps = raw.reshape(rows, -1, samples)
    total = np.cumsum(steps, axis=1, dtype=np.uint8).reshape(rows, size, columns * samples)
    joined = np.ascontiguousarray(total.transpose(0, 2, 1)).view(f">f{size}")
    return joined.reshape(rows, columns, samples).astype(f"f{size}")


def _unpacked(raw: NDArray[np.uint8], columns: int, samples: int, bits: int) -> Pixels:
    if bits > 32:
        raise ValueError(f"unsupported: {bits} bits a sample")
    kind = np.uint8 if bits < 8 else np.uint16 if bits < 16 else np.uint32
    digits = np.unpackbits(raw, axis=1, count=columns * samples * bits).reshape(len(raw), columns, samples, bits)
    numbers: Pixels = digits[..., 0].astype(kind)
    for i in range(1, bits):
        numbers = (numbers << 1) | digits[..., i]
    return numbers.astype(kind)


def _by_tifffile(page: tifffile.TiffPage, index: int, data: bytes, rows: int, columns: int) -> Pixels:
    tables = page.jpegtables
    _check_size(page, data, rows, columns)
    try:
        decoded = page.decode(data, index, jpegtables=tables, jpegheader=page.jpegheader)[0]
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(page.compression, "name", page.compression)
        raise ValueError(f"unsupported without imagecodecs: {name}; pip install 'mae-ext[tiff]'") from error
    if decoded is None:
        raise ValueError("truncated: a segment without data")
    return np.asarray(decoded)[0, :rows, :columns]


def _check_size(page: tifffile.TiffPage, data: bytes, rows: int, columns: int) -> None:
    """Raises ValueError where a segment says of itself that it is more than a segment of its page may be."""
    if page.compression not in IN_TIFF:
        return
    said = IN_TIFF[page.compression](data)
    name = getattr(page.compression, "name", page.compression)
    if said is None:
        if IN_TIFF[page.compression] is of_jpeg:  # it may be a JPEG's rest, whose frame is in the tables
            return
        raise ValueError(f"a segment that begins with {data[:4].hex()}: no picture in {name}, or one of several frames")
    # The last strip may be stored as long as the others.
    most = max(rows, min(page.rowsperstrip, page.imagelength)) * columns
    if said.rows * said.columns * said.samples > most * (page.samplesperpixel if page.planarconfig == 1 else 1):
        detail = f"{said.columns}x{said.rows} of {said.samples} samples where {columns}x{rows} are due"
        raise ValueError(f"a segment in {name} of {detail}")
