"""Scores over the number of labels, a line for each arm, as inline SVG: a logarithmic axis, bands, names at the ends.

Readable without colours: each arm that learns has a mark of its own, the cheap ones are thin and broken. The colours
are those of Okabe and Ito, which readers with any kind of colour blindness tell apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import log

from mae_ext.report.curves import WIDE, ticks

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 430, 58, 280, 16, 56
APART = 16
"""Units between the names at the ends of lines."""
NARROW = 64
"""Units between two names of numbers of labels, below which the second goes a line lower."""

LOOKS = {
    "finetuned": ("#0072b2", "circle", 2.4, ""),
    "frozen": ("#009e73", "square", 2.4, ""),
    "attentive": ("#cc79a7", "diamond", 2.4, ""),
    "scratch": ("#d55e00", "triangle", 2.4, ""),
    "random": ("#69717c", "", 1.2, "9 4"),
    "raw": ("#69717c", "", 1.2, "5 3"),
    "mean_image": ("#69717c", "", 1.2, "2 3"),
    "majority": ("#69717c", "", 1.2, "1 5"),
}
"""Of each arm: colour, mark, width and dashes of its line."""
OTHER = ("#1c2026", "circle", 1.6, "")


@dataclass(frozen=True)
class Point:
    """count: of labels. value, low, high: in percent; low and high are None without an interval. labels: in words."""

    count: float
    labels: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    arm: str
    name: str
    points: tuple[Point, ...]


def learning_curves(lines: Sequence[Line], title: str) -> str:
    """ "" where there is no point. Points of a line come with rising counts."""
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    frame = _Frame.around(points)
    names = {point.count: point.labels for point in points}
    drawn = [_band(line, frame) for line in lines] + [_curve(line, frame) for line in lines]
    return (
        f'<figure class="learning"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDE} {HEIGHT}" role="img" aria-label="{escape(title)} by number of labels">'
        f'<clipPath id="learning"><rect x="{LEFT}" y="{TOP - 8}" width="{WIDE - LEFT - RIGHT + 8}" '
        f'height="{HEIGHT - TOP - BOTTOM + 8}"/></clipPath><g class="axis">{_axes(names, frame)}</g>'
        f'<g clip-path="url(#learning)">{"".join(drawn)}</g>{_names(lines, frame)}</svg></figure>'
    )


@dataclass(frozen=True)
class _Frame:
    low: float
    high: float
    first: float
    last: float

    @classmethod
    def around(cls, points: Sequence[Point]) -> "_Frame":
        values = [p.value for p in points]
        ends = [end for p in points for end in (p.value, p.low, p.high) if end is not None]
        # An interval that says nothing is not to flatten all that is known.
        beyond = max(max(values) - min(values), 5.0) / 2
        low, high = max(min(ends), min(values) - beyond), min(max(ends), max(values) + beyond)
        pad = 0.04 * (high - low) or 1.0
        counts = [max(p.count, 1.0) for p in points]
        return cls(max(low - pad, 0.0), high + pad, min(counts), max(counts))

    def across(self, count: float) -> float:
        wide = log(self.last / self.first)
        share = log(max(count, 1.0) / self.first) / wide if wide else 0.5
        return LEFT + 26 + share * (WIDE - LEFT - RIGHT - 52)

    def up(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def _axes(names: dict[float, str], frame: _Frame) -> str:
    marks = []
    for y in ticks(frame.low, frame.high, 8):
        at = f"{frame.up(y):.1f}"
        marks.append(f'<line x1="{LEFT}" x2="{WIDE - RIGHT}" y1="{at}" y2="{at}"/>')
        marks.append(f'<text x="{LEFT - 8}" y="{frame.up(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    last, lower = -2.0 * NARROW, False
    for count in sorted(names):
        x = frame.across(count)
        lower = x - last < NARROW and not lower
        last, y = x, HEIGHT - BOTTOM + 16 + 15 * lower
        words = (
            names[count] if count == int(count) and names[count] == f"{count:g}" else f"{names[count]} ({count:,.6g})"
        )
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 5}"/>')
        marks.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{escape(words)}</text>')
    middle = (LEFT + WIDE - RIGHT) / 2
    marks.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">labels (samples), logarithmic</text>')
    return "".join(marks)


def _band(line: Line, frame: _Frame) -> str:
    colour, mark, _, _ = LOOKS.get(line.arm, OTHER)
    ends = [(frame.across(p.count), p.low, p.high) for p in line.points if p.low is not None and p.high is not None]
    if not mark or len(ends) < 2:
        return ""
    upper = " ".join(f"{x:.1f},{frame.up(high):.1f}" for x, _, high in ends)
    lower = " ".join(f"{x:.1f},{frame.up(low):.1f}" for x, low, _ in reversed(ends))
    return f'<polygon points="{upper} {lower}" fill="{colour}" opacity=".13"/>'


def _curve(line: Line, frame: _Frame) -> str:
    colour, mark, width, dashes = LOOKS.get(line.arm, OTHER)
    places = [(frame.across(p.count), frame.up(p.value), p) for p in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
    broken = f' stroke-dasharray="{dashes}"' if dashes else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{broken}/>']
    for x, y, p in places:
        between = "" if p.low is None or p.high is None else f", interval {p.low:.1f} to {p.high:.1f}"
        said = f"<title>{escape(f'{line.name}, {p.labels}: {p.value:.1f}{between}')}</title>"
        if mark and p.low is not None and p.high is not None:
            ends = f'y1="{frame.up(p.low):.1f}" y2="{frame.up(p.high):.1f}"'
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" {ends} stroke="{colour}" stroke-width="1"/>')
        parts.append(f"<g>{said}{_mark(mark, x, y, colour)}</g>")
    return "".join(parts)


def _mark(mark: str, x: float, y: float, colour: str) -> str:
    corners: tuple[tuple[float, float], ...]
    match mark:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
        case "square":
            return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
        case "diamond":
            corners = ((x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y))
        case "triangle":
            corners = ((x, y - 5.5), (x + 5.5, y + 4.5), (x - 5.5, y + 4.5))
        case _:
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="{colour}"/>'
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    return f'<polygon points="{path}" fill="{colour}"/>'


def _names(lines: Sequence[Line], frame: _Frame) -> str:
    """At the right ends, moved apart where lines end close together."""
    ends = sorted(((frame.up(line.points[-1].value), line) for line in lines if line.points), key=lambda end: end[0])
    heights = [y for y, _ in ends]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + APART)
    lowest = float(HEIGHT - BOTTOM)
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], lowest)
        lowest = heights[i] - APART
    parts = []
    for y, (end, line) in zip(heights, ends, strict=True):
        colour, mark, width, dashes = LOOKS.get(line.arm, OTHER)
        x, at = frame.across(line.points[-1].count), WIDE - RIGHT + 8
        leads = f"{x + 7:.1f},{end:.1f} {at - 4},{y:.1f}"
        parts.append(f'<polyline points="{leads}" fill="none" stroke="{colour}" stroke-width=".7"/>')
        broken = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(f'<line x1="{at}" x2="{at + 26}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" '
                     f'stroke-width="{width}"{broken}/>{_mark(mark, at + 13, y, colour)}')  # fmt: skip
        text = f"{line.name} {line.points[-1].value:.1f}"
        parts.append(f'<text x="{at + 33}" y="{y + 4:.1f}" class="name">{escape(text)}</text>')
    return "".join(parts)
