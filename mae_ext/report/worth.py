"""The page of a study of what pretraining is worth, and what a run's own page says of its studies."""

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mae_ext.errors import UserError
from mae_ext.report.document import document, duration, pairs, section, table
from mae_ext.report.learning import Line, Point, learning_curves
from mae_ext.strict_json import dumps
from mae_ext.worth.outcome import CHEAP
from mae_ext.worth.run import PAGE, RESULT
from mae_ext.worth.sentence import NAMES, POINTS, phrase, points
from mae_ext.writing import blamed_on, staged

STUDIES = "*/worth*.json"
"""In RUN/worth; of each folder its study, and those that it held before."""

ARMS = {
    "frozen": "the encoder as it is, under a light head",
    "attentive": "the encoder as it is, under a head that attends over its tokens",
    "finetuned": "the encoder, trained whole from its weights",
    "scratch": "the same network, trained whole from random weights",
    "random": "random weights as they are, under the light head",
}
WITHOUT = {
    "classify": {
        "majority": "the class most samples have",
        "raw": "a linear head on the sample's own values, shrunk",
        "mean_image": "the class whose mean sample is nearest",
    },
    "segment": {
        "majority": "the class most voxels have, everywhere",
        "raw": "a linear head on each voxel and those that touch it",
        "mean_image": "the class most training samples have at that place",
    },
    "detect": {"majority": "of each class the mean number of mean boxes, in every image"},
}
"""What the arms are, in words."""
READS = {"moments": ", on moments of the last blocks", "mean": ", on the mean of its tokens", "tokens": ""}
"""Of a head what it reads, where a study says so (`pools`)."""


def write_worth(out: str | Path) -> Path:
    """Write `worth.html` beside the worth.json of a study, and return its path.

    The page holds its curves and style; it asks nothing of the network. Raises UserError where there is no worth.json,
    or one that cannot be read, and where the page cannot be written.
    """
    path = Path(out) / PAGE
    html = worth_page(_read(Path(out) / RESULT), str(Path(out).resolve()))
    with staged(path) as [partial], blamed_on(path):
        partial.write_text(html, encoding="utf-8", errors="backslashreplace")
    return path


def worth_page(result: Mapping[str, Any], where: str) -> str:
    """The whole document. result: what a worth.json holds."""
    findings = result["findings"]
    tested = f"{result['tested']['samples']} test samples"
    if result["tested"]["groups"]:
        tested += f" of {result['tested']['groups']} patients"
    first, *more = findings["sentences"]
    said = f'<p class="verdict">{escape(first)}</p>' + "".join(f"<p>{escape(one)}</p>" for one in more)
    warned = "".join(f'<p class="warn">{escape(one)}</p>' for one in findings["warnings"])
    lines, unit = _lines(result), f"{result['score']}, %"
    sections = [
        section("Curves", learning_curves(lines, f"{unit} on {tested}") + _note(result)),
        section(f"Scores: {unit}", _scores(result)),
        section("Differences", _differences(result)),
        section("Arms", _arms(result)),
        section("Setup", _setup(result)),
    ]
    title = f"Is pretraining worth it? {_name(result)}"
    return document(title, escape(where), said + warned + "".join(sections))


def studies_section(run: Path) -> str:
    """HTML for the page of a run: of each study in it the sentence, with a link to its page; "" where there is none."""
    parts = []
    for path in sorted((run / "worth").glob(STUDIES)):
        try:
            result = _read(path)
        except UserError as error:
            parts.append(f'<p class="warn">{escape(str(error))}</p>')
            continue
        page = path.with_suffix(Path(PAGE).suffix)
        link = quote(f"worth/{path.parent.name}/{page.name}")
        name = escape(f"{_name(result)}, {result['tested']['samples']} test samples")
        shown = f'<a href="{link}">{name}</a>' if page.is_file() else name
        sentences = "".join(f"<p>{escape(one)}</p>" for one in result["findings"]["sentences"])
        parts.append(f"<h3>{shown}</h3>{sentences}")
    return "".join(parts)


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        worth_page(result, "")  # which needs all that a page needs
    except FileNotFoundError:
        raise UserError(f"{path}: there is none; `mae-ext worth` writes it when all its runs are made") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: is no result of `mae-ext worth` ({type(error).__name__}: {error}); run the same command again"
        ) from None
    return dict(result)


def _name(result: Mapping[str, Any]) -> str:
    return f"{result['kind']}, {'/'.join(Path(result['source']['path']).parts[-2:])}"


def _cells(result: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["labels"], row["arm"]): row for row in result["table"]}


def _order(result: Mapping[str, Any], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in result["table"]))


def _lines(result: Mapping[str, Any]) -> list[Line]:
    lines = []
    for arm in _order(result, "arm"):
        rows = sorted((row for row in result["table"] if row["arm"] == arm), key=lambda row: row["count"])
        points = tuple(
            Point(row["count"], row["labels"], *(_percent(row[end]) for end in ("value", "low", "high")))  # type: ignore[arg-type]
            for row in rows
        )
        lines.append(Line(arm, NAMES.get(arm, arm), points))
    return lines


def _percent(share: float | None) -> float | None:
    return None if share is None else points(share)


def _number(share: float | None) -> str:
    return "–" if share is None else f"{points(share):.1f}"


def _interval(row: Mapping[str, Any]) -> str:
    return "no interval" if row["low"] is None else f"[{_number(row['low'])}, {_number(row['high'])}]"


def _scores(result: Mapping[str, Any]) -> str:
    """Labels down, arms across; the highest mean of each line is set off."""
    cells, arms = _cells(result), _order(result, "arm")
    head = "<th>labels</th>" + "".join(f'<th class="n">{escape(NAMES.get(arm, arm))}</th>' for arm in arms)
    body = []
    for labels in _order(result, "labels"):
        row = {arm: cells[labels, arm] for arm in arms if (labels, arm) in cells}
        top = max(cell["value"] for cell in row.values())
        count = next(iter(row.values()))["count"]
        line = [f'<td style="white-space:nowrap">{escape(labels)}<br><small>{count:,.6g} samples</small></td>']
        line += [_cell(row[arm], row[arm]["value"] == top) if arm in row else '<td class="n">–</td>' for arm in arms]
        body.append(f"<tr>{''.join(line)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        '<p class="sub">Mean and standard deviation over seeds; in brackets the 95 % interval of the mean; the highest '
        "of each line in colour.</p>"
    )


def _cell(cell: Mapping[str, Any], top: bool) -> str:
    spread = "" if cell["spread"] is None else f" ± {_number(cell['spread'])}"
    seeds = "one seed" if cell["seeds"] == 1 else f"{cell['seeds']} seeds"
    return (
        f'<td class="{"n best" if top else "n"}">{_number(cell["value"])}{spread}'
        f"<br><small>{escape(_interval(cell))}<br>{seeds}</small></td>"
    )


def _note(result: Mapping[str, Any]) -> str:
    who = "patients" if result["tested"]["groups"] else "test samples"
    return (
        f'<p class="sub">Bands and bars: 95 % intervals, from {who} drawn again 1000 times and, where there are '
        "several, seeds (Student's t). Cheap arms are thin and broken, without bands.</p>"
    )


def _differences(result: Mapping[str, Any]) -> str:
    unit = POINTS.get(result["score"], "points")
    rows = [_difference(one) for one in result["findings"]["gains"]]
    head = ("labels", "best pretrained", "best without", unit, "95 % interval", "pretraining")
    return table(head, rows, numbers=(3, 4)) if rows else ""


def _difference(one: Mapping[str, Any]) -> tuple[str, ...]:
    names = (NAMES.get(one["arm"], one["arm"]), NAMES.get(one["over"], one["over"]))
    said = {"nothing": "gains nothing"}.get(one["verdict"], one["verdict"])
    return phrase(one["labels"]), *names, _number(one["estimate"]["value"]), _interval(one["estimate"]), said


def _arms(result: Mapping[str, Any]) -> str:
    """What each is, and how long it took."""
    spent: dict[str, float] = {}
    for row in result["table"]:
        spent[row["arm"]] = spent.get(row["arm"], 0.0) + row["minutes"]
    words = {**ARMS, **WITHOUT.get(result["kind"], {})}
    words |= {arm: f"{words[arm]}{READS[pool]}" for arm, pool in result.get("pools", {}).items()}
    rows = [(NAMES.get(arm, arm), words.get(arm, ""), duration(60 * minutes)) for arm, minutes in spent.items()]
    absent = [arm for arm in CHEAP if arm not in WITHOUT.get(result["kind"], {})]
    note = f"{', '.join(NAMES[arm] for arm in absent)}: not defined for this task" if absent else ""
    return table(("arm", "what it is", "time, all seeds"), rows, numbers=(2,)) + (
        f'<p class="sub">{escape(note)}</p>' if note else ""
    )


def _setup(result: Mapping[str, Any]) -> str:
    source, tested = result["source"], result["tested"]
    facts = [
        ("run", str(result["run"]["path"])),
        ("labelled", f"{source['path']}, {source['samples']} {source['unit']}s"),
        ("judged on", f"{tested['path']}, {tested['samples']} {source['unit']}s"),
        ("classes", ", ".join(map(str, result["classes"]))),
        ("time", duration(60 * result["minutes"])),
        *([("command", str(result["command"]))] if "command" in result else []),
    ]
    rates = [
        (row["side"], ", ".join(row["sets"]) or "as the recipe has them", _number(row["value"]), row["why"])
        for row in sorted(result["rates"], key=_taken_first)
        if row["taken"]
    ]
    others = [
        (row["side"], ", ".join(row["sets"]) or "as the recipe has them", _number(row["value"]))
        for row in result["rates"]
        if not row["taken"]
    ]
    head = ("side", "rates", "score where chosen, %")
    chosen = f"<h3>Rates that were taken</h3>{table((*head, 'why'), rows=rates, numbers=(2,))}" if rates else ""
    passed = (
        f"<details><summary>Rates that were tried and not taken</summary>{table(head, others, (2,))}</details>"
        if others
        else ""
    )
    text = escape(dumps(result["config"], indent=1))
    return (
        f"{pairs(facts)}{chosen}{passed}<details><summary>config of the trainings</summary><pre>{text}</pre></details>"
    )


def _taken_first(row: Mapping[str, Any]) -> tuple[bool, str]:
    return not row["taken"], row["side"]
