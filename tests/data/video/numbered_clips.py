"""Clips whose every frame shows its own number as eight black or white bars, so that a test reads which it got."""

from fractions import Fraction

import av
import numpy as np
import torch

from mae_ext.config import AugmentConfig
from mae_ext.data.sample import Crop

HEIGHT, WIDTH = 72, 128
FIXED = AugmentConfig(fixed=(0,), scale=None, flip=())


def picture(number, height=HEIGHT, width=WIDTH):
    bits = [255 * (number >> k & 1) for k in range(8)]
    row = np.repeat(np.array(bits, np.uint8), width // 8)
    frame = np.repeat(np.broadcast_to(row, (height, len(row)))[..., None], 3, axis=2).copy()
    frame[: height // 4] = 40  # an upper edge that is darker than the rest says which way is up
    return frame


def numbers(x):
    """(C, T, H, W) -> the number that each frame shows."""
    lower = x[:, :, x.shape[2] // 2 :].float().mean((0, 2))
    bars = lower.reshape(len(lower), 8, -1).mean(-1) > 127
    return (bars.int() * 2 ** torch.arange(8)).sum(-1).tolist()


def write(
    path, count=60, codec="libx264", pix_fmt="yuv420p", rate=25, pts=None, size=(HEIGHT, WIDTH), shift=0, **options
):
    options = {"g": "12", "bf": "2", "crf": "16"} | options if codec == "libx264" else options
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        if pts is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        frames = [None] if count == 0 else [*range(count), None]
        for i in frames:
            frame = None
            if i is not None:
                frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
                frame.pts, frame.time_base = (i, Fraction(1, rate)) if pts is None else (pts[i], Fraction(1, 1000))
            for packet in stream.encode(frame):
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                container.mux(packet)
    return path


def at(first, size=(8, 36, 64), flip=(False, False, False)):
    """A clip that begins at a frame, of the whole picture."""
    return lambda extent: Crop((first, 0, 0), (first + size[0], *extent[1:]), flip)
