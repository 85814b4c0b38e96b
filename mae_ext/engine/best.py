"""The checkpoint that is best on held-out data: which one that is, and that it stays while others go."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, TypeGuard

from mae_ext.config import Config
from mae_ext.engine.checkpoint import BEST, verify, write_durably
from mae_ext.engine.commit import prune
from mae_ext.engine.log import Journal, warn
from mae_ext.engine.task import chief_of
from mae_ext.errors import CheckpointError, cause_of
from mae_ext.strict_json import dumps


class Best:
    """`OUT/best.json`: {"step", "checkpoint", SCORE} of the best one, by the task's chief score. On rank 0.

    A step is judged after it is saved. Its row of evaluations.jsonl is on the disk before best.json names it, and that
    before the best one until then may go; so a run killed anywhere has both, and one that goes on finds the best in the
    rows. Of equals the first stays.
    """

    def __init__(self, config: Config, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """rows: of evaluations.jsonl, until the step that the run goes on from."""
        self.chief, self.out, self.keep = chief_of(config), out, config.train.keep
        values = {int(row["step"]): v for row in rows if _is_score(v := row.get(self.chief.score))}
        ranked = sorted(values, key=lambda s: (-values[s] if self.chief.best == "most" else values[s], s))
        self.step = next((step for step in ranked if self._is_whole(step)), 0)
        self.value = values.get(self.step, float("nan"))
        if self.step:
            if ranked[0] != self.step:
                lost = f"step {ranked[0]} ({self.chief.score} {values[ranked[0]]:.4f})"
                warn(f"{lost} was the best, and its checkpoint was not kept: of those left it is {self._named()}")
            self._note()
        else:
            (out / BEST).unlink(missing_ok=True)

    def judge(self, step: int, scores: Mapping[str, float], journal: Journal, whole: Path | None) -> None:
        """Of a step that is saved. What cannot be kept or noted is a warning, and the one before stays the best.

        whole: a checkpoint that was read back when it was written.
        """
        value = scores.get(self.chief.score)
        if not _is_score(value):
            warn(f"step {step} is not judged: its {self.chief.score} is {value}; the best stays as it was")
        elif not self.step or self.chief.better(value, self.value):
            before = self.step, self.value
            self.step, self.value = step, value
            try:
                if whole != self.checkpoint:
                    verify(self.checkpoint)
                journal.sync()
                self._note(whole)
            except (OSError, CheckpointError) as error:
                cause = cause_of(error) if isinstance(error, OSError) else error
                warn(f"step {step} is the best so far, and cannot be kept as such: {cause}")
                self.step, self.value = before

    @property
    def checkpoint(self) -> Path:
        return self._at(self.step)

    def __str__(self) -> str:
        """The end of a run's last sentence; empty where nothing was judged."""
        return f"; best on held-out data: {self._named()}, kept as {self.checkpoint}" if self.step else ""

    def _named(self) -> str:
        return f"step {self.step} ({self.chief.score} {self.value:.4f})"

    def _note(self, whole: Path | None = None) -> None:
        row = {"step": self.step, "checkpoint": self.checkpoint.name, self.chief.score: self.value}
        write_durably(self.out / BEST, dumps(row) + "\n")
        prune(self.out / "checkpoints", self.keep, whole)

    def _at(self, step: int) -> Path:
        return self.out / "checkpoints" / f"step-{step:08d}"

    def _is_whole(self, step: int) -> bool:
        try:
            verify(self._at(step))
        except CheckpointError:
            return False
        return True


def _is_score(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
