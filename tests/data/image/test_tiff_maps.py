"""Microscopes' files and maps: planes, channels by name, and pixels where nothing was measured."""

import numpy as np
import pytest
import tifffile
import torch
from data.image.tiffs import CHANCE, SIZE, bad, numbers, read, told

from mae_ext.data.image import picture
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import Crop, Sample, stack_valid, whole

NAMES = ["DAPI", "GFP", "RFP"]
BANDS = (
    '<GDALMetadata><Item name="DESCRIPTION" sample="0" role="description">red</Item>'
    '<Item name="STATISTICS_MEAN" sample="0">7</Item>'
    '<Item name="DESCRIPTION" sample="1" role="description">n&#228;her</Item></GDALMetadata>'
)


def microscope(path, axes="TCZYX", shape=(2, 3, 4), **how):
    """Numbers of (t, c, z), and the file that holds them."""
    pixels = (CHANCE.random((*shape, *SIZE)) * 65535).astype(np.uint16)
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": axes, "Channel": {"Name": NAMES}}, **how)
    return pixels


def a_map(path, pixels, nodata=None, described=True, **how):
    """A GeoTIFF as GDAL writes it: its tags, and no others."""
    scale = (33550, "d", 3, (10.0, 10.0, 0.0), True)
    texts = [(42112, "s", 0, BANDS, True)] * described + [(42113, "s", 0, str(nodata), True)] * (nodata is not None)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, extratags=[scale, *texts], **how)


def placed(path, channels, size=SIZE, crop=None, **options) -> Sample:
    sampler = whole if crop is None else (lambda extent: crop)
    return ImageReader(size, channels, **options).read(str(path), [sampler])[0]


class TestPlanes:
    @pytest.mark.parametrize("order", ["TCZYX", "TZCYX", "CTZYX"])
    def test_of_a_stack_are_those_that_tifffile_has_there(self, tmp_path, order):
        shape = tuple({"T": 2, "C": 3, "Z": 4}[letter] for letter in order[:3])
        microscope(tmp_path / "a.ome.tif", order, shape)
        stored = tifffile.imread(tmp_path / "a.ome.tif")
        with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
            axes = file.series[0].axes
        at = [{"T": 1, "C": slice(None), "Z": 2}[letter] for letter in axes[:3]]
        x = read(tmp_path / "a.ome.tif", 3, z=2, t=-1)
        assert torch.equal(x, torch.from_numpy(stored[tuple(at)].astype(np.float32) / np.float32(65535)))
        assert torch.equal(read(tmp_path / "a.ome.tif", 3, z="middle", t=1), x)

    def test_that_are_not_asked_for_are_named_with_their_axes(self, tmp_path):
        microscope(tmp_path / "a.ome.tif")
        assert "24 pages (2 t x 3 channels x 4 z)" in told(tmp_path / "a.ome.tif")
        assert bad(tmp_path / "a.ome.tif", 3).detail.startswith("24 pages (2 t x 3 channels x 4 z), the config wants 3")
        assert "several channels have the name 'GFP'" in bad(tmp_path / "a.ome.tif", 1, bands=["GFP"]).detail
        assert "z=4 is asked for, and there are 4" in bad(tmp_path / "a.ome.tif", 3, z=4, t=0).detail

    def test_along_an_axis_that_a_file_has_not_are_the_only_one(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", numbers(1, "u1")[..., 0])
        assert read(tmp_path / "a.tif", 1, z="middle", t=0).shape == (1, *SIZE)
        assert "t=1" in bad(tmp_path / "a.tif", 1, t=1).detail

    def test_of_imagej_are_those_of_its_axes(self, tmp_path):
        pixels = (CHANCE.random((2, 4, 3, *SIZE)) * 65535).astype(np.uint16)
        tifffile.imwrite(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "TZCYX"})
        expected = torch.from_numpy(pixels[1, 3].astype(np.float32) / np.float32(65535))
        assert torch.equal(read(tmp_path / "a.tif", 3, z=3, t=1), expected)

    def test_that_lie_behind_the_end_of_a_file_that_was_cut_are_missed(self, tmp_path):
        microscope(tmp_path / "a.ome.tif", "CYX", (3,))
        content = (tmp_path / "a.ome.tif").read_bytes()
        (tmp_path / "b.ome.tif").write_bytes(content[: len(content) * 2 // 3])  # the first page whole, and grey
        error = bad(tmp_path / "b.ome.tif", 3)
        assert error.kind == "truncated" and "the next page lies at" in error.detail


class TestNames:
    def test_of_ome_pick_and_order_channels(self, tmp_path):
        pixels = microscope(tmp_path / "a.ome.tif", tile=(16, 32), compression="zlib")
        x = read(tmp_path / "a.ome.tif", 2, bands=["rfp", "DAPI"], z=0, t=1)
        expected = pixels[1, [2, 0], 0].astype(np.float32) / np.float32(65535)
        assert torch.equal(x, torch.from_numpy(expected))
        assert "named DAPI, GFP, RFP" in ImageReader(SIZE, z=0, t=0).describe(str(tmp_path / "a.ome.tif"))
        error = bad(tmp_path / "a.ome.tif", 1, bands=["Cy5"], z=0, t=0)
        assert error.kind == "channels" and "no channel has the name 'Cy5' (names: DAPI, GFP, RFP)" in error.detail

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    def test_of_bands_are_gdals_descriptions(self, tmp_path, planar):
        pixels = numbers(2, "u2")
        stored = pixels if planar == "contig" else pixels.transpose(2, 0, 1)
        a_map(tmp_path / "a.tif", stored, planarconfig=planar)
        x = read(tmp_path / "a.tif", 2, bands=["näher", "red"])
        assert torch.equal(x, torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1) / np.float32(65535)))

    def test_of_colours_are_theirs(self, tmp_path):
        pixels = numbers(3, "u1")
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
        assert torch.equal(read(tmp_path / "a.tif", 1, bands=["blue"])[0], torch.from_numpy(pixels[..., 2]))

    def test_that_no_file_gives_say_to_take_numbers(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", numbers(2, "u2"), photometric="minisblack", planarconfig="contig")
        assert "names: none; take them by number, 0 to 1" in bad(tmp_path / "a.tif", 1, bands=["red"]).detail


class TestNodata:
    @pytest.mark.parametrize(
        ("kind", "nodata"),
        [("f4", "nan"), ("f4", -9999), ("f8", "-1.7976931348623157e+308"), ("i2", -32768), ("u2", 0), ("u1", 0)],
    )
    def test_is_not_valid_and_values_beside_it_are_as_without_it(self, tmp_path, kind, nodata):
        pixels = numbers(2, kind, 100) + np.ones((), kind)
        holed = pixels.copy()
        holed[10:20, 30:] = np.array(float(nodata)).astype(kind)
        a_map(tmp_path / "a.tif", holed, nodata, planarconfig="contig")
        sample, clean = placed(tmp_path / "a.tif", 2), pixels.transpose(2, 0, 1)
        expected = torch.ones(1, *SIZE, dtype=torch.bool)
        expected[:, 10:20, 30:] = False
        assert sample.valid is not None and torch.equal(sample.valid, expected)
        clean = (
            clean / np.float32(65535) if kind in ("i2", "u2") else clean.astype(np.float32 if kind != "u1" else kind)
        )
        there = expected.expand(2, -1, -1)
        assert torch.equal(sample.x[there], torch.from_numpy(clean.astype(sample.x.numpy().dtype))[there])
        assert torch.isfinite(sample.x.float()).all()

    def test_does_not_bleed_into_what_is_scaled_beside_it(self, tmp_path):
        pixels = np.full((*SIZE, 1), 7, np.float32)
        pixels[:, 21:] = -9999
        a_map(tmp_path / "a.tif", pixels[..., 0], -9999, described=False)
        for size in ((20, 24), (80, 96), (13, 17)):
            sample = placed(tmp_path / "a.tif", 1, size)
            assert sample.valid is not None and 0.4 < sample.valid.float().mean() < 0.5
            assert torch.allclose(sample.x, torch.tensor(7.0))

    def test_is_where_its_crop_and_flip_put_it(self, tmp_path):
        pixels = numbers(1, "f4")
        pixels[5, 7] = np.nan
        a_map(tmp_path / "a.tif", pixels[..., 0], described=False)
        sample = placed(tmp_path / "a.tif", 1, (10, 12), Crop((0, 0), (10, 12), (False, True)))
        assert sample.valid is not None and (~sample.valid).nonzero().tolist() == [[0, 5, 4]]

    def test_of_0_has_to_be_in_all_bands(self, tmp_path):
        pixels = np.full((*SIZE, 3), 9, np.uint8)
        pixels[0, 0, 1], pixels[1, 1] = 0, 0
        a_map(tmp_path / "a.tif", pixels, 0, planarconfig="contig", described=False)
        sample = placed(tmp_path / "a.tif", 3)
        assert sample.valid is not None and (~sample.valid).nonzero().tolist() == [[0, 1, 1]]

    def test_is_only_looked_for_in_the_bands_that_are_taken(self, tmp_path):
        pixels = numbers(2, "f4")
        pixels[..., 1] = np.nan
        a_map(tmp_path / "a.tif", pixels, "nan", planarconfig="contig")
        assert placed(tmp_path / "a.tif", 1, bands=["red"]).valid is None
        nothing = placed(tmp_path / "a.tif", 1, bands=[1])
        assert nothing.valid is not None and not nothing.valid.any() and not nothing.x.any()

    def test_is_averaged_around_where_a_crop_is_large(self, tmp_path, monkeypatch):
        pixels = np.full((*SIZE, 1), 7, np.float32)
        pixels[::4, :24] = -9999
        pixels[:, 32:] = -9999
        a_map(tmp_path / "a.tif", pixels[..., 0], -9999, described=False, tile=(16, 16))
        monkeypatch.setattr(picture, "WINDOW", 100)
        sample = placed(tmp_path / "a.tif", 1, (10, 12))
        assert sample.valid is not None and sample.valid[0, 0].tolist() == [True] * 8 + [False] * 4
        assert torch.allclose(sample.x[:, sample.valid[0]], torch.tensor(7.0))

    def test_is_what_a_mask_beside_the_picture_says(self, tmp_path):
        pixels, mask = numbers(3, "u1"), np.ones(SIZE, bool)
        mask[:, 40:] = False
        with tifffile.TiffWriter(tmp_path / "a.tif") as file:
            file.write(pixels, photometric="rgb", metadata=None, extratags=[(33550, "d", 3, (1.0, 1.0, 0.0), True)])
            file.write(mask, photometric="mask", subfiletype=4, metadata=None)
        sample = placed(tmp_path / "a.tif", 3)
        assert sample.valid is not None and torch.equal(sample.valid[0], torch.from_numpy(mask))
        assert torch.equal(sample.x[..., :40], torch.from_numpy(pixels.transpose(2, 0, 1))[..., :40])

    def test_that_is_not_a_number_is_bad_where_no_map_says_so(self, tmp_path):
        pixels = numbers(1, "f4")[..., 0]
        pixels[0, 0] = np.nan
        tifffile.imwrite(tmp_path / "a.tif", pixels)
        assert bad(tmp_path / "a.tif", 1).kind == "non-finite"
        pixels[0, 0] = np.inf
        a_map(tmp_path / "b.tif", pixels, "nan", described=False)
        assert bad(tmp_path / "b.tif", 1).kind == "non-finite"

    def test_of_one_sample_leaves_the_others_of_a_batch_whole(self):
        holed = torch.ones(1, 2, 2, dtype=torch.bool)
        holed[0, 0, 0] = False
        x = torch.zeros(1, 2, 2)
        both = stack_valid([Sample(x, "a"), Sample(x, "b", holed)])
        assert both is not None and both.tolist() == [[[[True, True]] * 2], [[[False, True], [True, True]]]]
        assert stack_valid([Sample(x, "a")]) is None
