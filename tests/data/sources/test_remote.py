"""Shards at an address are read as those on a disk, whatever happens on the way; what cannot be says so, and no key."""

import io
import pickle
import random
import tarfile
import threading
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from data.sources.faulty_server import FAULTS, Store, every, serving

from mae_ext.data.loading import doctor
from mae_ext.data.sources import remote
from mae_ext.data.sources.address import fetch, head, locate
from mae_ext.data.sources.cache import source_identity
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, RunError, StoreError, UserError

pytest.importorskip("aiohttp", reason="mae-ext[remote] is not installed")
JPG = (".jpg",)
LIMIT = 1 << 30


def pack(path: Path, seed: int, count: int = 12, most: int = 60_000) -> None:
    chance = random.Random(seed)
    with tarfile.open(path, "w") as tar:
        for i in range(count):
            for suffix, content in ((".jpg", chance.randbytes(chance.randrange(1, most))), (".cls", b"%d" % (i % 3))):
                info = tarfile.TarInfo(f"{seed}/{i:03d}{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "ATTEMPT_S", 0.6)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    (tmp_path / "store").mkdir()
    for seed in range(3):
        pack(tmp_path / "store" / f"{seed:03d}.tar", seed)
    with serving(tmp_path / "store") as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.3)


def forget() -> None:
    """As a process that has just begun."""
    for known in (remote._expected, remote._checked, remote._windows, remote._last):
        known.clear()


def test_samples_labels_and_their_order_are_those_of_the_disk(store: Store) -> None:
    there, here = list_items(f"{store.url}/{{000..002}}.tar", JPG), list_items(str(store.folder), JPG)
    assert [a.partition("::")[2] for a in there.addresses] == [a.partition("::")[2] for a in here.addresses]
    assert there.addresses[0].startswith(f"{store.url}/000.tar::512+")
    assert there.classes == here.classes and (there.labels == here.labels).all()
    assert all(fetch(a, LIMIT) == fetch(b, LIMIT) for a, b in zip(there.addresses, here.addresses, strict=True))


@pytest.mark.parametrize("fault", FAULTS)
def test_no_fault_of_the_way_makes_a_wrong_sample(store: Store, fault: str) -> None:
    here = list_items(str(store.folder), JPG)
    store.fault = every(3 if fault != "silent" else 12, (fault,))
    there = list_items(f"{store.url}/{{000..002}}.tar", JPG)
    order = list(range(len(here)))
    random.Random(0).shuffle(order)
    assert all(fetch(there.addresses[i], LIMIT) == fetch(here.addresses[i], LIMIT) for i in order)
    assert store.injected >= 3


def test_bytes_of_another_place_are_noticed_by_the_header_before_them(store: Store) -> None:
    there, here = list_items(f"{store.url}/000.tar", JPG), list_items(str(store.folder / "000.tar"), JPG)
    store.fault = every(2, ("wrong range",))
    store.gets = 0
    for i in (7, 2, 9, 0):
        assert fetch(there.addresses[i], LIMIT) == fetch(here.addresses[i], LIMIT)
    assert store.injected >= 3


def test_what_stays_broken_ends_the_run_and_is_not_the_files_fault(store: Store, impatient: None) -> None:
    address = list_items(f"{store.url}/000.tar", JPG).addresses[5]
    for fault in ("503", "truncated", "reset"):
        store.fault = every(1, (fault,))
        with pytest.raises(RunError, match=rf"{store.url}/000.tar: could not be read in \d+ tries over \d+ s: "):
            fetch(address, LIMIT)
    store.fault = lambda n: None
    assert len(fetch(address, LIMIT)) == int(address.partition("+")[2].partition(":")[0])


@pytest.mark.parametrize(
    ("name", "words"), [("none", r"no such object \(404\)"), ("secret", r"may not be read \(403\)")]
)
def test_a_shard_that_is_not_there_or_not_ours_is_named_at_once(store: Store, name: str, words: str) -> None:
    (store.folder / "secret.tar").write_bytes(b"")
    with pytest.raises(UserError, match=f"{store.url}/{name}.tar: .*{words}"):
        list_items(f"{store.url}/{name}.tar", JPG)
    assert len(store.requests) <= 2  # HEAD, and GET where that is refused


def test_a_store_that_is_down_is_waited_for_and_is_not_taken_for_an_empty_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.down = True
    threading.Timer(0.3, setattr, (store, "down", False)).start()
    assert len(list_items(f"{store.url}/000.tar", JPG)) == 12
    store.down = True
    monkeypatch.setattr(remote, "PATIENCE_S", 0.2)
    forget()
    with pytest.raises(RunError, match="503"):
        list_items(f"{store.url}/000.tar", JPG)


def test_a_shard_that_went_after_it_was_listed_is_named(store: Store) -> None:
    address = list_items(f"{store.url}/000.tar", JPG).addresses[0]
    (store.folder / "000.tar").unlink()
    with pytest.raises(UserError, match=r"000.tar: there is no such object \(404\)"):
        fetch(address, LIMIT)


@pytest.mark.parametrize("process", ["the same", "another"])
@pytest.mark.parametrize("when", ["before the first read", "between two"])
def test_a_shard_that_changed_after_it_was_listed_is_named(store: Store, process: str, when: str) -> None:
    table = pickle.dumps(list_items(f"{store.url}/000.tar", JPG).addresses)
    addresses = pickle.loads(table)
    if when == "between two":
        fetch(addresses[0], LIMIT)
    pack(store.folder / "000.tar", seed=9)
    if process == "another":
        forget()
        addresses = pickle.loads(table)  # which tells a worker what was listed
    with pytest.raises(RunError, match=r"000.tar changed since it was listed .* start again"):
        fetch(addresses[8], LIMIT)


def test_the_doctor_blames_no_file_for_a_shard_that_changed(store: Store) -> None:
    verdicts = doctor.inspect([f"{store.url}/000.tar"], "image")
    pack(store.folder / "001.tar", seed=9)  # another
    assert next(verdicts).kind == "not an image"
    pack(store.folder / "000.tar", seed=9)
    with pytest.raises(StoreError, match=r"000.tar changed since it was listed"):
        list(verdicts)


def test_a_process_that_was_forked_reads_with_connections_of_its_own(store: Store) -> None:
    pack(store.folder / "long.tar", seed=4, count=40)
    addresses = list_items(f"{store.url}/long.tar", JPG).addresses
    here = fetch(addresses[0], LIMIT)
    remote._windows.clear()
    forking = get_context("fork").Pool(1)  # as a DataLoader of the user's own on Linux
    with forking as pool:
        assert pool.apply_async(fetch, (addresses[0], LIMIT)).get(30) == here


def test_a_shard_that_changed_is_listed_anew(store: Store) -> None:
    before = list(list_items(f"{store.url}/000.tar", JPG).addresses)
    pack(store.folder / "000.tar", seed=9)
    forget()
    after = list_items(f"{store.url}/000.tar", JPG).addresses
    assert list(after) != before and len(fetch(after[3], LIMIT)) > 0


def test_a_shard_is_gone_through_once_and_its_index_kept(store: Store) -> None:
    first = list_items(f"{store.url}/{{000..002}}.tar", JPG)
    assert store.gets > 0
    forget()
    store.gets = 0
    again = list_items(f"{store.url}/{{000..002}}.tar", JPG)
    assert store.gets == 0 and list(again.addresses) == list(first.addresses)


def test_neighbours_in_a_shard_are_read_ahead_and_single_samples_are_not(store: Store) -> None:
    pack(store.folder / "long.tar", seed=4, count=200, most=8000)
    addresses = list_items(f"{store.url}/long.tar", JPG).addresses
    forget()
    remote.expect(addresses.versions)
    store.gets = 0
    for address in addresses:
        fetch(address, LIMIT)
    assert store.gets <= 12
    assert sum(map(len, remote._windows.values())) <= remote.WINDOWS * remote.MOST_AHEAD
    forget()
    remote.expect(addresses.versions)
    store.requests.clear()
    fetch(addresses[150], LIMIT)
    first, last = map(int, store.requests[-1][2].removeprefix("bytes=").split("-"))
    size = int(addresses[150].partition("+")[2].partition(":")[0])
    assert last - first + 1 == size + 512


def test_a_header_is_read_without_the_whole_and_what_follows_is_there_already(store: Store) -> None:
    pack(store.folder / "large.tar", seed=5, count=1, most=3 << 20)
    address = list_items(f"{store.url}/large.tar", JPG).addresses[0]
    whole = fetch(list_items(str(store.folder / "large.tar"), JPG).addresses[0], LIMIT)
    store.gets = 0
    assert head(address, 1000) == whole[:1000] and head(address, 5000) == whole[:5000] and store.gets == 1


def test_a_decoder_that_opens_files_gets_a_copy_that_does_not_stay(store: Store) -> None:
    addresses = list_items(f"{store.url}/000.tar", JPG).addresses
    files = []
    for address in addresses:
        path, offset, size = locate(address)
        assert Path(path).read_bytes()[offset : offset + size] == fetch(address, LIMIT)
        files.append(Path(path))
    assert [path.exists() for path in files] == [False] * (len(files) - 3) + [True] * 3


def test_a_cache_knows_a_sample_again_by_its_shards_version_without_reading_it(store: Store) -> None:
    addresses = list_items(f"{store.url}/000.tar", JPG).addresses
    store.gets = 0
    identities = [source_identity(address) for address in addresses]
    assert store.gets == 0 and len({str(identity) for identity in identities}) == len(addresses)


def test_a_sample_that_is_empty_or_too_large_is_a_bad_sample_without_being_read(store: Store) -> None:
    address = list_items(f"{store.url}/000.tar", JPG).addresses[0]
    store.gets = 0
    with pytest.raises(BadSample, match="too large"):
        fetch(address, 0)
    with pytest.raises(BadSample, match="empty"):
        fetch(f"{store.url}/000.tar::512+0::a.jpg", 100)
    assert store.gets == 0


def test_a_server_without_ranges_is_refused(store: Store) -> None:
    store.ranges = False
    pack(store.folder / "long.tar", seed=4, count=40)
    with pytest.raises(UserError, match="it has to know ranges"):
        list_items(f"{store.url}/long.tar", JPG)


@pytest.mark.parametrize(
    ("address", "kept"),
    [("s3://AKIA123:hunter2@bucket/a.tar", "s3://..."), ("https://me:hunter2@host/a.tar", "https://..."),
     ("https://host/a.tar?X-Amz-Signature=hunter2", "https://host/a.tar?...")],
)  # fmt: skip
def test_an_address_with_a_key_in_it_is_refused_without_repeating_it(address: str, kept: str) -> None:
    with pytest.raises(UserError) as caught:
        list_items(address, JPG)
    assert kept in str(caught.value) and "hunter2" not in str(caught.value) and "AKIA" not in str(caught.value)


def test_what_a_library_says_is_stripped_of_keys() -> None:
    said = remote.redacted(
        "500, url='https://cdn/a.tar?X-Amz-Credential=AKIA&X-Amz-Signature=hunter2' Authorization: Bearer hunter2, "
        "AWSAccessKeyId=hunter2; {'token': 'hunter2'} https://me:hunter2@host/b"
    )
    assert "hunter2" not in said and "AKIA" not in said and "https://cdn/a.tar" in said and "https://host/b" in said


def test_addresses_of_any_other_file_system_are_read_as_well(tmp_path: Path) -> None:
    import fsspec

    pack(tmp_path / "a.tar", seed=1)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/set/a.tar", (tmp_path / "a.tar").read_bytes())
    here = list_items(str(tmp_path / "a.tar"), JPG).addresses
    for address in (
        "memory://set/a.tar",
        "memory://set/*.tar",
        "memory://set",
        "memory://set/{a,a}.tar",
        "memory://set/?.tar",
    ):
        there = list_items(address, JPG).addresses
        assert [fetch(a, LIMIT) for a in there][:12] == [fetch(a, LIMIT) for a in here]
    with pytest.raises(UserError, match=r"no shard \(.tar\) there"):
        list_items("memory://nothing", JPG)
    with pytest.raises(UserError, match=r"mae-ext\[gcs\]|no such"):
        list_items("gs://bucket/a.tar", JPG)
    with pytest.raises(UserError, match="expected s3://, gs:// or https://"):
        list_items("nonsense://bucket/a.tar", JPG)
