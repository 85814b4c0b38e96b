"""What is wrong with a film is named, and frames are never taken from their neighbours; of shared films too."""

from pathlib import Path

import av
import numpy as np
import pytest
from data.video.numbered_clips import at, numbers, write

from mae_ext.data.video.reader import VideoReader
from mae_ext.errors import BadSample

SHARED = Path(__file__).parents[4] / "shared" / "data" / "video"


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_undecodable_frames_are_named_and_never_replaced_by_their_neighbours(tmp_path, clip, decoder):
    """Zeroed packets: decord gives the frame before, twice; the reader gives a true frame or none."""
    content, outcomes = bytearray(Path(clip).read_bytes()), []
    with av.open(clip) as container:
        spans = [(p.pos, p.size) for p in container.demux(video=0) if p.size and not p.is_keyframe]
    reader = VideoReader((8, 36, 64), stride=1, decoder=decoder)
    for where, size in spans[::4]:
        damaged = tmp_path / "damaged.mp4"
        damaged.write_bytes(content[:where] + bytes(size) + content[where + size :])
        for first in (0, 20, 40, 52):
            try:
                got = numbers(reader.read(str(damaged), [at(first)])[0].x)
                assert got == list(range(first, first + 8))
                outcomes.append("right")
            except BadSample as error:
                outcomes.append(error.kind)
    assert set(outcomes) == {"right", "damaged"}


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_frames_that_stop_half_way_are_never_taken_from_their_neighbours(tmp_path, clip, decoder):
    """Of these packets decord makes a picture, or repeats the last, and only FFmpeg's complaint tells."""
    content, damaged = bytearray(Path(clip).read_bytes()), tmp_path / "damaged.mp4"
    with av.open(clip) as container:
        spans = [(p.pos, p.size) for p in container.demux(video=0) if p.size and not p.is_keyframe]
    reader, outcomes = VideoReader((8, 36, 64), stride=1, decoder=decoder), []
    for where, size in spans[4:6] + spans[11:13]:
        damaged.write_bytes(content[: where + size // 2] + bytes(size - size // 2) + content[where + size :])
        for first in (1, 3, 9, 11):
            try:
                assert numbers(reader.read(str(damaged), [at(first)])[0].x) == list(range(first, first + 8))
                outcomes.append("right")
            except BadSample as error:
                outcomes.append(error.kind)
    assert set(outcomes) == {"right", "damaged"}


def test_a_video_whose_end_is_missing_is_truncated_even_where_decoders_are_content(read, tmp_path):
    for name, codec in (("a.avi", "mpeg4"), ("b.mkv", "libx264"), ("c.mp4", "libx264")):
        path = write(tmp_path / name, 60, codec, g="12")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BadSample) as caught:
            read(path, at(0), stride=1)
        assert caught.value.kind == "truncated", caught.value


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"this is not a video at all", "not a video"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "not a video"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "not a video"),
        (b"\0\0\0\x18ftypisom" + b"\0" * 400, "truncated"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 400, "damaged"),
    ],
)
def test_what_is_no_video_is_named(read, tmp_path, content, kind):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(BadSample) as caught:
        read(path)
    assert caught.value.kind == kind and caught.value.path == str(path)


def test_a_sound_without_pictures_is_no_video(read, tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BadSample, match="no video stream"):
        read(path)


def test_frames_over_the_limit_are_refused_from_the_header(tmp_path, clip):
    with pytest.raises(BadSample, match="too large"):
        VideoReader((8, 36, 64), max_pixels=1000).read(clip, [at(0)])


BROKEN = {
    "corrupted.mp4": "damaged",
    "corrupt_bitflips.mp4": "damaged",
    "corrupt_empty.mp4": "empty",
    "corrupt_not_a_video.mp4": "not a video",
    "corrupt_truncated_50pct.avi": "truncated",
    "corrupt_truncated_60pct.mp4": "truncated",
}

REAL = [p for p in sorted(SHARED.rglob("*")) if p.suffix in VideoReader.suffixes]


@pytest.mark.skipif(not REAL, reason="../shared/data/video is not there")
@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_file_of_the_shared_data_is_named(read, name):
    (path,) = (p for p in REAL if p.name == name)
    with pytest.raises(BadSample) as caught:
        read(path)
    assert caught.value.kind == BROKEN[name]


def reference(path, wanted):
    """number -> (H, W, 3), decoded by PyAV from the beginning, one after another, as stored."""
    frames = {}
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(container.streams.best("video"))):
            if i in wanted:
                frames[i] = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90 % 4)
    return frames


GOOD = [p for p in REAL if p.name not in BROKEN]
SMALL = [p for p in GOOD if p.stat().st_size < 100_000]


@pytest.mark.skipif(not GOOD, reason="../shared/data/video is not there")
@pytest.mark.parametrize("path", [pytest.param(p, marks=() if p in SMALL else pytest.mark.slow) for p in GOOD], ids=str)
def test_good_files_of_the_shared_data_give_the_frames_that_pyav_counts_to(path):
    reader = VideoReader((1, 8, 8), short_side=0)
    with reader.children.open(str(path), None, "auto") as opened:
        count = len(opened.clip.times)
        chosen = sorted(np.random.default_rng(0).choice(count, min(count, 20), replace=False).tolist())
        got = opened.frames(chosen).copy()
    near = {n for c in chosen for n in (c - 1, c, c + 1)}
    frames = reference(path, near)
    for number, frame in zip(chosen, got, strict=True):
        off = {n: np.abs(frames[n].astype(int) - frame).mean() for n in (number - 1, number, number + 1) if n in frames}
        assert off[number] == min(off.values()), (number, off)
        # Two ways of PyAV to make 8 bits of 10 differ by so much; other frames of the same file are further off.
        assert off[number] < (4 if "10bits" in path.name else 2)
