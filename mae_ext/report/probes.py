"""What probes said of a run's encoder: a table, and curves over the steps where it was asked more than once."""

from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mae_ext.report.curves import Series, curve

KINDS = {"linear": "linear", "knn": "kNN", "attentive": "attentive"}
SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
}
MAX_TESTS = 6
"""Test sources that get curves of their own."""


def probes_section(probes: list[dict[str, Any]]) -> str:
    """HTML; "" where there are none. Trusts no value."""
    return _curves(probes) + _table(probes)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _percent(value: Any) -> str:
    number = _number(value)
    return "–" if number is None else f"{100 * number:.1f}"


def _interval(part: dict[str, Any], name: str) -> str:
    """ "83.2 [80.1, 86.0]" """
    ends = part.get(f"{name}_ci")
    low, high = (_number(end) for end in ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    around = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return _percent(part.get(name)) + around


def _part(probe: dict[str, Any], name: str) -> dict[str, Any]:
    part = probe.get(name)
    return part if isinstance(part, dict) else {}


def _source(probe: dict[str, Any], whole: bool = False) -> str:
    """The name of what was judged on: of a set that has one its own; whole: and of its data."""
    data = Path(str(probe.get("test", "–"))).name
    return data if "set" not in probe else f"{probe['set']}: {data}" if whole else str(probe["set"])


def _curves(probes: list[dict[str, Any]]) -> str:
    """Scores over steps, one chart for each score; only what was asked of trained weights at two steps or more."""
    by_source: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for p in probes:
        if p.get("weights") != "random" and _number(p.get("step")) is not None:
            by_source[tuple(str(p.get(key, "–")) for key in ("set", "test", "train", "pool"))].append(p)
    several = [rows for rows in by_source.values() if len({p["step"] for p in rows}) > 1][:MAX_TESTS]
    charts = []
    for rows in several:
        rows.sort(key=lambda p: float(p["step"]))
    for score, title in SCORES.items():  # sources side by side
        for rows in several:
            steps = np.array([float(p["step"]) for p in rows])
            named = f" on {_source(rows[0])}" if len(several) > 1 or "set" in rows[0] else ""
            drawn = []
            for kind, name in KINDS.items():
                values = [_number(_part(p, kind).get(score)) for p in rows]
                if any(value is not None for value in values):
                    percents = np.array([np.nan if value is None else 100 * value for value in values])
                    known = np.isfinite(percents)
                    drawn.append(Series(name, steps[known], percents[known]))
            charts.append(curve(f"{title}{named}, %", drawn, " %"))
    return f'<div class="charts">{"".join(charts)}</div>' if any(charts) else ""


def _table(probes: list[dict[str, Any]]) -> str:
    rows = [(p, _part(p, "linear"), _part(p, "knn")) for p in probes]
    best = {
        part: max((v for p in probes if (v := _number(_part(p, part).get("accuracy"))) is not None), default=None)
        for part in ("linear", "knn")
    }
    body = []
    for p, linear, knn in rows:
        plain = ' class="plain"' if p.get("weights") == "random" else ""
        tops = [_number(part.get("accuracy")) is not None and part.get("accuracy") == best[name]
                for name, part in (("linear", linear), ("knn", knn))]  # fmt: skip
        cells = [
            ("", p.get("step", "–")), ("", p.get("weights", "–")), ("", p.get("pool", "–")),
            ("n best" if tops[0] else "n", _interval(linear, "accuracy")),
            ("n", _percent(linear.get("balanced_accuracy"))),
            ("n", _percent(linear.get("auroc"))),
            ("n best" if tops[1] else "n", _interval(knn, "accuracy")),
            ("n", _percent(p.get("chance"))),
            ("n", f"{p.get('n_train', '–')} / {p.get('n_test', '–')}"), ("n", p.get("n_classes", "–")),
            ("", _source(p, whole=True) + (f", {p['folds']} folds" if "folds" in p else "")),
        ]  # fmt: skip
        row = "".join(f'<td class="{kind}">{escape(str(cell))}</td>' for kind, cell in cells)
        body.append(f"<tr{plain}>{row}</tr>")
    if not body:
        return ""
    head = "<th>step</th><th>weights</th><th>pool</th>" + "".join(
        f'<th class="n">{name}</th>'
        for name in (
            "linear %", "balanced %", "AUROC %", "kNN %", "largest class %", "train / test", "classes",
        )
    )  # fmt: skip
    ks = sorted({k for _, _, knn in rows if isinstance(k := knn.get("k"), int)})
    note = "linear: regression on standardised features; balanced: its mean recall by class; AUROC: its mean by class"
    note += f"; kNN: cosine, weighted vote, k = {', '.join(map(str, ks))}" if ks else ""
    note += "; in brackets: 95 % bootstrap interval, over patients where they are known"
    return (
        f'<div class="scroll"><table><thead><tr>{head}<th>test data</th></tr></thead><tbody>{"".join(body)}</tbody>'
        f'</table></div><p class="sub">{escape(note)}</p>'
    )
