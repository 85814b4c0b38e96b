"""Label maps: a whole number for every voxel of a sample, cut by the box that cuts the sample."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.case_names import are_cases, bare, case_of
from mae_ext.data.sample import Crop

Labels = NDArray[np.int32]

IGNORED = -1
"""In labels that a task has read: a voxel of which nothing is known, neither learned nor judged. No file holds it."""


@runtime_checkable
class LabelReader(Protocol):
    """What a reader has, beside `read`, that segmentation can use. label_suffix: of the files that it writes.

    Labels lie on one of the two grids of an `Extent`: the one that crop samplers are given (a scan's at the spacing of
    the config), from which training cuts, or the stored voxels, on which answers are judged and written.
    """

    label_suffix: str

    def label_map(self, address: str, like: str | None = None, as_stored: bool = False) -> Labels:
        """(*extent), or on the stored voxels.

        like: the sample that the labels are of. Raises BadSample "label map" where the two are not of one size and
        place, and whatever else is wrong with the file.
        """
        ...

    def write_labels(self, labels: Labels, like: str, path: Path, as_stored: bool = False) -> None:
        """Labels on either grid -> the file `path`, on the stored voxels, in the axis order and place of `like`.

        From the extent each voxel has the label of the nearest. Raises OSError, and BadSample for the sample.
        """
        ...


@runtime_checkable
class NamedLabels(Protocol):
    """What a LabelReader has, besides, whose files name their labels: it is told which name is which number."""

    def name_classes(self, classes: Sequence[str]) -> None:
        """The names of the labels 1, 2, ..., before any label map is read."""
        ...


@runtime_checkable
class ReferringLabels(Protocol):
    """What a LabelReader has, besides, some of whose label maps say by themselves whose they are."""

    def maps_referring(self, folder: str, addresses: Sequence[str]) -> dict[str, list[str]]:
        """{address: the label maps in a folder, at any depth, that are of this sample}, of those that have any."""
        ...


def cut(labels: Labels, box: Crop, size: tuple[int, ...]) -> Tensor:
    """(*extent) -> (*size) int64, the nearest voxel of each; 0 where the box reaches beyond."""
    view, turned = labels, [axis for axis, flip in enumerate(box.flip) if flip]
    for axis, (a, b, n, length) in enumerate(zip(box.start, box.stop, size, labels.shape, strict=True)):
        at = np.floor(a + (np.arange(n) + 0.5) * (b - a) / n).astype(np.int64)
        view = view.take(np.clip(at, 0, length - 1), axis)
        outside = np.flatnonzero((at < 0) | (at >= length))
        view[(slice(None),) * axis + (outside,)] = 0  # of a copy: `take` makes one
    view = np.flip(view, tuple(turned))
    return torch.from_numpy(np.ascontiguousarray(view).astype(np.int64))


def toward_foreground(labels: Labels, box: Crop, generator: torch.Generator) -> Crop:
    """The box moved so that it holds a voxel with a label; the box itself where there is none.

    Each label that occurs is as likely as any other, then each of its voxels, then each place in the box for it.
    """
    classes = np.unique(labels)
    classes = classes[classes > 0]
    draws = torch.rand(2 + len(box.start), dtype=torch.float64, generator=generator).tolist()
    if not len(classes):
        return box
    places = np.flatnonzero(labels == classes[int(draws[0] * len(classes))])
    voxel = np.unravel_index(places[int(draws[1] * len(places))], labels.shape)
    start = []
    for at, a, b, length, draw in zip(voxel, box.start, box.stop, labels.shape, draws[2:], strict=True):
        room = length - (b - a)
        start.append(a if room <= 0 else int(np.clip(int(at) - int(draw * (b - a)), 0, room)))
    stop = tuple(s + b - a for s, a, b in zip(start, box.start, box.stop, strict=True))
    return Crop(tuple(start), stop, box.flip)


def stem(address: str, suffixes: tuple[str, ...]) -> str:
    """The name of a sample without folder and suffix: "scans/a.nii.gz" -> "a"; a row of an archive keeps its number.

    suffixes: patterns of the files of a case give the case's name.
    """
    name = address.rstrip("/").replace("::", "_").rpartition("/")[2]
    if are_cases(suffixes):
        if place_case := case_of(address, suffixes[0]):
            return place_case[1]
        return bare(name)
    ends = [s for s in (suffix.removesuffix("/") for suffix in suffixes) if name.lower().endswith(s)]
    return name[: len(name) - len(max(ends, key=len))] if ends else name
