"""Make the golden values again, on purpose: `scripts/checks/golden --why "the loss now counts valid voxels alone"`.

Runs every case (or those that are named), keeps the values of those that changed, prints old and new beside each other,
and adds the reason to CHANGES.md. Without --why it refuses: a value that changed and nobody knows why is a fault.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from golden.environment import PINNED
from golden.values import differences, kind, leaves, named, said, same

HERE = Path(__file__).parent
KEPT = HERE / "kept"
LOG = HERE / "CHANGES.md"
SHOWN = 6
"""Rows of the table for each case; the rest is counted."""


def names() -> list[str]:
    """Of all cases, without their imports."""
    listing = "from golden.cases import CASES; print(*CASES)"
    done = subprocess.run(
        [sys.executable, "-c", listing], env=_environment(), check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def run(cases: Sequence[str]) -> dict[str, Any]:
    """{"made_with", "values": {case: ...}} from a child whose environment is pinned. Raises RuntimeError, its words."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "golden.child", "out.json", *cases]
        done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the golden cases ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads((Path(folder) / "out.json").read_text())
    return found


def _environment() -> dict[str, str]:
    """As it is, with what is pinned; mae_ext from where it is for us, also where it is not installed."""
    import mae_ext

    roots = [str(Path(mae_ext.__file__).parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **PINNED, "PYTHONPATH": os.pathsep.join(filter(None, roots))}


def kept(case: str, folder: Path = KEPT) -> dict[str, Any] | None:
    path = folder / f"{case}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def write(case: str, made_with: dict[str, Any], values: dict[str, Any], folder: Path = KEPT) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{case}.json").write_text(_laid_out({"made_with": made_with, "values": values}) + "\n")


def renew(found: dict[str, Any], gone: Sequence[str], why: str, folder: Path = KEPT, log: Path = LOG) -> list[str]:
    """Keep what changed, and why -> rows of old and new; none where nothing did. gone: cases that there are no more."""
    changed, rows = [], []
    for case, values in found["values"].items():
        old = kept(case, folder)
        if old is not None and old["made_with"] == found["made_with"] and not differences(old["values"], values, True):
            continue
        rows += _told(case, old, values)
        write(case, found["made_with"], values, folder)
        changed.append(case)
    for case in gone:
        (folder / f"{case}.json").unlink()
        rows.append(f"  {case:15} gone")
        changed.append(case)
    if changed:
        entry = f"- {datetime.now(UTC):%Y-%m-%d}, at {commit()}: {why} ({', '.join(changed)})\n"
        begin = '# Why golden values changed\n\nWritten by `scripts/checks/golden --why "..."`, newest last.\n\n'
        log.write_text((log.read_text() if log.is_file() else begin) + entry)
    return rows


def _laid_out(value: Any, indent: int = 0) -> str:
    """JSON with a line for each value or list of numbers, so that a diff shows what changed."""
    text = json.dumps(value)
    if not isinstance(value, dict | list) or len(text) + indent < 110 or _flat(value):
        return text
    pad, (opening, closing) = " " * (indent + 1), ("{}" if isinstance(value, dict) else "[]")
    parts = value.items() if isinstance(value, dict) else ((None, part) for part in value)
    lines = [
        pad + (f"{json.dumps(key)}: " if key is not None else "") + _laid_out(part, indent + 1) for key, part in parts
    ]
    return opening + "\n" + ",\n".join(lines) + "\n" + " " * indent + closing


def _flat(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value
    return not any(isinstance(part, dict | list) for part in parts)


def table(case: str, old: Any, new: Any) -> list[str]:
    """Rows of what changed, one for each kind of value, its last place: old -> new."""
    before, after = dict(leaves(old)), dict(leaves(new))
    changed = [
        path
        for path in {**before, **after}
        if path not in before or path not in after or not same(before[path], after[path])
    ]
    last = {kind(path): path for path in changed}
    rows = []
    for path in list(last.values())[:SHOWN]:
        was, now = before.get(path), after.get(path)
        shown = (said(was, now) if path in before else "-"), (said(now, was) if path in after else "gone")
        rows.append(f"  {case:15} {named(path)[-44:]:44}  {shown[0][:32]:>32} -> {shown[1][:32]}")
    if len(last) > SHOWN:
        rows.append(
            f"  {case:15} and {len(last) - SHOWN} more kinds of value; {len(changed)} of {len(after)} values in all"
        )
    return rows


def _told(case: str, old: dict[str, Any] | None, new: Any) -> list[str]:
    if old is None:
        return [f"  {case:15} new, {len(dict(leaves(new)))} values"]
    return table(case, old["values"], new) or [f"  {case:15} the same values, made with other versions"]


def commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    head = git("rev-parse", "--short", "HEAD") or "no commit"
    changed = git("status", "--porcelain", "--", ":/mae_ext", ":/tests/golden/*.py", ":/scripts/constraints.txt")
    return head + (" and what is not yet committed" if changed else "")


def asked(
    program: str, about: str | None, one: str, known: Callable[[], Sequence[str]], arguments: Sequence[str] | None
) -> tuple[list[str], list[str], str] | None:
    """-> (what is known, what of it was named, why) of a command that keeps values anew; None once it has refused."""
    parser = argparse.ArgumentParser(prog=program, description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("named", nargs="*", metavar=one.upper(), help="all, if none is named")
    parser.add_argument("--why", default="", help="why the values are to change, in a sentence; it goes to CHANGES.md")
    args = parser.parse_args(arguments)
    why = " ".join(args.why.split())
    if not why:
        print(f'{program}: say why the values are to change: --why "..."; nothing was run', file=sys.stderr)
        return None
    there = list(known())
    if unknown := [name for name in args.named if name not in there]:
        print(f"{program}: no {one} {', '.join(unknown)} (there are: {', '.join(there)})", file=sys.stderr)
        return None
    return there, args.named, why


def orphans(folder: Path, known: Sequence[str], named: Sequence[str]) -> list[str]:
    """What is kept and no longer known, unless some were named."""
    return [] if named else [path.stem for path in sorted(folder.glob("*.json")) if path.stem not in known]


def main(arguments: Sequence[str] | None = None) -> int:
    found = asked("scripts/checks/golden", __doc__, "case", names, arguments)
    if found is None:
        return 2
    known, named_ones, why = found
    rows = renew(run(named_ones or known), orphans(KEPT, known, named_ones), why)
    print("\n".join(rows) + f"\nThe values are in {KEPT}, the reason in {LOG}" if rows else "every value is as it was")
    return 0


if __name__ == "__main__":
    sys.exit(main())
