"""A film's packets, listed once: the pictures that a player shows, when, in which order, and where decoding can begin.

What a player shows is what comes out of the decoder when it is fed from the first packet on. Packets are numbered, and
go to the decoder with their number for a time stamp. So every picture that comes out names the packet it was made of, be
the container's own times right or guesses. Imports no torch: it is part of the decoding child.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mae_ext.data.bitstream import can_begin, is_hidden

VERSION = 1
NONE = -(1 << 63)
"""Where a packet has no time."""

HIDDEN, DROPPED = -1, -2
"""Places of pictures that are not shown: as the film wants it, or because it was cut and they lack what came before."""

GUESSED = {"avi"}
"""Containers that have no times: FFmpeg counts packets, whose order is not that of the pictures."""

REORDERED = {"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "vc1", "wmv3"}
"""Codecs whose pictures may be shown in another order than they are stored in."""

LATE_S, LATE = 0.5, 0.02
"""A file whose packets end earlier than its header says, by this and by 5 %, or has fewer, by this part, was cut. Muxers
count frames that an encoder kept back, or fields."""

HEARTBEAT = 50
"""Pictures between two signs of life while all are decoded."""


class Bad(Exception):
    """The file cannot be used: (kind, detail), as in mae_ext.errors.BadSample."""


class Recount(Exception):
    """Pictures came in another order than the packets' times say, and no error: it takes decoding all to know it."""


@dataclass(frozen=True)
class Table:
    """One row for each packet: pts, dts, pos (p,) int64, NONE where it has none, and size (p,) bytes.

    order: (n,) numbers of the packets whose pictures are shown, as they are shown; times: (n,) seconds, ascending.
    entries: (k,) numbers of packets at which decoding may begin; places: (k,) where in `order` all is right from then on.
    dropped: (d,) numbers of packets whose pictures are not shown because the film was cut before them.
    facts: width, height and pixel format of the first picture, its display matrix, bits of a channel; "counted": every
    picture was decoded to know their order; "plain": all are shown, and none needs what comes before its key frame.
    """

    pts: NDArray[np.int64]
    dts: NDArray[np.int64]
    pos: NDArray[np.int64]
    size: NDArray[np.int64]
    order: NDArray[np.int64]
    times: NDArray[np.float64]
    entries: NDArray[np.int64]
    places: NDArray[np.int64]
    dropped: NDArray[np.int64]
    facts: dict[str, Any]

    def place(self) -> NDArray[np.int64]:
        """(p,) where each packet's picture is in `order`, or HIDDEN or DROPPED."""
        found = np.full(len(self.size), HIDDEN, np.int64)
        found[self.order] = np.arange(len(self.order))
        found[self.dropped] = DROPPED
        return found

    def save(self, path: Path) -> None:
        """Whole or not at all. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        columns = {name: value for name, value in self.__dict__.items() if name != "facts"}
        told = json.dumps({"made by": [VERSION, av.__version__], **self.facts})
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, facts=np.frombuffer(told.encode(), np.uint8), **columns)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def load(path: Path) -> Table | None:
    """What was saved there by this version of both the package and PyAV, if anything."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        facts = json.loads(columns.pop("facts").tobytes())
        if facts.pop("made by") != [VERSION, av.__version__]:
            return None
        return Table(**columns, facts=facts)
    except Exception:  # noqa: BLE001 whatever is wrong with it, it is made again
        return None


class Film:
    """A film that is open. content: gives what FFmpeg opens, a path or a file. table: made unless it is given.

    counted: have every picture decoded for the table, whatever the times look like. check: is given width and height of
    pictures before and after the first is decoded, and raises. alive: is called while many pictures are decoded.
    """

    def __init__(
        self,
        content: Callable[[], Any],
        table: Table | None,
        check: Callable[[int, int], None],
        alive: Callable[[int], None],
        counted: bool = False,
    ) -> None:
        self._content, self._alive = content, alive
        self.container, self.stream = self._open()
        codec = self.stream.codec_context
        self.codec: str = codec.name
        self.extradata: bytes = bytes(codec.extradata or b"")
        check(codec.width, codec.height)
        self.table = table or self._list(check, counted or self._guesses())

    def play(self, entry: int) -> Iterator[tuple[int, Any]]:
        """(number of a packet, the picture that was made of it or an error), in order of show, from a packet on.

        Errors are strict: what a codec would paint over is one. They come with the number of the packet that was fed.
        """
        for packet in self._packets_from(entry):
            number, packet.pts, packet.dts = packet.pts, packet.pts, packet.pts
            yield from self._fed(packet, number)
        yield from self._fed(None, len(self.table.size))

    def _fed(self, packet: Any, number: int) -> Iterator[tuple[int, Any]]:
        try:
            frames = self.stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            yield number, error
            return
        for frame in frames:
            yield frame.pts, frame

    def _packets_from(self, entry: int) -> Iterator[Any]:
        """Packets from one on, with their number for a pts. By a seek if that leads there, else by reading on."""
        table = self.table
        # A seek goes by either time, as the container will, and may go past the key frame asked for where many are close.
        asked = {int(t[entry]) for t in (table.pts, table.dts) if t[entry] != NONE}
        for time in sorted(asked, reverse=True):
            number = -1
            try:
                self.container.seek(time, stream=self.stream, backward=True)
            except av.FFmpegError:
                continue
            for packet in self._demux():
                if number < 0:
                    if packet.dts is not None and table.dts[entry] != NONE and packet.dts > table.dts[entry]:
                        break  # too far
                    if not self._is(packet, entry):
                        continue
                    number = entry
                if number >= len(table.size) or packet.size != table.size[number]:
                    raise Bad("damaged", "packets differ between two readings")
                packet.pts = number
                yield packet
                number += 1
            if number >= 0:
                return
        self.container.close()
        self.container, self.stream = self._open()
        for number, packet in enumerate(self._demux()):
            packet.pts = number
            if number >= entry:
                yield packet

    def _is(self, packet: Any, number: int) -> bool:
        table = self.table
        if packet.size != table.size[number]:
            return False
        if packet.pos is not None and packet.pos >= 0:
            return bool(packet.pos == table.pos[number])
        return (_or_none(packet.pts), _or_none(packet.dts)) == (int(table.pts[number]), int(table.dts[number]))

    def _demux(self) -> Iterator[Any]:
        return (packet for packet in self.container.demux(self.stream) if packet.size)

    def _open(self) -> tuple[Any, Any]:
        container = av.open(self._content(), metadata_errors="replace")
        stream = container.streams.best("video")
        if stream is None:
            raise Bad("not a video", "there is no video stream in it")
        if stream.codec_context is None:
            raise Bad("unsupported", "no decoder knows the codec that the header names")
        stream.thread_count = 1  # one child is one core
        # A damaged slice is an error, and not something to be painted over.
        stream.codec_context.options = {"err_detect": "explode"}
        return container, stream

    def _guesses(self) -> bool:
        return self.container.format.name in GUESSED and self.codec in REORDERED

    def _list(self, check: Callable[[int, int], None], counted: bool) -> Table:
        """One pass over the packets, which are decoded up to the first picture, or all of them."""
        rows: list[tuple[int, int, int, int]] = []
        marked: list[int] = []
        hidden: list[int] = []
        order: list[int] = []
        refused: list[int] = []
        ends: dict[int, int] = {}
        keys: set[int] = set()
        first: Any = None
        mine, codec, extradata = self.stream.index, self.codec, self.extradata

        def feed(packet: Any, number: int) -> None:
            nonlocal first
            for came_of, found in self._fed(packet, number):
                if isinstance(found, Exception):
                    refused.append(came_of)
                    continue
                if first is None:
                    first = found
                    check(first.width, first.height)
                order.append(came_of)
                if len(order) % HEARTBEAT == 0:
                    self._alive(len(order))

        for packet in self.container.demux():
            pts, dts, size = _or_none(packet.pts), _or_none(packet.dts), packet.size
            if pts != NONE:
                which = packet.stream_index
                ends[which] = max(ends.get(which, NONE), pts + (packet.duration or 0))
            if packet.stream_index != mine or not size:
                continue
            number = len(rows)
            rows.append((pts, dts, -1 if packet.pos is None else packet.pos, size))
            content = memoryview(packet)
            if packet.is_discard or is_hidden(codec, content):
                hidden.append(number)  # an edit list leaves it out, or it is only there for others
            if packet.is_keyframe:
                keys.add(number)
                if can_begin(codec, extradata, content):
                    marked.append(number)
            if first is None or counted:
                packet.pts = packet.dts = number
                feed(packet, number)
        if not rows:
            raise Bad("truncated", "the header promises a video, and no frame follows")
        if first is None or counted:
            feed(None, len(rows))
        pts, dts, pos, size = np.array(rows, np.int64).T.copy()
        self._check_length(pts, ends)
        if first is None:
            raise Bad("damaged", "no frame can be decoded")
        if not counted:
            found = _by_times(pts, np.array(hidden, np.int64), order[0])
            if found is None:
                self.container.close()
                self.container, self.stream = self._open()
                return self._list(check, counted=True)
            shown, dropped = found
        else:
            shown = np.array(order, np.int64)
            dropped = np.array([number for number in refused if number < order[0]], np.int64)
        # A cut leaves pictures without the key frame before them. A key frame that does not decode is damage.
        if lost := sorted(keys.intersection(refused) | set(marked).intersection(dropped.tolist())):
            raise Bad("damaged", f"the key frame in packet {lost[0]} of {len(rows)} does not decode")
        where = np.full(len(rows), HIDDEN, np.int64)
        where[shown] = np.arange(len(shown))
        entries, places = self._entries(np.array(marked, np.int64), where, None if counted else pts[shown], pts)
        facts = {
            "width": first.width, "height": first.height, "format": first.format.name, "counted": counted,
            "bits": max(component.bits for component in first.format.components), "matrix": _matrix(first),
            "plain": not counted and len(shown) == len(rows) and len(keys) == len(entries)
            and _is_closed(entries, where),
        }  # fmt: skip
        return Table(pts, dts, pos, size, shown, self._times(shown, pts, dts), entries, places, dropped, facts)

    def _times(self, shown: NDArray[np.int64], pts: NDArray[np.int64], dts: NDArray[np.int64]) -> NDArray[np.float64]:
        base = float(self.stream.time_base)
        # Where pictures are not stored as they are shown, times that belong to packets still say when one is.
        for ticks in (np.sort(pts[shown]), np.sort(dts[shown])):
            if ticks[0] != NONE and (np.diff(ticks) > 0).all():
                return np.asarray(ticks * base)
        rate = float(self.stream.average_rate or 25)
        return np.arange(len(shown)) / rate

    @staticmethod
    def _entries(
        marked: NDArray[np.int64], where: NDArray[np.int64], shown: NDArray[np.int64] | None, pts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Packets to begin at, and the places from which on all is right then."""
        places = where[marked] if shown is None else np.searchsorted(shown, pts[marked])
        usable = places >= 0
        marked, places = marked[usable], places[usable]
        usable = places == np.maximum.accumulate(places) if len(places) else usable
        return marked[usable], np.asarray(places[usable], np.int64)

    def _check_length(self, pts: NDArray[np.int64], ends: dict[int, int]) -> None:
        """Raises when the header promises more than there is. Some demuxers count frames, some seconds, some none."""
        # MP4 counts frames that an edit list hides; its seconds are those of the presentation.
        kind = self.container.format.name
        declared = 0 if "mp4" in kind else self.stream.frames
        rate = float(self.stream.average_rate or 0)
        known = pts[pts != NONE]
        span = float(known.max() - known.min()) * float(self.stream.time_base) if len(known) else 0.0
        # AVI leaves frames out that repeat the one before, so time may stand in for their number.
        covered = max(len(pts), round(span * rate) + 1)
        if declared - covered > max(1, LATE * declared):
            raise Bad("truncated", f"{covered} of {declared} frames are there")
        start, seconds = self.container.start_time or 0, self.container.duration
        if "matroska" in kind:
            start = min(start, 0)  # its seconds are those at the end, wherever it begins
        promised = 0.0 if seconds is None else (start + seconds) / 1e6
        bases = {stream.index: stream.time_base for stream in self.container.streams}
        end = max([0.0, *(float(ticks * bases[which]) for which, ticks in ends.items() if bases.get(which))])
        if promised - end > max(LATE_S, 0.05 * promised):
            raise Bad("truncated", f"ends at {end:.2f} s of {promised:.2f} s")


def _by_times(
    pts: NDArray[np.int64], hidden: NDArray[np.int64], first: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Numbers of the packets shown, and of those dropped, where times are fit to say; else None.

    first: the packet whose picture came out first: a decoder drops what a cut took the ground from, all of it earlier.
    """
    if pts[first] == NONE:
        return None
    is_shown = np.ones(len(pts), bool)
    is_shown[hidden] = False
    is_early = (pts != NONE) & (pts <= pts[first])
    is_early[first] = False
    # FFmpeg copies such pictures to Matroska without their times, which would be before its beginning.
    after = first + 1
    while after < len(pts) and pts[after] == NONE:
        is_early[after] = True
        after += 1
    is_early[:first][pts[:first] == NONE] = True
    dropped = np.flatnonzero(is_shown & is_early)
    shown = np.flatnonzero(is_shown & ~is_early)
    shown = shown[np.argsort(pts[shown], kind="stable")]
    times = pts[shown]
    return (shown, dropped) if times[0] != NONE and (np.diff(times) > 0).all() else None


def _is_closed(entries: NDArray[np.int64], where: NDArray[np.int64]) -> bool:
    """Is nothing that is stored after an entry shown before it?"""
    later = np.minimum.accumulate(where[::-1])[::-1]
    return bool((later[entries] == where[entries]).all())


def _matrix(frame: Any) -> list[int]:
    """(a, b, c, d) of a picture's display matrix, in quarter turns and mirrors: a pixel (x, y) is shown at
    (a x + c y, b x + d y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return [1, 0, 0, 1]
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(np.int64).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return [-1 if a < 0 else 1, 0, 0, -1 if d < 0 else 1]
    return [0, -1 if b < 0 else 1, -1 if c < 0 else 1, 0]


def _or_none(time: int | None) -> int:
    return NONE if time is None else time
