"""From files to batches: a batch is a function of (config, step), whoever makes it."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch

from mae_ext import plugins
from mae_ext.config import ModalityConfig
from mae_ext.data.batch import Batch
from mae_ext.data.crops import crop_sampler
from mae_ext.data.loading.examples import Examples, HeldOut
from mae_ext.data.plan import Key, Plan
from mae_ext.data.room import stacked
from mae_ext.data.sample import Reader, Sample, read_checked, stack_as_stored, stack_valid
from mae_ext.data.sources.table import list_items
from mae_ext.data.stages import stage
from mae_ext.errors import BadSample, NoneUsable, RunError, UserError, cause_of, of_the_process, reasons
from mae_ext.model.grid import patches
from mae_ext.model.mask import Mask, draw_mask
from mae_ext.model.modality import build_maskers
from mae_ext.rng import rng

MAX_SUBSTITUTES = 100
"""Files in a row that may fail before the run stops: by then it is not the files."""


def build_reader(modality: ModalityConfig, where: str) -> Reader:
    spec = modality.data.reader
    reader: Reader = plugins.readers.build(
        spec.name, spec.arguments, where, size=modality.size, channels=modality.channels
    )
    return reader


class ModalityData:
    """The files of one modality and the way from a key to a sample. Picklable: workers get a copy.

    examples: the task's own reading; None is pretraining's, whose answers are the hidden patches. held_out: what the
    run is judged on, if anything, which no worker gets. masked: whether batches have masks although there are examples,
    as where a task reconstructs beside its labels. A step's samples are those of rank `rank` of `world`. Raises
    UserError where the config names no files, or files that cannot be listed.

    >>> import mae_ext, numpy
    >>> numpy.savez("grey.npz", train_images=numpy.zeros((8, 16, 16), "uint8"))
    >>> config = mae_ext.load_config(
    ...     "image_folder", ["modalities.image.data.path=grey.npz", "modalities.image.channels=1"]
    ... )
    >>> data = mae_ext.ModalityData(config.seed, "image", config.modalities["image"])
    >>> len(data.items), data.items.addresses[7]
    (8, 'grey.npz::train_images::7')
    """

    def __init__(
        self,
        seed: int,
        name: str,
        config: ModalityConfig,
        rank: int = 0,
        world: int = 1,
        examples: Examples | None = None,
        held_out: HeldOut | None = None,
        masked: bool = False,
    ) -> None:
        where = f"modalities.{name}"
        if config.data.path is None:
            raise UserError(f"{where}.data.path is not set: give --data PATH")
        self.seed, self.name, self.config = seed, name, config
        self.examples, self.held_out, self.masked = examples, held_out, masked or examples is None
        self.reader = build_reader(config, f"{where}.data.reader")
        self.items = list_items(config.data.path, self.reader.suffixes) if examples is None else examples.items
        try:
            self.plan = Plan(seed, name, len(self.items), config.batch, config.data.repeats, rank, world)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        self.masker, self.decode = build_maskers(config, where)
        self.quarantined: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "held_out": None}

    def read(self, index: int, keys: list[Key]) -> list[Sample]:
        """All views of one file that the keys ask for. Raises BadSample."""
        address = self.items.addresses[index]
        if index in self.quarantined:
            raise BadSample(address, self.quarantined[index], "set aside after it brought workers down")
        augment, size = self.config.data.augment, self.config.size
        crops = [
            crop_sampler(augment, size, rng(self.seed, "augment", self.name, key.epoch, index, key.repeat))
            for key in keys
        ]
        if self.examples is not None:
            return self.examples.read(index, keys, crops)
        return read_checked(self.reader, address, crops, (self.config.channels, *size), as_stored=True)

    def read_or_replace(self, keys: list[Key], bad: list[dict[str, Any]]) -> tuple[int, list[Sample]]:
        """The file and what is read of it; a bad one goes into `bad`, and the next of the permutation stands in."""
        for attempt, index in enumerate(self.plan.candidates(keys[0])):
            if attempt == MAX_SUBSTITUTES:
                break
            try:
                return index, self.read(index, keys)
            except BadSample as error:
                if isinstance(error.__cause__, OSError) and of_the_process(error.__cause__):
                    raise RunError(cause_of(error.__cause__)) from error  # which is not the file's fault
                bad.append({"modality": self.name, **error.row})
        unusable = list({row["path"]: row for row in bad}.values())
        raise NoneUsable(
            f"modality '{self.name}': {len(unusable)} files in a row could not be used: {reasons(unusable)}. "
            f"bad_samples.jsonl says why of each",
            unusable,
        )

    def keys(self, step: int, part: int = 0, parts: int = 1) -> tuple[list[Key], slice]:
        """What is read for one of the equal parts of this rank's batch in `step`, and which of it are the part's rows.

        More than the part where its ends lie within neighbours that `Examples.finish` has to see together.
        """
        keys = self.plan.keys(step)
        size, together = len(keys) // parts, getattr(self.examples, "together", 1)
        start, stop = part * size, (part + 1) * size
        first = start - start % together
        return keys[first : stop + -stop % together], slice(start - first, stop - first)

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """What this rank trains on in `step`, or one of its equal parts: the same rows, whoever makes which of them."""
        keys, rows = self.keys(step, part, parts)
        bad: list[dict[str, Any]] = []
        samples: list[Sample] = []
        files: list[int] = []
        for _, group in groupby(keys, key=lambda key: (key.epoch, key.place)):
            with stage("decode"):
                file, views = self.read_or_replace(list(group), bad)
            samples += views
            files += [file] * len(views)
        x, levels, spacing = stack_as_stored(samples)
        batch = Batch(
            x=x,
            levels=levels,
            mask=self._mask(step, keys, samples) if self.masked else None,
            valid=stack_valid(samples),
            spacing=spacing,
            files=torch.tensor(files),
            sources=[s.source for s in samples],
            bad=bad,
            targets={name: stacked([s.targets[name] for s in samples]) for name in samples[0].targets},
        )
        if self.examples is not None:
            batch = self.examples.finish(batch, keys, step)
        return batch if len(keys) == rows.stop - rows.start else replace(batch.rows(rows.start, rows.stop), bad=bad)

    def _mask(self, step: int, keys: list[Key], samples: list[Sample]) -> Mask:
        def generators(kind: str) -> list[torch.Generator]:
            return [rng(self.seed, kind, self.name, step, key.slot) for key in keys]

        shares = [valid_share(sample, self.config.patch) for sample in samples]
        of_decode = generators("decode") if self.decode else None
        return draw_mask(self.masker, self.decode, self.config.grid, generators("mask"), shares, of_decode)


def valid_share(sample: Sample, patch: tuple[int, ...]) -> torch.Tensor | None:
    """-> (*grid) share of each patch where the loss counts, or None where it counts everywhere."""
    if sample.valid is None:
        return None
    return patches(sample.valid[None].float(), patch)[0].flatten(len(patch)).mean(-1)


class StepData:
    """step -> its parts (`train.accumulate` of them), each a batch for each modality. A pure function of its arguments.

    What is made at a time, by a worker or here, is a part: no process has to hold a rank's whole batch.
    """

    def __init__(self, modalities: Mapping[str, ModalityData], accumulate: int = 1) -> None:
        self.modalities, self.accumulate = dict(modalities), accumulate

    def part(self, step: int, part: int) -> dict[str, Batch]:
        return {name: data.batch(step, part, self.accumulate) for name, data in self.modalities.items()}

    def unit(self, number: int) -> dict[str, Batch]:
        """The parts of all steps, counted through: part p of step s is number s * accumulate + p."""
        return self.part(*divmod(number, self.accumulate))

    def __getitem__(self, step: int) -> list[dict[str, Batch]]:
        return [self.part(step, part) for part in range(self.accumulate)]
