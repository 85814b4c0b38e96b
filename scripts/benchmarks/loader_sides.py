"""What `bench_loader.py` reads and who reads it; a module of its own, as workers import it by name."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mae_ext.config import Config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import ModalityData, StepData, build_reader
from mae_ext.data.loading.loader import Loader
from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.data.sample import Sample, stack

CLIP = (3, 16, 224, 224)
FOREVER = 1_000_000


class Free:
    """Like `ModalityData`: batches of clips that cost nothing but to be stacked."""

    def __init__(self, size: int) -> None:
        self.samples = [Sample(torch.full(CLIP, i, dtype=torch.uint8), "a clip") for i in range(4)]
        self.size = size

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        samples = [self.samples[(step + i) % 4] for i in range(self.size // parts)]
        return Batch(stack(samples)[0], sources=[sample.source for sample in samples])


class FreeItems(Dataset[torch.Tensor]):
    """The same clips for torch's DataLoader."""

    def __init__(self) -> None:
        self.samples = [torch.full(CLIP, i, dtype=torch.uint8) for i in range(4)]

    def __len__(self) -> int:
        return FOREVER

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.samples[i % 4]


class UsualPhotos(Dataset[torch.Tensor]):
    """What a training script in this field does with a folder of images: Pillow, and float32 that is normalised."""

    def __init__(self, folder: str) -> None:
        self.paths = sorted(str(p) for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        self.mean = torch.tensor(IMAGENET.mean)[:, None, None]
        self.std = torch.tensor(IMAGENET.std)[:, None, None]

    def __len__(self) -> int:
        return FOREVER

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.paths[i % len(self.paths)]) as file:
            image = file.convert("RGB")
        width, height = image.size
        share, aspect = float(torch.empty(1).uniform_(0.2, 1)), float(torch.empty(1).uniform_(-0.2877, 0.2877).exp())
        w = min(width, max(1, round((width * height * share * aspect) ** 0.5)))
        h = min(height, max(1, round((width * height * share / aspect) ** 0.5)))
        left, top = (int(torch.randint(0, room + 1, ())) for room in (width - w, height - h))
        image = image.crop((left, top, left + w, top + h)).resize((224, 224), Image.Resampling.BICUBIC)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous().float() / 255
        return (x - self.mean) / self.std


def config_of(kind: str, data: str, cache: str, batch: int, workers: int) -> Config:
    """Of a kind of data: the config that both commits read it with."""
    clip = {"name": "video", "stride": 4} | ({"cache": cache} if cache else {})
    scan = {"name": "volume", "spacing": [1.5, 1.5, 1.5]} | ({"cache": cache} if cache else {})
    films = {
        "size": CLIP[1:], "patch": [2, 16, 16],
        "data": {"reader": clip, "augment": {"fixed": [0], "scale": [0.5, 1.0]}},
    }  # fmt: skip
    scans = {
        "size": [96, 96, 96], "patch": [16, 16, 16], "channels": 1,
        "data": {"reader": scan, "augment": {"fixed": [0, 1, 2]}},
    }  # fmt: skip
    modality: dict[str, Any] = {
        "free": {"size": CLIP[1:], "patch": [2, 16, 16]},
        "photos": {"size": [224, 224], "patch": [16, 16], "data": {"augment": {"scale": [0.2, 1.0]}}},
        "clips": films, "films": films, "volumes": scans, "scans": scans,
    }[kind]  # fmt: skip
    modality["data"] = {"path": data, "statistics": "none"} | modality.get("data", {})
    small = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    train = {"steps": FOREVER, "workers": workers}
    return parse_config({"modalities": {"m": modality | {"batch": batch}}, "model": small, "train": train})


def prepared(config: Config) -> None:
    """Every source into the cache, where the reader has one."""
    reader: Any = build_reader(config.modalities["m"], "reader")
    if hasattr(reader, "prepared"):
        for address in ModalityData(0, "m", config.modalities["m"]).items.addresses:
            reader.prepared(address)


def of_loader(config: Config, kind: str) -> Iterator[torch.Tensor]:
    """Of whichever commit is imported: one gives a dict a step, the other a list of parts."""
    modality = config.modalities["m"]
    data: Any = Free(modality.batch) if kind == "free" else ModalityData(config.seed, "m", modality)
    loader = Loader(StepData({"m": data}), config, 0, FOREVER, torch.device("cpu"))
    for step in loader:
        parts: Any = step if isinstance(step, list) else [step]
        for part in parts:
            yield part["m"].x


def of_torch(config: Config, kind: str) -> Iterator[torch.Tensor]:
    modality, workers = config.modalities["m"], config.train.workers
    items = FreeItems() if kind == "free" else UsualPhotos(str(modality.data.path))
    yield from DataLoader(items, modality.batch, num_workers=workers, prefetch_factor=config.train.prefetch)


SIDES: dict[str, Callable[[Config, str], Iterator[torch.Tensor]]] = {"loader": of_loader, "torch": of_torch}


def in_turns(batches: Iterator[torch.Tensor], ready: int, timed: int, copied: bool) -> Iterator[tuple[float, int]]:
    """-> (seconds, bytes) of `timed` batches, each time it is asked, after those that lay ready when it was not.

    copied: whether each is also read once, as a device does that copies it.
    """
    sink = torch.empty(0, dtype=torch.uint8)
    for _ in count():
        for _ in range(ready):
            next(batches)
        began, size = time.perf_counter(), 0
        for _ in range(timed):
            x = next(batches)
            size += x.nbytes
            if copied:
                if sink.shape != x.shape or sink.dtype != x.dtype:
                    sink = torch.empty_like(x)
                sink.copy_(x)
        yield time.perf_counter() - began, size
