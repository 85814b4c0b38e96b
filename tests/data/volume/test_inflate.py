"""Bytes out of gzip and plain files: all of them, in order, and nothing that only looks whole."""

import gzip
import struct
import zlib

import numpy as np
import pytest

from mae_ext.data.volume.inflate import MAX_TRAILING, MOST_PER_BYTE, PIECE, Source
from mae_ext.errors import BadSample

# Larger than a piece.
BYTES = np.random.default_rng(0).integers(0, 64, (1 << 20) + 12_345, dtype=np.uint8).tobytes()


def taken(source, *counts):
    return [source.read(count).tobytes() for count in counts]


def to_the_end(content, count):
    source = Source("a.nii.gz", content)
    source.read(count)
    source.finish()


def refused(content, count, kind, told):
    with pytest.raises(BadSample, match=told) as info:
        to_the_end(content, count)
    assert (info.value.path, info.value.kind) == ("a.nii.gz", kind)


@pytest.mark.parametrize("packed", [True, False])
def test_reads_follow_one_another_and_give_every_byte(packed):
    content = gzip.compress(BYTES) if packed else BYTES
    assert len(BYTES) > PIECE
    source = Source("a", content)
    assert source.compressed is packed
    parts = taken(source, 4, 344, 100_000, 0, len(BYTES) - 100_348)
    source.finish()
    assert b"".join(parts) == BYTES


def test_gzip_is_known_by_its_first_bytes_unless_it_is_said():
    raw = b"\x1f\x8b" + bytes(10)
    assert taken(Source("a", raw, compressed=False), 12) == [raw]
    assert taken(Source("a", memoryview(gzip.compress(b"abc"))), 3) == [b"abc"]


def test_several_members_are_one_stream_and_padding_after_them_is_none():
    content = gzip.compress(BYTES[:1000]) + gzip.compress(b"") + gzip.compress(BYTES[1000:5000]) + bytes(700)
    source = Source("a", content)
    assert b"".join(taken(source, 10, 3000, 1990)) == BYTES[:5000]
    source.finish()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 500])
def test_a_stream_without_its_end_is_truncated_though_all_voxels_are_there(cut):
    refused(gzip.compress(BYTES)[:-cut], 100_000, "truncated", "has no end|ends after")


def test_a_wrong_checksum_is_found_at_the_end_whatever_was_asked_for():
    content = bytearray(gzip.compress(BYTES))
    content[-8] ^= 1
    refused(bytes(content), 100_000, "damaged", "checksum")
    content = bytearray(gzip.compress(BYTES[:1000]) + gzip.compress(BYTES[1000:2000]))
    content[-8] ^= 1
    refused(bytes(content), 500, "damaged", "checksum")  # that of the second member


def test_a_broken_stream_is_not_called_a_wrong_checksum():
    content = bytearray(gzip.compress(BYTES))
    content[10:40] = bytes(30)
    refused(bytes(content), 1000, "damaged", "the gzip stream is broken")


def test_a_count_that_cannot_be_there_is_refused_before_anything_is_allocated():
    packed = gzip.compress(bytes(1 << 20))
    most = (len(packed) + 64) * MOST_PER_BYTE
    refused(packed, most + 1, "truncated", f"declares {most + 1} bytes of voxels, {len(packed)} compressed bytes")
    assert len(Source("a", packed).read(1 << 20)) == 1 << 20
    refused(packed, (1 << 20) + 1, "truncated", "ends after 1048576 of 1048577 bytes")
    refused(b"abc", 4, "truncated", "declares 4 bytes of voxels, 3 bytes are left")
    source = Source("a", b"abcdef")
    source.read(4)
    with pytest.raises(BadSample, match="2 bytes are left"):
        source.read(3)


def test_what_follows_the_voxels_is_read_to_the_limit_and_no_further():
    source = Source("a", gzip.compress(b"abc" + bytes(MAX_TRAILING)))
    assert taken(source, 3) == [b"abc"]
    source.finish()
    refused(gzip.compress(b"abc" + bytes(MAX_TRAILING + 1)), 3, "damaged", f"more than {MAX_TRAILING} bytes follow")
    plain = Source("a", b"abc" + bytes(9))
    plain.read(3)
    plain.finish()


def test_a_header_with_a_name_is_passed_over():
    body = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = body.compress(b"voxels") + body.flush()
    head = b"\x1f\x8b\x08\x08" + bytes(4) + b"\0\x03" + b"scan.nii\0"
    tail = struct.pack("<II", zlib.crc32(b"voxels"), 6)
    source = Source("a", head + deflated + tail)
    assert taken(source, 6) == [b"voxels"]
    source.finish()
