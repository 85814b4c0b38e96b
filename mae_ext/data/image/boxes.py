"""Boxes of objects: one table for the images of a source, and what a crop makes of them.

A box is (left, top, right, bottom) in pixels of the upright image, as edges: the whole image is 0, 0, width, height.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.image.box_doubts import ROUNDING, SWAPPED, is_share, meant, name_contradictions, refuse_shares
from mae_ext.data.image.box_files import Annotation, read_annotations
from mae_ext.data.image.box_match import match
from mae_ext.data.sample import Crop
from mae_ext.errors import BadSample, UserError, some

MIN_VISIBLE = 0.2
"""Share of an object's area that a crop must show, for the object to be learned from it. Below, nobody could say what
it is; it is ignored then, which is not the same as being background. Our choice."""

MIN_SIDE = 1.0
"""Pixels of the model's input: what is thinner after a crop is ignored as well."""

Faulty = Literal["refuse", "drop"]
"""What becomes of a box that lies outside its image or has no area: the source is refused, or the box is left out."""


@dataclass(frozen=True)
class ImageBoxes:
    """The objects of one image.

    boxes: (n, 4) float32. labels: (n,) int64 into the table's classes. ignored: (n,) bool, neither learned nor counted
    (VOC's difficult, COCO's crowds). size: (height, width) in pixels as the label file has it, None where it does not.
    """

    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    size: tuple[int, int] | None

    def check(self, address: str, extent: tuple[int, ...]) -> None:
        """Raises BadSample where an image of extent (height, width) is not the one that was labelled."""
        height, width = extent[-2:]
        if self.size is not None and self.size != (height, width):
            detail = (
                f"the image has {width}x{height} pixels (upright), its labels are for {self.size[1]}x{self.size[0]}"
                + SWAPPED * (self.size == (width, height))
            )
            raise BadSample(address, "labels of another size", detail)
        if len(self.boxes) and bool((self.boxes > self.boxes.new_tensor([width, height] * 2) + ROUNDING).any()):
            raise BadSample(address, "boxes outside", f"the image has {width}x{height} pixels (upright)")


@dataclass(frozen=True)
class BoxTable:
    """The objects of every image of a source, in its order; arrays, because workers get a copy.

    dropped: boxes that were left out, in words.
    """

    classes: tuple[str, ...]
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    dropped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> ImageBoxes:
        rows = slice(int(self.ends[index - 1]) if index else 0, int(self.ends[index]))
        height, width = self.sizes[index].tolist()
        boxes, labels, ignored = (torch.from_numpy(a[rows].copy()) for a in (self.boxes, self.labels, self.ignored))
        return ImageBoxes(boxes, labels, ignored, (height, width) if height else None)

    @property
    def most(self) -> int:
        """Objects in the image that has most of them."""
        return int(np.diff(self.ends, prepend=0).max(initial=0))

    @property
    def count(self) -> list[int]:
        """Objects of each class."""
        counts: list[int] = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return counts

    @property
    def identity(self) -> bytes:
        """Changes when a box, a label, a class or their order does."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for array in (self.ends, self.sizes, self.boxes, self.labels, self.ignored):
            digest.update(array.tobytes())
        return digest.digest()


def read_boxes(
    sources: Mapping[str, Iterable[str]], path: str, classes: tuple[str, ...] | None = None, faulty: Faulty = "refuse"
) -> dict[str, BoxTable]:
    """Addresses of images, by the name of their split, and what one label file or folder says of them.

    The classes are those that occur in the first split, the one to train on, in the order of COCO's ids or of VOC's
    names; `classes` gives them instead where they are settled. An image without objects is legal; it has a label file
    that says so. Entries of other images are not used, and counted in the log, and so are boxes of two classes. Raises
    UserError for labels that cannot be read, or that are shares of the image; for an image without any, or with several
    that contradict each other; for one entry of two images; for a box outside its image or of no area, unless those are
    to be dropped; and for a class that another split has and the first has not.
    """
    annotations = read_annotations(path)
    images = {split: list(addresses) for split, addresses in sources.items()}
    refuse_shares(annotations, path)
    matched = match(annotations, images, path)
    name_contradictions(matched, path)
    checked = {split: [_checked(row) for row in rows] for split, rows in matched.items()}
    faults = [fault for rows in checked.values() for _, bad in rows for fault in bad]
    if faults and faulty == "refuse":
        raise UserError(
            f"labels '{path}': {len(faults)} boxes lie outside their image or have no area, or less than a pixel: "
            f"{some(faults, '; ')}. "
            + (meant(annotations, matched) or "Correct them, or leave them out with faulty_boxes: drop")
        )
    if classes is None:
        first = next(iter(matched.values()), [])
        seen = {name for row in first for name in row.names}
        classes = tuple(name for name in annotations.order if name in seen)
        if not classes:
            raise UserError(
                f"labels '{path}': the {len(first)} images to train on have no box at all: nothing to learn"
            )
    for split, rows in matched.items():
        unknown = sorted({name for row in rows for name in row.names} - set(classes))
        if unknown:
            raise UserError(
                f"labels '{path}': {split} has the classes {', '.join(unknown)}, which what is trained on has not "
                f"(there: {', '.join(classes) or 'none'}); move an example there, or correct the names"
            )
    return {split: _table(rows, classes) for split, rows in checked.items()}


def _checked(row: Annotation) -> tuple[Annotation, list[str]]:
    """The annotation with its usable boxes, cut to the image, and what is wrong with the others."""
    height, width = row.size or (np.inf, np.inf)
    image = "its image" if row.size is None else f"its image of {width}x{height} (width x height)"
    rows, boxes, faults = [], [], []
    for i, box in enumerate(row.boxes):
        left, top, right, bottom = box
        cut = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height)))
        fault = None
        if right <= left or bottom <= top:
            fault = "has no area"
        elif is_share(box) and not all(map(float.is_integer, box)):
            fault = "lies within one pixel, as shares of the image do (0..1), where pixels are expected"
        elif max(-left, -top, right - width, bottom - height) > ROUNDING or cut[2] <= cut[0] or cut[3] <= cut[1]:
            fault = f"lies outside of {image}"
        if fault is None:
            rows.append(i)
            boxes.append(cut)
        else:
            faults.append(f"{row.where}: box {i + 1}, {left:g} {top:g} {right:g} {bottom:g}, {fault}")
    names, ignored = [row.names[i] for i in rows], [row.ignored[i] for i in rows]
    return Annotation(row.where, row.parts, row.size, boxes, names, ignored), faults


def _table(rows: list[tuple[Annotation, list[str]]], classes: tuple[str, ...]) -> BoxTable:
    number = {name: i for i, name in enumerate(classes)}
    return BoxTable(
        classes,
        np.cumsum([len(row.boxes) for row, _ in rows], dtype=np.int64),
        np.array([row.size or (0, 0) for row, _ in rows], dtype=np.int64).reshape(-1, 2),
        np.array([box for row, _ in rows for box in row.boxes], dtype=np.float32).reshape(-1, 4),
        np.array([number[name] for row, _ in rows for name in row.names], dtype=np.int64),
        np.array([flag for row, _ in rows for flag in row.ignored], dtype=np.bool_),
        tuple(fault for _, faults in rows for fault in faults),
    )


def crop_boxes(boxes: Tensor, crop: Crop, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(n, 4) in pixels of the source -> (n, 4) in pixels of the crop resized to `size`, and (n,) bool: well visible.

    Boxes are cut at the crop's edge; what lies outside has no area. What shows less than MIN_VISIBLE of its area, or
    less than MIN_SIDE pixels, is not well visible. size: (height, width).
    """
    (top, left), (bottom, right) = crop.start, crop.stop
    low = boxes.new_tensor([left, top])
    extent = boxes.new_tensor([right - left, bottom - top])
    corners = rearrange(boxes, "n (corner xy) -> n corner xy", xy=2) - low
    cut = corners.clamp(min=torch.zeros_like(extent), max=extent)
    flipped = torch.tensor(crop.flip[::-1], device=boxes.device)
    cut = torch.where(flipped, (extent - cut).flip(1), cut)
    sides, whole = cut[:, 1] - cut[:, 0], corners[:, 1] - corners[:, 0]
    scale = boxes.new_tensor([size[1], size[0]]) / extent
    shown = sides.prod(1) >= MIN_VISIBLE * whole.prod(1)
    return (cut * scale).flatten(1), shown & (sides * scale >= MIN_SIDE).all(1)


def uncrop_boxes(boxes: Tensor, crop: Crop, size: tuple[int, int]) -> Tensor:
    """(n, 4) in pixels of a crop resized to `size` (height, width) -> (n, 4) in pixels of the source: the inverse."""
    (top, left), (bottom, right) = crop.start, crop.stop
    extent = boxes.new_tensor([right - left, bottom - top])
    scale = extent / boxes.new_tensor([size[1], size[0]])
    corners = rearrange(boxes, "n (corner xy) -> n corner xy", xy=2) * scale
    flipped = torch.tensor(crop.flip[::-1], device=boxes.device)
    corners = torch.where(flipped, (extent - corners).flip(1), corners)
    return (corners + boxes.new_tensor([left, top])).flatten(1)
