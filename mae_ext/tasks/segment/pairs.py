"""Samples with their label maps: which map is whose, and both cut by one box."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.batch import Batch
from mae_ext.data.case_names import HOLE
from mae_ext.data.change.distort import VALUES, distort
from mae_ext.data.labelmap import (
    IGNORED,
    LabelReader,
    Labels,
    NamedLabels,
    ReferringLabels,
    cut,
    stem,
    toward_foreground,
)
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.plan import Key
from mae_ext.data.sample import Crop, CropSampler, Reader, Sample, held, read_placed
from mae_ext.data.sources.cases import endings
from mae_ext.data.sources.lists import forward
from mae_ext.data.sources.passed_over import PassedOver
from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import BadSample, UserError, some
from mae_ext.rng import rng

TARGET = "labels"

VOID = 255
"""What VOC, Cityscapes and ADE20K's challenge write where nothing is known."""

MAY_LACK = 100
"""Classes that a config can have left out by mistake; a larger number is hardly one of them."""


def label_reader(reader: Reader, name: str) -> LabelReader:
    if not isinstance(reader, LabelReader):
        raise UserError(f"reader '{name}' reads no label maps, so it cannot serve segmentation (image and volume can)")
    return reader


def maps_of(items: Items, masks: str, suffixes: tuple[str, ...], reader: object = None) -> list[str]:
    """The label map of each sample. masks: a folder with files of the same names (another suffix may do), a path with
    {case} in the place of a sample's name, or a .csv with the columns path and mask, both relative to it. Where a
    folder has no map of a sample's name, those that `reader` says refer to it count (`ReferringLabels`).

    Raises UserError naming the samples that have none, that share one, or that have several of which none has their
    very name, and those whose map would be the sample itself.
    """
    where = Path(masks)
    twins: dict[str, list[str]] = {}
    referred: dict[str, list[str]] = {}
    if where.is_dir():
        by_name = {path.name: str(path) for path in sorted(where.iterdir())}
        by_stem: dict[str, list[str]] = {}
        for name, path in by_name.items():
            by_stem.setdefault(stem(name, suffixes), []).append(path)
        maps: list[str | None] = []
        for address in items.addresses:
            exact, alike = by_name.get(Path(address).name), by_stem.get(stem(address, suffixes), [])
            if exact is None and len(alike) > 1:
                twins[address] = alike
            maps.append(exact or (alike[-1] if alike else None))
        unnamed = [a for a, m in zip(items.addresses, maps, strict=True) if m is None or _same(m, a)]
        if unnamed and isinstance(reader, ReferringLabels):
            referred = reader.maps_referring(masks, unnamed)
            twins |= {address: several for address, several in referred.items() if len(several) > 1}
            maps = [referred.get(a, [m])[-1] for a, m in zip(items.addresses, maps, strict=True)]
    elif HOLE in masks:
        named = [masks.replace(HOLE, stem(address, suffixes)) for address in items.addresses]
        maps = [path if Path(path).exists() else None for path in named]
    elif where.is_file() and where.suffix == ".csv":
        listed = _listed(where)
        maps = [listed.get(str(Path(address).resolve())) for address in items.addresses]
    else:
        raise UserError(
            f"task.masks {masks}: expected a folder of label maps, a path with {HOLE} in it, or a .csv with the "
            "columns path and mask"
        )
    csv_instead = "give a .csv with the columns path and mask"
    if twins:
        address, alike = next(iter(twins.items()))
        raise UserError(
            f"task.masks {masks}: {len(twins)} of {len(items)} samples have several label maps there, and nothing says "
            f"which is right: {address} has {some(alike)}; remove what is not meant, or {csv_instead}"
        )
    missing = [address for address, map_ in zip(items.addresses, maps, strict=True) if map_ is None]
    if missing:
        passed = PassedOver()
        for file in sorted(where.iterdir()) if where.is_dir() else ():
            if file.is_file() and not file.name.lower().endswith(endings(suffixes)):
                passed.other(file.name)
        raise UserError(
            f"task.masks {masks}: {len(missing)} of {len(items)} samples have no label map there: {some(missing)}"
            + _named_otherwise(missing[0], where, suffixes)
            + (f"; {len(referred)} others are referred to: name those in a .csv for --data" if referred else "")
            + (f"; passed over: {passed}" if passed.counts and not referred else "")
        )
    owner: dict[str, str] = {}
    for address, map_ in zip(items.addresses, maps, strict=True):
        assert map_ is not None
        if map_ in owner:
            raise UserError(
                f"task.masks {masks}: {owner[map_]} and {address} share the label map {map_}; where names repeat, "
                f"{csv_instead}"
            )
        if _same(map_, address):
            raise UserError(
                f"task.masks {masks}: the label map of {address} would be the sample itself; where both lie in one "
                f"folder, {csv_instead}"
            )
        owner[map_] = address
    return list(owner)


def _same(one: str, other: str) -> bool:
    return Path(one).absolute() == Path(other).absolute()


def _named_otherwise(address: str, where: Path, suffixes: tuple[str, ...]) -> str:
    """A file that begins as the sample does, and has something after it: a_mask.png of a.jpg."""
    if not where.is_dir():
        return ""
    name = stem(address, suffixes)
    alike = sorted(path.name for path in where.iterdir() if path.name.startswith(name) and path.is_file())
    if not alike:
        return ""
    return f"; {alike[0]} is named otherwise: rename such files, or give a .csv with the columns path and mask"


def _listed(where: Path) -> dict[str, str]:
    try:
        reader = csv.DictReader(StringIO(where.read_text(encoding="utf-8-sig"), newline=""))
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"task.masks {where}: cannot be read as CSV: {error}") from None
    if not rows or not {"path", "mask"} <= rows[0][1].keys():
        raise UserError(f"task.masks {where}: expected a first line with the columns path and mask")
    first_said: dict[str, tuple[int, str]] = {}
    for line, row in rows:
        if not row["path"] or not row["mask"]:
            continue
        path, mask = (str(where.parent / forward(row[column], where.parent)) for column in ("path", "mask"))
        first, other = first_said.setdefault(str(Path(path).resolve()), (line, mask))
        if other != mask:
            raise UserError(
                f"task.masks {where}: lines {first} and {line} give {row['path']} different label maps, {other} and "
                f"{mask}; keep the right one"
            )
    return {path: mask for path, (_, mask) in first_said.items()}


def read_labels(
    reader: LabelReader,
    address: str,
    like: str,
    classes: int,
    foreground: bool,
    as_stored: bool = False,
    ignore: int | None = None,
) -> Labels:
    """0 for the background and 1..classes, on the grid that LabelReader says. foreground: whatever is above 0 is 1.

    ignore: the number in the file that says nothing is known; it becomes IGNORED. Raises BadSample.
    """
    with held(reader, address):
        labels = reader.label_map(address, like, as_stored)
    unknown = None if ignore is None else labels == ignore
    if foreground:
        labels = (labels > 0).astype(labels.dtype)
    if unknown is not None:
        labels = np.where(unknown, IGNORED, labels).astype(labels.dtype)
    if int(labels.max(initial=0)) > classes:
        raise BadSample(address, "label map", _beyond(labels, classes, ignore))
    return labels


def _beyond(labels: Labels, classes: int, ignore: int | None) -> str:
    """What to do about numbers that no class names; each piece of advice is true of these labels."""
    beyond = np.unique(labels[labels > classes])
    advice = [f"name them in task.classes, {int(beyond[-1])} in all"] if beyond[-1] < classes + MAY_LACK else []
    if ignore is None and (len(beyond) == 1 or VOID in beyond):
        void = VOID if VOID in beyond else int(beyond[0])
        advice.append(f"where {void} means that nothing is known there, task.ignore={void}")
    if classes == 1:
        advice.append("where any number means the one class, task.foreground=true makes one of all")
    numbers = (
        f"label{'s' * (len(beyond) > 1)} {some([int(n) for n in beyond], most=3)}, and task.classes names {classes}"
    )
    return f"{numbers}; {'; '.join(advice) or 'correct the map'}"


@dataclass(frozen=True)
class OntoLabels:
    """A crop sampler whose boxes are moved onto a label, of `balance` of the keys. labels: those of `address`, on the
    extent that it is asked for. Raises BadSample for another extent."""

    inner: CropSampler
    balance: float
    seed: int
    key: tuple[int | str, ...]
    labels: Labels
    map: str
    address: str

    def __call__(self, extent: tuple[int, ...]) -> Crop:
        check_extent(self.map, self.labels, self.address, extent)
        generator, box = rng(self.seed, *self.key), self.inner(extent)
        if float(torch.rand((), generator=generator)) >= self.balance:
            return box
        return toward_foreground(self.labels, box, generator)


class Pairing(Protocol):
    """What pairs have to know of the task; see Segmentation for what each is."""

    classes: tuple[str, ...]
    foreground: bool
    ignore: int | None
    balance: float
    distort: int
    strength: float


class PairedExamples:
    """Samples with the targets `labels` (*S) int64. balance: the share of crops that are moved onto a label."""

    def __init__(self, task: Pairing, config: Config, name: str, source: str, masks: str) -> None:
        self.task, self.seed, self.name = task, config.seed, name
        self.modality: ModalityConfig = config.modalities[name]
        self.reader = build_reader(self.modality, f"modalities.{name}.data.reader")
        self.map_reader = label_reader(self.reader, self.modality.data.reader.name)
        if isinstance(self.reader, NamedLabels) and not task.foreground:
            self.reader.name_classes(task.classes)
        self.items: Items = list_items(source, tuple(self.reader.suffixes))
        self.maps = maps_of(self.items, masks, tuple(self.reader.suffixes), self.reader)
        names = ", ".join(f"{name} {i}" for i, name in enumerate(task.classes, start=1))
        void = "" if task.ignore is None else f", to be ignored {task.ignore}"
        what = f"whatever is above 0 is {task.classes[0]}" if task.foreground else f"background 0, {names}"
        self.summary = f"{len(self.maps)} label maps of {masks}: {what}{void}"
        self.identity = "\n".join(Path(path).name for path in self.maps).encode("utf-8", "surrogateescape")

    def label_map(self, index: int, as_stored: bool = False) -> Labels:
        task, address = self.task, self.items.addresses[index]
        return read_labels(
            self.map_reader, self.maps[index], address, len(task.classes), task.foreground, as_stored, task.ignore
        )

    def read(self, index: int, keys: Sequence[Key], crops: Sequence[CropSampler]) -> list[Sample]:
        address, size = self.items.addresses[index], self.modality.size
        labels = self.label_map(index)
        onto = []
        for key, crop in zip(keys, crops, strict=True):
            drawn = ("balance", self.name, key.epoch, index, key.repeat)
            onto.append(OntoLabels(crop, self.task.balance, self.seed, drawn, labels, self.maps[index], address))
        shape, as_stored = (self.modality.channels, *size), not self.task.distort
        samples = read_placed(self.reader, address, onto, shape, as_stored)
        pairs = []
        for sample, key in zip(samples, keys, strict=True):
            assert sample.box is not None
            generator = rng(self.seed, "distort", self.name, key.epoch, index, key.repeat)
            x = distort(sample.x, self.task.distort, self.task.strength, 0.0, generator, VALUES)
            pairs.append(replace(sample, x=x, targets={TARGET: cut(labels, sample.box, size)}))
        return pairs

    def finish(self, batch: Batch, keys: Sequence[Key], step: int) -> Batch:
        return batch


def check_extent(address: str, labels: Labels, like: str, extent: tuple[int, ...]) -> None:
    if labels.shape != extent:
        ours, theirs = (" x ".join(map(str, shape)) for shape in (labels.shape, extent))
        raise BadSample(address, "label map", f"{ours}, and {like} is {theirs}")
