"""Scans of numbered voxels, and how they are read."""

from collections.abc import Callable
from typing import Any

import numpy as np
from recorded.record import digest, joined

from mae_ext.data.sample import Crop
from mae_ext.data.volume import doubts
from mae_ext.data.volume.reader import VolumeReader


def box(start: tuple[int, ...], stop: tuple[int, ...], flip: tuple[bool, ...] = (False,) * 3) -> Callable[..., Crop]:
    return lambda _: Crop(start, stop, flip)


def whole(extent: tuple[int, ...]) -> Crop:
    return Crop((0,) * len(extent), extent, (False,) * len(extent))


# Readers --------------------------------------------------------------------------------------------------------------

SHAPE = (7, 6, 5)


def numbers(shape: tuple[int, ...] = SHAPE, dtype: str = "i2", seed: int = 1) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, 1000, shape)
    return (found % 250 if dtype in ("u1", "i1") else found).astype(dtype)


def field(**values: Any) -> Callable[[Any], None]:
    def fix(header: Any) -> None:
        for key, value in values.items():
            name, _, at = key.partition("__")
            if at:
                header[name][int(at)] = value
            else:
                header[name] = value

    return fix


def declared(reader: VolumeReader, address: str) -> Any:
    found = reader.formats.declared(address)
    flags = digest(found.spatial, found.sided, found.code, found.contrast)
    return [
        str(found),
        joined([np.round(found.affine, 5) + 0.0, [found.slope, found.inter]]),
        flags,
        doubts.doubts(found),
    ]


def read(reader: VolumeReader, address: str, *crops: Any) -> Any:
    samples = reader.read(address, list(crops) or [whole])
    return [joined([*(s.x for s in samples), *(s.spacing for s in samples)]), digest([s.valid for s in samples])]
