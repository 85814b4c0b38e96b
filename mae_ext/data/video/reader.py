"""The video reader: one decode, any number of clips cut from it, and a stated rule for which frames they take."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from mae_ext.data.sample import Crop, CropSampler, Extent, Sample, judged
from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.archive import ROW
from mae_ext.data.sources.cache import Cache, Entry, on_disk, source_identity
from mae_ext.data.video.channels import with_channels
from mae_ext.data.video.clips import Clips, Short
from mae_ext.data.video.decoder import Children, Kept, Opened, Recounted
from mae_ext.data.video.kind import KIND, SUFFIXES
from mae_ext.data.whole import Clock
from mae_ext.errors import BadSample, UserError
from mae_ext.strict_json import dumps

SHORT_SIDE = 8 / 7
"""Frames are decoded with a short side of this times that of the output: the usual 256 for 224."""

MAX_PIXELS = 8192 * 4320
MEMORY_BYTES = 4 << 30
"""Address space of a decoding child; a quarter of it may be frames of one answer."""

T = TypeVar("T")

Decoder = Literal["auto", "decord", "pyav", "torchcodec"]


@dataclass(frozen=True)
class Frames:
    """times: (n,) seconds, ascending. extent: (H, W). frames: (n, H, W, 1 or 3) uint8, of which no more than
    boxes are touched, or what decodes some, by ascending, different numbers."""

    times: NDArray[np.float64]
    extent: tuple[int, int]
    frames: NDArray[np.uint8] | Callable[[Sequence[int]], NDArray[np.uint8]]


class VideoReader:
    """Video files and array rows -> clips (C, T, H, W) uint8.

    Which frames: `stride` takes every stride-th frame, `fps` the frame on display every 1/fps seconds, whatever the
    file's own rate, constant or not; stride=4 if neither is given. On the first axis the extent that crops see has one
    position for each frame at which a clip can begin, and size[0] - 1 more. A box of size[0] positions (augment.fixed:
    [0]) is a clip from its first frame on. A longer box is a clip spread evenly over all that it covers, for instance
    over the whole video. A flip on the first axis plays it backwards.

    Videos shorter than a clip: "hold" repeats the last frame (MAE-ST, util/kinetics.py, clamps the same way), "spread"
    takes the whole video evenly, "refuse" calls it bad ("too short").

    Frames are upright and scaled while decoding, to a short side of `short_side` pixels where they are larger (default:
    8/7 of the output's short side; 0 keeps them as stored); boxes refer to these frames. Sample aspect ratios are not
    applied, alpha is dropped, more than 8 bits are read with 8. channels: 3 is RGB, 1 luma (ITU-R 601-2).

    The n-th frame is the n-th that a player shows, of those that decode: a film cut out of another has lost what comes
    before its first key frame. decoder: "auto" and "pyav" are PyAV; "decord" and "torchcodec" (an extra) are these
    where they are right and PyAV elsewhere (`mae_ext.data.video.by_name` says when). All give the same bytes, but for
    films that "torchcodec" scales: it, and PyAV in its place, makes RGB first. Each file has `deadline_s` seconds, in a
    child process that is killed after them; a film whose frames have to be counted by decoding has more.

    cache: a folder where decoded frames are kept, whole files at a time, as `mae-ext prepare` fills it; of films whose
    frames take more than `keep_bytes` (default: a quarter of memory_bytes) only the list of their packets. Without a
    cache, such lists are in ~/.cache/mae_ext, or $XDG_CACHE_HOME/mae_ext.

    Kinds of BadSample besides those of `fetch`: "not a video", "damaged", "truncated" (the header promises more than
    there is), "too large", "too short", "too small", "unsupported", "hung", "crashed", "out of memory".
    """

    suffixes: tuple[str, ...] = SUFFIXES
    kind = KIND
    display = "clip"
    example = {"size": (16, 224, 224), "channels": 3}  # noqa: RUF012 read by the doctor, changed by nobody

    def __init__(
        self,
        size: tuple[int, ...],
        channels: int = 3,
        stride: int | None = None,
        fps: float | None = None,
        short: Short = "hold",
        short_side: int | None = None,
        decoder: Decoder = "auto",
        deadline_s: float = 30.0,
        max_pixels: int = MAX_PIXELS,
        memory_bytes: int = MEMORY_BYTES,
        cache: str | None = None,
        keep_bytes: int | None = None,
    ) -> None:
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"size={list(size)}: a clip has three axes, frames, height and width")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: a video gives 1 (luma) or 3 (RGB)")
        if stride is not None and fps is not None:
            raise ValueError(f"stride={stride} and fps={fps}: give one of them")
        for name, value in (
            ("stride", stride),
            ("fps", fps),
            ("deadline_s", deadline_s),
            ("max_pixels", max_pixels),
            ("keep_bytes", keep_bytes),
        ):
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: expected more than 0")
        if short not in get_args(Short):
            raise ValueError(f"short='{short}': expected hold, spread or refuse")
        if decoder not in get_args(Decoder):
            raise ValueError(f"decoder='{decoder}': expected auto, decord, pyav or torchcodec")
        if decoder == "torchcodec":
            from mae_ext.data.video.by_name import load_torchcodec

            if why := load_torchcodec():
                raise UserError(f"decoder='torchcodec' {why}")
        if short_side is not None and short_side < 0:
            raise ValueError(f"short_side={short_side}: expected pixels, or 0 for frames as they are stored")
        self.size, self.channels, self.decoder = tuple(size), channels, decoder
        self.clips = Clips(size[0], fps, stride or 4, short)
        self.short_side = round(min(size[1:]) * SHORT_SIDE) if short_side is None else short_side or None
        self.memory_bytes = memory_bytes
        self.keep_bytes = memory_bytes // 4 if keep_bytes is None else keep_bytes
        self.children = Children(deadline_s, memory_bytes, max_pixels)
        self.cache = Cache(cache) if cache else None

    def read(self, address: str, crops: Sequence[CropSampler]) -> list[Sample]:
        return counted_if_needed(lambda counted: self._read(address, crops, counted))

    @judged
    def prepared(self, address: str) -> Entry | None:
        """All frames of a file, mapped from the cache, where they are put if need be; None for what is not kept.

        Not kept: array rows, films of more than keep_bytes, all files without a cache, or where it may not grow.
        """
        return counted_if_needed(lambda counted: self._prepared(address, counted))

    @judged
    def extent(self, address: str) -> Extent:
        """(positions, H, W), as the file's packets say; no frame is decoded for it, nor kept."""
        with self._open(address, False, fills=False) as film:
            return self._extent(address, film)

    @judged
    def clock(self, address: str) -> Clock:
        """The steps of a clip that begins with the film, to the last that it has room for, and their seconds."""
        with self._open(address, False, fills=False) as film:
            return self.clips.clock(address, film.times)

    @judged
    def describe(self, address: str) -> str:
        """Codec, size, frames, seconds, and which decoder reads it."""
        if ROW.fullmatch(address):
            with self._open(address, False) as film:
                return f"array of {len(film.times)} frames, {film.extent[1]}x{film.extent[0]}"
        with self.decoding(address, False) as opened:
            clip = opened.clip
            seconds = float(clip.times[-1] - clip.times[0]) if len(clip.times) else 0.0
            width, height = clip.source
            return f"{clip.description} {width}x{height}, {len(clip.times)} frames in {seconds:.1f} s, {clip.decoder}"

    def unkept(self, addresses: Sequence[str], where: str) -> str:
        """What is to be said of files whose frames `prepared` does not keep. where: this reader's place in a config."""
        films = [address for address in addresses if not ROW.fullmatch(address)]
        if not films:
            return f"{len(addresses)} rows of arrays are not kept: they are read as they are"
        gib = self.keep_bytes / 2**30
        return (
            f"not kept: {len(films)} with more than {gib:.3g} GiB of frames, such as {films[0]}; their clips are "
            "decoded from the files, which have to stay. "
            f"--set {where}.keep_bytes={2 * self.keep_bytes} keeps films of twice that"
        )

    def _read(self, address: str, crops: Sequence[CropSampler], counted: bool) -> list[Sample]:
        with self._open(address, counted) as film:
            extent = self._extent(address, film)
            boxes = [crop(extent.size) for crop in crops]
            for box in boxes:
                _check(address, box, extent.size)
            starts = extent.size[0] - self.size[0] + 1
            numbers = [self.clips.numbers(box, film.times, starts) for box in boxes]
            wanted = sorted({number for row in numbers for number in row})
            place = {number: i for i, number in enumerate(wanted)}
            if isinstance(film.frames, np.ndarray):
                frames, place = film.frames, {number: number for number in wanted}
            else:
                frames = film.frames(wanted)
            return [
                Sample(self.view(frames, [place[number] for number in row], box), address, extent=extent, box=box)
                for row, box in zip(numbers, boxes, strict=True)
            ]

    def _extent(self, address: str, film: Frames) -> Extent:
        return Extent.as_stored((self.clips.starts(address, film.times) + self.size[0] - 1, *film.extent))

    def _prepared(self, address: str, counted: bool, fills: bool = True) -> Entry | None:
        """fills: whether a film that the cache lacks is decoded for it."""
        if self.cache is None or ROW.fullmatch(address):
            return None
        key = self._key(address)
        kept = self.cache.get(key)
        if kept is not None or self.cache.keeps == "never" or not fills:
            return kept
        with self.decoding(address, counted) as opened:
            clip = opened.clip
            if len(clip.times) * clip.height * clip.width * 3 > self.keep_bytes:
                return None
            entry = Entry(self._whole(opened, self.cache.root), {"times": clip.times.tolist()})
            return self.cache.get_or_build(key, lambda: entry)

    def _whole(self, opened: Opened, folder: Path) -> NDArray[np.uint8]:
        """All frames of a film: in memory, or in a file without a name where one answer cannot hold them."""
        clip = opened.clip
        shape = (len(clip.times), clip.height, clip.width, 3)
        at_once = max(1, self.memory_bytes // 4 // max(1, prod(shape[1:])))
        if shape[0] <= at_once:
            return opened.frames(range(shape[0])).copy()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            frames = on_disk(shape, np.uint8, folder)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written to: {error.strerror}; make room, or lower keep_bytes"
            ) from None
        for start in range(0, shape[0], at_once):
            stop = min(shape[0], start + at_once)
            frames[start:stop] = opened.frames(range(start, stop), more=stop < shape[0])
        return frames

    @contextmanager
    def _open(self, address: str, counted: bool, fills: bool = True) -> Iterator[Frames]:
        if ROW.fullmatch(address):
            yield array_frames(address, fetch(address, self.memory_bytes // 4))
        elif (entry := self._prepared(address, counted, fills)) is not None:
            yield Frames(np.array(entry.meta["times"]), entry.array.shape[1:3], entry.array)
        else:
            with self.decoding(address, counted) as opened:
                yield Frames(opened.clip.times, (opened.clip.height, opened.clip.width), opened.frames)

    @contextmanager
    def decoding(self, address: str, counted: bool) -> Iterator[Opened]:
        """A film in a decoding child, for any number of rows of frames. counted: its frames are counted by decoding.

        Raises BadSample, and Recounted where they turn out to be others than its packets say.
        """
        folder = _own_folder() if self.cache is None else self.cache.root
        identity = dumps(source_identity(address)).encode()
        path = folder / "films" / f"{hashlib.sha256(identity).hexdigest()}.npz"
        kept = Kept(path, grows=self.cache is None or self.cache.keeps != "never")
        with self.children.open(address, self.short_side, self.decoder, kept, counted) as opened:
            yield opened

    def _key(self, address: str) -> dict[str, Any]:
        transform = {"reader": "video", "version": 2, "short_side": self.short_side, "decoder": self.decoder}
        return {"source": source_identity(address), "transform": transform}

    def view(self, frames: NDArray[np.uint8], places: list[int], box: Crop) -> Tensor:
        """(m, H, W, c) uint8, of which `places` -> one clip (C, *size)."""
        (top, left), (bottom, right) = box.start[1:], box.stop[1:]
        x = torch.from_numpy(frames[places, top:bottom, left:right])
        # Seen as (T, C, H, W) with channels last, which is what torch's kernel for bytes is fastest on.
        x = interpolate(rearrange(x, "t h w c -> t c h w"), self.size[1:], mode="bicubic", antialias=True)
        x = rearrange(x, "t c h w -> c t h w")
        if (reverse := [axis + 1 for axis in (1, 2) if box.flip[axis]]) != []:
            x = x.flip(reverse)
        return with_channels(x, self.channels).contiguous()


def counted_if_needed(work: Callable[[bool], T]) -> T:
    """The work, and once more with all frames counted where they turn out to be others than a film's packets say."""
    try:
        return work(False)
    except Recounted:
        return work(True)


def _own_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mae_ext"


def _check(address: str, box: Crop, extent: tuple[int, ...]) -> None:
    for axis, (start, stop, length) in enumerate(zip(box.start, box.stop, extent, strict=True)):
        if axis > 0 and (start < 0 or stop > length):
            raise BadSample(address, "too small", f"frames are {extent[2]}x{extent[1]} pixels, smaller than the crop")
        if not 0 <= start < stop <= length:
            raise ValueError(
                f"{box} does not lie in a video of {'x'.join(map(str, extent))} (positions, height, width)"
            )


def array_frames(address: str, content: Any) -> Frames:
    """(T, H, W[, C]) uint8 of an archive, a second for each frame. Raises BadSample for anything else."""
    if content.dtype != np.uint8 or content.ndim not in (3, 4) or 0 in content.shape:
        detail = f"an array row of {list(content.shape)} {content.dtype}; expected (T, H, W[, C]) uint8"
        raise BadSample(address, "unsupported", detail)
    frames: NDArray[np.uint8] = content if content.ndim == 4 else content[..., None]
    if frames.shape[3] not in (1, 3):
        raise BadSample(address, "channels", f"the array has {frames.shape[3]}, expected 1 or 3")
    times = np.arange(len(frames), dtype=np.float64)
    return Frames(times, (frames.shape[1], frames.shape[2]), frames)
