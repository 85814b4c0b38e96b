"""Label maps of images: the numbers as stored, whatever the mode, and as many bits as they take."""

import numpy as np
import pytest
from PIL import Image

from mae_ext.data.image.labels import numbers, write
from mae_ext.data.image.reader import FORMATS
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
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(3, 4, 3)).save(path)
    with pytest.raises(BadSample, match="its mode is RGB, and its colours differ; expected one channel") as info:
        read(path)
    assert info.value.kind == "label map"
    with pytest.raises(BadSample, match=r"1 pixels such as 0.5; expected whole numbers"):
        numbers("a", np.array([[0.5, 1.0]]), FORMATS, 1000)
    with pytest.raises(BadSample, match="1 pixels such as nan"):
        numbers("a", np.array([[np.nan, 1.0]]), FORMATS, 1000)
    with pytest.raises(BadSample, match=r"shape \[3, 4, 1\]"):
        numbers("a", np.zeros((3, 4, 1), np.uint8), FORMATS, 1000)
    with pytest.raises(BadSample, match="below 0, down to -3"):
        numbers("a", np.array([[-3, 1]]), FORMATS, 1000)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    assert read(path, 20).shape == (4, 5)
    with pytest.raises(BadSample, match="5 x 4 pixels") as info:
        read(path, 19)
    assert info.value.kind == "too large"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_that_is_stored_as_colours_is_read_and_what_is_transparent_is_not(tmp_path, mode):
    path = tmp_path / "a.png"
    grey = Image.fromarray(CLASSES.astype(np.uint8))
    grey.convert(mode).save(path)
    assert read(path).tolist() == CLASSES.tolist()
    if mode != "RGB":
        image = grey.convert(mode)
        image.putalpha(Image.fromarray((CLASSES > 3).astype(np.uint8) * 255))
        image.save(path)
        with pytest.raises(BadSample, match="parts are transparent"):
            read(path)


def test_whole_numbers_that_are_stored_as_floats_are_read(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(CLASSES.astype(np.float32)).save(path)
    assert read(path).tolist() == CLASSES.tolist() == numbers("a", CLASSES * 1.0, FORMATS, 1000).tolist()


def drawn(radius, count=20):
    chance = np.random.default_rng(radius)
    y, x = np.mgrid[:128, :160]
    places = chance.integers((8, 8), (120, 152), (count, 2))
    return np.any([(y - a) ** 2 + (x - b) ** 2 < radius**2 for a, b in places], axis=0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("radius", [3, 9, 30])
def test_two_numbers_in_a_jpeg_are_those_that_were_drawn(tmp_path, mode, radius):
    true = drawn(radius)
    for quality in (50, 75, 95):
        path = tmp_path / f"a{quality}.jpg"
        Image.fromarray(true.astype(np.uint8) * 255).convert(mode).save(path, quality=quality)
        found = read(path, 1 << 20)
        assert set(np.unique(found)) == {0, 255}
        assert 2 * (true & (found > 0)).sum() / (true.sum() + (found > 0).sum()) > 0.995


@pytest.mark.parametrize("quality", [30, 75, 85, 90, 95, 98])
def test_a_png_that_was_a_jpeg_is_read_as_it_was_drawn(tmp_path, quality):
    true = drawn(9)
    Image.fromarray(true.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=quality)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    assert ((read(tmp_path / "a.png", 1 << 20) > 0) == true).all()


@pytest.mark.parametrize("filter_", [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS], ids=["bilinear", "lanczos"])
def test_grey_edges_between_two_numbers_are_told_apart_in_the_middle(tmp_path, filter_):
    true = drawn(9)
    image = Image.fromarray(true.astype(np.uint8) * 255)
    image.resize((320, 256), filter_).resize(image.size, filter_).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png", 1 << 20)
    assert set(np.unique(found)) == {0, 255} and ((found > 0) == true).mean() > 0.999


@pytest.mark.parametrize("side", [2, 6], ids=str)
def test_255_instances_stay_what_they_are(tmp_path, side):
    labels = np.zeros((256, 256), np.uint8)
    for number in range(255):
        y, x = divmod(number, 16)
        labels[16 * y + 4 : 16 * y + 4 + side, 16 * x + 4 : 16 * x + 4 + side] = number + 1
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", 1 << 20) == labels).all()


def test_a_small_class_beside_two_numbers_for_unknown_stays_what_it_is(tmp_path):
    labels = np.zeros((128, 256), np.uint8)
    labels[60:], labels[59] = 255, 254
    labels[10:14, 10:14], labels[20:24, 10:14] = 1, 2
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", 1 << 20) == labels).all()


def test_many_small_classes_beside_an_unknown_area_stay_what_they_are(tmp_path):
    labels = np.zeros((128, 256), np.uint8)
    labels[60:] = 255
    for number in range(20):
        labels[10:18, 10 * number + 5 : 10 * number + 13] = 6 * number + 3
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", 1 << 20) == labels).all()


def test_an_empty_map_in_a_jpeg_is_empty(tmp_path):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.jpg")
    assert not read(tmp_path / "a.jpg").any()


@pytest.mark.parametrize("levels", [(0, 1), (0, 128, 255), (0, 1, 255), (0, 20, 40, 60)], ids=str)
def test_other_numbers_in_a_jpeg_are_refused_with_what_to_do(tmp_path, levels):
    labels = np.zeros((128, 160), np.uint8)
    for number, level in enumerate(levels[1:]):
        labels[10 + 30 * number : 40 + 30 * number, 20:120] = level
    Image.fromarray(labels).save(tmp_path / "a.jpg")
    with pytest.raises(
        BadSample, match=r"JPEG has blurred its numbers, which go up to .* save label maps as PNG"
    ) as info:
        read(tmp_path / "a.jpg", 1 << 20)
    assert info.value.kind == "label map"


@pytest.mark.parametrize("form", ["WEBP", "JPEG2000"])
def test_what_blurs_and_is_no_jpeg_is_refused_and_without_loss_it_is_read(tmp_path, form):
    labels, path = np.zeros((64, 64), np.uint8), tmp_path / "a"
    labels[10:40, 20:50] = 3
    image = Image.fromarray(labels).convert("RGB")
    lossy, exact = ({"quality": 50}, {"lossless": True}) if form == "WEBP" else ({"irreversible": True}, {})
    image.save(path, form, **lossy)
    with pytest.raises(BadSample, match=f"{form} has blurred its numbers"):
        read(path, 1 << 20)
    image.save(path, form, **exact)
    assert read(path, 1 << 20).tolist() == labels.tolist()


def test_a_map_that_exif_turns_lies_as_its_image_does(tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(CLASSES.astype(np.uint8)).save(tmp_path / "a.png", exif=tags)
    assert read(tmp_path / "a.png").tolist() == np.rot90(CLASSES, -1).tolist()
