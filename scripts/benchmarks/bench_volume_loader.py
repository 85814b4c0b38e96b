"""Random 96^3 crops a second: prepared scans against MONAI's PersistentDataset and CacheDataset, and plain nibabel.

    python scripts/benchmarks/bench_volume_loader.py DIR [--spacing stored 1.5] [--crops 60] [--rounds 3]

One process, one thread, the same files and random crops; all but nibabel with percentile intensities, at the spacing of
each scan ("stored") or at so many mm. Every crop is copied out, as a batch needs it: torch maps what MONAI stores and
hands out views that nothing has been read of. Ours are what a worker sends to the device: of scans at their own spacing
the stored numbers, if 16 bits hold them, and what they mean; else float32, as MONAI's always are. The contestants take
turns, and each one's median over the rounds is printed, by the wall clock and by this process's own seconds, which say
more beside other work. A scan that the volume reader refuses is left out for all.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirst,
    LoadImage,
    Orientation,
    RandSpatialCrop,
    ScaleIntensityRangePercentiles,
    Spacing,
    SpatialPad,
)

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import crop_sampler, evaluation_sampler
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample
from mae_ext.rng import rng

SIZE = (96, 96, 96)
Spacings = tuple[float, float, float] | None
FIXED = AugmentConfig(fixed=(0, 1, 2), flip=())


def readable(folder: str) -> list[str]:
    reader, kept = VolumeReader(SIZE), []
    for address in list_items(folder, reader.suffixes).addresses:
        try:
            reader.read(address, [evaluation_sampler(FIXED, SIZE)])
        except BadSample as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            kept.append(address)
    return kept


def ours(files: list[str], cache: str, spacing: Spacings) -> Callable[[int], object]:
    reader = VolumeReader(SIZE, spacing=spacing, intensity="percentile", cache=cache)
    kinds = Counter(str(reader.prepared(file).voxels.dtype) for file in files)
    print(f"prepared as {', '.join(f'{kind} ({count} scans)' for kind, count in kinds.items())}")
    return lambda n: reader.read_as_stored(files[n % len(files)], [crop_sampler(FIXED, SIZE, rng(0, n))])


def monai(files: list[str], folder: str | None, spacing: Spacings) -> Callable[[int], object]:
    transform = Compose(
        [
            *(LoadImage(image_only=True), EnsureChannelFirst(), Orientation("RAS")),
            *([] if spacing is None else [Spacing(spacing)]),
            *(ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True), SpatialPad(SIZE)),
            RandSpatialCrop(SIZE, random_size=False),
        ]
    )
    if folder is None:
        data = CacheDataset(files, transform, progress=False, num_workers=1)
    else:
        data = PersistentDataset(files, transform, cache_dir=folder)
        for n in range(len(files)):
            data[n]
    return lambda n: data[n % len(files)].as_tensor().clone(memory_format=torch.contiguous_format)


def plain(files: list[str]) -> Callable[[int], object]:
    chance = np.random.default_rng(0)

    def read(n: int) -> np.ndarray:
        image = nib.as_closest_canonical(nib.load(files[n % len(files)]))
        voxels = image.get_fdata(dtype=np.float32)
        voxels = np.pad(voxels, [(0, max(0, s - d)) for s, d in zip(SIZE, voxels.shape, strict=True)])
        at = [int(chance.integers(0, d - s + 1)) for s, d in zip(SIZE, voxels.shape, strict=True)]
        return voxels[tuple(slice(a, a + s) for a, s in zip(at, SIZE, strict=True))].copy()

    return read


def compare(files: list[str], spacing: Spacings, crops: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        contestants = {
            "prepared (mae_ext)": ours(files, f"{scratch}/ours", spacing),
            "CacheDataset (in memory)": monai(files, None, spacing),
            "PersistentDataset": monai(files, f"{scratch}/monai", spacing),
            "nibabel": plain(files),
        }
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, read in contestants.items():
                count = crops if name != "nibabel" else len(files)
                wall, own = time.perf_counter(), time.process_time()
                for n in range(count):
                    read(n)
                took[name].append(((time.perf_counter() - wall) / count, (time.process_time() - own) / count))
    seconds = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in took.items()}
    best = seconds["prepared (mae_ext)"]
    for name, (wall, own) in seconds.items():
        ratios = f"{wall / best[0]:6.1f} times slower than prepared, {own / best[1]:6.1f} by processor seconds"
        print(f"{name:26} {1 / wall:8.2f} crops/s {ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--spacing", nargs="+", default=["stored", "1.5"], help="stored, or mm")
    parser.add_argument("--crops", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = readable(options.folder)
    for spacing in options.spacing:
        what = "their own spacing" if spacing == "stored" else f"{spacing} mm"
        print(f"{len(files)} scans in {Path(options.folder).name}, crops of {'x'.join(map(str, SIZE))} at {what}")
        compare(files, None if spacing == "stored" else (float(spacing),) * 3, options.crops, options.rounds)


if __name__ == "__main__":
    main()
