"""What errors are usual: their mean and standard deviation in data that a run was trained on, kept in a file."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.plan import spread
from mae_ext.data.sources.cache import on_disk
from mae_ext.engine.log import say
from mae_ext.engine.outputs import model_identity
from mae_ext.errors import BadSample, UserError
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.progress import Progress
from mae_ext.restored.files import HELD
from mae_ext.restored.places import Inputs
from mae_ext.restored.restorer import Restorer
from mae_ext.restored.rows import Rows
from mae_ext.restored.scores import TopMean
from mae_ext.restored.source import Source
from mae_ext.strict_json import dumps
from mae_ext.writing import staged

REFERENCE = "reference.npz"
SAMPLES = 256
"""Of the training data, spread over its list: the standard error of a mean is a sixteenth of the spread."""

ENOUGH = 10
"""Samples on one lattice, from which on there is a mean and a standard deviation of each place."""

PLACES_BYTES = 4 << 30
"""Of the error maps of all samples together, in half precision; larger ones are standardised over all places."""

PRIOR = 10
"""A place's variance counts as of so many samples more, of the mean variance: of few samples it may be nearly 0."""


@dataclass(frozen=True)
class Reference:
    """mean, sd: (1,) of all places, or (*shape) of each. lattice: on which they lie, or None. scores: those of the
    samples themselves, ascending, each against the others. meta: what the numbers depend on."""

    mean: Tensor
    sd: Tensor
    scores: NDArray[np.float64]
    lattice: str | None
    meta: dict[str, Any]

    def standardised(self, error: Tensor, rows: slice) -> Tensor:
        """(r, *rest) errors of these rows of a sample -> how many standard deviations above the mean."""
        if self.lattice is None:
            return (error - self.mean) / self.sd
        return (error - self.mean[rows]) / self.sd[rows]

    def check(self, source: Source) -> None:
        """Raises BadSample for a sample that lies elsewhere than the places that are known."""
        if self.lattice is not None and source.lattice != self.lattice:
            detail = f"it lies on {source.lattice}, and the reference, which knows each place, on {self.lattice}"
            raise BadSample(source.address, "lattice", f"{detail}; bring it there, or give a reference of its own kind")

    @property
    def said(self) -> dict[str, Any]:
        return {
            "by": "each place" if self.lattice else "all places together", "samples": len(self.scores),
            "source": self.meta["source"], "score_mean": float(self.scores.mean()), "score_sd": self.score_sd,
        }  # fmt: skip

    @property
    def score_sd(self) -> float:
        return float(self.scores.std(ddof=1)) if len(self.scores) > 1 else 0.0

    def of_score(self, score: float) -> tuple[float | None, float]:
        """(standard deviations above the mean of the reference's scores, the share of these that are lower)."""
        above = (score - float(self.scores.mean())) / self.score_sd if self.score_sd else None
        return above, float((self.scores < score).mean())

    def save(self, path: Path) -> None:
        with staged(path) as [partial], partial.open("wb") as file:
            np.savez_compressed(
                file, mean=self.mean.numpy(), sd=self.sd.numpy(), scores=self.scores,
                meta=np.array(dumps(self.meta | {"lattice": self.lattice})),
            )  # fmt: skip


def reference_for(
    restorer: Restorer, wanted: str | Path, out: Path, top: float, progress: Progress | None = None
) -> Reference:
    """wanted: a source of training data, or a file that an earlier command kept. Kept in `out`, and used again there
    where nothing has changed. Raises UserError."""
    meta = _meta(restorer.encoder, restorer, top)
    if (kept := _kept(Path(wanted))) is not None:
        if differing := [key for key in meta if kept.meta.get(key) != meta[key]]:
            raise UserError(
                f"--reference {wanted}: is of another {', '.join(differing)}; give the training data instead"
            )
        return kept
    known = _kept(out / REFERENCE)
    if known is None and (out / REFERENCE).exists():
        raise UserError(
            f"{out / REFERENCE}: is there, and no reference of this command; name another --out, or move it"
        )
    inputs = Inputs(restorer.encoder, [wanted])
    chosen = [inputs.addresses[i] for i in spread(len(inputs.addresses), SAMPLES)]
    meta |= {"source": str(wanted), "addresses": chosen}
    if known is not None and all(known.meta.get(key) == value for key, value in meta.items()):
        say(f"{out / REFERENCE}: of {len(known.scores)} samples of {wanted}, used again")
        return known
    if len(chosen) < len(inputs.addresses):
        say(f"--reference {wanted}: {len(chosen)} of its {len(inputs.addresses)} samples, spread over the list")
    inputs.addresses = chosen
    made = measured(restorer, inputs, top, meta, out, progress)
    made.save(out / REFERENCE)
    return made


def _meta(encoder: FrozenEncoder, restorer: Restorer, top: float) -> dict[str, Any]:
    said = restorer.said
    of_masks = {key: said[key] for key in ("masks", "hidden_in", "seed", "overlap", "patch_statistics")}
    return {"model": model_identity(encoder.model, encoder.config), "modality": encoder.name, "top": top} | of_masks


def _kept(path: Path) -> Reference | None:
    """None of what is no file of ours. Raises UserError for one that is damaged."""
    if path.suffix != ".npz" or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            if not {"mean", "sd", "scores", "meta"} <= set(file.files):
                return None
            meta = json.loads(str(file["meta"]))
            lattice = meta.pop("lattice")
            mean, sd = (torch.from_numpy(file[key]) for key in ("mean", "sd"))
            return Reference(mean, sd, file["scores"], lattice, meta)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        why = "no array that is read" if "pickle" in str(error) else error  # NumPy's advice is to load it unsafely
        raise UserError(f"{path}: no reference that can be read ({why}); remove it, and it is made anew") from None


def measured(
    restorer: Restorer, inputs: Inputs, top: float, meta: dict[str, Any], scratch: Path,
    progress: Progress | None = None,
) -> Reference:  # fmt: skip
    """Of all samples, by place where they lie on one lattice and are ENOUGH; else of all places together."""
    maps = _Maps(len(inputs.addresses), scratch)
    total = np.zeros(3)  # count, sum, sum of squares
    tops: list[float] = []

    def work(source: Source, _: int) -> None:
        highest, at = TopMean(top, prod(source.shape)), 0
        maps.begin(source)
        sums = np.zeros(3)
        with torch.inference_mode():
            for answers in source.answers(restorer, scratch):
                rows = Rows.of(answers)
                highest.add(rows.error, rows.valid)
                counted = rows.error[rows.valid].double()
                sums += np.array([len(counted), float(counted.sum()), float(counted.square().sum())])
                maps.add(at, rows)
                at += len(rows.error)
        maps.end()
        total[:] += sums
        tops.append(highest.score)

    for _ in inputs.each(work, progress):
        pass
    if maps.usable and maps.done >= ENOUGH:
        return maps.by_place(top, meta)
    count, first, second = total
    if not count:
        raise UserError(f"--reference {meta['source']}: no place in it is valid")
    mean, sd = first / count, float(np.sqrt(max(second / count - (first / count) ** 2, 1e-24)))
    scores = np.sort((np.array([score for score in tops if np.isfinite(score)]) - mean) / sd)
    return Reference(torch.tensor([mean]).float(), torch.tensor([sd]).float(), scores, None, meta)


class _Maps:
    """The error maps of samples on one lattice, while they are: (n, *shape) float16, NaN where a place is not valid."""

    def __init__(self, most: int, scratch: Path) -> None:
        self.most, self.scratch, self.done, self.usable = most, scratch, 0, True
        self.lattice: str | None = None
        self.held: NDArray[Any] | None = None

    def begin(self, source: Source) -> None:
        if self.held is None and self.usable:
            shape, self.lattice = (self.most, *source.shape), source.lattice
            size = 2 * prod(shape)
            self.usable = self.lattice is not None and self.most >= ENOUGH and size <= PLACES_BYTES
            if self.usable:
                self.held = on_disk(shape, np.float16, self.scratch) if size > HELD else np.zeros(shape, np.float16)
        if source.lattice != self.lattice:
            self.held, self.usable = None, False

    def add(self, at: int, rows: Rows) -> None:
        if self.held is not None:
            error = rows.error.clamp(max=6e4).masked_fill(~rows.valid, float("nan"))
            self.held[self.done, at : at + len(error)] = error.numpy()

    def end(self) -> None:
        self.done += 1

    def by_place(self, top: float, meta: dict[str, Any]) -> Reference:
        """Plane by plane; the score of each sample is against the mean and deviation of the others."""
        assert self.held is not None
        held = self.held[: self.done]
        shape = held.shape[1:]
        counts, means, variances = (np.zeros(shape, np.float32) for _ in range(3))
        for row in range(shape[0]):
            plane = held[:, row].astype(np.float32)
            counts[row] = (~np.isnan(plane)).sum(0)
            with np.errstate(invalid="ignore", divide="ignore"):
                means[row] = np.nan_to_num(np.nansum(plane, 0) / counts[row])
                variances[row] = np.nan_to_num(np.nansum((plane - means[row]) ** 2, 0) / counts[row])
        usual, everywhere = (float(x[counts > 0].mean()) for x in (variances, means))
        means[counts == 0] = everywhere
        shrunk = _shrunk(counts * variances, counts, usual)
        scores = []
        for one in held:
            highest = TopMean(top, prod(shape))
            for row in range(shape[0]):
                error = one[row].astype(np.float32)
                valid = ~np.isnan(error)
                error = np.nan_to_num(error)
                others = np.maximum(counts[row] - valid, 1)
                mean = np.where(valid, (counts[row] * means[row] - error) / others, means[row])
                # Welford's update, backwards: the squares about the mean without this sample.
                squares = counts[row] * variances[row] - valid * (error - means[row]) * (error - mean)
                sd = np.sqrt(_shrunk(np.maximum(squares, 0), others, usual))
                highest.add(torch.from_numpy((error - mean) / sd), torch.from_numpy(valid))
            scores.append(highest.score)
        known = np.sort(np.array([score for score in scores if np.isfinite(score)]))
        return Reference(torch.from_numpy(means), torch.from_numpy(np.sqrt(shrunk)), known, self.lattice, meta)


def _shrunk(squares: NDArray[Any], counts: NDArray[Any], usual: float) -> NDArray[Any]:
    variance: NDArray[Any] = (squares + PRIOR * usual) / (counts + PRIOR)
    floored: NDArray[Any] = np.maximum(variance, 1e-24)
    return floored
