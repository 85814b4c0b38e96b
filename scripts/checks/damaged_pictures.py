"""Kinds of pictures for `damaged_kinds.py`: how a good one is made, its bombs, and how its own library reads it."""

import io
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from damaged_child import Array, Kind
from damaged_segments import HUGE, TILE, jpeg_2000_bomb, jpeg_xl_bomb, lerc_bomb, segment_bomb
from PIL import Image

SHAPE = (96, 128)
PIXELS = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), np.uint8)
SMOOTH = np.asarray(Image.fromarray(PIXELS).resize((8, 6)).resize(SHAPE[::-1], Image.Resampling.BICUBIC))
DEEP = (SMOOTH.astype(np.uint16) << 8) | PIXELS


def by_pillow(content: Any) -> Array:
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def by_pillow_deep(path: Path) -> Array:
    return np.asarray(Image.open(path))[None] / np.float32(65535)  # type: ignore[no-any-return]


def by_heif(path: Path) -> Array:
    import pi_heif

    return np.asarray(pi_heif.open_heif(path).to_pillow().convert("RGB")).transpose(2, 0, 1)


def by_tifffile(path: Path) -> Array:
    """(C, H, W), whole numbers of more than 8 bits as shares of 65535, as the reader has them."""
    with tifffile.TiffFile(path) as file:
        pixels, axes = file.series[0].asarray(), file.series[0].axes
    pixels = np.moveaxis(pixels, next(i for i, a in enumerate(axes) if a in "SCQI"), 0) if pixels.ndim == 3 else pixels
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    return pixels / np.float32(65535) if pixels.dtype.kind in "iu" and pixels.dtype != np.uint8 else pixels


def pictured(suffix: str, pixels: Array = SMOOTH, **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.fromarray(pixels).save(folder / f"a{suffix}", **how)
        return folder / f"a{suffix}"

    return make


def tiff(pixels: Array = PIXELS, name: str = "a.tif", **how: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        how_else = {"photometric": "rgb" if pixels.shape[-1] == 3 else "minisblack", "metadata": None} | how
        tifffile.imwrite(folder / name, pixels, **how_else)
        return folder / name

    return make


def planar(folder: Path) -> Path:
    path = tiff(PIXELS.transpose(2, 0, 1).copy(), bigtiff=True, planarconfig="separate", photometric="rgb",
                rowsperstrip=7)(folder)  # fmt: skip
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff and file.pages[0].planarconfig == 2 and len(file.pages[0].dataoffsets) == 3 * 14
    return path


def huge(folder: Path, shape: tuple[int, int] = SHAPE) -> None:
    """The sides that the header says, of whichever width and order they are, become enormous."""
    (path,) = folder.iterdir()
    content, (height, width) = path.read_bytes(), shape
    made = content.replace(b"128 96", b"60000 60000")
    for form in ("<HH", ">HH", "<II", ">II"):
        for less in (0, 1):
            for sides in ((width - less, height - less), (height - less, width - less)):
                made = made.replace(struct.pack(form, *sides), struct.pack(form, HUGE, HUGE), 1)
    assert made != content, path
    path.write_bytes(made)


def wide_tiff(folder: Path) -> None:
    (path,) = folder.iterdir()
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 3) + b"".join(
        struct.pack("<HHII", code, 4, 1, 2**31 - 1) for code in (256, 257, 278)) + bytes(4))  # fmt: skip


def zeros(count: int, wrap: bool = True) -> bytes:
    """count x 64 MiB of zeros, as zlib packs them (or raw deflate)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(1 << 26)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    check = struct.pack(">I", ((count << 26) % 65521 << 16) | 1)
    return b"\x78\xda" + piece * count + end + check if wrap else piece * count + end


def packed_tiff(folder: Path) -> None:
    """A strip of 65 536 x 1500 pixels, fewer than the limit, whose content unpacks to 3.4 GB."""
    (path,) = folder.iterdir()
    data = zeros(52)
    tags = {256: 1 << 16, 257: 1500, 258: 8, 259: 8, 262: 1, 277: 1, 278: 1500, 279: len(data)}
    place = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", c, 4, 1, v) for c, v in sorted({**tags, 273: place}.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + bytes(4) + data)


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


def huge_png() -> bytes:
    return png().replace(struct.pack(">II", *SHAPE[::-1]), struct.pack(">II", HUGE, HUGE), 1)


def parquet(folder: Path, content: bytes | None = None) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [{"bytes": content or png(), "path": None}] * 3}), folder / "a.parquet")
    return folder / "a.parquet"


def of_parquet(address: Path) -> Array:
    import pyarrow.parquet as pq

    file, column, row = str(address).split("::")
    return by_pillow(pq.read_table(file).column(column)[int(row)].as_py()["bytes"])


def bomb_of_parquet(folder: Path) -> None:
    """20 GB: a word of 4 MiB, 5000 times."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), pa.array([bytes(1 << 22)], pa.binary()))
    pq.write_table(pa.table({"image": words}), folder / "a.parquet", row_group_size=5000, store_schema=False)


def lmdb_file(folder: Path, content: bytes | None = None) -> Path:
    import lmdb

    with lmdb.open(str(folder / "a.lmdb"), map_size=1 << 20, subdir=False) as base, base.begin(write=True) as writing:
        for i in range(3):
            writing.put(f"{i}.png".encode(), content or png())
    (folder / "a.lmdb-lock").unlink(missing_ok=True)
    return folder / "a.lmdb"


def of_lmdb(address: Path) -> Array:
    import lmdb

    file, _, name = str(address).split("::")
    with lmdb.open(file, subdir=False, readonly=True, lock=False) as base, base.begin() as reading:
        return by_pillow(bytes(reading.get(name.encode())))


def bomb_of_lmdb(folder: Path) -> None:
    path = folder / "a.lmdb"
    content = bytearray(path.read_bytes())
    content[136:144] = content[4096 + 136 : 4096 + 144] = struct.pack("<Q", 2**60)  # pages that it says it has
    path.write_bytes(content)


def tar(folder: Path, content: bytes | None = None) -> Path:
    with tarfile.open(folder / "a.tar", "w") as file:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(content or png())
            file.addfile(info, io.BytesIO(content or png()))
    return folder / "a.tar"


def of_tar(address: Path) -> Array:
    file, place, _ = str(address).split("::")
    begin, size = map(int, place.split("+"))
    with tarfile.open(file) as members:
        name = next(m.name for m in members if (m.offset_data, m.size) == (begin, size))
        return by_pillow(members.extractfile(name).read())  # type: ignore[union-attr]


def big_member(folder: Path) -> None:
    path = folder / "a.tar"
    content = bytearray(path.read_bytes())
    info = tarfile.TarInfo("0.png")
    info.size = 1 << 40
    content[:512] = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(content)


def npz(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", train_images=np.stack([PIXELS] * 3))
    return folder / "a.npz"


def of_npz(address: Path) -> Array:
    file, key, row = str(address).split("::")
    return np.load(file)[key][int(row)].transpose(2, 0, 1)  # type: ignore[no-any-return]


def bomb_of_npz(folder: Path, name: str = "x") -> None:
    """An array that says it has 8 GiB, of which 1 GiB is there, packed to 5 MB."""
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**33, 1, 1, 1)})
    with (
        zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open(f"{name}.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(64):
            member.write(bytes(1 << 24))


def slide(suffix: str, folder: Path) -> Path:
    said = "Aperio Image Library\n1x1|AppMag = 20|MPP = 0.5"
    path = folder / f"a{suffix}"
    big = np.tile(SMOOTH, (4, 4, 1))
    with tifffile.TiffWriter(path) as file:
        for i, pixels in enumerate((big, PIXELS[::2, ::2], big[::4, ::4])):
            tile = {} if i == 1 else {"tile": (64, 64)}
            file.write(pixels, photometric="rgb", metadata=None, description=said if i == 0 else "", **tile)
    return path


def of_slide(path: Path) -> Array:
    return tifffile.imread(path, series=0, level=0)[40:104, 72:136].transpose(2, 0, 1)


def of_openslide(path: Path) -> Array:
    import openslide

    with openslide.OpenSlide(path) as file:
        return np.asarray(file.read_region((72, 40), 0, (64, 64)).convert("RGB")).transpose(2, 0, 1)


def heic(folder: Path) -> Path:
    import pi_heif  # noqa: F401 left out, by name, where it is missing

    # In a process of its own: the encoder of HEVC in PyAV and that of another library are no good neighbours.
    code = "import sys, pathlib, data.image.test_file as t; t.heic(pathlib.Path(sys.argv[1]))"
    tests = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "tests"), *sys.path])}
    subprocess.run([sys.executable, "-c", code, str(folder / "a.heic")], check=True, env=tests)
    return folder / "a.heic"


def of_packed(make: Callable[..., Path]) -> Callable[[Path], None]:
    def bomb(folder: Path) -> None:
        make(folder, huge_png())

    return bomb


def picture(suffix: str, bombs: tuple[Callable[[Path], None], ...] = (huge,), **how: Any) -> Kind:
    return Kind(pictured(suffix, **how), by_pillow, bombs)


def tiffs(make: Callable[[Path], Path], channels: int = 3, *bombs: Callable[[Path], None], **more: Any) -> Kind:
    return Kind(make, by_tifffile, (wide_tiff, packed_tiff, *bombs), channels=channels, **more)


NODATA = [(42113, "s", 0, "0", True)]
BANDS = np.tile(DEEP, 5)[..., :13]
OME_AXES = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}

PICTURES: dict[str, Kind] = {
    "JPEG": picture(".jpg", quality=90),
    "PNG": picture(".png"),
    "PNG of 16 bits": Kind(pictured(".png", DEEP[..., 0].copy()), by_pillow_deep, (huge,), channels=1),
    "WebP": picture(".webp"),
    "AVIF": picture(".avif"),
    "JPEG 2000": picture(".jp2"),
    "BMP": picture(".bmp"),
    "GIF": picture(".gif"),
    "PPM": picture(".ppm"),
    "TGA": picture(".tga"),
    "QOI": picture(".qoi"),
    "SGI": picture(".sgi"),
    "PCX": picture(".pcx"),
    "DDS": picture(".dds"),
    "HEIC": Kind(heic, by_heif, (partial(huge, shape=(48, 64)),), allowed=1),
    "TIFF, zlib tiles": tiffs(tiff(tile=TILE, compression="zlib")),
    "TIFF, LZW strips of 16 bits": tiffs(tiff(DEEP, rowsperstrip=7, compression="lzw", predictor=True)),
    "TIFF, JPEG tiles": tiffs(tiff(SMOOTH, tile=TILE, compression="jpeg"), allowed=2),
    "TIFF of 32 bits": tiffs(tiff(DEEP[..., 0].astype(np.uint32), compression="zlib"), 1, allowed=1e-6),
    "TIFF, float of 32 bits": tiffs(tiff(DEEP[..., 0].astype(np.float32) / 7, compression="zlib", predictor=True), 1),
    "TIFF, float of 64 bits": tiffs(tiff(DEEP[..., 0].astype(np.float64)), 1),
    "TIFF of 1 bit": tiffs(tiff(PIXELS[..., 0] > 127), 1),
    "TIFF, planar BigTIFF": tiffs(planar),
    "TIFF, OME": tiffs(tiff(DEEP.transpose(2, 0, 1).copy(), "a.ome.tif", ome=True, metadata=OME_AXES, photometric=
                            "minisblack")),
    "TIFF, ImageJ": tiffs(tiff(DEEP.transpose(2, 0, 1).copy(), imagej=True, metadata={"axes": "CYX"}, photometric=
                               "minisblack")),
    "GeoTIFF, 13 bands, nodata": tiffs(tiff(BANDS, tile=TILE, compression="zlib", planarconfig="contig",
                                            extratags=NODATA), 13),
    "TIFF in JPEG 2000": tiffs(tiff(tile=TILE, compression="jpeg2000"), 3, segment_bomb(34712, jpeg_2000_bomb)),
    "TIFF in JPEG XL": tiffs(tiff(SMOOTH, tile=TILE, compression="jpegxl"), 3, segment_bomb(50002, jpeg_xl_bomb),
                             allowed=2),
    "TIFF in LERC": tiffs(tiff(tile=TILE, compression="lerc"), 3, segment_bomb(34887, lerc_bomb)),
    "Parquet": Kind(parquet, of_parquet, (of_packed(parquet), bomb_of_parquet)),
    "LMDB": Kind(lmdb_file, of_lmdb, (of_packed(lmdb_file), bomb_of_lmdb)),
    "tar shard": Kind(tar, of_tar, (of_packed(tar), big_member)),
    "pictures in .npz": Kind(npz, of_npz, (partial(bomb_of_npz, name="train_images"),)),
    "slide, tifffile": Kind(partial(slide, ".svs"), of_slide, (wide_tiff, packed_tiff), "slide",
                            {"mpp": 0.5, "min_tissue": 0}),
    "slide, OpenSlide": Kind(partial(slide, ".ndpi"), of_openslide, (wide_tiff, packed_tiff), "slide",
                             {"mpp": 0.5, "min_tissue": 0}),
}  # fmt: skip
