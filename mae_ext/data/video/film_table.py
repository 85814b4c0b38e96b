"""What a film holds: the pictures that a player shows, when, in which order, and where decoding can begin.

What a player shows is what comes out of the decoder when it is fed from the first packet on. Packets are numbered, and
go to the decoder with their number for a time stamp. So a picture that comes out names the packet it was made of, be
the container's own times right or guesses. Where they are right, only the first picture has to be decoded.
Imports no torch: it is part of the decoding child.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from mae_ext.data.video.bitstream import can_begin, is_hidden
from mae_ext.strict_json import dumps

VERSION = 2
NONE = -(1 << 63)
"""Where a packet has no time."""

HIDDEN, DROPPED = -1, -2
"""Places of pictures that are not shown: as the film wants it, or because it was cut and they lack what came before."""

LATE_S, LATE = 0.5, 0.02
"""A file whose packets end earlier than its header says, by this and by 5 %, or are fewer, by this part, was cut.
(Muxers count frames that an encoder kept back, or fields.)"""


class Bad(Exception):
    """The file cannot be used: (kind, detail), as in mae_ext.errors.BadSample."""


@dataclass(frozen=True)
class Table:
    """One row for each packet: pts, dts, pos (p,) int64, NONE where it has none, and size (p,) bytes.

    order: (n,) numbers of the packets whose pictures are shown, as they are shown; times: (n,) seconds, ascending.
    entries: (k,) numbers of packets at which decoding may begin; places: (k,) whence in `order` all is right then.
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
        places = np.full(len(self.size), HIDDEN, np.int64)
        places[self.order] = np.arange(len(self.order))
        places[self.dropped] = DROPPED
        return places

    def save(self, path: Path) -> None:
        """Whole or not at all. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        columns = {name: value for name, value in self.__dict__.items() if name != "facts"}
        facts = dumps({"made by": [VERSION, av.__version__], **self.facts})
        try:
            with partial.open("wb") as file:
                np.savez_compressed(file, facts=np.frombuffer(facts.encode(), np.uint8), **columns)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def load(path: Path) -> Table | None:
    """What was saved there by this version of both the package and PyAV, if anything."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        facts = json.loads(columns.pop("facts").tobytes())
        if facts.pop("made by") != [VERSION, av.__version__]:
            return None
        return Table(**columns, facts=facts)
    except Exception:  # noqa: BLE001 whatever is wrong with it, it is made again
        return None


class Listing:
    """The packets of a film, as they are read, and the pictures that come out of the decoder meanwhile.

    codec, extradata: of the stream. seconds, rate: of a tick of its times, and frames in a second, 0 if not known.
    begins: whether the first packet is a key frame in every film of this container, however it was cut. alone: whether
    no picture of the codec ever needs another.
    """

    def __init__(
        self, codec: str, extradata: bytes, seconds: float, rate: float, begins: bool, alone: bool = False
    ) -> None:
        self.codec, self.extradata, self.seconds, self.rate, self.alone = codec, extradata, seconds, rate, alone
        self.rows: list[tuple[int, int, int, int]] = []
        self.keys = [0] if begins else []
        self.marked: list[int] = []
        self.hidden: list[int] = []
        self.order: list[int] = []
        self.refused: list[int] = []
        self.first: Any = None

    def add(self, packet: Any) -> int:
        """The number that a packet gets."""
        number = len(self.rows)
        place = -1 if packet.pos is None else packet.pos
        self.rows.append((_or_none(packet.pts), _or_none(packet.dts), place, packet.size))
        content = memoryview(packet)
        if packet.is_discard or is_hidden(self.codec, content):
            self.hidden.append(number)  # an edit list leaves it out, or it is only there for others
        if packet.is_keyframe:
            self.keys.append(number)
            if self.alone or can_begin(self.codec, self.extradata, content):
                self.marked.append(number)
        return number

    def shown(self, came: Iterable[tuple[int, Any]]) -> None:
        """Pictures, or errors, that came of packets."""
        for number, frame in came:
            if isinstance(frame, Exception):
                self.refused.append(number)
                continue
            if self.first is None:
                self.first = frame
            self.order.append(number)

    def table(self, counted: bool) -> Table | None:
        """None where the times of packets do not say what is shown. counted: all pictures came out. Raises Bad."""
        if self.first is None:
            raise Bad("damaged", "no frame can be decoded")
        pts, dts, pos, size = np.array(self.rows, np.int64).T.copy()
        marked, hidden = np.array(self.marked, np.int64), np.array(self.hidden, np.int64)
        if counted:
            order = np.array(self.order, np.int64)
            dropped = np.array([number for number in self.refused if number < order[0]], np.int64)
            where = np.full(len(pts), HIDDEN, np.int64)
            where[order] = np.arange(len(order))
            places = where[marked]
        else:
            by_times = _by_times(pts, hidden, self.order[0])
            if by_times is None:
                return None
            order, dropped = by_times
            places = np.searchsorted(pts[order], pts[marked])
        # A cut leaves pictures without the key frame before them. A key frame that does not decode is damage.
        early = {number for number in self.refused if number < self.order[0]}
        if lost := sorted(early.intersection(self.keys) | set(dropped.tolist()).intersection(self.marked)):
            raise Bad("damaged", f"the key frame in packet {lost[0]} of {len(pts)} does not decode")
        usable = places >= 0
        entries, places = marked[usable], places[usable]
        usable = places == np.maximum.accumulate(places) if len(places) else usable
        entries, places = entries[usable], places[usable]
        if len(places) and places[0] > 0 and self.codec != "h264":
            # Painted on nothing, for lack of a key frame: other decoders do what that of H.264 leaves.
            dropped, order, places = np.append(dropped, order[: places[0]]), order[places[0] :], places - places[0]
        is_plain = not counted and len(order) == len(pts) and len(set(self.keys)) == len(entries)
        facts = {
            "width": self.first.width, "height": self.first.height, "format": self.first.format.name,
            "bits": max(component.bits for component in self.first.format.components),
            "matrix": _matrix(self.first), "counted": counted, "plain": is_plain and _is_closed(entries, order),
        }  # fmt: skip
        times = self._times(pts[order], dts[order])
        return Table(pts, dts, pos, size, order, times, entries, places.astype(np.int64), dropped, facts)

    def _times(self, pts: NDArray[np.int64], dts: NDArray[np.int64]) -> NDArray[np.float64]:
        # Where pictures are not stored as they are shown, times that belong to packets still say when one is.
        for ticks in (np.sort(pts), np.sort(dts)):
            if ticks[0] != NONE and (np.diff(ticks) > 0).all():
                return np.asarray(ticks * self.seconds)
        return np.arange(len(pts)) / (self.rate or 25.0)

    def check_length(self, declared: int, promised_s: float, end_s: float, from_zero: bool = False) -> None:
        """Raises when a header promises more frames, 0 for no promise, or seconds, than there are.

        from_zero: whether times count frames, of which the first may be left out as well.
        """
        if not self.rows:
            raise Bad("truncated", "the header promises a video, and no frame follows")
        known = [row[0] for row in self.rows if row[0] != NONE]
        span = (max(known) - min(0 if from_zero else max(known), *known)) * self.seconds if known else 0.0
        # AVI leaves frames out that repeat the one before, so time may stand in for their number.
        covered = max(len(self.rows), round(span * self.rate) + 1)
        if declared - covered > max(1, LATE * declared):
            raise Bad("truncated", f"{covered} of {declared} frames are there")
        if promised_s - end_s > max(LATE_S, 0.05 * promised_s):
            raise Bad("truncated", f"ends at {end_s:.2f} s of {promised_s:.2f} s")


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


def _is_closed(entries: NDArray[np.int64], order: NDArray[np.int64]) -> bool:
    """Is nothing that is stored after an entry shown before it? order: of all packets."""
    where = np.empty(len(order), np.int64)
    where[order] = np.arange(len(order))
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
