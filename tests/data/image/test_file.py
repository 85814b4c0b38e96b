"""Which picture files are opened, told by their first bytes, and how many bits of them are read."""

import io
import struct
import zlib
from importlib.util import find_spec

import av
import numpy as np
import pytest
import torch
from PIL import Image

from mae_ext.data.image import file as image_file
from mae_ext.data.image.file import BY_NAME, FORMATS, SUFFIXES
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import Crop
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample

CHANCE = np.random.default_rng(0)
SIZE = (48, 64)


def photo():
    y, x = np.mgrid[:48, :64]
    return np.stack([x * 4, y * 5, (x + y) * 2], -1).astype(np.uint8)


def read(path, channels=3, **options):
    return ImageReader(SIZE, channels, **options).read(str(path), [lambda e: Crop((0, 0), e, (False, False))])[0].x


def bad(path, channels=3, **options):
    with pytest.raises(BadSample) as caught:
        read(path, channels, **options)
    return caught.value


def chw(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def off(path):
    return float((read(path).float() - chw(photo()).float()).abs().max())


def box(name, *parts):
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def heic(path, turn=0):
    """One HEVC key frame in the boxes of HEIF (ISO/IEC 23008-12); turn: quarter turns against the clock to show it."""
    held = io.BytesIO()
    with av.open(held, "w", format="mp4") as film:
        stream = film.add_stream("libx265", rate=1, options={"crf": "4", "x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for packet in [*stream.encode(av.VideoFrame.from_ndarray(photo(), format="rgb24")), *stream.encode(None)]:
            film.mux(packet)
    held.seek(0)
    with av.open(held) as film:
        stream = film.streams.video[0]
        parameters = bytes(stream.codec_context.extradata)
        data = bytes(next(film.demux(stream)))
    full = bytes(4)
    properties = [box(b"hvcC", parameters), box(b"ispe", full, struct.pack(">II", 64, 48))]
    properties += [box(b"irot", bytes([turn]))] if turn else []
    links = bytes([len(properties), *(0x80 | i for i in range(1, len(properties) + 1))])
    entry = box(b"infe", b"\2\0\0\0", struct.pack(">HH", 1, 0), b"hvc1\0")

    def meta(place):
        return box(
            b"meta", full,
            box(b"hdlr", full, full, b"pict", bytes(13)),
            box(b"pitm", full, struct.pack(">H", 1)),
            box(b"iloc", full, b"\x44\0", struct.pack(">HHHHII", 1, 1, 0, 1, place, len(data))),
            box(b"iinf", full, struct.pack(">H", 1), entry),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", full, struct.pack(">IH", 1, 1), links)),
        )  # fmt: skip

    head = box(b"ftyp", b"heic", full, b"mif1heic")
    path.write_bytes(head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", data))
    return path


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "form"),
        [
            ("a.jfif", "JPEG"), ("a.JPE", "JPEG"), ("a.pjpeg", "JPEG"), ("a.apng", "PNG"), ("a.avif", "AVIF"),
            ("a.j2k", "JPEG2000"), ("a.jpf", "JPEG2000"), ("a.qoi", "QOI"), ("a.sgi", "SGI"), ("a.dds", "DDS"),
            ("a.tga", "TGA"), ("a.VST", "TGA"), ("a.pcx", "PCX"), ("a.dib", "DIB"), ("a.pnm", "PPM"), ("a.tf8", "TIFF"),
            ("a.heic", "JPEG"),
        ],
    )  # fmt: skip
    def test_are_listed_and_read_under_every_suffix_that_they_go_by(self, tmp_path, name, form):
        lossy = {"quality": 95, "subsampling": 0} if form == "JPEG" else {"quality": 95} if form == "AVIF" else {}
        Image.fromarray(photo()).save(tmp_path / name, format=form, **lossy)
        items = list_items(str(tmp_path), SUFFIXES)
        assert list(items.addresses) == [str(tmp_path / name)] and not items.ignored
        assert off(tmp_path / name) <= (14 if lossy else 0)
        assert ImageReader(SIZE).describe(str(tmp_path / name)).split()[0] == form

    @pytest.mark.parametrize("turn", [0, 1, 3])
    def test_of_phones_are_read_upright(self, tmp_path, turn):
        pytest.importorskip("pi_heif")
        heic(tmp_path / "a.heic", turn)
        upright = np.rot90(photo(), turn)
        reader = ImageReader(upright.shape[:2])
        (sample,) = reader.read(str(tmp_path / "a.heic"), [lambda e: Crop((0, 0), e, (False, False))])
        assert float((sample.x.float() - chw(upright).float()).abs().mean()) < 3
        assert reader.describe(str(tmp_path / "a.heic")).startswith("HEIF RGB ")
        (tmp_path / "b.jpg").write_bytes((tmp_path / "a.heic").read_bytes())  # as phones' pictures are renamed
        assert torch.equal(read(tmp_path / "b.jpg"), read(tmp_path / "a.heic"))
        content = (tmp_path / "a.heic").read_bytes()
        for length in (20, 200, len(content) - 200):
            (tmp_path / "a.heic").write_bytes(content[:length])
            assert bad(tmp_path / "a.heic").kind in ("damaged", "truncated", "unreadable")

    def test_without_their_library_say_how_to_have_it(self, tmp_path, monkeypatch):
        (tmp_path / "a.heic").write_bytes(box(b"ftyp", b"heic", bytes(4), b"mif1heic") + bytes(99))
        monkeypatch.setattr(image_file, "find_spec", lambda name: None if name == "pi_heif" else find_spec(name))
        error = bad(tmp_path / "a.heic")
        assert error.kind == "unsupported" and "pip install 'mae-ext[heif]'" in error.detail

    def test_that_begin_with_nothing_of_their_own_are_no_guess(self, tmp_path):
        Image.fromarray(photo()).save(tmp_path / "a.jpg", format="TGA")
        assert bad(tmp_path / "a.jpg").kind == "not an image"
        assert not {"EPS", "PSD", "WMF", *BY_NAME.values()} & set(FORMATS)

    def test_of_several_pictures_say_that_the_first_is_read(self, tmp_path):
        first, second = Image.fromarray(photo()), Image.fromarray(255 - photo())
        for name, form in (("a.mpo", "MPO"), ("b.jpg", "MPO"), ("c.avif", "AVIF"), ("d.gif", "GIF")):
            first.save(tmp_path / name, format=form, save_all=True, append_images=[second], quality=95)
            assert float((read(tmp_path / name).float() - chw(photo()).float()).abs().mean()) < 8
            assert ImageReader(SIZE).describe(str(tmp_path / name)).endswith("first of 2 frames")

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF", "QOI"])
    def test_over_pillows_limit_are_read_where_ours_allows_them(self, tmp_path, monkeypatch, form):
        """Pillow's is one for the whole program: it is neither in the way nor changed."""
        Image.fromarray(photo()).save(tmp_path / "a", format=form)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        assert read(tmp_path / "a", max_pixels=48 * 64).shape == (3, *SIZE) and Image.MAX_IMAGE_PIXELS == 1000
        error = bad(tmp_path / "a", max_pixels=48 * 64 - 1)
        assert error.kind == "too large"
        assert error.detail.endswith("--set modalities.image.data.reader.max_pixels=3072")


def png(path, pixels, colours):
    """A PNG of 16 bits a channel; colours: its colour type."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colours, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


class TestSixteenBits:
    def test_of_colours_are_all_read(self, tmp_path):
        pixels = CHANCE.integers(0, 4096, (*SIZE, 3), dtype=np.uint16)  # of a camera of 12 bits
        expected = chw(pixels / np.float32(65535))
        assert torch.equal(read(png(tmp_path / "a.png", pixels, 2)), expected)
        (tmp_path / "a.ppm").write_bytes(b"P6 64 48 4095\n" + pixels.astype(">u2").tobytes())
        assert torch.equal(read(tmp_path / "a.ppm"), chw(pixels / np.float32(4095)))
        (tmp_path / "a.ppm").write_bytes((tmp_path / "a.ppm").read_bytes()[:-1])
        assert bad(tmp_path / "a.ppm").kind == "truncated"

    @pytest.mark.parametrize(("colours", "bands"), [(6, 4), (4, 2)])
    def test_under_alpha_lie_on_white(self, tmp_path, colours, bands):
        pixels = CHANCE.integers(0, 65536, (*SIZE, bands), dtype=np.uint16)
        share = torch.from_numpy(pixels / 65535).permute(2, 0, 1)
        path = png(tmp_path / "a.png", pixels, colours)
        over = (share[:-1] * share[-1:] + 1 - share[-1:]).expand(3, -1, -1)
        torch.testing.assert_close(read(path).double(), over, atol=1e-6, rtol=0)
        assert torch.equal(read(path, 4)[3:], share[-1:].float())

    def test_that_are_damaged_are_refused(self, tmp_path):
        path = png(tmp_path / "a.png", CHANCE.integers(0, 65536, (*SIZE, 3), dtype=np.uint16), 2)
        content = bytearray(path.read_bytes())
        content[200] ^= 1
        path.write_bytes(content)
        assert bad(path).kind in ("damaged", "truncated")


class TestBands:
    def test_choose_among_the_colours_of_any_file(self, tmp_path):
        Image.fromarray(photo()).save(tmp_path / "a.png")
        assert torch.equal(read(tmp_path / "a.png", 2, bands=[2, 0]), chw(photo()[..., [2, 0]]))
        Image.fromarray(photo()[..., 0]).save(tmp_path / "b.png")
        assert bad(tmp_path / "b.png", 1, bands=[1]).kind == "channels"

    def test_choose_among_those_of_an_array(self, tmp_path):
        pixels = CHANCE.integers(0, 65536, (1, *SIZE, 13), dtype=np.uint16)
        np.savez(tmp_path / "a.npz", train_images=pixels)
        x = read(f"{tmp_path}/a.npz::train_images::0", 3, bands=[3, 2, 1])
        assert torch.equal(x, chw(pixels[0][..., [3, 2, 1]] / np.float32(65535)))

    @pytest.mark.parametrize("bands", [[0, 1], 3, [0, 1, -1], [0, 1, 2.0], "012"])
    def test_that_cannot_be_meant_are_refused(self, bands):
        with pytest.raises(ValueError, match="bands="):
            ImageReader(SIZE, 3, bands=bands)
