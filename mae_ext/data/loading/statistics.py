"""Per-channel mean and standard deviation of a data set, in the reader's units; uint8 counts as 0..1."""

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Protocol

import torch

from mae_ext.config import Config, ModalityConfig, Statistics
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.sandbox import Sandbox
from mae_ext.data.loading.workers import Worker, WorkerLost
from mae_ext.data.plan import spread
from mae_ext.data.sample import CropSampler, Reader, Sample, read_checked
from mae_ext.data.sources.table import Items
from mae_ext.errors import BadSample, ConfigError, NoneMeasurable, reasons
from mae_ext.model.units import in_units
from mae_ext.progress import Progress, phase

IMAGENET = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""RGB over the ImageNet-1K training set, from fb.resnet.torch's datasets/imagenet.lua; MAE's main_pretrain.py and
torchvision's released weights use the same six numbers."""

CONSTANT = 2.0**-23
"""A channel whose std is below this share of its mean, float32's rounding, is constant: centred only, with std 1."""

MEASURED = 1024
"""Files at most, spread evenly over the list."""

AHEAD = 4
"""Files that a worker is asked for before they are needed, so that a slow one holds up no other."""

Outcomes = list[tuple[int, "list[Moments] | BadSample"]]
"""What there is in each file of a share, by its place among those that are measured."""

Ask = Callable[[Callable[[int, int], Outcomes]], list[Outcomes]]
"""Has a share of a (rank, world) computed by each: how many they are, and where, is its affair."""

_shared: ContextVar[Callable[[str], Ask] | None] = ContextVar("shared", default=None)

POLL_S = 0.2
"""How often a silent worker is looked at."""

log = logging.getLogger(__name__)


class Moments:
    """Running mean and variance per channel in float64, merged a sample at a time (Chan, Golub and LeVeque 1983).

    Sums of squares would lose every digit on data with a large offset; this does not.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.square = torch.zeros(0, dtype=torch.float64)

    @classmethod
    def of(cls, sample: Sample) -> "Moments":
        """x: (C, *S). Where `valid` is False nothing is counted."""
        one, x = cls(), in_units(sample.x.flatten(1), torch.float64)
        if sample.valid is not None:
            x = x[:, sample.valid.flatten()]
        if x.shape[1]:
            one.count, one.mean = x.shape[1], x.mean(1)
            one.square = (x - one.mean[:, None]).square().sum(1)
        return one

    def add(self, sample: Sample) -> None:
        self.merge(self.of(sample))

    def merge(self, more: "Moments") -> None:
        if more.count == 0:
            return
        if self.count == 0:
            self.mean, self.square = torch.zeros_like(more.mean), torch.zeros_like(more.square)
        total = self.count + more.count
        step = more.mean - self.mean
        self.square += more.square + step.square() * (self.count * more.count / total)
        self.mean += step * (more.count / total)
        self.count = total

    def statistics(self) -> Statistics:
        std = (self.square / self.count).sqrt()
        std[std <= CONSTANT * self.mean.abs()] = 1.0
        return Statistics(mean=tuple(self.mean.tolist()), std=tuple(std.tolist()))


def measure(
    items: Items,
    reader: Reader,
    crop_sampler: CropSampler,
    count: int = MEASURED,
    name: str = "data",
    on_bad: Callable[[BadSample], None] | None = None,
    workers: int = 0,
    deadline_s: float = 30.0,
    ask: Ask | None = None,
) -> Statistics:
    """Statistics over `count` files spread evenly over the list; the same list gives the same numbers.

    workers: processes that read, in which a file may take `deadline_s`; 0 reads here. ask: who measures it in shares.
    However many, samples are added up here and in the order of the list, so the numbers are the same to the last bit.
    Bad files are passed over, counted in the log, and handed to `on_bad`; with workers, so are those that hang or crash
    the reader. Raises NoneMeasurable, a UserError with the reasons, when all are bad; RunError for a bug of the reader.
    """
    moments, bad = Moments(), []
    files = min(count, len(items))
    with phase(f"{name}: measuring mean and standard deviation on {files} files") as progress:

        def own(rank: int = 0, world: int = 1) -> Outcomes:
            return _share(items, reader, crop_sampler, (rank, world), count, workers, deadline_s, progress)

        shares = [own()] if ask is None else ask(own)
    for _, outcome in sorted((one for share in shares for one in share), key=lambda one: one[0]):
        if isinstance(outcome, BadSample):
            bad.append(outcome)
            if on_bad is not None:
                on_bad(outcome)
        else:
            for more in outcome:
                moments.merge(more)
    if moments.count == 0:
        why = reasons(bad) if bad else "no file has a valid voxel"
        raise NoneMeasurable(
            f"{name}: none of {files} files can be used to measure statistics: {why}",
            [error.row for error in bad],
        )
    if bad:
        log.warning("%s: %d of %d files sampled for statistics are bad, first: %s", name, len(bad), files, bad[0])
    return moments.statistics()


def _share(
    items: Items, reader: Reader, crop_sampler: CropSampler, share: tuple[int, int], count: int, workers: int,
    deadline_s: float, progress: Progress = lambda *_: None,
) -> Outcomes:  # fmt: skip
    """Of a (rank, world), every world-th of the files that `measure` chooses. The others are as of `measure`."""
    rank, world = share
    chosen = spread(len(items), count)
    mine = range(rank, len(chosen), world)
    read = _Read([items.addresses[chosen[place]] for place in mine], reader, crop_sampler)
    outcomes = _in_workers(read, workers, deadline_s) if workers else (read(i) for i in range(len(mine)))
    measured: Outcomes = []
    with closing(outcomes):
        for place, outcome in zip(mine, outcomes, strict=True):
            if isinstance(outcome, BadSample):
                measured.append((place, outcome))
            else:
                measured.append((place, [Moments.of(sample) for sample in outcome]))
            progress(place + 1, len(chosen))
    return measured


@dataclass(frozen=True)
class _Read:
    """Picklable. read(i) is what there is in the file at i, or what is wrong with it."""

    addresses: Sequence[str]
    reader: Reader
    crop_sampler: CropSampler

    def __call__(self, index: int) -> list[Sample] | BadSample:
        try:
            return read_checked(self.reader, self.addresses[index], [self.crop_sampler])
        except BadSample as error:
            return error


def _in_workers(read: _Read, workers: int, deadline_s: float) -> Generator[list[Sample] | BadSample]:
    """Every file in order, read by processes that are gone when this ends, also in the midst of a file."""
    total = len(read.addresses)
    lifeline, kept_open = Pipe(duplex=False)
    crew: list[Worker] = []
    try:
        while len(crew) < min(workers, total):
            crew.append(Worker(read, lifeline))
        next_asked = 0
        for index in range(total):
            while next_asked < min(total, index + AHEAD * len(crew)):
                crew[next_asked % len(crew)].ask(next_asked)
                next_asked += 1
            here = index % len(crew)
            made: tuple[list[Sample] | BadSample] | None = None
            while made is None:
                try:
                    made = crew[here].answer(deadline_s, POLL_S)
                except WorkerLost:
                    # Once more, as the loader does: what passes by itself must not change the numbers.
                    owed = [step for step in crew[here].owed if step != index]
                    crew[here].end()
                    crew[here] = Worker(read, lifeline)
                    for step in owed:
                        crew[here].ask(step)
                    made = (_alone(read, index, deadline_s),)
            yield made[0]
    finally:
        for worker in crew:
            worker.end()
        lifeline.close()
        kept_open.close()


def _alone(read: _Read, index: int, deadline_s: float) -> list[Sample] | BadSample:
    with Sandbox(deadline_s) as sandbox:
        try:
            outcome: list[Sample] | BadSample = sandbox.call(read, index, name=read.addresses[index])
        except BadSample as error:
            return error
        return outcome


def stated(modality: ModalityConfig) -> Statistics:
    """The numbers that a config's word stands for ("imagenet"; "none" is mean 0, std 1), or that it gives itself."""
    chosen = modality.data.statistics
    assert chosen != "measured"
    if chosen == "none":
        return Statistics(mean=(0.0,) * modality.channels, std=(1.0,) * modality.channels)
    return IMAGENET if chosen == "imagenet" else chosen


@contextmanager
def shared_by(ask: Callable[[str], Ask]) -> Iterator[None]:
    """Below this, files of a modality, by its name, are measured in shares; `share_of` is what others compute."""
    before = _shared.set(ask)
    try:
        yield
    finally:
        _shared.reset(before)


def share_of(config: Config, data: Mapping[str, "_Measurable"], name: str, rank: int, world: int) -> Outcomes:
    """A share of what `resolve_statistics` measures of a modality."""
    modality, here = config.modalities[name], data[name]
    crop = evaluation_sampler(modality.data.augment, modality.size)
    return _share(here.items, here.reader, crop, (rank, world), MEASURED, config.train.workers, _deadline(config))


def _deadline(config: Config) -> float:
    return min(30.0, config.train.worker_timeout)


class _Measurable(Protocol):
    @property
    def items(self) -> Items: ...
    @property
    def reader(self) -> Reader: ...


def resolve_statistics(config: Config, data: Mapping[str, _Measurable]) -> Config:
    """The config with numbers where it said "measured", "imagenet" or "none" (mean 0, std 1), for every modality.

    Measured on the centre of each file at the model's size, by as many workers as training reads with. Raises
    ConfigError when the count of channels differs.
    """
    modalities = dict(config.modalities)
    for name, modality in config.modalities.items():
        chosen = modality.data.statistics
        if chosen == "measured":
            here, ask = data[name], _shared.get()
            crop = evaluation_sampler(modality.data.augment, modality.size)
            try:
                settled = measure(
                    here.items, here.reader, crop, MEASURED, f"modality '{name}'", workers=config.train.workers,
                    deadline_s=_deadline(config), ask=None if ask is None else ask(name),
                )  # fmt: skip
            except NoneMeasurable as none:
                raise NoneMeasurable(str(none), [{"modality": name, **row} for row in none.bad]) from None
        else:
            settled = stated(modality)
        if len(settled.mean) != modality.channels:
            what = f"{chosen if isinstance(chosen, str) else 'given'} for {len(settled.mean)} channels"
            raise ConfigError(f"modalities.{name}.data.statistics: {what}, and the model has {modality.channels}")
        concrete = modality.data.model_copy(update={"statistics": settled})
        modalities[name] = modality.model_copy(update={"data": concrete})
    return config.model_copy(update={"modalities": modalities})
