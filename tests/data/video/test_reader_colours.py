"""Frames have the colours, depths and sides that they were made with, whatever codec and container hold them."""

import av
import numpy as np
import pytest
import torch
from data.video.numbered_clips import at, numbers, write
from PIL import Image


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size"),
    [
        ("a.avi", "mpeg4", "yuv420p", (72, 128)),
        ("b.mkv", "libx264", "yuv444p", (73, 136)),
        ("c.avi", "mjpeg", "yuvj420p", (72, 128)),
        ("d.webm", "libvpx-vp9", "yuv420p", (72, 128)),
        ("e.mpg", "mpeg2video", "yuv420p", (72, 128)),
        ("f.gif", "gif", "rgb8", (72, 128)),
        ("g.mp4", "libx264", "gray", (72, 128)),
        ("h.mp4", "libx264", "yuv420p10le", (72, 128)),
        ("i.mov", "libx264", "yuv420p", (128, 72)),
        ("j.mp4", "libx264", "yuv420p", (16, 16)),
        ("k.mp4", "libsvtav1", "yuv420p", (72, 128)),
    ],
)
def test_codecs_depths_and_shapes_give_the_frames_they_were_made_of(read, tmp_path, name, codec, pix_fmt, size):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec} encoder")
    path = write(tmp_path / name, 40, codec, pix_fmt, size=size)
    assert numbers(read(path, at(3), stride=3, size=(8, *size)).x) == [3 + 3 * k for k in range(8)]


def test_a_rotated_video_comes_upright(read, tmp_path):
    stored, turned = write(tmp_path / "stored.mp4", 30), tmp_path / "turned.mp4"
    for angle, turns in ((90, 1), (180, 2), (-90, 3)):
        with av.open(str(stored)) as source, av.open(str(turned), "w") as target:
            out = target.add_stream_from_template(source.streams.video[0])
            out.set_display_rotation(angle)
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = out
                    target.mux(packet)
        size = (8, 36, 64) if turns == 2 else (8, 64, 36)
        upright = read(turned, at(0), size=size, short_side=0, stride=3).x
        plain = read(stored, at(0), short_side=0, stride=3).x
        assert (upright.float() - plain.rot90(turns, (2, 3)).float()).abs().mean() < 3


def test_one_channel_is_luma(read, clip):
    colour, grey = (read(clip, at(2), channels=c).x for c in (3, 1))
    assert grey.shape == (1, 8, 36, 64)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)
    assert ((colour.float() * weights).sum(0, keepdim=True) - grey.float()).abs().max() <= 1


def colours(path):
    """A film of two halves, orange and blue."""
    frame = np.zeros((64, 96, 3), np.uint8)
    frame[:, :48], frame[:, 48:] = (230, 120, 20), (30, 60, 220)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv444p"
        for i in range(12):
            one = av.VideoFrame.from_ndarray(frame, format="rgb24")
            one.pts = i
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_channels_are_red_green_and_blue(read, tmp_path, decoder):
    x = read(
        colours(tmp_path / "c.mp4"), at(0, (2, 64, 96)), size=(2, 64, 96), short_side=0, stride=1, decoder=decoder
    ).x
    for column, wanted in ((20, (230, 120, 20)), (70, (30, 60, 220))):
        assert x[:, 1, 30, column].tolist() == pytest.approx(wanted, abs=12)


def test_luma_weighs_colours_as_the_image_reader_does(read, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_images=frames[None])
    x = read(f"{tmp_path}/a.npz::train_images::0", at(0, (4, 6, 8)), size=(4, 6, 8), stride=1, channels=1).x
    expected = np.stack([np.asarray(Image.fromarray(frame).convert("L")) for frame in frames])
    assert torch.equal(x[0], torch.from_numpy(expected))
    np.savez(tmp_path / "g.npz", train_images=frames[None, ..., 1])
    grey = read(f"{tmp_path}/g.npz::train_images::0", at(0, (4, 6, 8)), size=(4, 6, 8), stride=1).x
    assert torch.equal(grey, torch.from_numpy(frames[..., 1]).expand(3, -1, -1, -1))
