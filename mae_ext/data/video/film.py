"""A film that is open: its table, and its pictures from any packet on at which decoding can begin.

Imports no torch: it is part of the decoding child.
"""

from collections.abc import Callable, Iterator
from typing import Any

import av

from mae_ext.data.video.film_table import NONE, Bad, Listing, Table

GUESSED = {"avi"}
"""Containers that have no times: FFmpeg counts packets, whose order is not that of the pictures."""

REORDERED = {"h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video", "vc1", "wmv3"}
"""Codecs whose pictures may be shown in another order than they are stored in."""

HEARTBEAT = 50
"""Packets between two signs of life while all are decoded."""


class Astray(Exception):
    """After a seek, other packets came than had been listed."""


class Recount(Exception):
    """Pictures came in another order than the packets' times say, and no error: it takes decoding all to know it."""


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

    def play(self, entry: int, seek: bool = True) -> Iterator[tuple[int, Any]]:
        """(number of a packet, the picture that was made of it or an error), in order of show, from a packet on.

        Errors are strict: what a codec would paint over is one. They come with the number of the packet that was fed.
        seek: else packets are read from the first on. Raises Astray where other packets follow a seek than were listed.
        """
        for packet in self._packets_from(entry, seek):
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

    def _packets_from(self, entry: int, seek: bool) -> Iterator[Any]:
        """Packets from one on, with their number for a pts. By a seek if that leads there, else by reading on."""
        table = self.table
        # A seek goes by either time, as the container will, and where key frames are close past the one asked for.
        wanted = {int(t[entry]) for t in (table.pts, table.dts) if t[entry] != NONE}
        for time in sorted(wanted, reverse=True) if seek else ():
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
                    raise Astray
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
        place = -1 if packet.pos is None else packet.pos
        if (packet.size, place) != (int(table.size[number]), int(table.pos[number])):
            return False
        # ASF says only where the block is that many packets lie in; after a seek, one of the times may not be known.
        times = ((packet.pts, table.pts[number]), (packet.dts, table.dts[number]))
        return any((NONE if seen is None else seen) == int(known) for seen, known in times)

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
        seconds, rate = float(self.stream.time_base), float(self.stream.average_rate or 0)
        is_mp4, alone = "mp4" in self.container.format.name, self.stream.codec_context.codec.intra_only
        listing = Listing(self.codec, self.extradata, seconds, rate, is_mp4, alone)
        ends: dict[int, int] = {}
        mine, is_checked = self.stream.index, False
        for packet in self.container.demux():
            which, pts = packet.stream_index, packet.pts
            if pts is not None:
                ends[which] = max(ends.get(which, NONE), pts + (packet.duration or 0))
            if which != mine or not packet.size:
                continue
            number = listing.add(packet)
            if listing.first is None or counted:
                packet.pts = packet.dts = number
                listing.shown(self._fed(packet, number))
                if listing.first is not None and not is_checked:
                    check(listing.first.width, listing.first.height)
                    is_checked = True
                if number % HEARTBEAT == HEARTBEAT - 1:
                    self._alive(number)
        self._check_length(listing, ends)
        if listing.first is None or counted:
            listing.shown(self._fed(None, len(listing.rows)))
        table = listing.table(counted)
        if table is None:
            self.container.close()
            self.container, self.stream = self._open()
            return self._list(check, counted=True)
        return table

    def _check_length(self, listing: Listing, ends: dict[int, int]) -> None:
        """Some demuxers know a number of frames, some seconds, some neither."""
        kind = self.container.format.name
        start, seconds = self.container.start_time or 0, self.container.duration
        is_pieces = "mp4" in kind and not self.stream.frames
        if "matroska" in kind or kind == "asf" or is_pieces:
            start = min(start, 0)  # its seconds are those at the end, or of all pieces, wherever it begins
        promised = 0.0 if seconds is None else (start + seconds) / 1e6
        bases = {stream.index: stream.time_base for stream in self.container.streams}
        end = max([0.0, *(float(ticks * bases[which]) for which, ticks in ends.items() if bases.get(which))])
        # MP4 counts frames that an edit list hides; its seconds are those of the presentation.
        listing.check_length(0 if "mp4" in kind else self.stream.frames, promised, end, kind in GUESSED)
