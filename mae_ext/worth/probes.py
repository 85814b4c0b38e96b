"""Frozen features of both sources, of the start or of random weights, and what a classifier makes of a few of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mae_ext.config import Config, uncached
from mae_ext.engine.cpu import on_device
from mae_ext.engine.task import device_of
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.features.shares import Pool
from mae_ext.model.mae import MAE
from mae_ext.model.moments import LAST, last_blocks
from mae_ext.probing.attentive import attentive_votes
from mae_ext.probing.classifiers import linear_votes
from mae_ext.probing.labelled import Labelled, labelled, matched
from mae_ext.tasks.backbone import load_backbone
from mae_ext.worth.judged import of_probe
from mae_ext.worth.outcome import Judged, Tested

MOST = 1 << 30
"""Bytes of both sources' moments, of which a linear probe makes several copies; where they are more the head reads mean
tokens, which are far fewer numbers."""


@dataclass
class Probes:
    """Of one settled config, on its start; its data.path and data.test are encoded once for each kind of features.

    rows: samples of both sources.
    """

    config: Config
    name: str
    tested: Tested
    rows: int
    encoded: dict[tuple[int | None, Pool], tuple[Labelled, Labelled]] = field(default_factory=dict)

    def pool(self, arm: str) -> Pool:
        """What the arm's head reads. Moments were better than mean tokens on every set tried, pictures and clips, of
        random weights too (docs/results.md)."""
        if arm == "attentive":
            return "tokens"
        return "moments" if 4 * self.rows * self.numbers <= MOST else "mean"

    @property
    def numbers(self) -> int:
        """Of a sample's moments."""
        model = self.config.model
        return 2 * len(last_blocks(model.depth or LAST)) * (model.width or 0)

    def encoder(self, random: int | None) -> FrozenEncoder:
        """random: the seed of untrained weights; None is those of the start."""
        model = MAE(self.config, decodes=False)
        load_backbone(model, self.config)
        model = on_device(model.eval(), device_of(self.config.train.device))
        encoder = FrozenEncoder(model, uncached(self.config), self.name, 0, Path(str(self.config.init)))
        encoder.precision = self.config.train.precision
        return encoder if random is None else encoder.randomised(random)

    def sides(self, random: int | None, pool: Pool) -> tuple[Labelled, Labelled]:
        """Of random weights the last are kept, for trials come seed by seed."""
        if (random, pool) not in self.encoded:
            self.encoded = {key: both for key, both in self.encoded.items() if key[0] is None and random is not None}
            encoder, data = self.encoder(random), self.config.modalities[self.name].data
            train, test = (
                labelled(encoder.features(source, pool), source) for source in (str(data.path), str(data.test))
            )
            self.encoded[random, pool] = train, matched(train, test)
        return self.encoded[random, pool]

    def judged(self, arm: str, addresses: Sequence[str], seed: int) -> tuple[float, Judged]:
        """Of the classifier that learned from the samples at `addresses`, those that can be read."""
        train, test = self.sides(seed if arm == "random" else None, self.pool(arm))
        place = {path: row for row, path in enumerate(train.paths)}
        part = train.rows(torch.tensor([place[address] for address in addresses if address in place]))
        if arm == "attentive":
            grid = self.config.modalities[self.name].grid
            votes, _ = attentive_votes(part.x, part.y, test.x, grid, seed=seed, groups=part.groups)
        else:
            votes, _ = linear_votes(part.x, part.y, test.x, seed=seed, groups=part.groups)
        number = {address: row for row, address in enumerate(self.tested.ids)}
        return of_probe(votes, np.array([number[path] for path in test.paths], np.int64), test.y)
