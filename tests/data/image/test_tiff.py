"""TIFF: every band, page and level of what is in the file, from any strip, tile and byte order."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from data.image.tiffs import CHANCE, SIZE, as_read, bad, numbers, read, told, written

from mae_ext.data.image import picture
from mae_ext.data.sample import Crop

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


class TestBands:
    @pytest.mark.parametrize("kind", ["u1", "u2", "i2", "u4", "f2", "f4", "f8"])
    @pytest.mark.parametrize("bands", [1, 2, 4, 13])
    @pytest.mark.parametrize("layout", ["contig", "separate"])
    def test_are_those_of_the_file_whatever_their_type(self, tmp_path, bands, kind, layout):
        pixels = numbers(bands, kind)
        stored, more = pixels[..., 0], {}
        if bands > 1:
            stored = pixels if layout == "contig" else pixels.transpose(2, 0, 1)
            more = {"planarconfig": layout, "extrasamples": ["unspecified"] * (bands - 1)}
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric="minisblack", **more)
        expected = as_read(pixels.astype(np.float32) if pixels.dtype.kind == "f" else pixels)
        assert torch.equal(read(tmp_path / "a.tif", bands), expected)

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("big", [False, True], ids=["classic", "BigTIFF"])
    @pytest.mark.parametrize("where", [{"tile": (16, 32)}, {"rowsperstrip": 7}, {}])
    @pytest.mark.parametrize("packed", [None, "zlib"])
    def test_lie_in_tiles_and_strips_of_both_byte_orders(self, tmp_path, order, big, where, packed):
        pixels = numbers(5, "u2")
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, photometric="minisblack", byteorder=order, bigtiff=big, compression=packed,
            extrasamples=["unspecified"] * 4, **where,
        )  # fmt: skip
        assert torch.equal(read(tmp_path / "a.tif", 5), as_read(pixels))

    def test_near_infrared_is_the_fourth_channel_and_no_alpha(self, tmp_path):
        pixels = numbers(4, "u1")
        pixels[..., 3] = 0  # what would be transparent
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
        assert torch.equal(read(tmp_path / "a.tif", 4), as_read(pixels))
        assert told(tmp_path / "a.tif") == "TIFF uint8 48x40, 4 bands"

    def test_that_are_more_than_the_config_wants_are_never_left_out_in_silence(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", numbers(4, "u1"), photometric="rgb", extrasamples=["unspecified"])
        for channels, way in (
            (3, ", or choose 3 with data.channels, such as [0, 1, 2]"),
            (1, "such as [0]"),
            (5, ""),
        ):
            error = bad(tmp_path / "a.tif", channels)
            assert error.kind == "channels" and error.detail.endswith(way)
            assert error.detail.startswith(f"4 bands, the config wants {channels} channels; set channels to 4")

    def test_are_chosen_by_number(self, tmp_path):
        pixels = numbers(13, "u2")
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
        assert torch.equal(read(tmp_path / "a.tif", 3, bands=[3, 2, 1]), as_read(pixels[..., [3, 2, 1]]))
        assert "bands 0 to 12" in bad(tmp_path / "a.tif", 1, bands=[13]).detail

    @pytest.mark.parametrize(
        "options", [{"photometric": "minisblack"}, {"imagej": True}, {"metadata": {"axes": "CYX"}}]
    )
    def test_are_the_pages_of_a_stack_and_never_the_first_alone(self, tmp_path, options):
        pixels = numbers(5, "u2")
        tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), **options)
        assert torch.equal(read(tmp_path / "a.tif", 5), as_read(pixels))
        assert torch.equal(read(tmp_path / "a.tif", 1, bands=[4]), as_read(pixels[..., 4:]))
        assert bad(tmp_path / "a.tif", 1).detail.startswith("5 pages, the config wants 1")
        assert told(tmp_path / "a.tif") == "TIFF L uint16 48x40, 5 pages"

    def test_of_a_stack_that_is_written_as_one_page_are_all_there(self, tmp_path):
        pixels = numbers(6, "u1")
        tifffile.imwrite(tmp_path / "a.tif", pixels.transpose(2, 0, 1), photometric="minisblack", truncate=True)
        assert torch.equal(read(tmp_path / "a.tif", 6), as_read(pixels))

    def test_of_several_colour_pages_are_counted_through(self, tmp_path):
        pages = numbers(6, "u1").reshape(*SIZE, 2, 3).transpose(2, 0, 1, 3)
        tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
        assert torch.equal(read(tmp_path / "a.tif", 3, bands=[3, 4, 5]), as_read(pages[1]))
        assert bad(tmp_path / "a.tif").detail.startswith("2 pages of 3 bands, the config wants 3")

    def test_of_the_pictures_of_other_sizes_the_first_is_read_and_said(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(first := numbers(3, "u1"), photometric="rgb")
            file.write(numbers(3, "u1")[:20], photometric="rgb")
            file.write(numbers(3, "u1")[:10], photometric="rgb", subfiletype=1)  # a thumbnail is no picture of its own
        assert torch.equal(read(tmp_path / "a.tif", 3), as_read(first))
        assert told(tmp_path / "a.tif") == "TIFF RGB 48x40, first of 2 pictures"

    def test_in_other_files_that_a_description_names_are_not_opened(self, tmp_path):
        tifffile.imwrite(
            tmp_path / "a.ome.tif", numbers(1, "u1")[..., 0], photometric="minisblack", metadata={"axes": "YX"}
        )
        content = (tmp_path / "a.ome.tif").read_bytes()
        (tmp_path / "b.ome.tif").write_bytes(content.replace(b'SizeC="1"', b'SizeC="2"'))
        found = read(tmp_path / "a.ome.tif", 1)
        assert found.shape == (1, *SIZE) and told(tmp_path / "a.ome.tif") == "TIFF L 48x40"


class TestColours:
    def test_of_twelve_and_sixteen_bits_keep_every_level(self, tmp_path):
        pixels = np.arange(40 * 48 * 3, dtype=np.uint16).reshape(40, 48, 3) % 4096
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
        x = read(tmp_path / "a.tif", 3)
        assert torch.equal(x, as_read(pixels)) and len(x.unique()) == 4096
        luma = torch.tensor([0.299, 0.587, 0.114]) @ x.reshape(3, -1)
        assert torch.allclose(read(tmp_path / "a.tif", 1).reshape(-1), luma, atol=1e-6)
        assert read(tmp_path / "a.tif", 4)[3].unique().tolist() == [1.0]

    @pytest.mark.parametrize(
        ("bits", "kind"),
        [(1, torch.uint8), (2, torch.uint8), (4, torch.uint8), (10, torch.float32), (12, torch.float32)],
    )
    def test_packed_bits_reach_from_black_to_white(self, tmp_path, bits, kind):
        levels = CHANCE.integers(0, 1 << bits, SIZE)
        digits = (levels[..., None] >> np.arange(bits)[::-1]) & 1
        data = np.packbits(digits.reshape(SIZE[0], -1).astype(np.uint8), axis=1).tobytes()
        x = read(written(tmp_path / "a.tif", {258: bits}, data), 1)[0]
        top = 255 if kind == torch.uint8 else 1
        assert x.dtype == kind
        torch.testing.assert_close(x.double(), torch.from_numpy(levels / ((1 << bits) - 1) * top), atol=1e-6, rtol=0)

    def test_where_white_is_zero_are_turned(self, tmp_path):
        for kind, top in (("u1", 255), ("u2", 65535)):
            pixels = numbers(1, kind)
            tifffile.imwrite(tmp_path / "a.tif", pixels[..., 0], photometric="miniswhite")
            assert torch.equal(read(tmp_path / "a.tif", 1), as_read((top - pixels).astype(kind)))

    @pytest.mark.parametrize("scale", [257, 1], ids=["16 bits", "8 bits in 16"])
    def test_of_a_palette_are_looked_up(self, tmp_path, scale):
        palette, places = (
            CHANCE.integers(0, 256, (3, 256), dtype=np.uint16),
            CHANCE.integers(0, 256, SIZE, dtype=np.uint8),
        )
        tifffile.imwrite(tmp_path / "a.tif", places, photometric="palette", colormap=palette * np.uint16(scale))
        assert torch.equal(read(tmp_path / "a.tif", 3), as_read(palette.T.astype(np.uint8)[places]))

    def test_ink_is_what_it_leaves_of_white(self, tmp_path):
        ink = numbers(4, "u1")
        tifffile.imwrite(tmp_path / "a.tif", ink, photometric="separated")
        left = 255 - ink.astype(float)
        light = torch.from_numpy(left[..., :3] * left[..., 3:] / 255).permute(2, 0, 1)
        assert float((read(tmp_path / "a.tif", 3).double() - light).abs().max()) <= 1
        tifffile.imwrite(tmp_path / "b.tif", ink.astype(np.uint16) * 257, photometric="separated")
        torch.testing.assert_close(read(tmp_path / "b.tif", 3).double() * 255, light, atol=0.01, rtol=0)

    @pytest.mark.parametrize("kind", ["u1", "u2"])
    @pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
    @pytest.mark.parametrize("grey", [False, True])
    def test_under_alpha_lie_on_white_and_keep_it_as_the_fourth(self, tmp_path, kind, alpha, grey):
        top = np.iinfo(kind).max
        colours, opacity = (
            numbers(1 if grey else 3, "u1").astype(float) / 255,
            numbers(1, "u1", 128).astype(float) / 255 + 0.4,
        )
        stored = np.concatenate([colours * opacity if alpha == "assocalpha" else colours, opacity], -1)
        photometric = "minisblack" if grey else "rgb"
        pixels = (stored * top).round().astype(kind)
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, photometric=photometric, extrasamples=[alpha], planarconfig="contig"
        )
        scale = 255 if kind == "u1" else 1
        over = torch.from_numpy(colours * opacity + 1 - opacity).permute(2, 0, 1).expand(3, -1, -1)
        assert float((read(tmp_path / "a.tif", 3).double() / scale - over).abs().max()) < 0.01
        four = read(tmp_path / "a.tif", 4).double() / scale
        assert float((four[3] - torch.from_numpy(opacity[..., 0])).abs().max()) < 0.01
        assert float((four[:3] - torch.from_numpy(colours).permute(2, 0, 1)).abs().max()) < 0.02

    def test_of_kinds_that_have_no_light_are_refused(self, tmp_path):
        tifffile.imwrite(
            tmp_path / "a.tif", numbers(1, "u2")[..., 0], photometric="cfa", extratags=[(33422, 1, 4, [0, 1, 1, 2])]
        )
        assert (error := bad(tmp_path / "a.tif")).kind == "unsupported" and "CFA" in error.detail
        tifffile.imwrite(tmp_path / "b.tif", numbers(4, "f4"), photometric="rgb", extrasamples=["unassalpha"])
        assert bad(tmp_path / "b.tif").kind == "unsupported"  # white of floats is not known
        assert torch.equal(
            read(tmp_path / "b.tif", 3, bands=[0, 1, 2])[0, 0, :2], read(tmp_path / "b.tif", 4)[0, 0, :2]
        )


class TestWindows:
    """Of a large file only what a crop touches is decoded; WINDOW is lowered so that small files are large."""

    @pytest.fixture(params=[{"tile": (32, 16)}, {"rowsperstrip": 9}, {"rowsperstrip": 9, "compression": "zlib"}, {}])
    def path(self, tmp_path, request):
        y, x = np.mgrid[:300, :300]
        waves = np.stack([127 + 120 * np.sin(x / 9 + y / 23), 127 + 120 * np.cos(y / 7), (x * 3 + y) % 256], -1)
        more = {"photometric": "rgb", "extratags": [(274, 3, 1, 1)], **request.param}
        tifffile.imwrite(tmp_path / "a.tif", waves.astype(np.uint8), **more)
        return tmp_path / "a.tif"

    @pytest.mark.parametrize(
        "box", [(0, 0, 40, 48), (130, 77, 170, 125), (201, 101, 260, 300), (3, 7, 100, 130), (212, 212, 260, 260)]
    )
    @pytest.mark.parametrize("orientation", [1, 6])
    def test_are_the_same_pixels_as_of_the_whole(self, path, monkeypatch, box, orientation):
        with tifffile.TiffFile(path, mode="r+b") as file:
            file.pages.first.tags[274].overwrite(orientation)
        crop = Crop(box[:2], box[2:], (False, True))
        expected = read(path, 3, crop)
        monkeypatch.setattr(picture, "WINDOW", 30_000)
        assert torch.equal(read(path, 3, crop), expected)

    def test_that_are_themselves_large_are_averaged_on_the_way(self, path, monkeypatch):
        whole = Crop((0, 0), (300, 300), (False, False))
        expected = read(path, 3, whole, (20, 24)).float()
        monkeypatch.setattr(picture, "WINDOW", 30_000)
        assert float((read(path, 3, whole, (20, 24)).float() - expected).abs().mean()) < 1.5

    def test_of_a_slide_of_400_megapixels_take_little_memory(self, tmp_path):
        packed = zlib.compress(np.broadcast_to(np.array([90, 20, 60], np.uint8), (512, 512, 3)).tobytes())
        other = zlib.compress(np.broadcast_to(np.array([10, 200, 30], np.uint8), (512, 512, 3)).tobytes())
        tiles = (other if i == 20 * 40 + 20 else packed for i in range(1600))
        tifffile.imwrite(
            tmp_path / "slide.tif", tiles, shape=(20_000, 20_000, 3), dtype=np.uint8, tile=(512, 512),
            photometric="rgb", compression="zlib",
        )  # fmt: skip
        error = bad(tmp_path / "slide.tif")
        assert error.kind == "too large"
        assert error.detail.endswith("--set modalities.image.data.reader.max_pixels=400000000")
        if (peak := Path("/proc/self/clear_refs")).exists():
            peak.write_text("5")
        before = _peak_kib()
        crop = Crop((10_220, 10_220), (10_260, 10_268), (False, False))  # over the corner of a tile
        x = read(tmp_path / "slide.tif", 3, crop, max_pixels=400_000_000)
        assert x[:, 0, 0].tolist() == [90, 20, 60] and x[:, -1, -1].tolist() == [10, 200, 30]
        assert _peak_kib() - before < 60_000

    def test_of_a_pyramid_come_from_the_smallest_level_that_has_their_pixels(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(np.full((400, 480, 3), 100, np.uint8), photometric="rgb", tile=(32, 32), subifds=2)
            file.write(np.full((200, 240, 3), 150, np.uint8), photometric="rgb", tile=(32, 32), subfiletype=1)
            file.write(np.full((100, 120, 3), 200, np.uint8), photometric="rgb", tile=(32, 32), subfiletype=1)
        for box, level in (((400, 480), 200), ((160, 192), 200), ((100, 120), 150), ((79, 95), 100), ((40, 48), 100)):
            assert read(tmp_path / "a.tif", 3, Crop((0, 0), box, (False, False))).unique().tolist() == [level]
        assert told(tmp_path / "a.tif") == "TIFF RGB 480x400, 3 levels"


def _peak_kib():
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.parametrize("packed", [None, "zlib"])
def test_a_stack_whose_pages_were_written_one_by_one_has_all_of_them_for_bands(tmp_path, packed):
    """tifffile calls them pictures of their own, and its next reader would train on the first."""
    pixels = numbers(5, np.uint16)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for page in pixels.transpose(2, 0, 1):
            file.write(page, photometric="minisblack", compression=packed)
    assert torch.equal(read(path, 5), as_read(pixels))
    assert torch.equal(read(path, 1, bands=[3]), as_read(pixels[..., 3:4]))
    assert "5 pages, the config wants 1" in bad(path, 1).detail and "5 pages" in told(path)


def test_pictures_that_differ_in_size_are_no_stack_and_a_small_one_of_the_same_is_not_the_picture(tmp_path):
    pixels, path = numbers(3, np.uint8), tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels[::4, ::4], photometric="rgb", subfiletype=1)
        file.write(pixels, photometric="rgb")
        file.write(pixels[:20], photometric="rgb")
    assert torch.equal(read(path, 3), as_read(pixels))
    assert told(path) == "TIFF RGB 48x40, first of 2 pictures"
