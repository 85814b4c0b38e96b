"""Measurements, appended one by one to a JSONL file, so that a time-out loses none; and the tables made of them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = ("section", "what", "at")


@dataclass(frozen=True)
class Check:
    """What a section is given. out: a folder of its own for what it writes. until: time.monotonic() of its end."""

    section: str
    device: str
    tiny: bool
    out: Path
    inputs: Path
    journal: Path
    until: float

    def row(self, what: str, **figures: Any) -> None:
        """Written, flushed, and said."""
        append(self.journal, {"section": self.section, "what": what, **figures})

    def skip(self, what: str, why: str) -> None:
        self.row(what, skipped=why)

    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


def append(journal: Path, row: dict[str, Any]) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "at": round(time.time(), 1)}, default=str) + "\n")
    print(json.dumps(row, default=str), flush=True)


def read(journal: Path) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]


def figure(journal: Path, section: str, what: str, key: str) -> float | None:
    """A number that an earlier section measured, its last."""
    values = [r[key] for r in read(journal) if (r["section"], r["what"]) == (section, what) and key in r]
    return float(values[-1]) if values else None


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(str(value).split()).replace("|", "/")


def table(journal: Path) -> str:
    """Markdown: a table for each section, its columns those that any of its rows has."""
    rows, parts = read(journal), []
    for section in dict.fromkeys(row["section"] for row in rows):
        of_section = [row for row in rows if row["section"] == section]
        columns = list(dict.fromkeys(key for row in of_section for key in row if key not in OURS))
        parts += [f"\n### {section}\n", f"| what | {' | '.join(c.replace('_', ' ') for c in columns)} |"]
        parts.append("|---" * (len(columns) + 1) + "|")
        for row in of_section:
            cells = [shown(row[column]) if column in row else "" for column in columns]
            parts.append(f"| {shown(row['what'])} | {' | '.join(cells)} |")
    return "\n".join(parts)
