"""PNG of 16 bits, grey or in colours: Pillow writes those of one channel alone."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG 3.0, 11.2.1: grey, grey and alpha, colours, colours and alpha, by their number of channels."""

UP = 2
"""The filter that takes from each byte the one above it (9.2)."""


def write(pixels: NDArray[np.uint16], path: Path) -> None:
    """(H, W, 1 to 4) -> PNG. Raises OSError."""
    height, width, channels = pixels.shape
    rows = np.ascontiguousarray(pixels.astype(">u2")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    filtered[1:, 1:] = rows[1:] - rows[:-1]  # modulo 256
    head = struct.pack(">IIBBBBB", width, height, 16, KINDS[channels], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in parts:
            file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
