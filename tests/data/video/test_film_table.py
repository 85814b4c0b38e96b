"""The list of a film's packets: how much of a film is read for a clip, and what is kept of the list."""

import av
import numpy as np
import pytest
import torch
from data.video.numbered_clips import at, numbers, write

from mae_ext.data.video import film, film_table
from mae_ext.data.video.reader import VideoReader


@pytest.fixture
def long(tmp_path):
    """30 000 frames: the packets of a second, again and again."""
    short, path = write(tmp_path / "second.mp4", 50, g="25", bf="2"), tmp_path / "long.mp4"
    with av.open(str(short)) as a, av.open(str(path), "w") as b:
        stream = a.streams.video[0]
        out = b.add_stream_from_template(stream)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in a.demux(stream) if p.size]
        span = round(2 / stream.time_base)
        for turn in range(600):
            for content, pts, dts, is_key in packets:
                packet = av.Packet(content)
                packet.pts, packet.dts, packet.is_keyframe = pts + turn * span, dts + turn * span, is_key
                packet.time_base, packet.stream = stream.time_base, out
                b.mux(packet)
    return path


def test_a_clip_from_the_midst_of_a_long_film_reads_what_it_needs(long):
    first = film.Film(lambda: str(long), None, lambda *_: None, lambda _: None)
    assert len(first.table.order) == 30_000 and len(first.table.entries) == 1200
    entry = int(first.table.entries[700])
    again = film.Film(lambda: str(long), first.table, lambda *_: None, lambda _: None)
    demuxed = []
    plain = again._demux
    again._demux = lambda: (demuxed.append(p.size) or p for p in plain())
    assert next(again.play(entry))[0] == entry
    assert len(demuxed) < 100


def test_the_list_of_a_long_films_packets_is_kept_and_damage_to_it_is_repaired(long, tmp_path):
    reader = VideoReader((8, 36, 64), stride=1, cache=str(tmp_path / "cache"), keep_bytes=1 << 20)
    assert reader.prepared(str(long)) is None
    x = reader.read(str(long), [at(20_003)])[0].x
    assert numbers(x) == [n % 50 for n in range(20_003, 20_011)]
    (kept,) = (tmp_path / "cache" / "films").iterdir()
    assert film_table.load(kept).times[-1] == pytest.approx(29_999 / 25)
    kept.write_bytes(kept.read_bytes()[:1000])
    assert film_table.load(kept) is None
    assert torch.equal(reader.read(str(long), [at(20_003)])[0].x, x)
    assert film_table.load(kept) is not None


def test_a_film_of_more_frames_than_one_answer_holds_is_kept_piece_by_piece(tmp_path):
    path = str(write(tmp_path / "a.mp4", 50))
    size, small = (8, 36, 64), {"memory_bytes": 1 << 30}
    reader = VideoReader(size, stride=1, short_side=0, cache=str(tmp_path / "cache"), keep_bytes=1 << 30, **small)
    reader.memory_bytes = 4 * 7 * 72 * 128 * 3  # seven frames in an answer
    entry = reader.prepared(path)
    whole = VideoReader(size, stride=1, short_side=0, cache=str(tmp_path / "other")).prepared(path)
    assert entry.array.shape == (50, 72, 128, 3) and np.array_equal(entry.array, whole.array)
