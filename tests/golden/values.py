"""Golden values as JSON holds them, and how two trees of them are compared: to the bit, or to a stated tolerance."""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

Path = tuple[str | int, ...]


class Near(NamedTuple):
    """How far a number may be from the kept one: relative to it, or absolute, whichever is more."""

    relative: float
    absolute: float


# Beside each, what was measured: the largest spread over all cases of the pinned kernels against those of AVX2, of
# AVX-512 and of two threads, on one machine. Tolerances are three to ten times that.
TOLERANCES: tuple[tuple[str, Near], ...] = (
    # Functions of the step and of the data, where no kernel has a say; but for resizing.
    (r"curve/(lr|epoch)|statistics/.*", Near(1e-5, 0.0)),  # 0
    (r"curve/loss.*", Near(1e-3, 0.0)),  # 1e-4, after kinks of UNETR's activations; 9e-6 without
    (r"curve/grad_norm", Near(2e-2, 0.0)),  # 2e-3
    # A weight whose gradient is rounding alone (a key's bias; much before an instance norm) is moved by Adam as fast
    # as the rest.
    (r"weights/head\.(stem|skips|ups).*/norm", Near(1e-2, 0.0)),  # 2e-3
    (r"weights/head\.(stem|skips|ups).*/mark", Near(0.0, 0.25)),  # 0.07
    (r"weights/.*/norm", Near(1e-2, 1e-5)),  # 2e-3
    (r"weights/.*/mark", Near(0.0, 2e-2)),  # 2e-3
    # A sample or two of 18 at the border: the linear probe of a run of 14 steps has little to go by.
    (r"(during|split|folds|untrained)/.*", Near(0.0, 0.2)),  # 0.11
    (r"scores/(surface_dice|hd95).*", Near(5e-2, 2e-2)),  # 7e-3 of one
    (r"scores/.*", Near(1e-2, 1e-3)),  # 3e-4
    (r"predict/probabilities/.*", Near(0.0, 1e-4)),  # 1e-6
    (r"(.*/)?pictures/light", Near(0.0, 0.05)),  # 0.02: a box more or less may be drawn
    (r"predict/affine", Near(0.0, 1e-4)),  # 0
)
FEATURES = 1e-3
"""Of arrays of floats: the largest difference over the largest value. Measured: 1e-6."""
VOXELS = 5e-3
"""Of arrays of whole numbers: the share of those that differ. Measured: 0."""
BOX = Near(0.0, 0.5)
SCORE = Near(0.0, 2e-3)
"""Of detections: pixels of each edge, and the score. Measured: 0.02 and 1e-5."""
STRAYS = 0.02
"""The share of boxes without a counterpart, which a score at the threshold decides. Measured: 0.004."""


def short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as text: its bytes, compressed."""
    array = np.ascontiguousarray(array)
    data = base64.b85encode(zlib.compress(array.tobytes(), 9)).decode()
    return {"packed": array.dtype.str, "shape": list(array.shape), "data": data}


def unpacked(value: dict[str, Any]) -> np.ndarray:
    content = zlib.decompress(base64.b85decode(value["data"]))
    return np.frombuffer(content, np.dtype(value["packed"])).reshape(value["shape"])


def is_leaf(value: Any, where: Path) -> bool:
    whole = isinstance(value, dict) and "packed" in value
    return whole or where[-2:] == ("predict", "boxes") or not isinstance(value, dict | list)


def leaves(value: Any, where: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every leaf of a tree with its path: numbers, words, packed arrays, and all boxes of a prediction as one."""
    if is_leaf(value, where):
        yield where, value
        return
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in parts:
        yield from leaves(part, (*where, key))
    if not len(value):
        yield where, "empty"


def differences(kept: Any, found: Any, exact: bool) -> list[str]:
    """What two trees do not share, a line each. exact: every number to its last bit; else within the tolerances.

    To a tolerance, a hash says nothing: beside each there are numbers that do.
    """
    old, new = dict(leaves(kept)), dict(leaves(found))
    lines = [f"{named(path)}: {said(old[path])} -> gone" for path in old if path not in new]
    lines += [f"{named(path)}: new, {said(new[path])}" for path in new if path not in old]
    return lines + [
        f"{named(path)}: {said(value, new[path])} -> {said(new[path], value)}"
        for path, value in old.items()
        if path in new and not (same(value, new[path]) if exact else close(path, value, new[path]))
    ]


def named(path: Path) -> str:
    return "/".join(map(str, path))


def kind(path: Path) -> str:
    """The path without the places in lists."""
    return "/".join(part for part in path if isinstance(part, str))


def same(kept: Any, found: Any) -> bool:
    return json.dumps(kept) == json.dumps(found)


def close(path: Path, kept: Any, found: Any) -> bool:
    if path[-1] == "hash":
        return True
    if path[-2:] == ("predict", "boxes"):
        return _paired(kept, found)
    if isinstance(kept, dict) and isinstance(found, dict):
        return _alike(unpacked(kept), unpacked(found))
    if isinstance(kept, float) and isinstance(found, float):
        return within(kept, found, tolerance(path))
    return same(kept, found)


def tolerance(path: Path) -> Near:
    return next((near for pattern, near in TOLERANCES if re.fullmatch(pattern, kind(path))), Near(1e-6, 0.0))


def within(kept: float, found: float, near: Near) -> bool:
    return abs(found - kept) <= max(near.relative * abs(kept), near.absolute)


def _alike(kept: np.ndarray, found: np.ndarray) -> bool:
    if kept.shape != found.shape or kept.dtype != found.dtype:
        return False
    if kept.dtype.kind == "f":
        return bool(np.abs(found - kept).max() <= FEATURES * np.abs(kept).max())
    return bool((kept != found).mean() <= VOXELS)


def _paired(kept: list[list[float]], found: list[list[float]]) -> bool:
    """Whether nearly every box (left, top, width, height, score, image, class) has its own counterpart."""
    free, strays = list(found), 0
    for box in kept:
        twin = next((other for other in free if _twins(box, other)), None)
        if twin is None:
            strays += 1
        else:
            free.remove(twin)
    return max(strays, len(free)) <= STRAYS * max(len(kept), 1)


def _twins(box: list[float], other: list[float]) -> bool:
    edges = all(within(a, b, BOX) for a, b in zip(box[:4], other[:4], strict=True))
    return edges and within(box[4], other[4], SCORE) and box[5:] == other[5:]


def said(value: Any, other: Any = None) -> str:
    """A leaf in a few words, beside another."""
    if isinstance(value, dict):
        told = f"{value['packed']} {value['shape']} {short_hash(value['data'].encode())}"
        if isinstance(other, dict) and other["shape"] == value["shape"]:
            share = float((unpacked(value) != unpacked(other)).mean())
            told += f" ({share:.1%} differ)"
        return told
    if isinstance(value, list):
        return f"{len(value)} boxes"
    return repr(value)
