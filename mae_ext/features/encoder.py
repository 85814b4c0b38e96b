"""A trained encoder with everything that its checkpoint says about its input: reader, evaluation crop, statistics."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from mae_ext.config import Config, ModalityConfig, one_modality
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.ahead import read_ahead
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sample import Reader, Sample, stack
from mae_ext.data.sources.cache import keeping
from mae_ext.data.sources.table import Items, list_items
from mae_ext.engine.cpu import on_device
from mae_ext.engine.crew import Crew
from mae_ext.engine.precision import autocast
from mae_ext.engine.start import model_of, opened
from mae_ext.engine.task import device_of
from mae_ext.errors import BadSample, UserError
from mae_ext.features.shares import Pool, Share, Wanted, share, together
from mae_ext.features.windowed import Records, Seeing, Windows
from mae_ext.model.mae import MAE
from mae_ext.progress import Progress

View = Callable[[Tensor], Tensor]
"""(B, C, *S) in reader units -> the same shape: what the encoder is shown instead, say frames in another order."""

TOKEN_BYTES = 8 << 30
"""Of all tokens of a source at once, in memory, in half precision."""


@dataclass(frozen=True)
class Features:
    """One row for each sample that could be read, in the order of the source.

    features: (n, D) float32; (n, 8 D) of pool "moments"; (n, N, D) float16 of pool "tokens", which is half the memory.
    labels: (n,) int64 into `classes`, -1 where unlabelled; None when nothing is labelled.
    bad: the samples that could not be read: {"path", "kind", "detail"}.
    marks: (n, classes) int8 where a sample can have several classes: 1 has, 0 has not, -1 not known; labels is then
    None. patients: whose each sample is, where the source says so; "" where it leaves one out.

    >>> import numpy
    >>> from mae_ext import Features
    >>> rows = numpy.zeros((2, 24), "float32")
    >>> seen = Features(rows, labels=numpy.array([1, 0]), classes=("cat", "dog"), sources=["a.png", "b.png"], bad=[])
    >>> [seen.classes[label] for label in seen.labels]
    ['dog', 'cat']
    """

    features: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    sources: list[str]
    bad: list[dict[str, Any]]
    marks: np.ndarray | None = None
    patients: list[str] | None = None


class FrozenEncoder(nn.Module):
    """`encoder(x)` are tokens, with gradients, in any program of PyTorch; `encode`, `pooled`, `features` without.

    It never masks, and takes samples of any size that the patch divides, in the reader's units: normalising is its own.
    name: of the modality. step: optimiser steps behind the weights; 0 for random ones. keeps: whether the reader's
    cache, which is a training's, may grow by what is read here: during the training alone. `load_encoder` makes one.
    Its attribute precision ("fp32", "bf16", "fp16") is that of `pooled` and `features`.

    >>> import mae_ext, pathlib, torch
    >>> config = mae_ext.load_config("image_folder", ["model.size=tiny"])
    >>> encoder = mae_ext.FrozenEncoder(mae_ext.MAE(config), config, "image", step=0, path=pathlib.Path("none"))
    >>> x = torch.rand(1, 3, 64, 96)  # not the size of the config, but one that patches of 16 divide
    >>> encoder.width, encoder.grid_of(x), encoder(x).shape, encoder.encode(x).requires_grad
    (192, (4, 6), torch.Size([1, 24, 192]), False)
    """

    def __init__(self, model: MAE, config: Config, name: str, step: int, path: Path, keeps: bool = False) -> None:
        super().__init__()
        self.model, self.config, self.name, self.step, self.path, self.keeps = model, config, name, step, path, keeps
        self.training, self.precision = model.training, "fp32"
        self.crew: Crew | None = None
        """All ranks, where they share `features`."""
        self.views: tuple[View, ...] = ()
        """Those that all ranks know."""

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> Tensor:
        """(B, C, *S) in reader units -> (B, N, D): the patch tokens, row-major over `grid_of(x)`.

        x: uint8, or floats (images and clips: 0..1), on the encoder's device. spacing: (B, n) distances between voxels
        (mm), of an encoder whose positions are physical. Raises WrongShape for a size that the patch does not divide.
        """
        return self.model.encode(x, self.name, spacing)

    def layers(self, x: Tensor, taken: Sequence[int], spacing: Tensor | None = None) -> list[Tensor]:
        """As forward -> [(B, N, D)]: after each block of `taken`, counted from 1, as it is; last forward's own.

        Raises UserError for a block that there is not.
        """
        depth = self.model.encoder.trunk.depth
        if outside := [number for number in taken if not 1 <= number <= depth]:
            raise UserError(f"layers {[*taken]}: there is no block {outside[0]}; expected numbers from 1 to {depth}")
        return self.model.encode_layers(x, taken, self.name, spacing)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Of the weights behind forward. Those of the decoder and of other modalities, which it does not use, stay
        frozen, so that optimisers and DistributedDataParallel leave them alone."""
        used = ("encoder.", *(f"modalities.{self.name}.{part}." for part in ("embed", "position")))
        for key, parameter in self.model.named_parameters():
            parameter.requires_grad_(requires_grad and key.startswith(used))
        return self

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """(B, C, *S) -> how many tokens there are along each axis."""
        return self.model.modality(self.name).grid_of(x)

    @property
    def width(self) -> int:
        """Numbers in a token, D."""
        return self.model.encoder.trunk.width

    @property
    def device(self) -> torch.device:
        """Where the weights are, and inputs have to be."""
        return next(self.model.parameters()).device

    @property
    def modality(self) -> ModalityConfig:
        """The part of the run's config that is about this modality."""
        return self.config.modalities[self.name]

    def reader(self) -> Reader:
        """What reads files for it, as in training."""
        reader: Reader = keeping(
            build_reader(self.modality, f"modalities.{self.name}.data.reader"),
            "if possible" if self.keeps else "never",
        )
        return reader

    def items(self, source: str) -> Items:
        """What a folder, list, archive or glob of shards holds. Raises UserError."""
        return list_items(source, tuple(self.reader().suffixes))

    @torch.no_grad()  # and not in inference mode: no head could learn from what that gives
    def encode(self, x: Tensor, spacing: Tensor | None = None) -> Tensor:
        """forward without gradients, of x on any device."""
        return self(x.to(self.device), None if spacing is None else spacing.to(self.device))  # type: ignore[no-any-return]

    @torch.no_grad()
    def pooled(self, samples: Sequence[Sample], pool: Pool = "mean", view: View | None = None) -> Tensor:
        """B samples -> (B, D) float32, of pool "moments" (B, 8 D), of pool "tokens" (B, N, D) float16; on the CPU,
        without gradients."""
        x, spacing = stack(samples)
        spacing = spacing if spacing is None else spacing.to(self.device)
        if view is not None:
            x = view(x)
        with autocast(self.device, self.precision):
            if pool == "tokens":
                return self.encode(x, spacing).half().cpu()
            return self.model.features(x.to(self.device), self.name, spacing, pool).float().cpu()

    @torch.no_grad()
    def tokens(self, samples: Sequence[Sample]) -> Tensor:
        """B samples -> (B, N, D) float32, on the CPU, in the encoder's precision, without gradients."""
        with autocast(self.device, self.precision):
            return self.encode(*stack(samples)).float().cpu()

    def seeing(self, windows: Windows, encode: Callable[[Sequence[Sample]], Tensor] | None = None) -> Seeing:
        """Whole samples in windows. encode: by default `pooled`, of what `windows.tokens` says."""
        by_default = encode or (lambda samples: self.pooled(samples, windows.tokens))
        return Seeing(self.modality, self.reader(), windows, by_default, self.device)

    def randomised(self, seed: int = 0) -> "FrozenEncoder":
        """The same architecture and statistics with the weights a run with this seed starts from: the baseline."""
        config = self.config.model_copy(update={"seed": seed})
        untrained = MAE(config, decodes=self.model.decoder is not None)
        other = FrozenEncoder(on_device(untrained.eval(), self.device), config, self.name, 0, self.path, self.keeps)
        other.precision, other.crew, other.views = self.precision, self.crew, self.views
        return other

    def features(
        self,
        source: str,
        pool: Pool | Windows = "mean",
        batch_size: int = 64,
        threads: int | None = None,
        max_bad_fraction: float | None = None,
        progress: Progress | None = None,
        view: View | None = None,
    ) -> Features:
        """Features of every sample of a source: whole images (short side, centre crop), no randomness.

        pool: `Windows` for what windows over the whole of each sample give together; without a pool of theirs,
        `features` are records, a row for each window (`record_type`), whose `sample` are places in `sources`.
        A sample that cannot be read is skipped and listed. Raises RunError, naming files, when more than
        max_bad_fraction (default: the run's own data.max_bad_fraction) of the source is bad, and UserError for an
        unusable source or pool.
        """
        self._check_pool(pool)
        items = self.items(source)
        size = 2 * len(items) * prod(self.modality.grid) * (self.config.model.width or 0)
        if pool == "tokens" and size > TOKEN_BYTES:
            raise UserError(
                f"{source}: the tokens of its {len(items)} samples would fill {size / 2**30:.1f} GiB of memory, more "
                f"than {TOKEN_BYTES / 2**30:g}; give a list file that names fewer of them"
            )
        allowed = self.modality.data.max_bad_fraction if max_bad_fraction is None else max_bad_fraction
        known = next((place for place, one in enumerate(self.views) if one is view), None)
        wanted = Wanted(source, pool, 1 if isinstance(pool, Windows) else batch_size, threads, allowed, known)
        crew = self.crew if view is None or known is not None else None  # what others do not know is seen here alone
        world = 1 if crew is None else crew.ranks.world

        def own() -> Share:
            return self._share(wanted, items, 0, world, view, progress)

        rows, bad = together(wanted, [own()] if crew is None else crew.ask(wanted, own), len(items))
        if progress is not None:
            progress(len(items), len(items))
        good = [index for index in range(len(items)) if index not in bad]
        if rows.dtype.names is not None:
            rows["sample"] = np.searchsorted(good, rows["sample"])
        return Features(
            rows,
            None if items.labels is None else items.labels[good].astype(np.int64),
            tuple(items.classes),
            [items.addresses[i] for i in good],
            list(bad.values()),
            None if items.marks is None else items.marks[good],
            None if items.patients is None else [items.patients[i] for i in good],
        )

    def share(self, wanted: Wanted, rank: int, world: int) -> Share:
        """What another rank computes of the features that rank 0 is asked for. Raises as `features` does."""
        view = None if wanted.view is None else self.views[wanted.view]
        return self._share(wanted, self.items(wanted.source), rank, world, view)

    def _share(
        self, wanted: Wanted, items: Items, rank: int, world: int, view: View | None, progress: Progress | None = None
    ) -> Share:
        mine = wanted.rows(len(items), rank, world)
        if isinstance(wanted.pool, Windows):
            return self._windowed(wanted, wanted.pool, items, mine, view, progress)
        pool = wanted.pool
        outcomes = zip(mine, self.decode(items, wanted.threads, None if world == 1 else mine), strict=True)
        return share(wanted, outcomes, lambda samples: self.pooled(samples, pool, view).numpy(), len(items), progress)

    def _windowed(
        self, wanted: Wanted, windows: Windows, items: Items, rows: Sequence[int], view: View | None,
        progress: Progress | None,
    ) -> Share:  # fmt: skip
        seeing = self.seeing(windows, lambda samples: self.pooled(samples, windows.tokens, view))

        def see(row: int) -> Records | BadSample:
            try:
                records = seeing.records(items.addresses[row])
            except BadSample as error:
                return error
            records["sample"] = row
            return records

        def become(records: Sequence[Records]) -> np.ndarray:
            if windows.pool is None:
                return np.concatenate(records)
            return np.stack([seeing.pooled(one) for one in records])

        return share(wanted, ((row, see(row)) for row in rows), become, len(items), progress)

    def decode(
        self, items: Items, threads: int | None = None, rows: Sequence[int] | None = None
    ) -> Iterator[Sample | BadSample]:
        """Every sample in order, or those at `rows`, decoded ahead by threads; see `read_ahead`."""
        crop = evaluation_sampler(self.modality.data.augment, self.modality.size)
        addresses = items.addresses if rows is None else [items.addresses[row] for row in rows]
        yield from read_ahead(self.reader(), addresses, crop, threads)

    def _check_pool(self, pool: Pool | Windows) -> None:
        pool = pool.tokens if isinstance(pool, Windows) else pool
        if pool not in get_args(Pool):
            raise UserError(
                f"pool '{pool}': expected 'mean' (over patch tokens), 'class' (the first class token), 'moments' (of "
                f"the last blocks' tokens) or 'tokens'"
            )
        if pool == "class" and not self.config.model.class_token:
            raise UserError("pool 'class': this model has no class token (model.class_token is false); use 'mean'")


def load_encoder(run_or_file: str | Path, name: str | None = None, device: str = "auto") -> FrozenEncoder:
    """The encoder of a run directory (its newest good checkpoint), of one checkpoint, or of weights of another program:
    a file or folder that is recognised, or "FORMAT:PATH" (docs/weights.md). In eval mode.

    name: which modality, for a model that has several. device: "auto", "cpu" or "cuda". The weights behind
    `encoder(x)` can be trained, the others are frozen (see `requires_grad_`). Raises CheckpointError, UserError.

    >>> import mae_ext, numpy
    >>> pixels = numpy.random.default_rng(0).integers(256, size=(8, 16, 16), dtype="uint8")
    >>> numpy.savez("grey.npz", train_images=pixels, train_labels=numpy.arange(8) % 2)
    >>> image = {"size": [16, 16], "patch": [8, 8], "channels": 1, "batch": 4, "data": {"path": "grey.npz"}}
    >>> config = mae_ext.parse_config({
    ...     "modalities": {"image": image},
    ...     "model": {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}},
    ...     "train": {"steps": 1, "workers": 0, "precision": "fp32"},
    ... })
    >>> encoder = mae_ext.load_encoder(mae_ext.train(config, "runs/tiny"), device="cpu")
    >>> encoder.features("grey.npz").features.shape
    (8, 24)
    """
    origin = opened(run_or_file)
    name = one_modality(name, origin.config, str(run_or_file))
    model = on_device(model_of(origin), device_of(device))
    return FrozenEncoder(model, origin.config, name, origin.step, Path(origin.where)).requires_grad_()
