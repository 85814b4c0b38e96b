"""A reader plug-in for tests: reads images, but misbehaves on some files."""

import ctypes
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import CropSampler, Sample
from mae_ext.errors import BadSample


class FaultyReader:
    """fault: kill, segfault, spin, sleep, nan, inf, exception, shape, or bad.

    match: a regular expression for the names of files that fail. once: the beginning of the names of files that mark
    the first visit to each, after which all is well; without it every visit fails. slow: seconds that every file takes.
    also_bad: a file that is bad besides. The fault "either" kills on PNG and spins on all else.
    """

    suffixes = ImageReader.suffixes

    def __init__(
        self,
        size: tuple[int, ...],
        channels: int,
        fault: str,
        match: str,
        once: str | None = None,
        slow: float = 0.0,
        also_bad: str | None = None,
    ) -> None:
        self.reader, self.also_bad = ImageReader(size, channels), also_bad
        self.fault, self.match, self.once, self.slow = fault, match, once, slow

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        time.sleep(self.slow)
        if Path(address).name == self.also_bad:
            self.bad(address)
        if re.search(self.match, Path(address).name) and self._due(address):
            getattr(self, self.fault)(address)
        samples = self.reader.read(address, crops)
        if self.fault in ("nan", "inf", "shape") and re.search(self.match, Path(address).name):
            return [getattr(self, f"{self.fault}_sample")(sample) for sample in samples]
        return samples

    def _due(self, address: str) -> bool:
        if self.once is None:
            return True
        try:
            os.close(os.open(f"{self.once}.{Path(address).name}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def kill(self, _: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def either(self, address: str) -> None:
        (self.kill if address.endswith(".png") else self.spin)(address)

    def segfault(self, _: str) -> None:
        ctypes.string_at(0)

    def spin(self, _: str) -> None:
        if hasattr(os, "SCHED_IDLE"):  # whatever priority the tests were given, this must not starve them
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        re.match(r"(a+)+$", "a" * 64 + "b")  # in C, with the GIL held, for longer than anyone waits

    def sleep(self, _: str) -> None:
        time.sleep(1e6)

    def bad(self, address: str) -> None:
        raise BadSample(address, "rotten", "says the test")

    def exception(self, _: str) -> None:
        raise ValueError("a mistake\nof the plug-in, in two lines")

    def nan(self, _: str) -> None: ...
    def inf(self, _: str) -> None: ...
    def shape(self, _: str) -> None: ...

    def nan_sample(self, sample: Sample) -> Sample:
        return Sample(torch.full(sample.x.shape, torch.nan), sample.source)

    def inf_sample(self, sample: Sample) -> Sample:
        return Sample(torch.full(sample.x.shape, torch.inf), sample.source)

    def shape_sample(self, sample: Sample) -> Sample:
        return Sample(sample.x[:, 1:], sample.source)
