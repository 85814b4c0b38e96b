"""Whole slides: tiles at the scale that is asked for, on tissue, with the slide's own pixels."""

import numpy as np
import pytest
import tifffile
import torch

from mae_ext.config import AugmentConfig, parse_config
from mae_ext.data.crops import crop_sampler, evaluation_sampler
from mae_ext.data.image import slide
from mae_ext.data.image.slide import SlideReader
from mae_ext.data.sample import Crop
from mae_ext.errors import BadSample, ConfigError
from mae_ext.rng import rng

HEIGHT, WIDTH = 768, 1024
SIZE = (64, 64)
FIXED = AugmentConfig(fixed=(-2, -1), flip=())


def stained():
    """(H, W, 3): noise on glass, two discs of tissue with a texture, and where they are."""
    chance = np.random.default_rng(0)
    pixels = chance.integers(238, 248, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    on = ((y - 250) ** 2 + (x - 300) ** 2 < 150**2) | ((y - 560) ** 2 + (x - 800) ** 2 < 90**2)
    pixels[on] = (np.array([180, 90, 150]) + chance.integers(-40, 40, (int(on.sum()), 3))).astype(np.uint8)
    return pixels, on


PIXELS, ON = stained()


def halved(pixels):
    h, w = (n // 2 for n in pixels.shape[:2])
    return pixels.reshape(h, 2, w, 2, 3).mean((1, 3)).round().astype(np.uint8)


def write(path, pixels=PIXELS, mpp="0.5", levels=3, **tags):
    """A tiled pyramid, with the description and the thumbnail of Aperio, or with what `tags` are instead."""
    said = {"description": f"Aperio Image Library\n1x1|AppMag = 20|MPP = {mpp}"} if mpp else {}
    with tifffile.TiffWriter(path) as file:
        for i in range(levels):
            how = {"tile": (128, 128), "compression": "zlib", "photometric": "rgb", "metadata": None}
            file.write(
                pixels,
                **how,
                subfiletype=1 if i and not mpp else 0,
                **(said if i == 0 else {}),
                **(tags if i == 0 else {}),
            )
            if i == 0 and mpp:
                file.write(pixels[::8, ::8], photometric="rgb", metadata=None, subfiletype=0, rowsperstrip=16)
            pixels = halved(pixels)
    return str(path)


def tile(path, key=0, size=SIZE, augment=FIXED, **options):
    return SlideReader(size, **options).read(path, [crop_sampler(augment, size, rng(0, "augment", key))])[0]


def test_a_tile_at_the_slides_own_scale_has_its_pixels(tmp_path):
    path = write(tmp_path / "a.svs")
    for key in range(5):
        sample = tile(path, key, mpp=0.5)
        (top, left), (bottom, right) = sample.box.start, sample.box.stop
        assert torch.equal(sample.x, torch.from_numpy(PIXELS[top:bottom, left:right].transpose(2, 0, 1)))
        assert sample.spacing == (0.0005, 0.0005) and sample.valid is None


def test_a_tile_at_half_the_scale_is_twice_as_wide(tmp_path):
    path = write(tmp_path / "a.tif", mpp=None, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    sample = tile(path, mpp=1.0)
    (top, left), (bottom, right) = ([2 * n for n in edge] for edge in (sample.box.start, sample.box.stop))
    assert (bottom - top, right - left) == (128, 128)
    expected = halved(PIXELS[top:bottom, left:right]).transpose(2, 0, 1)  # a level of the pyramid, cut
    assert torch.equal(sample.x, torch.from_numpy(expected)) and sample.spacing == (0.001, 0.001)


def test_tiles_lie_on_tissue_and_everywhere_on_it(tmp_path):
    path, reader = write(tmp_path / "a.svs"), SlideReader(SIZE, mpp=0.5, min_tissue=0.5)
    seen, least = np.zeros_like(ON), 1.0
    crops = [crop_sampler(FIXED, SIZE, rng(0, "augment", key)) for key in range(300)]
    for sample in reader.read(path, crops):
        place = tuple(slice(a, b) for a, b in zip(sample.box.start, sample.box.stop, strict=True))
        seen[place], least = True, min(least, ON[place].mean())
    assert least > 0.45 and seen[ON].mean() > 0.95


def test_the_same_key_draws_the_same_tile_and_no_reader_remembers(tmp_path):
    path = write(tmp_path / "a.svs")
    one, again, other = tile(path, 7), tile(path, 7), tile(path, 8)
    assert one.box == again.box and torch.equal(one.x, again.x) and other.box != one.box
    middle = SlideReader(SIZE).read(path, [evaluation_sampler(FIXED, SIZE)])[0].box
    assert ON[middle.start[0] : middle.stop[0], middle.start[1] : middle.stop[1]].mean() > 0.25


def test_all_of_a_slide_is_where_tissue_is_not_asked_for(tmp_path):
    path = write(tmp_path / "a.svs")
    boxes = [tile(path, key, min_tissue=0.0).box for key in range(20)]
    assert min(ON[b.start[0] : b.stop[0], b.start[1] : b.stop[1]].mean() for b in boxes) == 0
    whole = SlideReader(SIZE).read(path, [lambda extent: Crop((0, 0), extent, (False, False))])[0]
    assert whole.spacing == pytest.approx((0.5e-3 * 12, 0.5e-3 * 16))


def test_a_slide_without_a_resolution_is_refused_unless_it_is_stated(tmp_path):
    for name, tags in (("a", {}), ("b", {"resolution": (72, 72), "resolutionunit": "INCH"})):
        path = write(tmp_path / f"{name}.tif", mpp=None, **tags)
        with pytest.raises(BadSample) as caught:
            tile(path)
        assert caught.value.kind == "no resolution" and "set the reader's slide_mpp" in caught.value.detail
        assert torch.equal(tile(path, slide_mpp=0.5).x, tile(write(tmp_path / "c.svs")).x)


def test_the_resolution_of_ome_is_in_its_units(tmp_path):
    said = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", tile=(128, 128), ome=True, metadata=said)
    assert SlideReader(SIZE).describe(str(tmp_path / "a.tif")).endswith("0.5 µm a pixel")
    assert SlideReader(SIZE, mpp=2.0).extent(str(tmp_path / "a.tif")).size == (HEIGHT // 4, WIDTH // 4)


def test_glass_alone_and_slides_smaller_than_a_tile_are_named(tmp_path):
    glass = np.random.default_rng(0).integers(238, 248, (256, 256, 3)).astype(np.uint8)
    with pytest.raises(BadSample, match="no tissue"):
        tile(write(tmp_path / "a.svs", glass, levels=1))
    with pytest.raises(BadSample, match="too small"):
        tile(write(tmp_path / "b.svs", PIXELS[200:264, 260:324], levels=1), mpp=2.0)


def test_what_would_have_to_be_decoded_whole_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(slide, "MAX_PIXELS", 128 * 128)
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, rowsperstrip=HEIGHT, compression="zlib", photometric="rgb")
    with pytest.raises(BadSample, match="write it again in tiles"):
        tile(str(tmp_path / "a.tif"), slide_mpp=0.5)
    monkeypatch.setattr(slide, "MOST_OVERVIEW", 1000)
    with pytest.raises(BadSample, match="no pyramid"):
        tile(write(tmp_path / "b.svs"))


def test_a_config_needs_fixed_axes_and_says_so(tmp_path):
    image = {"size": [64, 64], "patch": [16, 16], "batch": 2, "data": {"reader": {"name": "slide", "mpp": 0.5}}}
    values = {"modalities": {"slide": image}, "model": {"size": "tiny"}, "train": {"steps": 1}}
    with pytest.raises(ConfigError, match=r"data.augment.fixed: reader 'slide' .*set it to \[-2, -1\]"):
        parse_config(values)
    image["data"]["augment"] = {"fixed": [-2, -1]}
    assert parse_config(values).modalities["slide"].data.reader.name == "slide"


def test_openslide_and_tifffile_give_the_same_tile_of_one_file(tmp_path):
    pytest.importorskip("openslide", reason="pip install 'mae-ext[slides]'")
    write(tmp_path / "a.svs")
    (tmp_path / "a.ndpi").write_bytes((tmp_path / "a.svs").read_bytes())  # OpenSlide goes by what is in it
    if "aperio" not in SlideReader(SIZE).describe(str(tmp_path / "a.ndpi")):
        pytest.fail("OpenSlide took it for another maker's")
    for mpp in (0.5, 1.7):
        one, other = (tile(str(tmp_path / name), mpp=mpp, min_tissue=0.0) for name in ("a.svs", "a.ndpi"))
        assert one.box == other.box and torch.equal(one.x, other.x)


def test_a_tile_that_openslide_cannot_read_is_damage(tmp_path):
    pytest.importorskip("openslide", reason="pip install 'mae-ext[slides]'")
    write(tmp_path / "a.svs")
    content = bytearray((tmp_path / "a.svs").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.svs") as file:
        for place, length in zip(file.pages[0].dataoffsets, file.pages[0].databytecounts, strict=True):
            content[place : place + length] = bytes(length)
    (tmp_path / "a.ndpi").write_bytes(content)
    with pytest.raises(BadSample) as bad:
        tile(str(tmp_path / "a.ndpi"), min_tissue=0.0)
    assert bad.value.kind == "damaged"


def test_a_tile_beside_one_that_openslide_cannot_read_is_read(tmp_path):
    pytest.importorskip("openslide", reason="pip install 'mae-ext[slides]'")
    write(tmp_path / "a.svs")
    content = bytearray((tmp_path / "a.svs").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.svs") as file:
        place, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content[place : place + length] = bytes(length)  # rows and columns up to 128
    (tmp_path / "a.ndpi").write_bytes(content)
    reader = SlideReader(SIZE, min_tissue=0.0)

    def box(top):
        return Crop((top, top), (top + 64, top + 64), (False, False))

    for _ in range(2):
        with pytest.raises(BadSample):
            reader.read(str(tmp_path / "a.ndpi"), [lambda _: box(40)])
        whole = reader.read(str(tmp_path / "a.ndpi"), [lambda _: box(400)])[0]
        assert torch.equal(whole.x, torch.from_numpy(PIXELS[400:464, 400:464].transpose(2, 0, 1)))


@pytest.mark.parametrize("suffix", ["svs", "ndpi"])
def test_twenty_damages_are_each_a_verdict(tmp_path, suffix):
    if suffix == "ndpi":
        pytest.importorskip("openslide", reason="pip install 'mae-ext[slides]'")
    write(tmp_path / "a.svs")
    content, chance, kinds = (tmp_path / "a.svs").read_bytes(), np.random.default_rng(0), []
    variants = [b"", content[:4], content[:200], content[: len(content) // 2], b"II*\0" + bytes(100)]
    for _ in range(15):
        damaged = bytearray(content)
        for place in chance.integers(0, 400, 20):
            damaged[place] = int(chance.integers(256))
        variants.append(bytes(damaged))
    for i, variant in enumerate(variants):
        (tmp_path / f"{i}.{suffix}").write_bytes(variant)
        try:
            tile(str(tmp_path / f"{i}.{suffix}"))
            kinds.append("good")
        except BadSample as error:
            kinds.append(error.kind)
    assert kinds[:5].count("good") == 0 and len(kinds) == 20
