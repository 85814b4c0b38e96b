# ruff: noqa: B008, E501, PLC3002 - tables of inputs, a line for each
"""Batches and films: what a loader makes of many settings, and what a film's packets come to."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from recorded.listings import smooth
from recorded.record import Soft, digest, joined, room

from mae_ext.config import parse_config
from mae_ext.data import plan, sample
from mae_ext.data.loading import batches, doctor, statistics
from mae_ext.data.sample import Sample
from mae_ext.data.video import bitstream, film_table

# Batches --------------------------------------------------------------------------------------------------------------

MODEL = {"model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}}


@room
def data_batches(folder: Path) -> Iterator[tuple[str, Any]]:
    import nibabel as nib

    (folder / "p").mkdir()
    for number in range(9):
        Image.fromarray(np.roll(smooth(20 + number, 30 - number, 3), number * 3, 0)).save(
            folder / "p" / f"{number}.png"
        )
    (folder / "p" / "4.png").write_bytes(b"bad")
    (folder / "p" / "7.png").write_bytes(b"")
    (folder / "v").mkdir()
    for number in range(3):
        x = np.random.default_rng(number).normal(100 * number, 30, (18, 17, 16)).astype(np.float32)
        x[9 + number :] = -1000
        nib.Nifti1Image(x, np.diag([1.0, 1 + number, 2, 1])).to_filename(folder / "v" / f"{number}.nii.gz")
    image_ = {
        "size": [12, 12],
        "patch": [4, 4],
        "channels": 3,
        "batch": 4,
        "data": {"path": str(folder / "p"), "statistics": "none"},
    }
    scan_ = {
        "size": [8, 8, 8],
        "patch": [4, 4, 4],
        "channels": 1,
        "batch": 4,
        "data": {
            "path": str(folder / "v"),
            "statistics": "none",
            "repeats": 2,
            "augment": {"fixed": [0, 1, 2], "flip": [0, 2]},
            "reader": {"name": "volume", "body": -500, "intensity": {"name": "window", "windows": [[-200, 400]]}},
        },
    }
    kinds: dict[str, dict[str, Any]] = {
        "image": image_, "grid": image_ | {"mask": {"name": "grid", "ratio": 0.75}}, "block": image_ | {"mask": {"name": "block", "ratio": 0.5}}, "grey": image_ | {"channels": 1}, "decode": image_ | {"mask": {"name": "random", "ratio": 0.75}, "decode": {"name": "random", "ratio": 0.3}},
        "repeats": image_ | {"data": image_["data"] | {"repeats": 2, "augment": {"scale": [0.3, 0.5], "flip": [0, 1]}}}, "scan": scan_, "scan body": scan_ | {"mask": {"name": "foreground", "ratio": 0.5, "body_ratio": 0.7}}, "scan body decode": scan_ | {"mask": {"name": "foreground", "ratio": 0.6, "body_ratio": 0.7}, "decode": {"name": "foreground", "ratio": 0.3, "body_ratio": 0.2}}, "scan resized": scan_ | {"data": scan_["data"] | {"augment": {"fixed": [0], "scale": [0.2, 0.9]}}}, "tube": scan_ | {"mask": {"name": "tube", "ratio": 0.5}},
    }  # fmt: skip
    for label, modality in kinds.items():
        for seed, rank, world, name in ((0, 0, 1, "m"), (1, 0, 1, "m"), (0, 1, 2, "m"), (0, 0, 1, "n")):

            def made(
                modality: Any = modality, seed: int = seed, rank: int = rank, world: int = world, name: str = name
            ) -> Any:
                config = parse_config(
                    {"seed": seed, "modalities": {name: modality}, "train": {"steps": 1, "workers": 0}, **MODEL}
                )
                data = batches.ModalityData(config.seed, name, config.modalities[name], rank, world)
                found = []
                for step in (0, 1, 5):
                    batch = data.batch(step)
                    mask = digest(batch.mask.keep, batch.mask.pred) if batch.mask is not None else ""
                    found.append(
                        [
                            Soft(joined([batch.x.float()])),
                            digest(
                                batch.files,
                                batch.valid,
                                [Path(s).name for s in batch.sources],
                                [(Path(b["path"]).name, b["kind"]) for b in batch.bad],
                            ),
                            mask,
                            None if batch.spacing is None else joined([batch.spacing]),
                        ]
                    )
                return found

            if (seed, rank, name) == (0, 0, "m") or label in ("image", "scan"):
                yield f"batch {label}, seed {seed}, rank {rank} of {world}, {name}", made
        yield (
            f"statistics of {label}",
            lambda m=modality: (
                lambda c: (
                    statistics.resolve_statistics(c, {"m": batches.ModalityData(0, "m", c.modalities["m"])})
                    .modalities["m"]
                    .data.statistics
                )
            )(
                parse_config(
                    {
                        "modalities": {"m": m | {"data": m["data"] | {"statistics": "measured"}}},
                        "train": {"steps": 1, "workers": 0},
                        **MODEL,
                    }
                )
            ),
        )
    for word in ("imagenet", "none"):
        for channels in (1, 3):
            yield (
                f"statistics {word} for {channels}",
                lambda w=word, c=channels: (
                    lambda cfg: statistics.resolve_statistics(cfg, {}).modalities["m"].data.statistics
                )(
                    parse_config(
                        {
                            "modalities": {"m": image_ | {"channels": c, "data": image_["data"] | {"statistics": w}}},
                            "train": {"steps": 1, "workers": 0},
                            **MODEL,
                        }
                    )
                ),
            )
    for total, count in ((0, 3), (1, 3), (3, 3), (10, 3), (1000, 7), (5, 0)):
        yield f"spread {count} of {total}", plan.spread(total, count)
    chance = torch.Generator().manual_seed(3)
    streams = {
        "floats": [torch.randn(2, 4, 5, generator=chance) * 9 + 1e4 for _ in range(3)], "bytes": [torch.randint(0, 256, (2, 4, 5), generator=chance, dtype=torch.uint8) for _ in range(3)], "constant": [torch.full((2, 3, 3), v) for v in (7.0, 7.0)], "constant below 0": [torch.full((2, 3, 3), -7.0)], "zero": [torch.zeros(2, 2, 2)], "nearly constant": [torch.tensor([[1e6, 1e6, 1e6 + 1.0], [-1e6, -1e6 - 0.0625, -1e6]]).view(2, 3, 1)], "two constants": [torch.full((1, 2, 2), 1.0), torch.full((1, 3, 3), 5.0)],
    }  # fmt: skip
    for label, xs in streams.items():
        for valid in (False, True):

            def measured(xs: Any = xs, valid: bool = valid) -> Any:
                moments = statistics.Moments()
                for i, x in enumerate(xs):
                    where = (torch.arange(x[0].numel()).view(1, *x.shape[1:]) % (2 + i) == 0) if valid else None
                    moments.add(Sample(x, "a", where))
                found = moments.statistics()
                return [list(found.mean), list(found.std), moments.count]

            yield f"moments of {label}, valid {valid}", measured
    mixed = [torch.tensor([0, 51, 255], dtype=torch.uint8), torch.tensor([0.0, 0.2, 1.0])]
    yield (
        "stacked",
        [
            *(sample.stack([Sample(x, "a") for x in xs])[0] for xs in (mixed, mixed[:1])),
            sample.stack_optional([None, None], "x"),
        ],
    )
    yield "stacked in part", lambda: sample.stack_optional([None, torch.ones(1)], "x")
    for patch in ((2, 2), (1, 3), (4, 6)):
        valid = torch.arange(24).view(1, 4, 6) % 5 > 1
        yield (
            f"valid share in {patch}",
            [
                batches.valid_share(Sample(torch.zeros(1, 4, 6), "a", valid), patch),
                batches.valid_share(Sample(torch.zeros(1, 4, 6), "a"), patch),
            ],
        )
    verdicts = [
        doctor.Verdict("a", True, description="JPEG RGB 3x4", doubts=("d",)),
        doctor.Verdict("b", False, "damaged", "x"),
        doctor.Verdict("c", True, description="JPEG RGB 5x4"),
        doctor.Verdict("d", False, "damaged"),
        doctor.Verdict("e", True, "", "told"),
    ]
    for count in (0, 1, 3, 5):
        yield f"summary of {count}", [doctor.summary(verdicts[:count]), *map(str, verdicts[:count])]
    yield "summary of good ones", doctor.summary([verdicts[0], verdicts[2]])
    yield from films()


def films() -> Iterator[tuple[str, Any]]:
    chance = np.random.default_rng(7)
    for codec in ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "mjpeg", "other"):
        begins, hidden = [], []
        for number in range(300):
            unit = chance.integers(0, 256, int(chance.integers(3, 9))).astype(np.uint8).tobytes()
            unit = (
                bytes([int(chance.choice([5, 6, 1, 7, 38, 40, 32, 64, 0x65, 2]))])
                + (b"\x06\x01\x84" if number % 5 == 0 else b"")
                + unit
            )
            packet = (
                b"\0\0\0\1" + unit + b"\0\0\1" + bytes([int(chance.choice([5, 1, 6, 32, 38]))]) + unit
                if number % 2
                else len(unit).to_bytes(4, "big") + unit + (3).to_bytes(4, "big") + b"\x65ab"
            )
            packet = b"\0\0\1\xb6" + unit if codec == "mpeg4" and number % 3 else packet if codec[0] == "h" else unit
            extra = bytes([1, 0, 0, 0, 3] + [3] * 20) if not number % 2 else b""
            begins.append(bitstream.can_begin(codec, extra, memoryview(packet)))
            hidden.append(bitstream.is_hidden(codec, memoryview(packet)))
        yield f"packets of {codec}", [sum(begins), sum(hidden), digest(begins, hidden)]
    for number in range(12):
        n = int(chance.integers(3, 20))
        pts = np.arange(n) * 10
        for start in range(0, n - 2, 3):
            pts[start : start + 3] = pts[start : start + 3][[0, 2, 1]]
        if number % 3 == 1:
            pts[1] = film_table.NONE
        if number % 4 == 3:
            pts[2] = pts[0]
        for first in (0, 1, 2):
            yield (
                f"shown {number} from {first}",
                lambda p=pts.copy(), f=first, h=np.array([2] if number % 2 else [], np.int64): [
                    film_table._by_times(p, h, f)
                ],
            )
        order = np.argsort(pts, kind="stable")
        yield f"closed {number}", [film_table._is_closed(np.array(e), order) for e in ([0], [0, 1], [0, 2], [2], [1])]
    for declared, promised, end, packets, rate in product(
        (0, 10, 12, 100), (0.0, 1.0, 1.2), (0.4, 0.49, 0.5, 0.55, 1.0), (10, 11, 98), (10.0,)
    ):

        def lengths(d: int = declared, p: float = promised, e: float = end, n: int = packets, r: float = rate) -> None:
            listing = film_table.Listing("h264", b"", 0.1, r, True)
            listing.rows = [(i, i, 0, 5) for i in range(n)]
            listing.check_length(d, p, e)

        yield f"length {declared} {promised} {end} {packets}", lengths
