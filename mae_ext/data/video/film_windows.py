"""A film whole: every frame at the scale of training, and rows of frames at its pace that hold them all."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae_ext.data.sample import Crop
from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.archive import ROW
from mae_ext.data.video.clips import ROUNDED_S
from mae_ext.data.video.reader import VideoReader, array_frames
from mae_ext.errors import BadSample

MOST_CHAINS = 1024
"""More come of times that are no film's."""


class Film:
    """times: (n,) seconds, ascending. source: (H, W) of its frames, upright. Frames come as (C, n, *size) uint8.

    counted: have every frame decoded to know their number, where `Recounted` was raised. Raises BadSample, Recounted.
    """

    def __init__(self, reader: VideoReader, address: str, counted: bool = False) -> None:
        self.reader, self.address, self.counted = reader, address, counted
        self._array: NDArray[np.uint8] | None = None
        if ROW.fullmatch(address):
            row = array_frames(address, fetch(address, reader.memory_bytes // 4))
            assert isinstance(row.frames, np.ndarray)
            self.times, self.extent, self._array = row.times, row.extent, row.frames
            self.source = row.extent
        else:
            with reader.decoding(address, counted) as opened:
                clip = opened.clip
                self.times, self.extent = clip.times, (clip.height, clip.width)
                turned = (clip.height > clip.width) != (clip.source[1] > clip.source[0])
                self.source = clip.source if turned else clip.source[::-1]
        reader.clips.starts(address, self.times)  # raises for a film that the config refuses as too short
        self._near: dict[int, Tensor] = {}

    def chains(self) -> list[NDArray[np.int64]]:
        """Rows of frame numbers, ascending, each at the pace of a clip, that together hold every frame.

        By `stride`: frame 0, stride, ...; 1, stride + 1, ...; and so on. By `fps`: the frames on display every 1/fps
        seconds from the first frame on, then from the first that is in no row yet.
        """
        count, length = len(self.times), self.reader.size[0]
        if self.reader.clips.fps is None or count < 2:
            stride = self.reader.clips.stride
            if self.reader.clips.short == "spread":
                stride = min(stride, max(1, (count - 1) // max(1, length - 1)))
            return [np.arange(first, count, stride) for first in range(min(stride, count))]
        rows, missing = [], np.ones(count, bool)
        while missing.any():
            first = int(missing.argmax())
            steps = np.arange(int((self.times[-1] - self.times[first] + ROUNDED_S) * self.reader.clips.fps) + 1)
            until = self.times[first] + steps / self.reader.clips.fps + ROUNDED_S
            at = np.searchsorted(self.times, until, side="right") - 1
            at[0] = first
            missing[at] = False
            rows.append(at.astype(np.int64))
            if len(rows) > MOST_CHAINS:
                raise BadSample(self.address, "unsupported", f"its times make over {MOST_CHAINS} rows of frames")
        return rows

    def frames(self, numbers: NDArray[np.int64], size: tuple[int, int]) -> Tensor:
        """-> (C, len(numbers), *size) uint8. Frames near those that were asked for last are kept at hand."""
        first, last = int(numbers.min()), int(numbers.max())
        if missing := sorted({int(n) for n in numbers} - self._near.keys()):
            run = range(missing[0], min(max(last, missing[0] + last - first) + 1, len(self.times)))
            self._near = {n: frame for n, frame in self._near.items() if first - (last - first) <= n}
            wanted = [n for n in run if n not in self._near]
            for n, frame in zip(wanted, self._decoded(wanted, size).unbind(1), strict=True):
                self._near[n] = frame
        return torch.stack([self._near[int(n)] for n in numbers], 1)

    def _decoded(self, wanted: list[int], size: tuple[int, int]) -> Tensor:
        box = Crop((0, 0, 0), (len(wanted), *self.extent), (False,) * 3)
        one = VideoReader((len(wanted), *size), self.reader.channels)  # whose clips are as long as the run
        if self._array is not None:
            return one.view(self._array, wanted, box)
        at_once = max(1, self.reader.memory_bytes // 8 // (3 * self.extent[0] * self.extent[1]))
        parts = [wanted[i : i + at_once] for i in range(0, len(wanted), at_once)]
        with self.reader.decoding(self.address, self.counted) as opened:
            views = [
                one.view(opened.frames(part, more=part is not parts[-1]), list(range(len(part))), box) for part in parts
            ]
        return torch.cat(views, 1)
