"""JPEG by simplejpeg, where it is installed: libjpeg-turbo without Pillow around it, the same pixels sooner."""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

SPACES = {"L": "GRAY", "RGB": "RGB"}

LEAST = 8
"""Pixels of the longer side, from which no two scales of a JPEG, in eighths, give the same size: of a smaller picture
simplejpeg, which is told a size, may take another scale than Pillow."""


def decoded(image: Image.Image, content: bytes) -> NDArray[np.uint8] | None:
    """(H, W) or (H, W, 3): what Pillow would decode of a JPEG that is open, at the scale of its draft, to the bit.

    None where that is left to Pillow: without simplejpeg, of other formats and of ink, and of a file in which anything
    is wrong, so that a verdict on a file is the same with and without it.
    """
    untouched = image.format == "JPEG" and isinstance(image, ImageFile.ImageFile) and bool(image.tile)
    if not untouched or image.mode not in SPACES or max(image.size) < LEAST or find_spec("simplejpeg") is None:
        return None
    import simplejpeg

    try:
        # Exact DCT and smooth chroma, as Pillow has them. Of its scales it takes the smallest that is large enough.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            content, SPACES[image.mode], min_height=image.height, min_width=image.width
        )
    except ValueError:  # damaged, or cut short
        return None
    return pixels.squeeze(2) if image.mode == "L" else pixels
