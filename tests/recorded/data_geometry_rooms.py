"""Places in space: orientations, spacings and lattices."""

from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
from recorded.record import digest, each, room

from mae_ext.data.sample import Crop
from mae_ext.data.volume import geometry


def turned(degrees: tuple[float, float, float]) -> np.ndarray:
    """(3, 3): about each axis in turn."""
    found = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        c, s = np.cos(angle), np.sin(angle)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        found = turn @ found
    return found


def affines() -> dict[str, np.ndarray]:
    found = {}
    for order in permutations(range(3)):
        for number, signs in enumerate(product((1, -1), repeat=3)):
            if order == (0, 1, 2) or number in (0, 5):
                affine = np.eye(4)
                affine[:3, :3] = np.eye(3)[:, order] * np.array((0.7, 1.1, 2.5)) * signs
                affine[:3, 3] = -31.5, 12.25, 100
                found[f"axes {order} signs {signs}"] = affine
    for degrees in ((10, 0, 0), (0, 20, -5), (44, 0, 0), (46, 0, 0), (-15, 30, 60), (0.05, 0, 0)):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turned(degrees) * (0.9, 0.9, 3.0), (5, -6, 7)
        found[f"turned {degrees}"] = affine
    for lean in (0.005, 0.09, 0.11, 12.0, -12.0, 35.0):
        affine = np.diag([0.8, 0.8, 2.5, 1.0])
        affine[1, 2] = 2.5 * np.sin(np.deg2rad(lean))
        found[f"leans {lean}"] = affine
        flipped = affine.copy()
        flipped[:3, 0] *= -1
        flipped[0, 1] = 0.05 * lean / 12
        found[f"leans {lean}, flipped"] = flipped
    return found


def whole(value: Any) -> Any:
    """Rounded, so that a sign of zero or the last bit is none."""
    return np.round(np.asarray(value, float), 6) + 0.0


@room
def data_geometry(_: Path) -> Iterator[tuple[str, Any]]:
    for label, affine in affines().items():
        place = geometry.orientation(affine)
        yield f"orientation: {label}", [place.source, place.flip, whole(place.spacing), place.file_spacing, place.code]
        yield f"lean: {label}", float(np.round(geometry.lean(affine), 5))
        yield f"upright: {label}", whole(geometry.upright(affine))
        found, shape = geometry.canonical_affine(affine, (4, 6, 9), place)
        yield f"canonical affine: {label}", [whole(found), shape]
        stored = np.arange(2 * 4 * 6 * 9).reshape(2, 9, 6, 4)
        yield f"canonical: {label}", geometry.canonical(stored, (0, 1, 2), place)
    for spatial in ((1, 2, 3), (0, 2, 3), (2, 1, 0), (0, 1, 3)):
        place = geometry.orientation(np.diag([-1.0, 1, -2, 1]))
        yield f"canonical of axes {spatial}", geometry.canonical(np.arange(120).reshape(1, 4, 5, 6), spatial, place)
    one = np.diag([0.8, 0.8, 2.5, 1.0])
    for number, (mm, factor) in enumerate(product((0, 0.4, -0.41, 3), (1, 1.002, -1))):
        other = one.copy()
        other[1, 3], other[0, 0] = mm, 0.8 * factor
        for shape in ((5, 6, 7), (1, 1, 2)):
            yield f"apart {number} {shape}", geometry.apart(one, other, shape)
            yield f"apart {number} {shape}, the other way", geometry.apart(other, one, shape)
    yield from lattices()


EXTENTS = ((7, 10, 5), (1, 2, 3), (64, 1, 9))
SPACINGS = (
    None,
    (2.5, 0.8, 0.8),
    (1.25, 0.8, 0.8),
    (2.501, 0.799, 0.8),
    (2.5011, 0.7989, 0.8),
    (5, 1.6, 0.3),
    (1, 1, 1),
)


def lattices() -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(3)
    for extent, wanted in product(EXTENTS, SPACINGS):
        grid = geometry.lattice(extent, (2.5, 0.8, 0.8), wanted)
        label = f"{extent} to {wanted} mm"
        yield f"lattice {label}", [grid.shape, grid.ratio]
        x = chance.normal(0, 100, (2, *extent)).astype(np.float32)
        valid = chance.random(extent) > 0.1
        boxed = {
            "whole": ((0, 0, 0), grid.shape, grid.shape),
            "half the size": ((0, 0, 0), grid.shape, tuple(max(1, n // 2) for n in grid.shape)),
            "twice the size": ((0, 0, 0), grid.shape, tuple(2 * n for n in grid.shape)),
            "beyond": ((-2, -1, 0), tuple(n + 3 for n in grid.shape), tuple(n + 5 for n in grid.shape)),
            "beyond, resized": ((-3, 0, -1), tuple(n + 2 for n in grid.shape), (4, 5, 3)),
            "one voxel": (tuple(n - 1 for n in grid.shape), grid.shape, (1, 1, 1)),
            "one voxel, enlarged": (tuple(n - 1 for n in grid.shape), grid.shape, (3, 2, 4)),
            "outside": (tuple(n + 1 for n in grid.shape), tuple(n + 3 for n in grid.shape), (2, 2, 2)),
        }
        cuts = []
        for start, stop, size in boxed.values():
            box = Crop(start, stop, (False,) * 3)

            def cut(grid: Any = grid, box: Crop = box, size: tuple[int, ...] = size, x: Any = x, v: Any = valid) -> Any:
                taps = grid.taps(box, size)
                stored, inner = geometry.touched(x, taps)
                near, _ = geometry.touched(v[None], taps)
                flags = digest(
                    geometry.covered(near[0], inner), [[s.start, s.stop] for s in geometry.window(taps)],
                    stored.shape[1:], [t.inside for t in taps], str(grid.runs(box, size)),
                )  # fmt: skip
                return [geometry.interpolate(stored, inner), flags]

            cuts.append(cut)
        yield f"cut from {label}: {', '.join(boxed)}", lambda c=tuple(cuts): each(*c)
    x = np.arange(24).reshape(1, 2, 3, 4)
    for where in ((0, 0, 0), (1, 0, 2)):
        slices = tuple(slice(w, w + n) for w, n in zip(where, x.shape[1:], strict=True))
        size = tuple(n + 2 * w for w, n in zip(where, x.shape[1:], strict=True))
        yield f"laid at {where}", geometry.laid(x, slices, size, -7)
