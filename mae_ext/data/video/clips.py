"""Which frames of a film a clip takes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.sample import Crop
from mae_ext.data.whole import Clock
from mae_ext.errors import BadSample

ROUNDED_S = 1.5e-3
"""A frame that begins so much later is on display already: MKV and WebM round times to milliseconds, and one of the
first and one of the wanted frame may differ by one. Else of 30 frames a second every third would be taken twice."""

Short = Literal["hold", "spread", "refuse"]


@dataclass(frozen=True)
class Clips:
    """Clips of `length` frames, by `fps` where it is set, else by `stride`; short: what becomes of shorter films."""

    length: int
    fps: float | None
    stride: int
    short: Short

    def starts(self, address: str, times: NDArray[np.float64]) -> int:
        """At how many frames a clip can begin and still end inside; 1 if it can at none."""
        steps = self.length - 1
        if self.fps is None:
            fitting = len(times) - steps * self.stride
        else:
            # A frame is on display until the next; the last as long as the others on average.
            last = times[-1] + 0.5 * (times[-1] - times[0]) / max(1, len(times) - 1)
            fitting = int(np.searchsorted(times, last - steps / self.fps, side="right"))
        if fitting < 1 and self.short == "refuse":
            detail = f"{len(times)} frames in {times[-1] - times[0]:.2f} s do not fill a clip of {self.length}"
            raise BadSample(address, "too short", detail)
        return max(1, fitting)

    def numbers(self, box: Crop, times: NDArray[np.float64], starts: int) -> list[int]:
        """The frames of a clip, in order of play."""
        first, stop = box.start[0], box.stop[0]
        length, count = self.length, len(times)
        if stop - first == length and (starts > 1 or self._last(first, times) < count or self.short == "hold"):
            numbers = self._from(first, times)
        else:
            last = min(self._last(min(stop - length, starts - 1), times), count - 1)
            numbers = np.linspace(first, last, length).round().astype(int)
        row: list[int] = np.clip(numbers, 0, count - 1).tolist()
        return row[::-1] if box.flip[0] else row

    def _from(self, first: int, times: NDArray[np.float64]) -> NDArray[np.int_]:
        steps = np.arange(self.length)
        if self.fps is None:
            return first + steps * self.stride
        at = np.searchsorted(times, times[first] + steps / self.fps + ROUNDED_S, side="right")
        return np.asarray(at - 1)

    def _last(self, first: int, times: NDArray[np.float64]) -> int:
        if self.fps is None:
            return first + (self.length - 1) * self.stride
        overrun = times[first] + (self.length - 1) / self.fps > 2 * times[-1] - times[max(0, len(times) - 2)]
        return len(times) if overrun else int(self._from(first, times)[-1])

    def clock(self, address: str, times: NDArray[np.float64]) -> Clock:
        """Raises BadSample "too short"."""
        starts = self.starts(address, times)
        if starts == 1:  # its one clip
            row = self.numbers(Crop((0,), (self.length,), (False,)), times, starts)
            return Clock(np.arange(self.length), times[row])
        if self.fps is None:
            positions = np.arange(0, len(times), self.stride)
        else:
            wanted = times[0] + np.arange(int((times[-1] - times[0]) * self.fps + self.length) + 2) / self.fps
            positions = np.searchsorted(times, wanted + ROUNDED_S, side="right") - 1
            # The last at which a clip can begin, and the steps that this one shows.
            positions = positions[: int(np.searchsorted(positions, starts)) + self.length - 1]
        return Clock(positions, times[np.minimum(positions, len(times) - 1)])
