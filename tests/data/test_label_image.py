"""Label maps of images: the numbers as stored, whatever the mode, and as many bits as they take."""

import numpy as np
import pytest
from PIL import Image

from mae_ext.data.image import FORMATS
from mae_ext.data.label_image import numbers, write
from mae_ext.errors import BadSample

CLASSES = np.arange(12).reshape(3, 4)


def read(path, max_pixels=1000):
    return numbers(str(path), path.read_bytes(), FORMATS, max_pixels)


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("P", "png"), ("I;16", "png"), ("I", "tif")])
def test_numbers_are_those_of_the_file_and_not_its_colours(tmp_path, mode, suffix):
    image = Image.fromarray(CLASSES.astype({"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8)))
    if mode == "P":
        image = Image.frombytes("P", (4, 3), CLASSES.astype(np.uint8).tobytes())
        image.putpalette([v for i in range(12) for v in (250 - 20 * i, 7, 9)])
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    found = read(path)
    assert found.dtype == np.int32 and found.tolist() == CLASSES.tolist()


def test_a_mask_of_one_bit_is_0_and_1(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(CLASSES > 5).save(path)
    assert read(path).tolist() == (CLASSES > 5).astype(int).tolist()
    assert numbers("a.npz::x::0", CLASSES > 5, FORMATS, 1000).tolist() == (CLASSES > 5).astype(int).tolist()


def test_255_labels_are_written_with_8_bits_and_256_with_16(tmp_path):
    path = tmp_path / "a.png"
    for most, mode in ((255, "L"), (256, "I;16"), (65535, "I;16")):
        labels = np.array([[0, most], [1, 2]], np.int32)
        write(labels, path)
        with Image.open(path) as image:
            assert image.mode == mode and image.size == (2, 2)
        assert read(path).tolist() == labels.tolist()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_rows_stay_rows(tmp_path):
    write(CLASSES.astype(np.int32), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (4, 3) and read(tmp_path / "a.png")[1].tolist() == [4, 5, 6, 7]


def test_colours_floats_negatives_and_what_is_too_large_are_refused_by_name(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)
    with pytest.raises(BadSample, match="its mode is RGB; expected one channel") as info:
        read(path)
    assert info.value.kind == "label map"
    with pytest.raises(BadSample, match="whole numbers"):
        numbers("a", np.zeros((3, 4)), FORMATS, 1000)
    with pytest.raises(BadSample, match=r"shape \[3, 4, 1\]"):
        numbers("a", np.zeros((3, 4, 1), np.uint8), FORMATS, 1000)
    with pytest.raises(BadSample, match="below 0, down to -3"):
        numbers("a", np.array([[-3, 1]]), FORMATS, 1000)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    assert read(path, 20).shape == (4, 5)
    with pytest.raises(BadSample, match="5 x 4 pixels") as info:
        read(path, 19)
    assert info.value.kind == "too large"
