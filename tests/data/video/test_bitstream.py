"""Key frames, and frames that are not shown, are told from the bytes of their packets."""

import av
from data.video.numbered_clips import write

from mae_ext.data.video.bitstream import can_begin, is_hidden


def test_a_key_frame_is_told_from_the_bytes_of_its_packet_whatever_its_container_marks(tmp_path):
    kinds = {"mpeg1video": "mpg", "mpeg2video": "ts", "libvpx": "mkv", "libtheora": "ogv", "libaom-av1": "mkv"}
    for codec, suffix in {**kinds, "h263": "3gp", "flv": "flv", "wmv2": "wmv"}.items():
        if codec not in av.codecs_available:
            continue
        fast = {"cpu-used": "8", "usage": "realtime"} if codec == "libaom-av1" else {}
        path = write(tmp_path / f"{codec}.{suffix}", 20, codec, size=(96, 128), g="8", bf="0", **fast)
        with av.open(str(path)) as container:
            packets = [(p.is_keyframe, bytes(p)) for p in container.demux(video=0) if p.size]
            name = container.streams.video[0].codec_context.name
        told = [can_begin(name, b"", memoryview(content)) for _, content in packets]
        assert told == [is_key for is_key, _ in packets] and 2 <= sum(told) < 10, codec


def test_of_vp9_with_all_colours_and_ten_bits_the_header_has_a_bit_more():
    """A frame marker, 10, and the profile, low bit first; of profile 3 a zero; then shown again, predicted, shown."""
    for shown_key, shown, hidden in (
        (0b10_00_0010, 0b10_00_0110, 0b10_00_0100),
        (0b10_11_0_001, 0b10_11_0_011, 0b10_11_0_010),
    ):
        key, later, unseen = (memoryview(bytes([first, 0, 0])) for first in (shown_key, shown, hidden))
        assert [can_begin("vp9", b"", packet) for packet in (key, later, unseen)] == [True, False, False]
        assert [is_hidden("vp9", packet) for packet in (key, later, unseen)] == [False, False, True]


def test_a_refresh_in_strips_is_no_place_to_begin_and_a_promise_to_be_right_at_once_is():
    idr, strips, at_once = (
        bytes.fromhex(h) for h in ("000001658880", "000001060601208000000141", "00000106060184800000000141")
    )
    assert can_begin("h264", b"", memoryview(idr)) and can_begin("h264", b"", memoryview(at_once))
    assert not can_begin("h264", b"", memoryview(strips)) and not can_begin("h264", b"", memoryview(b"\0\0\1\x41\x9a"))
    units = b"\1" + bytes(3) + b"\xff" + bytes(2)  # four bytes of length before each unit
    assert can_begin("h264", units, memoryview(b"\0\0\0\2\x65\x88"))
    assert not can_begin("unheard of", b"", memoryview(idr))
    intra, predicted = (memoryview(b"\0\0\1\xb0\1\0\0\1\xb6" + kind) for kind in (b"\x10", b"\x56"))
    assert can_begin("mpeg4", b"", intra) and not can_begin("mpeg4", b"", predicted)
