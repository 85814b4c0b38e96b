"""The frames of one video file, decoded, and doubted: what a decoder gives is held against what the packets say.

`film.py` lists the packets of a film and says which picture of which packet is its n-th frame, and where
decoding can begin. PyAV decodes from there, strictly: every error of the codec counts, and frames have to come out one
after the other, all of them. Where they do not, decoding begins earlier, and at last with the first packet. decord and
torchcodec, for those who ask for them, are used with the plainest films only, and with doubts as to every answer.
"""

import contextlib
import fcntl
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from mae_ext.data.video.by_name import by_decord, by_torchcodec, is_for
from mae_ext.data.video.film import Astray, Film, Recount
from mae_ext.data.video.film_table import DROPPED, Bad, load

APART = 12
"""A seek costs about as much as decoding so many frames: it has to save more."""

KEPT = 3000
"""A table of so many packets or more is kept beside the cache for the next time."""

CONTAINERS = [
    *((magic, 0) for magic in (b"\x1a\x45\xdf\xa3", b"RIFF", b"GIF8", b"FLV", b"OggS", b"\x30\x26\xb2\x75")),
    *((magic, 0) for magic in (b"\0\0\1\xba", b"\0\0\1\xb3", b"\0\0\0\1", b"\0\0\1")),
    *((magic, 4) for magic in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    *((b"\x47", at) for at in (188, 196)),  # packets of 188 bytes, or 192 with a time of arrival before each
]
"""How video files begin, and at which byte. FFmpeg would also follow playlists, which name other files."""


class Video:
    """One file: its packets' times first, frames when asked for."""

    def __init__(self, request: dict[str, Any], alive: Callable[[int], None]) -> None:
        self.path, self.request = request["path"], request
        head = _read(self.path, request["offset"], min(512, request["size"]))
        if not any(head[at : at + len(magic)] == magic for magic, at in CONTAINERS):
            raise Bad("not a video", f"begins with {head[:12]!r}")
        self.whole = request["offset"] == 0 and request["size"] == os.stat(self.path).st_size  # noqa: PTH116
        kept = Path(request["kept"]) if request.get("kept") else None
        known = None if kept is None else load(kept)
        if request["counted"] and known is not None and not known.facts["counted"]:
            known = None
        self.film = Film(self._content, known, self._check, alive, request["counted"])
        self.table, facts = self.film.table, self.film.table.facts
        dear = facts["counted"] or len(self.table.size) >= KEPT
        if kept is not None and known is None and dear and request["keeps"]:
            with contextlib.suppress(OSError):
                self.table.save(kept)
        self.place = self.table.place()
        self.source = (facts["width"], facts["height"])
        self.stored = _scaled(self.source, request["short_side"])
        self.matrix: list[int] = facts["matrix"]
        self.width, self.height = self.stored[::-1] if self.matrix[0] == 0 else self.stored
        self.description = f"{self.film.codec} {facts['format']}"
        asked_for = request["decoder"]
        self.by_name = asked_for if is_for(asked_for, self.film.container.format.name, self.film.codec, facts) else None
        self.decoder = self.by_name or "pyav"
        # torchcodec makes RGB of a picture before it scales it; so do we with all films, where it is asked for.
        self.rgb_first = asked_for == "torchcodec" and facts["bits"] == 8

    def _check(self, width: int, height: int) -> None:
        if width * height > self.request["max_pixels"]:
            raise Bad("too large", f"{width}x{height} pixels, the limit is {self.request['max_pixels']}")

    def _content(self) -> Any:
        """What decoders open: the path, or the bytes of a member of an archive."""
        if self.whole:
            return self.path
        return io.BytesIO(_read(self.path, self.request["offset"], self.request["size"]))

    def answer(self) -> dict[str, Any]:
        return {
            "count": len(self.table.times), "height": self.height, "width": self.width, "source": self.source,
            "description": self.description, "decoder": self.decoder,
        }  # fmt: skip

    def frames(self, wanted: list[int], log: "Log") -> Any:
        """-> (n, H, W, 3) uint8 for ascending, different numbers. Raises Recount where the order is another."""
        log.clear()
        if self.by_name is not None:
            content, size = self._content(), (self.height, self.width)
            if self.by_name == "decord":
                frames, doubt = by_decord(content, self.table, wanted, size)
            else:
                frames, doubt = by_torchcodec(content, self.table, self.film.stream.index, wanted, size)
            if frames is not None and not doubt and not (doubt := log.complaint()):
                return frames
            log.clear()
        return self._by_pyav(wanted, log)

    def _by_pyav(self, wanted: list[int], log: "Log") -> Any:
        self.graph: Any = None  # and the kind of pictures that it takes
        self.kind: tuple[int, int, str] | None = None
        frames = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        row = {number: i for i, number in enumerate(wanted)}
        for run, which in _runs(wanted, self.table.places):
            entry = int(self.table.entries[which]) if which >= 0 else 0
            first = int(self.table.places[which]) if which >= 0 else 0
            # A picture or two after an entry may refer to what was before, in vain: then with a group of pictures more.
            earlier = int(self.table.entries[which - 1]) if which > 0 else 0
            attempts = [(entry, entry, first, True), (earlier, entry, first, True), (0, 0, 0, True), (0, 0, 0, False)]
            trouble: Exception | int | None = None
            for attempt in dict.fromkeys(attempts):
                if attempt == attempts[-1] and not isinstance(trouble, Astray):
                    break  # no seek was at fault
                trouble = self._decode(*attempt, run, frames, row)
                if trouble is None:
                    break
            if trouble is not None:
                silent = isinstance(trouble, int) and not log.complaint()
                if silent and not self.table.facts["counted"]:
                    raise Recount
                number = trouble if isinstance(trouble, int) else run[0]
                why = "" if isinstance(trouble, int) else f": {' '.join(str(trouble).split())}"
                at = f"frame {number} of {len(self.table.times)}, at {self.table.times[number]:.2f} s"
                raise Bad("damaged", f"{at}, does not decode{why}"[:300])
        return frames

    def _decode(
        self,
        begin: int,
        from_packet: int,
        from_place: int,
        seek: bool,
        run: list[int],
        frames: Any,
        row: dict[int, int],
    ) -> Exception | int | None:
        """Put the frames of a run where they belong. Returns the error met on the way, or the frame that did not come.

        begin: the packet to begin at. Errors count from another packet on, and frames from a place: all of them have to
        come, in order. Pictures that are shown before that place may fail.
        """
        due = from_place
        played = self.film.play(begin, seek)
        while True:
            try:
                number, picture = next(played)
            except StopIteration:
                return due
            except Astray as error:
                return error
            place = int(self.place[number]) if number < len(self.place) else due
            if number < from_packet or place == DROPPED or 0 <= place < from_place:
                continue
            if isinstance(picture, Exception):
                return picture
            if place != due or picture.is_corrupt:
                return due
            if place in row:
                frames[row[place]] = self._rgb(picture)
            if place == run[-1]:
                return None
            due += 1

    def _rgb(self, frame: Any) -> Any:
        """(H, W, 3), scaled to the size of the first picture's and upright.

        The filter graph is the one that decord builds, chroma positions included; or torchcodec's.
        """
        kind = (frame.width, frame.height, frame.format.name)
        if self.graph is None or kind != self.kind:  # a broadcast or a call may change its size midway
            self._check(frame.width, frame.height)
            self.kind, self.graph = kind, av.filter.Graph()
            graph = self.graph
            nodes = [
                graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=self.film.stream.time_base
                ),
                *([graph.add("format", "rgb24")] if self.rgb_first and self.stored != self.source else []),
                graph.add("scale", f"{self.stored[0]}:{self.stored[1]}:flags=bilinear"),
                graph.add("format", "rgb24"),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*nodes).configure()
        self.graph.push(frame)
        return _upright(self.graph.pull().to_ndarray(), self.matrix)


def _upright(pixels: Any, matrix: list[int]) -> Any:
    """(H, W, 3) as it is shown: a pixel (x, y) at (a x + c y, b x + d y), each of them 0, 1 or -1."""
    a, b, c, d = matrix
    if a == 0:
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]


def _scaled(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height) with the short side at most `short_side`; nothing is enlarged."""
    if short_side is None or min(size) <= short_side:
        return size
    scale = short_side / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def _runs(wanted: list[int], places: Any) -> list[tuple[list[int], int]]:
    """Numbers that one decode serves, and which of the ascending `places` it starts at; -1 is the beginning.

    A new one begins where that leaves out more than a seek costs.
    """
    runs: list[tuple[list[int], int]] = []
    for number in wanted:
        which = int(np.searchsorted(places, number, side="right")) - 1
        if runs and (which <= runs[-1][1] or places[which] - runs[-1][0][-1] <= APART):
            runs[-1][0].append(number)
        else:
            runs.append(([number], which))
    return runs


def _read(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123
        file.seek(offset)
        return file.read(size)


class Log:
    """What FFmpeg and decord write on stderr: the only place where they tell of damage they painted over."""

    def __init__(self) -> None:
        self.file = _anonymous("log")
        fcntl.fcntl(self.file, fcntl.F_SETFL, os.O_APPEND)
        os.dup2(self.file, 2)

    def clear(self) -> None:
        os.ftruncate(self.file, 0)

    def complaint(self) -> str:
        """The first line, or nothing. Only errors get here: both decoders were told so."""
        return next(iter(os.pread(self.file, 1 << 12, 0).decode("utf-8", "replace").splitlines()), "")


def _anonymous(name: str) -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
