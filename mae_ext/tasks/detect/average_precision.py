"""Average precision by COCO's own evaluator, pycocotools: numbers of another one cannot be compared with anybody's."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np

from mae_ext.data.image.boxes import ImageBoxes
from mae_ext.errors import UserError
from mae_ext.tasks.detect.fcos import Detections


def require_pycocotools() -> None:
    """Raises UserError where it is not installed: better before the training than after it."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        raise UserError(
            "detection is judged by pycocotools, which is not installed: pip install 'mae-ext[detect]'"
        ) from None


def average_precision(
    truth: Sequence[ImageBoxes], detected: Sequence[Detections], classes: Sequence[str]
) -> dict[str, float]:
    """Truth and detections of the same images, in the same pixels -> scores in 0..1.

    mAP: the mean over classes and over IoU 0.50, 0.55 .. 0.95. mAP50: at IoU 0.50. AP/NAME, AP50/NAME: of each class
    that occurs. At most 100 detections count an image. An ignored object, COCO's crowd or VOC's difficult, is matched
    as COCO matches a crowd: what lies in it counts neither for nor against. Raises UserError without pycocotools.
    """
    evaluator = evaluated(truth, detected, classes)
    with redirect_stdout(StringIO()):  # it says how long it takes
        evaluator.accumulate()
    # (IoU, recall, class, area, detections an image): all areas, at most 100; -1 where a class does not occur.
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    per_class = {
        name: (float(precision[:, :, i].mean()), float(precision[0, :, i].mean()))
        for i, name in enumerate(classes)
        if (precision[:, :, i] > -1).any()
    }
    if not per_class:
        return {"mAP": 0.0, "mAP50": 0.0}
    overall = np.mean(list(per_class.values()), axis=0)
    scores = {"mAP": float(overall[0]), "mAP50": float(overall[1])}
    for name, (every, half) in per_class.items():
        scores |= {f"AP/{name}": every, f"AP50/{name}": half}
    return scores


def evaluated(truth: Sequence[ImageBoxes], detected: Sequence[Detections], classes: Sequence[str]) -> Any:
    """COCO's evaluator after it has matched: `evalImgs` has what became of each detection, image by image."""
    require_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    assert len(truth) == len(detected)
    coco, chatter = COCO(), StringIO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(truth))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": [
            {**row, "id": number, "iscrowd": int(ignored)}
            for number, (row, ignored) in enumerate(_objects(truth), start=1)
        ],
    }
    answers = [{**row, "score": score} for row, score in _detections(detected)]
    with redirect_stdout(chatter):  # it prints its progress and a table
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(answers) if answers else _nothing(coco), "bbox")
        evaluator.evaluate()
    return evaluator


def _row(image: int, label: int, box: list[float]) -> dict[str, Any]:
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return {"image_id": image, "category_id": label, "bbox": [left, top, width, height], "area": width * height}


def _objects(truth: Sequence[ImageBoxes]) -> list[tuple[dict[str, Any], bool]]:
    return [
        (_row(i, label, box), ignored)
        for i, image in enumerate(truth)
        for box, label, ignored in zip(image.boxes.tolist(), image.labels.tolist(), image.ignored.tolist(), strict=True)
    ]


def _detections(detected: Sequence[Detections]) -> list[tuple[dict[str, Any], float]]:
    return [
        (_row(i, label, box), score)
        for i, image in enumerate(detected)
        for box, label, score in zip(image.boxes.tolist(), image.labels.tolist(), image.scores.tolist(), strict=True)
    ]


def _nothing(coco: Any) -> Any:
    """loadRes takes no empty list."""
    from pycocotools.coco import COCO

    empty = COCO()
    empty.dataset = {**coco.dataset, "annotations": []}
    empty.createIndex()
    return empty
