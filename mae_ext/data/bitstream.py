"""What the bytes of a packet say without being decoded: can decoding begin here, and is its picture ever shown?

A container's mark of a key frame is not enough for the first: it is also on pictures from which a stream only recovers
by and by. Imports nothing, as the decoding child does.
"""

from collections.abc import Iterator

H264_IDR, H264_SEI, H264_PICTURES = 5, 6, range(1, 6)
RECOVERY_POINT = 6
"""Of ITU-T H.264: types of units (table 7-1), and of a message (D.1.8)."""

HEVC_RANDOM_ACCESS = range(16, 22)
HEVC_PICTURES = range(32)
"""Of ITU-T H.265, table 7-1: BLA, IDR and CRA among the pictures."""

MARKED = {
    *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "h263", "flv"),
    *("vp8", "theora", "libdav1d", "libaom-av1", "av1", "mjpeg", "prores", "dnxhd", "ffv1", "huffyuv", "rawvideo"),
}
"""Decoders of codecs whose key frames need nothing before them wherever a container marks one."""


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
        _, found, picture = bytes(packet).partition(b"\0\0\1\xb6")
        return bool(found) and picture[:1] < b"\x40"  # ISO/IEC 14496-2, 6.3.5: two bits of zero are an I-VOP
    if codec == "vp9":
        return packet[0] & 0b1100 == 0  # neither a picture shown again nor one that is predicted
    return codec in MARKED


def is_hidden(codec: str, packet: memoryview) -> bool:
    """Is a packet's picture decoded for others' sake and never shown? Known of VP8 and VP9."""
    if codec == "vp8":
        return not packet[0] & 0b10000  # RFC 6386, 9.1
    if codec == "vp9":
        has_more = packet[-1] & 0b11100000 == 0b11000000  # a superframe ends with its index, and shows its last
        return not has_more and packet[0] & 0b1010 == 0
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
