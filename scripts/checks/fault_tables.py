"""The tables of planted faults: reading them, fitting them to the code, and finding what no longer fits.

See plant_faults.py for what a table says.
"""

import ast
import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

TABLES = Path("tests/faults/planted")
NET = "tests/recorded"
"""What is recorded of many inputs of mae_ext/data: it judges last, what the tests of a module let pass."""


@dataclass(frozen=True)
class Fault:
    table: str
    name: str
    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]

    def is_named(self, asked: str) -> bool:
        return asked in (self.table, self.name, self.file, self.file.removeprefix("mae_ext/"))


class Stale(Exception):
    """A fault that does not fit the code."""


def mirrored(root: Path, file: str) -> list[str]:
    """mae_ext/x/y.py -> tests/x/test_y.py, if there is one."""
    inside = Path(file).relative_to("mae_ext")
    found = Path("tests") / inside.with_name(f"test_{inside.name}")
    return [found.as_posix()] if (root / found).is_file() else []


def read_tables(root: Path) -> list[Fault]:
    faults = []
    for table in sorted((root / TABLES).glob("*.yaml")):
        found = yaml.safe_load(table.read_text(encoding="utf-8"))
        of_module = found.get("tests", {})
        for entry in found["faults"]:
            file = entry["file"]
            tests = entry.pop("tests", None) or dict.fromkeys([*mirrored(root, file), *of_module.get(file, ())])
            tests = [*tests, *([NET] if file.startswith("mae_ext/data/") and (root / NET).is_dir() else [])]
            faults.append(Fault(table=table.stem, tests=tuple(tests), **entry))
    return faults


def planted(root: Path, fault: Fault) -> str:
    """The text of the fault's file with the fault in it. Raises Stale, with the nearest line, where it does not fit."""
    path = root / fault.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    count = text.count(fault.old)
    if count != 1:
        raise Stale(f"found {count} times in {fault.file}: {fault.old.strip()!r}{_nearest(root, fault)}")
    found = text.replace(fault.old, fault.new)
    try:
        same = ast.dump(ast.parse(found)) == ast.dump(ast.parse(text))
    except SyntaxError as error:
        raise Stale(f"the fault is no Python: {error}") from None
    if same:
        raise Stale("the fault changes nothing")
    return found


def _nearest(root: Path, fault: Fault) -> str:
    """Where the line may have gone: to another file as it is, or to one that resembles it."""
    wanted = fault.old.strip().splitlines()[0].strip()
    best, where = 0.0, ""
    for path in sorted((root / "mae_ext").rglob("*.py")):
        inside = path.relative_to(root).as_posix()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            alike = difflib.SequenceMatcher(None, wanted, line.strip())
            score = 2.0 if wanted in line else 0.0
            if not score and alike.real_quick_ratio() > best and alike.quick_ratio() > best:
                score = alike.ratio()
            score += 0.1 * (inside == fault.file)
            if score > best:
                best, where = score, f"\n    nearest: {inside}:{number}: {line.strip()}"
    return where


def missing_tests(root: Path, tests: Iterable[str]) -> list[str]:
    """Files, and functions in them, that a table names and that are not there."""
    found = []
    for test in tests:
        file, _, name = test.partition("::")
        path = root / file
        function = rf"^def {re.escape(name.partition('[')[0])}\("
        if not path.exists() or (name and not re.search(function, path.read_text(encoding="utf-8"), re.MULTILINE)):
            found.append(test)
    return found


def stale(root: Path, faults: Sequence[Fault]) -> list[str]:
    """A line for each fault that does not fit the code."""
    problems = []
    names = [f.name for f in faults]
    for fault in faults:
        what = [f"there are {names.count(fault.name)} of this name"] if names.count(fault.name) > 1 else []
        what += [f"no such test: {test}" for test in missing_tests(root, fault.tests)]
        what += [] if fault.tests else [f"no test judges {fault.file}; name one under `tests` in the table"]
        try:
            planted(root, fault)
        except Stale as error:
            what.append(str(error))
        problems += [f"{fault.table}: {fault.name}: {reason}" for reason in what]
    return problems


def digest(root: Path, fault: Fault, tests: Sequence[str]) -> str:
    """Of all that the result depends on most: the entry, its file and its tests."""
    texts = [json.dumps([asdict(fault), list(tests)])]
    for name in [fault.file, *(test.partition("::")[0] for test in tests)]:
        path = root / name
        texts += [p.read_text(encoding="utf-8") for p in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
