"""bad_samples.jsonl: every file that could not be used, of all ranks, and the end of a run that has met too many."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import ModalityData
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import Journal, rows_until, warn
from mae_ext.errors import RunError, reasons, some

NAME = "bad_samples.jsonl"


class Ledger:
    """One line for each bad file when it is first met, by whichever rank; on rank 0, which hears of the others' files.

    Every rank knows them all, in the order in which one process would meet them. So at the same global batch a run has
    the same ledger for any number of ranks, and stops at the same step.
    """

    def __init__(self, out: Path, step: int, ranks: Ranks) -> None:
        self.out, self.ranks = out, ranks
        self.journal = Journal(out / NAME, step) if ranks.main else None
        self.news: list[dict[str, Any]] = []
        self.known: dict[tuple[str, str], dict[str, Any]] = {}
        # What other ranks left in ledgers of their own: the last words of one that had to end alone.
        others = sorted(out.glob("bad_samples.*.jsonl")) if self.journal else []
        left = [row for file in others for row in rows_until(file, step)]
        for row in ranks.from_main([*self.journal.rows, *left] if self.journal else []):
            if self.known.setdefault(_file(row), row) is row and self.journal and row not in self.journal.rows:
                self.journal.write(row)
        if self.journal and others:
            self.journal.sync()  # before they go
            for file in others:
                file.unlink()

    def note(self, step: int, parts: Sequence[Mapping[str, Batch]]) -> bool:
        """Whether this rank met a bad file, in the parts of a step, that nobody has met so far."""
        self._note(step, [row for batches in parts for batch in batches.values() for row in batch.bad])
        return bool(self.news)

    def _note(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        noted = {_file(row) for row in self.news}
        for row in rows:
            if _file(row) not in self.known and _file(row) not in noted:
                noted.add(_file(row))
                self.news.append({"step": step, **row})

    def share(self, config: Config, data: Mapping[str, ModalityData], step: int) -> None:
        """All ranks' news of `step` become known to all. Raises RunError on all of them when that makes too many.

        News of later steps, whose answers nobody has read yet, wait for their turn.
        """
        later = [row for row in self.news if row["step"] > step]
        everyone = [row for rows in self.ranks.gather([r for r in self.news if r["step"] <= step]) for row in rows]
        self._write(sorted(everyone, key=lambda row: list(data).index(row["modality"])))
        self.news = [row for row in later if _file(row) not in self.known]
        for name, d in data.items():
            self._stop_if_too_many(name, d)

    def last_words(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Of a rank that cannot go on, and waits for nobody. The error that ends the run says why of all of them."""
        self.journal = self.journal or Journal(self.out / f"bad_samples.{self.ranks.rank}.jsonl", step)
        self._note(step, rows)
        self._write(self.news, quietly=True)

    def _write(self, rows: Sequence[dict[str, Any]], quietly: bool = False) -> None:
        self.news = []
        for row in rows:
            if self.known.setdefault(_file(row), row) is row and self.journal:
                self.journal.write(row)
                if not quietly:
                    warn(f"bad file {row['path']}: {row['kind']}" + (f" ({row['detail']})" if row["detail"] else ""))

    def _stop_if_too_many(self, name: str, data: ModalityData) -> None:
        bad = sorted((row for row in self.known.values() if row["modality"] == name), key=lambda row: str(row["path"]))
        limit = data.config.data.max_bad_fraction
        if len(bad) > limit * len(data.items):
            raise RunError(
                f"modality '{name}': {len(bad)} of {len(data.items)} files are bad, and max_bad_fraction is {limit:g}: "
                f"{reasons(bad)}. {NAME} says why of each. Repair or remove them, or raise the limit with "
                f"--set modalities.{name}.data.max_bad_fraction=...:\n  "
                + some([f"{row['path']}: {row['kind']}" for row in bad], "\n  ", 20)
            )

    def close(self) -> None:
        if self.journal:
            self.journal.close()


def _file(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row["modality"]), str(row["path"])
