"""The task of detection: boxes of a label file along with crops, a loss, COCO's scores, and files of detections."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.batch import Batch
from mae_ext.data.change.distort import VALUES, distort
from mae_ext.data.image.boxes import BoxTable, Faulty, crop_boxes, read_boxes
from mae_ext.data.loading.batches import ModalityData, build_reader
from mae_ext.data.loading.examples import HeldOut
from mae_ext.data.plan import Key
from mae_ext.data.sample import CropSampler, Sample, read_placed
from mae_ext.data.sources.classes import check_apart, settled
from mae_ext.data.sources.table import Items, list_items
from mae_ext.engine.log import warn
from mae_ext.errors import ConfigError, UserError
from mae_ext.progress import Progress
from mae_ext.rng import rng
from mae_ext.tasks.detect.average_precision import average_precision, require_pycocotools
from mae_ext.tasks.detect.detections import TrainedDetector, write_detections
from mae_ext.tasks.detect.detector import Detector
from mae_ext.tasks.detect.fcos import Decoding, Detections, loss
from mae_ext.tasks.detect.pyramid import STRIDES
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.tasks.reconstruction import Reconstruction, with_reconstruction

NO_OBJECT = -1


class BoxExamples:
    """Crops with their objects as targets: boxes (most, 4), labels (most,), ignored (most,); then rows of NO_OBJECT.

    An object of which a crop shows too little is ignored, and so is one that its labels say to ignore.
    """

    def __init__(self, task: "Detection", config: Config, name: str, items: Items, table: BoxTable) -> None:
        self.task, self.seed, self.name, self.modality = task, config.seed, name, config.modalities[name]
        self.reader = build_reader(self.modality, f"modalities.{name}.data.reader")
        self.items, self.table, self.most = items, table, max(1, table.most)
        self.identity = table.identity
        numbers = table.count
        held = ", ".join(f"{c} {n}" for c, n in zip(table.classes, numbers, strict=True))
        self.summary = f"{sum(numbers)} boxes of {task.labels}: {held or 'none'}"

    def read(self, index: int, keys: Sequence[Key], crops: Sequence[CropSampler]) -> list[Sample]:
        address, objects = self.items.addresses[index], self.table[index]
        samples = read_placed(self.reader, address, crops, (self.modality.channels, *self.modality.size))
        size, labelled = (self.modality.size[0], self.modality.size[1]), []
        for sample, key in zip(samples, keys, strict=True):
            assert sample.extent is not None and sample.box is not None
            objects.check(address, sample.extent.size)
            boxes, shown = crop_boxes(objects.boxes, sample.box, size)
            ignored = objects.ignored | ~shown
            inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
            rest = self.most - int(inside.sum())
            targets = {
                "boxes": pad(boxes[inside], (0, 0, 0, rest)),
                "labels": pad(objects.labels[inside], (0, rest), value=NO_OBJECT),
                "ignored": pad(ignored[inside], (0, rest)),
            }
            generator = rng(self.seed, "distort", self.name, key.epoch, index, key.repeat)
            x = distort(sample.x, self.task.distort, self.task.strength, 0.0, generator, VALUES)
            labelled.append(replace(sample, x=x, targets=targets))
        return labelled

    def finish(self, batch: Batch, keys: Sequence[Key], step: int) -> Batch:
        return batch


def check_scale(name: str, modality: ModalityConfig, tables: Mapping[str, BoxTable]) -> None:
    """Raises UserError where no crop of training shows objects as large as whole images, stretched to `size`, do.

    Crops of fixed length are right where every image has that size already.
    """
    key, size = f"modalities.{name}.data.augment", list(modality.size)
    augment = modality.data.augment
    if augment.fixed and not all((table.sizes == size).all() for table in tables.values()):
        raise UserError(
            f"{key}.fixed={list(augment.fixed)}: training would see an image's own pixels, and whole images are judged "
            f"and answered stretched to size={size}, so objects would be of another size there; set {key}.fixed=[] and "
            f"{key}.scale=[0.5, 1.0]"
        )
    if not augment.fixed and augment.scale is not None and augment.scale[1] < 1:
        raise UserError(
            f"{key}.scale={list(augment.scale)}: no crop shows all of an image, and whole images are judged and "
            f"answered, so objects would be smaller there than they ever were; set {key}.scale="
            f"[{augment.scale[0]:g}, 1.0]"
        )


class Detection(FineTuning):
    """Fine-tune for boxes in images.

    labels: one COCO .json, or a folder of Pascal VOC .xml files, for the images of data.path and data.test.
    test_labels: of data.test alone, where it has its own. faulty_boxes: whether boxes outside their image or without
    area are refused, by name, or dropped. channels, depth, strides: of the pyramid's maps, of the head's towers, and
    the pixels between places of each level (ViTDet and FCOS: 256, 4, and 4, 8, 16, 32). threshold, overlap: of class
    scores, and of boxes in suppression, when answers are decoded. shown: the score from which `predict` draws. distort:
    so many random operations on values alone (light, colour), each with `strength` 0..1. classes: found in the data; a
    checkpoint holds them, a config need not. reconstruct, unlabelled, unlabelled_batch: as `Reconstruction` has them.

    Training sees crops (data.augment); evaluation and prediction see whole images, stretched to `size`: it should have
    the aspect of the images.
    """

    chief = ("mAP", "most")

    def __init__(
        self,
        labels: str | None = None,
        test_labels: str | None = None,
        faulty_boxes: Faulty = "refuse",
        channels: int = 256,
        depth: int = 4,
        strides: Sequence[int] = STRIDES,
        threshold: float = 0.05,
        overlap: float = 0.6,
        shown: float = 0.5,
        distort: int = 0,
        strength: float = 0.5,
        classes: Sequence[str] = (),
        reconstruct: float = 0.0,
        unlabelled: str | None = None,
        unlabelled_batch: int | None = None,
    ) -> None:
        for what, path in (("labels", labels), ("test_labels", test_labels)):
            if not isinstance(path, str | None):
                raise ValueError(f"{what}={path}: expected a path, a COCO .json or a folder of Pascal VOC .xml files")
        if faulty_boxes not in ("refuse", "drop"):
            raise ValueError(f"faulty_boxes={faulty_boxes!r}: expected 'refuse' or 'drop'")
        wholes = (("channels", channels, 1), ("depth", depth, 0), ("distort", distort, 0))
        for what, whole, least in wholes:
            if not isinstance(whole, int) or whole < least:
                raise ValueError(f"{what}={whole}: expected a whole number, at least {least}")
        for what, value in (("threshold", threshold), ("overlap", overlap), ("shown", shown), ("strength", strength)):
            if not 0 <= value <= 1:
                raise ValueError(f"{what}={value}: expected 0 to 1")
        self.labels, self.test_labels, self.faulty_boxes = labels, test_labels, faulty_boxes
        self.channels, self.depth, self.strides, self.classes = channels, depth, tuple(strides), tuple(classes)
        self.decoding, self.shown = Decoding(threshold=threshold, overlap=overlap), shown
        self.distort, self.strength = distort, strength
        self.reconstruction = Reconstruction(reconstruct, unlabelled, unlabelled_batch)

    def data(self, config: Config, rank: int = 0, world: int = 1) -> dict[str, ModalityData]:
        _, modality = self.modality_of(config)
        if modality.data.test is not None:
            require_pycocotools()
        data = super().data(config, rank, world)
        if rank == 0:
            one = data[self.modality_of(config)[0]]
            for examples in (one.examples, one.held_out and one.held_out.examples):
                for dropped in examples.table.dropped if isinstance(examples, BoxExamples) else ():
                    warn(f"left out (faulty_boxes: drop): {dropped}")
        return data

    def examples(self, config: Config, name: str) -> tuple[BoxExamples, HeldOut | None]:
        items = self._listed(config, name)
        tables = self._tables(items)
        check_scale(name, config.modalities[name], tables)
        each = {side: BoxExamples(self, config, name, items[side], table) for side, table in tables.items()}
        return each["train"], HeldOut(items["test"], each["test"]) if "test" in each else None

    def settle(self, config: Config, data: dict[str, ModalityData], old: Config | None) -> Config:
        config = super().settle(config, data, old)
        examples = data[self.modality_of(config)[0]].examples
        assert isinstance(examples, BoxExamples)
        return config.model_copy(update={"task": settled(config.task, examples.table.classes, old)})

    def model(self, config: Config) -> nn.Module:
        name, _ = self.modality_of(config)
        if not self.classes:
            raise ConfigError("task.classes is empty; they are found in the data when a run is started")
        try:
            return Detector(config, name, len(self.classes), self.channels, self.depth, self.strides)
        except ValueError as error:
            raise ConfigError(f"task: {error}") from None

    @with_reconstruction
    def loss(self, model: nn.Module, name: str, batch: Batch) -> Tensor:
        assert isinstance(model, Detector)
        answers, targets = model(batch.x, name), batch.targets
        return loss(answers, model.places, targets["boxes"], targets["labels"], targets["ignored"])

    def answers(
        self, model: nn.Module, config: Config, examples: BoxExamples, rows: Sequence[int], device: torch.device,
        bad: list[Any],
    ) -> Iterator[tuple[int, Detections]]:  # fmt: skip
        detector = self._trained(model, config)
        for one in detector.find_objects(examples.items, rows, device, bad, examples.table):
            yield one.row, one.detections

    def scores(self, examples: BoxExamples, answers: list[tuple[int, Detections]], bad: list[Any]) -> dict[str, float]:
        table = examples.table
        return average_precision([table[row] for row, _ in answers], [boxes for _, boxes in answers], table.classes)

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Progress | None = None
    ) -> list[Path]:
        """detections.json, COCO's format with scores, in pixels of each image; and a .png of each with its boxes."""
        return write_detections(self._trained(model, config), self.classes, self.shown, sources, out, progress)

    def modality_of(self, config: Config) -> tuple[str, ModalityConfig]:
        name, modality = super().modality_of(config)
        if len(modality.size) != 2:
            raise ConfigError(f"modalities.{name}.size={list(modality.size)}: task detect is for images, with two axes")
        return name, modality

    def _trained(self, model: nn.Module, config: Config) -> TrainedDetector:
        assert isinstance(model, Detector)
        return TrainedDetector(model, config, self.modality_of(config)[0], self.decoding)

    def _listed(self, config: Config, name: str) -> dict[str, Items]:
        """Images, of "train" and, where there are any, of "test"."""
        modality = config.modalities[name]
        if self.labels is None:
            raise UserError("task.labels is not set: give --set task.labels=PATH, a COCO .json or a folder of VOC .xml")
        suffixes = tuple(build_reader(modality, f"modalities.{name}.data.reader").suffixes)
        paths = {"train": modality.data.path, "test": modality.data.test}
        items = {side: list_items(path, suffixes) for side, path in paths.items() if path is not None}
        if modality.data.path is not None and modality.data.test is not None:
            check_apart(items["train"], items["test"], modality.data.path, modality.data.test)
        return items

    def _tables(self, items: Mapping[str, Items]) -> dict[str, BoxTable]:
        """Their objects, by side as they are."""
        assert self.labels is not None
        both = {side: listed.addresses for side, listed in items.items()}
        classes = self.classes or None
        if self.test_labels is None or "test" not in items:
            return read_boxes(both, self.labels, classes, self.faulty_boxes)
        tables = read_boxes({"train": both["train"]}, self.labels, classes, self.faulty_boxes)
        own = read_boxes({"test": both["test"]}, self.test_labels, tables["train"].classes, self.faulty_boxes)
        return tables | own
