"""A picture that cannot be read is named by its kind of damage, and is never a picture."""

import io
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.image.photos import bad, photo, read, save, verdict, whole
from PIL import Image, ImageFile

from mae_ext.data.image.reader import ImageReader
from mae_ext.errors import BadSample

# Pillow remarks on damage that it goes on to refuse, or that changes nothing.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


def png_header(width: int, height: int) -> bytes:
    """A valid PNG of that size whose one data chunk inflates without end."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def peak_kib() -> int:
    """Highest resident memory since the last reset."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1])


class TestBadFiles:
    @pytest.mark.parametrize(
        ("name", "content", "kind"),
        [
            ("zero bytes.jpg", b"", "empty"),
            ("text.jpg", b"this is not a photo\n" * 50, "not an image"),
            ("page.png", b"<!DOCTYPE html><html>404</html>", "not an image"),
            ("program.jpg", b"\x7fELF" + bytes(400), "not an image"),
            ("eps.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
            ("start.jpg", b"\xff\xd8\xff\xe0", "damaged"),
            ("start.png", b"\x89PNG\r\n\x1a\n", "damaged"),
            ("start.gif", b"GIF89a", "damaged"),
            ("start.tif", b"II*\0", "damaged"),
            ("start.webp", b"RIFF\0\0\0\0WEBP", "damaged"),
        ],
    )
    def test_are_named_by_kind(self, tmp_path: Path, name: str, content: bytes, kind: str) -> None:
        (tmp_path / name).write_bytes(content)
        assert bad(str(tmp_path / name)).kind == kind

    def test_a_missing_file_and_a_folder_are_named(self, tmp_path: Path) -> None:
        assert bad(str(tmp_path / "none.jpg")).kind == "no such file"
        assert bad(str(tmp_path)).kind == "not a regular file"

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
    def test_a_jpeg_cut_anywhere_is_never_half_a_picture(
        self, tmp_path: Path, mode: str, options: dict[str, Any]
    ) -> None:
        address = save(tmp_path / "a.jpg", Image.fromarray(photo(96, 128)).convert(mode), quality=95, **options)
        content, good = Path(address).read_bytes(), read(address)
        for length in {*range(3, len(content), max(1, len(content) // 20)), *range(len(content) - 8, len(content))}:
            Path(address).write_bytes(content[:length])
            with pytest.raises(BadSample) as caught:
                assert not torch.equal(read(address), good), "whole, and so not cut"
            assert caught.value.kind in ("truncated", "damaged")

    @pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif", "webp", "ppm", "jp2"])
    def test_other_formats_cut_anywhere_are_right_or_refused(self, tmp_path: Path, suffix: str) -> None:
        address = save(tmp_path / f"a.{suffix}", photo())
        content, good = Path(address).read_bytes(), read(address)
        refused = 0
        for length in range(1, len(content), max(1, len(content) // 20)):
            Path(address).write_bytes(content[:length])
            try:
                assert torch.equal(read(address), good)
            except BadSample:
                refused += 1
        assert refused >= 18

    def test_a_flipped_bit_in_a_png_is_always_found(self, tmp_path: Path) -> None:
        chance = np.random.default_rng(0)
        address = save(tmp_path / "a.png", chance.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        content = Path(address).read_bytes()
        good = read(address)
        for place in chance.integers(8, len(content), 60):
            damaged = bytearray(content)
            damaged[place] ^= 1 << int(chance.integers(8))
            Path(address).write_bytes(damaged)
            kind = verdict(address)
            if kind == "good":
                assert torch.equal(read(address), good)
            else:
                assert kind in ("damaged", "truncated", "not an image", "too large", "unsupported")

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "webp", "bmp", "ppm", "jp2"])
    def test_random_damage_raises_nothing_but_a_verdict(self, tmp_path: Path, suffix: str) -> None:
        chance = np.random.default_rng(len(suffix))
        address = save(tmp_path / f"a.{suffix}", photo())
        content = Path(address).read_bytes()
        kinds = set()
        for _ in range(40):
            damaged = bytearray(content)
            for place in chance.integers(0, min(len(content), 400), 1 + int(chance.integers(6))):
                damaged[place] = int(chance.integers(256))
            Path(address).write_bytes(damaged)
            kinds.add(verdict(address))
        allowed = {
            "good",
            "damaged",
            "truncated",
            "not an image",
            "too large",
            "unsupported",
            "channels",
            "out of range",
        }
        assert len(kinds) > 1 and kinds <= allowed

    def test_a_pixel_bomb_is_refused_from_its_header(self, tmp_path: Path) -> None:
        bombs = {"png": png_header(65_000, 65_000), "wide.png": png_header(2_000_000_000, 1)}
        gif = io.BytesIO()
        Image.new("P", (8, 8)).save(gif, "GIF")
        bombs["gif"] = gif.getvalue()[:6] + struct.pack("<HH", 65_000, 65_000) + gif.getvalue()[10:]
        bmp = io.BytesIO()
        Image.new("RGB", (8, 8)).save(bmp, "BMP")
        bombs["bmp"] = bmp.getvalue()[:18] + struct.pack("<ii", 65_000, 65_000) + bmp.getvalue()[26:]
        bombs["ppm"] = b"P6 65000 65000 255\n" + bytes(100)
        jpeg = io.BytesIO()
        Image.new("RGB", (8, 8)).save(jpeg, "JPEG")
        at = jpeg.getvalue().index(b"\xff\xc0") + 5
        bombs["jpg"] = jpeg.getvalue()[:at] + struct.pack(">HH", 65_000, 65_000) + jpeg.getvalue()[at + 4 :]
        linux = sys.platform == "linux"
        for name, content in bombs.items():
            (tmp_path / f"bomb.{name}").write_bytes(content)
            if linux:
                Path("/proc/self/clear_refs").write_text("5")
            before, began = peak_kib() if linux else 0, time.monotonic()
            error = bad(str(tmp_path / f"bomb.{name}"))
            assert error.kind == "too large", f"{name}: {error}"
            assert time.monotonic() - began < 0.5
            assert not linux or peak_kib() - before < 50_000

    def test_the_limit_is_the_readers_own(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.png", photo(100, 100))
        assert ImageReader((16, 16), max_pixels=10_000).read(address, [whole])
        error = bad(address, max_pixels=9_999)
        assert error.kind == "too large" and "100x100" in error.detail
        Path(address).write_bytes(png_header(10_000, 10_001))
        assert bad(address).kind == "too large"

    def test_compressed_text_in_a_png_is_no_way_around_it(self, tmp_path: Path) -> None:
        text = b"zTXtcomment\0\0" + zlib.compress(bytes(200 << 20), 9)
        chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        content = Path(save(tmp_path / "a.png", photo())).read_bytes()
        (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
        began = time.monotonic()
        assert bad(str(tmp_path / "a.png")).kind in ("damaged", "too large")
        assert time.monotonic() - began < 1

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_one_value_that_is_not_finite_is_enough(self, tmp_path: Path, value: float) -> None:
        pixels = np.ones((48, 64), np.float32)
        pixels[40, 60] = value
        error = bad(save(tmp_path / "a.tif", Image.fromarray(pixels)))
        assert error.kind == "non-finite" and "1 of 3072" in error.detail

    @pytest.mark.parametrize("values", [[-1, 5], [0, 65536]])
    def test_integers_below_0_and_of_32_bits_have_the_scale_of_16_bits(self, tmp_path: Path, values: list[int]) -> None:
        address = save(tmp_path / "a.tif", Image.fromarray(np.array([values], np.int32)))
        (sample,) = ImageReader((1, 2), 1).read(address, [whole])
        assert sample.x.flatten().tolist() == pytest.approx([v / 65535 for v in values])

    def test_no_file_is_read_past_a_cut_because_of_us(self) -> None:
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False

    def test_bad_files_leave_no_memory_behind(self, tmp_path: Path) -> None:
        psutil = pytest.importorskip("psutil")
        address = save(tmp_path / "a.jpg", photo(600, 800), quality=95)
        Path(address).write_bytes(Path(address).read_bytes()[:-2000])
        for _ in range(20):
            bad(address)
        before = psutil.Process().memory_info().rss
        for _ in range(100):
            bad(address)
        assert psutil.Process().memory_info().rss - before < 10 << 20
