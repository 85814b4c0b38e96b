"""Bombs of `damaged_kinds.py` within a TIFF: a tile whose own codestream says it is of gigabytes."""

import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

TILE = (32, 32)
HUGE = 60_000


def segment_bomb(compression: int, stream: Callable[[], bytes]) -> Callable[[Path], None]:
    """A tile of a TIFF whose codestream says it is of gigabytes, and where that is possible is."""

    def bomb(folder: Path) -> None:
        from data.image.tiffs import encoded

        (path,) = folder.iterdir()
        encoded(path, iter([stream()]), compression, shape=(*TILE, 3), tile=TILE, photometric="rgb")

    return bomb


def jpeg_2000_bomb() -> bytes:
    import imagecodecs

    made = imagecodecs.jpeg2k_encode(np.zeros((*TILE, 3), np.uint8), codecformat="j2k")
    return made.replace(struct.pack(">I", TILE[0]), struct.pack(">I", 40_000))  # type: ignore[no-any-return]


def jpeg_xl_bomb() -> bytes:
    """Of 60 000 rows and columns, in 30 bits each, where 12 bits had said 32 x 32."""
    import imagecodecs

    made = imagecodecs.jpegxl_encode(np.zeros((*TILE, 3), np.uint8))
    bits = int.from_bytes(made[2:], "little")
    assert bits & 0x1FF == 1 | (TILE[0] // 8 - 1) << 1 | 1 << 6  # small, 4 x 8 rows, as wide as high
    sides = 0 | 3 << 1 | (HUGE - 1) << 3 | 1 << 33
    return made[:2] + ((bits >> 9 << 36) | sides).to_bytes(len(made) + 8, "little")  # type: ignore[no-any-return]


def lerc_bomb() -> bytes:
    """8 GB of nothing: 20 blobs of 400 MB."""
    import imagecodecs

    return imagecodecs.lerc_encode(np.zeros((20_000, 20_000), np.uint8)) * 20  # type: ignore[no-any-return]
