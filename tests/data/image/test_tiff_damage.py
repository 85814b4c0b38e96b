"""A TIFF that is damaged, or lies about itself, is named; none is believed."""

import io
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
import torch
from data.image.tiffs import SIZE, as_read, bad, encoded, numbers, read, written
from PIL import Image

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import whole

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


class TestDamage:
    def test_a_tag_that_cannot_be_read_has_no_default(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", numbers(3, "u1"), photometric="rgb", rowsperstrip=8)
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            places = {code: file.pages.first.tags[code].offset for code in (258, 262, 273, 277, 278, 279)}
        content = (tmp_path / "a.tif").read_bytes()
        for place in places.values():
            broken = bytearray(content)
            broken[place + 2] = 99  # the type of the tag's value
            (tmp_path / "a.tif").write_bytes(broken)
            assert bad(tmp_path / "a.tif").kind == "damaged"

    @pytest.mark.parametrize("packed", [None, "zlib"])
    def test_a_file_cut_in_its_pixels_is_truncated(self, tmp_path, packed):
        tifffile.imwrite(tmp_path / "a.tif", numbers(3, "u1"), photometric="rgb", compression=packed, rowsperstrip=8)
        content = (tmp_path / "a.tif").read_bytes()
        for length in (len(content) - 1, len(content) - 500, len(content) // 2):
            (tmp_path / "a.tif").write_bytes(content[:length])
            assert bad(tmp_path / "a.tif").kind in ("truncated", "damaged")

    def test_a_strip_of_another_length_than_its_rows_is_damaged(self, tmp_path):
        for size in (40 * 48 - 1, 3 * 40 * 48):
            assert bad(written(tmp_path / "a.tif", {258: 8}, bytes(size)), 1).kind == "truncated"

    @pytest.mark.parametrize("megabytes", [30, 100])
    def test_what_a_strip_holds_beyond_its_rows_takes_no_memory(self, tmp_path, megabytes):
        width = 1 << 12
        packer = zlib.compressobj(1)
        data = packer.compress(bytes([9]) * (40 * width)) + packer.compress(bytes(megabytes << 20)) + packer.flush()
        written(tmp_path / "a.tif", {258: 8, 259: 8, 256: width}, data)
        tracemalloc.start()
        try:
            if megabytes == 30:
                assert bool((read(tmp_path / "a.tif", 1, size=(40, width)) == 9).all())
            else:
                assert bad(tmp_path / "a.tif", 1).kind == "truncated"
            assert tracemalloc.get_traced_memory()[1] < 20 << 20
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(("packed", "number"), [("jpeg2k", 34712), ("jpegxl", 50002), ("lerc", 34887)])
    @pytest.mark.parametrize("tiled", [True, False])
    def test_a_segment_that_says_it_is_larger_than_it_may_be_is_never_unpacked(self, tmp_path, packed, number, tiled):
        codecs = pytest.importorskip("imagecodecs", reason="pip install 'mae-ext[tiff]'")
        encode = getattr(codecs, f"{packed}_encode")
        how = {"tile": (48, 48)} if tiled else {"rowsperstrip": 40}
        for rows, columns in ((how.get("tile") or SIZE), (2000, 3000)):
            held = encode(np.full((rows, columns, 3), 9, np.uint8))
            encoded(tmp_path / "a.tif", iter([held]), number, shape=(*SIZE, 3), photometric="rgb", **how)
            if columns == 48:
                assert bool((read(tmp_path / "a.tif", 3) == 9).all())
            else:
                error = bad(tmp_path / "a.tif", 3)
                assert error.kind == "damaged" and "3000x2000 of" in error.detail

    def test_tiles_that_are_not_there_hold_what_the_file_says_they_do_or_are_damage(self, tmp_path):
        def tiles():
            for i in range(9):
                yield np.full((16, 16), 7, np.uint8) if i != 4 else None

        for name, tags in (("a.tif", []), ("b.tif", [(42113, 2, 4, "200")])):
            tifffile.imwrite(
                tmp_path / name, tiles(), shape=(40, 48), dtype=np.uint8, tile=(16, 16), photometric="minisblack",
                extratags=tags,
            )  # fmt: skip
        assert bad(tmp_path / "a.tif", 1).kind == "truncated"
        sample = ImageReader(SIZE, 1).read(str(tmp_path / "b.tif"), [whole])[0]
        assert sample.valid is not None and not sample.valid[0, 16:32, 16:32].any() and (sample.x == 7).all()
        assert sample.valid.sum() == 40 * 48 - 16 * 16

    def test_tiles_that_are_larger_than_what_they_hold_are_damage(self, tmp_path):
        held = io.BytesIO()
        Image.fromarray(numbers(1, "u1")[:16, :16, 0]).save(held, "JPEG")
        one = {"shape": (40, 48), "photometric": "minisblack"}
        encoded(tmp_path / "a.tif", iter([held.getvalue()]), 7, tile=(48, 48), **one)
        assert "a JPEG of 16x16 where 48x48 are due" in bad(tmp_path / "a.tif", 1).detail
        encoded(tmp_path / "b.tif", iter([bytes(9)] * 3), 7, tile=(16, 1 << 24), **one)
        assert "tiles of 16777216 x 16 pixels" in bad(tmp_path / "b.tif", 1).detail

    def test_a_tiff_of_any_name_or_in_a_shard_is_one(self, tmp_path):
        pixels = numbers(4, "u1")
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unspecified"])
        (tmp_path / "a.jpg").write_bytes((tmp_path / "a.tif").read_bytes())
        assert torch.equal(read(tmp_path / "a.jpg", 4), as_read(pixels))
        content = bytes(512) + (tmp_path / "a.tif").read_bytes() + bytes(99)
        (tmp_path / "x.tar").write_bytes(content)
        address = f"{tmp_path}/x.tar::512+{len(content) - 611}::k.tif"
        assert torch.equal(read(address, 4), as_read(pixels))
