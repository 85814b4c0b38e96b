"""What can go wrong, by who has to act: the user (exit 2), the run (exit 1), or nobody (one bad file)."""

import errno
import signal
from collections.abc import Mapping, Sequence
from os import fsdecode
from typing import Any

NAMED = 5
"""Names in a message, which stays one line."""

ALIKE = 3
"""Files named of one reason."""


class UserError(Exception):
    """The input is wrong: one line saying what, where, what was expected, what to do. Exit code 2.

    >>> import mae_ext
    >>> try:
    ...     mae_ext.load_encoder("runs/none")
    ... except mae_ext.UserError as error:
    ...     print(error)
    runs/none: no such file or folder; expected a run, or weights of another program
    """


class ConfigError(UserError):
    """A configuration that cannot mean anything: the key, its value and what was wanted. A UserError.

    >>> import mae_ext
    >>> try:
    ...     mae_ext.load_config("image_folder", ["train.epochss=3"])
    ... except mae_ext.ConfigError as error:
    ...     print(error)  # doctest: +ELLIPSIS
    /...image_folder.yaml: train.epochss: unknown key, did you mean 'epochs'? (known: epochs, steps, ...)
    """


class NothingToRead(UserError):
    """A source that holds nothing of what a reader takes. path: of the source. suffixes: the reader's. A UserError."""

    def __init__(self, path: str, suffixes: Sequence[str], message: str) -> None:
        super().__init__(path, suffixes, message)
        self.path, self.suffixes = path, tuple(suffixes)

    def __str__(self) -> str:
        return str(self.args[2])


class WrongShape(UserError, ValueError):
    """A tensor that a model was not made for: its shape, and what was expected. A UserError and a ValueError.

    >>> import mae_ext, torch
    >>> model = mae_ext.MAE.from_config(mae_ext.load_config("image_folder", ["model.size=tiny"]))
    >>> try:
    ...     model.encode(torch.rand(1, 3, 100, 224))
    ... except mae_ext.WrongShape as error:
    ...     print(error)  # doctest: +ELLIPSIS
    modality 'image': size [100, 224] is not a multiple of patch [16, 16] on axis 0 (100 / 16); crop or pad ...
    """


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or does not belong to this model. A UserError.

    >>> import mae_ext, pathlib
    >>> pathlib.Path("runs/empty").mkdir(parents=True)
    >>> try:
    ...     mae_ext.load_encoder("runs/empty")
    ... except mae_ext.CheckpointError as error:
    ...     print(error)  # doctest: +ELLIPSIS
    runs/empty holds no weights; expected one of model.safetensors, ..., or a run with checkpoints/
    """


class RunError(Exception):
    """A run that had to stop: non-finite loss, too many bad files, a dead rank. Exit code 1.

    >>> from mae_ext import RunError, UserError
    >>> issubclass(RunError, UserError)  # what the user can mend by typing something else is no RunError
    False
    """


class StoreError(RunError):
    """What samples lie in cannot be read now, or is not what was listed: no file is to blame for it."""


class Passing(RunError):
    """A RunError that a start again may mend: a rank that died or hung, a meeting that failed, a disk that was full.

    Launchers that restart (torchrun) do so after these, and after no other RunError.
    """


class BadSample(Exception):
    """One file that cannot be used. The loader replaces it, writes it to the ledger, and counts it.

    `kind` is a short, stable word ("truncated", "empty", "not an image", "too large"); `detail` says more.

    >>> from mae_ext import BadSample
    >>> print(BadSample("photos/1.jpg", "truncated", "30 of 400 bytes"))
    photos/1.jpg: truncated (30 of 400 bytes)
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


def reasons(bad: Sequence[object]) -> str:
    """Why files cannot be used, the most frequent reason first, with the first files of each and the detail of one:
    "18 truncated (such as a.png: 30 of 400 bytes; b.png, c.png), 2 ...".

    bad: rows as a ledger has them, {"path", "kind", "detail"}, or BadSample; anything else is named as it is. One line.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for one in bad:
        row = one.row if isinstance(one, BadSample) else one
        if not isinstance(row, Mapping):
            return some(bad, "; ")
        kinds.setdefault(str(row["kind"]), []).append(row)
    clauses = []
    for kind, rows in sorted(kinds.items(), key=lambda kind: -len(kind[1])):
        detail = " ".join(str(rows[0].get("detail") or "").split())
        others = ", ".join(str(row["path"]) for row in rows[1:ALIKE])
        one = f"{rows[0]['path']}{f': {detail}' * bool(detail)}{f'; {others}' * bool(others)}"
        clauses.append(f"{len(rows)} {kind} (such as {one})")
    return some(clauses)


def check_bad(bad: Sequence[object], total: int, allowed: float, source: str) -> None:
    """Raises NoneUsable, a RunError with the reasons, when more than a share `allowed` of a source cannot be used.

    bad: as reasons takes it.
    """
    if len(bad) > allowed * total:
        rows = [one.row if isinstance(one, BadSample) else one for one in bad]
        raise NoneUsable(
            f"{source}: {len(bad)} of {total} samples cannot be used, more than max_bad_fraction={allowed:g}: "
            f"{reasons(bad)}",
            [{"modality": source, **row} for row in rows if isinstance(row, dict)],
        )


class _OfFiles(Exception):
    """An end that files are to blame for. bad: their rows, as a ledger has them."""

    def __init__(self, message: str, bad: Sequence[dict[str, Any]]) -> None:
        super().__init__(message, bad)
        self.bad = list(bad)

    def __str__(self) -> str:
        return str(self.args[0])


class NoneUsable(_OfFiles, RunError):
    """So many files are bad, in a row or of a source, that there is no going on."""


class NoneMeasurable(_OfFiles, UserError):
    """All files that were tried are bad before anything was trained."""


def death_of(who: str, code: int | None, deadline_s: float) -> tuple[str, str]:
    """(kind, detail) of the BadSample over which a child process ended: by itself, by its own alarm, or killed.

    code: as multiprocessing and subprocess have it, a signal's number below 0; None where it is not known.
    """
    if code is None or code >= 0:
        return "crashed", f"{who} ended with exit code {code}"
    if -code == signal.SIGALRM:
        return "hung", f"no answer within {deadline_s:g} s"
    return "crashed", f"{who} was killed by {signal.Signals(-code).name}"


REMEDIES = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room, or have it raised",
    errno.EROFS: "it is mounted read-only: choose a place that can be written to",
    errno.EACCES: "permission is denied: change the permissions, or choose another place",
    errno.EPERM: "permission is denied: change the permissions, or choose another place",
    errno.EIO: "the disk reports an error: look into the system's log, and mend it",
    errno.ESTALE: "the network file system lost the file: see whether it is mounted",
    errno.EMFILE: "this process may open no more files: raise the limit (ulimit -n 4096), or lower train.workers",
    errno.ENFILE: "the system may open no more files: close other programs, or raise fs.file-max",
    errno.EAGAIN: "the system starts no more processes: raise the limit (ulimit -u), or lower train.workers",
    errno.ENOMEM: "the system has no more memory: lower train.workers or train.prefetch",
    errno.ENOENT: "it is not there (any more): see whether something removed it",
}
"""What the operating system's refusals mean, and what to do."""


def of_the_process(error: OSError) -> bool:
    """Whether it is about what this process may have, and not about the file that it happened to be opening."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def cause_of(error: OSError) -> str:
    """One line: the file it was about, where that is known, what the system says, and what to do."""
    names = [fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    where = "" if of_the_process(error) else "".join(f"{name}: " for name in names[:1])
    return f"{where}{error.strerror or error}" + (f" ({remedy})" if (remedy := REMEDIES.get(error.errno or 0)) else "")


class Stopped(Exception):
    """Stopped by a signal after saving. Exit code 75.

    agreed: whether all ranks met over it. Where not, it may be a launcher that ends what is left of a broken group.
    """

    def __init__(self, message: str, agreed: bool = True) -> None:
        super().__init__(message)
        self.agreed = agreed


class NonFinite(Exception):
    """A loss or a gradient that is NaN or infinite; nothing was updated by it.

    given_up: with fp16, where the loss is finite and a gradient is not: updates skipped in a row, this one included,
    and the scale.
    """

    def __init__(
        self, step: int, losses: dict[str, float], grad_norm: float, culprits: list[str],
        given_up: tuple[int, float] | None = None,
    ) -> None:  # fmt: skip
        message = f"losses {losses}, gradient norm {grad_norm}"
        if given_up is not None:
            message += (
                f": fp16's loss scaler has skipped {given_up[0]} updates in a row and is down to a scale of "
                f"{given_up[1]:g}, so the gradients are not finite by themselves; train.precision=bf16 or fp32 shows "
                f"whether it is fp16's range"
            )
        super().__init__(message)
        self.step = step
        self.record: dict[str, Any] = {
            "step": step,
            "told": message,
            "losses": losses,
            "grad_norm": grad_norm,
            "nonfinite_gradients": culprits,
        }
        if given_up is not None:
            self.record |= {"skipped_in_a_row": given_up[0], "loss_scale": given_up[1]}
