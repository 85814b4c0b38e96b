"""Strips and tiles of every compression are decoded to what they were made of."""

import io
import zlib

import numpy as np
import pytest
import tifffile
import torch
from data.image.tiffs import CHANCE, SIZE, as_read, encoded, numbers, read, written
from PIL import Image

from mae_ext.errors import BadSample

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


class TestCompression:
    @pytest.mark.parametrize("packed", ["tiff_lzw", "packbits", "lzma", "zstd", "tiff_adobe_deflate", "tiff_deflate"])
    @pytest.mark.parametrize("predictor", [1, 2])
    @pytest.mark.parametrize("mode", ["RGB", "I;16"])
    def test_gives_the_bytes_back(self, tmp_path, packed, predictor, mode):
        pixels = numbers(3, "u1") if mode == "RGB" else numbers(1, "u2")
        image = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
        image.save(tmp_path / "a.tif", compression=packed, tiffinfo={317: predictor} if packed != "packbits" else {})
        assert torch.equal(read(tmp_path / "a.tif", pixels.shape[-1]), as_read(pixels))

    @pytest.mark.parametrize(("packed", "number"), [("zstd", 34926), ("tiff_deflate", 50013)])
    def test_of_other_numbers_is_the_same(self, tmp_path, packed, number):
        pixels = numbers(3, "u1")
        Image.fromarray(pixels).save(tmp_path / "a.tif", compression=packed)
        content = bytearray((tmp_path / "a.tif").read_bytes())
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            place = file.pages[0].tags[259].valueoffset
        content[place : place + 2] = number.to_bytes(2, "little")
        (tmp_path / "a.tif").write_bytes(content)
        assert torch.equal(read(tmp_path / "a.tif", 3), as_read(pixels))

    @pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
    def test_undoes_differences_of_floats(self, tmp_path, kind):
        pixels = numbers(3, kind)
        size, flat = pixels.dtype.itemsize, pixels.astype(f">{kind}").reshape(SIZE[0], -1)
        split = (
            np.frombuffer(flat.tobytes(), np.uint8)
            .reshape(SIZE[0], -1, size)
            .transpose(0, 2, 1)
            .reshape(SIZE[0], -1, 3)
        )
        steps = np.diff(split, axis=1, prepend=np.zeros((SIZE[0], 1, 3), np.uint8)).tobytes()
        path = written(
            tmp_path / "a.tif", {258: 8 * size, 259: 8, 262: 2, 277: 3, 317: 3, 339: 3}, zlib.compress(steps)
        )
        assert torch.equal(read(path, 3), as_read(pixels.astype(np.float32)))

    @pytest.mark.parametrize(("photometric", "channels"), [("ycbcr", 3), ("minisblack", 1)])
    def test_of_jpeg_tiles_is_what_each_tile_shows(self, tmp_path, photometric, channels):
        y, x = np.mgrid[:40, :48]
        pixels = np.stack([y * 5, x * 5, (x + y) * 2], -1).astype(np.uint8)[..., :channels]
        padded = np.pad(pixels, ((0, 8), (0, 0), (0, 0)), mode="edge").squeeze()

        def tiles():
            for top in range(0, 48, 16):
                for left in range(0, 48, 16):
                    held = io.BytesIO()
                    tile = Image.fromarray(padded[top : top + 16, left : left + 16])
                    tile.save(held, "JPEG", quality=95, subsampling=0)
                    yield held.getvalue()

        encoded(tmp_path / "a.tif", tiles(), 7, shape=pixels.squeeze().shape, tile=(16, 16), photometric=photometric)
        assert float((read(tmp_path / "a.tif", channels).float() - as_read(pixels).float()).abs().max()) < 12

    @pytest.mark.parametrize("packed", ["group3", "group4", "tiff_ccitt"])
    def test_of_fax_is_black_and_white(self, tmp_path, packed):
        image = Image.fromarray(CHANCE.random(SIZE) > 0.5)
        image.save(tmp_path / "a.tif", compression=packed)
        assert torch.equal(read(tmp_path / "a.tif", 1)[0] > 0, torch.from_numpy(np.array(image)))

    def test_that_needs_another_library_names_it(self, tmp_path):
        held = io.BytesIO()
        Image.fromarray(numbers(3, "u1")).save(held, "JPEG2000", no_jp2=True)
        encoded(
            tmp_path / "a.tif", iter([held.getvalue()]), 34712, shape=(*SIZE, 3), photometric="rgb", rowsperstrip=40
        )
        try:
            assert read(tmp_path / "a.tif", 3).shape == (3, *SIZE)
        except BadSample as error:
            assert error.kind == "unsupported" and "pip install 'mae-ext[tiff]'" in error.detail  # noqa: PT017
