"""Boxes that can be read and cannot be meant: shares for pixels, corners for sides, swapped sizes, two classes."""

import logging
from collections import defaultdict
from collections.abc import Mapping

from mae_ext.data.image.box_files import Annotation, Annotations
from mae_ext.errors import UserError, some

ROUNDING = 1.0
"""Pixels by which a box may leave the image and is cut without a word: tools count from 0 or from 1, and round."""

SWAPPED = (
    ": width and height may be swapped in the label file, or the image was labelled before its EXIF turned it; mend it "
    "there, sizes and boxes"
)
"""Said of an image whose size is the other way round than its labels have it."""

log = logging.getLogger("mae_ext.data.sources.table")
"""As what a listing passes over is said."""


def refuse_shares(annotations: Annotations, path: str) -> None:
    """Raises UserError where most boxes are shares of the image."""
    every = [(row, box) for row in annotations.images for box in row.boxes]
    shares = [(row, box) for row, box in every if is_share(box)]
    if 2 * len(shares) > len(every):
        row, (_, _, right, bottom) = shares[0]
        raise UserError(
            f"labels '{path}': {len(shares)} of {len(every)} boxes lie within 0..1, such as one of {row.where} that "
            f"ends at {right:g}, {bottom:g}: they are shares of the image, as YOLO has them. Expected pixels: multiply "
            f"x and width by the width of each image, y and height by its height"
        )


def is_share(box: tuple[float, float, float, float]) -> bool:
    """Whether a box ends within the first pixel, as shares of the image all do."""
    return 0 < box[2] <= 1 and 0 < box[3] <= 1


def meant(annotations: Annotations, matched: Mapping[str, list[Annotation]]) -> str:
    """What boxes would fit as, all of them, where some leave their images; "" where none does or none of it fits."""
    sized = [row for rows in matched.values() for row in rows if row.size is not None and row.boxes]
    if all(_fit(row) for row in sized):
        return ""
    if all(_fit(row, swapped=True) for row in sized):
        return "All boxes fit with width and height swapped: correct the sizes in the label file"
    if annotations.suffixed and all(_fit(row, corners=True) for row in sized):
        return "All boxes fit as [x1, y1, x2, y2]: COCO's bbox is [x, y, width, height], so write x2 - x1 and y2 - y1"
    return ""


def _fit(row: Annotation, corners: bool = False, swapped: bool = False) -> bool:
    """Whether all boxes lie in the image and, taken as corners, have an area. A box without area fits anywhere."""
    assert row.size is not None
    height, width = row.size[::-1] if swapped else row.size
    for left, top, right, bottom in row.boxes:
        x, y = (right - left, bottom - top) if corners else (right, bottom)
        if min(left, top) < -ROUNDING or x > width + ROUNDING or y > height + ROUNDING:
            return False
        if corners and (x <= left or y <= top):
            return False
    return True


def name_contradictions(matched: Mapping[str, list[Annotation]], path: str) -> None:
    """Boxes that have two classes, as one warning."""
    contradictions = []
    for row in (row for rows in matched.values() for row in rows):
        kinds: dict[tuple[float, ...], set[str]] = defaultdict(set)
        for box, name in zip(row.boxes, row.names, strict=True):
            kinds[box].add(name)
        several = {box: sorted(names) for box, names in kinds.items() if len(names) > 1}
        contradictions += [
            f"{row.where}: {' '.join(f'{v:g}' for v in b)} is {' and '.join(n)}" for b, n in several.items()
        ]
    if contradictions:
        log.warning(
            "labels '%s': %d boxes have several classes, of which none can be learned well: %s",
            *(path, len(contradictions), some(contradictions, "; ")),
        )
