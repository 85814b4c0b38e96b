"""Curves as inline SVG: thinned to what a screen can show, with the range of what was thinned as a band."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10

import numpy as np

COLOURS = ("#1f5fbf", "#d1495b", "#2f8f6b", "#b7791f", "#6b4fa3", "#3b8ea5")
HEIGHT = 230
NARROW, WIDE = 560, 1148
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 10, 30
BINS = 400
FEW = 20
"""With fewer points none is called a spike."""


@dataclass(frozen=True)
class Series:
    """steps and values: (n,) float, of one curve. Values that are not finite are left out of the drawing."""

    name: str
    steps: np.ndarray
    values: np.ndarray

    def finite(self) -> "Series":
        good = np.isfinite(self.values) & np.isfinite(self.steps)
        return Series(self.name, self.steps[good], self.values[good])


def thin(series: Series, bins: int = BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(n,) -> at most `bins` points: step, mean, lowest, highest. Few points are returned as they are."""
    steps, values = series.steps, series.values
    if len(steps) <= bins:
        return steps, values, values, values
    edges = np.linspace(0, len(steps), bins + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(steps)))
    mean = np.add.reduceat(values, edges) / counts
    return (
        np.add.reduceat(steps, edges) / counts,
        mean,
        np.minimum.reduceat(values, edges),
        np.maximum.reduceat(values, edges),
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) within low..high."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [round(i * step, 12) for i in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """12345 -> "12.3k"; 0.00015 -> "1.5e-4"."""
    if value == 0:
        return "0"
    if not isfinite(value):
        return str(value)
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def limits(series: Sequence[Series], zero: bool) -> tuple[float, float]:
    """The range shown: all values, but for the highest 0.25 % where these alone would make up two thirds of it."""
    values = np.sort(np.concatenate([s.values for s in series]))
    low, high = min(float(values[0]), 0.0) if zero else float(values[0]), float(values[-1])
    if len(values) >= FEW:
        usual = float(values[-1 - max(1, len(values) // 400)])
        high = usual if high - low > 3 * (usual - low) else high
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return (low if zero and low == 0 else low - pad), high + pad


def curve(title: str, series: Sequence[Series], unit: str = "", zero: bool = False, width: int = NARROW) -> str:
    """A titled chart, `width` units across. zero: the axis starts at 0. Returns "" when there is nothing to draw."""
    drawn = [f for s in series if len((f := s.finite()).steps)]
    lost = sum(len(s.steps) for s in series) - sum(len(s.steps) for s in drawn)
    if not drawn:
        return ""
    low, high = limits(drawn, zero)
    first, last = min(float(s.steps.min()) for s in drawn), max(float(s.steps.max()) for s in drawn)
    last = last if last > first else first + 1
    outside = sum(int(((s.values > high) | (s.values < low)).sum()) for s in drawn)
    notes = [f"{lost} not finite"] * bool(lost) + [f"{outside} outside the frame"] * bool(outside)

    def across(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (width - LEFT - RIGHT)

    def up(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    marks = []
    for y in ticks(low, high):
        marks.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>')
        marks.append(f'<text x="{LEFT - 7}" y="{up(y) + 3.5:.1f}" text-anchor="end">{short(y)}</text>')
    below = HEIGHT - BOTTOM + 17
    marks += [
        f'<text x="{across(x):.1f}" y="{below}" text-anchor="middle">{short(x)}</text>' for x in ticks(first, last, 6)
    ]
    frame = "clip-" + "".join(c if c.isalnum() else "-" for c in title)
    lines, data = [], []
    for number, s in enumerate(drawn):
        steps, mean, bottom, top = thin(s)
        colour = COLOURS[number % len(COLOURS)]
        xs = [f"{across(float(x)):.1f}" for x in steps]
        if (top > bottom).any():
            upper = " ".join(f"{x},{up(float(y)):.1f}" for x, y in zip(xs, top, strict=True))
            lower = " ".join(f"{x},{up(float(y)):.1f}" for x, y in zip(xs[::-1], bottom[::-1], strict=True))
            lines.append(f'<polygon points="{upper} {lower}" fill="{colour}" opacity=".16"/>')
        points = " ".join(f"{x},{up(float(y)):.1f}" for x, y in zip(xs, mean, strict=True))
        if len(xs) == 1:
            lines.append(f'<circle cx="{xs[0]}" cy="{up(float(mean[0])):.1f}" r="3" fill="{colour}"/>')
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        readings = "|".join(f"{x};{step:.0f};{short(float(y))}" for x, step, y in zip(xs, steps, mean, strict=True))
        data.append(f'<desc data-name="{escape(s.name)}">{readings}</desc>')
    legend = "".join(
        f'<span class="key"><i style="background:{COLOURS[i % len(COLOURS)]}"></i>{escape(s.name)}</span>'
        for i, s in enumerate(drawn)
        if len(drawn) > 1
    )
    shown = f"{short(float(drawn[0].values[-1]))}{escape(unit)}"
    return (
        f'<figure class="chart{" wide" * (width == WIDE)}"><figcaption><b>{escape(title)}</b>{legend}'
        f'<span class="now">{shown}</span>'
        f'<span class="note">{escape(", ".join(notes))}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(title)} by step">'
        f'<clipPath id="{frame}"><rect x="{LEFT}" y="{TOP - 4}" width="{width - LEFT - RIGHT}" '
        f'height="{HEIGHT - TOP - BOTTOM + 8}"/></clipPath>{"".join(data)}<g class="axis">{"".join(marks)}</g>'
        f'<g clip-path="url(#{frame})">{"".join(lines)}</g><line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        "</svg></figure>"
    )
