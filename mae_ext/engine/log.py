"""What a run says of itself: words, journals of JSON lines, and a line on the terminal."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mae_ext.engine.checkpoint import write_durably
from mae_ext.engine.failpoint import reach
from mae_ext.strict_json import dumps

console = Console(stderr=True, emoji=False)  # ":b:" is part of a name


def say(message: str) -> None:
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    say(f"warning: {message}")


@contextlib.contextmanager
def bar(what: str, shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """A callback (done, total) that draws a bar on a terminal, and nothing elsewhere."""
    with Progress(console=console, transient=True, disable=not (shown and sys.stderr.isatty())) as drawn:
        task = drawn.add_task(what, total=None)
        yield lambda done, total: drawn.update(task, completed=done, total=total)


@contextlib.contextmanager
def announced(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A phase of a run: a line that it begins, and a bar on a terminal."""
    say(what)
    with bar("") as progress:
        yield progress


def rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The whole rows of a JSONL file up to and including `step`; a line cut off by a kill is dropped."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and row.get("step", step + 1) <= step:
                rows.append(row)
    return rows


class Journal:
    """A JSONL file that continues exactly after `step`: rows beyond it will be written again, to the same bits."""

    def __init__(self, path: Path, step: int) -> None:
        self.rows = rows_until(path, step)
        if path.exists():
            write_durably(path, "".join(dumps(row) + "\n" for row in self.rows))
        self.path, self.pending, self.late = path, b"", False
        self.file = path.open("ab", buffering=0)

    def write(self, row: dict[str, Any]) -> None:
        """A full disk loses no row: what could not be written goes first the next time."""
        self.pending += dumps(row).encode() + b"\n"
        try:
            self.flush()
        except OSError as error:
            if not self.late:
                warn(f"{self.path}: {error.strerror}; its rows are kept in memory until they can be written")
            self.late = True

    def sync(self) -> None:
        """Everything is on the disk, or OSError. A checkpoint must not be ahead of the rows that led to it."""
        self.flush()
        self.settle()

    def settle(self) -> None:
        """What was flushed is on the disk, or OSError; on any thread, while rows are written on another."""
        reach("journal.fsync")
        os.fsync(self.file.fileno())
        reach("journal.fsynced")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.flush()
        self.file.close()

    def flush(self) -> None:
        """Every row is handed to the system, or OSError."""
        reach("journal.write")
        while self.pending:
            self.pending = self.pending[self.file.write(self.pending) :]
        self.late = False
        reach("journal.written")


class Terminal:
    """A live line on a terminal; without one, a plain line now and then."""

    def __init__(self, total: int, start: int) -> None:
        self.total, self.every = total, max(1, total // 20)
        self.live = sys.stderr.isatty()
        self.progress = Progress(
            TextColumn("[bold]{task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
        )
        self.progress.start()
        self.task: TaskID = self.progress.add_task("", total=total, completed=start, text="")

    def show(self, row: dict[str, Any]) -> None:
        text = (
            f"loss {row['loss']:.4f}{_by_modality(row)}  {row['samples_per_s']:.0f} samples/s  "
            f"waiting for data {100 * row['data_wait'] / max(row['seconds'], 1e-9):.0f} %{_use(row)}"
        )
        self.progress.update(self.task, completed=row["step"], text=text)
        if not self.live and (row["step"] % self.every == 0 or row["step"] == self.total):
            say(f"step {row['step']}/{self.total}  {text}")

    def close(self) -> None:
        self.progress.stop()


def _use(row: dict[str, Any]) -> str:
    """Of the device: its share of what it can do, or the arithmetic that it did."""
    share = f"  MFU {100 * row['mfu']:.0f} %" if "mfu" in row else ""
    done = f"  {row['tflops']:.3g} TFLOP/s" if row.get("tflops", 0.0) >= 0.01 and not share else ""
    return share + done + (f"  {row['memory']:.1f} GiB" if "memory" in row else "")


def _by_modality(row: dict[str, Any]) -> str:
    each = [f"{key.removeprefix('loss/')} {value:.4f}" for key, value in row.items() if key.startswith("loss/")]
    return f" ({', '.join(each)})" if each else ""
