"""Features as points in a plane, coloured by label: PCA always, UMAP where umap-learn is installed."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps, colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mae_ext.drawing.boxes import legible
from mae_ext.rng import rng, seed_of
from mae_ext.writing import staged

MAX_POINTS = 20_000
COLOURED = 10
"""Classes with a colour of their own, the most numerous; all others share one."""

REST, UNLABELLED = "#9aa2ad", "#d5d9de"
UMAP_NEEDS = 10
"""Samples below which a neighbourhood graph means nothing."""


def pca(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) -> (n, 2) coordinates along the two directions of most variance, and (2,) their share of it.

    Signs are fixed: the largest weight of a direction is positive.
    """
    x = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    variance, axes = np.linalg.eigh(x.T @ x / len(x))
    axes = axes[:, ::-1][:, :2]
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 2 - axes.shape[1])))
    largest = axes[np.abs(axes).argmax(0), np.arange(2)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    shares = np.pad(variance[::-1].clip(min=0)[:2], (0, 2))[:2] / max(float(variance.clip(min=0).sum()), 1e-300)
    return x @ axes, shares


def has_umap() -> bool:
    return find_spec("umap") is not None


def umap(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n, D) -> (n, 2), by cosine, with UMAP's own defaults (1802.03426): 15 neighbours, minimum distance 0.1."""
    from umap import UMAP

    neighbours = min(15, len(features) - 1)
    made = UMAP(metric="cosine", n_neighbors=neighbours, random_state=seed_of(seed, "map") % 2**31, n_jobs=1)
    return np.asarray(made.fit_transform(features), dtype=np.float64)


def draw_map(features: np.ndarray, names: list[str | None], path: Path, title: str, seed: int = 0) -> Path:
    """(n, D), the class of each row or None -> a PNG at `path`. At most `MAX_POINTS` rows are drawn; the title says so.

    Points are drawn in an order that says nothing of their class, so that none hides another by its name.
    """
    order = torch.randperm(len(features), generator=rng(seed, "map")).numpy()[:MAX_POINTS]
    if len(order) < len(features):
        title += f" · {len(order)} of them drawn"
    features, names = features[order], [names[i] for i in order]
    points, shares = pca(features)
    axes_names = [f"{100 * share:.0f} % of the variance" for share in shares]
    maps = [("PCA", points, axes_names)]
    if has_umap() and len(features) >= UMAP_NEEDS:
        maps.append(("UMAP", umap(features, seed), ["", ""]))
    figure = Figure(figsize=(6.4 * len(maps) + 1.8, 6.2), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    colours = palette(names)
    for place, (kind, points, titles) in enumerate(maps):
        _scatter(figure.add_subplot(1, len(maps), place + 1), kind, points, titles, names, colours)
    if len(colours) > 1:
        handles = [
            Line2D([], [], marker="o", linestyle="", markersize=6, color=colour, label=_short(name))
            for name, colour in colours.items()
        ]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    figure.suptitle(legible(title).replace("$", r"\$"), fontsize=10, color="#69717c", x=0.01, ha="left")
    with staged(path) as [partial]:
        figure.savefig(partial, format="png")
    return path


def palette(names: list[str | None]) -> dict[str, str]:
    """What stands in the legend, in order, and its colour: numerous classes, then all others, then the unlabelled."""
    counts = Counter(name for name in names if name is not None)
    common = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:COLOURED]]
    table = [colors.to_hex(colour) for colour in colormaps["tab10"].colors]  # type: ignore[attr-defined]
    table[7] = "#111827"  # its grey is that of the classes without a colour
    legend = dict(zip(sorted(common), table, strict=False))
    if len(counts) > COLOURED:
        legend[f"{len(counts) - COLOURED} other classes"] = REST
    if None in names:
        legend["no label"] = UNLABELLED
    return legend


def _scatter(
    axes: Axes, kind: str, points: np.ndarray, titles: list[str], names: list[str | None], colours: dict[str, str]
) -> None:
    size = float(np.clip(6000 / len(points), 5, 46))
    shown = [UNLABELLED if name is None else colours.get(name, REST) for name in names]
    axes.scatter(points[:, 0], points[:, 1], s=size, c=shown, alpha=0.8, linewidths=0.3, edgecolors="white")
    axes.set_title(kind, fontsize=12, loc="left")
    axes.set_xlabel(titles[0], fontsize=9, color="#69717c")
    axes.set_ylabel(titles[1], fontsize=9, color="#69717c")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.margins(0.04)
    for spine in axes.spines.values():
        spine.set_color("#d5d9de")


def _short(name: str, most: int = 24) -> str:
    # matplotlib reads a dollar as mathematics, and leaves out a label that begins with an underscore.
    name = legible(name if len(name) <= most else name[: most - 1] + "…")
    return name.replace("$", r"\$") if not name.startswith("_") else "\u200b" + name.replace("$", r"\$")
