"""Does a run find what was put into samples, and where? Against one mask, the mean sample, and random weights.

    python scripts/studies/anomaly_study.py runs/hippocampus --train train.txt --test test.txt --limit 40
    python scripts/studies/anomaly_study.py runs/cifar10 --train cifar.npz::train --test cifar.npz::test --limit 200

Into each held-out sample that is looked at, one thing at a time is put, at a place of its body that chance says: into
scans a bright blob (a ball of a Gaussian edge, up by --strength of the data's standard deviations) and an erased one (a
ball of the mean of what surrounds it), into pictures a patch of another picture. All methods see the same samples, at
the scale of training, in memory. Prints one JSON object: for each kind and method the AUROC by voxel (of altered
samples, each by itself, then the mean over samples), and by sample (score of altered against that of untouched ones),
with the mean and standard deviation over seeds, of places and masks; several runs (seeds of pretraining) count as such.

Methods: masks, the error of `mae-ext anomaly`; standardised, the same against --reference samples of the training data;
one mask, the error of the first of these masks, 0 where it hides nothing; mean, the distance from the mean training
sample, brought to the sample's shape; random, the first method with untrained weights.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mae_ext.data.loading.slabs import Slabs
from mae_ext.data.plan import spread
from mae_ext.data.sample import Sample
from mae_ext.errors import BadSample
from mae_ext.features.encoder import load_encoder
from mae_ext.model.mask import Mask
from mae_ext.model.units import in_units
from mae_ext.probing.ranking import auroc
from mae_ext.restored.anomaly import MASKS, TOP
from mae_ext.restored.places import Inputs
from mae_ext.restored.restorer import Masking, Restorer
from mae_ext.restored.rows import Rows, answers_of
from mae_ext.restored.scores import TopMean
from mae_ext.restored.source import Source, opened
from mae_ext.rng import rng

KINDS = {"volume": ("blob", "erased"), "image": ("pasted",)}
EDGE = 1.5
"""Voxels over which a blob's edge falls off."""


class OneMask(Restorer):
    """The first mask of each window alone."""

    def draw(self, key: Sequence[int]) -> list[Mask]:
        return super().draw(key)[:1]

    def answer(self, x: Tensor, valid: Tensor, spacing: Tensor | None, keys: Sequence[Sequence[int]]) -> Tensor:
        answers = super().answer(x, valid, spacing, keys)
        answers[..., self.channels : 2 * self.channels + 1] *= self.masks - self.show  # the mean is of one answer
        return answers


class Study:
    def __init__(self, run: str, train: str, test: str, wanted: argparse.Namespace) -> None:
        self.encoder, self.wanted = load_encoder(run), wanted
        self.train = self._whole(train, wanted.reference)
        self.test = self._whole(test, wanted.limit)
        modality = self.encoder.model.modality(self.encoder.name)
        self.mean, self.std = (v.cpu().view(-1, *[1] * len(modality.size)) for v in (modality.mean, modality.std))
        shape = tuple(int(n) for n in np.median([s.x.shape[1:] for s in self.train], 0))
        self.usual = torch.stack([_resized(in_units(s.x), shape) for s in self.train]).mean(0)

    def _whole(self, source: str, limit: int) -> list[Sample]:
        inputs = Inputs(self.encoder, [source])
        samples = []
        for row in spread(len(inputs.addresses), limit):
            try:
                samples.append(_sample(opened(inputs.reader, inputs.modality, inputs.addresses[row])))
            except BadSample as error:
                print(f"left out: {error}")
        return samples

    def methods(self, seed: int) -> Callable[[Sample], dict[str, Tensor]]:
        masking = Masking(self.wanted.masks, self.wanted.overlap, seed)
        ours, one = Restorer(self.encoder, masking), OneMask(self.encoder, masking)
        random = Restorer(self.encoder.randomised(seed), masking)
        maps = [error_of(ours, sample) for sample in self.train]
        if self.wanted.kind == "image":  # of one size
            together = torch.stack(maps)
            usual, sd = together.mean(0), (0.5 * (together.var(0) + together.var(0).mean())).sqrt()
        else:
            everywhere = torch.cat([error[_valid(s)] for error, s in zip(maps, self.train, strict=True)])
            usual, sd = everywhere.mean(), everywhere.std()

        def errors(sample: Sample) -> dict[str, Tensor]:
            masks = error_of(ours, sample)
            return {
                "masks": masks,
                "standardised": (masks - usual) / sd,
                "one mask": error_of(one, sample),
                "mean": self._from_mean(sample),
                "random": error_of(random, sample),
            }

        return errors

    def _from_mean(self, sample: Sample) -> Tensor:
        usual = _resized(self.usual, tuple(sample.x.shape[1:]))
        return ((in_units(sample.x) - usual) / self.std).square().mean(0).sqrt()

    def altered(self, kind: str, seed: int) -> Iterator[tuple[Sample, Tensor]]:
        """(sample, where it was altered) of each test sample."""
        for index, sample in enumerate(self.test):
            generator = rng(seed, "altered", kind, index)
            donor = self.test[(index + 1 + seed) % len(self.test)]
            x, where = _put(kind, in_units(sample.x), _valid(sample), in_units(donor.x), generator, self)
            yield replace(sample, x=x), where

    def result(self, seed: int) -> dict[str, dict[str, dict[str, float]]]:
        methods, results = self.methods(seed), {}
        untouched: dict[str, list[float]] = {}
        for sample in self.test:
            for name, error in methods(sample).items():
                untouched.setdefault(name, []).append(top(error, _valid(sample)))
        for kind in KINDS[self.wanted.kind]:
            voxels: dict[str, list[float]] = {name: [] for name in untouched}
            scores: dict[str, list[float]] = {name: [] for name in untouched}
            for sample, where in self.altered(kind, seed):
                valid = _valid(sample)
                for name, error in methods(sample).items():
                    voxels[name].append(area(error[valid], where[valid]))
                    scores[name].append(top(error, valid))
            results[kind] = {
                name: {
                    "voxel": statistics.fmean(voxels[name]),
                    "sample": area(
                        torch.tensor(untouched[name] + scores[name]),
                        torch.arange(2 * len(self.test)) >= len(self.test),
                    ),
                }
                for name in untouched
            }
        return results


def _sample(source: Source) -> Sample:
    whole = source.wholes[0]
    x, valid = whole.window((0,) * len(source.shape), source.shape)
    return Sample(x, source.address, valid=valid, spacing=source.spacing)


def _valid(sample: Sample) -> Tensor:
    assert sample.valid is not None
    return sample.valid[0]


def _resized(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    mode = {2: "bilinear", 3: "trilinear"}[len(shape)]
    return x if x.shape[1:] == shape else interpolate(x[None], shape, mode=mode, align_corners=False)[0]


@torch.inference_mode()
def error_of(restorer: Restorer, sample: Sample) -> Tensor:
    whole = Slabs.of([sample])
    return torch.cat([Rows.of(part).error for part in answers_of(restorer, whole, ())])


def top(error: Tensor, valid: Tensor) -> float:
    highest = TopMean(TOP, prod(error.shape))
    highest.add(error, valid)
    return highest.score


def area(score: Tensor, positive: Tensor) -> float:
    return float(auroc(score, positive, torch.ones(1, len(score)))[0])


def _put(
    kind: str, x: Tensor, valid: Tensor, donor: Tensor, generator: torch.Generator, study: Study
) -> tuple[Tensor, Tensor]:
    """(C, *S) in reader units -> the same with a thing in it, and where that is, (*S) bool."""
    radius = study.wanted.radius
    places = valid.nonzero()
    at = places[int(torch.randint(len(places), (), generator=generator))]
    if kind == "pasted":
        corner = [min(max(0, int(a) - radius), n - 2 * radius) for a, n in zip(at, x.shape[1:], strict=True)]
        box = tuple(slice(c, c + 2 * radius) for c in corner)
        donor = _resized(donor, tuple(x.shape[1:]))
        y, where = x.clone(), torch.zeros_like(valid)
        y[(slice(None), *box)] = donor[(slice(None), *box)]
        where[box] = True
        return y, where
    axes = torch.meshgrid(*(torch.arange(n) for n in x.shape[1:]), indexing="ij")
    distance = torch.stack([(axis - a).float() for axis, a in zip(axes, at, strict=True)]).norm(dim=0)
    where = (distance <= radius) & valid
    edge = torch.exp(-0.5 * ((distance - radius).clamp(min=0) / EDGE) ** 2)
    if kind == "blob":
        return (x + study.wanted.strength * study.std * edge).clamp(max=float(x.max())), where
    shell = (distance > radius) & (distance <= 1.5 * radius + 1) & valid
    around = x[:, shell].mean(1).view(-1, *[1] * valid.ndim)
    return torch.where(edge > 0.99, around, x), where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--kind", choices=sorted(KINDS), default="volume")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--masks", type=int, default=MASKS)
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--limit", type=int, default=40, help="test samples")
    parser.add_argument("--reference", type=int, default=40, help="training samples")
    parser.add_argument("--radius", type=int, default=4, help="voxels, half the side of a pasted patch")
    parser.add_argument("--strength", type=float, default=1.5, help="of a blob")
    wanted = parser.parse_args()
    results = [
        Study(run, wanted.train, wanted.test, wanted).result(s) for run in wanted.runs for s in range(wanted.seeds)
    ]
    summary = {
        kind: {
            method: {
                by: [
                    round(statistics.fmean(values), 3),
                    round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
                ]
                for by in ("voxel", "sample")
                for values in [[result[kind][method][by] for result in results]]
            }
            for method in results[0][kind]
        }
        for kind in results[0]
    }
    print(json.dumps({"settings": vars(wanted), "auroc, mean and sd": summary}))


if __name__ == "__main__":
    main()
