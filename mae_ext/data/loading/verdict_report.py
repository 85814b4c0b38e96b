"""What the doctor says of all files together: of their values, all verdicts as JSON, the list of the good."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from json import loads
from pathlib import Path
from typing import Any

from mae_ext import plugins
from mae_ext.data.loading.doctor import Verdict
from mae_ext.data.loading.good_list import Rows
from mae_ext.data.loading.values import RULE, Values, of_types, two_kinds, typical, unlike
from mae_ext.errors import UserError
from mae_ext.strict_json import dumps
from mae_ext.writing import blamed_on, staged

VERSION = 1

MOST_LINES = 20
"""About single files' values."""


def report(paths: Sequence[str], reader: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """An object for JSON. `samples` has one for each, in the order of the list; what a file has not is null or empty.

    values: of a scan in its own units (CT: HU); of others as the view that was read has them: a picture made small, a
    clip of a film.
    """
    values = [verdict.values for verdict in verdicts]
    odd, usual = unlike(values), typical(values)
    kinds = _kinds([verdict.path for verdict in verdicts], values, bool(odd))
    bad = Counter(verdict.kind for verdict in verdicts if not verdict.ok)
    return {
        "version": VERSION,
        "paths": list(paths),
        "reader": reader,
        "files": len(verdicts),
        "good": sum(verdict.ok for verdict in verdicts),
        "bad": dict(bad.most_common()),
        "values": {"rule": RULE, "typical": usual and usual.row, "two_kinds": kinds or None},
        "samples": [
            {
                "path": verdict.path,
                "ok": verdict.ok,
                "kind": verdict.kind,
                "detail": verdict.detail,
                "description": verdict.description,
                "doubts": list(verdict.doubts),
                "values": verdict.values and verdict.values.row,
                "unlike": odd.get(place),
            }
            for place, verdict in enumerate(verdicts)
        ],
    }  # fmt: skip


def _kinds(paths: Sequence[str], values: Sequence[Values | None], exceptions: bool) -> str:
    return of_types(paths, values) or ("" if exceptions else two_kinds(paths, values))


def of_values(verdicts: Sequence[Verdict], verbose: bool = False) -> list[str]:
    """Lines about values: each file that is unlike the others, or two kinds of them; and what is usual, where that
    cannot be guessed, or is asked for."""
    paths, values = [verdict.path for verdict in verdicts], [verdict.values for verdict in verdicts]
    odd = unlike(values)
    lines = [f"{paths[place]}: {what}" for place, what in list(odd.items())[:MOST_LINES]]
    if len(odd) > MOST_LINES:
        lines.append(f"and {len(odd) - MOST_LINES} more files with values unlike the others'; --json names all of them")
    if kinds := _kinds(paths, values, bool(odd)):
        return [kinds, *lines]
    known = [one for one in values if one is not None]
    if known and (verbose or lines or any(one.dtype != "uint8" for one in known)):
        of = f"of {len(known)} files by median" if len(known) > 1 else "of one file"
        lines.append(f"values, {of}: {typical(known)}")
    return lines


def _is_report(path: Path) -> bool:
    """Whether the file is what `report` makes; an empty one is nobody's."""
    try:
        known = loads(path.read_text(encoding="utf-8") or "{}")
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(known, dict) and (not known or {"version", "reader", "samples"} <= known.keys())


@contextmanager
def writing(
    paths: Sequence[str], reader: str, json: str | None, fix_list: str | None
) -> Iterator[Callable[[Sequence[Verdict]], list[str]]]:
    """Gives what writes the files that are asked for, and returns what is to be said of them.

    Raises UserError before any file is judged where they cannot be written, would be over a file that is none of an
    earlier doctor's, or a list cannot say all that its source does. They are whole, or, where the work is broken off,
    not there.
    """
    out = Path(fix_list) if fix_list else None
    rows = None if out is None else Rows.of(paths, plugins.readers.get(reader, "doctor").suffixes, out)
    if json and Path(json).is_file() and not _is_report(Path(json)):
        raise UserError(f"--json {json}: is there, and holds no verdicts of doctor; name another file, or move it")
    if rows is not None and out is not None and out.is_file() and not rows.wrote(out, paths):
        raise UserError(
            f"--fix-list {out}: is there, and no list of good files of {', '.join(paths)}; name another file"
        )
    with staged(*(Path(name) for name in (json, fix_list) if name)) as files:

        def write(verdicts: Sequence[Verdict]) -> list[str]:
            lines = []
            if json:
                with blamed_on(Path(json)):
                    files[0].write_text(dumps(report(paths, reader, verdicts)) + "\n", encoding="utf-8")
                lines.append(f"{json}: all verdicts")
            if rows is not None and out is not None:
                good = {verdict.path for verdict in verdicts if verdict.ok}
                if not good:
                    files[-1].unlink()
                    return [*lines, f"{out}: not written, as no file is good"]
                with blamed_on(out):
                    files[-1].write_text(rows.text(good, out), encoding="utf-8", errors="surrogateescape", newline="")
                lines.append(f"{out}: {len(good)} good files; --data '{rows.as_data(out)}'")
            return lines

        yield write
