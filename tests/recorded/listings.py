# ruff: noqa: E501 - tables of inputs, a line for each
"""Folders of small files, shards and arrays, and what a listing of them comes to."""

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from recorded.record import digest

from mae_ext.data.sources import address as addresses
from mae_ext.data.sources import meant
from mae_ext.data.sources import table as source


def smooth(height: int, width: int, channels: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width] / max(height, width)
    found = np.stack([128 + 100 * np.sin((3 + c) * y + (2 - c) * x + c) for c in range(channels)], -1).astype(np.uint8)
    return found[..., 0] if channels == 1 else found


# Lists, folders, shards -----------------------------------------------------------------------------------------------

SUFFIXES = (".jpg", ".png", ".dcm/")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * (1 + len(name)))
    return root


def listed(path: Any, suffixes: tuple[str, ...] = SUFFIXES, here: Path | None = None) -> Any:
    items = source.list_items(str(path), suffixes)
    told = [
        os.path.relpath(a, here) if here and "::" not in a else (a.replace(str(here), "~") if here else a)
        for a in items.addresses
    ]
    return [
        told,
        items.labels,
        items.classes,
        dict(items.ignored),
        items.marks,
        items.patients and list(items.patients),
        meant.class_counts(items),
        meant.opening(items, "P", "N", " for U").replace(str(here), "~"),
        [m.replace(str(here), "~") for m in meant.odd(items, str(path))],
        meant.one_class(items, str(path)).replace(str(here), "~"),
    ]


def arrays(folder: Path) -> Iterator[tuple[str, Any]]:
    x = np.arange(2 * 4 * 5).reshape(2, 4, 5).astype(np.uint8)
    made: dict[str, dict[str, Any]] = {
        "plain": {"train_images": x, "train_labels": np.array([[3], [1]])}, "flat labels": {"train_images": x, "train_labels": np.array([3, 1])}, "texts": {"train_images": x, "train_labels": np.array(["b", "a"])}, "empty texts": {"train_images": x, "train_labels": np.array(["b", ""])}, "floats": {"train_images": x, "train_labels": np.array([0.0, 1.0])}, "odd floats": {"train_images": x, "train_labels": np.array([0.5, 1])}, "several": {"train_images": x, "train_labels": np.eye(2)}, "flags": {"train_images": x, "train_labels": np.array([True, False])}, "objects": {"train_images": x, "train_labels": np.array([{}, 1], object)}, "three labels": {"train_images": x, "train_labels": np.array([1, 2, 3])}, "no labels": {"train_images": x}, "test": {"test_images": x, "train_images": x[:1], "val_images": x[:0]}, "no images": {"x": x}, "one number": {"train_images": np.array(3)}, "objects for images": {"train_images": np.array([{}, {}], object)}, "complex": {"train_images": x.astype(complex)}, "negative labels": {"train_images": x, "train_labels": np.array([-1, 4])}, "numbers for texts": {"train_images": x, "train_labels": np.array(["10", "9"])},
    }  # fmt: skip
    for label, given in made.items():
        path = folder / f"{label}.npz"
        np.savez(path, **given)
        for split in ("", "::train", "::test", "::val", "::none") if label in ("plain", "test") else ("",):
            yield f"arrays {label}{split}", lambda p=path, s=split: listed(f"{p}{s}", here=folder)
    np.savez_compressed(folder / "packed.npz", train_images=np.asfortranarray(x))
    np.savez(folder / "columns.npz", train_images=np.asfortranarray(x))
    (folder / "text.npz").write_bytes(b"no zip")
    for name, row, limit in product(("plain", "packed", "columns", "text", "absent"), (0, 1, 2), (19, 20)):
        yield (
            f"row {row} of {name}, at most {limit}",
            lambda n=name, r=row, m=limit: digest(addresses.fetch(f"{folder}/{n}.npz::train_images::{r}", m)),
        )
    for index in (-3, -2, -1, 0, 1, 2):
        yield f"text {index} of two", lambda i=index: source.PathTable(["a\udce4\n", "b"])[i]
    for names in (["1", "2"], ["01"], ["0", "10"], ["99999"], ["100000"], ["a", "1"], ["-1"], ["1234567890"]):
        yield f"are numbers {names}", source.are_numbers(names)
