"""Pictures written for the image reader, and how it is asked for them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import Crop
from mae_ext.errors import BadSample

EXIF_ORIENTATION = 0x0112


def photo(height: int = 48, width: int = 64, channels: int = 3) -> np.ndarray:
    """Smooth, different along each axis and in each channel: survives JPEG, and a wrong turn shows."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [128 + 100 * np.sin((3 + c) * y + (2 - c) * x + c) for c in range(channels)]
    return np.stack(planes, -1).astype(np.uint8)


def save(path: Path, image: Image.Image | np.ndarray, **options: Any) -> str:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return str(path)


def whole(extent: tuple[int, ...]) -> Crop:
    return Crop((0, 0), extent, (False, False))


def box(top: int, left: int, bottom: int, right: int, *flip: bool) -> Any:
    return lambda extent: Crop((top, left), (bottom, right), flip or (False, False))


def read(address: str, size: tuple[int, int] = (48, 64), channels: int = 3, crop: Any = whole) -> Tensor:
    (sample,) = ImageReader(size, channels).read(address, [crop])
    assert sample.x.shape == (channels, *size) and sample.x.is_contiguous()
    assert sample.source == address and sample.valid is None and sample.spacing is None
    return sample.x


def chw(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))


def bad(address: str, channels: int = 3, **options: Any) -> BadSample:
    with pytest.raises(BadSample) as caught:
        ImageReader((16, 16), channels, **options).read(address, [whole])
    assert caught.value.path == address
    return caught.value


def verdict(address: str) -> str:
    try:
        read(address)
    except BadSample as error:
        return error.kind
    return "good"


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).abs().max())
