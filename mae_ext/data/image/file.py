"""Picture files that Pillow opens: which, told by their first bytes, and how far. TIFF has a module of its own."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from mae_ext.data.image import tiff
from mae_ext.data.image.tiff_segment import Pixels
from mae_ext.data.sample import verdicts
from mae_ext.errors import BadSample

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "QOI", "SGI", "SUN", "DDS")
"""Decoders that a file may choose by its first bytes. Pillow has thirty more, some of which start other programs."""

BY_NAME = {".tga": "TGA", ".icb": "TGA", ".vda": "TGA", ".vst": "TGA", ".pcx": "PCX", ".dib": "DIB"}
"""Formats that begin with nothing of their own: the suffix has to say so."""

HEIC = (".heic", ".heif", ".hif")
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp"),
    *tiff.SUFFIXES,
    *(".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".avif", ".avifs", *HEIC, ".qoi", ".sgi", ".ras", ".dds", *BY_NAME),
)

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", *tiff.MAGIC, b"BM", b"\0\0\0\x0cjP", b"qoif", b"\x59\xa6\x6a\x95")

Image.init()  # what it can open, of which it does not know all by itself

# Everything that Pillow's decoders were seen to raise over damaged files; tifffile's are ValueErrors.
_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, MemoryError),
    *(RuntimeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
    Image.DecompressionBombWarning,
)


def opened(address: str, content: bytes) -> Image.Image:
    """A file's header, nothing decoded. Raises BadSample, and what Pillow raises."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC:
        return _heic(address, content)
    named = next((form for suffix, form in BY_NAME.items() if address.lower().endswith(suffix)), None)
    # Not Image.open: above 178 megapixels it refuses by itself, and its limit is one for the whole program.
    for form in (*FORMATS, *((named,) if named else ())):
        factory, accept = Image.OPEN[form]
        accepted = not accept or accept(content[:16])
        if isinstance(accepted, str):
            detail = f"{form}: {accepted}; install Pillow's own wheel: pip install -U pillow"
            raise BadSample(address, "unsupported", detail)
        if accepted:
            try:
                return factory(BytesIO(content), "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                if content.startswith(_MAGIC) or content[8:12] in (b"WEBP", b"avif"):
                    detail = "begins as an image, its header cannot be read"
                    raise BadSample(address, "damaged", detail) from error
    if content.startswith(_MAGIC) or content[8:12] in (b"WEBP", b"avif"):
        raise BadSample(address, "damaged", "begins as an image, its header cannot be read")
    detail = f"begins with {content[:12]!r}; expected {', '.join(FORMATS)} or HEIC"
    raise BadSample(address, "not an image", detail)


def _heic(address: str, content: bytes) -> Image.Image:
    if find_spec("pi_heif") is None:
        raise BadSample(address, "unsupported", "HEIC without its library: pip install 'mae-ext[heif]'")
    import pi_heif

    image: Image.Image = pi_heif.HeifImageFile(BytesIO(content), "")
    return image


Tiles = list[ImageFile._Tile]


def tiles_of(image: Image.Image) -> Tiles:
    """How Pillow is going to decode; empty once it has."""
    return list(image.tile) if isinstance(image, ImageFile.ImageFile) else []


def deep(image: Image.Image, content: bytes, tiles: Tiles) -> tuple[Pixels, str, int] | None:
    """(H, W, 2..4) uint16, form and largest number, of PNG and PPM that have colours or alpha of 16 bits; else None.

    Pillow reads such files with 8 bits a channel.
    """
    if len(tiles) != 1 or "transparency" in image.info:
        return None
    tile = tiles[0]
    if tile.codec_name == "ppm" and image.mode == "RGB" and isinstance(tile.args, tuple) and tile.args[1] > 255:
        count = image.width * image.height * 3
        if tile.offset + 2 * count > len(content):
            raise ValueError(f"truncated: {len(content)} bytes, and {2 * count} of pixels are due")
        numbers: Pixels = np.frombuffer(content, ">u2", count, tile.offset).astype(np.uint16)
        return numbers.reshape(image.height, image.width, 3), "rgb", int(tile.args[1])
    form = {"RGB;16B": "rgb", "RGBA;16B": "rgba", "LA;16B": "grey+alpha"}.get(str(tile.args))
    if image.format != "PNG" or form is None:
        return None

    def with_bytes_as(raw: str) -> Pixels:
        again = PngImagePlugin.PngImageFile(BytesIO(content))
        again.tile = [tile._replace(args=raw)]
        return np.asarray(again).astype(np.uint16)

    if form == "grey+alpha":  # two numbers of two bytes are four bytes
        four = with_bytes_as("RGBA")
        return four[..., ::2] * 256 + four[..., 1::2], form, 65535
    # Taken as little-endian numbers, what counts is the byte that is low in the file.
    colours = str(tile.args)[:-1]
    return with_bytes_as(f"{colours}B") * 256 + with_bytes_as(f"{colours}L"), form, 65535


@contextmanager
def parsing(address: str) -> Iterator[None]:
    """The one place where what Pillow and tifffile raise becomes a verdict on the file."""
    with verdicts(address):  # whatever was not seen so far
        try:
            yield
        except _ERRORS as error:
            raise BadSample(address, _kind(error), f"{type(error).__name__}: {error}") from error


def _kind(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too large"
    if isinstance(error, EOFError) or "truncated" in str(error).lower():
        return "truncated"
    if isinstance(error, NotImplementedError) or "conversion from" in str(error) or "nsupported" in str(error):
        return "unsupported"
    return "damaged"
