"""What a compressed picture says of its own size is what it was made of, and nothing is said of what is no picture."""

import numpy as np
import pytest

from mae_ext.data.codestream import IN_TIFF, of_jpeg_xl, of_lerc

imagecodecs = pytest.importorskip("imagecodecs", reason="pip install 'mae-ext[tiff]'")

SIZES = [(40, 48), (64, 128), (9, 300), (257, 1), (48, 36), (3, 8200), (16, 9), (90, 160)]
NAMED = {"jpeg": 7, "jpeg2k": 34712, "jpegxl": 50002, "lerc": 34887, "png": 34933, "webp": 50001, "jpegxr": 34934}
BANDS = {"jpegxl": 1, "jpegxr": 1}
"""Those that do not say how many at once."""


def pixels(rows, columns):
    return np.random.default_rng(rows).integers(0, 9, (rows, columns, 3), np.uint8)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_size_is_what_was_encoded(name, size):
    if name == "jpegxr" and min(size) < 16:
        pytest.skip("JPEG XR of fewer than a macroblock")
    stream = getattr(imagecodecs, f"{name}_encode")(pixels(*size))
    said = IN_TIFF[NAMED[name]](stream)
    assert (said.rows, said.columns, said.samples) == (*size, BANDS.get(name, 3))
    for length in (0, 1, 7, 12, 20, 30):
        IN_TIFF[NAMED[name]](stream[:length])  # raises nothing
    assert IN_TIFF[NAMED[name]](b"\x07" * 200) is None


@pytest.mark.parametrize("how", [{"usecontainer": True}, {"codecformat": "j2k"}, {"lossless": False}], ids=str)
def test_in_a_file_of_boxes_or_without_one(how):
    name = "jpeg2k" if "codecformat" in how else "webp" if "lossless" in how else "jpegxl"
    stream = getattr(imagecodecs, f"{name}_encode")(pixels(40, 48), **how)
    said = IN_TIFF[NAMED[name]](stream)
    assert (said.rows, said.columns) == (40, 48)


def test_of_an_animation_nothing_is_said():
    many = imagecodecs.jpegxl_encode(np.zeros((5, 40, 48, 3), np.uint8))
    assert imagecodecs.jpegxl_decode(many).shape == (5, 40, 48, 3) and of_jpeg_xl(many) is None


def test_blobs_of_lerc_are_bands_each():
    one = imagecodecs.lerc_encode(np.zeros((40, 48), np.uint8))
    assert of_lerc(one).samples == 1 and of_lerc(one * 50).samples == 50
    other = imagecodecs.lerc_encode(np.zeros((48, 40), np.uint8))
    assert of_lerc(one + other) is None
