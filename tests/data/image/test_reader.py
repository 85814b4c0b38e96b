"""The image reader: right pixels for every mode, orientation, crop and array."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.image.photos import EXIF_ORIENTATION, bad, box, chw, distance, photo, read, save, whole
from PIL import Image, ImageOps

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import center_sampler, evaluation_sampler
from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import Crop
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample

# Pillow remarks on damage that it goes on to refuse, or that changes nothing.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


REAL = Path(__file__).parents[4] / "shared" / "data" / "image"


class TestPixels:
    @pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "ppm"])
    def test_are_those_of_the_file_at_its_own_size(self, tmp_path: Path, suffix: str) -> None:
        options = {"lossless": True} if suffix == "webp" else {}
        x = read(save(tmp_path / f"a.{suffix}", photo(), **options))
        assert x.dtype == torch.uint8
        assert torch.equal(x, chw(photo()))

    def test_the_suffix_does_not_matter_the_first_bytes_do(self, tmp_path: Path) -> None:
        assert torch.equal(read(save(tmp_path / "a.jpg", photo(), format="PNG")), chw(photo()))

    @pytest.mark.parametrize("size", [(24, 32), (97, 31), (5, 7)])
    def test_are_scaled_to_exactly_the_asked_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        x = read(save(tmp_path / "a.png", photo(480, 640)), size)
        expected = Image.fromarray(photo(480, 640)).resize(size[::-1], Image.Resampling.BICUBIC)
        assert distance(x, chw(np.asarray(expected))) <= 2

    @pytest.mark.parametrize("shrink", [1.5, 3, 4, 9])
    def test_details_finer_than_the_output_are_averaged_and_not_skipped(self, tmp_path: Path, shrink: float) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (int(24 * shrink), int(32 * shrink), 3), dtype=np.uint8)
        expected = Image.fromarray(noise).resize((32, 24), Image.Resampling.BICUBIC)
        off = (read(save(tmp_path / "a.png", noise), (24, 32)).float() - chw(np.asarray(expected)).float()).abs()
        assert off.mean() < (1 if shrink < 4 else 6)  # a box filter goes first where an image is much larger

    def test_are_writable_and_own_their_memory(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.png", photo())
        first = read(address)
        first.zero_()
        assert torch.equal(read(address), chw(photo()))

    def test_grey_is_repeated_and_colour_becomes_luma(self, tmp_path: Path) -> None:
        grey, colour = save(tmp_path / "g.png", photo()[..., 0]), save(tmp_path / "c.png", photo())
        assert torch.equal(read(grey), chw(photo()[..., 0]).expand(3, -1, -1))
        luma = photo().astype(float) @ [0.299, 0.587, 0.114]
        assert distance(read(colour, channels=1), torch.from_numpy(luma)[None]) <= 1

    def test_luma_of_a_jpeg_is_the_same_by_the_short_way(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.jpg", photo(), quality=95)
        rgb = np.asarray(Image.open(address)).astype(float)
        assert distance(read(address, channels=1), torch.from_numpy(rgb @ [0.299, 0.587, 0.114])[None]) <= 2

    def test_four_channels_are_rgb_and_opaque_alpha(self, tmp_path: Path) -> None:
        x = read(save(tmp_path / "a.png", photo()), channels=4)
        assert torch.equal(x[:3], chw(photo())) and bool((x[3] == 255).all())

    def test_alpha_is_composited_on_white(self, tmp_path: Path) -> None:
        pixels = np.zeros((48, 64, 4), np.uint8)
        pixels[..., 0], pixels[:, 32:, 3] = 200, 255
        x = read(save(tmp_path / "a.png", Image.fromarray(pixels)))
        assert bool((x[:, :, :30] == 255).all())
        assert x[:, 20, 40].tolist() == [200, 0, 0]
        alpha = read(save(tmp_path / "a.png", Image.fromarray(pixels)), channels=4)
        assert torch.equal(alpha[3], chw(pixels)[3])

    def test_hidden_colours_never_bleed_through_transparency(self, tmp_path: Path) -> None:
        pixels = np.zeros((480, 640, 4), np.uint8)
        pixels[..., 1] = 255  # green under full transparency, beside opaque black
        pixels[:, ::2] = [0, 0, 0, 255]
        x = read(save(tmp_path / "a.png", Image.fromarray(pixels)))
        assert distance(x[0], x[1]) <= 2

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_every_mode_gives_every_channel_count(self, tmp_path: Path, mode: str, channels: int) -> None:
        source = Image.fromarray(photo())
        deep = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        if mode in deep:
            source = Image.fromarray(photo()[..., 0].astype(deep[mode]) * (1 if mode == "F" else 257))
        else:
            source = source.convert(mode)
        x = read(save(tmp_path / "a.tif", source), channels=channels)
        assert x.dtype == (torch.float32 if mode in deep else torch.uint8)
        assert float(x.float().std()) > 0

    def test_palette_colours_are_interpolated_as_colours(self, tmp_path: Path) -> None:
        image = Image.new("P", (64, 48))
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])  # averaged numbers would give green between 0 and 2
        image.paste(2, (32, 0, 64, 48))
        x = read(save(tmp_path / "a.png", image), (24, 31))
        assert int(x[1].max()) == 0 and int(x[0].max()) == 255 and int(x[2].max()) == 255

    def test_a_transparent_palette_colour_is_white(self, tmp_path: Path) -> None:
        image = Image.new("P", (64, 48))
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.paste(1, (32, 0, 64, 48))
        x = read(save(tmp_path / "a.png", image, transparency=0))
        assert x[:, 5, 5].tolist() == [255, 255, 255] and x[:, 5, 60].tolist() == [0, 255, 0]

    def test_cmyk_jpeg_is_not_inverted(self, tmp_path: Path) -> None:
        x = read(save(tmp_path / "a.jpg", Image.fromarray(photo()).convert("CMYK"), quality=95))
        assert distance(x, chw(photo())) <= 12

    def test_of_an_animation_the_first_frame_is_read(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (64, 48), color) for color in ("red", "lime", "blue")]
        for suffix in ("gif", "webp", "png"):
            address = save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], duration=50)
            assert read(address)[:, 20, 20].tolist() == pytest.approx([255, 0, 0], abs=4)
            assert "3 frames" in ImageReader((48, 64)).describe(address)

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_sixteen_bits_are_kept_and_mean_zero_to_one(self, tmp_path: Path, suffix: str) -> None:
        values = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
        x = read(save(tmp_path / f"a.{suffix}", Image.fromarray(values)), channels=1)
        torch.testing.assert_close(x, torch.from_numpy(values / 65535).float()[None])

    def test_interpolation_never_leaves_the_range_of_the_source(self, tmp_path: Path) -> None:
        values = np.zeros((48, 64), np.uint16)
        values[:, 20:40] = 65535
        x = read(save(tmp_path / "a.png", Image.fromarray(values)), (31, 45), channels=1)
        assert float(x.min()) == 0 and float(x.max()) == 1

    def test_float_images_keep_their_units(self, tmp_path: Path) -> None:
        values = np.linspace(-1000, 3000, 48 * 64, dtype=np.float32).reshape(48, 64)
        x = read(save(tmp_path / "a.tif", Image.fromarray(values)), channels=1)
        assert torch.equal(x[0], torch.from_numpy(values))

    def test_deep_grey_has_an_opaque_alpha_of_1_and_bytes_one_of_255(self, tmp_path: Path) -> None:
        deep = read(save(tmp_path / "a.png", np.full((48, 64), 13107, np.uint16)), channels=4)
        assert deep[:3].unique().tolist() == pytest.approx([0.2]) and deep[3].unique().tolist() == [1.0]
        assert read(save(tmp_path / "b.png", photo()[..., 0]), channels=4)[3].unique().tolist() == [255]

    def test_half_of_a_colour_over_white_is_half_way_and_its_luma_too(self, tmp_path: Path) -> None:
        pixels = np.zeros((48, 64, 4), np.uint8)
        pixels[:] = (200, 100, 0, 51)  # a fifth
        address = save(tmp_path / "a.png", Image.fromarray(pixels))
        colour = [255 - (255 - v) / 5 for v in (200, 100, 0)]
        assert read(address)[:, 9, 9].tolist() == pytest.approx(colour, abs=1)
        luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
        assert read(address, channels=1)[0, 9, 9].item() == pytest.approx(luma, abs=1)
        assert read(address, channels=4)[:, 9, 9].tolist() == pytest.approx([200, 100, 0, 51], abs=3)

    def test_the_description_says_format_mode_stored_size_and_what_is_special(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = 6
        told = ImageReader((48, 64)).describe
        assert told(save(tmp_path / "a.jpg", photo(), exif=exif)) == "JPEG RGB 64x48, turned by EXIF"
        assert told(save(tmp_path / "b.png", photo()[..., 0])) == "PNG L 64x48"
        np.savez(tmp_path / "c.npz", train_images=photo()[None])
        assert told(f"{tmp_path}/c.npz::train_images::0") == "array uint8 48x64x3"

    def test_one_pixel_is_enough(self, tmp_path: Path) -> None:
        assert bool((read(save(tmp_path / "a.png", np.full((1, 1, 3), 7, np.uint8))) == 7).all())

    def test_two_readers_in_two_processes_are_the_same_reader(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.jpg", photo())
        copy = pickle.loads(pickle.dumps(ImageReader((24, 32))))
        assert torch.equal(copy.read(address, [whole])[0].x, read(address, (24, 32)))


class TestCrops:
    def test_are_boxes_in_source_pixels_and_flips_after(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.png", photo())
        cut = chw(photo())[:, 5:25, 7:37]
        assert torch.equal(read(address, (20, 30), crop=box(5, 7, 25, 37)), cut)
        assert torch.equal(read(address, (20, 30), crop=box(5, 7, 25, 37, False, True)), cut.flip(2))
        assert torch.equal(read(address, (20, 30), crop=box(5, 7, 25, 37, True, False)), cut.flip(1))
        assert torch.equal(read(address, (20, 30), crop=box(5, 7, 25, 37, True, True)), cut.flip(1, 2))

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_refer_to_the_image_as_a_viewer_shows_it(self, tmp_path: Path, orientation: int, suffix: str) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        quality = {"quality": 95} if suffix in ("jpg", "webp") else {}
        address = save(tmp_path / f"a.{suffix}", photo(), exif=exif, **quality)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(address)).convert("RGB"))
        height, width = upright.shape[:2]
        assert (height, width) == ((64, 48) if orientation > 4 else (48, 64))
        seen: list[tuple[int, ...]] = []

        def crop(extent: tuple[int, ...]) -> Crop:
            seen.append(extent)
            return Crop((5, 9), (25, 39), (False, True))

        assert distance(read(address, (20, 30), crop=crop), chw(upright)[:, 5:25, 9:39].flip(2)) <= 1
        assert seen == [(height, width)]

    @pytest.mark.parametrize("orientation", [0, 9, 77])
    def test_an_orientation_that_means_nothing_is_none(self, tmp_path: Path, orientation: int) -> None:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        assert torch.equal(read(save(tmp_path / "a.png", photo(), exif=exif)), chw(photo()))

    def test_several_come_from_one_decode_and_are_what_each_would_be(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.png", photo(480, 640))
        crops = [whole, box(0, 0, 48, 64), box(100, 200, 300, 500, True, False)]
        together = ImageReader((48, 64)).read(address, crops)
        for sample, crop in zip(together, crops, strict=True):
            assert torch.equal(sample.x, read(address, crop=crop))

    def test_no_crop_is_no_sample(self, tmp_path: Path) -> None:
        assert ImageReader((48, 64)).read(save(tmp_path / "a.jpg", photo()), []) == []

    @pytest.mark.parametrize("scale", [2, 4, 8])
    def test_of_a_large_jpeg_decode_small_and_look_the_same(self, tmp_path: Path, scale: int) -> None:
        height, width = 60 * scale + 3, 80 * scale + 5  # the sides are no multiples of the scale
        address = save(tmp_path / "a.jpg", photo(height, width), quality=95)
        top, left = 3 * scale + 1, 5 * scale + 1
        bottom, right = top + 48 * scale, left + 64 * scale
        crop = box(top, left, bottom, right)
        exact = Image.open(address).resize((64, 48), Image.Resampling.BICUBIC, (left, top, right, bottom))
        assert distance(read(address, crop=crop), chw(np.asarray(exact))) <= 3

    def test_the_most_demanding_one_decides_how_small(self, tmp_path: Path) -> None:
        fine = np.indices((480, 640)).sum(0) % 2 * 255  # a checkerboard of pixels: gone at half size
        address = save(tmp_path / "a.jpg", np.repeat(fine[..., None], 3, -1).astype(np.uint8), quality=100)
        _, close = ImageReader((48, 64)).read(address, [whole, box(0, 0, 48, 64)])
        assert float(close.x.float().std()) > 100

    def test_outside_of_the_image_are_our_mistake_not_the_files(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.png", photo())
        for crop in (box(0, 0, 49, 64), box(-1, 0, 40, 64), box(5, 5, 5, 9)):
            with pytest.raises(ValueError, match="does not lie in an image of 48x64"):
                read(address, crop=crop)

    def test_an_image_smaller_than_a_crop_of_fixed_length_is_a_bad_file(self, tmp_path: Path) -> None:
        address = save(tmp_path / "a.png", photo())
        fixed = evaluation_sampler(AugmentConfig(fixed=(0, 1)), (40, 80))
        with pytest.raises(BadSample, match="64x48 pixels, and a crop has 80 where it has 64") as info:
            read(address, crop=fixed)
        assert info.value.kind == "too small"

    def test_an_error_in_a_crop_sampler_is_not_blamed_on_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            read(save(tmp_path / "a.png", photo()), crop=lambda extent: 1 / 0)


class TestArrays:
    def rows(self, tmp_path: Path, images: np.ndarray) -> str:
        np.savez(tmp_path / "a.npz", train_images=images[None])
        return list_items(str(tmp_path / "a.npz"), ()).addresses[0]

    @pytest.mark.parametrize("found", [1, 2, 3, 4, 5, 7])
    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_any_channel_count_that_the_config_wants(self, tmp_path: Path, found: int, dtype: type) -> None:
        pixels = photo(channels=found).astype(dtype)
        if found == 4:
            pixels[..., 3] = 255  # alpha is premultiplied, and lossless only where it is opaque
        x = read(self.rows(tmp_path, pixels), channels=found)
        expected = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1) / (65535 if dtype is np.uint16 else 1)
        torch.testing.assert_close(x.float(), expected)

    def test_grey_rows_without_a_channel_axis(self, tmp_path: Path) -> None:
        pixels = photo()[..., 0]
        assert torch.equal(read(self.rows(tmp_path, pixels)), chw(pixels).expand(3, -1, -1))
        x = read(self.rows(tmp_path, pixels > 128), channels=1)
        assert torch.equal(x[0], torch.from_numpy(pixels > 128) * torch.tensor(255, dtype=torch.uint8))

    def test_colours_become_luma_and_transparent_ones_lie_on_white(self, tmp_path: Path) -> None:
        colour = self.rows(tmp_path, photo())
        luma = photo().astype(float) @ [0.299, 0.587, 0.114]
        assert distance(read(colour, channels=1), torch.from_numpy(luma)[None]) <= 1
        clear = np.concatenate([photo(), np.zeros((48, 64, 1), np.uint8)], -1)
        assert read(self.rows(tmp_path, clear)).unique().tolist() == [255]

    @pytest.mark.parametrize(
        ("shape", "dtype", "kind"),
        [
            ((8, 8, 5), np.uint8, "channels"),
            ((8, 8, 3, 2), np.uint8, "unsupported"),
            ((8,), np.uint8, "unsupported"),
            ((8, 8), np.int64, "unsupported"),
        ],
    )
    def test_that_mean_no_image_are_named(self, tmp_path: Path, shape: tuple[int, ...], dtype: type, kind: str) -> None:
        assert bad(self.rows(tmp_path, np.ones(shape, dtype))).kind == kind

    def test_a_file_has_no_five_channels(self, tmp_path: Path) -> None:
        error = bad(save(tmp_path / "a.png", photo()), channels=5)
        assert error.kind == "channels" and "wants 5" in error.detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (8, 8, 8)}, "two axes"),
        ({"size": (8, 0)}, "two axes"),
        ({"size": (8, 8), "channels": 0}, "at least 1"),
        ({"size": (8, 8), "max_pixels": 1 << 40}, "max_pixels"),
    ],
)
def test_a_reader_that_cannot_mean_anything_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageReader(**arguments)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")
def test_real_photos_and_micrographs_read_like_pillow_reads_them() -> None:
    folders = ("bccd_blood_cells/JPEGImages", "dsb2018_nuclei/images")
    for path in [p for folder in folders for p in sorted((REAL / folder).iterdir())[:10]]:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        expected = upright.resize((96, 96), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        x = read(str(path), (96, 96), crop=center_sampler((96, 96)))
        assert float((x.float() - chw(np.asarray(expected)).float()).square().mean()) < 4
