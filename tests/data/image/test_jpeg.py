"""JPEG by simplejpeg: the bits that Pillow gives, and nothing said of a file that Pillow would not say."""

from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.image.photos import bad, photo, read, save
from PIL import Image

from mae_ext.data.image import jpeg
from mae_ext.data.image.file import opened
from mae_ext.errors import BadSample

pytest.importorskip("simplejpeg")
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def as_jpeg(mode: str, extent: tuple[int, int], **options: Any) -> bytes:
    """extent: (height, width)."""
    buffer = BytesIO()
    Image.fromarray(photo(*extent)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("extent", [(96, 128), (97, 131), (9, 17), (5, 5), (3, 3), (1, 1)])
def test_pixels_are_those_of_pillow_to_the_bit_at_every_scale_of_a_draft(mode: str, extent: tuple[int, int]) -> None:
    kinds = product((30, 90, 97), (0, 1, 2), (False, True), (1, 2, 4, 8), (None, "L"))
    for quality, subsampling, progressive, shrink, draft in kinds:
        content = as_jpeg(mode, extent, quality=quality, subsampling=subsampling, progressive=progressive)
        ours, theirs = opened("a.jpg", content), opened("a.jpg", content)
        for image in (ours, theirs):
            image.draft(draft, (max(1, extent[1] // shrink), max(1, extent[0] // shrink)))
        pixels = jpeg.decoded(ours, content)
        assert (pixels is None) == (max(ours.size) < jpeg.LEAST)
        if pixels is not None:
            assert np.array_equal(pixels, np.asarray(theirs)), (quality, subsampling, progressive, shrink, draft)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("extent", [(64, 96), (480, 640), (700, 130)])
def test_a_sample_has_the_same_bits_without_simplejpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, extent: tuple[int, int]
) -> None:
    address = save(tmp_path / "a.jpg", photo(*extent), quality=90)
    sizes = [(24, 32), (63, 95)]
    with_it = [read(address, size, channels) for size in sizes]
    monkeypatch.setattr(jpeg, "find_spec", lambda name: None)
    for size, x in zip(sizes, with_it, strict=True):
        assert np.array_equal(read(address, size, channels), x)


def test_ink_other_formats_and_what_is_decoded_are_left_to_pillow() -> None:
    ink = as_jpeg("CMYK", (8, 8))
    assert jpeg.decoded(opened("a.jpg", ink), ink) is None
    image = Image.new("RGB", (8, 8))
    assert jpeg.decoded(image, b"") is None
    content = as_jpeg("RGB", (8, 8))
    image = opened("a.jpg", content)
    image.load()
    assert jpeg.decoded(image, content) is None


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_what_is_cut_short_or_damaged_gets_the_verdict_that_pillow_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    content = bytearray(as_jpeg("RGB", (96, 128), quality=90))
    files = {"short": bytes(content[: int(len(content) * kept)])}
    content[int(len(content) * kept)] ^= 0x5A
    files["flipped"] = bytes(content)
    for name, data in files.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)

    def outcomes() -> list[Any]:
        made: list[Any] = []
        for name in files:
            try:
                made.append(read(str(tmp_path / f"{name}.jpg")).tolist())
            except BadSample as error:
                made.append((error.kind, error.detail))
        return made

    with_it = outcomes()
    monkeypatch.setattr(jpeg, "find_spec", lambda name: None)
    assert outcomes() == with_it


def test_a_file_that_is_cut_short_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(as_jpeg("RGB", (96, 128))[:-700])
    assert bad(str(tmp_path / "a.jpg")).kind == "truncated"
