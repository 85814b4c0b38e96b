"""What parts of the package do with many inputs, written down: one wide net under the tests that know why.

A room is a generator, given an empty folder: it yields (which input and option, what is done with it). What comes of
it, an error included, is told in few words or numbers and kept in kept/ROOM.json. Whole numbers are kept exactly, as a
short hash where they are many; floats to a tolerance, where they are many as their spread and a mark, which tells
their order.

    scripts/checks/recorded --why "labels are now cut at the middle" [ROOM...]   keeps them again, and says what changed
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from golden.make import asked, orphans

from mae_ext.data.sources.dicom.keyed import VARIABLE

HERE = Path(__file__).parent
KEPT = HERE / "kept"
LOG = HERE / "CHANGES.md"
NEAR = 1e-4
"""Of the largest number beside it: what kernels of other machines make of a sum in float32."""
SOFT = 5e-3
"""The same of 8-bit pixels that were resized: rounding turns a level here and there."""
MOST_TEXT = 44
MOST_LISTED = 20
MOST_EXACT = 40

Room = Callable[[Path], Iterator[tuple[str, Any]]]
ROOMS: dict[str, Room] = {}


def room(function: Room) -> Room:
    ROOMS[function.__name__] = function
    return function


class Soft:
    """Resized pixels, which may differ by a level."""

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels


def digest(*parts: Any) -> str:
    """Many small whole numbers, flags and texts in one word."""
    return short(json.dumps([told(part, "\0") for part in parts]).encode())


def joined(parts: Iterable[Any]) -> np.ndarray:
    """Arrays of floats as one."""
    return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])


def each(*makes: Callable[[], Any]) -> list[Any]:
    """What comes of each; "=" where it fails as the one before it."""
    found: list[Any] = []
    last = ""
    for make in makes:
        try:
            found.append(make())
        except (AssertionError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 what is raised is what is recorded
            found.append("=" if str(error) == last else error)
            last = str(error)
    return found


def short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def told(value: Any, here: str) -> Any:
    """A tree that JSON holds. here: the folder of the inputs, which no text may name."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.7g}") if isfinite(value) else str(value)
    if isinstance(value, str):
        text = value.replace(here, "~").replace(Path(here).name, "~")
        return (
            text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 8]}... {short(text.encode('utf-8', 'replace'))}"
        )
    if isinstance(value, Soft):
        return {"soft": told(np.asarray(value.pixels).astype(np.float64), here)}
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.generic | np.ndarray):
        return _array(np.asarray(value))
    if isinstance(value, bytes):
        return f"{len(value)} bytes {short(value)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return told({k: v for k, v in fields.items() if v is not None and not callable(v)}, here)
    if isinstance(value, Mapping):
        return {str(told(k, here)): told(v, here) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return told(sorted(value, key=repr), here)
    if isinstance(value, BaseException):
        kind = getattr(value, "kind", "")
        # What a library says, others say otherwise.
        words = kind if kind in ("damaged", "unreadable") else str(value)
        return told(f"! {type(value).__name__}: {words}", here)
    if isinstance(value, Path):
        return told(str(value), here)
    if hasattr(value, "__iter__"):
        listed = [told(part, here) for part in value]
        if all(isinstance(part, int) for part in listed):
            return _array(np.array(listed, np.int64)) if len(listed) > 4 else listed
        if len(listed) > MOST_LISTED and all(isinstance(part, str) for part in listed):
            return f"{len(listed)} texts {short(json.dumps(listed).encode())}"
        if len(listed) > MOST_LISTED and all(isinstance(part, float) for part in listed):
            return _array(np.array(listed))
        return listed
    return told(type(value).__name__, here)


def _array(array: np.ndarray) -> Any:
    shape = "" if array.dtype == np.float64 and array.ndim == 1 else f" {'x'.join(map(str, array.shape))}"
    name = f"{array.dtype.kind}{array.dtype.itemsize}{shape}"
    if array.dtype.kind not in "fc":
        plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
        if array.size <= 8 and array.dtype.kind in "iub":
            return f"{name}: {' '.join(str(int(v)) for v in array.ravel())}"
        return f"{name} {short(plain.tobytes())}"
    wide = array.astype(np.float64).ravel()
    if wide.size <= 6:
        return [name, *(told(float(v), "") for v in wide)]
    bad = int((~np.isfinite(wide)).sum())
    wide = np.where(np.isfinite(wide), wide, 0)
    name = f"{name} {wide.size}" if not shape else name
    at = np.arange(wide.size)
    mark = (wide * (at * 37 % 101 / 50 - 0.7)).mean() * 3  # of a wave with a mean of its own
    found = [name, *(float(f"{float(v):.5g}") for v in (wide.std(), mark))]
    return [*found, f"{bad} not finite"] if bad else found


def outcome(make: Any, here: str) -> Any:
    """What comes of it. What the package's logger says meanwhile is kept as well."""
    if not callable(make):
        return told(make, here)
    with heard() as said:
        try:
            found = told(make(), here)
        except (AssertionError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 what is raised is what is recorded
            found = told(error, here)
    return shortened({"found": found, "said": told(list(said), here)} if said else found)


def shortened(value: Any) -> Any:
    """What holds no float is compared exactly, and so a hash says as much as all of it."""
    text = json.dumps(value, ensure_ascii=True)
    return value if len(text) <= MOST_EXACT or has_floats(value) else f"{text[:28]}... {short(text.encode())}"


def has_floats(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(has_floats, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float)


@contextmanager
def heard() -> Iterator[list[str]]:
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(f"{record.levelname.lower()}: {record.getMessage()}")

    ear, log = Ear(), logging.getLogger("mae_ext")
    level, log.level = log.level, logging.INFO
    log.addHandler(ear)
    try:
        yield said
    finally:
        log.removeHandler(ear)
        log.setLevel(level)


def values(name: str) -> dict[str, Any]:
    """{which input and option: what comes of it} of a room."""
    found: dict[str, Any] = {}
    # Messages say what to type from where one stands.
    # Hashes of who a patient is go by a key of the user's own.
    with patch.dict(os.environ, {VARIABLE: "of recordings, for anybody"}), \
         tempfile.TemporaryDirectory(prefix="recorded") as folder, contextlib.chdir(folder):  # fmt: skip
        for label, make in ROOMS[name](Path(folder)):
            assert label not in found, f"two inputs of {name} are called {label}"
            found[label] = outcome(make, folder)
    return found


def same(kept: Any, found: Any, near: float = NEAR) -> bool:
    if isinstance(kept, bool) or isinstance(found, bool):
        return kept is found
    if isinstance(kept, float) or isinstance(found, float):
        both = isinstance(kept, int | float) and isinstance(found, int | float)
        return both and abs(kept - found) <= max(near * abs(kept), 1e-9)
    if isinstance(kept, list) and isinstance(found, list):
        if len(kept) != len(found):
            return False
        largest = max((abs(v) for v in kept if isinstance(v, float)), default=0.0)
        return all(
            abs(a - b) <= max(near * largest, 1e-9)
            if isinstance(a, float) and isinstance(b, int | float) and not isinstance(b, bool)
            else same(a, b, near)
            for a, b in zip(kept, found, strict=True)
        )
    if isinstance(kept, dict) and isinstance(found, dict):
        near = SOFT if "soft" in kept else near
        return kept.keys() == found.keys() and all(same(v, found[k], near) for k, v in kept.items())
    return type(kept) is type(found) and kept == found


def differences(kept: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """A line for each input that is otherwise: which, what was kept, what comes of it now."""
    lines = [f"{label}: {_line(kept[label])} -> no longer asked" for label in kept if label not in found]
    for label, value in found.items():
        if label not in kept:
            lines.append(f"{label}: new, {_line(value)}")
        elif not same(kept[label], value):
            lines.append(f"{label}: {_line(kept[label])} -> {_line(value)}")
    return lines


def _line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 400 else text[:400] + "..."


def kept(name: str) -> dict[str, Any] | None:
    path = KEPT / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def write(name: str, found: Mapping[str, Any]) -> None:
    rows = [f"{json.dumps(label)}: {json.dumps(value, separators=(',', ':'))}" for label, value in found.items()]
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{name}.json").write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    from recorded import rooms

    rooms.load()
    asked_for = asked("scripts/checks/recorded", __doc__, "room", lambda: list(ROOMS), arguments)
    if asked_for is None:
        return 2
    known, named, why = asked_for
    changed = []
    for name in named or known:
        found = json.loads(json.dumps(values(name)))
        lines = differences(kept(name) or {}, found)
        if lines:
            print(*(f"  {name}: {line[:200]}" for line in lines[:12]), f"  {name}: {len(lines)} in all", sep="\n")
            write(name, found)
            changed.append(name)
    for name in orphans(KEPT, known, named):
        (KEPT / f"{name}.json").unlink()
        changed.append(name)
    if not changed:
        print("every value is as it was")
        return 0
    begin = '# Why recorded values changed\n\nWritten by `scripts/checks/recorded --why "..."`, newest last.\n\n'
    entry = f"- {datetime.now(UTC):%Y-%m-%d}: {why} ({', '.join(changed)})\n"
    LOG.write_text((LOG.read_text(encoding="utf-8") if LOG.is_file() else begin) + entry, encoding="utf-8")
    return 0


if __name__ == "__main__":
    from recorded.record import main as run  # one table of rooms, not that of __main__

    sys.exit(run())
