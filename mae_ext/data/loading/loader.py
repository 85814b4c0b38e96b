"""From steps to batches, whatever files and workers do.

A bad file is replaced by the next of the same permutation and reported. A worker that dies or hangs costs time, never
data: its batches are made again, to the same bits, because a batch is a function of (config, step). A file that brings
workers down twice is found in a sandbox and set aside.
"""

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from multiprocessing import Pipe
from typing import Any, Protocol

import torch

from mae_ext import plugins
from mae_ext.config import Config, ModalityConfig
from mae_ext.data.crops import crop_sampler
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.loading.workers import Worker, WorkerLost
from mae_ext.data.plan import Key, Plan
from mae_ext.data.sample import Batch, CropSampler, Reader, Sample, read_checked, stack, stack_optional
from mae_ext.data.sources.table import Items, list_items
from mae_ext.errors import BadSample, NoneUsable, RunError, UserError, cause_of, of_the_process, reasons
from mae_ext.model.grid import patches
from mae_ext.model.mask import Mask, draw_mask
from mae_ext.model.modality import build_maskers
from mae_ext.rng import rng

POLL_S = 0.2
"""How often a silent worker is looked at. Only a batch that is late pays it."""

MAX_SUBSTITUTES = 100
"""Files in a row that may fail before the run stops: by then it is not the files."""


def build_reader(modality: ModalityConfig, where: str) -> Reader:
    spec = modality.data.reader
    reader: Reader = plugins.readers.build(
        spec.name, spec.arguments, where, size=modality.size, channels=modality.channels
    )
    return reader


class Examples(Protocol):
    """Files with answers: what a task that is not pretraining reads. Picklable; a function of (config, key) alone.

    items: the files to train on. identity: whatever of the answers is not in the files' names (labels, say), for the
    comparison that a resume makes. They may have `told`, a line on their answers that is said at the start.

    >>> import dataclasses, numpy, torch, mae_ext
    >>> class Brightness:  # the answer is the mean of what is seen
    ...     identity = b"brightness"
    ...
    ...     def __init__(self, reader, items):
    ...         self.reader, self.items = reader, items
    ...
    ...     def read(self, index, keys, crops):
    ...         samples = self.reader.read(self.items.addresses[index], crops)
    ...         return [dataclasses.replace(s, targets={"mean": s.x.float().mean()}) for s in samples]
    ...
    ...     def finish(self, batch, keys, step):
    ...         return batch
    >>> class Gives:
    ...     def read(self, address, crops):
    ...         return [mae_ext.Sample(torch.ones(1, 4, 4), address) for _ in crops]
    >>> examples = Brightness(Gives(), mae_ext.Items(["a", "b"]))
    >>> examples.read(1, keys=[None], crops=[None])[0].targets
    {'mean': tensor(1.)}
    """

    items: Items
    identity: bytes

    def read(self, index: int, keys: Sequence[Key], crops: Sequence[CropSampler]) -> list[Sample]:
        """One sample, with its targets, for each crop of one file. Raises BadSample.

        A crop applied twice gives the same box, so an answer that is a picture itself is cut by the same one.
        """
        ...

    def finish(self, batch: Batch, keys: Sequence[Key], step: int) -> Batch:
        """What is done to a rank's whole batch, once, before it is cut for accumulation: mixup, say. Or nothing."""
        ...


class ModalityData:
    """The files of one modality and the way from a key to a sample. Picklable: workers get a copy.

    examples: the task's own reading; None is pretraining's, whose answers are the hidden patches. A step's samples are
    those of rank `rank` of `world`. Raises UserError where the config names no files, or files that cannot be listed.

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
    ) -> None:
        where = f"modalities.{name}"
        if config.data.path is None:
            raise UserError(f"{where}.data.path is not set: give --data PATH")
        self.seed, self.name, self.config, self.examples = seed, name, config, examples
        self.reader = build_reader(config, f"{where}.data.reader")
        self.items = list_items(config.data.path, self.reader.suffixes) if examples is None else examples.items
        try:
            self.plan = Plan(seed, name, len(self.items), config.batch, config.data.repeats, rank, world)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        self.masker, self.decode = build_maskers(config, where)
        self.quarantined: dict[int, str] = {}

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
        return read_checked(self.reader, address, crops, (self.config.channels, *size))

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

    def batch(self, step: int) -> Batch:
        """What this rank trains on in `step`."""
        keys = self.plan.keys(step)
        bad: list[dict[str, Any]] = []
        samples: list[Sample] = []
        files: list[int] = []
        for _, group in groupby(keys, key=lambda key: (key.epoch, key.place)):
            file, views = self.read_or_replace(list(group), bad)
            samples += views
            files += [file] * len(views)
        x, spacing = stack(samples)
        batch = Batch(
            x=x,
            mask=self._mask(step, keys, samples) if self.examples is None else None,
            valid=stack_optional([s.valid for s in samples], "valid"),
            spacing=spacing,
            files=torch.tensor(files),
            sources=[s.source for s in samples],
            bad=bad,
            targets={name: torch.stack([s.targets[name] for s in samples]) for name in samples[0].targets},
        )
        return batch if self.examples is None else self.examples.finish(batch, keys, step)

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
    """step -> one batch for each modality. A pure function of its arguments."""

    def __init__(self, modalities: Mapping[str, ModalityData]) -> None:
        self.modalities = dict(modalities)

    def __getitem__(self, step: int) -> dict[str, Batch]:
        return {name: data.batch(step) for name, data in self.modalities.items()}


@dataclass
class Incident:
    """A worker that died or hung, for the log."""

    step: int
    what: str


class Loader:
    """Iterates steps start..stop; `waited` is the time in seconds that the last `next` spent waiting.

    A thread of its own keeps a few batches ready. incidents: workers that died or hung so far, for the log.
    """

    def __init__(self, data: StepData, config: Config, start: int, stop: int, device: torch.device) -> None:
        self.data, self.train, self.device = data, config.train, device
        self.next_step, self.stop_step = start, stop
        self.incidents: list[Incident] = []
        self.waited = 0.0
        self._ahead: dict[str, Batch] | None = None
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max(1, self.train.prefetch))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        return self

    def __next__(self) -> dict[str, Batch]:
        if self.next_step >= self.stop_step:
            raise StopIteration
        began = time.perf_counter()
        batch = self._ahead if self._ahead is not None else self._take(self._queue.get())
        self.waited = time.perf_counter() - began
        self._ahead = None
        self.next_step += 1
        if self.device.type != "cpu" and not self._queue.empty():
            # Sent one step early, so that the copy runs beside this step's kernels.
            self._ahead = self._take(self._queue.get())
        return batch

    def _take(self, made: Any) -> dict[str, Batch]:
        if isinstance(made, BaseException):
            raise made
        return {name: batch.to(self.device) for name, batch in made.items()}

    def close(self) -> None:
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.05)

    def _put(self, made: Any) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(made, timeout=0.2)
                return
            except queue.Full:
                continue

    def _produce(self) -> None:
        try:
            if self.train.workers == 0:
                for step in range(self.next_step, self.stop_step):
                    if self._closed.is_set():
                        return
                    self._put(self.data[step])
            else:
                self._produce_with_workers()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the batch is asked for
            self._put(error)

    def _produce_with_workers(self) -> None:
        """Step s is made by worker s mod n, which is asked for it `prefetch` turns ahead."""
        lifeline, kept_open = Pipe(duplex=False)
        count, next_asked = min(self.train.workers, self.stop_step - self.next_step), self.next_step
        workers = [Worker(self.data.__getitem__, lifeline) for _ in range(count)]

        def replace(which: int) -> None:
            owed = list(workers[which].owed)
            workers[which].end()
            workers[which] = Worker(self.data.__getitem__, lifeline)
            for step in owed:
                workers[which].ask(step)

        try:
            for step in range(self.next_step, self.stop_step):
                while next_asked < min(self.stop_step, step + count * self.train.prefetch):
                    workers[next_asked % count].ask(next_asked)
                    next_asked += 1
                made, failures = None, 0
                while made is None:
                    if self._closed.is_set():
                        return
                    try:
                        made = workers[step % count].answer(self.train.worker_timeout, POLL_S)
                    except WorkerLost as lost:
                        failures += 1
                        self.incidents.append(Incident(step, str(lost)))
                        if failures > 3:
                            raise RunError(f"step {step + 1}: {failures} workers failed on it: {lost}") from None
                        # All of them have to hear of a file that is set aside.
                        known = failures == 2 and self._quarantine(step)
                        for which in range(count) if known else [step % count]:
                            replace(which)
                self._put(self._pinned(made[0]))
        finally:
            for worker in workers:
                worker.end()
            lifeline.close()
            kept_open.close()

    def _pinned(self, batches: dict[str, Batch]) -> dict[str, Batch]:
        return {n: b.pin_memory() for n, b in batches.items()} if self.device.type == "cuda" else batches

    def _quarantine(self, step: int) -> bool:
        """Read each file of the batch in a sandbox, and set aside those that kill or hang it."""
        any_set_aside = False
        with Sandbox(deadline_s=min(30.0, self.train.worker_timeout)) as sandbox:
            for data in self.data.modalities.values():
                for key in data.plan.keys(step):
                    # And those that stand in for it where it is bad.
                    for index in islice(data.plan.candidates(key), MAX_SUBSTITUTES):
                        try:
                            sandbox.call(data.read, index, [key], name=data.items.addresses[index])
                            break
                        except BadSample as error:
                            if index not in data.quarantined and error.kind in ("hung", "crashed", "out of memory"):
                                data.quarantined[index] = error.kind
                                any_set_aside = True
        return any_set_aside
