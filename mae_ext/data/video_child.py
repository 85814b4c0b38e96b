"""The program that decodes video: a child process with a life of its own, because decoders hang, crash and leak.

`mae_ext.data.decoder` starts it by path, so that it imports neither torch nor the package and starts in a third of a
second. Requests and answers are lines of JSON; frames go through shared memory.

PyAV reads the packets of a file and so knows each frame's time before any is decoded. decord decodes where it can.
Where it fails, disagrees with the packets, complains, or gives the same picture twice, PyAV decodes again and strictly:
every error of the codec then counts. Both scale bilinearly inside FFmpeg and give the same bytes.
"""

import bisect
import contextlib
import fcntl
import io
import json
import mmap
import os
import resource
import signal
import sys
import tempfile
import traceback
from itertools import pairwise
from math import ceil
from typing import Any

EOF_RETRIES = "2048"
"""decord polls so often for the last frames of a file (10240 by default) before it gives up; PyAV decides then."""

LATE_S = 0.5
"""A file whose packets end earlier than its header says, by this and by 5 %, was cut."""

MATCH_S = 2e-3
"""decord's times are float32 and may differ from the packets' by so much."""

DECORD_CODECS = {
    *("h264", "hevc", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v2", "msmpeg4v3"),
    *("mjpeg", "wmv1", "wmv2", "wmv3", "vc1", "flv1", "h263", "theora", "cinepak", "prores", "dnxhd"),
}
"""What decord 0.6.0 was built to read. AV1 and GIF are not among them."""

CONTAINERS = {
    b"\x1a\x45\xdf\xa3": 0, b"RIFF": 0, b"GIF8": 0, b"\0\0\1\xba": 0, b"\0\0\1\xb3": 0, b"FLV": 0, b"OggS": 0,
    b"\x30\x26\xb2\x75": 0, b"ftyp": 4, b"moov": 4, b"mdat": 4, b"wide": 4, b"free": 4, b"skip": 4, b"\x47": 188,
    b"\0\0\0\1": 0, b"\0\0\1": 0,
}  # fmt: skip
"""How video files begin, and at which byte. FFmpeg would also follow playlists, which name other files."""


CUT = ("moov atom not found", "partial file", "File ended prematurely")
"""What FFmpeg says of files whose end is missing."""

DECODER_ERRORS = (OSError, ValueError, EOFError, RuntimeError, ArithmeticError, LookupError, AttributeError, TypeError)
"""Everything that PyAV and decord were seen to raise over damaged files, or may where a header lacks something; besides
those errors of FFmpeg that are none of Python's, of which "not yet implemented" is one that damage looks like."""


class Bad(Exception):
    """The file cannot be used: (kind, detail), as in mae_ext.errors.BadSample."""


class Video:
    """One file: its packets' times first, frames when asked for."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.path, self.request = request["path"], request
        head = _read(self.path, request["offset"], min(512, request["size"]))
        if not any(head[at : at + len(magic)] == magic for magic, at in CONTAINERS.items()):
            raise Bad("not a video", f"begins with {head[:12]!r}")
        self.whole = request["offset"] == 0 and request["size"] == os.stat(self.path).st_size  # noqa: PTH116
        self.container, self.stream = self._open()
        codec = self.stream.codec_context
        if codec.width * codec.height > request["max_pixels"]:
            raise Bad("too large", f"{codec.width}x{codec.height} pixels, the limit is {request['max_pixels']}")
        self._index()
        first = self._first_frame()
        self.turns = first.rotation // 90 % 4
        if first.width * first.height > request["max_pixels"]:
            raise Bad("too large", f"{first.width}x{first.height} pixels, the limit is {request['max_pixels']}")
        self.source = (first.width, first.height)
        self.stored = _scaled(self.source, request["short_side"])
        self.width, self.height = self.stored[::-1] if self.turns % 2 else self.stored
        bits = max(component.bits for component in first.format.components)
        self.description = f"{codec.name} {first.format.name}"
        # decord turns after scaling, and converts more than 8 bits in another way: PyAV there, so that bytes agree.
        by_decord = codec.name in DECORD_CODECS and bits == 8 and not self.turns and first.width >= 32
        self.decoder = request["decoder"] if request["decoder"] != "auto" else "decord" if by_decord else "pyav"

    def _content(self) -> Any:
        """What decoders open: the path, or the bytes of a member of an archive."""
        if self.whole:
            return self.path
        return io.BytesIO(_read(self.path, self.request["offset"], self.request["size"]))

    def _open(self) -> tuple[Any, Any]:
        import av

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

    def _index(self) -> None:
        """Times of all frames in the order they are shown, and which can be decoded without another."""
        shown: list[tuple[int, bool]] = []
        timeless = packets = hidden = 0
        end = 0.0
        for packet in self.container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != self.stream.index or packet.size == 0:
                continue
            packets += 1
            if packet.is_discard:
                hidden += 1  # an edit list leaves it out of the presentation
            elif packet.pts is None:
                timeless += 1
            else:
                shown.append((packet.pts, packet.is_keyframe))
        if packets == 0:
            raise Bad("truncated", "the header promises a video, and no frame follows")
        shown.sort()
        self.timed = not timeless and len({pts for pts, _ in shown}) == len(shown)
        self.hidden = hidden
        base = float(self.stream.time_base)
        self._check_length(packets, end, shown, base)
        if not self.timed:
            # Frames without times of their own follow each other evenly, and are counted instead.
            rate = float(self.stream.average_rate or 25)
            self.pts = list(range(packets - hidden))
            self.keys, self.times = [0], [i / rate for i in self.pts]
            return
        self.pts = [pts for pts, _ in shown]
        self.keys = [i for i, (_, is_key) in enumerate(shown) if is_key] or [0]
        self.times = [pts * base for pts in self.pts]
        self.number = {pts: i for i, pts in enumerate(self.pts)}

    def _check_length(self, packets: int, end: float, shown: list[tuple[int, bool]], base: float) -> None:
        """Raises when the header promises more than there is. Some demuxers count frames, some seconds, some none."""
        # MP4 counts frames that an edit list hides; its seconds are those of the presentation.
        declared = 0 if "mp4" in self.container.format.name else self.stream.frames
        rate = float(self.stream.average_rate or 0)
        span = (shown[-1][0] - shown[0][0]) * base if shown else 0.0
        # AVI leaves frames out that repeat the one before, so time may stand in for their number.
        covered = max(packets, round(span * rate) + 1)
        if declared and covered < declared - 1:
            raise Bad("truncated", f"{covered} of {declared} frames are there")
        start, seconds = self.container.start_time or 0, self.container.duration
        promised = 0.0 if seconds is None else (start + seconds) / 1e6
        if promised - end > max(LATE_S, 0.05 * promised):
            raise Bad("truncated", f"ends at {end:.2f} s of {promised:.2f} s")

    def _first_frame(self) -> Any:
        self.container.seek(0, backward=True)
        for frame in self.container.decode(self.stream):
            return frame
        raise Bad("damaged", "no frame can be decoded")

    def answer(self) -> dict[str, Any]:
        return {
            "count": len(self.times), "height": self.height, "width": self.width, "source": self.source,
            "description": self.description, "decoder": self.decoder, "turns": self.turns,
        }  # fmt: skip

    def frames(self, wanted: list[int], log: "Log") -> Any:
        """-> (n, H, W, 3) uint8 for ascending, different numbers."""
        if self.decoder == "decord":
            log.clear()
            frames, doubt = self._by_decord(wanted)
            if frames is not None and not doubt and not (doubt := log.complaint()):
                return frames
            log.clear()
        return self._by_pyav(wanted)

    def _by_decord(self, wanted: list[int]) -> tuple[Any, str]:
        """Frames, or why they cannot be trusted."""
        import decord
        import numpy as np

        if self.hidden or not self.timed:
            return None, "decord counts frames that an edit list hides"
        try:
            # fault_tol=1: more than one frame that was replaced by its neighbour is an error.
            reader = decord.VideoReader(
                self._content(), width=self.width, height=self.height, num_threads=1, fault_tol=1
            )
            if len(reader) != len(self.times):
                return None, f"decord counts {len(reader)} frames, the packets {len(self.times)}"
            theirs = reader.get_frame_timestamp(range(len(reader)))[:, 0]
            if np.abs(theirs - np.array(self.times)).max() > MATCH_S + 1e-6 * abs(self.times[-1]):
                return None, "decord gives the frames other times"
            frames = reader.get_batch(wanted).asnumpy()
        except (decord.DECORDError, RuntimeError, ValueError, IndexError) as error:
            return None, str(error)
        if frames.shape != (len(wanted), self.height, self.width, 3):
            return None, f"decord gives frames of shape {frames.shape}"
        # What decord cannot decode it replaces by what came before, and says nothing.
        if any(np.array_equal(a, b) for a, b in pairwise(frames)):
            return None, "two frames are the same"
        return frames, ""

    def _by_pyav(self, wanted: list[int]) -> Any:
        import numpy as np

        self.graph: Any = None
        frames = np.empty((len(wanted), self.height, self.width, 3), np.uint8)
        place = {number: i for i, number in enumerate(wanted)}
        missing = set(wanted)
        for run in _runs(wanted, self.keys):
            if self.timed:
                self.container.seek(self.pts[self._key_before(run[0])], stream=self.stream, backward=True)
                self._decode(run, frames, place, missing)
        if missing:  # without times, or where seeking leads astray: from the beginning
            self.container.close()
            self.container, self.stream = self._open()
            self._decode(sorted(missing), frames, place, missing)
        if missing:
            number = min(missing)
            raise Bad("damaged", f"frame {number} of {len(self.times)}, at {self.times[number]:.2f} s, does not decode")
        return frames

    def _decode(self, run: list[int], frames: Any, place: dict[int, int], missing: set[int]) -> None:
        for count, frame in enumerate(self.container.decode(self.stream)):
            number = self.number.get(frame.pts, -1) if self.timed else count
            if number in missing and number in place:
                if frame.is_corrupt:
                    raise Bad("damaged", f"frame {number} of {len(self.times)} is marked as corrupt by the decoder")
                frames[place[number]] = self._rgb(frame)
                missing.discard(number)
            if number >= run[-1] or (self.timed and frame.pts is not None and frame.pts > self.pts[run[-1]]):
                return

    def _key_before(self, number: int) -> int:
        return self.keys[max(0, bisect.bisect_right(self.keys, number) - 1)]

    def _rgb(self, frame: Any) -> Any:
        """(H, W, 3), scaled and upright. The filter graph is the one that decord builds, chroma positions included."""
        import av
        import numpy as np

        if (frame.width, frame.height) != self.source:
            raise Bad("unsupported", f"frames change from {self.source} to {(frame.width, frame.height)} pixels")
        if self.graph is None:
            self.graph = graph = av.filter.Graph()
            nodes = [
                graph.add_buffer(
                    width=frame.width, height=frame.height, format=frame.format, time_base=self.stream.time_base
                ),
                graph.add("scale", f"{self.stored[0]}:{self.stored[1]}:flags=bilinear"),
                graph.add("format", "rgb24"),
                graph.add("buffersink"),
            ]
            graph.link_nodes(*nodes).configure()
        self.graph.push(frame)
        return np.rot90(self.graph.pull().to_ndarray(), self.turns)


def _scaled(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(width, height) with the short side at most `short_side`; nothing is enlarged."""
    if short_side is None or min(size) <= short_side:
        return size
    scale = short_side / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def _runs(wanted: list[int], keys: list[int]) -> list[list[int]]:
    """Numbers that one seek serves: a new run begins where a later frame to begin at lies on the way."""
    runs: list[list[int]] = []
    for number in wanted:
        key = bisect.bisect_right(keys, number)
        if runs and bisect.bisect_right(keys, runs[-1][-1]) == key:
            runs[-1].append(number)
        else:
            runs.append([number])
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


def _share(memory: int, array: Any) -> None:
    """Put an array where the parent sees it."""
    os.ftruncate(memory, max(array.nbytes, 1))
    if array.nbytes:
        with mmap.mmap(memory, array.nbytes) as shared:
            shared[:] = array.reshape(-1).view("uint8").data


def serve(memory: int, limit_bytes: int) -> None:
    """Requests on stdin until it ends. memory: the descriptor of the shared memory."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints may look like an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # and so does the end of a terminal
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["DECORD_EOF_RETRY_MAX"] = EOF_RETRIES
    import av
    import numpy as np

    av.logging.set_level(av.logging.ERROR)
    with contextlib.suppress(ImportError):
        import decord

        decord.logging.set_level(decord.logging.ERROR)
    log = Log()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    video: Video | None = None
    for line in sys.stdin:
        request = json.loads(line)
        # The kernel's default action needs no interpreter: a child whose parent died cannot spin on alone.
        signal.alarm(ceil(request["deadline_s"]) + 5)
        log.clear()
        try:
            if request["op"] == "open":
                video = None
                video = Video(request)
                _share(memory, np.array(video.times))
                answer: dict[str, Any] = {"ok": video.answer()}
            else:
                assert video is not None
                if len(request["frames"]) * video.height * video.width * 3 > request["max_bytes"]:
                    raise Bad("too large", f"{len(request['frames'])} frames of {video.width}x{video.height} pixels")
                _share(memory, video.frames(request["frames"], log))
                video = None  # closing can hang as well, and is this file's fault
                answer = {"ok": {}}
        except Bad as error:
            answer = {"bad": list(error.args)}
        except MemoryError as error:
            answer = {"bad": ["out of memory", str(error)]}
        except (av.FFmpegError, *DECODER_ERRORS) as error:
            logged = getattr(error, "log", None)  # PyAV's errors carry FFmpeg's last words: (level, who, what)
            told = logged[2] if logged else log.complaint() or str(error)
            kind = "truncated" if any(sign in told for sign in CUT) else "damaged"
            answer = {"bad": [kind, f"{type(error).__name__}: {' '.join(told.split())}"[:300]]}
        except Exception:  # noqa: BLE001 unforeseen; the parent makes a verdict of it
            answer = {"broken": traceback.format_exc()}
        signal.alarm(0)
        print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
