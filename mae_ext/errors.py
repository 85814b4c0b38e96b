"""What can go wrong, by who has to act: the user (exit 2), the run (exit 1), or nobody (one bad file)."""

from collections.abc import Sequence

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


class BadSample(Exception):
    """One file that cannot be used. The loader replaces it, writes it to the ledger, and counts it.

    `kind` is a short, stable word ("truncated", "empty", "not an image", "too large"); `detail` says more.
    """

    def __init__(self, path: str, kind: str, detail: str = "") -> None:
        super().__init__(path, kind, detail)
        self.path, self.kind, self.detail = path, kind, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


def some(things: Sequence[object], between: str = ", ", most: int = NAMED) -> str:
    """The first few, and how many more there are."""
    rest = len(things) - most
    return between.join([*map(str, things[:most]), *([f"and {rest} more"] if rest > 0 else [])])


def check_bad(bad: Sequence[object], total: int, allowed: float, source: str) -> None:
    """Raises RunError, naming files, when more than a share `allowed` of a source cannot be used."""
    if len(bad) > allowed * total:
        raise RunError(
            f"{source}: {len(bad)} of {total} samples cannot be used, more than max_bad_fraction={allowed:g}: "
            f"{some(bad, '; ')}"
        )
