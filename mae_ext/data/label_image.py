"""Label maps of images: one channel whose numbers are classes, or instances."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mae_ext.data.labelmap import Labels
from mae_ext.errors import BadSample

NUMBERS = ("1", "L", "P", "I")
"""Modes of Pillow whose pixels are numbers, and not colours; palettes' numbers are read, not their colours."""


def numbers(address: str, content: object, formats: tuple[str, ...], max_pixels: int) -> Labels:
    """The bytes of a file, or an array (H, W) -> (H, W). Raises BadSample, and what Pillow raises."""
    if isinstance(content, np.ndarray):
        found = content
    else:
        assert isinstance(content, bytes)
        with Image.open(BytesIO(content), formats=formats) as image:
            if image.width * image.height > max_pixels:
                raise BadSample(address, "too large", f"{image.width} x {image.height} pixels")
            if image.mode.partition(";")[0] not in NUMBERS:
                raise BadSample(address, "label map", f"its mode is {image.mode}; expected one channel of numbers")
            found = np.asarray(image)
    if found.ndim != 2 or found.dtype.kind not in "uib":
        detail = f"an array of {found.dtype} and shape {list(found.shape)}; expected whole numbers (H, W)"
        raise BadSample(address, "label map", detail)
    if found.size and int(found.min()) < 0:
        raise BadSample(address, "label map", f"numbers below 0, down to {int(found.min())}")
    return np.ascontiguousarray(found.astype(np.int32))


def write(labels: Labels, path: Path) -> None:
    """(H, W) -> PNG of 8 bits, or of 16 where there are more than 255 labels. Raises OSError."""
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    partial = path.with_name(f"tmp-{path.name}")
    Image.fromarray(labels.astype(kind)).save(partial, format="PNG")
    partial.replace(path)
