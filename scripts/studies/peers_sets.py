"""What both sides of peers.py train on and are judged by: the same files, decoded by the same reader, and one judge."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from volume_study import BATCH, Scans, ridge
from volume_study import read as read_scans

from mae_ext.config import Config, ModalityConfig, load_config
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.ahead import read_ahead
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.loading.prepare import prepare
from mae_ext.data.sample import Sample, read_checked, stack, whole
from mae_ext.data.sources.table import Items, list_items
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.model.mae import MAE
from mae_ext.probing.attentive import attentive_votes
from mae_ext.probing.classifiers import linear_votes, neighbour_votes
from mae_ext.probing.scores import accuracy

CROPS = 4
"""Boxes of each scan that the R2 probe asks of, at random places, as in docs/results.md."""

Encode = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(B, C, *S) in reader units, spacing -> all patch tokens (B, N, D), row-major, and the class token (B, D)."""


@dataclass(frozen=True)
class SetOf:
    """Sources are below the folder that prepare_sets.py made. learn, judged: labelled ones, of the probe; most: rows of
    each that it takes, spread evenly over the source."""

    recipe: str
    kind: str
    data: str
    learn: str
    judged: str
    sets: tuple[str, ...] = ()
    most: tuple[int | None, int | None] = (None, None)


SETS = {
    "cifar10": SetOf("image_cifar10_vitt", "images", "cifar10/train", "cifar10/train", "cifar10/test"),
    "fashion": SetOf(
        "image_cifar10_vitt", "images", "fashion/fashion.npz", "fashion/fashion.npz", "fashion/fashion.npz::test",
        ("modalities.image.size=[28,28]", "modalities.image.channels=1"), (10_000, 3_000),
    ),
    "hippocampus": SetOf(
        "volume_hippocampus_vitt", "volumes", "hippocampus/train.txt", "hippocampus/train.txt", "hippocampus/test.txt"
    ),
    "motion": SetOf("video_motion_vitt", "clips", "motion/train", "motion/few-50-0.csv", "motion/test"),
}  # fmt: skip

MODALITIES = {"images": "image", "volumes": "volume", "clips": "video"}
"""What the recipes call them."""


def config_of(name: str, folder: Path, recipe: str | None, sets: list[str], cache: Path | None = None) -> Config:
    """The config of our side. recipe: in place of the set's own; sets: "a.b=c", after the set's own. cache: where its
    clips or scans lie prepared."""
    own = SETS[name]
    data = f"modalities.{MODALITIES[own.kind]}.data"
    prepared = [] if cache is None or own.kind == "images" else [f"{data}.reader.cache={cache.absolute()}"]
    return load_config(recipe or own.recipe, [*own.sets, f"{data}.path={folder / own.data}", *prepared, *sets])


def prepare_for(name: str, config: Config, cache: Path) -> None:
    """What `mae-ext prepare` does: clips and scans are decoded once. Raises SystemExit for bad files."""
    if SETS[name].kind != "images" and (bad := prepare(config, cache).bad):
        raise SystemExit(f"{name}: {len(bad)} bad files, {bad[0]} among them")


def only(config: Config) -> tuple[str, ModalityConfig]:
    ((name, modality),) = config.modalities.items()
    return name, modality


def items_of(modality: ModalityConfig, source: str) -> Items:
    return list_items(source, tuple(build_reader(modality, "peers").suffixes))


def decoded(modality: ModalityConfig, source: str, most: int | None = None) -> tuple[Tensor, Tensor | None]:
    """-> (n, C, *S) as evaluation shows them, uint8 where the reader gives that, and labels (n,), in the list's order.

    most: as many, spread evenly. Raises BadSample for a file that cannot be read.
    """
    items = items_of(modality, source)
    rows = range(len(items))
    if most is not None and most < len(items):
        rows = [i * len(items) // most for i in range(most)]
    crop = evaluation_sampler(modality.data.augment, modality.size)
    samples = []
    for sample in read_ahead(build_reader(modality, "peers"), [items.addresses[i] for i in rows], crop):
        if isinstance(sample, BadSample):
            raise sample
        samples.append(sample)
    labels = None if items.labels is None else torch.from_numpy(items.labels[list(rows)].astype("int64"))
    return stack(samples)[0], labels


def whole_scans(modality: ModalityConfig, source: str) -> list[Sample]:
    """Every scan of a list, whole, as the reader prepares it."""
    reader = build_reader(modality, "peers")
    assert isinstance(reader, VolumeReader), "scans of hippocampus, which a VolumeReader reads"
    found = []
    for address in items_of(modality, source).addresses:
        sized = VolumeReader(reader.extent(address).size, modality.channels, **modality.data.reader.arguments)
        found += read_checked(sized, address, [whole])
    return found


class Judge:
    """Scores of a frozen encoder by the probe that the set's section of docs/results.md has.

    images: kNN (20) and linear accuracy. clips: attentive accuracy. volumes: R2 of the labelled share of a patch. Where
    an encoder has a class token, images are judged by it too, and the better of the two counts, score by score.
    """

    def __init__(self, name: str, folder: Path, config: Config) -> None:
        self.of, self.folder, self.config = SETS[name], folder, config
        self.name, self.modality = only(config)

    @cached_property
    def sides(self) -> list[tuple[Tensor, Tensor]]:
        both = zip((self.of.learn, self.of.judged), self.of.most, strict=True)
        read = [decoded(self.modality, str(self.folder / source), most) for source, most in both]
        assert all(y is not None for _, y in read)
        return read  # type: ignore[return-value]

    @cached_property
    def scans(self) -> list[Scans]:
        encoder = FrozenEncoder(MAE(self.config), self.config, self.name, 0, Path())
        first = items_of(self.modality, str(self.folder / self.of.learn)).addresses[0]
        labels = str(Path(first).parent.parent / "labels")
        return [read_scans(encoder, str(self.folder / s), labels, CROPS) for s in (self.of.learn, self.of.judged)]

    @torch.no_grad()
    def __call__(self, encode: Encode, grid: tuple[int, ...]) -> dict[str, float]:
        """grid: of the tokens that encode gives."""
        if self.of.kind == "volumes":
            pairs = [
                torch.cat([encode(x, mm)[0].float() for x, mm in zip(*(t.split(BATCH) for t in both), strict=True)])
                for both in ((s.x, s.spacing) for s in self.scans)
            ]
            train, test = self.scans
            return {"R2": ridge(pairs[0], train.share, pairs[1], test.share, CROPS)}
        (x, y), (x_test, y_test) = self.sides
        if self.of.kind == "clips":
            tokens, shown = (torch.cat([encode(b, None)[0].half() for b in t.split(50)]) for t in (x, x_test))
            votes, _ = attentive_votes(tokens, y, shown, grid)
            return {"attentive": accuracy(votes.argmax(1), y_test)}
        scores: dict[str, float] = {}
        pooled = [_pooled(encode, x), _pooled(encode, x_test)]
        for pool in pooled[0]:
            learn, judged = (p[pool] for p in pooled)
            found = {
                "knn": accuracy(neighbour_votes(learn, y, judged)[0].argmax(1), y_test),
                "linear": accuracy(linear_votes(learn, y, judged)[0].argmax(1), y_test),
            }
            scores = {kind: max(value, scores.get(kind, 0.0)) for kind, value in found.items()}
        return scores


def _pooled(encode: Encode, x: Tensor) -> dict[str, Tensor]:
    """-> (n, D) by the name of the pool."""
    rows: dict[str, list[Any]] = {"mean": [], "class": []}
    for batch in x.split(256):
        tokens, token = encode(batch, None)
        rows["mean"].append(tokens.float().mean(1))
        rows["class"] += [] if token is None else [token.float()]
    return {pool: torch.cat(parts) for pool, parts in rows.items() if parts}
