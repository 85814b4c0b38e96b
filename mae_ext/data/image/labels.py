"""Label maps of images: one channel whose numbers are classes, or instances."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mae_ext.data.labelmap import Labels
from mae_ext.errors import BadSample

NUMBERS = ("1", "L", "P", "I", "F")
"""Modes of Pillow whose pixels are numbers, and not colours; palettes' numbers are read, not their colours."""

GREYS = {"RGB": 3, "RGBA": 3, "LA": 1}
"""Modes that hold numbers where their colours agree, and how many colours they have; the rest says how opaque."""

HALF = 128
"""What a lossy file's pixel is compared with, where it was drawn as 0 and 255. JPEG at a quality of 50 or more gives
such maps back exactly, at 10 to a Dice of 0.96 for dots of 3 pixels and 0.998 for larger things (measured)."""

EDGE = 48
"""Further than this from 0 and 255, flat pixels of a lossy file are a third number; JPEG of quality 10 makes none."""

STEEP = 16
"""Between neighbours on an edge that JPEG has blurred."""

THIRD = 0.01
"""Of the labelled pixels, and twice as many of all: more that are flat are a third number, and no chance."""

RINGING = 8
"""Nearer to 0 and 255 than this are what JPEG of high quality leaves of flat areas."""

GREYS_OF_EDGES = 8
"""Different numbers further from both that a lossless map of two has at least, where its edges were softened: by a
resize, a drawing program, or a JPEG that it once was. With fewer they are classes; with none, several are RINGING on
both sides."""

WITHOUT_LOSS = "save label maps as PNG, from where they were drawn (JPEG can hold two numbers, 0 and 255)"


def numbers(address: str, content: object, formats: tuple[str, ...], max_pixels: int) -> Labels:
    """The bytes of a file, or an array (H, W) -> (H, W), upright.

    Floats are read where they are whole, colours where they agree, and JPEG where it holds two numbers, 0 and 255,
    which are told apart in the middle; so are those of a lossless file with grey edges between them. Raises BadSample,
    and what Pillow raises.
    """
    lossy = None
    if isinstance(content, np.ndarray):
        pixels = content
    else:
        assert isinstance(content, bytes)
        with Image.open(BytesIO(content), formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise BadSample(address, "too large", f"{image.width} x {image.height} pixels")
            lossy = loss(image, content)
            pixels = _one_channel(address, ImageOps.exif_transpose(image), lossy is not None)
            if lossy is None and image.mode != "P" and _is_softened(pixels):
                pixels = np.where(pixels.astype(np.int32) >= HALF, 255, 0)
    if pixels.ndim != 2 or pixels.dtype.kind not in "uibf":
        detail = f"an array of {pixels.dtype} and shape {list(pixels.shape)}; expected whole numbers (H, W)"
        raise BadSample(address, "label map", detail)
    if pixels.dtype.kind == "f" and pixels.size and not bool((pixels == np.rint(pixels)).all()):  # also where it is NaN
        odd = pixels[~(pixels == np.rint(pixels))]
        raise BadSample(address, "label map", f"{odd.size} pixels such as {odd[0]:g}; expected whole numbers (H, W)")
    if pixels.size and int(pixels.min()) < 0:
        raise BadSample(address, "label map", f"numbers below 0, down to {int(pixels.min())}")
    if pixels.size and int(pixels.max()) > np.iinfo(np.int32).max:
        raise BadSample(address, "label map", f"numbers up to {int(pixels.max())}; expected classes or instances")
    if lossy is not None:
        pixels = _two_numbers(address, pixels, lossy)
    return np.ascontiguousarray(pixels.astype(np.int32))


def loss(image: Image.Image, content: bytes) -> str | None:
    """The format of a file whose numbers may be others than were drawn: JPEG (in TIFF too), AVIF, HEIC, most WebP and
    JPEG 2000; else None."""
    match image.format:
        case "WEBP":
            lossless = content[12:16] == b"VP8L" or b"VP8 " not in content[:4096]
        case "JPEG2000":
            at = content.find(b"\xff\x52")  # the marker COD; 13 bytes on is the wavelet, 1 the reversible one (T.800)
            lossless = at >= 0 and content[at + 13 : at + 14] == b"\x01"
        case "TIFF":
            lossless = "jpeg" not in str(image.info.get("compression", ""))
        case form:
            lossless = form not in ("JPEG", "MPO", "AVIF", "HEIF")
    return None if lossless else image.format


def _one_channel(address: str, image: Image.Image, lossy: bool) -> NDArray[np.generic]:
    mode = image.mode.partition(";")[0]
    pixels = np.asarray(image)
    if mode in NUMBERS:
        return pixels
    colours = GREYS.get(mode, 0)
    its_mode = f"its mode is {image.mode}"
    if not colours:
        raise BadSample(address, "label map", f"{its_mode}; expected one channel of numbers")
    if colours < pixels.shape[2] and int(pixels[..., -1].min()) < 255:
        raise BadSample(address, "label map", f"{its_mode} and parts are transparent; expected one channel of numbers")
    grey = pixels[..., :colours].astype(np.int16)
    if int((grey.max(-1) - grey.min(-1)).max(initial=0)) > (STEEP if lossy else 0):
        raise BadSample(
            address,
            "label map",
            f"{its_mode}, and its colours differ; expected one channel of numbers: give each colour the number of its "
            f"class, and save that as PNG",
        )
    return pixels[..., 0]


def _two_numbers(address: str, pixels: NDArray[np.generic], form: str) -> NDArray[np.generic]:
    """(H, W) as JPEG gives it -> 0 and 255. Raises BadSample where it was not drawn as these two, or is not JPEG."""
    values = pixels.astype(np.int32)
    if not _are_two(values, _steps(values)) or form not in ("JPEG", "MPO", "TIFF"):
        most = int(values.max(initial=0))
        detail = f"{form} has blurred its numbers, which go up to {most} and are not 0 and 255 alone; {WITHOUT_LOSS}"
        raise BadSample(address, "label map", detail)
    return np.where(values >= HALF, 255, 0)


def _is_softened(pixels: NDArray[np.generic]) -> bool:
    """Whether a map without loss was drawn as 0 and 255, and its edges made grey since."""
    if pixels.dtype != np.uint8 or pixels.max(initial=0) != 255:
        return False
    values = pixels.astype(np.int32)
    near = ((values > 0) & (values < RINGING), (values < 255) & (values > 255 - RINGING))
    between = (values >= RINGING) & (values <= 255 - RINGING)
    ringing = not between.any() and all(len(np.unique(values[side])) > 1 for side in near)
    if len(np.unique(values[between])) < GREYS_OF_EDGES and not ringing:
        return False
    steps = _steps(values)
    flat = int((steps[between] == 0).sum())
    full = 2 * int((values > 255 - EDGE).sum()) > int((values >= EDGE).sum())
    return full and 2 * flat <= int(between.sum()) and _are_two(values, steps)


def _steps(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """(H, W) -> (H, W): the largest difference to one of the four neighbours."""
    steps = np.zeros(values.shape, np.int32)
    for axis in (0, 1):
        step = np.abs(np.diff(values, axis=axis))
        for side in ((0, 1), (1, 0)):
            steps = np.maximum(steps, np.pad(step, [side if a == axis else (0, 0) for a in (0, 1)]))
    return steps


def _are_two(values: NDArray[np.int32], steps: NDArray[np.int32]) -> bool:
    """Whether numbers were 0 and 255 before their edges were blurred: hardly any other is flat."""
    most, labelled = int(values.max(initial=0)), int((values >= EDGE).sum())
    third = int(((values >= EDGE) & (values <= 255 - EDGE) & (steps < STEEP)).sum())
    low = int(((values > 0) & (values < EDGE) & (steps == 0)).sum())
    return not (most > 255 or 0 < most < HALF or third > THIRD * labelled or low > 2 * THIRD * values.size)


def write(labels: Labels, path: Path) -> None:
    """(H, W) -> PNG of 8 bits, or of 16 where there are more than 255 labels. Raises OSError."""
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    partial = path.with_name(f"tmp-{path.name}")
    Image.fromarray(labels.astype(kind)).save(partial, format="PNG")
    partial.replace(path)
