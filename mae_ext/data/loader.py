"""From steps to batches, whatever files and workers do.

A bad file is replaced by the next of the same permutation and reported. A worker that dies or hangs costs time, never
data: its batches are made again, to the same bits, because a batch is a function of (config, step). A file that brings
workers down twice is found in a sandbox and set aside.
"""

import fcntl
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mae_ext import plugins
from mae_ext.config import Config, ModalityConfig
from mae_ext.data.augment import crop_sampler
from mae_ext.data.plan import Key, Plan
from mae_ext.data.sample import Batch, Reader, Sample, read_checked
from mae_ext.data.sandbox import Sandbox, forkserver
from mae_ext.data.source import Items, list_items
from mae_ext.errors import BadSample, RunError, UserError
from mae_ext.model.grid import patches
from mae_ext.model.mask import Masker, from_scores
from mae_ext.rng import rng

POLL_S = 1.0
"""How often a silent worker is looked at. Only a batch that is late pays it."""

MAX_SUBSTITUTES = 100
"""Files in a row that may fail before the run stops: by then it is not the files."""


def build_reader(modality: ModalityConfig, where: str) -> Reader:
    spec = modality.data.reader
    reader: Reader = plugins.readers.build(
        spec.name, spec.arguments, where, size=modality.size, channels=modality.channels
    )
    return reader


def build_masker(modality: ModalityConfig, which: str, where: str) -> Masker | None:
    spec = getattr(modality, which)
    return spec and plugins.maskers.build(spec.name, spec.arguments, where)  # type: ignore[no-any-return]


class ModalityData:
    """The files of one modality and the way from a key to a sample. Picklable: workers get a copy."""

    def __init__(self, seed: int, name: str, config: ModalityConfig, rank: int = 0, world: int = 1) -> None:
        where = f"modalities.{name}"
        if config.data.path is None:
            raise UserError(f"{where}.data.path is not set: give --data PATH")
        self.seed, self.name, self.config = seed, name, config
        self.reader = build_reader(config, f"{where}.data.reader")
        self.items: Items = list_items(config.data.path, self.reader.suffixes)
        try:
            self.plan = Plan(seed, name, len(self.items), config.batch, config.data.repeats, rank, world)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        self.masker = build_masker(config, "mask", f"{where}.mask")
        self.decode = build_masker(config, "decode", f"{where}.decode")
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
        return read_checked(self.reader, address, crops, (self.config.channels, *size))

    def read_or_replace(self, keys: list[Key], bad: list[dict[str, Any]]) -> list[Sample]:
        """As read, but a bad file goes into `bad` and the next of the permutation takes its place."""
        for attempt, index in enumerate(self.plan.candidates(keys[0])):
            if attempt == MAX_SUBSTITUTES:
                break
            try:
                return self.read(index, keys)
            except BadSample as error:
                bad.append({"modality": self.name, "path": error.path, "kind": error.kind, "detail": error.detail})
        names = ", ".join(row["path"] for row in bad[-3:])
        raise RunError(f"modality '{self.name}': {len(bad)} files in a row could not be used, the last: {names}")

    def batch(self, step: int) -> Batch:
        """What this rank trains on in `step`."""
        keys = self.plan.keys(step)
        bad: list[dict[str, Any]] = []
        samples: list[Sample] = []
        for _, group in groupby(keys, key=lambda key: (key.epoch, key.place)):
            samples += self.read_or_replace(list(group), bad)
        assert self.masker is not None
        grid = self.config.grid
        shares = [valid_share(sample, self.config.patch) for sample in samples]

        def scores(masker: Masker, kind: str) -> torch.Tensor:
            pairs = zip(keys, shares, strict=True)
            return torch.stack(
                [masker.scores(grid, rng(self.seed, kind, self.name, step, k.slot), share) for k, share in pairs]
            )

        mask = from_scores(
            scores(self.masker, "mask"),
            self.masker.num_keep(grid),
            scores(self.decode, "decode") if self.decode else None,
            self.decode.ratio if self.decode else 0.0,
        )
        return Batch(
            x=stack_views([s.x for s in samples]),
            mask=mask,
            valid=stack_optional([s.valid for s in samples], "valid"),
            spacing=stack_optional([s.spacing and torch.tensor(s.spacing) for s in samples], "spacing"),
            sources=[s.source for s in samples],
            bad=bad,
        )


def valid_share(sample: Sample, patch: tuple[int, ...]) -> torch.Tensor | None:
    """-> (*grid) share of each patch where the loss counts, or None where it counts everywhere."""
    if sample.valid is None:
        return None
    return patches(sample.valid[None].float(), patch)[0].flatten(len(patch)).mean(-1)


def stack_views(views: list[torch.Tensor]) -> torch.Tensor:
    """B x (C, *S) -> (B, C, *S). Where 8-bit and float samples meet, 0..255 becomes the 0..1 that it means."""
    if len({x.dtype for x in views}) > 1:
        views = [x / 255 if x.dtype == torch.uint8 else x for x in views]
    return torch.stack(views)


def stack_optional(parts: list[Any], what: str) -> torch.Tensor | None:
    """One tensor, or None if no sample has one; a reader has to give it always or never."""
    given = [p for p in parts if p is not None]
    if given and len(given) < len(parts):
        raise RunError(f"the reader gave '{what}' for {len(given)} of {len(parts)} samples of a batch")
    return torch.stack(given) if given else None


class StepData(Dataset[dict[str, Batch]]):
    """step -> one batch for each modality. A pure function of its arguments."""

    def __init__(self, modalities: Mapping[str, ModalityData]) -> None:
        self.modalities = dict(modalities)

    def __getitem__(self, step: int) -> dict[str, Batch]:
        return {name: data.batch(step) for name, data in self.modalities.items()}


class _Shielded(Dataset[dict[str, Batch] | RunError | UserError]):
    """Errors leave a worker as values: DataLoader would rebuild them around a printed traceback."""

    def __init__(self, data: StepData) -> None:
        self.data = data

    def __getitem__(self, step: int) -> dict[str, Batch] | RunError | UserError:
        try:
            return self.data[step]
        except (RunError, UserError) as error:
            return error


def _worker_init(parent: Connection, _: int) -> None:
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        # A worker that spins in a decoder never looks whether its parent still lives. The kernel does: when the far end
        # of this pipe closes it sends SIGIO, which ends a process. Opened anew, as owner and flags are not per process.
        line = os.open(f"/proc/self/fd/{parent.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(line, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(line, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        if parent.poll(0):  # the end of the pipe: too late for a signal
            os._exit(1)


def _as_they_are(batches: Any) -> Any:
    return batches


@dataclass
class Incident:
    """A worker that died or hung, for the log."""

    step: int
    what: str


class Loader:
    """Iterates steps start..stop; `waited` is the time in seconds that the last `next` spent waiting.

    The DataLoader is driven from a thread of its own: there, PyTorch installs no SIGCHLD handler, which would raise in
    the middle of an optimiser step when a worker dies.
    """

    def __init__(self, data: StepData, config: Config, start: int, stop: int, device: torch.device) -> None:
        self.data, self.train, self.device = data, config.train, device
        self.next_step, self.stop_step = start, stop
        self.incidents: list[Incident] = []
        self.waited = 0.0
        self._ahead: dict[str, Batch] | None = None
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max(1, self.train.prefetch))
        self._closed = threading.Event()
        self._lifeline = Pipe(duplex=False)
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
        for end in self._lifeline:
            end.close()

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
        step, failures = self.next_step, 0
        while step < self.stop_step and not self._closed.is_set():
            # After a failure a single batch by itself, so that what fails again is known to be this one.
            stop = step + 1 if failures else self.stop_step
            batches = iter(self._dataloader(range(step, stop)))
            try:
                while step < stop and not self._closed.is_set():
                    self._put(self._patiently(batches))
                    step, failures = step + 1, 0
            except WorkerLost as lost:
                failures += 1
                self.incidents.append(Incident(step, str(lost)))
                if failures == 2 and not self._quarantine(step):
                    self.incidents.append(Incident(step, "no file of the batch fails by itself; trying once more"))
                if failures > 3:
                    raise RunError(f"step {step}: workers failed {failures} times on this batch: {lost}") from None
            finally:
                # A hung worker would hold up an orderly shutdown; nothing of theirs is needed any more.
                for worker in getattr(batches, "_workers", []):
                    worker.kill()
                del batches

    def _dataloader(self, steps: range) -> DataLoader[Any]:
        return DataLoader(
            _Shielded(self.data),
            batch_size=None,
            sampler=steps,
            collate_fn=_as_they_are,
            num_workers=min(self.train.workers, len(steps)),
            prefetch_factor=self.train.prefetch,
            timeout=POLL_S,
            worker_init_fn=partial(_worker_init, self._lifeline[0]),
            pin_memory=self.device.type == "cuda",
            multiprocessing_context=forkserver(),
        )

    def _patiently(self, batches: Iterator[dict[str, Batch]]) -> dict[str, Batch]:
        """Wait for a batch. Raises WorkerLost when a worker has died or nothing came for `worker_timeout` seconds.

        An error of the run (RunError, UserError) comes back as one that `_take` raises.
        """
        began = time.monotonic()
        while True:
            try:
                return next(batches)
            except (OSError, EOFError) as error:
                # It died between announcing a batch and handing it over, and is not yet known to be dead.
                raise WorkerLost(f"a worker broke off: {error!r}") from None
            except RuntimeError as error:
                text = str(error)
                if "exited unexpectedly" in text or "killed by signal" in text:
                    raise WorkerLost(text.splitlines()[0]) from None
                if "timed out" not in text:
                    raise
                if time.monotonic() - began > self.train.worker_timeout or self._closed.is_set():
                    raise WorkerLost(f"no batch for {self.train.worker_timeout:g} s") from None

    def _quarantine(self, step: int) -> bool:
        """Read each file of the batch in a sandbox, and set aside those that kill or hang it."""
        found = False
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
                                found = True
        return found


class WorkerLost(Exception):
    """A worker died or hung; the batches it owed are made again."""
