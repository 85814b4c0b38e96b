"""What all pages are made of: one file with its style and script, tables, sections, lengths of time in words."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from mae_ext.version import __version__


def document(title: str, under: str, body: str) -> str:
    """A whole page that asks nothing of the network. title: text; under and body: HTML."""
    here = Path(__file__)
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    style, script = (here.with_name(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="sub">{under}</p>{body}'
        f"<footer>mae_ext {escape(__version__)} · written {escape(written)}</footer></main>"
        f"<script>{script}</script></body></html>\n"
    )


def section(title: str, body: str) -> str:
    """ "" where there is nothing to show."""
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> str:
    """Cells are escaped; columns in `numbers` are set to the right."""
    kinds = [' class="n"' if i in numbers else "" for i in range(len(head))]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {int(seconds % 60):02d} s"


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and what they are; escaped."""
    body = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows)
    return f"<table><tbody>{body}</tbody></table>"
