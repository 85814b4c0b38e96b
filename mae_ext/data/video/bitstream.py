"""What the bytes of a packet say without being decoded: can decoding begin here, and is its picture ever shown?

A container's mark of a key frame is not enough for the first: it is also on pictures from which a stream only recovers
by and by, and on all packets of an AVI whose index is missing. Imports nothing, as the decoding child does.
"""

from collections.abc import Iterator

H264_IDR, H264_SEI, H264_PICTURES = 5, 6, range(1, 6)
RECOVERY_POINT = 6
"""Of ITU-T H.264: types of units (table 7-1), and of a message (D.1.8)."""

HEVC_RANDOM_ACCESS = range(16, 22)
HEVC_PICTURES = range(32)
"""Of ITU-T H.265, table 7-1: BLA, IDR and CRA among the pictures."""

MARKED = {"png", "ffv1"}
"""Decoders of codecs whose packets need none before them, or complain if they do: a container's mark is enough."""

TWO_BITS_OF_ZERO = {"msmpeg4v2", "msmpeg4", "wmv1", "theora"}
"""Decoders of codecs whose packets begin so where they hold a whole picture (Theora: 7.1 of its specification)."""

MPEG_PICTURE = b"\0\0\1\0"
"""ISO/IEC 13818-2, 6.3.9."""

AV1_FRAMES = (3, 6)
"""Units of AV1 that begin with a frame's header (AV1 specification, 6.2.2)."""


def can_begin(codec: str, extradata: bytes, packet: memoryview) -> bool:
    """Is a packet that its container marks as a key frame one from which all that is shown later decodes?

    codec: FFmpeg's name of the decoder. extradata: the stream's, which says how units are told apart. Pictures that are
    decoded later and shown before it may still need what came before. Not those of H.264 at which a refresh in strips
    begins, nor anything of a codec that is not known here.
    """
    if codec == "h264":
        for unit in _units(packet, _length_bytes(extradata, 4)):
            kind = unit[0] & 31
            if kind in H264_PICTURES:
                return kind == H264_IDR
            if kind == H264_SEI and _recovers_at_once(bytes(unit[1:])):
                return True
        return False
    if codec == "hevc":
        kinds = (unit[0] >> 1 & 63 for unit in _units(packet, _length_bytes(extradata, 21)))
        return next((kind for kind in kinds if kind in HEVC_PICTURES), -1) in HEVC_RANDOM_ACCESS
    if codec == "mpeg4":
        _, start, picture = bytes(packet).partition(b"\0\0\1\xb6")
        return bool(start) and picture[:1] < b"\x40"  # ISO/IEC 14496-2, 6.3.5: two bits of zero are an I-VOP
    if codec in ("mpeg1video", "mpeg2video"):
        _, _, picture = bytes(packet).partition(MPEG_PICTURE)
        return len(picture) > 1 and picture[1] >> 3 & 7 == 1  # after ten bits of its place: an I-picture
    if codec in ("h263", "flv"):
        return _is_whole_h263(packet) if codec == "h263" else _is_whole_flv1(packet)
    if codec in TWO_BITS_OF_ZERO:
        return packet[0] < 0x40
    if codec == "wmv2":
        return packet[0] < 0x80
    if codec == "vp8":
        return packet[0] & 1 == 0  # RFC 6386, 9.1
    if codec == "vp9":
        return _vp9(packet[0]) & 0b110 == 0  # neither a picture shown again nor one that is predicted
    if codec in ("libdav1d", "libaom-av1", "av1"):
        return _is_whole_av1(packet)
    return codec in MARKED


def is_hidden(codec: str, packet: memoryview) -> bool:
    """Is a packet's picture decoded for others' sake and never shown? Known of VP8 and VP9."""
    if codec == "vp8":
        return not packet[0] & 0b10000  # RFC 6386, 9.1
    if codec == "vp9":
        has_more = packet[-1] & 0b11100000 == 0b11000000  # a superframe ends with its index, and shows its last
        return not has_more and _vp9(packet[0]) & 0b101 == 0
    return False


def _length_bytes(extradata: bytes, at: int) -> int:
    """Bytes of the length before each unit, as in MP4; 0 where units begin with a start code, as in a broadcast."""
    return (extradata[at] & 3) + 1 if len(extradata) > at and extradata[0] == 1 else 0


def _units(packet: memoryview, length_bytes: int) -> Iterator[memoryview]:
    if length_bytes:
        at = 0
        while at + length_bytes < len(packet):
            size = int.from_bytes(packet[at : at + length_bytes], "big")
            at += length_bytes
            if size == 0:
                continue
            yield packet[at : at + size]
            at += size
        return
    content = bytes(packet)
    at = content.find(b"\0\0\1")
    while 0 <= at < len(content) - 3:
        following = content.find(b"\0\0\1", at + 3)
        yield packet[at + 3 : following if following > 0 else len(content)]
        at = following


def _recovers_at_once(message: bytes) -> bool:
    """Does a unit of messages promise that all is right from this very picture on, counting as it is shown?"""
    message, at = message.replace(b"\0\0\3", b"\0\0"), 0
    while at + 2 < len(message):
        kind = size = 0
        while at < len(message) - 1 and message[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + message[at], at + 1
        while at < len(message) - 1 and message[at] == 255:
            size, at = size + 255, at + 1
        size, at = size + message[at], at + 1
        if kind == RECOVERY_POINT:
            return at < len(message) and message[at] >= 128  # 0 pictures, as an Exp-Golomb code, is a bit that is set
        at += size
    return False


def _vp9(first: int) -> int:
    """Shown again, predicted and shown: three bits, after the profile's, of which profile 3 has one more."""
    return first >> (0 if first & 0b110000 == 0b110000 else 1) & 0b111


def _bits(packet: memoryview, at: int, count: int) -> int:
    """Of the first 8 bytes."""
    return int.from_bytes(bytes(packet[:8]).ljust(8, b"\0"), "big") >> 64 - at - count & (1 << count) - 1


def _is_whole_h263(packet: memoryview) -> bool:
    """ITU-T H.263, 5.1: a picture's type, after its format or, where that is "extended", with all options said anew."""
    if _bits(packet, 35, 3) != 7:
        return _bits(packet, 38, 1) == 0
    return _bits(packet, 38, 3) == 1 and _bits(packet, 59, 3) == 0


def _is_whole_flv1(packet: memoryview) -> bool:
    """SWF file format specification, version 10, "Sorenson H.263 Bitstream Format"."""
    size_bits = {0: 16, 1: 32}.get(_bits(packet, 30, 3), 0)
    return _bits(packet, 33 + size_bits, 2) == 0


def _is_whole_av1(packet: memoryview) -> bool:
    """Is the first frame a key frame that is shown? AV1 specification, 5.3 and 5.9."""
    at = 0
    while at < len(packet):
        head, at = packet[at], at + 1 + (packet[at] >> 2 & 1)
        if not head & 2:  # a unit without its size is the last
            size = len(packet) - at
        else:
            size = shift = 0
            while at < len(packet):
                size, shift, at = size | (packet[at] & 127) << shift, shift + 7, at + 1
                if packet[at - 1] < 128:
                    break
        if head >> 3 & 15 in AV1_FRAMES:
            return at < len(packet) and packet[at] >> 4 == 1  # not shown again; a key frame; shown
        at += size
    return False
