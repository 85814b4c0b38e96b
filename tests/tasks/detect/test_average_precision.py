"""Average precision: COCO's, silent, and for every class."""

import sys

import pytest
import torch

from mae_ext.data.image.boxes import ImageBoxes
from mae_ext.errors import UserError
from mae_ext.tasks.detect.average_precision import average_precision, require_pycocotools
from mae_ext.tasks.detect.fcos import Detections

pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")

CLASSES = ("cell", "platelet", "never there")
BOXES = torch.tensor([[10.0, 10, 50, 40], [60, 20, 90, 80]])


def truth(boxes=BOXES, labels=(0, 1), ignored=(False, False)):
    return ImageBoxes(boxes, torch.tensor(labels), torch.tensor(ignored, dtype=torch.bool), (100, 100))


def found(boxes=BOXES, scores=(0.9, 0.8), labels=(0, 1)):
    return Detections(boxes, torch.tensor(scores), torch.tensor(labels, dtype=torch.long))


def test_finding_everything_exactly_is_one_and_classes_that_do_not_occur_are_left_out(capsys):
    scores = average_precision([truth()], [found()], CLASSES)
    names = ("mAP", "mAP50", "AP/cell", "AP50/cell", "AP/platelet", "AP50/platelet")
    assert scores == pytest.approx(dict.fromkeys(names, 1.0))
    assert capsys.readouterr().out == ""


def test_a_box_that_overlaps_by_two_thirds_counts_at_the_lower_thresholds_only():
    shifted = BOXES + torch.tensor([8.0, 0, 8, 0])  # IoU 32/48 and 22/38
    scores = average_precision([truth()], [found(shifted)], CLASSES)
    assert scores["AP50/cell"] == pytest.approx(1) and scores["AP/cell"] == pytest.approx(0.4)
    assert scores["AP/platelet"] == pytest.approx(0.2) and scores["mAP"] == pytest.approx(0.3)


def test_the_wrong_class_counts_for_nothing():
    assert average_precision([truth()], [found(labels=(1, 0))], CLASSES)["mAP50"] == 0


def test_what_lies_in_an_ignored_object_counts_neither_for_nor_against():
    one = average_precision([truth(ignored=(False, True))], [found(scores=(0.5, 0.9))], CLASSES)
    assert one == pytest.approx({"mAP": 1, "mAP50": 1, "AP/cell": 1, "AP50/cell": 1})


def test_finding_nothing_is_zero_and_so_is_finding_things_where_nothing_is():
    nothing = found(torch.zeros(0, 4), (), ())
    assert average_precision([truth()], [nothing], CLASSES)["mAP"] == 0
    empty = truth(torch.zeros(0, 4), (), ())
    assert average_precision([empty], [found()], CLASSES) == {"mAP": 0, "mAP50": 0}
    assert average_precision([empty], [nothing], CLASSES) == {"mAP": 0, "mAP50": 0}


@pytest.mark.parametrize(("objects", "wanted"), [(3, 1.0), (100, 1.0), (120, 84 / 101)])
def test_a_hundred_detections_of_an_image_count_the_best_of_them(objects, wanted):
    """Of 120 objects a recall of 0.8333 is reached, with a precision of 1: 84 of COCO's recalls 0.00, 0.01 .. 1.00."""
    at = torch.arange(objects)
    corners = torch.stack([at % 12 * 8, at // 12 * 8], 1).float()
    boxes, one = torch.cat([corners, corners + 6], 1), [0] * objects
    scores = average_precision(
        [truth(boxes, one, [False] * objects)], [found(boxes, torch.linspace(0.9, 0.1, objects).tolist(), one)], ["x"]
    )
    assert scores["AP50/x"] == pytest.approx(wanted) and scores["mAP"] == pytest.approx(wanted)


def test_detections_in_an_image_without_objects_are_errors():
    empty = truth(torch.zeros(0, 4), (), ())
    scores = average_precision([truth(), empty], [found(), found(scores=(0.99, 0.95))], CLASSES)
    assert scores["mAP50"] == pytest.approx(0.5, abs=0.01)


def test_without_pycocotools_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(UserError, match=r"pip install 'mae-ext\[detect\]'"):
        require_pycocotools()
