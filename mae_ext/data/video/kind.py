"""What films are called, and what they begin with."""

from mae_ext.data.kind import Kind, Seen, begins_as

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mkv", ".webm", ".avi", ".divx", ".mpeg", ".mpg", ".mpe"),
    *(".vob", ".ts", ".m2ts", ".mts", ".m2t", ".wmv", ".asf", ".flv", ".ogv", ".gif"),
)
BEGINS = (
    *((4, b"ftyp"), (4, b"moov"), (4, b"wide"), (0, b"\x1a\x45\xdf\xa3"), (8, b"AVI LIST"), (0, b"FLV\1")),
    *((0, b"\0\0\1\xba"), (0, b"\0\0\1\xb3"), (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), (0, b"OggS")),
)
PACKETS = (188, 192)
"""Bytes from one packet of a transport stream to the next, without and with a time before each."""

MOST_BLOCKS = 4096
"""Of a GIF, looked at."""


def recognise(beginning: bytes, _: str) -> Seen:
    """See `Kind.recognise`. A GIF that moves is a film, one that does not is none."""
    if beginning[:6] in (b"GIF87a", b"GIF89a"):
        return (9 if moves(beginning) else 1), ""
    for length in PACKETS:
        marks = beginning[length - 188 : 5 * length : length]
        if len(marks) == 5 and set(marks) == {0x47}:
            return 5, ""
    return begins_as(BEGINS, beginning), ""


def rows(shape: tuple[int, ...], dtype: str) -> int:
    """(T, H, W, C), or (T, H, W) though that may well be a volume; see `Kind.rows`."""
    if dtype != "uint8":
        return 0
    return 3 if len(shape) == 4 and shape[3] in (1, 3) else int(len(shape) == 3)


def moves(gif: bytes) -> bool:
    """Whether a second picture begins within these bytes; of a longer file, or it is said to loop."""
    at, pictures, loops = 13 + _table(gif, 10), 0, False
    for _ in range(MOST_BLOCKS):
        mark = gif[at : at + 1]
        if mark == b"\x2c":
            pictures += 1
            at = _behind(gif, at + 11 + _table(gif, at + 9))
        elif mark == b"\x21":
            loops |= gif[at + 3 : at + 14] in (b"NETSCAPE2.0", b"ANIMEXTS1.0")
            at = _behind(gif, at + 2)
        else:
            return pictures > 1 or (loops and not mark)
        if pictures > 1:
            return True
    return False


def _table(gif: bytes, at: int) -> int:
    """Bytes of the table of colours that the flags at a place announce."""
    flags = gif[at] if at < len(gif) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind(gif: bytes, at: int) -> int:
    """Where the sub-blocks end that begin here."""
    while at < len(gif) and gif[at]:
        at += 1 + gif[at]
    return at + 1


KIND = Kind("film", "films", recognise=recognise, rows=rows, recipe="video_folder")
