"""Samples with their label maps: which map is whose, and both cut by one box."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.distort import VALUES, distort
from mae_ext.data.labelmap import LabelReader, Labels, cut, stem, toward_foreground
from mae_ext.data.loader import build_reader
from mae_ext.data.passed_over import PassedOver
from mae_ext.data.plan import Key
from mae_ext.data.sample import Batch, Crop, CropSampler, Reader, Sample, held, read_checked
from mae_ext.data.source import Items, list_items
from mae_ext.errors import BadSample, UserError, some
from mae_ext.rng import rng

if TYPE_CHECKING:
    from mae_ext.downstream.segment import Segmentation

TARGET = "labels"


def label_reader(reader: Reader, name: str) -> LabelReader:
    if not isinstance(reader, LabelReader):
        raise UserError(f"reader '{name}' reads no label maps, so it cannot serve segmentation (image and volume can)")
    return reader


def maps_of(items: Items, masks: str, suffixes: tuple[str, ...]) -> list[str]:
    """The label map of each sample. masks: a folder with files of the same names (another suffix may do), or a .csv
    with the columns path and mask, both relative to it.

    Raises UserError naming the samples that have none.
    """
    where = Path(masks)
    if where.is_dir():
        by_name = {path.name: str(path) for path in sorted(where.iterdir())}
        by_stem = {stem(name, suffixes): path for name, path in by_name.items()}
        found = [by_name.get(Path(address).name) or by_stem.get(stem(address, suffixes)) for address in items.addresses]
    elif where.is_file() and where.suffix == ".csv":
        listed = _listed(where)
        found = [listed.get(str(Path(address).resolve())) for address in items.addresses]
    else:
        raise UserError(
            f"task.masks {masks}: expected a folder of label maps, or a .csv with the columns path and mask"
        )
    missing = [address for address, there in zip(items.addresses, found, strict=True) if there is None]
    if missing:
        passed = PassedOver()
        for path in sorted(where.iterdir()) if where.is_dir() else ():
            if path.is_file() and not path.name.lower().endswith(suffixes):
                passed.other(path.name)
        raise UserError(
            f"task.masks {masks}: {len(missing)} of {len(items)} samples have no label map there: {some(missing)}"
            + (f"; passed over: {passed}" if passed.counts else "")
        )
    owner: dict[str, str] = {}
    for address, there in zip(items.addresses, found, strict=True):
        assert there is not None
        if there in owner:
            raise UserError(
                f"task.masks {masks}: {owner[there]} and {address} share the label map {there}; where names repeat, "
                f"give a .csv with the columns path and mask"
            )
        owner[there] = address
    return list(owner)


def _listed(where: Path) -> dict[str, str]:
    try:
        rows = list(csv.DictReader(StringIO(where.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"task.masks {where}: cannot be read as CSV: {error}") from None
    if not rows or not {"path", "mask"} <= rows[0].keys():
        raise UserError(f"task.masks {where}: expected a first line with the columns path and mask")
    return {
        str((where.parent / row["path"]).resolve()): str(where.parent / row["mask"])
        for row in rows
        if row["path"] and row["mask"]
    }


def read_labels(
    reader: LabelReader, address: str, like: str, classes: int, foreground: bool, as_stored: bool = False
) -> Labels:
    """0 for the background and 1..classes, on the grid that LabelReader says. foreground: whatever is above 0 is 1.

    Raises BadSample.
    """
    with held(reader, address):
        labels = reader.label_map(address, like, as_stored)
    if foreground:
        return (labels > 0).astype(labels.dtype)
    if int(labels.max(initial=0)) > classes:
        detail = f"label {int(labels.max())}, and task.classes names {classes}; task.foreground=true makes one of all"
        raise BadSample(address, "label map", detail)
    return labels


@dataclass(frozen=True)
class Paired:
    """A crop sampler with the box that cuts the label map, for a sample of the same extent. Raises BadSample."""

    box: Crop
    map: str
    labels: Labels
    address: str

    def __call__(self, extent: tuple[int, ...]) -> Crop:
        check_extent(self.map, self.labels, self.address, extent)
        return self.box


class PairedExamples:
    """Samples with the targets `labels` (*S) int64. balance: the share of crops that are moved onto a label."""

    def __init__(self, task: "Segmentation", config: Config, name: str, source: str, masks: str) -> None:
        self.task, self.seed, self.name = task, config.seed, name
        self.modality: ModalityConfig = config.modalities[name]
        self.reader = build_reader(self.modality, f"modalities.{name}.data.reader")
        self.labels = label_reader(self.reader, self.modality.data.reader.name)
        self.items: Items = list_items(source, tuple(self.reader.suffixes))
        self.maps = maps_of(self.items, masks, tuple(self.reader.suffixes))
        self.identity = "\n".join(Path(there).name for there in self.maps).encode("utf-8", "surrogateescape")

    def label_map(self, index: int, as_stored: bool = False) -> Labels:
        task, address = self.task, self.items.addresses[index]
        return read_labels(self.labels, self.maps[index], address, len(task.classes), task.foreground, as_stored)

    def read(self, index: int, keys: Sequence[Key], crops: Sequence[CropSampler]) -> list[Sample]:
        address, size = self.items.addresses[index], self.modality.size
        labels = self.label_map(index)
        boxes = []
        for key, crop in zip(keys, crops, strict=True):
            generator = rng(self.seed, "balance", self.name, key.epoch, index, key.repeat)
            box = crop(labels.shape)
            if float(torch.rand((), generator=generator)) < self.task.balance:
                box = toward_foreground(labels, box, generator)
            boxes.append(Paired(box, self.maps[index], labels, address))
        samples = read_checked(self.reader, address, boxes, (self.modality.channels, *size))
        found = []
        for sample, pair, key in zip(samples, boxes, keys, strict=True):
            generator = rng(self.seed, "distort", self.name, key.epoch, index, key.repeat)
            x = distort(sample.x, self.task.distort, self.task.strength, 0.0, generator, VALUES)
            found.append(replace(sample, x=x, targets={TARGET: cut(labels, pair.box, size)}))
        return found

    def finish(self, batch: Batch, keys: Sequence[Key], step: int) -> Batch:
        return batch


def check_extent(address: str, labels: Labels, like: str, extent: tuple[int, ...]) -> None:
    if labels.shape != extent:
        ours, theirs = (" x ".join(map(str, shape)) for shape in (labels.shape, extent))
        raise BadSample(address, "label map", f"{ours}, and {like} is {theirs}")
