"""The task of detection: boxes of a label file along with crops, a loss, COCO's scores, and files of detections."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import pad

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.batch import Batch
from mae_ext.data.change.distort import VALUES, distort
from mae_ext.data.image.boxes import BoxTable, Faulty, crop_boxes, read_boxes
from mae_ext.data.loading.batches import ModalityData, build_reader
from mae_ext.data.loading.statistics import resolve_statistics
from mae_ext.data.plan import Key
from mae_ext.data.sample import CropSampler, Sample, read_placed
from mae_ext.data.sources.classes import check_apart, settled
from mae_ext.data.sources.table import Items, list_items
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import warn
from mae_ext.engine.pretrain import with_statistics
from mae_ext.errors import BadSample, ConfigError, UserError, check_bad
from mae_ext.progress import Progress
from mae_ext.rng import rng
from mae_ext.tasks.backbone import load_backbone
from mae_ext.tasks.detect.average_precision import average_precision, require_pycocotools
from mae_ext.tasks.detect.detections import Found, find_objects, write_detections
from mae_ext.tasks.detect.detector import Detector
from mae_ext.tasks.detect.fcos import Decoding, loss
from mae_ext.tasks.detect.pyramid import STRIDES

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
        self.told = f"{sum(numbers)} boxes of {task.labels}: {held or 'none'}"

    def read(self, index: int, keys: Sequence[Key], crops: Sequence[CropSampler]) -> list[Sample]:
        address, objects = self.items.addresses[index], self.table[index]
        samples = read_placed(self.reader, address, crops, (self.modality.channels, *self.modality.size))
        size, found = (self.modality.size[0], self.modality.size[1]), []
        for sample, key in zip(samples, keys, strict=True):
            assert sample.extent is not None and sample.box is not None
            objects.check(address, sample.extent.size)
            boxes, shown = crop_boxes(objects.boxes, sample.box, size)
            ignored = objects.ignored | ~shown
            there = (boxes[:, 2:] > boxes[:, :2]).all(1)
            rest = self.most - int(there.sum())
            targets = {
                "boxes": pad(boxes[there], (0, 0, 0, rest)),
                "labels": pad(objects.labels[there], (0, rest), value=NO_OBJECT),
                "ignored": pad(ignored[there], (0, rest)),
            }
            generator = rng(self.seed, "distort", self.name, key.epoch, index, key.repeat)
            x = distort(sample.x, self.task.distort, self.task.strength, 0.0, generator, VALUES)
            found.append(replace(sample, x=x, targets=targets))
        return found

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


class Detection:
    """Fine-tune for boxes in images.

    labels: one COCO .json, or a folder of Pascal VOC .xml files, for the images of data.path and data.test.
    test_labels: of data.test alone, where it has its own. faulty_boxes: whether boxes outside their image or without
    area are refused, by name, or dropped. channels, depth, strides: of the pyramid's maps, of the head's towers, and
    the pixels between places of each level (ViTDet and FCOS: 256, 4, and 4, 8, 16, 32). threshold, overlap: of class
    scores, and of boxes in suppression, when answers are decoded. shown: the score from which `predict` draws a box.
    distort: so many random operations on values alone (light, colour), each with `strength` 0..1. classes: found in the
    data; a checkpoint holds them, a config need not.

    Training sees crops (data.augment); evaluation and prediction see whole images, stretched to `size`: it should have
    the aspect of the images.
    """

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
    ) -> None:
        for what, path in (("labels", labels), ("test_labels", test_labels)):
            if not isinstance(path, str | None):
                raise ValueError(f"{what}={path}: expected a path, a COCO .json or a folder of Pascal VOC .xml files")
        if faulty_boxes not in ("refuse", "drop"):
            raise ValueError(f"faulty_boxes={faulty_boxes!r}: expected 'refuse' or 'drop'")
        for what, whole, least in (("channels", channels, 1), ("depth", depth, 0), ("distort", distort, 0)):
            if not isinstance(whole, int) or whole < least:
                raise ValueError(f"{what}={whole}: expected a whole number, at least {least}")
        for what, value in (("threshold", threshold), ("overlap", overlap), ("shown", shown), ("strength", strength)):
            if not 0 <= value <= 1:
                raise ValueError(f"{what}={value}: expected 0 to 1")
        self.labels, self.test_labels, self.faulty_boxes = labels, test_labels, faulty_boxes
        self.channels, self.depth, self.strides, self.classes = channels, depth, tuple(strides), tuple(classes)
        self.decoding, self.shown = Decoding(threshold=threshold, overlap=overlap), shown
        self.distort, self.strength = distort, strength

    def data(self, config: Config, rank: int = 0, world: int = 1) -> dict[str, ModalityData]:
        name, modality = self._modality(config)
        if modality.data.test is not None:
            require_pycocotools()
        items, tables = self._tables(config)
        check_scale(name, modality, tables)
        if rank == 0:
            for dropped in (fault for table in tables.values() for fault in table.dropped):
                warn(f"left out (faulty_boxes: drop): {dropped}")
        examples = BoxExamples(self, config, name, items["train"], tables["train"])
        return {name: ModalityData(config.seed, name, modality, rank, world, examples)}

    def settle(self, config: Config, data: Mapping[str, ModalityData], old: Config | None) -> Config:
        config = resolve_statistics(config, data) if old is None else with_statistics(config, old)
        (examples,) = (d.examples for d in data.values())
        assert isinstance(examples, BoxExamples)
        return config.model_copy(update={"task": settled(config.task, examples.table.classes, old)})

    def model(self, config: Config) -> nn.Module:
        name, _ = self._modality(config)
        if not self.classes:
            raise ConfigError("task.classes is empty; they are found in the data when a run is started")
        try:
            return Detector(config, name, len(self.classes), self.channels, self.depth, self.strides)
        except ValueError as error:
            raise ConfigError(f"task: {error}") from None

    def start(self, model: nn.Module, config: Config) -> None:
        assert isinstance(model, Detector) and config.init is not None
        load_backbone(model.backbone, config.init)

    def loss(self, model: nn.Module, name: str, batch: Batch) -> Tensor:
        assert isinstance(model, Detector)
        answers, targets = model(batch.x, name), batch.targets
        return loss(answers, model.places, targets["boxes"], targets["labels"], targets["ignored"])

    def evaluate(self, model: nn.Module, config: Config, ranks: Ranks) -> dict[str, float]:
        name, modality = self._modality(config)
        if modality.data.test is None:
            return {}
        assert isinstance(model, Detector)
        items, tables = self._tables(config)
        table, rows = tables["test"], range(ranks.rank, len(items["test"]), ranks.world)
        bad: list[BadSample] = []
        found = list(find_objects(model, config, name, items["test"], rows, self.decoding, table, ranks.device, bad))
        parts = ranks.gather((found, bad))
        every: list[Found] = sorted((f for part, _ in parts for f in part), key=lambda f: f.row)
        wrong = [b for _, part in parts for b in part]
        check_bad(wrong, len(items["test"]), modality.data.max_bad_fraction, modality.data.test)
        return average_precision([table[f.row] for f in every], [f.detections for f in every], table.classes)

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Progress | None = None
    ) -> list[Path]:
        """detections.json, COCO's format with scores, in pixels of each image; and a .png of each with its boxes."""
        name, _ = self._modality(config)
        assert isinstance(model, Detector)
        return write_detections(
            model, config, name, self.classes, self.decoding, self.shown, sources, out, progress=progress
        )

    def _modality(self, config: Config) -> tuple[str, ModalityConfig]:
        if len(config.modalities) > 1:
            raise ConfigError(f"task detect takes one modality, and the config has {', '.join(config.modalities)}")
        (name, modality), *_ = config.modalities.items()
        if len(modality.size) != 2:
            raise ConfigError(f"modalities.{name}.size={list(modality.size)}: task detect is for images, with two axes")
        return name, modality

    def _tables(self, config: Config) -> tuple[dict[str, Items], dict[str, BoxTable]]:
        """Images and their objects, of "train" and, where there are any, of "test"."""
        name, modality = self._modality(config)
        if modality.data.path is None:
            raise UserError(f"modalities.{name}.data.path is not set: give --data PATH")
        if self.labels is None:
            raise UserError("task.labels is not set: give --set task.labels=PATH, a COCO .json or a folder of VOC .xml")
        suffixes = tuple(build_reader(modality, f"modalities.{name}.data.reader").suffixes)
        paths = {"train": modality.data.path, "test": modality.data.test}
        items = {split: list_items(path, suffixes) for split, path in paths.items() if path is not None}
        if paths["test"] is not None:
            check_apart(items["train"], items["test"], modality.data.path, paths["test"])
        both = {split: listed.addresses for split, listed in items.items()}
        classes = self.classes or None
        if self.test_labels is None or "test" not in items:
            return items, read_boxes(both, self.labels, classes, self.faulty_boxes)
        tables = read_boxes({"train": both["train"]}, self.labels, classes, self.faulty_boxes)
        own = read_boxes({"test": both["test"]}, self.test_labels, tables["train"].classes, self.faulty_boxes)
        return items, tables | own
