"""Twenty damaged files of each kind of picture file, each in the doctor's child: named, within its memory, or not.

    python scripts/checks/damaged_kinds.py           # a row a kind; exit code 1 where a file crashed the child or hung

Of each kind: empty, cut at ten places, begun and then zeros, bytes changed at random, and a bomb, whose header promises
gigapixels or whose content unpacks to gigabytes. A kind whose library is missing is left out, by name.
"""

import io
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from mae_ext import plugins
from mae_ext.data.loading.doctor import inspect
from mae_ext.data.sources.table import list_items
from mae_ext.errors import UserError

MEMORY_BYTES = 3 << 30
"""Of the child, its libraries included, which take 2 GB of addresses."""

FATAL = ("crashed", "hung", "reader broke")
PIXELS = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)


def tiff(**how: object) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, PIXELS, **{"photometric": "rgb", "metadata": None, **how})


def ome(path: Path) -> None:
    planes = PIXELS.transpose(2, 0, 1).astype(np.uint16)
    tifffile.imwrite(path, planes, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}})


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


def parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [{"bytes": png(), "path": None}] * 3}), path)


def lmdb_file(path: Path) -> None:
    import lmdb

    with lmdb.open(str(path), map_size=1 << 20, subdir=False) as base, base.begin(write=True) as writing:
        for i in range(3):
            writing.put(f"{i}.png".encode(), png())


def slide(path: Path) -> None:
    if path.suffix == ".ndpi":
        import openslide  # noqa: F401 left out, by name, where it is missing
    said = "Aperio Image Library\n1x1|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as file:
        for i, pixels in enumerate((np.tile(PIXELS, (4, 4, 1)), PIXELS[::2, ::2], PIXELS)):
            tile = {} if i == 1 else {"tile": (64, 64)}
            file.write(pixels, photometric="rgb", metadata=None, description=said if i == 0 else "", **tile)


def bomb_of_tiff(path: Path) -> None:
    """A strip of 4 GB of zeros that zlib packs 1000 times: 20 000 x 5 000 pixels, which its limit lets through."""
    import zlib

    packer = zlib.compressobj(9)
    data = b"".join([packer.compress(bytes(1 << 24)) for _ in range(128)] + [packer.flush()])
    tags = {256: 1 << 16, 257: 1500, 258: 8, 259: 8, 262: 1, 277: 1, 278: 1500, 279: len(data)}
    place = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", c, 4, 1, v) for c, v in sorted({**tags, 273: place}.items()))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + bytes(4) + data)


def wide_tiff(path: Path) -> None:
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 3) + b"".join(
        struct.pack("<HHII", code, 4, 1, 2**31 - 1) for code in (256, 257, 278)) + bytes(4))  # fmt: skip


def bomb_of_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    word = pa.array([bytes(1 << 22)], pa.binary())
    pq.write_table(
        pa.table({"image": pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), word)}), path,
        row_group_size=5000, store_schema=False,
    )  # fmt: skip


def bomb_of_lmdb(path: Path) -> None:
    lmdb_file(path)
    content = bytearray(path.read_bytes())
    content[136:144] = content[4096 + 136 : 4096 + 144] = struct.pack("<Q", 2**60)  # pages that it says it has
    path.write_bytes(content)


KINDS: dict[str, tuple[str, str, Callable[[Path], None], Callable[[Path], None]]] = {
    # suffix, reader, how a good one is made, how a bomb is
    "TIFF in tiles, zlib": (".tif", "image", tiff(tile=(32, 32), compression="zlib"), bomb_of_tiff),
    "planar BigTIFF": (".tif", "image", tiff(bigtiff=True, planarconfig="contig", rowsperstrip=7), wide_tiff),
    "OME-TIFF": (".ome.tif", "image", ome, wide_tiff),
    "GeoTIFF": (".tif", "image", tiff(extratags=[(42113, "s", 0, "0", True)]), wide_tiff),
    "Parquet": (".parquet", "image", parquet, bomb_of_parquet),
    "LMDB": (".lmdb", "image", lmdb_file, bomb_of_lmdb),
    "slide, tifffile": (".svs", "slide", slide, wide_tiff),
    "slide, OpenSlide": (".ndpi", "slide", slide, wide_tiff),
}


def variants(content: bytes) -> list[bytes]:
    chance = np.random.default_rng(len(content))
    made = [b"", *(content[: len(content) * k // 11] for k in range(1, 11)), content[:64] + bytes(len(content))]
    for count in (1, 2, 4, 8, 20, 60, 200):
        damaged = bytearray(content)
        for place in chance.integers(0, min(len(content), 600), count):
            damaged[place] = int(chance.integers(256))
        made.append(bytes(damaged))
    return made


def verdicts(folder: Path, kind: str) -> Counter[str]:
    suffix, reader, make, bomb = KINDS[kind]
    good = folder / f"good{suffix}"
    make(good)
    files = [folder / f"{i:02d}{suffix}" for i in range(20)]
    for file, content in zip(files, variants(good.read_bytes()), strict=False):
        file.write_bytes(content)
    bomb(files[-1])
    outcomes: Counter[str] = Counter()
    listed = []
    for file in files:
        try:
            list_items(str(file), getattr(plugins.readers.get(reader), "suffixes", ()))
            listed.append(str(file))
        except UserError:
            outcomes["named while it was listed"] += 1
    worst: dict[str, str] = {}
    for verdict in inspect(listed, reader, 3, 60.0, (64, 64), MEMORY_BYTES) if listed else ():
        file_name = verdict.path.partition("::")[0]
        worst[file_name] = verdict.kind or worst.get(file_name, "good")
    return outcomes + Counter(worst.values())


def main() -> int:
    fatal = 0
    for kind in sys.argv[1:] or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes = verdicts(Path(folder), kind)
            except ImportError as error:
                print(f"left out: {kind}: {error}", file=sys.stderr)
                continue
        fatal += sum(outcomes[name] for name in FATAL)
        print(
            f"| {kind} | {outcomes.total()} | {', '.join(f'{n} {name}' for name, n in outcomes.most_common())} |",
            flush=True,
        )
    return int(fatal > 0)


if __name__ == "__main__":
    sys.exit(main())
