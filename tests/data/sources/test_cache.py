"""The cache serves what was built from exactly this source in exactly this way, or builds it again."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mae_ext.data.loading.sandbox import forkserver
from mae_ext.data.sources.cache import Cache, Entry, keeping, source_identity
from mae_ext.errors import BadSample, UserError

KEY = {"source": {"size": 3, "ends": "ab"}, "transform": {"short_side": 256}}


def made(seed=0, shape=(3, 5, 7), dtype=np.int16):
    array = np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)
    return Entry(array, {"times": [0.0, 0.04, 0.1], "seed": seed})


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def build_of(entry, calls):
    def build():
        calls.append(1)
        return entry

    return build


@pytest.mark.parametrize("shape", [(11,), (2, 3), (3, 5, 7), (2, 3, 5, 7), (0, 4)])
@pytest.mark.parametrize("dtype", ["u1", "<i2", "<f4", "?"])
def test_what_comes_out_is_what_went_in_whatever_the_axes_and_the_dtype(cache, shape, dtype):
    entry = made(1, shape, np.dtype(dtype))
    found = cache.get_or_build({"shape": list(shape), "dtype": dtype}, lambda: entry)
    assert found.array.dtype == entry.array.dtype
    np.testing.assert_array_equal(found.array, entry.array)
    assert found.meta == entry.meta


def test_an_entry_is_built_once_and_then_mapped_read_only(cache):
    calls = []
    first = cache.get_or_build(KEY, build_of(made(), calls))
    again = Cache(cache.root).get_or_build(KEY, build_of(made(9), calls))
    assert len(calls) == 1
    assert isinstance(first.array, np.memmap) and isinstance(again.array, np.memmap)
    np.testing.assert_array_equal(again.array, made().array)
    with pytest.raises(ValueError, match="read-only"):
        again.array[0, 0, 0] = 1


@pytest.mark.parametrize(
    "change", [{"source": {"size": 4, "ends": "ab"}}, {"transform": {"short_side": 128}}, {"version": 2}]
)
def test_another_source_or_another_transform_is_another_entry(cache, change):
    cache.get_or_build(KEY, lambda: made(0))
    found = cache.get_or_build(KEY | change, lambda: made(1))
    np.testing.assert_array_equal(found.array, made(1).array)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_entry_is_noticed_and_built_again(cache, seed):
    cache.get_or_build(KEY, made)
    path = cache.path(KEY)
    content, chance = bytearray(path.read_bytes()), np.random.default_rng(seed)
    if seed % 2:
        content = content[: int(chance.integers(0, len(content)))]
    else:
        used = np.flatnonzero(np.frombuffer(bytes(content), np.uint8))  # the padding carries nothing
        content[int(chance.choice(used))] ^= 1 << int(chance.integers(8))
    path.write_bytes(content)
    fresh = Cache(cache.root)
    assert fresh.get(KEY) is None
    np.testing.assert_array_equal(fresh.get_or_build(KEY, made).array, made().array)
    assert fresh.get(KEY) is not None


def test_an_entry_that_was_swapped_for_another_is_not_served(cache):
    other = KEY | {"version": 2}
    cache.get_or_build(KEY, lambda: made(0))
    cache.get_or_build(other, lambda: made(1))
    cache.path(other).replace(cache.path(KEY))
    assert cache.get(KEY) is None


def test_what_a_build_raises_goes_through_and_leaves_nothing(cache):
    def fail():
        raise BadSample("x.mp4", "damaged")

    with pytest.raises(BadSample):
        cache.get_or_build(KEY, fail)
    assert not cache.root.exists() or not [p for p in cache.root.rglob("*") if p.is_file()]


def test_where_nothing_can_be_written_the_array_is_used_all_the_same(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    found = Cache(tmp_path / "file").get_or_build(KEY, made)
    np.testing.assert_array_equal(found.array, made().array)
    assert "not kept" in caplog.text


def _write_many(root, start):
    start.wait()
    for i in range(20):
        Cache(root).get_or_build({"i": i}, lambda i=i: made(i, (64, 64)))


def test_two_writers_at_once_leave_whole_entries_and_nothing_else(tmp_path):
    context = forkserver()  # not one of its own: it would be everybody's, without what workers need
    start = context.Event()
    writers = [context.Process(target=_write_many, args=(tmp_path, start)) for _ in range(2)]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    cache = Cache(tmp_path)
    for i in range(20):
        np.testing.assert_array_equal(cache.get({"i": i}).array, made(i, (64, 64)).array)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 20


def test_an_entry_is_read_from_the_disk_again_only_when_its_file_is_another(cache):
    cache.get_or_build(KEY, made)
    first = cache.get(KEY)
    assert cache.get(KEY) is first
    cache.path(KEY).write_bytes(b"damaged")
    assert cache.get(KEY) is None
    cache.get_or_build(KEY, lambda: made(1))
    np.testing.assert_array_equal(cache.get(KEY).array, made(1).array)
    cache.path(KEY).unlink()
    assert cache.get(KEY) is None


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_more_files_are_held_open_than_a_process_may_have(cache, monkeypatch):
    monkeypatch.setattr("mae_ext.data.sources.cache.MAPPED", 3)
    before = open_files()
    for i in range(10):
        cache.get_or_build({"i": i}, lambda i=i: made(i))
    assert open_files() <= before + 3
    for i in range(10):
        np.testing.assert_array_equal(cache.get({"i": i}).array, made(i).array)


def test_what_killed_writers_left_is_swept_once_it_is_old(cache):
    cache.get_or_build(KEY, made)
    left = cache.path(KEY).with_name(f".{cache.path(KEY).name}.tmp-1-ab")
    left.write_bytes(b"half")
    assert cache.sweep() == 0
    os.utime(left, (0, 0))
    assert cache.sweep() == 1
    assert cache.get(KEY) is not None


def test_a_cache_travels_to_workers_without_what_it_has_checked(cache):
    cache.get_or_build(KEY, made)
    copy = pickle.loads(pickle.dumps(cache))
    np.testing.assert_array_equal(copy.get(KEY).array, made().array)


def test_a_source_is_known_by_its_bytes_and_not_by_its_name(tmp_path):
    one, two = tmp_path / "one.bin", tmp_path / "two.bin"
    one.write_bytes(bytes(range(256)) * 1000)
    before = source_identity(str(one))
    one.rename(two)
    assert source_identity(str(two)) == before
    status = two.stat()
    for change in (b"another beginning", b""):
        two.write_bytes(change + two.read_bytes()[len(change) :][: None if change else -1])
        os.utime(two, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert source_identity(str(two)) != before
    # Between its ends, which alone are read, a change shows in the time.
    before, content = source_identity(str(two)), bytearray(two.read_bytes())
    content[len(content) // 2] ^= 1
    two.write_bytes(content)
    os.utime(two, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    assert source_identity(str(two)) != before
    with pytest.raises(BadSample, match="no such file"):
        source_identity(str(one))


@pytest.mark.parametrize("size", [10, 70_000, 300_000])
def test_a_change_of_the_first_or_the_last_byte_shows_whatever_the_length_and_the_time_say(tmp_path, size):
    """Of a file, and of a member in the midst of a shard, whose neighbours may change."""
    file, content = tmp_path / "a.tar", bytes(size + 600)
    whole, member = str(file), f"{file}::300+{size}::a.mp4"
    seen = {whole: set(), member: set()}
    for at in (None, 0, 300, 299 + size, size + 599):
        changed = bytearray(content)
        if at is not None:
            changed[at] = 1
        file.unlink(missing_ok=True)
        file.write_bytes(changed)
        os.utime(file, ns=(0, 0))
        for address, known in seen.items():
            known.add(source_identity(address)["ends"])
    assert len(seen[member]) == 3  # its own first and last byte
    assert len(seen[whole]) == 5


def test_rows_and_members_of_one_archive_are_different_sources(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{f"{part}_images": np.zeros((3, 4, 4), np.uint8) for part in ("train", "test")})
    rows = [f"{path}::{part}_images::{row}" for part in ("train", "test") for row in range(3)]
    assert len({str(source_identity(row)) for row in rows}) == 6
    shard = tmp_path / "b.tar"
    shard.write_bytes(os.urandom(4096))
    assert source_identity(f"{shard}::0+100::a.mp4") != source_identity(f"{shard}::100+100::b.mp4")


def test_a_cache_that_may_not_grow_serves_its_entries_and_is_left_as_it_was(cache, caplog):
    cache.get_or_build(KEY, made)
    reading = Cache(cache.root)
    reading.keeps = "never"
    calls = []
    np.testing.assert_array_equal(reading.get_or_build(KEY, build_of(made(9), calls)).array, made().array)
    np.testing.assert_array_equal(
        reading.get_or_build(KEY | {"version": 2}, build_of(made(1), calls)).array, made(1).array
    )
    assert calls == [1]
    assert list(cache.root.rglob("*.array")) == [cache.path(KEY)]
    damaged = b"damaged"
    cache.path(KEY).write_bytes(damaged)
    np.testing.assert_array_equal(Cache.get_or_build(reading, KEY, lambda: made(2)).array, made(2).array)
    assert cache.path(KEY).read_bytes() == damaged and "is not used" in caplog.text


def test_a_cache_that_must_keep_everything_says_what_it_could_not(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = keeping(Holder(Cache(tmp_path / "file")), "always").cache
    with pytest.raises(UserError, match=r"file: cannot be written to: Not a directory; make room, and run it again"):
        cache.get_or_build(KEY, made)
    assert keeping(Holder(None), "always").cache is None


@dataclass
class Holder:
    """As a reader holds its cache."""

    cache: Cache | None
