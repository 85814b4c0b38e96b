"""Scores on held-out data while a run trains, and whether there can be any, found before the first step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from mae_ext.config import Config, DataConfig
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.batches import ModalityData, build_reader
from mae_ext.data.sample import read_checked
from mae_ext.data.sources.meant import odd, opening
from mae_ext.data.sources.table import Items
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import Journal, say, warn
from mae_ext.engine.precision import as_evaluated
from mae_ext.engine.stop import HeedfulRanks, Interrupted, StopFlag
from mae_ext.engine.task import Task
from mae_ext.errors import BadSample, NoneMeasurable, check_bad, reasons

T = TypeVar("T")


class Evaluations:
    """evaluations.jsonl: the scores on held-out data, every so many steps and at the end. On rank 0.

    Made after the save of its step, so that a signal ends one at once; a run that goes on from a step whose row is
    missing makes it first.
    """

    def __init__(self, out: Path, step: int, every: int | None, total: int, ranks: Ranks) -> None:
        self.path, self.step, self.every, self.total, self.ranks = out / "evaluations.jsonl", step, every, total, ranks
        self.journal = Journal(self.path, step) if ranks.main and self.path.exists() else None
        self.done = ranks.from_main({row["step"] for row in self.journal.rows} if self.journal else set())

    def due(self, step: int) -> bool:
        regular = self.every is not None and step % self.every == 0
        return step > 0 and (regular or step == self.total) and step not in self.done

    def write(self, step: int, scores: dict[str, float]) -> None:
        """Nothing, not even a file, where there are no scores: without data.test."""
        if self.ranks.main and scores:
            self.journal = self.journal or Journal(self.path, self.step)
            self.journal.write({"step": step, **scores})
            say(f"step {step}/{self.total}  held out: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))

    def close(self) -> None:
        if self.journal:
            self.journal.close()


def evaluate(
    task: Task, model: nn.Module, config: Config, data: dict[str, ModalityData], ranks: Ranks, stop: StopFlag
) -> dict[str, float]:
    """What the task scores. Raises Interrupted, on all ranks, when a signal reaches one of them."""
    heedful = HeedfulRanks(ranks.rank, ranks.world, ranks.device, ranks.waiting, stop)
    model.eval()
    try:
        with as_evaluated(model, config), stop.interrupts():
            scores = task.evaluate(model, config, data, heedful)
    except Interrupted:
        heedful.part(left=True)
        raise
    heedful.part(left=False)
    model.train()
    return scores


def of_all_ranks(
    ranks: Ranks, mine: list[tuple[int, T]], bad: list[Any], total: int, source: DataConfig
) -> tuple[list[tuple[int, T]], list[Any]]:
    """What each rank made of its share (by place) -> what all made, and what none could read. source: of data.test.

    In the order of places, so that sums are the same for any number of ranks. total: samples of all ranks. Raises
    NoneUsable where more of them are bad than data.max_bad_fraction allows.
    """
    shares = ranks.gather((mine, bad))
    unusable = [one for _, share in shares for one in share]
    check_bad(unusable, total, source.max_bad_fraction, str(source.test))
    return sorted((one for share, _ in shares for one in share), key=lambda one: one[0]), unusable


def announce(data: Mapping[str, ModalityData]) -> None:
    """Says what will be trained on, before anything is measured of it, and what of that can hardly be meant."""
    for name, one in data.items():
        path = str(one.config.data.path)
        say(opening(one.items, path, name))
        for remark in odd(one.items, path):
            warn(remark)
        if summary := getattr(one.examples, "summary", None):
            say(f"{name}: {summary}")


def check_held_out(config: Config, data: Mapping[str, ModalityData]) -> None:
    """Raises UserError, with the reasons, where none of the samples of a modality's data.test can be read."""
    for name, m in config.modalities.items():
        held_out = data[name].held_out
        if m.data.test is not None and held_out is not None:
            say(opening(held_out.listed, m.data.test, name, ", to be judged on"))
            require_readable(config, name, held_out.listed, m.data.test)


def require_readable(config: Config, name: str, items: Items, source: str) -> None:
    """Reads samples, as evaluation sees them, until one is good. Raises UserError when none is."""
    modality = config.modalities[name]
    reader = build_reader(modality, f"modalities.{name}.data.reader")
    crop = evaluation_sampler(modality.data.augment, modality.size)
    bad: list[BadSample] = []
    for index in range(len(items)):
        try:
            read_checked(reader, items.addresses[index], [crop])
        except BadSample as error:
            bad.append(error)
            continue
        return
    raise NoneMeasurable(
        f"{source}: none of its {len(items)} samples can be read, and nothing can be judged: {reasons(bad)}",
        [{"modality": name, **error.row} for error in bad],
    )
