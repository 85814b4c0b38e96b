"""How fast each kind of file is read: the column MB/s of the table in docs/files.md.

    python scripts/studies/kinds_speed.py                       # made of the photos that scikit-image ships
    python scripts/studies/kinds_speed.py --photos DIR          # of your own
    python scripts/studies/kinds_speed.py --scan FILE.nii.gz    # a real scan, written in each format of scans
    python scripts/studies/kinds_speed.py --only 'scans=DIR' --reader volume --size 64

One core, one process, one random crop of each sample in random order, from files that the system has in memory. MB are
those of the file that a sample takes, as it lies on the disk; seconds those of the processor, which others may use
beside. A kind whose library is missing is left out, by name.
"""

import argparse
import io
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from kinds_speed_scans import SCANS, voxels_of
from PIL import Image

from mae_ext import plugins
from mae_ext.config import AugmentConfig
from mae_ext.data.crops import crop_sampler
from mae_ext.data.sources.table import list_items
from mae_ext.rng import rng

SECONDS = 1.0
Made = tuple[Path, str, dict[str, Any]]
"""What is read, by which reader, with which arguments."""


def photos_of(folder: str | None) -> list[Image.Image]:
    if folder:
        files = sorted(f for f in Path(folder).rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))[:64]
        return [Image.open(file).convert("RGB") for file in files]
    from skimage import data

    four = [Image.fromarray(p) for p in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    return [photo.resize((640, 480)).rotate(90 * i, expand=False) for i in range(4) for photo in four]


def jpeg(photo: Image.Image) -> bytes:
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def each(save: Callable[[Path, Image.Image], Any]) -> Callable[[Path, Sequence[Image.Image]], Made]:
    def make(folder: Path, photos: Sequence[Image.Image]) -> Made:
        for i, photo in enumerate(photos):
            save(folder / f"{i:04d}", photo)
        return folder, "image", {}

    return make


def saved(suffix: str, **how: Any) -> Callable[[Path, Sequence[Image.Image]], Made]:
    return each(lambda path, photo: photo.save(f"{path}.{suffix}", **how))


def tiff(**how: Any) -> Callable[[Path, Sequence[Image.Image]], Made]:
    return each(lambda path, photo: tifffile.imwrite(f"{path}.tif", np.asarray(photo), tile=(256, 256), **how))


def in_tar(folder: Path, photos: Sequence[Image.Image]) -> Made:
    with tarfile.open(folder / "a.tar", "w") as file:
        for i, blob in enumerate(map(jpeg, photos)):
            info = tarfile.TarInfo(f"{i:04d}.jpg")
            info.size = len(blob)
            file.addfile(info, io.BytesIO(blob))
    return folder / "a.tar", "image", {}


def in_npz(folder: Path, photos: Sequence[Image.Image]) -> Made:
    np.savez_compressed(folder / "a.npz", train_images=np.stack([np.asarray(photo) for photo in photos]))
    return folder / "a.npz", "image", {}


def in_parquet(folder: Path, photos: Sequence[Image.Image]) -> Made:
    import pyarrow as pa
    import pyarrow.parquet as pq

    blobs = [jpeg(photo) for photo in photos] * 8
    table = pa.table({"image": [{"bytes": blob, "path": None} for blob in blobs]})
    # Each photo is stored as often as it is there: a dictionary would store eight as one.
    pq.write_table(table, folder / "a.parquet", row_group_size=100, use_dictionary=False)
    return folder / "a.parquet", "image", {}


def in_lmdb(folder: Path, photos: Sequence[Image.Image]) -> Made:
    import lmdb

    with lmdb.open(str(folder / "a.lmdb"), map_size=1 << 32) as base, base.begin(write=True) as writing:
        for i, photo in enumerate(photos):
            writing.put(f"{i:06d}".encode(), jpeg(photo))
    return folder / "a.lmdb", "image", {}


def bands(folder: Path, photos: Sequence[Image.Image]) -> Made:
    for i, photo in enumerate(photos):
        colours = np.asarray(photo).astype(np.uint16) * 257
        thirteen = np.concatenate([np.roll(colours, k, 0) for k in range(5)], -1)[..., :13]
        tags = [(42113, "s", 0, "0", True)]
        tifffile.imwrite(
            folder / f"{i}.tif", thirteen, tile=(256, 256), compression="zlib", predictor=True, extratags=tags,
            photometric="minisblack", planarconfig="contig", metadata=None,
        )  # fmt: skip
    return folder, "image", {"bands": [3, 2, 1]}


def stacks(folder: Path, photos: Sequence[Image.Image]) -> Made:
    for i, photo in enumerate(photos):
        planes = np.stack([np.asarray(photo.convert("L")).astype(np.uint16) * 257] * 12).reshape(4, 3, 480, 640)
        said = {"axes": "ZCYX", "Channel": {"Name": ["DAPI", "GFP", "RFP"]}}
        tifffile.imwrite(folder / f"{i}.ome.tif", planes, ome=True, metadata=said)
    return folder, "image", {"bands": ["RFP", "GFP", "DAPI"], "z": "middle"}


def slide_of(suffix: str) -> Callable[[Path, Sequence[Image.Image]], Made]:
    def make(folder: Path, photos: Sequence[Image.Image]) -> Made:
        if suffix == "ndpi":
            import openslide  # noqa: F401 left out, by name, where it is missing
        row = [np.concatenate([np.asarray(photo.resize((640, 480))) for photo in photos[i : i + 8]], 1) for i in (0, 8)]
        pixels = np.concatenate(row * 4)
        with tifffile.TiffWriter(folder / f"a.{suffix}") as file:
            for level in range(4):
                small = np.asarray(Image.fromarray(pixels).reduce(2**level)) if level else pixels
                said = {"description": "Aperio Image Library\n1x1|AppMag = 20|MPP = 0.5"} if level == 0 else {}
                how = {"photometric": "rgb", "metadata": None, "tile": (256, 256), "compression": "zlib"}
                file.write(small, **how, **said)
                if level == 0:
                    file.write(pixels[::16, ::16], photometric="rgb", metadata=None)
        return folder / f"a.{suffix}", "slide", {"mpp": 1.0}

    return make


KINDS: dict[str, Callable[[Path, Sequence[Image.Image]], Made]] = {
    "JPEG": saved("jpg", quality=90),
    "PNG": saved("png"),
    "WebP": saved("webp", quality=90),
    "AVIF": saved("avif", quality=75),
    "JPEG 2000": saved("jp2"),
    **{name: saved(name.lower()) for name in ("BMP", "GIF", "PPM", "TGA", "QOI", "SGI", "PCX", "DDS")},
    "TIFF, 8 bits, zlib": each(lambda p, photo: tifffile.imwrite(f"{p}.tif", np.asarray(photo), compression="zlib")),
    "TIFF, JPEG tiles": tiff(compression="jpeg"),
    "TIFF, JPEG 2000 tiles": tiff(compression="jpeg2000"),
    "TIFF, JPEG XL tiles": tiff(compression="jpegxl"),
    "TIFF, LERC tiles": tiff(compression="lerc"),
    "TIFF, planar, 16 bits, zlib": each(
        lambda p, photo: tifffile.imwrite(
            f"{p}.tif",
            np.asarray(photo).astype(np.uint16).transpose(2, 0, 1) * 257,
            planarconfig="separate",
            photometric="rgb",
            compression="zlib",
        )
    ),
    "TIFF, float of 32 bits, zlib": each(
        lambda p, photo: tifffile.imwrite(f"{p}.tif", np.asarray(photo) / np.float32(255), compression="zlib")
    ),
    "GeoTIFF, 13 bands of 16 bits, zlib tiles": bands,
    "OME-TIFF, 3 channels x 4 planes of 16 bits": stacks,
    "JPEG in Parquet": in_parquet,
    "JPEG in LMDB": in_lmdb,
    "JPEG in a tar shard": in_tar,
    "pictures in .npz": in_npz,
    "slide, zlib tiles, tifffile": slide_of("svs"),
    "the same, OpenSlide": slide_of("ndpi"),
}


def speed(name: str, made: Made, size: int) -> str:
    """A row of the table: kind, MB/s, samples/s."""
    path, reader_name, arguments = made
    shape = (size,) * (3 if reader_name == "volume" else 2)
    arguments = {"intensity": "none", **arguments} if reader_name == "volume" else arguments
    channels = len(arguments["bands"]) if "bands" in arguments else 1 if reader_name == "volume" else 3
    reader = plugins.readers.build(reader_name, arguments, name, size=shape, channels=channels)
    addresses = list(list_items(str(path), reader.suffixes).addresses)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    each_mb = sum(f.stat().st_size for f in files) / len(addresses) / 1e6
    fixed = {"slide": (-2, -1), "volume": (-3, -2, -1)}.get(reader_name, ())
    augment = AugmentConfig(fixed=fixed)
    order = np.random.default_rng(0).permutation(len(addresses))
    reader.read(addresses[0], [crop_sampler(augment, shape, rng(0, "warm"))])
    began, count = time.process_time(), 0
    while (spent := time.process_time() - began) < SECONDS:
        reader.read(addresses[order[count % len(order)]], [crop_sampler(augment, shape, rng(0, count))])
        count += 1
    mb = "" if reader_name == "slide" else f"{each_mb * count / spent:.0f}"
    return f"| {name} | {mb or '-'} | {count / spent:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos")
    parser.add_argument("--scan", help="a scan in NIfTI: the formats of scans instead of those of pictures")
    parser.add_argument("--only", nargs="*", default=[], help="kinds, or one NAME=PATH of files of your own")
    parser.add_argument("--reader", default="image", help="of NAME=PATH")
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| kind | MB/s | samples/s |\n|---|---|---|")
    if given.only and "=" in given.only[0]:
        name, _, path = given.only[0].partition("=")
        print(speed(name, (Path(path), given.reader, {}), given.size))
        return
    if given.scan:
        voxels = voxels_of(given.scan)
        made_of = {name: partial(scans, make, voxels) for name, make in SCANS.items()}
    else:
        photos = photos_of(given.photos)
        made_of = {name: partial(make, photos=photos) for name, make in KINDS.items()}
    size = min(64, given.size) if given.scan else given.size
    for name, make in made_of.items():
        if not given.only or name in given.only:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    print(speed(name, make(Path(folder)), size), flush=True)
                except ImportError as error:
                    print(f"left out: {name}: {error}", file=sys.stderr)


def scans(make: Callable[[Path, Any], Path], voxels: Any, folder: Path) -> Made:
    return make(folder, voxels), "volume", {}


if __name__ == "__main__":
    main()
