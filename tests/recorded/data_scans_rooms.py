# ruff: noqa: E501 - tables of inputs, a line for each
"""Scans: every option of their reader, crops of them, and label maps in their place."""

import gzip
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from data.volume import placed_scans
from recorded.record import digest, joined, room
from recorded.scan_files import box, field, numbers, read, whole

from mae_ext.data.crops import FixedCrop, center_sampler
from mae_ext.data.sources import meant
from mae_ext.data.volume import labels as label_volume
from mae_ext.data.volume.reader import VolumeReader

# Options of the reader ------------------------------------------------------------------------------------------------


def scans(folder: Path) -> dict[str, str]:
    chance = np.random.default_rng(4)
    z, y, x = np.mgrid[:20, :18, :14]
    ct = np.where((y - 9) ** 2 / 40 + (z - 10) ** 2 / 60 < 1, 40, -1000) + chance.integers(-40, 40, z.shape)
    mr = np.where(x > 4, chance.normal(300, 50, z.shape), 0).clip(0)
    holed = mr.copy()
    holed[3, 4, 5] = np.nan
    holed[:2, 0, 0] = np.inf
    turned = (
        placed_scans.TURN
        @ np.diag([-2.0, 1.0, 1.5, 1])
        @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    )
    made = {}
    for name, data, affine in (
        ("ct", ct.astype(np.int16), np.diag([-0.8, 0.9, 2.0, 1])), ("mr", mr.astype(np.float32), turned), ("holed", holed.astype(np.float32), np.diag([1.0, 1, 1, 1])),
        ("time", np.stack([mr, mr * 2, mr + 5, mr / 2], -1).astype(np.float32), np.diag([1.0, 2, 1, 1])), ("pair", np.stack([ct, -ct], -1).astype(np.int16), np.diag([1.0, 1, 2, 1])),
        ("flat", np.full((4, 5, 6), 7, np.int16), np.eye(4)), ("small", chance.integers(0, 99, (3, 2, 4)).astype(np.uint8), np.diag([2.0, 2, 3, 1])),
    ):  # fmt: skip
        made[name] = str(folder / f"{name}.nii.gz")
        nib.Nifti1Image(data, affine).to_filename(made[name])
    arrays = {
        "plain": numbers((3, 7, 6, 5), "f4"),
        "flags": numbers((2, 7, 6, 5)) > 500,
        "channels": numbers((2, 7, 6, 5, 2), "u2"),
        "first": numbers((2, 2, 7, 6, 5), "u2"),
        "flat": numbers((2, 7, 6)),
        "five": numbers((2, 7, 6, 5, 2, 2)),
    }
    np.savez(folder / "rows.npz", **arrays)
    made |= {f"rows {key}": f"{folder}/rows.npz::{key}::1" for key in arrays}
    made["rows beyond"], made["rows last"] = f"{folder}/rows.npz::plain::3", f"{folder}/rows.npz::plain::2"
    return made


WINDOW = {"name": "window", "windows": [[-160, 240]]}
OPTIONS: dict[str, dict[str, Any]] = {
    "the default": {}, "as stored": {"intensity": "none"}, "window": {"intensity": WINDOW}, "percentile": {"intensity": "percentile"},
    "1.5 mm": {"spacing": [1.5, 1.5, 1.5], "intensity": "none"}, "3 x 1 x 0.7": {"spacing": [3, 1, 0.7]}, "spacing of its own": {"spacing": [2, 0.9, 0.8], "intensity": "none"},
    "otsu": {"body": "otsu"}, "nonzero": {"body": "nonzero"}, "body -500": {"body": -500, "intensity": WINDOW}, "body 1e6": {"body": 1e6}, "all finite": {"min_finite": 1.0}, "half finite": {"min_finite": 0.5},
    "time mean": {"time_axis": 3}, "time first": {"time_axis": -1, "time": "first", "intensity": "none"}, "time middle": {"time_axis": 3, "time": "middle", "intensity": "none"}, "channels": {"channel_axis": 3, "channels": 2, "intensity": "none"}, "channel axis 0": {"channel_axis": 0, "channels": 2, "intensity": "none"}, "time axis 0": {"time_axis": 0, "time": "middle", "intensity": "none"},
    "channel axis -1": {"channel_axis": -1, "channels": 2}, "two of windows": {"channels": 2, "intensity": {"name": "window", "windows": [[0, 100], [-1000, 500]]}}, "array spacing": {"array_spacing": [3, 2, 1], "intensity": "none"}, "arrays at 1.5 mm": {"array_spacing": [3, 2, 1], "spacing": [1.5] * 3, "intensity": "none"}, "3 channels": {"channels": 3}, "few bytes": {"max_bytes": 5000},
}  # fmt: skip
CROPS: dict[str, Any] = {
    "whole": whole, "middle": center_sampler((5, 6, 4)), "beyond": box((-2, -1, -3), (6, 9, 5)), "flipped": box((1, 0, 2), (6, 6, 6), (True, False, True)), "flipped once": box((0, 1, 0), (5, 7, 4), (False, True, False)), "resized": box((0, 0, 0), (3, 12, 4)),
}  # fmt: skip


@room
def data_scan_options(folder: Path) -> Iterator[tuple[str, Any]]:
    made = scans(folder)
    for (label, options), (name, address) in product(OPTIONS.items(), made.items()):
        of_rows = name.startswith("rows") and label not in ("the default", "as stored", "few bytes")
        if of_rows != bool({"array_spacing", "channel_axis", "time_axis"} & options.keys()) and name not in (
            "time",
            "pair",
        ):
            continue

        def cut(options: Any = options, address: str = address) -> Any:
            reader = VolumeReader(**{"size": (5, 6, 4), **options})
            return read(reader, address, *CROPS.values())

        yield f"{name}: {label}", cut
    for name, options in product(("ct", "mr", "small", "holed"), ({}, {"spacing": [1.5, 1.5, 1.5]}, {"body": "otsu"})):

        def kept(name: str = name, options: Any = options) -> Any:
            reader = VolumeReader((5, 6, 4), cache=str(folder / "cache"), min_finite=0.9, **options)
            found = reader.prepared(made[name])
            again = VolumeReader((5, 6, 4), cache=str(folder / "cache"), min_finite=0.9, **options)
            return [
                read(reader, made[name], *CROPS.values()),
                read(again, made[name], *CROPS.values()),
                joined([found.fill, found.spacing]),
                digest(found.valid),
                str(found.voxels.dtype),
            ]

        yield f"prepared {name}: {options}", kept
    yield (
        "too large to prepare",
        lambda: VolumeReader((4, 4, 4), spacing=[0.1] * 3, cache=str(folder / "c"), max_bytes=20000).prepared(
            made["ct"]
        ),
    )
    for share, size in product((0.0, 0.2, 0.55, 0.9, 1.0), ((6, 5, 4), (12, 13, 15))):

        def fullest(share: float = share, size: tuple[int, int, int] = size) -> Any:
            reader = VolumeReader(size, body="otsu", min_body=share)
            scan_, found = reader.scan(made["ct"]), []
            for seed in range(8):
                places = np.random.default_rng(seed).random((1 + seed, 3)).tolist()
                some = FixedCrop(size, (0, 1, 2), center_sampler(size), tuple(map(tuple, places)))
                found.append(list(reader.box(scan_, some).start))
            return [found, list(reader.box(scan_, center_sampler(size)).start)]

        yield f"at least {share} of body in {size}", fullest
    for label, given in {
        "two axes": {"size": (4, 4)}, "size 0": {"size": (4, 0, 4)}, "time last": {"time": "last"}, "both axes": {"time_axis": 0, "channel_axis": 0}, "min_body 2": {"min_body": 2, "body": 0}, "min_body -1": {"min_body": -1}, "min_body without": {"min_body": 0.1}, "min_finite 1.1": {"min_finite": 1.1}, "no bytes": {"max_bytes": 0}, "spacing 0": {"spacing": [0, 1, 1]}, "array spacing 2": {"array_spacing": [1, 2]}, "array spacing none": {"array_spacing": None},
        "windows and channels": {"channels": 3, "intensity": {"name": "window", "windows": [[0, 1], [1, 2]]}},
    }.items():  # fmt: skip
        yield (
            f"made with {label}",
            lambda g=given: sorted(
                (k, str(v))
                for k, v in vars(VolumeReader(**{"size": (4, 4, 4), **g})).items()
                if not k.startswith("intensity")
            ),
        )
    base = VolumeReader((4, 4, 4))
    rules = {
        "base": {},
        **OPTIONS,
        "array spacing 2": {"array_spacing": [1, 2, 1]},
        "clip": {"intensity": {"name": "zscore", "clip": 3}},
        "size": {"size": (9, 9, 9)},
        "min_body": {"body": 0, "min_body": 0.1},
    }
    for label, given in rules.items():
        yield f"what the cache asks: {label}", str(VolumeReader(**{"size": (4, 4, 4), **given})._rule())
    yield "what the cache asks is what changes", lambda: list(base._rule())
    yield from labels_of_scans(folder, made)


def labels_of_scans(folder: Path, made: dict[str, str]) -> Iterator[tuple[str, Any]]:
    for name, spacing in product(
        ("ct", "mr", "small", "rows plain"), (None, [1.5, 1.5, 1.5], [3, 1, 0.7], [2.0004, 0.9, 0.8])
    ):
        reader = VolumeReader((4, 4, 4), spacing=spacing)
        extent = reader.extent(made[name])
        yield f"stored {name} at {spacing}", [extent.size, joined(extent.places), extent.stored_spacing]
        for most, as_stored in product((255, 256, 70000), (False, True)):

            def there_and_back(
                reader: Any = reader, name: str = name, most: int = most, as_stored: bool = as_stored
            ) -> Any:
                extent = (
                    reader.extent(made[name]).size if not as_stored else VolumeReader((4, 4, 4)).extent(made[name]).size
                )
                labels = (np.random.default_rng(9).integers(0, most + 1, extent)).astype(np.int32)
                labels.flat[0] = most
                path = folder / f"labels-{most}.nii.gz"
                reader.write_labels(labels, made[name], path, as_stored)
                content = path.read_bytes()
                again = reader.label_map(str(path), made[name], as_stored)
                return digest(gzip.decompress(content), content[4:10], again, str(nib.load(path).get_data_dtype()))

            yield f"labels up to {most} of {name} at {spacing}, stored {as_stored}", there_and_back
    shape, place = (6, 7, 8), np.diag([1.0, 1.0, 2.0, 1])
    like = folder / "like.nii.gz"
    nib.Nifti1Image(numbers(shape), place).to_filename(like)
    reader = VolumeReader((4, 4, 4))
    moves: dict[str, np.ndarray] = {}
    for mm in (0.2, 0.24, 0.26, 0.3, 0.49, 0.51):
        moved = place.copy()
        moved[0, 3] = mm
        moves[f"moved {mm}"] = moved
        moves[f"moved back {mm}"] = place - (moved - place)
    for factor in (1.03, 1.06, 1.1, 1.15):
        wider = place.copy()
        wider[0, 0] *= factor
        moves[f"wider {factor}"] = wider
    flipped = place.copy()
    flipped[0, 0], flipped[0, 3] = -1, 5
    moves["flipped about"], moves["turned over"] = flipped, place * [[-1], [1], [1], [1]]
    for label, affine in moves.items():
        path = folder / "moved.nii.gz"

        def fits(affine: Any = affine, path: Path = path) -> Any:
            nib.Nifti1Image(numbers(shape) % 5, affine).to_filename(path)
            return digest(reader.label_map(str(path), str(like)))

        yield f"label map {label}", fits
    for label, other in {"of another shape": (6, 7, 9), "of other axes": (8, 7, 6), "with time": (6, 7, 8, 2)}.items():

        def wrong(other: Any = other) -> Any:
            nib.Nifti1Image(numbers(other) % 5, place).to_filename(folder / "other.nii.gz")
            return digest(reader.label_map(str(folder / "other.nii.gz"), str(like)))

        yield f"label map {label}", wrong
    for label, (dtype, slope, inter, values) in {
        "halves": ("f4", 1, 0, [0, 0.5, 1]), "near": ("f4", 1, 0, [0, 1.0009, 2]), "off": ("f4", 1, 0, [0, 1.0011, 2]), "negative": ("i2", 1, 0, [0, -1, 1]), "nan": ("f4", 1, 0, [0, np.nan, 3]), "large": ("f8", 1, 0, [0, 2.0**31 - 1, 2.0**31]), "largest": ("f8", 1, 0, [0, 1, 2.0**31 - 1]), "many": ("f4", 1, 0, [i + 0.3 for i in range(30)]),
        "steps": ("u1", 2 / 255, 0, [0, 127, 255]), "steps 0.5": ("u1", 0.5, 0, [0, 1, 2]), "steps 0.6": ("u1", 0.6, 0, [0, 1, 2]), "steps of 2": ("u1", 2, 0, [0, 1, 2]), "an intercept": ("i2", 1, 1, [-1, 0, 1]), "a negative slope": ("i2", -1, 0, [0, -1, -2]), "u8": ("u8", 1, 0, [0, 5, 2**40]),
    }.items():  # fmt: skip

        def whole_numbers(dtype: str = dtype, slope: float = slope, inter: float = inter, values: Any = values) -> Any:
            data = np.resize(np.array(values), shape).astype(dtype)
            header = placed_scans.nifti(
                folder / "values.nii", sform=place, qform=place, data=data, fix=field(scl_slope=slope, scl_inter=inter)
            )
            return digest(reader.label_map(header, str(like)))

        yield f"label values {label}", whole_numbers
    for name, kind in product(("ct", "mr", "rows plain", "small"), ("u1", "f4")):

        def headed(name: str = name, kind: str = kind) -> Any:
            header = label_volume.header_like(reader.formats.declared(made[name]), kind)
            return [
                np.round(header.get_best_affine(), 5) + 0.0,
                np.round(header.get_qform(), 4) + 0.0,
                [
                    int(header["sform_code"]),
                    int(header["qform_code"]),
                    int(header["xyzt_units"]),
                    int(header["vox_offset"]),
                ],
                header["pixdim"],
            ]

        yield f"header like {name}, {kind}", headed
    yield (
        "floats written",
        lambda: (
            label_volume.write(
                np.linspace(0, 1, 6 * 7 * 8).reshape(8, 7, 6),
                reader.formats.declared(str(like)),
                None,
                folder / "f.nii.gz",
            ),
            joined([nib.load(folder / "f.nii.gz").get_fdata()]),
        )[1:],
    )
    yield "one-sided sources", lambda: meant.one_sided(reader, [made["ct"], str(folder / "none.nii"), made["mr"]])
