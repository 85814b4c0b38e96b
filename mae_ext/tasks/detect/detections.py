"""What a trained detector says of whole images: for the evaluator, and as files for people."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mae_ext.config import Config, ModalityConfig
from mae_ext.cores import cores
from mae_ext.data.image.boxes import BoxTable, uncrop_boxes
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sample import Reader, Sample, read_checked, read_placed, stack, whole
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items
from mae_ext.drawing.boxes import as_picture, draw_boxes
from mae_ext.engine.outputs import Results, addresses_of, result_paths
from mae_ext.errors import BadSample, UserError, reasons
from mae_ext.progress import Progress
from mae_ext.tasks.detect.detector import Detector
from mae_ext.tasks.detect.fcos import Decoding, Detections

BATCH = 8
"""Images answered at a time: their maps are large."""

RESULT = "detections.json"

LONGER_SIDE = 1600
"""Pixels of a drawn picture, at most."""


@dataclass(frozen=True)
class ImageDetections:
    """row: the image's place in the list. extent: its (height, width). detections: in its own pixels, on the CPU."""

    row: int
    extent: tuple[int, int]
    detections: Detections


@dataclass(frozen=True)
class TrainedDetector:
    """A detector as evaluation and prediction ask it. name: of its modality in `config`."""

    model: Detector
    config: Config
    name: str
    decoding: Decoding

    @property
    def modality(self) -> ModalityConfig:
        return self.config.modalities[self.name]

    def reader(self) -> Reader:
        return build_reader(self.modality, f"modalities.{self.name}.data.reader")

    def find_objects(
        self, items: Items, rows: Sequence[int], device: torch.device, bad: list[BadSample],
        table: BoxTable | None = None,
    ) -> Iterator[ImageDetections]:  # fmt: skip
        """Detections in the images at `rows`, seen whole, one image after the other.

        bad: gains the images that could not be read. table: labels that each image is held against (their size).
        """
        size = (self.modality.size[0], self.modality.size[1])
        for part in self._read(items, rows, bad, table):
            x, _ = stack([sample for _, sample in part])
            answers = self.model(x.to(device), self.name)
            for (row, sample), one in zip(part, self.decoding(answers, self.model.places, size), strict=True):
                assert sample.extent is not None and sample.box is not None
                boxes = uncrop_boxes(one.boxes.float(), sample.box, size)
                height, width = sample.extent.size
                kept = Detections(boxes.cpu(), one.scores.float().cpu(), one.labels.cpu())
                yield ImageDetections(row, (height, width), kept)

    def _read(
        self, items: Items, rows: Sequence[int], bad: list[BadSample], table: BoxTable | None
    ) -> Iterator[list[tuple[int, Sample]]]:
        """Batches of (row, image), a batch decoded by threads while the one before is answered."""
        reader = self.reader()
        shape = (self.modality.channels, *self.modality.size)

        def read(row: int) -> tuple[int, Sample] | BadSample:
            address = items.addresses[row]
            try:
                (sample,) = read_placed(reader, address, [whole], shape)
                if table is not None and sample.extent is not None:
                    table[row].check(address, sample.extent.size)
            except BadSample as error:
                return error
            return row, sample

        parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        with ThreadPoolExecutor(min(BATCH, cores()), thread_name_prefix="decode") as pool:
            ahead = [pool.submit(read, row) for row in parts[0]] if parts else []
            for following in [*parts[1:], []]:
                outcomes = [future.result() for future in ahead]
                ahead = [pool.submit(read, row) for row in following]
                bad += [o for o in outcomes if isinstance(o, BadSample)]
                if good := [o for o in outcomes if not isinstance(o, BadSample)]:
                    yield good


def write_detections(
    detector: TrainedDetector, classes: Sequence[str], shown: float, sources: Sequence[str], out: Path,
    progress: Progress | None = None,
) -> list[Path]:  # fmt: skip
    """`out`/detections.json, and a PNG of each image with the boxes that score `shown` or more.

    The JSON is a COCO dataset (images, annotations, categories) whose annotations have a score: tools for either read
    it. bbox is [x, y, width, height] in pixels of the upright image. The same command again goes on; see `Results`.
    Raises UserError where no image can be read.
    """
    suffixes = tuple(detector.reader().suffixes)
    addresses = addresses_of(sources, suffixes)
    pictures = result_paths(addresses, suffixes, out, ".png")
    items, device = Items(PathTable(addresses)), next(detector.model.parameters()).device
    bad: list[BadSample] = []
    try:
        with Results(out, detector.model, detector.config) as results:
            left = results.open(addresses, pictures, [out / RESULT])
            done = len(addresses) - len(left)
            for one in detector.find_objects(items, left, device, bad):
                address = addresses[one.row]
                with results.writing(address, pictures[one.row], _row(one)) as path:
                    _draw(detector, address, one, classes, shown, path)
                done += 1
                if progress is not None:
                    progress(done + len(bad), len(addresses))
            for error in bad:
                results.leave_out(error)
            if len(bad) == len(addresses):
                raise UserError(f"{', '.join(sources)}: none of its {len(bad)} images can be read: {reasons(bad)}")
            rows = [(i, results.row(address)) for i, address in enumerate(addresses)]
            every = [_restored(i, row) for i, row in rows if row is not None]
            results.summary(out / RESULT, json.dumps(_coco(items, every, classes), allow_nan=False))
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error}") from error
    return [out / RESULT, *(pictures[one.row] for one in every)]


def _row(one: ImageDetections) -> dict[str, Any]:
    kept = one.detections
    return {
        "extent": one.extent, "boxes": kept.boxes.tolist(), "scores": kept.scores.tolist(),
        "labels": kept.labels.tolist(),
    }  # fmt: skip


def _restored(index: int, row: dict[str, Any]) -> ImageDetections:
    boxes = torch.tensor(row["boxes"], dtype=torch.float32).view(-1, 4)
    labels = torch.tensor(row["labels"], dtype=torch.long)
    height, width = row["extent"]
    return ImageDetections(index, (height, width), Detections(boxes, torch.tensor(row["scores"]), labels))


def _coco(items: Items, images: Sequence[ImageDetections], classes: Sequence[str]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for one in images:
        kept = one.detections
        for box, score, label in zip(kept.boxes.tolist(), kept.scores.tolist(), kept.labels.tolist(), strict=True):
            left, top, right, bottom = (round(v, 2) for v in box)
            wide, high = round(right - left, 2), round(bottom - top, 2)
            annotations.append({
                "id": len(annotations) + 1, "image_id": one.row + 1, "category_id": label + 1,
                "bbox": [left, top, wide, high], "area": round(wide * high, 2), "iscrowd": 0, "score": round(score, 5),
            })  # fmt: skip
    return {
        "images": [
            {"id": i.row + 1, "file_name": items.addresses[i.row], "height": i.extent[0], "width": i.extent[1]}
            for i in images
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }


def _draw(
    detector: TrainedDetector, address: str, one: ImageDetections, classes: Sequence[str], shown: float, path: Path
) -> None:
    """The image at its own resolution, up to LONGER_SIDE, and not as the model saw it."""
    scale = min(1.0, LONGER_SIDE / max(one.extent))
    size = (max(1, round(one.extent[0] * scale)), max(1, round(one.extent[1] * scale)))
    modality = detector.modality.model_copy(update={"size": size})
    reader = build_reader(modality, f"modalities.{detector.name}.data.reader")
    (sample,) = read_checked(reader, address, [whole])
    kept = one.detections.scores >= shown
    boxes = one.detections.boxes[kept] * scale
    labels, scores = one.detections.labels[kept].tolist(), one.detections.scores[kept].tolist()
    draw_boxes(as_picture(sample.x), boxes, labels, classes, scores).save(path)
