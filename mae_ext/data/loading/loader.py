"""From steps to their parts, whatever files and workers do.

A bad file is replaced by the next of the same permutation and reported. A worker that dies or hangs costs time, never
data: its batches are made again, to the same bits, because a batch is a function of (config, step). A file that brings
workers down twice is found in a sandbox and set aside.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing import Pipe
from typing import Any

import torch

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.loading.batches import MAX_SUBSTITUTES, StepData
from mae_ext.data.loading.copies import Copies
from mae_ext.data.loading.ring import Pin
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.loading.workers import Worker, WorkerLost
from mae_ext.data.stages import STAGES, Stopwatch, stage, timed
from mae_ext.errors import BadSample, RunError
from mae_ext.memory import free_memory

log = logging.getLogger(__name__)

POLL_S = 0.2
"""How often a silent worker is looked at. Only a batch that is late pays it."""


@dataclass
class Incident:
    """A worker that died or hung, for the log."""

    step: int
    what: str


class Loader:
    """Iterates steps start..stop; `waited` is the time in seconds that the last `next` spent waiting.

    A thread of its own keeps a few parts ready. incidents: workers that died or hung so far, for the log. stages: of
    the parts that the last `next` gave, the seconds of each of STAGES in the process that made them, added up; and
    "copy", where parts are copied by `copies`: what copies took that have ended since.
    """

    def __init__(
        self, data: StepData, config: Config, start: int, stop: int, device: torch.device,
        copies: Copies | None = None,
    ) -> None:  # fmt: skip
        self.data, self.train, self.device, self.copies = data, config.train, device, copies
        self.next_step, self.stop_step = start, stop
        self.incidents: list[Incident] = []
        self.waited, self.stages = 0.0, dict[str, float]()
        self._pin = Pin(self._refused) if device.type == "cuda" else None
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=max(data.accumulate, self.train.prefetch))
        self._parts: list[tuple[dict[str, Batch], dict[str, float]]] = []
        self._closed, self._copying_to_pin = threading.Event(), False
        self._units = range(start * data.accumulate, stop * data.accumulate)
        self._thread = threading.Thread(target=self._produce, name="loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[list[dict[str, Batch]]]:
        return self

    def __next__(self) -> list[dict[str, Batch]]:
        """The parts of the next step, in this machine's memory: for a GPU in such as it copies by itself (pinned)."""
        if self.next_step >= self.stop_step:
            raise StopIteration
        began = time.perf_counter()
        while len(self._parts) < self.data.accumulate:  # which a signal may interrupt, and somebody ask again
            made = self._queue.get()
            if isinstance(made, BaseException):
                raise made
            self._parts.append(made)
        self.waited = time.perf_counter() - began
        made, self._parts = self._parts, []
        self.next_step += 1
        self.stages = {name: sum(seconds[name] for _, seconds in made) for name in STAGES}
        if self.copies is not None and self.device.type != "cpu":
            self.stages["copy"] = self.copies.taken()
        return [part for part, _ in made]

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
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # of this thread, or memory is pinned by way of the first GPU
            if self.train.workers == 0:
                watch = Stopwatch()
                for unit in self._units:
                    if self._closed.is_set():
                        return
                    with timed(watch), stage("transform"):
                        part = self.data.unit(unit)
                    self._put((self._pinned(part), watch.taken()))
            else:
                self._produce_with_workers()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the batch is asked for
            self._put(error)

    def _produce_with_workers(self) -> None:
        """Part u of all steps is made by worker u mod n, which is asked for it `prefetch` turns ahead."""
        lifeline, kept_open = Pipe(duplex=False)
        count, next_asked = min(self.train.workers, len(self._units)), self._units.start
        workers = [Worker(self.data.unit, lifeline, self._pin) for _ in range(count)]

        def replace(which: int) -> None:
            owed = list(workers[which].owed)
            workers[which].end()
            workers[which] = Worker(self.data.unit, lifeline, self._pin)
            for unit in owed:
                workers[which].ask(unit)

        try:
            for unit in self._units:
                step, part = divmod(unit, self.data.accumulate)
                while next_asked < min(self._units.stop, unit + count * self.train.prefetch):
                    workers[next_asked % count].ask(next_asked)
                    next_asked += 1
                made, failures = None, 0
                while made is None:
                    if self._closed.is_set():
                        return
                    try:
                        made = workers[unit % count].answer(self.train.worker_timeout, POLL_S)
                    except WorkerLost as lost:
                        failures += 1
                        self.incidents.append(Incident(step, str(lost)))
                        if failures > 3:
                            raise RunError(f"step {step + 1}: {failures} workers failed on it: {lost}") from None
                        # All of them have to hear of a file that is set aside.
                        known = failures == 2 and self._quarantine(step, part)
                        for which in range(count) if known else [unit % count]:
                            replace(which)
                worker = workers[unit % count]
                if unit == self._units.start:
                    self._check_memory(count, worker.ring.capacity)
                self._put((made[0] if worker.pinned else self._pinned(made[0]), worker.stages))
        finally:
            for worker in workers:
                worker.end()
            lifeline.close()
            kept_open.close()

    def _pinned(self, batches: dict[str, Batch]) -> dict[str, Batch]:
        return {n: b.pin_memory() for n, b in batches.items()} if self.device.type == "cuda" else batches

    def _refused(self, why: str) -> None:
        if not self._copying_to_pin:
            log.warning("batches are copied once more, into pinned memory, which takes time: %s", why)
        self._copying_to_pin = True

    def _check_memory(self, workers: int, part_bytes: int) -> None:
        """Raises RunError where the memory for all parts that may be ready at once is not there."""
        ahead, accumulate = workers * self.train.prefetch, self.data.accumulate
        # Asked for, in the queue, the step that is computed and the one that is taken next, and one between them.
        most = min(ahead + max(accumulate, self.train.prefetch) + 2 * accumulate + 1, len(self._units))
        ranks, free = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), free_memory()
        needed, taken = (count * part_bytes * ranks for count in (most, workers))  # each worker has begun with one
        if free is not None and needed > free + taken:
            raise RunError(
                f"batches need {needed / 1e9:.1f} GB of shared memory, and {free / 1e9:.1f} GB are free: {most} of "
                f"{part_bytes / 1e6:.0f} MB are ready or in use at once, on each of {ranks} ranks, with train.workers="
                f"{workers}, train.prefetch={self.train.prefetch} and train.accumulate={accumulate}; lower workers or "
                f"prefetch, or raise accumulate, which cuts a batch into smaller parts"
            )

    def _quarantine(self, step: int, part: int) -> bool:
        """Read each file of the part in a sandbox, and set aside those that kill or hang it."""
        any_set_aside = False
        with Sandbox(deadline_s=min(30.0, self.train.worker_timeout)) as sandbox:
            for data in self.data.modalities.values():
                for key in data.keys(step, part, self.data.accumulate)[0]:
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
