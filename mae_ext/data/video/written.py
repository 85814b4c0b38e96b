"""Frames written as a film: of their own size, odd ones too, and at the times that are said of them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from mae_ext.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame

CODECS = ("libx264", "h264", "mpeg4")
"""Of PyAV's wheels, the first that is there."""

TICKS = 360_000
"""A second. Frames of 24, 25, 30, 50 and 60 a second, of these over 1.001, of milliseconds and of MPEG's 1/90000 begin
on one."""

QUALITY = {"crf": "12", "preset": "medium", "bf": "0"}
"""Of H.264: no difference that is seen; without frames that refer to later ones, so that times are as given."""


class Mp4:
    """Frames (H, W, 3) uint8 -> an .mp4, H.264 in 4:2:0; in 4:4:4 where a side is odd, which 4:2:0 can't have.

    times: seconds, ascending, of each frame to come. Raises UserError where nothing here can write one.
    """

    def __init__(self, path: Path, size: tuple[int, int], times: Sequence[float] | NDArray[np.float64]) -> None:
        import av

        codec = next((name for name in CODECS if _writes(name)), None)
        if codec is None:
            raise UserError(f"{path}: this PyAV has none of {', '.join(CODECS)}; install its wheel: pip install av")
        odd = size[0] % 2 or size[1] % 2
        ticks = [round(float(t) * TICKS) for t in times]
        self.codec = f"{codec}, {'4:4:4' if odd else '4:2:0'}"
        self._ticks = [max(t, ticks[0] + i) for i, t in enumerate(ticks)]  # ascending, whatever rounding did
        self._file = av.open(str(path), "w", format="mp4", options={"video_track_timescale": str(TICKS)})
        steps = sorted(b - a for a, b in zip(self._ticks, self._ticks[1:], strict=False))
        self._step = steps[len(steps) // 2] if steps else TICKS // 25
        options = QUALITY if codec != "mpeg4" else {"qscale": "2"}
        stream = self._file.add_stream(codec, rate=Fraction(TICKS, max(1, self._step)), options=options)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = "yuv444p" if odd and codec != "mpeg4" else "yuv420p"
        self._stream.codec_context.time_base = self._stream.time_base = Fraction(1, TICKS)
        self._done = 0

    def write(self, frame: NDArray[np.uint8]) -> None:
        import av

        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts, picture.time_base = self._ticks[self._done], Fraction(1, TICKS)
        self._done += 1
        self._mux(picture)

    def _mux(self, picture: "VideoFrame | None") -> None:
        for packet in self._stream.encode(picture):
            packet.duration = self._step
            self._file.mux(packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self._mux(None)
        self._file.close()


def _writes(codec: str) -> bool:
    import av

    try:
        av.Codec(codec, "w")
    except ValueError:  # av.codec.codec.UnknownCodecError is one
        return False
    return True
