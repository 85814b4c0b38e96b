"""Twenty damaged files of each kind and more, each in a child under a memory limit: named, or read right.

    python scripts/checks/damaged_kinds.py              # a row a kind; exit code 1 where one was neither
    python scripts/checks/damaged_kinds.py NIfTI LMDB   # the kinds whose names hold one of these words
    python scripts/checks/damaged_kinds.py --say LMDB   # and each verdict

Of each kind, and of each file that a sample of it is made of: empty, cut at ten places, begun and then zeros, bytes
changed at random; and bombs, which promise or unpack to gigabytes. The good file and whatever is read of the damaged
ones is compared with what the format's own library reads of the same file. A kind whose library is missing is left out.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import damaged_child
import numpy as np
from damaged_child import Kind, Outcome
from damaged_labels import LABELS
from damaged_pictures import PICTURES
from damaged_scans import SCANS

from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.errors import BadSample, RunError

MEMORY_BYTES = 3 << 30
"""Of addresses that a call may add."""

DEADLINE_S = 60.0
FATAL = ("crashed", "hung", "reader broke", "several lines", "above the limit")
DEATHS = ("crashed", "hung", "out of memory")
KINDS: dict[str, Kind] = {**PICTURES, **SCANS, **LABELS}


@dataclass
class Row:
    verdicts: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    added: int = 0
    seconds: float = 0.0


def damaged(content: bytes) -> list[bytes]:
    chance = np.random.default_rng(len(content))
    made = [b"", *(content[: len(content) * k // 11] for k in range(1, 11)), content[:64] + bytes(len(content))]
    for count in (1, 2, 4, 8, 20, 60, 200):
        changed = bytearray(content)
        for place in chance.integers(0, max(1, min(len(content), 600)), count):
            changed[place] = int(chance.integers(256))
        made.append(bytes(changed))
    return made


def judge(sandbox: Sandbox, kind: str, path: Path, compare: bool = True) -> tuple[Outcome, str]:
    """A verdict, and how what was read compares with what the library of the format reads."""
    try:
        outcome: Outcome = sandbox.call(damaged_child.as_doctor, kind, str(path), name=str(path))
    except BadSample as error:
        outcome = Outcome(error.kind, error.detail, 0, 0.0)
    except RunError as error:
        outcome = Outcome("reader broke", str(error), 0, 0.0)
    if len(outcome.detail.splitlines()) > 1:
        outcome = Outcome("several lines", outcome.detail, outcome.added, outcome.seconds)
    if outcome.added > MEMORY_BYTES:
        outcome = Outcome("above the limit", f"{outcome.added}", outcome.added, outcome.seconds)
    if outcome.kind or not compare:
        return outcome, "not compared"
    try:
        return outcome, sandbox.call(damaged_child.compared, kind, outcome.addresses, str(path), name=str(path))
    except ImportError:
        raise
    except BadSample as error:
        if error.kind not in DEATHS:  # of ours, where all of it is read: the crop had not touched the damage
            return Outcome(error.kind, error.detail, outcome.added, outcome.seconds), ""
        return outcome, f"theirs refuses it: {error}"
    except Exception as error:  # noqa: BLE001 their libraries raise what they like
        return outcome, f"theirs refuses it: {' '.join(repr(error).split())[:150]}"


def row_of(name: str, kind: Kind, say: bool) -> Row:
    row = Row()

    def note(what: str, outcome: Outcome, comparison: str) -> None:
        row.verdicts[outcome.kind or "read"] += 1
        row.added, row.seconds = max(row.added, outcome.added), max(row.seconds, outcome.seconds)
        if not outcome.kind:
            row.read["right" if comparison == "right" else comparison.partition(":")[0]] += 1
        if say or outcome.kind in FATAL or (not outcome.kind and comparison != "right"):
            print(f"    {name}, {what}: {outcome.kind or 'read'}: {outcome.detail}{comparison}", file=sys.stderr)

    with Sandbox(DEADLINE_S, MEMORY_BYTES) as sandbox, tempfile.TemporaryDirectory() as folder:
        good = Path(folder) / "good"
        good.mkdir()
        sample = kind.make(good).relative_to(good)
        outcome, comparison = judge(sandbox, name, good / sample)
        if outcome.kind or comparison != "right":
            raise RuntimeError(f"{name}: the good file: {outcome.kind} {outcome.detail} {comparison}")
        bad = Path(folder) / "bad"
        for harmed in kind.harmed or (str(sample),):
            for i, content in enumerate(damaged((good / harmed).read_bytes())):
                shutil.copytree(good, bad)
                (bad / harmed).write_bytes(content)
                note(f"{harmed} {i}", *judge(sandbox, name, bad / sample))
                shutil.rmtree(bad)
        for i, bomb in enumerate(kind.bombs):
            shutil.copytree(good, bad)
            bomb(bad)
            note(f"bomb {i}", *judge(sandbox, name, bad / sample, compare=False))
            shutil.rmtree(bad)
    return row


def main() -> int:
    say, words = "--say" in sys.argv, [word for word in sys.argv[1:] if not word.startswith("--")]
    failed = 0
    print("| kind | damaged | named | read right | read otherwise | memory | slowest |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache  # what is known of DICOM files is kept there
        for name, kind in KINDS.items():
            if words and not any(word in name for word in words):
                continue
            try:
                row = row_of(name, kind, say)
            except ImportError as error:
                print(f"left out: {name}: {error}", file=sys.stderr)
                continue
            except Exception as error:  # noqa: BLE001 what makes the files may fail; the next kind is still to be run
                print(f"failed: {name}: {error!r}"[:600], file=sys.stderr)
                failed += 1
                continue
            count, read, right = row.verdicts.total(), row.verdicts["read"], row.read["right"]
            fatal = [f"{row.verdicts[kind]} {kind}" for kind in FATAL if row.verdicts[kind]]
            failed += len(fatal)
            named = ", ".join([f"{count - read}", *fatal])
            cells = [name, f"{count}", named, f"{right}", f"{read - right}", f"{row.added / 1e6:.1f} MB"]
            print(f"| {' | '.join(cells)} | {row.seconds:.1f} s |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
