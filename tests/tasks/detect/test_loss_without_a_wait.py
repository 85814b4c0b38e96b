"""The loss of detection is taken over a whole batch at once, and asks the device nothing."""

import monai.data.box_utils
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mae_ext.tasks.detect import fcos
from mae_ext.tasks.detect.fcos import Answers, giou_of, loss, places_of

PLACES = places_of(((8, 12), (4, 6), (2, 3)), ((8.0, 8.0), (16.0, 16.0), (32.0, 32.0)), (64, 96))
COUNT = len(PLACES.xy)


def drawn(images=4, most=5, classes=3):
    g = torch.Generator().manual_seed(0)
    corner, size = torch.rand(images, most, 2, generator=g) * 40, torch.rand(images, most, 2, generator=g) * 40 + 8
    labels = torch.randint(classes, (images, most), generator=g)
    labels[0], labels[1, 2:] = -1, -1
    answers = [torch.randn(images, COUNT, n, generator=g) for n in (classes, 4, 1)]
    return answers, (torch.cat([corner, corner + size], -1), labels, torch.rand(images, most, generator=g) < 0.3)


def answered(logits, distances, centerness):
    return Answers(logits, distances.exp() * 8, centerness[..., 0])


class Waits(TorchDispatchMode):
    """Calls whose result the host has to know before it can go on: numbers, counts, and choices by a mask."""

    def __init__(self):
        super().__init__()
        self.calls, self.waits = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        self.calls += 1
        by_mask = name in ("aten::index", "aten::index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique"):
            self.waits.append(name)
        return func(*args, **kwargs or {})


def test_a_step_of_the_loss_waits_for_nothing_and_is_no_longer_for_more_images():
    calls = []
    for images in (2, 16):
        answers, targets = drawn(images)
        with Waits() as seen:
            loss(answered(*(a.requires_grad_() for a in answers)), PLACES, *targets).backward()
        assert seen.waits == []
        calls.append(seen.calls)
    assert calls[0] == calls[1] < 400
    with Waits() as seen:  # what is counted, where there is any
        assert bool(targets[1][targets[1] > 0].any())
    assert seen.waits == ["aten::index", "aten::_local_scalar_dense"]


def test_images_that_are_compared_some_at_a_time_cost_what_all_at_once_cost(monkeypatch):
    answers, targets = drawn()
    at_once = loss(answered(*answers), PLACES, *targets)
    monkeypatch.setattr(fcos, "PAIRS", COUNT * 5 * 2)
    assert torch.equal(loss(answered(*answers), PLACES, *targets), at_once)


def test_what_is_infinite_where_nothing_is_asked_costs_nothing_and_has_no_gradient():
    answers, (boxes, labels, ignored) = drawn()
    ignored = torch.zeros_like(ignored)
    wanted, _ = fcos.assign(boxes, labels, ignored, PLACES)
    expected = loss(answered(*answers), PLACES, boxes, labels, ignored)
    logits, distances, centerness = (a.clone() for a in answers)
    distances[wanted < 0], centerness[wanted < 0] = 20.0, -1e30
    leaves = [a.requires_grad_() for a in (logits, distances, centerness)]
    found = loss(answered(*leaves), PLACES, boxes, labels, ignored)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(a.grad.isfinite().all() for a in leaves) and not distances.grad[wanted < 0].any()


@pytest.mark.parametrize("apart", [0.0, 3.0, 100.0])
def test_generalised_iou_is_that_of_monai(apart):
    first, second, *_ = drawn()[1][0]
    torch.testing.assert_close(
        giou_of(first, second + apart), monai.data.box_utils.box_pair_giou(first, second + apart)
    )
