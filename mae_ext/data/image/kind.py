"""What image files begin with, and which of them hold more than one picture."""

import struct

from mae_ext.data.image.tiff import MAGIC, Tiff
from mae_ext.data.kind import Kind, Seen, begins_as
from mae_ext.data.sources.address import locate

_ISO = ("avif", "avis", "heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1")
"""Brands of pictures in the container that films have, too (MP4)."""

BEGINS = (
    *((0, b"\xff\xd8\xff"), (0, b"\x89PNG\r\n\x1a\n"), (0, b"GIF87a"), (0, b"GIF89a"), *((0, m) for m in MAGIC)),
    *((8, b"WEBPVP8"), (0, b"\0\0\0\x0cjP  "), (0, b"\xff\x4f\xff\x51"), (0, b"qoif"), (0, b"\x59\xa6\x6a\x95")),
    *((0, b"DDS "), (0, b"\x01\xda\0\1"), (0, b"\x01\xda\1\1")),
    *((0, bytes([80, digit, space])) for digit in b"123456" for space in b" \n\r\t"),
    *((4, f"ftyp{brand}".encode()) for brand in _ISO),
)
ANIMATED = "animated: the first picture of each is read"
PAGES = (
    "TIFF of several pages: the pages of one are read as its channels, where `channels` is their number; a stack of "
    "slices is read as a scan from NIfTI (nibabel: Nifti1Image(tifffile.imread(f).T, affine))"
)


def recognise(beginning: bytes, address: str) -> Seen:
    """See `Kind.recognise`."""
    certain = begins_as(BEGINS, beginning)
    if not certain and beginning[:2] == b"BM" and _bmp(beginning):
        return 4, ""
    if beginning[8:16] == b"WEBPVP8X" and len(beginning) > 20 and beginning[20] & 2:
        return certain, ANIMATED
    if beginning.startswith(b"\x89PNG") and b"acTL" in beginning[:4096].partition(b"IDAT")[0]:
        return certain, ANIMATED
    if beginning[:4] in MAGIC and _pages(address) > 1:
        return certain, PAGES
    return certain, ""


def rows(shape: tuple[int, ...], _: str) -> int:
    """(H, W) or (H, W, C) of grey, colours or a few bands; see `Kind.rows`."""
    if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)):
        return 3
    return 2 if len(shape) == 3 and 2 * shape[2] <= min(shape[:2]) and shape[2] <= 32 else 0


def _bmp(beginning: bytes) -> bool:
    """Two letters are few: whether the sizes that follow can be meant."""
    return len(beginning) > 18 and struct.unpack_from("<I", beginning, 14)[0] in (12, 40, 52, 56, 64, 108, 124)


def _pages(address: str) -> int:
    try:
        tiff = Tiff(address, None, locate(address))
    except Exception:  # noqa: BLE001 whatever a parser raises: what is wrong with a file is said where it is read
        return 0
    pages = tiff.layout.pages
    tiff.close()
    return pages


_FRAMES = "to learn from motion, make films of them (ffmpeg -i frame_%04d.jpg film.mp4)"
KIND = Kind(
    "image",
    "images",
    recognise=recognise,
    rows=rows,
    names={
        r"(?i)(?:.*[ _.-])?(?:frame|frm)s?[ _.-]?\d+": "are called as frames of films, each an image by itself: "
        + _FRAMES,
        r"(?i)(?:.*[ _.-])?slices?[ _.-]?\d+": "are called as slices of scans, each an image by itself",
    },
    recipe="image_folder",
    tuning="finetune_folder",
)
