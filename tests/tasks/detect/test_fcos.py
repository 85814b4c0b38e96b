"""FCOS: which place answers for which object, what a perfect answer costs, and what becomes of answers."""

from math import log, sqrt

import pytest
import torch

from mae_ext.tasks.detect.fcos import (
    BACKGROUND,
    IGNORED,
    Answers,
    Decoding,
    Head,
    Places,
    assign,
    boxes_from,
    centerness_of,
    distances_to,
    focal_loss,
    loss,
    places_of,
)

SIZE = (64, 96)
STRIDES = ((8.0, 8.0), (16.0, 16.0), (32.0, 32.0))
GRIDS = ((8, 12), (4, 6), (2, 3))


@pytest.fixture
def places():
    return places_of(GRIDS, STRIDES, SIZE)


BOXES = torch.tensor([[10.0, 12, 30, 28], [40, 4, 92, 60], [0, 40, 24, 64]])
LABELS = torch.tensor([0, 1, 2])
NONE_IGNORED = torch.zeros(3, dtype=torch.bool)


def perfect(places, boxes, labels, classes=3, sure=12.0):
    """Answers for one image that say what is there."""
    wanted, which = assign(boxes, labels, torch.zeros(len(labels), dtype=torch.bool), places)
    own = boxes[which]
    distances = distances_to(own, places.xy)
    distances = torch.where((wanted >= 0)[:, None], distances, 1.0)
    logits = torch.full((len(wanted), classes), -sure)
    logits[wanted >= 0, wanted[wanted >= 0]] = sure
    central = centerness_of(distances).clamp(1e-4, 1 - 1e-4).logit()
    return Answers(logits[None], distances[None], central[None])


def test_places_are_the_middles_of_their_cells_finest_level_first(places):
    assert places.xy.shape == (96 + 24 + 6, 2)
    assert places.xy[:2].tolist() == [[4, 4], [12, 4]]
    assert places.xy[96 + 6].tolist() == [8, 24] and places.xy[-1].tolist() == [80, 48]


def test_cells_that_are_not_square_have_their_own_strides():
    found = places_of(((2, 3),), ((8.0, 4.0),), (16, 12))
    assert found.xy.tolist() == [[2, 4], [6, 4], [10, 4], [2, 12], [6, 12], [10, 12]]
    assert found.stride[0].tolist() == [4, 8]


def test_the_reaches_of_the_levels_follow_from_the_size_and_leave_nothing_out(places):
    low, high = places.reach[[0, 96, 120]].unbind(1)
    assert low[0] == 0 and high[-1] == float("inf") and low[1:].tolist() == high[:-1].tolist()
    assert high[1].item() == pytest.approx(96 * 512 / 1333)
    assert high[0].item() == pytest.approx(96 * 512 / 1333 / 2)
    assert places_of(GRIDS, STRIDES, (128, 192)).reach[96, 1] == 2 * high[1]


def test_every_object_is_answered_for_by_places_inside_it_of_the_level_that_reaches_so_far(places):
    wanted, which = assign(BOXES, LABELS, NONE_IGNORED, places)
    assert set(wanted.tolist()) == {BACKGROUND, 0, 1, 2}
    for place in (wanted >= 0).nonzero()[:, 0]:
        box, (x, y) = BOXES[which[place]], places.xy[place]
        assert wanted[place] == LABELS[which[place]]
        assert box[0] < x < box[2] and box[1] < y < box[3]
        farthest = max(x - box[0], y - box[1], box[2] - x, box[3] - y)
        assert places.reach[place, 0] <= farthest < places.reach[place, 1]


def test_where_objects_overlap_the_smaller_one_is_answered_for(places):
    boxes = torch.tensor([[0.0, 0, 30, 30], [8, 8, 24, 24]])
    wanted, _ = assign(boxes, torch.tensor([5, 6]), torch.zeros(2, dtype=torch.bool), places)
    at = (places.xy[:96] == torch.tensor([12.0, 12.0])).all(1).nonzero().item()
    assert wanted[at] == 6


def test_within_an_ignored_object_nothing_is_background(places):
    boxes = torch.tensor([[0.0, 0, 50, 50], [10, 12, 30, 28]])
    wanted, _ = assign(boxes, torch.tensor([1, 0]), torch.tensor([True, False]), places)
    inside = (places.xy < 50).all(1)
    assert set(wanted[inside].tolist()) == {IGNORED, 0} and set(wanted[~inside].tolist()) == {BACKGROUND}


def test_an_image_without_objects_is_background(places):
    wanted, _ = assign(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool), places)
    assert (wanted == BACKGROUND).all()


def test_distances_and_boxes_are_inverses():
    xy = torch.tensor([[12.0, 20.0], [50, 30]])
    distances = distances_to(BOXES[None, :2], xy[:, None])
    torch.testing.assert_close(boxes_from(distances, xy[:, None].expand(-1, 2, -1)), BOXES[:2].expand(2, -1, -1))


def test_centerness_is_one_in_the_middle_and_falls_to_zero_at_the_edge():
    assert centerness_of(torch.tensor([[4.0, 3, 4, 3], [0, 3, 8, 3], [1, 3, 4, 3]])).tolist() == [1, 0, 0.5]


def test_focal_loss_is_a_quarter_of_cross_entropy_where_half_is_believed_and_wanted():
    half = torch.zeros(1)
    assert focal_loss(half, torch.ones(1)).item() == pytest.approx(0.25 * 0.25 * 0.6931472)
    assert focal_loss(half, torch.zeros(1)).item() == pytest.approx(0.75 * 0.25 * 0.6931472)


def test_a_perfect_answer_costs_what_centerness_cannot_help_and_a_wrong_one_more(places):
    args = places, BOXES[None], LABELS[None], NONE_IGNORED[None]
    right = perfect(places, BOXES, LABELS)
    boxes_only = Answers(right.logits, right.distances + 3, right.centerness)
    classes_only = Answers(right.logits.roll(1, -1), right.distances, right.centerness)
    best = loss(right, *args)
    assert best < 0.7 and loss(boxes_only, *args) > best + 0.1 and loss(classes_only, *args) > best + 1


def test_rows_that_pad_the_objects_change_nothing(places):
    answers = perfect(places, BOXES, LABELS)
    padded = torch.cat([BOXES, torch.full((4, 4), 7.0)])[None], torch.cat([LABELS, torch.full((4,), -1)])[None]
    more = loss(answers, places, *padded, torch.zeros(1, 7, dtype=torch.bool))
    torch.testing.assert_close(more, loss(answers, places, BOXES[None], LABELS[None], NONE_IGNORED[None]))


def test_the_loss_of_a_batch_is_the_mean_of_its_images_and_one_of_them_may_be_empty(places):
    head = Head(8, 3, 1, 3)
    maps = [torch.randn(2, 8, *g, generator=torch.Generator().manual_seed(1)) for g in GRIDS]
    labels = torch.stack([LABELS, torch.full((3,), -1)])
    boxes, ignored = BOXES.expand(2, -1, -1), torch.zeros(2, 3, dtype=torch.bool)
    whole = loss(head(maps, STRIDES), places, boxes, labels, ignored)
    parts = [
        loss(
            head([m[i : i + 1] for m in maps], STRIDES), places, boxes[i : i + 1], labels[i : i + 1], ignored[i : i + 1]
        )
        for i in range(2)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    parts[1].backward()
    assert all(p.grad is not None for p in head.parameters())


def test_perfect_answers_decode_to_the_objects_each_once(places):
    (found,) = Decoding()(perfect(places, BOXES, LABELS), places, SIZE)
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.boxes[order], BOXES)
    assert (found.scores.diff() <= 0).all() and found.scores[0] > 0.5


def test_the_same_box_is_kept_for_each_of_two_classes_and_once_for_one(places):
    answers = perfect(places, BOXES[:1], LABELS[:1])
    logits = answers.logits.clone()
    logits[..., 1] = logits[..., 0]
    (found,) = Decoding()(Answers(logits, answers.distances, answers.centerness), places, SIZE)
    assert sorted(found.labels.tolist()) == [0, 1]


def test_boxes_are_cut_at_the_image_and_no_more_than_asked_for_are_given(places):
    answers = Answers(torch.zeros(1, 126, 3), torch.full((1, 126, 4), 20.0), torch.zeros(1, 126))
    (found,) = Decoding(after=5)(answers, places, SIZE)
    assert len(found.boxes) == 5 and found.boxes.min() >= 0
    assert (found.boxes <= torch.tensor([96.0, 64, 96, 64])).all()


def test_below_the_threshold_nothing_is_found(places):
    answers = Answers(torch.full((1, 126, 3), -9.0), torch.ones(1, 126, 4), torch.zeros(1, 126))
    (found,) = Decoding()(answers, places, SIZE)
    assert (found.boxes.shape, found.scores.shape, found.labels.shape) == ((0, 4), (0,), (0,))


def test_an_untrained_head_believes_in_nothing_and_its_boxes_are_a_stride_wide():
    answers = Head(16, 3, 2, 3)([torch.zeros(1, 16, *g) for g in GRIDS], STRIDES)
    torch.testing.assert_close(answers.logits.sigmoid(), torch.full((1, 126, 3), 0.01))
    assert answers.distances[0, 0].tolist() == [8, 8, 8, 8] and answers.distances[0, -1].tolist() == [32, 32, 32, 32]


def test_no_distance_overflows():
    head = Head(4, 1, 0, 1)
    torch.nn.init.constant_(head.measure.bias, 1e4)
    assert head([torch.zeros(1, 4, 2, 2)], ((8.0, 8.0),)).distances.isfinite().all()


def test_cells_that_are_not_square_measure_across_and_down_by_themselves():
    answers = Head(16, 3, 1, 1)([torch.zeros(1, 16, 2, 3)], ((8.0, 4.0),))
    assert answers.distances[0, 0].tolist() == [4, 8, 4, 8]  # left, top, right, bottom


def test_a_place_answers_within_one_and_a_half_strides_of_the_centre_of_its_own_level():
    """An object of 40x40 around (40, 40): the places at 20, 28, 36 .. 60 of a level of stride 8, without reaches."""
    every = places_of(((10, 10), (5, 5)), ((8.0, 8.0), (16.0, 16.0)), (80, 80))
    free = Places(every.xy, every.stride, torch.tensor([0.0, 1e9]).expand(len(every.xy), 2))
    wanted, _ = assign(torch.tensor([[20.0, 20, 60, 60]]), torch.tensor([0]), torch.tensor([False]), free)
    fine, coarse = every.xy[:100][wanted[:100] == 0], every.xy[100:][wanted[100:] == 0]
    assert set(fine.flatten().tolist()) == {36.0, 44.0} and len(fine) == 4  # 28 and 52 are 12 away
    assert set(coarse.flatten().tolist()) == {24.0, 40.0, 56.0} and len(coarse) == 9


def one_by_one(answers, places, boxes, labels, ignored):
    """The loss of an image as the papers write it, place by place."""
    wanted, which = assign(boxes, labels, ignored, places)
    focal = giou = weights = middle = 0.0
    count = sum(w >= 0 for w in wanted.tolist())
    for n, w in enumerate(wanted.tolist()):
        if w == IGNORED:
            continue
        for c, p in enumerate(answers.logits[0, n].sigmoid().tolist()):
            focal += -0.25 * (1 - p) ** 2 * log(p) if c == w else -0.75 * p**2 * log(1 - p)
        if w >= 0:
            x, y = places.xy[n].tolist()
            a, d = boxes[which[n]].tolist(), answers.distances[0, n].tolist()
            b = [x - d[0], y - d[1], x + d[2], y + d[3]]
            left, top, right, bottom = x - a[0], y - a[1], a[2] - x, a[3] - y
            central = sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
            shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
            giou += central * (1 - shared / union + (hull - union) / hull)
            weights += central
            p = answers.centerness[0, n].sigmoid().item()
            middle -= (central * log(p) + (1 - central) * log(1 - p)) / count
    return focal / count + giou / weights + middle


def test_the_loss_is_the_papers_place_by_place(places):
    chance = torch.Generator().manual_seed(0)
    answers = Answers(
        torch.randn(1, 126, 3, generator=chance), torch.rand(1, 126, 4, generator=chance) * 30 + 1,
        torch.randn(1, 126, generator=chance),
    )  # fmt: skip
    ignored = torch.tensor([False, True, False])
    expected = one_by_one(answers, places, BOXES, LABELS, ignored)
    # Rows that are no object come first here, so that they are told by their label and not by their place.
    boxes = torch.cat([torch.tensor([[8.0, 8, 40, 40]]), BOXES])[None]
    found = loss(
        answers, places, boxes, torch.tensor([[-1, 0, 1, 2]]), torch.cat([torch.tensor([False]), ignored])[None]
    )
    assert found.item() == pytest.approx(expected, rel=1e-4)


def flat(logits, centerness, side=10.0):
    """One map of 1x1 for each row of logits, over an image of 8x8: all boxes are alike."""
    n = len(logits)
    at = Places(torch.full((n, 2), 20.0), torch.full((n, 2), 8.0), torch.zeros(n, 2))
    return Answers(torch.tensor(logits)[None], torch.full((1, n, 4), side), torch.tensor(centerness)[None]), at


def test_a_score_is_the_root_of_class_times_centerness_and_the_threshold_is_on_the_class():
    answers, at = flat([[2.0, -1.0]], [0.5])
    p, q, c = (torch.tensor(v).sigmoid().item() for v in (2.0, -1.0, 0.5))
    (found,) = Decoding(threshold=0.0)(answers, at, (64, 96))
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([sqrt(p * c), sqrt(q * c)])
    (found,) = Decoding(threshold=0.3)(answers, at, (64, 96))
    assert found.labels.tolist() == [0]  # 0.27 is not above 0.3, and its score of 0.41 is
    (found,) = Decoding(threshold=0.6)(answers, at, (64, 96))
    assert found.labels.tolist() == [0]  # 0.88 is above 0.6, and its product with the centerness, 0.55, is not


@pytest.mark.parametrize(("overlap", "kept"), [(0.6, 2), (0.9, 3)])
def test_the_worse_of_two_boxes_goes_where_they_overlap_by_more_than_is_asked_for(overlap, kept):
    """Boxes 20 wide that are shifted by 2 (IoU 0.82) and by 8 (0.43)."""
    at = Places(torch.tensor([[20.0, 20], [22, 20], [28, 20]]), torch.full((3, 2), 8.0), torch.zeros(3, 2))
    answers = Answers(torch.tensor([[[3.0], [2.0], [1.0]]]), torch.full((1, 3, 4), 10.0), torch.zeros(1, 3))
    (found,) = Decoding(overlap=overlap)(answers, at, (64, 96))
    assert len(found.boxes) == kept and found.boxes[0].tolist() == [10, 10, 30, 30]


def test_the_published_values_are_the_ones_that_answers_are_decoded_with():
    found = Decoding()
    assert (found.threshold, found.before, found.after, found.overlap) == (0.05, 1000, 100, 0.6)


def test_the_towers_are_normalised_convolutions_with_a_fair_number_of_groups():
    kinds = [type(layer).__name__ for layer in Head(48, 2, 2, 1).class_tower]
    assert kinds == ["Conv2d", "GroupNorm", "ReLU"] * 2
    assert Head(48, 2, 1, 1).box_tower[1].num_groups == 16 and Head(64, 2, 1, 1).box_tower[1].num_groups == 32
