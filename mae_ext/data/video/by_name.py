"""Decoders for those who ask for them by name, decord and torchcodec: where each is right, and what is doubted there.

Both are used with plain films alone: all pictures shown, and none that needs what comes before its key frame. What they
give is held against the packets' times; where anything is odd, PyAV decides. Part of the decoding child: torch is
imported for torchcodec alone, before its first file.
"""

import os
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae_ext.data.video.film_table import NONE, Table
from mae_ext.strict_json import dumps

MATCH_S = 2e-3
"""decord's times are float32 and may differ from the packets' by so much."""

EXACT_S = 1e-6
"""And torchcodec's, which are float64 of the same ticks."""

MKV, MP4 = "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"
FILMS = {
    "decord": {
        MKV: {"h264", "vp8", "vp9", "mpeg4", "mpeg2video", "mjpeg"},
        MP4: {"h264", "hevc", "vp9", "mpeg4", "mjpeg", "prores"},
    },
    "torchcodec": {
        MKV: {"h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg4", "mpeg2video", "mjpeg"},
        MP4: {"h264", "hevc", "vp9", "libdav1d", "mpeg4", "mjpeg"},
    },
}
"""Where decord 0.6.0 and torchcodec 0.13 give the frames that were asked for, if the film is plain
(`scripts/checks/check_frames.py`)."""

LEAST_WIDTH = 32
"""decord gives narrower films wrong."""


def is_for(decoder: str, container: str, codec: str, facts: dict[str, Any]) -> bool:
    """Is a film one of those that a decoder is used for? container, codec: FFmpeg's names. facts: of its table.

    Both turn pictures after scaling them, and convert more than 8 bits in other ways: PyAV there, so that bytes agree.
    """
    films = FILMS.get(decoder, {}).get(container, ())
    plain = facts["plain"] and facts["bits"] == 8 and facts["matrix"] == [1, 0, 0, 1]
    return bool(plain and codec in films and facts["width"] >= LEAST_WIDTH)


def load_torchcodec() -> str:
    """Import it; "", or why it cannot be, and what to do, in a line."""
    os.environ["TORCHCODEC_FFMPEG_LOG_LEVEL"] = "ERROR"  # what it paints over is told of nowhere else
    try:
        import torchcodec.decoders
    except ModuleNotFoundError as error:
        return f"needs the extra torchcodec (no module '{error.name}'): pip install 'mae-ext[torchcodec]'"
    except (ImportError, OSError, RuntimeError) as error:
        return _why_not(" ".join(str(error).split()))
    return "" if hasattr(torchcodec, "transforms") else "is too old; install torchcodec 0.12 or later"


def _why_not(said: str) -> str:
    """Of the errors of all the versions of FFmpeg that were tried, which may be the one that matters."""
    import torch

    if any(
        library in said for library in ("libnvrtc", "libcudart", "libc10_cuda", "libtorch_cuda", "libtorchcodec_image")
    ):
        cause = (
            f"was built for CUDA, and torch {torch.__version__} is not: pip install 'torchcodec<0.14', or its CPU "
            "build from https://download.pytorch.org/whl/cpu"
        )
    elif "undefined symbol" in said or "ymbol not found" in said:
        cause = f"was built for another torch than {torch.__version__}: see the table of versions in its README"
    else:
        cause = (
            "finds no FFmpeg: it needs the shared libraries of version 4 to 8 (apt install ffmpeg, brew install "
            "ffmpeg, conda install ffmpeg)"
        )
    return f"torchcodec does not load: it {cause}; or take decoder: auto, which needs neither"


def by_decord(content: Any, table: Table, wanted: list[int], size: tuple[int, int]) -> tuple[Any, str]:
    """(n, H, W, 3), or None, and why they cannot be trusted. size: (H, W)."""
    times = table.times
    try:
        import decord

        decord.logging.set_level(decord.logging.ERROR)
        # fault_tol=1: more than one frame that was replaced by its neighbour is an error.
        reader = decord.VideoReader(content, width=size[1], height=size[0], num_threads=1, fault_tol=1)
        if len(reader) != len(times):
            return None, f"decord counts {len(reader)} frames, the packets {len(times)}"
        theirs = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        if np.abs(theirs - times).max() > MATCH_S + 1e-6 * abs(times[-1]):
            return None, "decord gives the frames other times"
        frames = reader.get_batch(wanted).asnumpy()
    except Exception as error:  # noqa: BLE001 it has errors of its own, of many kinds, and PyAV decides after any
        return None, str(error)
    if frames.shape != (len(wanted), *size, 3):
        return None, f"decord gives frames of shape {frames.shape}"
    # What decord cannot decode it replaces by what came before, and says nothing.
    if any(np.array_equal(a, b) for a, b in pairwise(frames)):
        return None, "two frames are the same"
    return frames, ""


def by_torchcodec(content: Any, table: Table, stream: int, wanted: list[int], size: tuple[int, int]) -> tuple[Any, str]:
    """(n, H, W, 3), or None, and why they cannot be trusted. size: (H, W). stream: its place in the container.

    It is given our list of frames, and so reads none of the packets before those it decodes.
    """
    ticks = table.pts[table.order]
    if (ticks == NONE).any():
        return None, "packets without times"
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.transforms import Resize

        scaled = size != (table.facts["height"], table.facts["width"])
        decoder = VideoDecoder(
            content if isinstance(content, str) else content.getvalue(),
            stream_index=stream,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            device="cpu",
            transforms=[Resize(size)] if scaled else None,
            custom_frame_mappings=dumps({"frames": _frames(table, ticks)}),
        )
        batch = decoder.get_frames_at(wanted)
        frames, theirs = batch.data.numpy(), batch.pts_seconds.numpy()
    except Exception as error:  # noqa: BLE001 as decord
        return None, str(error)
    if frames.shape != (len(wanted), *size, 3):
        return None, f"torchcodec gives frames of shape {frames.shape}"
    if np.abs(theirs - table.times[wanted]).max() > EXACT_S:
        return None, "torchcodec gives the frames other times"
    return frames, ""


def _frames(table: Table, ticks: NDArray[np.int64]) -> list[dict[str, int]]:
    lasting = np.append(np.diff(ticks), np.diff(ticks)[-1:] if len(ticks) > 1 else [1])
    begins = np.zeros(len(ticks), int)
    begins[table.places] = 1
    rows = zip(ticks.tolist(), lasting.tolist(), begins.tolist(), strict=True)
    return [{"pts": pts, "duration": duration, "key_frame": key} for pts, duration, key in rows]
