"""The frame of a film that has a number is the one that a player shows, whatever its container and codec make of it."""

import re
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from data.video.numbered_clips import at, numbers, write

from mae_ext.data.crops import center_sampler
from mae_ext.data.sources.table import list_items
from mae_ext.data.video import film_table
from mae_ext.data.video.bitstream import is_hidden
from mae_ext.data.video.reader import VideoReader
from mae_ext.errors import BadSample

COUNT = 60
OPEN = {"g": "12", "x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3"}
STRIPS = {"x264-params": "intra-refresh=1:keyint=12:bframes=2"}
HEVC = {"x265-params": "keyint=12:min-keyint=12:log-level=none"}
FILMS = {
    "avi with B-frames": ("a.avi", "libx264", {"bf": "3"}),
    "mpeg4 avi with B-frames": ("b.avi", "mpeg4", {"bf": "2", "g": "12"}),
    "open groups": ("c.mp4", "libx264", OPEN),
    "open groups without a pyramid": ("d.mkv", "libx264", {"x264-params": OPEN["x264-params"] + ":b-pyramid=none"}),
    "open groups in avi": ("e.avi", "libx264", OPEN),
    "refreshed in strips": ("f.mp4", "libx264", STRIPS),
    "hevc, open groups": ("g.mp4", "libx265", HEVC),
    "hevc in a transport stream": ("h.ts", "libx265", HEVC),
    "wmv": ("i.wmv", "wmv2", {"g": "12"}),
    "mpeg2 in a program stream": ("j.mpg", "mpeg2video", {"bf": "2", "g": "12"}),
    "h264 in a transport stream": ("k.ts", "libx264", {}),
    "vp9": ("l.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return lambda kind: _written(folder / FILMS[kind][0], *FILMS[kind][1:])


def _written(path, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec} encoder")
    return path if path.exists() else write(path, COUNT, codec, **options)


@pytest.fixture(scope="module")
def readers():
    """The same children serve many tests."""
    made = {}
    return lambda **how: made.setdefault(tuple(how.items()), VideoReader((8, 36, 64), **({"stride": 1} | how)))


def remuxed(source, target, start=0, change=lambda number, packet: packet, template=None):
    """A copy of the packets from a number on, each changed."""
    with av.open(str(source)) as a, av.open(str(target), "w") as b:
        stream = a.streams.video[0]
        out = b.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in a.demux(stream) if p.size):
            if number >= start and (packet := change(number, packet)) is not None:
                packet.stream = out
                b.mux(packet)
    return target


@pytest.mark.parametrize("kind", FILMS)
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_clip_of_an_intact_film_has_the_frames_that_were_asked_for(films, readers, kind, decoder):
    for first in (0, 5, 11, 12, 13, 23, 30, 37, 46, 52):
        got = readers(decoder=decoder).read(str(films(kind)), [at(first)])[0].x
        assert numbers(got) == list(range(first, first + 8)), first


@pytest.mark.parametrize("kind", ["open groups", "hevc, open groups", "refreshed in strips", "wmv"])
def test_a_clip_has_the_same_bytes_from_wherever_decoding_began_and_from_the_cache(films, readers, kind, tmp_path):
    plain, cached = readers(), VideoReader((8, 36, 64), stride=1, cache=str(tmp_path))
    for first in (3, 13, 25, 40):
        crops = [at(first)]
        assert torch.equal(plain.read(str(films(kind)), crops)[0].x, cached.read(str(films(kind)), crops)[0].x)


def test_times_of_a_film_whose_packets_were_only_counted_are_even(films, readers):
    with readers().children.open(str(films("avi with B-frames")), None, "auto") as opened:
        assert opened.clip.times - opened.clip.times[0] == pytest.approx(np.arange(COUNT) / 25)


def test_frames_without_any_times_follow_each_other_at_the_films_rate():
    listing = film_table.Listing("mpeg4", b"", 0.001, 12.5, False)
    none = np.full(3, film_table.NONE)
    assert listing._times(none, none).tolist() == [0, 0.08, 0.16]
    assert listing._times(none, np.array([80, 0, 40])).tolist() == pytest.approx([0, 0.04, 0.08])


def test_a_packet_of_two_pictures_and_one_of_none_are_two_frames(readers, tmp_path):
    """DivX's and XviD's way with B-frames in AVI; the files of UCF101 have it."""
    source = write(tmp_path / "one_b.avi", COUNT, "mpeg4", bf="1", g="12")
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        packets = [bytes(p) for p in container.demux(stream) if p.size]
        with av.open(str(tmp_path / "packed.avi"), "w") as target:
            out = target.add_stream_from_template(stream)
            for number, content in enumerate(_packed(packets)):
                packet = av.Packet(content)
                packet.stream, packet.pts, packet.dts, packet.time_base = out, number, number, Fraction(1, 25)
                packet.is_keyframe = _kind(content) == 0
                target.mux(packet)
    for first in (0, 9, 20, 41):
        assert numbers(readers().read(str(tmp_path / "packed.avi"), [at(first)])[0].x) == list(range(first, first + 8))


def _kind(content):
    """0, 1, 2: an I, P or B picture."""
    return content[content.index(b"\0\0\1\xb6") + 4] >> 6


def _packed(packets):
    is_first = True
    while packets:
        content, *packets = packets
        if is_first:
            picture_at = content.index(b"\0\0\1\xb6")
            header = content[: content.find(b"\0\0\1\xb2")] if b"\0\0\1\xb2" in content else content[:picture_at]
            content, is_first = header + b"\0\0\1\xb2DivX503b1393p\0" + content[picture_at:], False
        if packets and _kind(content) != 2 and _kind(packets[0]) == 2:
            yield content + packets.pop(0)
            yield b"\0\0\1\xb6\x50\x7f"  # a picture that says "nothing new"
        else:
            yield content


def test_a_stream_received_from_its_midst_on_begins_with_the_first_frame_that_decodes(films, readers, tmp_path):
    content, cut = films("h264 in a transport stream").read_bytes(), tmp_path / "cut.ts"
    cut.write_bytes(content[: 188 * 3] + content[188 * (len(content) // 188 // 5) :])
    with av.open(str(cut)) as container:
        shown = sum(1 for _ in container.decode(video=0))
    got = numbers(readers().read(str(cut), [center_sampler((8, 36, 64))])[0].x)
    assert shown % 12 == 0 and shown < COUNT and got[0] == COUNT - shown and got[-1] == COUNT - 1
    first = numbers(readers().read(str(cut), [at(0)])[0].x)
    assert first == list(range(COUNT - shown, COUNT - shown + 8))


@pytest.mark.parametrize(
    ("kind", "suffix"), [("hevc, open groups", "mkv"), ("open groups", "mkv"), ("open groups", "ts")]
)
def test_a_copy_that_begins_at_a_key_frame_of_an_open_group_is_shown_from_it_on(films, readers, tmp_path, kind, suffix):
    with av.open(str(films(kind))) as container:
        packets = [(p.pts, p.is_keyframe) for p in container.demux(video=0) if p.size]
        base = container.streams.video[0].time_base
    start = [i for i, (_, is_key) in enumerate(packets) if is_key][2]
    shown = round(packets[start][0] * base * 25) - round(min(pts for pts, _ in packets) * base * 25)
    path = remuxed(films(kind), tmp_path / "cut.mkv", start)
    got = numbers(readers().read(str(path), [center_sampler((8, 36, 64))])[0].x)
    assert 20 < shown < 40 and (got[0], got[-1]) == (shown, COUNT - 1)


def test_frames_that_are_only_there_for_others_are_not_counted(readers, tmp_path):
    """VP8's alternative references are packets of their own, which a bit of their first byte hides."""
    path = write(tmp_path / "a.webm", COUNT, "libvpx", **{"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"})
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    hidden = [number for number, content in enumerate(packets) if is_hidden("vp8", memoryview(content))]
    assert len(packets) - len(hidden) == COUNT
    for first in (0, 20, 52):
        assert numbers(readers().read(str(path), [at(first)])[0].x) == list(range(first, first + 8))


MATRICES = {
    "a quarter turn": ((0, 1, -1, 0), lambda x: x.rot90(-1, (2, 3))),
    "half a turn": ((-1, 0, 0, -1), lambda x: x.rot90(2, (2, 3))),
    "three quarters": ((0, -1, 1, 0), lambda x: x.rot90(1, (2, 3))),
    "left for right": ((-1, 0, 0, 1), lambda x: x.flip(3)),
    "upside down": ((1, 0, 0, -1), lambda x: x.flip(2)),
    "rows for columns": ((0, 1, 1, 0), lambda x: x.transpose(2, 3)),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_a_film_is_shown_as_its_display_matrix_says_mirrors_included(readers, tmp_path, kind):
    """A pixel at (x, y) is shown at (a x + c y, b x + d y)."""
    (a, b, c, d), turn = MATRICES[kind]
    content = bytearray(write(tmp_path / "plain.mp4", 12).read_bytes())
    where = content.index(b"tkhd") + 44
    content[where : where + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    size = (4, 72, 128) if a else (4, 128, 72)
    plain = (
        VideoReader((4, 72, 128), stride=1, short_side=0).read(str(tmp_path / "plain.mp4"), [at(0, (4, 72, 128))])[0].x
    )
    turned = VideoReader(size, stride=1, short_side=0).read(str(tmp_path / "turned.mp4"), [at(0, size)])[0].x
    assert torch.equal(turned, turn(plain)) and not torch.equal(turned, turn(plain).flip(2))


def test_where_packets_mislead_in_silence_all_frames_are_counted(films, tmp_path):
    """Times in the order that packets are stored in, as a copy out of AVI leaves them."""
    path = remuxed(films("open groups"), tmp_path / "a.mkv", change=_stored_order)
    for decoder in ("auto", "decord"):
        for first in (0, 17, 40):
            got = VideoReader((8, 36, 64), stride=1, decoder=decoder).read(str(path), [at(first)])[0].x
            assert numbers(got) == list(range(first, first + 8))


def _stored_order(number, packet):
    packet.pts = packet.dts = round(Fraction(number + 1, 25) / packet.time_base)
    return packet


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_film_that_changes_its_size_midway_is_scaled_to_that_of_its_first_frame(readers, tmp_path, decoder):
    """As broadcasts and recorded calls do. VP8 says its size with each key frame."""
    first, second = (write(tmp_path / f"{n}.webm", 12, "libvpx", size=(72 * n, 128 * n), g="12") for n in (1, 2))
    path = tmp_path / "both.mkv"
    with av.open(str(first)) as a, av.open(str(second)) as b, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(a.streams.video[0])
        for number, packet in enumerate(p for source in (a, b) for p in source.demux(video=0) if p.size):
            packet.stream, packet.pts, packet.dts, packet.time_base = (
                stream,
                number * 40,
                number * 40,
                Fraction(1, 1000),
            )
            out.mux(packet)
    read = readers(decoder=decoder).read
    assert numbers(read(str(path), [at(8)])[0].x) == [8, 9, 10, 11, 0, 1, 2, 3]
    assert numbers(read(str(path), [at(14)])[0].x) == list(range(2, 10))


@pytest.mark.parametrize(
    ("container", "names"),
    [("mp4", "qt f4v 3g2"), ("mpegts", "mts m2t"), ("mpeg", "vob mpe"), ("asf", "asf"), ("avi", "divx")],
)
def test_a_container_that_is_read_is_read_by_its_other_names_too(readers, tmp_path, container, names):
    """As cameras (AVCHD), DVDs and old players call them."""
    codec = {"asf": "wmv2", "mpeg": "mpeg2video"}.get(container, "mpeg4")
    suffix = {"mpegts": "ts", "mpeg": "mpg", "asf": "wmv"}.get(container, container)
    content = write(tmp_path / f"a.{suffix}", 12, codec, g="12", bf="0").read_bytes()
    for name in names.split():
        (tmp_path / f"a.{name.upper()}").write_bytes(content)
    found = list(list_items(str(tmp_path), readers().suffixes).addresses)
    assert len(found) == 1 + len(names.split())
    for address in found:
        assert numbers(readers().read(address, [at(0)])[0].x) == list(range(8))


def test_a_film_that_begins_late_is_not_taken_for_one_whose_end_is_missing(readers, tmp_path):
    """Pieces of a fragmented MP4 after its header, and WMV and AVI whose first picture is not at zero."""
    whole, pieces = tmp_path / "whole.mp4", tmp_path / "pieces.mp4"
    write(tmp_path / "a.mp4", COUNT, g="12", bf="0")
    with av.open(str(tmp_path / "a.mp4")) as a, av.open(str(whole), "w", options={"movflags": "dash+cmaf"}) as b:
        out = b.add_stream_from_template(a.streams.video[0])
        for packet in a.demux(video=0):
            if packet.size:
                packet.stream = out
                b.mux(packet)
    content = whole.read_bytes()
    boxes = [m.start() - 4 for m in re.finditer(b"moof", content)]
    header = bytearray(content[: boxes[0]])
    at_seconds = header.index(b"mvhd") + 4 + 16
    scale = int.from_bytes(header[at_seconds - 4 : at_seconds], "big")
    header[at_seconds : at_seconds + 4] = (COUNT * scale // 25).to_bytes(4, "big")
    pieces.write_bytes(bytes(header) + content[boxes[2] :])
    assert numbers(readers().read(str(pieces), [at(0)])[0].x) == list(range(24, 32))
    late = write(tmp_path / "b.wmv", 20, "wmv2", shift=1000, g="12")
    assert numbers(readers().read(str(late), [at(0)])[0].x) == list(range(8))
    # An AVI counts the frames that it leaves out at its beginning too: here 100, and then 20 of 120.
    listing = film_table.Listing("mpeg4", b"", 1 / 25, 25, False)
    listing.rows = [(number, number, -1, 9) for number in range(100, 120)]
    listing.check_length(120, 0, 0, from_zero=True)
    with pytest.raises(film_table.Bad, match="120 of 150"):
        listing.check_length(150, 0, 0, from_zero=True)


def test_a_key_frame_that_does_not_decode_is_damage_and_no_cut(tmp_path):
    path = write(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        first = next(p for p in container.demux(video=0) if p.size)
        where, size = first.pos, first.size
    content = path.read_bytes()
    path.write_bytes(content[:where] + bytes(size) + content[where + size :])
    with pytest.raises(BadSample) as caught:
        VideoReader((8, 36, 64), stride=1).read(str(path), [at(30)])
    assert caught.value.kind == "damaged"


def test_pictures_painted_on_nothing_for_lack_of_a_key_frame_are_left_out(readers, tmp_path):
    """MPEG-4's decoder shows them, grey with what moves; a film begins with its first key frame."""
    path = remuxed(write(tmp_path / "a.mkv", COUNT, "mpeg4", g="12"), tmp_path / "cut.mkv", 5)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == COUNT - 5
    for first in (0, 30, 40):
        assert numbers(readers().read(str(path), [at(first)])[0].x) == list(range(12 + first, 20 + first))


@pytest.mark.parametrize("codec", ["msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "flv", "h263p"])
def test_an_avi_without_its_index_marks_all_packets_and_is_believed_in_none(readers, tmp_path, codec):
    whole, path = write(tmp_path / "a.avi", 40, codec, g="12", bf="0"), tmp_path / "cut.avi"
    content = whole.read_bytes()
    path.write_bytes(content[: content.rindex(b"idx1")])
    with av.open(str(path)) as container:
        assert all(p.is_keyframe for p in container.demux(video=0) if p.size)
    for first in (5, 17, 31):
        assert numbers(readers().read(str(path), [at(first)])[0].x) == list(range(first, first + 8))
