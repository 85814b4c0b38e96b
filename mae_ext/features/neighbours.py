"""Rows of a sample and those whose features are nearest to its own: what the encoder holds to be alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mae_ext.data.sample import stack
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items
from mae_ext.drawing.panels import Panel, on_a_scale, save_rows
from mae_ext.errors import BadSample, UserError
from mae_ext.features.encoder import Features, FrozenEncoder
from mae_ext.model.units import in_units
from mae_ext.rng import rng

QUERIES = 8
SAME, OTHER = (47, 143, 107), (209, 73, 91)
"""Bars under neighbours of the query's class, and of another one."""


def nearest(features: np.ndarray, queries: list[int], count: int) -> tuple[Tensor, Tensor]:
    """(n, D), q rows of it -> (q, count) cosines, falling, and (q, count) rows; a query is not its own neighbour."""
    x = normalize(torch.from_numpy(features).float(), dim=1)
    cosine = x[queries] @ x.T
    cosine[torch.arange(len(queries)), torch.tensor(queries)] = -torch.inf
    similarity, rows = cosine.topk(count, dim=1)
    return similarity, rows


def choose(labels: np.ndarray | None, total: int, count: int, seed: int = 0) -> list[int]:
    """Which samples are asked about: drawn, one class after the other where there are classes."""
    order = torch.randperm(total, generator=rng(seed, "neighbours")).tolist()
    if labels is not None:
        seen: dict[int, int] = {}
        turn = {}
        for i in order:
            turn[i] = seen[int(labels[i])] = seen.get(int(labels[i]), -1) + 1
        order.sort(key=lambda i: (turn[i], int(labels[i]) < 0, int(labels[i])))
    return order[:count]


def draw_neighbours(
    encoder: FrozenEncoder, features: Features, count: int, stem: Path, queries: int = QUERIES, seed: int = 0
) -> Path:
    """Write a PNG, or a GIF where samples move; the suffix is added. Raises UserError: too few samples."""
    total = len(features.sources)
    if not 1 <= count < total:
        raise UserError(f"neighbours={count}: expected 1 up to {total - 1}, as {total} samples could be read")
    chosen = choose(features.labels, total, queries, seed)
    similarity, rows = nearest(features.features, chosen, count)
    panels = [
        _panel(encoder, features, [query, *row], [1.0, *near])
        for query, row, near in zip(chosen, rows.tolist(), similarity.tolist(), strict=True)
    ]
    bars = " · green bar: of the query's class; red: of another" if features.labels is not None else ""
    return save_rows(panels, stem, f"query, then its neighbours by cosine{bars} · step {encoder.step}")


def _panel(encoder: FrozenEncoder, features: Features, rows: list[int], similarity: list[float]) -> Panel:
    wanted = Items(PathTable(features.sources[i] for i in rows))
    samples = []
    for outcome in encoder.decode(wanted):
        if isinstance(outcome, BadSample):
            raise UserError(f"{outcome}: could be read a moment ago, and not any more; run the command again")
        samples.append(outcome)
    x, _ = stack(samples)
    x = in_units(x)
    titles = [_title(features, row, None if place == 0 else near) for place, (row, near) in
              enumerate(zip(rows, similarity, strict=True))]  # fmt: skip
    columns = tuple(zip(titles, on_a_scale(x, x), strict=True))
    display = getattr(encoder.reader(), "display", "image")
    panel = Panel(columns, (), display, tuple(sample.spacing for sample in samples))
    labels = features.labels
    if labels is None or labels[rows[0]] < 0:
        return panel
    known = [None if labels[row] < 0 else SAME if labels[row] == labels[rows[0]] else OTHER for row in rows]
    return replace(panel, bars=(None, *known[1:]))


def _title(features: Features, row: int, similarity: float | None) -> str:
    label = -1 if features.labels is None else int(features.labels[row])
    if features.marks is not None:
        name = "|".join(c for c, m in zip(features.classes, features.marks[row], strict=True) if m == 1)
    else:
        name = features.classes[label] if label >= 0 else Path(features.sources[row].removesuffix(".gz")).stem
    return f"query: {name}" if similarity is None else f"{name} {similarity:.2f}"
