"""The index of a shard is kept, trusted only while the shard is the same, and whole or not there."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from data.sources.test_remote import JPG, LIMIT, pack

from mae_ext.data.sources import archive, shard_index
from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.table import list_items
from mae_ext.errors import UserError


@pytest.fixture
def shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of one shard large enough for its index to be kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    pack(tmp_path / "set" / "a.tar", seed=1, count=60)
    return tmp_path / "set" / "a.tar"


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no shard is gone through."""

    def refuse(*args: object) -> None:
        raise AssertionError("the shard was read again")

    monkeypatch.setattr(archive, "list_tar", refuse)


def kept(shard: Path) -> list[Path]:
    return sorted((shard.parent / ".mae_ext").glob("*"))


def listed(shard: Path) -> tuple[list[str], list[int], tuple[str, ...]]:
    items = list_items(str(shard), JPG)
    assert items.labels is not None
    return list(items.addresses), items.labels.tolist(), items.classes


def test_a_shard_is_gone_through_once(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = listed(shard)
    assert [path.name.split(".")[:2] for path in kept(shard)] == [["a", "tar"]]
    unread(monkeypatch)
    assert listed(shard) == first
    os.chdir(shard.parent)
    assert listed(Path("a.tar"))[1:] == first[1:]  # however it is called


def test_what_was_passed_over_is_said_the_second_time_too(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.jpg", "c.tiff", "d.jpg"):
        with tarfile.open(shard, "a") as tar:
            tar.addfile(tarfile.TarInfo(name))
    first = list_items(str(shard), JPG)
    unread(monkeypatch)
    assert dict(first.ignored) == dict(list_items(str(shard), JPG).ignored) == {".tiff": 1}


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_shard_that_changed_is_gone_through_again(shard: Path, change: str) -> None:
    before = listed(shard)
    if change == "content":
        pack(shard, seed=2, count=60)
        assert listed(shard) != before
        assert all(len(fetch(address, LIMIT)) for address in listed(shard)[0])
    else:
        (index,) = kept(shard)
        made = index.stat().st_mtime_ns
        os.utime(shard, ns=(1, 1))
        assert listed(shard) == before and index.stat().st_mtime_ns > made


def test_a_shard_that_took_anothers_place_under_its_size_and_time_is_gone_through_again(shard: Path) -> None:
    first, status = listed(shard), shard.stat()
    other = shard.with_name("b.tar")
    pack(other, seed=2)
    with other.open("ab") as file:
        file.truncate(status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(shard)
    assert listed(shard) != first
    assert all(len(fetch(address, LIMIT)) for address in listed(shard)[0])


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "other text"])
def test_an_index_that_is_damaged_is_made_anew(shard: Path, damage: str) -> None:
    before = listed(shard)
    (index,) = kept(shard)
    whole = index.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    index.write_bytes({"cut": whole[:-9], "empty": b"", "a bit": bytes(flipped), "other text": b"x" * 999}[damage])
    assert listed(shard) == before and index.read_bytes() == whole


def test_what_is_read_of_a_shard_has_an_index_of_its_own(shard: Path) -> None:
    listed(shard)
    list_items(f"{shard}::jpg", JPG)
    assert len(kept(shard)) == 2


def test_an_index_lies_in_the_users_cache_where_the_folder_is_read_only(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard.parent / ".mae_ext").write_text("")  # a file where the folder would be: nobody, not even root, can write
    before = listed(shard)
    assert len(list((tmp_path / "cache" / "mae_ext" / "shards").glob("*.index"))) == 1
    unread(monkeypatch)
    assert listed(shard) == before


def test_where_nothing_can_be_written_shards_are_listed_all_the_same(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard.parent / ".mae_ext").write_text("")
    (tmp_path / "cache").write_text("")
    assert len(listed(shard)[0]) == 60


def test_the_folder_of_an_index_is_no_sample_and_nothing_that_is_passed_over(shard: Path) -> None:
    listed(shard)
    assert dict(list_items(str(shard.parent), JPG).ignored) == {}


def test_small_shards_leave_nothing_beside_them(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", seed=1, count=3)
    assert len(list_items(str(tmp_path), JPG)) == 3 and [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_a_process_that_was_killed_while_it_wrote_leaves_nothing_in_the_way(shard: Path) -> None:
    before = listed(shard)
    (index,) = kept(shard)
    index.rename(index.with_name(f"{index.name}.tmp"))  # as far as it came, and never named
    assert listed(shard) == before and kept(shard) == [index]


def test_ranks_that_begin_together_go_through_a_shard_once(shard: Path) -> None:
    program = (
        "import sys; from mae_ext.data.sources import archive; from mae_ext.data.sources.table import list_items\n"
        "made = archive.list_tar\n"
        "archive.list_tar = lambda *a: (print('read'), made(*a))[1]\n"
        "print(len(list_items(sys.argv[1], ('.jpg',))))"
    )
    ranks = [subprocess.Popen([sys.executable, "-c", program, shard], stdout=subprocess.PIPE) for _ in range(2)]
    said = [rank.communicate(timeout=120)[0].decode().split() for rank in ranks]
    assert sorted(said, key=len) == [["60"], ["read", "60"]]


def test_a_shard_that_changes_while_it_is_listed_is_refused(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = archive.list_tar

    def slow(*args: object) -> object:
        yield from made(*args)
        os.utime(shard, ns=(2, 2))

    monkeypatch.setattr(archive, "list_tar", slow)
    with pytest.raises(UserError, match="changed while it was listed"):
        listed(shard)


def test_an_index_says_what_it_is_of(shard: Path) -> None:
    listed(shard)
    (index,) = kept(shard)
    content = index.read_bytes()
    begin = len(shard_index.MAGIC) + shard_index.DIGEST
    length = int.from_bytes(content[begin : begin + 8], "little")
    what = json.loads(json.loads(content[begin + 8 : begin + 8 + length])["what"])
    status = shard.stat()
    assert what == [f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}", [".jpg"], None]
