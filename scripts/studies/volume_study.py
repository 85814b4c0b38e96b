"""What does pretraining on scans learn without labels? Judged on scans that were held out, against plain baselines.

    python scripts/studies/volume_study.py --make-split DIR/images --train train.txt --test test.txt
    mae-ext pretrain volume_hippocampus_vitt --data train.txt --out runs/hippocampus
    python scripts/studies/volume_study.py runs/hippocampus --train train.txt --test test.txt --labels DIR/labels

Prints one JSON object; several runs (seeds) are given one after another, with the mean and standard deviation of every
number. hidden: the mean squared error on hidden voxels of held-out scans, the same voxels and the same visible patches
for all, in units of the data's standard deviation: the model, two interpolations from the visible voxels, their mean,
and the mean training scan. Nothing is told the hidden patches' statistics. share: R2, on held-out scans, of a ridge
regression from each token to the share of its patch that is labelled, on the pretrained encoder, on random weights, and
on the patch's voxels, alone and with their place. shifted: the same from the encoder's tokens, with the labels moved by
one patch along each axis, both ways; all of these must be lower, or scans and labels are not aligned. --crops: share is
asked of so many boxes of each scan, at random places, and not of its middle, in which place alone says where the organ
is.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv3d, max_pool3d, pad

from mae_ext.data.crops import crop_sampler, evaluation_sampler
from mae_ext.data.sources.table import list_items
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.features.encoder import FrozenEncoder, load_encoder
from mae_ext.model.grid import patchify, unpatchify
from mae_ext.rng import rng

STRENGTHS = tuple(10.0**k for k in range(-6, 3))
"""Of the ridge, relative to the features' variance."""

BATCH = 16


@dataclass(frozen=True)
class Scans:
    """x: (n, 1, *S) in reader units. valid: (n, 1, *S) bool. spacing: (n, 3). share: (n, N), labelled part of each."""

    x: Tensor
    valid: Tensor
    spacing: Tensor
    share: Tensor


def make_split(images: str, train: Path, test: Path, part: float = 0.2) -> None:
    """Two list files with absolute paths; the same seed, so the same split of the same names."""
    files = sorted(Path(a).absolute() for a in list_items(images, VolumeReader.suffixes).addresses)
    order = torch.randperm(len(files), generator=rng(0, "split")).tolist()
    count = round(part * len(files))
    for into, chosen in ((test, order[:count]), (train, order[count:])):
        into.write_text("".join(f"{files[i]}\n" for i in sorted(chosen)))


def scan_reader(encoder: FrozenEncoder, **others: Any) -> VolumeReader:
    """The encoder's own, but that it takes each box as it is, and does not look for one with more of the body."""
    arguments = {**encoder.modality.data.reader.arguments, "min_body": 0.0, **others}
    return VolumeReader(encoder.modality.size, **{"channels": encoder.modality.channels, **arguments})


def label_reader(encoder: FrozenEncoder) -> VolumeReader:
    """Reads label maps by the same axes, spacing and crops as the encoder's scans, and leaves their values alone."""
    return scan_reader(encoder, channels=1, intensity="none", body=None, cache=None)


def read(encoder: FrozenEncoder, source: str, labels: str, crops: int = 0) -> Scans:
    """Scans and the label maps of the same names, cut alike: `crops` boxes of each, or its middle where that is 0.

    Raises SystemExit where the two do not cover each other.
    """
    modality = encoder.modality
    readers = (scan_reader(encoder), label_reader(encoder))
    upright = modality.data.augment.model_copy(update={"flip": ()})
    rows = []
    for address in encoder.items(source).addresses:
        there = str(Path(labels) / Path(address).name)
        boxes = [crop_sampler(upright, modality.size, rng(0, "crop", Path(address).name, i)) for i in range(crops)]
        boxes = boxes or [evaluation_sampler(upright, modality.size)]
        scans, maps = (r.read(a, boxes) for r, a in zip(readers, (address, there), strict=True))
        for scan, label in zip(scans, maps, strict=True):
            assert scan.valid is not None and label.valid is not None and scan.spacing and label.spacing
            if not np.allclose(scan.spacing, label.spacing, rtol=1e-3) or (scan.valid & ~label.valid).any():
                raise SystemExit(f"{there}: another voxel size or extent than {address}")
            share = patchify((label.x > 0.5).float()[None], modality.patch).mean(-1)[0]
            rows.append((scan.x, scan.valid, torch.tensor(scan.spacing), share))
    return Scans(*(torch.stack(column) for column in zip(*rows, strict=True)))


def harmonic(x: Tensor, known: Tensor, steps: int = 400) -> Tensor:
    """(n, 1, *S), (n, 1, *S) bool -> (n, 1, *S): Laplace's equation between the known voxels, no flux at the border."""
    kernel = torch.zeros(1, 1, 3, 3, 3)
    kernel[0, 0, [0, 2, 1, 1, 1, 1], [1, 1, 0, 2, 1, 1], [1, 1, 1, 1, 0, 2]] = 1 / 6
    y = torch.where(known, x, visible_mean(x, known))
    for _ in range(steps):
        y = torch.where(known, x, conv3d(pad(y, (1,) * 6, mode="replicate"), kernel))
    return y


def linear(x: Tensor, known: Tensor) -> Tensor:
    """(n, 1, *S), (n, 1, *S) bool -> (n, 1, *S): linear between known voxels, the nearest outside their hull."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    filled = x.clone()
    border = known & max_pool3d((~known).float(), 3, 1, 1).bool()  # no other voxel is a neighbour of a hidden one
    # The cells of a lattice have no one triangulation; a touch of noise gives one, in a tenth of the time. Places asked
    # for are drawn to the middle by as little, so that those on the hull's faces stay inside.
    draws = np.random.default_rng(0)
    for row, there, edge in zip(filled, known, border, strict=True):
        points, wanted, values = edge[0].nonzero().numpy(), (~there[0]).nonzero().numpy(), row[0][edge[0]].numpy()
        middle = points.mean(0)
        inside = LinearNDInterpolator(points + draws.uniform(-1e-4, 1e-4, points.shape), values)(
            middle + (wanted - middle) * (1 - 1e-4)
        )
        outside = np.isnan(inside)
        inside[outside] = NearestNDInterpolator(points, values)(wanted[outside])
        row[0][~there[0]] = torch.from_numpy(inside).float()
    return filled


def visible_mean(x: Tensor, known: Tensor) -> Tensor:
    """(n, 1, *S), (n, 1, *S) bool -> (n, 1, 1, 1, 1)."""
    axes = tuple(range(1, x.ndim))
    return (x * known).sum(axes, keepdim=True) / known.sum(axes, keepdim=True)


@torch.inference_mode()
def hidden_error(encoder: FrozenEncoder, train: Scans, test: Scans) -> dict[str, float]:
    modality = encoder.model.modality(encoder.name)
    mask = modality.draw_mask([rng(0, "held-out", i) for i in range(len(test.x))])
    where = torch.zeros(len(test.x), prod(mask.grid), 1).scatter(1, mask.hidden()[..., None], 1.0)
    hidden = unpatchify(where.expand(-1, -1, prod(modality.patch)), mask.grid, modality.patch).bool()
    rebuilt = torch.cat(
        [
            encoder.model.reconstruct(
                test.x[i : i + BATCH], mask.each(lambda t, i=i: t[i : i + BATCH]), encoder.name,
                test.spacing[i : i + BATCH],
            )
            for i in range(0, len(test.x), BATCH)
        ]
    )  # fmt: skip
    x, judged = modality.normalize(test.x), hidden & test.valid
    known = ~hidden & test.valid  # padding tells an interpolation nothing
    count = train.valid.sum(0).clamp(min=1)
    fills = {
        "model": modality.normalize(rebuilt),
        "linear": linear(x, known),
        "harmonic": harmonic(x, known),
        "visible mean": visible_mean(x, known).expand_as(x),
        "mean training scan": ((modality.normalize(train.x) * train.valid).sum(0) / count).expand_as(x),
    }
    found = {name: float((fill - x)[judged].square().mean()) for name, fill in fills.items()}
    return {**found, "model to interpolation": found["model"] / min(found["linear"], found["harmonic"])}


def ridge(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, crops: int = 1) -> float:
    """(scans, N, F), (scans, N), and the same for test -> R2 on test; the strength is chosen on a tenth of train.

    crops: rows in a row that are of one scan, which overlap, and so are held out together.
    """
    scans = torch.arange(len(x)).unflatten(0, (-1, crops))
    order = scans[torch.randperm(len(scans), generator=rng(0, "ridge"))]
    tenth = max(1, round(len(scans) / 10))
    held, rest = order[:tenth].flatten(), order[tenth:].flatten()
    scores = _r2(x[rest], y[rest], x[held], y[held], STRENGTHS)
    return _r2(x, y, x_test, y_test, (STRENGTHS[int(np.argmax(scores))],))[0]


def _r2(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, strengths: tuple[float, ...]) -> list[float]:
    a, b, a_test, b_test = x.flatten(0, 1), y.flatten().double(), x_test.flatten(0, 1), y_test.flatten().double()
    mean, std = a.mean(0), a.std(0).clamp(min=1e-6)
    a, a_test = ((v - mean).div(std).double() for v in (a, a_test))
    product, toward = a.T @ a / len(a), a.T @ (b - b.mean()) / len(a)
    scores = []
    for strength in strengths:
        weight = torch.linalg.solve(product + strength * torch.eye(len(product)), toward)
        wrong = (a_test @ weight + b.mean() - b_test).square().sum()
        scores.append(float(1 - wrong / (b_test - b_test.mean()).square().sum()))
    return scores


def label_share(encoder: FrozenEncoder, train: Scans, test: Scans, crops: int = 1) -> dict[str, Any]:
    modality = encoder.model.modality(encoder.name)

    def probe(features: list[Tensor], shift: tuple[int, ...] = (0, 0, 0)) -> float:
        y, y_test = (s.share.unflatten(1, modality.grid).roll(shift, (1, 2, 3)).flatten(1) for s in (train, test))
        return ridge(features[0], y, features[1], y_test, crops)

    def tokens(of: FrozenEncoder) -> list[Tensor]:
        both = []
        for s in (train, test):
            pairs = zip(s.x.split(BATCH), s.spacing.split(BATCH), strict=True)
            both.append(torch.cat([of.encode(x, spacing).float() for x, spacing in pairs]))
        return both

    learned = tokens(encoder)
    voxels = [patchify(modality.normalize(s.x), modality.patch) for s in (train, test)]
    place = torch.eye(prod(modality.grid))
    placed = [torch.cat([v, place.expand(len(v), -1, -1)], -1) for v in voxels] if len(place) <= 512 else None
    steps = [tuple(way * (axis == a) for a in range(3)) for axis in range(3) for way in (-1, 1)]
    return {
        "pretrained": probe(learned),
        "random": probe(tokens(encoder.randomised())),
        "voxels": probe(voxels),
        **({"voxels and place": probe(placed)} if placed else {}),
        "shifted": {" ".join(map(str, step)): probe(learned, step) for step in steps},
    }


def study(run: str, args: argparse.Namespace) -> dict[str, Any]:
    encoder = load_encoder(run, device="cpu")
    middles = [read(encoder, source, args.labels) for source in (args.train, args.test)]
    boxes = middles
    if args.crops:
        boxes = [read(encoder, source, args.labels, args.crops) for source in (args.train, args.test)]
    return {
        "step": encoder.step,
        "scans": {"train": len(middles[0].x), "test": len(middles[1].x)},
        "hidden": hidden_error(encoder, *middles),
        "share": label_share(encoder, *boxes, args.crops or 1),
    }


def over(how: Any, found: list[Any]) -> Any:
    """Of the same nested dicts, one with how(numbers) in every leaf."""
    if isinstance(found[0], dict):
        return {key: over(how, [each[key] for each in found]) for key in found[0]}
    return how(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--labels", help="the folder of label maps, each named as its scan")
    parser.add_argument("--crops", type=int, default=0, help="of each scan, at random places; 0: its middle")
    parser.add_argument("--make-split", metavar="IMAGES", help="only write the two lists, a fifth of IMAGES for test")
    args = parser.parse_args()
    if args.make_split:
        make_split(args.make_split, Path(args.train), Path(args.test))
        return
    if not args.runs or not args.labels:
        parser.error("expected runs and --labels, or --make-split")
    found = {run: study(run, args) for run in args.runs}
    result: dict[str, Any] = {"runs": found}
    if len(found) > 1:
        rows = list(found.values())
        result |= {"mean": over(statistics.mean, rows), "std": over(statistics.stdev, rows)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
