"""What can go wrong, by who has to act: the user (exit 2), the run (exit 1), or nobody (one bad file)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

NAMED = 5
"""Names in a message, which stays one line."""


class UserError(Exception):
    """The input is wrong: one line saying what, where, what was expected, what to do. Exit code 2."""


class ConfigError(UserError):
    """A configuration that cannot mean anything: the key, its value and what was wanted."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or does not belong to this model."""


class RunError(Exception):
    """A run that had to stop: non-finite loss, too many bad files, a dead rank. Exit code 1."""


class NothingUsable(RunError):
    """Files in a row that could not be used, so many that it is not the files. bad: a ledger's rows, for the ledger."""

    def __init__(self, message: str, bad: list[dict[str, Any]]) -> None:
        super().__init__(message, bad)
        self.message, self.bad = message, bad

    def __str__(self) -> str:
        return self.message


class BadSample(Exception):
    """One file that cannot be used. The loader replaces it, writes it to the ledger, and counts it.

    `kind` is a short, stable word ("truncated", "empty", "not an image", "too large"); `detail` says more.
    """

    def __init__(self, path: str, kind: str, detail: str = "") -> None:
        super().__init__(path, kind, detail)
        self.path, self.kind, self.detail = path, kind, detail

    @property
    def row(self) -> dict[str, str]:
        """As a ledger has it."""
        return {"path": self.path, "kind": self.kind, "detail": self.detail}

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


def some(things: Sequence[object], between: str = ", ", most: int = NAMED) -> str:
    """The first few, and how many more there are."""
    rest = len(things) - most
    return between.join([*map(str, things[:most]), *([f"and {rest} more"] if rest > 0 else [])])


def reasons(bad: Sequence[Mapping[str, Any]]) -> str:
    """Why files cannot be used: "18 truncated (such as a.png: 30 of 400 bytes), 2 empty (such as b.png: 0 bytes)".

    bad: rows as a ledger has them, {"path", "kind", "detail"}. One line.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for row in bad:
        first.setdefault(str(row["kind"]), row)
    told = []
    for kind, count in Counter(str(row["kind"]) for row in bad).most_common():
        detail = " ".join(str(first[kind].get("detail") or "").split())
        told.append(f"{count} {kind} (such as {first[kind]['path']}{f': {detail}' * bool(detail)})")
    return some(told)


def check_bad(bad: Sequence[object], total: int, allowed: float, source: str) -> None:
    """Raises RunError, naming files, when more than a share `allowed` of a source cannot be used."""
    if len(bad) > allowed * total:
        raise RunError(
            f"{source}: {len(bad)} of {total} samples cannot be used, more than max_bad_fraction={allowed:g}: "
            f"{some(bad, '; ')}"
        )
