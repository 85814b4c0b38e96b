"""Pixels of one DICOM file, whatever its transfer syntax: no more is unpacked than its header declares.

What the core install decodes (raw, RLE, deflated; JPEG of 8 bits and JPEG 2000, by Pillow) is decoded so wherever it
runs, to the same bits. For the rest (JPEG-LS, lossless JPEG, JPEG of 12 bits, HTJ2K) there is imagecodecs: CharLS,
libjpeg-turbo and OpenJPEG, with wheels for three systems and no part under the GPL.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.codestream import Said, of_jpeg, of_jpeg_2000
from mae_ext.data.sources.dicom.elements import pixels_declared
from mae_ext.data.volume.scan import Array
from mae_ext.errors import BadSample, UserError

DEFLATED = b"1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
BASELINE, EXTENDED = (f"1.2.840.10008.1.2.4.{n}" for n in (50, 51))
LOSSLESS_JPEG = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70))
JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91))
HTJ2K = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
"""Transfer syntaxes: PS3.5, annex A, and PS3.6, table A-1."""

BY_IMAGECODECS = (*LOSSLESS_JPEG, *JPEG_LS, *HTJ2K)

EOI = b"\xff\xd9"
"""Where a JPEG ends (ISO 10918-1, B.1.1.3)."""

SPARE, PACKED = 64 << 20, 16
"""Bytes that a deflated file may have beside its pixels, and times what it has packed, whichever is more."""


def inflated(file: str, content: bytes, max_bytes: int) -> bytes:
    """A file of the deflated transfer syntax as one of the plain one, any other as it is. Raises BadSample.

    No more is inflated than its pixels are by what the header says of them, and what may be beside them.
    """
    end = _end_of_meta(content)
    if not end or DEFLATED not in content[132:end]:
        return content
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = stream.decompress(content[end:], min(SPARE, max_bytes))
        due = pixels_declared(plain)
        if due > max_bytes:
            raise BadSample(file, "too large", f"it declares {due} bytes of pixels, the limit is {max_bytes}")
        most = min(max_bytes, due + max(SPARE, PACKED * len(content)))
        if not stream.eof and most > len(plain):
            plain += stream.decompress(stream.unconsumed_tail, most - len(plain))
    except zlib.error as error:
        raise BadSample(file, "damaged", f"the deflated data set is broken: {error}") from error
    if not stream.eof:
        if len(plain) >= most:
            detail = f"it inflates to more than {most} bytes, and declares {due} bytes of pixels"
            raise BadSample(file, "too large", detail)
        raise BadSample(file, "truncated", f"the deflated data set has no end after {len(plain)} bytes")
    # Of the same length, padded with NUL as UIDs are: the group's length stays true.
    return content[:132] + content[132:end].replace(DEFLATED, DEFLATED[:-3] + bytes(3)) + plain


def _end_of_meta(content: bytes) -> int:
    """Where the data set begins: after the elements of group 2, always explicit and little-endian. 0: not known."""
    at = 132
    if content[128:132] != b"DICM":
        return 0
    while content[at : at + 2] == b"\x02\x00" and at + 12 <= len(content):
        long = content[at + 4 : at + 6] in (b"OB", b"OW", b"OF", b"SQ", b"UT", b"UN")
        (length,) = struct.unpack_from("<I" if long else "<H", content, at + (8 if long else 6))
        at += (12 if long else 8) + length
    return at if at <= len(content) else 0


def syntax(data: Any) -> str:
    return str(getattr(data, "file_meta", {}).get("TransferSyntaxUID") or "")


def check_readable(file: str, data: Any) -> None:
    """Raises BadSample "data type" for what nothing here decodes, UserError for what an extra would."""
    uid = syntax(data)
    known = (RLE, BASELINE, EXTENDED, *JPEG_2000, *BY_IMAGECODECS)
    kind = data.file_meta.TransferSyntaxUID if uid else None
    bits, stored, high = (data.get(name) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if bits and stored and not 1 <= int(stored) <= int(bits):
        raise BadSample(file, "data type", f"BitsStored {stored} of BitsAllocated {bits}")
    if stored and high not in (None, "") and int(high) != int(stored) - 1:
        detail = f"HighBit {high} with BitsStored {stored}: pixels that do not begin at their lowest bit"
        raise BadSample(file, "data type", f"{detail}; convert it with dcm2niix, or have it exported again")
    if uid in BY_IMAGECODECS or (uid == EXTENDED and int(stored or 8) > 8):
        _imagecodecs(kind.name)  # type: ignore[union-attr]
    elif kind is not None and kind.is_transfer_syntax and kind.is_encapsulated and uid not in known:
        raise BadSample(file, "data type", f"pixels as {kind.name} are not read; convert it with dcmdjpeg or gdcmconv")


def _imagecodecs(what: str) -> Any:
    try:
        import imagecodecs
    except ImportError:
        raise UserError(
            f"DICOM as {what} is decoded by imagecodecs, which is not installed: pip install 'mae-ext[dicom-codecs]'"
        ) from None
    return imagecodecs


def planes(file: str, data: Any, numbers: Sequence[int]) -> Iterator[Array]:
    """(rows, columns) of each frame that is asked for, as stored. Raises BadSample "truncated", "damaged"."""
    import pydicom

    uid = syntax(data)
    if not _is_encapsulated(data):
        if int(data.BitsAllocated) == 1 and int(data.Rows) * int(data.Columns) % 8:
            yield from _of_bits(file, data, numbers)
            return
        yield from pydicom.iter_pixels(data, indices=list(numbers))
        return
    streams = _streams(file, data)
    if numbers and max(numbers) >= len(streams):
        raise BadSample(file, "truncated", f"{len(streams)} compressed frames of {max(numbers) + 1}")
    by_pillow = uid in (BASELINE, *JPEG_2000) or (uid == EXTENDED and int(data.BitsStored) <= 8)
    if by_pillow:
        for n in numbers:
            _checked(file, n, streams[n], uid, data)
        try:
            yield from pydicom.iter_pixels(data, indices=list(numbers), decoding_plugin="pillow")
        except Exception as error:
            raise BadSample(file, "damaged", f"compressed pixels: {' '.join(str(error).split())[-120:]}") from error
        return
    for n in numbers:
        yield _own(file, n, streams[n], uid, data)


def _of_bits(file: str, data: Any, numbers: Sequence[int]) -> Iterator[Array]:
    """Frames of one bit a pixel that begin within a byte, as they do where one follows another (PS3.5, 8.1.1).

    pydicom 3.0 takes each from the next whole byte on.
    """
    rows, columns, content = int(data.Rows), int(data.Columns), np.frombuffer(data.PixelData, np.uint8)
    for n in numbers:
        first, end = n * rows * columns, (n + 1) * rows * columns
        if end > 8 * len(content):
            raise BadSample(
                file, "truncated", f"{len(content)} bytes of pixels, and frame {n + 1} ends at {-(-end // 8)}"
            )
        bits = np.unpackbits(content[first // 8 : -(-end // 8)], bitorder="little")
        yield bits[first % 8 :][: rows * columns].reshape(rows, columns)


def unpack(file: str, data: Any) -> None:
    """The one frame of a data set, raw from now on: for readers that know no compression."""
    from pydicom.uid import ExplicitVRLittleEndian

    if _is_encapsulated(data):
        (plane,) = planes(file, data, [0])
        data.PixelData = plane.tobytes()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _is_encapsulated(data: Any) -> bool:
    return bool(syntax(data)) and bool(data.file_meta.TransferSyntaxUID.is_encapsulated)


def _streams(file: str, data: Any) -> list[bytes]:
    """The compressed frames of a file: as many as it declares."""
    from pydicom.encaps import generate_frames

    offsets = None
    if data.get("ExtendedOffsetTable") and data.get("ExtendedOffsetTableLengths"):
        offsets = (data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths)
    count = int(data.get("NumberOfFrames") or 1)
    try:
        return list(generate_frames(data.PixelData, number_of_frames=count, extended_offsets=offsets))
    except Exception as error:
        text = " ".join(str(error).split())
        raise BadSample(file, "truncated", f"{count} frames are declared, and their fragments end: {text}") from error


def _own(file: str, number: int, stream: bytes, uid: str, data: Any) -> Array:
    """One frame that pydicom has no decoder for in the core install, or one that knows no bounds."""
    shape = int(data.Rows), int(data.Columns)
    allocated, stored = int(data.BitsAllocated), int(data.BitsStored)
    signed = bool(int(data.get("PixelRepresentation") or 0))
    plane: NDArray[Any]
    if uid == RLE:
        plane, bits = _run_lengths(file, number, stream, shape, allocated // 8), stored
    else:
        said = _checked(file, number, stream, uid, data)
        codecs = _imagecodecs(data.file_meta.TransferSyntaxUID.name)
        decode = {JPEG_LS: codecs.jpegls_decode, HTJ2K: codecs.jpeg2k_decode}
        by = next((decode[kind] for kind in decode if uid in kind), codecs.jpeg8_decode)
        try:
            plane, bits = np.asarray(by(stream)), min(stored, said.bits)
        except Exception as error:
            raise _damaged(file, number, f"{type(error).__name__}: {error}") from error
        if plane.shape != shape:
            raise _damaged(file, number, f"it holds {plane.shape} samples; {shape} are due")
    wanted = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    if plane.dtype.itemsize > wanted.itemsize:
        raise _damaged(file, number, f"samples of {8 * plane.dtype.itemsize} bits; {allocated} are allocated")
    # A codestream of few bits in many, and bits beyond those that are stored: the number is the lowest `bits`.
    plane = plane.astype(wanted)
    if spare := allocated - bits:
        plane = (plane << spare) >> spare
    return plane


def _run_lengths(
    file: str, number: int, stream: bytes, shape: tuple[int, int], samples: int
) -> NDArray[np.unsignedinteger]:
    """PS3.5, annex G: a segment for each byte of a pixel, the highest first."""
    if len(stream) < 64:
        raise BadSample(file, "truncated", f"frame {number + 1} has {len(stream)} bytes of RLE")
    segments, *offsets = struct.unpack_from("<16I", stream)
    if segments != samples or offsets[0] != 64:
        raise _damaged(file, number, f"{segments} segments of RLE; {samples} are due, one for each byte of a pixel")
    ends = [*offsets[1:segments], len(stream)]
    count = shape[0] * shape[1]
    out = np.empty((count, samples), np.uint8)
    for i, (begin, end) in enumerate(zip(offsets[:segments], ends, strict=True)):
        if not 64 <= begin <= end <= len(stream):
            raise _damaged(file, number, f"segment {i + 1} of RLE at {begin} to {end} of {len(stream)} bytes")
        raw = _unpacked(stream[begin:end], count)
        if len(raw) < count:
            raise BadSample(file, "truncated", f"frame {number + 1}: RLE of {len(raw)} of {count} pixels")
        out[:, samples - 1 - i] = np.frombuffer(raw, np.uint8, count)
    return out.view(f"<u{samples}").reshape(shape)


def _unpacked(packed: bytes, count: int) -> bytearray:
    """PackBits, to `count` bytes and at most 127 more, however much it would go on."""
    out, at, end = bytearray(), 0, len(packed)
    while len(out) < count and at < end:
        head = packed[at]
        if head < 128:
            out += packed[at + 1 : at + 2 + head]
            at += 2 + head
        elif head > 128:
            out += packed[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
    return out


def _checked(file: str, number: int, stream: bytes, uid: str, data: Any) -> Said:
    """What a codestream says, where that is what the file's header says: read before anything is unpacked."""
    said = of_jpeg_2000(stream) if uid in (*JPEG_2000, *HTJ2K) else of_jpeg(stream)
    if said is None:
        raise _damaged(file, number, f"begins with {stream[:4].hex()}: no codestream of its transfer syntax")
    rows, columns, allocated = int(data.Rows), int(data.Columns), int(data.BitsAllocated)
    if (said.rows, said.columns, said.samples) != (rows, columns, 1) or not 1 <= said.bits <= allocated:
        detail = f"{said.rows} x {said.columns} pixels of {said.samples} samples of {said.bits} bits"
        raise _damaged(file, number, f"{detail}; its header declares {rows} x {columns} of one in {allocated} bits")
    if uid not in JPEG_2000 and not stream.rstrip(b"\0\xff").endswith(EOI):
        raise BadSample(file, "truncated", f"frame {number + 1}: the compressed pixels have no end")
    return said


def _damaged(file: str, number: int, detail: str) -> BadSample:
    return BadSample(file, "damaged", f"compressed frame {number + 1}: {' '.join(detail.split())[:200]}")
