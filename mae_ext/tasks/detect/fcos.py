"""FCOS (1904.01355): every place of every map says what is there, how far its box reaches, and how central it is.

No anchors. Boxes are (left, top, right, bottom) in pixels of the model's input; the places of all levels, finest first
and row by row, are counted in one axis, L. Suppression is MONAI's.
"""

from dataclasses import dataclass
from itertools import pairwise
from math import log

import torch
import torch.nn.functional as F
from einops import rearrange
from monai.data import box_utils
from torch import Tensor, nn

PRIOR = 0.01
"""What the classifier gives any class at the start: nearly all places are background (1708.02002, section 4.1)."""

ALPHA, GAMMA = 0.25, 2.0
"""Of the focal loss (1708.02002, table 1b; kept by FCOS)."""

RADIUS = 1.5
"""Strides around an object's centre within which a place answers for it (FCOS's second version, 2006.09214)."""

TOP_SHARE = 512 / 1333
"""FCOS gives boxes that reach beyond 512 pixels to the coarsest level, in images of up to 1333 (1904.01355, sections
3.2 and 4). As a share of the image's longer side, it means the same at any size."""

MAX_LOG_DISTANCE = 8.0
"""A box reaches at most e^8 = 2981 strides: beyond any image, below any overflow."""

BACKGROUND, IGNORED = -1, -2

PAIRS = 1 << 25
"""Pairs of a place and an object that are compared at once, with 16 bytes each in the largest tensor: 512 MiB."""


@dataclass(frozen=True)
class Places:
    """Where the maps look. xy: (L, 2) pixels. stride: (L, 2) pixels, across and down.

    reach: (L, 2) pixels: a place answers for boxes whose farthest side is from reach[0] up to, not including, reach[1]
    away.
    """

    xy: Tensor
    stride: Tensor
    reach: Tensor


@dataclass(frozen=True)
class Answers:
    """logits: (B, L, classes). distances: (B, L, 4) pixels to left, top, right, bottom. centerness: (B, L) logits."""

    logits: Tensor
    distances: Tensor
    centerness: Tensor


@dataclass(frozen=True)
class Detections:
    """Of one image, best first. boxes: (k, 4). scores: (k,) in 0..1. labels: (k,) int64."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def places_of(
    grids: tuple[tuple[int, int], ...], strides: tuple[tuple[float, float], ...], size: tuple[int, ...]
) -> Places:
    """Maps of (rows, columns), (pixels down, pixels across) and the image's (height, width) -> their places.

    The coarsest level takes boxes that reach TOP_SHARE of the longer side or more, and each finer one half of that.
    """
    xy, stride, reach = [], [], []
    bounds = [0.0, *(max(size) * TOP_SHARE / 2 ** (len(grids) - 2 - i) for i in range(len(grids) - 1)), float("inf")]
    for (rows, columns), (down, across), (low, high) in zip(grids, strides, pairwise(bounds), strict=True):
        y, x = torch.meshgrid(torch.arange(rows) * down, torch.arange(columns) * across, indexing="ij")
        xy.append(torch.stack([x + across / 2, y + down / 2], -1).flatten(0, 1))
        stride.append(torch.tensor([across, down]).expand(rows * columns, 2))
        reach.append(torch.tensor([low, high]).expand(rows * columns, 2))
    return Places(torch.cat(xy).float(), torch.cat(stride).float(), torch.cat(reach).float())


class Head(nn.Module):
    """Two towers of `depth` 3x3 convolutions with group norm, shared by all levels: for classes, and for boxes.

    centerness is told by the boxes' tower, as in 2006.09214. Distances are exp of what is computed, times the level's
    stride, with one learned factor for each level (1904.01355, section 3.2).
    """

    def __init__(self, channels: int, classes: int, depth: int, levels: int) -> None:
        super().__init__()
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)

        def tower() -> nn.Sequential:
            return nn.Sequential(
                *(
                    layer
                    for _ in range(depth)
                    for layer in (
                        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                        nn.GroupNorm(groups, channels),
                        nn.ReLU(),
                    )
                )
            )

        self.class_tower, self.box_tower = tower(), tower()
        self.classify = nn.Conv2d(channels, classes, 3, padding=1)
        self.measure = nn.Conv2d(channels, 4, 3, padding=1)
        self.center = nn.Conv2d(channels, 1, 3, padding=1)
        self.factors = nn.Parameter(torch.ones(levels))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)  # 1708.02002, section 4.1
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -log((1 - PRIOR) / PRIOR))

    def forward(self, maps: list[Tensor], strides: tuple[tuple[float, float], ...]) -> Answers:
        """A map (B, C, rows, columns) for each level -> Answers in float32, whatever the precision of the maps."""
        logits, distances, centerness = [], [], []
        for x, (down, across), factor in zip(maps, strides, self.factors, strict=True):
            towards = self.box_tower(x)
            pixels = self.factors.new_tensor([across, down] * 2)
            logs = rearrange(self.measure(towards), "b sides h w -> b (h w) sides").float() * factor
            distances.append(logs.clamp(max=MAX_LOG_DISTANCE).exp() * pixels)
            logits.append(rearrange(self.classify(self.class_tower(x)), "b classes h w -> b (h w) classes").float())
            centerness.append(rearrange(self.center(towards), "b 1 h w -> b (h w)").float())
        return Answers(torch.cat(logits, 1), torch.cat(distances, 1), torch.cat(centerness, 1))


def distances_to(boxes: Tensor, xy: Tensor) -> Tensor:
    """(..., 4), (..., 2) -> (..., 4): from places to the left, top, right and bottom of boxes; negative outside."""
    return torch.cat([xy - boxes[..., :2], boxes[..., 2:] - xy], -1)


def boxes_from(distances: Tensor, xy: Tensor) -> Tensor:
    """(..., 4), (..., 2) -> (..., 4): the boxes that reach so far from their places."""
    return torch.cat([xy - distances[..., :2], xy + distances[..., 2:]], -1)


@torch.no_grad()
def assign(boxes: Tensor, labels: Tensor, ignored: Tensor, places: Places) -> tuple[Tensor, Tensor]:
    """(..., n, 4), (..., n), (..., n) bool -> (..., L) what each place answers, (..., L) for which object, 0 if none.

    The answer is a label, BACKGROUND, or IGNORED: within an ignored object, and not another's. A place answers for an
    object that it lies in, within RADIUS strides of the centre, if the farthest side is in its reach; of several, for
    the smallest. An object narrower than the stride of its level may so be nobody's: images should be large enough.
    A row with a label below 0 is no object. Nothing here asks the device how many there are.
    """
    real = (labels >= 0)[..., None, :]
    if not boxes.shape[-2]:
        nothing = torch.zeros(*boxes.shape[:-2], len(places.xy), dtype=torch.long, device=places.xy.device)
        return nothing + BACKGROUND, nothing
    distances = distances_to(boxes[..., None, :, :], places.xy[:, None])
    inside = (distances.amin(-1) > 0) & real
    low, high = rearrange(boxes, "... n (corner xy) -> corner ... 1 n xy", corner=2)
    central = ((places.xy[:, None] - (low + high) / 2).abs() < RADIUS * places.stride[:, None]).all(-1)
    farthest, (least, most) = distances.amax(-1), places.reach[:, :, None].unbind(1)
    skip = ignored[..., None, :]
    answers = inside & central & (farthest >= least) & (farthest < most) & ~skip
    smallest, which = torch.where(answers, (high - low).prod(-1), torch.inf).min(-1)
    assigned = smallest.isfinite()
    label = torch.where((inside & skip).any(-1), IGNORED, BACKGROUND)
    return torch.where(assigned, labels.gather(-1, which), label), torch.where(assigned, which, 0)


def centerness_of(distances: Tensor) -> Tensor:
    """(..., 4) -> (...): 1 in the middle of a box, 0 on its edge (1904.01355, equation 3)."""
    left, top, right, bottom = distances.unbind(-1)
    across = torch.minimum(left, right) / torch.maximum(left, right)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return (across * down).clamp(min=0).sqrt()


def focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """(..., classes) logits and 0 or 1 -> the same shape (1708.02002, equation 5)."""
    p = logits.sigmoid()
    error = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    away = torch.where(wanted > 0, 1 - p, p)
    return torch.where(wanted > 0, ALPHA, 1 - ALPHA) * away**GAMMA * error


def _area(sides: Tensor) -> Tensor:
    """(..., 2) -> (...). Not `prod`, whose backward is a cumulated one."""
    return sides[..., 0] * sides[..., 1]


def giou_of(boxes: Tensor, others: Tensor) -> Tensor:
    """(..., 4), (..., 4) -> (...): generalised IoU, -1 to 1 (1902.09630, algorithm 1), of pairs of boxes.

    MONAI's `box_pair_giou` computes the same, and asks the device five times whether its boxes are sound.
    """
    (low, high), (low2, high2) = boxes.split(2, -1), others.split(2, -1)
    eps = torch.finfo(boxes.dtype).eps
    overlap = _area((torch.minimum(high, high2) - torch.maximum(low, low2)).clamp(min=0))
    union = _area(high - low) + _area(high2 - low2) - overlap
    hull = _area((torch.maximum(high, high2) - torch.minimum(low, low2)).clamp(min=0))
    giou: Tensor = overlap / (union + eps) - (hull - union) / (hull + eps)
    return giou


def loss(answers: Answers, places: Places, boxes: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
    """boxes (B, n, 4), labels (B, n), -1 where a row is no object, ignored (B, n) bool -> scalar.

    The sum of focal, GIoU (weighted by centerness, 1904.01355) and centerness losses, over the answering places of each
    image, and the mean over images. FCOS takes the mean over the places of a whole batch; then a batch would not be the
    mean of its parts. An image that holds nothing has its focal loss alone. All of the batch at once, without a wait.
    """
    at_once = max(1, PAIRS // max(1, len(places.xy) * boxes.shape[1]))
    cut = zip(*(part.split(at_once) for part in (boxes, labels, ignored)), strict=True)
    assigned = [assign(some, kinds, skip, places) for some, kinds, skip in cut]
    wanted, which = (torch.cat(parts) for parts in zip(*assigned, strict=True))
    counted, positive = (wanted != IGNORED)[..., None], wanted >= 0
    classes = torch.arange(answers.logits.shape[-1], device=wanted.device)
    right = (wanted[..., None] == classes).to(answers.logits.dtype)
    # `where`, not a product: what nobody asked for may be infinite.
    focal = torch.where(counted, focal_loss(answers.logits, right), 0).sum((1, 2))

    around = torch.cat([places.xy - 1, places.xy + 1], -1)  # of places without an object: any box that has an area
    number = positive.sum(1).clamp(min=1)
    if not boxes.shape[1]:
        own = around.expand_as(answers.distances)
    else:
        own = torch.where(positive[..., None], boxes.gather(1, which[..., None].expand(-1, -1, 4)), around)
    central = torch.where(positive, centerness_of(distances_to(own, places.xy)), 0)
    off = central * (1 - giou_of(boxes_from(answers.distances, places.xy), own))
    middle = F.binary_cross_entropy_with_logits(answers.centerness, central, reduction="none")
    return torch.stack([
        focal / number,
        off.sum(1) / central.sum(1).clamp(min=1e-6),
        torch.where(positive, middle, 0).sum(1) / number,
    ]).sum(0).mean()  # fmt: skip


@dataclass(frozen=True)
class Decoding:
    """threshold: on the class score. before, after: boxes kept of an image before and after suppression.

    overlap: IoU from which the worse of two boxes of one class goes. The values are those of FCOS's published
    configuration (tianzhi0549/FCOS, fcos_R_50_FPN_1x.yaml and its defaults).
    """

    threshold: float = 0.05
    before: int = 1000
    after: int = 100
    overlap: float = 0.6

    @torch.no_grad()
    def __call__(self, answers: Answers, places: Places, size: tuple[int, ...]) -> list[Detections]:
        """Answers for images of `size` (height, width) -> what is in each; score: sqrt(class * centerness)."""
        detections = []
        classes = answers.logits.shape[-1]
        central = answers.centerness.sigmoid()
        for i, chance in enumerate(answers.logits.sigmoid()):
            score = torch.where(chance > self.threshold, (chance * central[i, :, None]).sqrt(), 0).flatten()
            score, at = score.topk(min(self.before, len(score)))
            at, score = at[score > 0], score[score > 0]
            place, label = at // classes, at % classes
            boxes = boxes_from(answers.distances[i, place], places.xy[place])
            boxes, large = box_utils.clip_boxes_to_image(boxes, (size[1], size[0]))  # type: ignore[assignment]
            score, label = score[large], label[large]
            best = box_utils.batched_nms(boxes, score, label, self.overlap, self.after)
            detections.append(Detections(boxes[best], score[best], label[best]))
        return detections
