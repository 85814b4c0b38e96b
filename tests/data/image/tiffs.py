"""TIFFs written for tests, and how the reader is asked for them."""

import struct

import numpy as np
import pytest
import tifffile
import torch

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import Crop
from mae_ext.errors import BadSample

CHANCE = np.random.default_rng(0)
SIZE = (40, 48)


def numbers(bands, kind, high=None):
    kind = np.dtype(kind)
    high = high or (1000 if kind.kind == "f" else np.iinfo(kind).max if kind.itemsize < 3 else 65535)
    return (CHANCE.random((*SIZE, bands)) * high).astype(kind)


def read(path, channels, crop=None, size=SIZE, **options):
    def whole(extent):
        return crop or Crop((0, 0), extent, (False, False))

    return ImageReader(size, channels, **options).read(str(path), [whole])[0].x


def bad(path, channels=3, **options):
    with pytest.raises(BadSample) as caught:
        read(path, channels, **options)
    return caught.value


def as_read(pixels):
    """What the reader has to give of (H, W, C) numbers."""
    whole = pixels.dtype.kind in "iu" and pixels.dtype != np.uint8
    share = pixels.astype(np.float32) / np.float32(65535) if whole else pixels
    return torch.from_numpy(np.ascontiguousarray(share.transpose(2, 0, 1)))


def told(path):
    return ImageReader(SIZE).describe(str(path))


def written(path, tags, data):
    """A TIFF of these tags, one strip, little-endian."""
    tags = {256: SIZE[1], 257: SIZE[0], 259: 1, 262: 1, 277: 1, 278: SIZE[0], 279: len(data)} | tags
    place = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in sorted({**tags, 273: place}.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + bytes(4) + data)
    return path


def encoded(path, parts, compression, **how):
    """A file of tiles or strips that are encoded already, whatever codecs are installed: their tag is put in later."""
    tifffile.imwrite(path, parts, dtype=np.uint8, compression="zlib", **how)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[259].overwrite(compression)
