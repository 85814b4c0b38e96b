"""Tables that are large are in a file once, whoever has them, and gone with the last who had."""

import pickle
import resource
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest

from mae_ext.data.loading.sandbox import pickled
from mae_ext.data.sources import shared
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import list_items
from mae_ext.errors import RunError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shared.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path / f"mae_ext-{shared.os.getuid()}"


def large(count: int = 60_000) -> PathTable:
    return PathTable(f"photos/{i:07d}/käse.jpg" for i in range(count))


def test_a_large_table_travels_as_the_name_of_a_file(folder: Path) -> None:
    table = large(140_000)
    message = pickled(table)
    assert len(message) < 1000 and len(ForkingPickler.dumps(table)) < 1000  # as multiprocessing sends it
    other = pickle.loads(message)
    assert list(other) == list(table) and other[-1] == "photos/0139999/käse.jpg"


def test_a_small_table_is_no_file(folder: Path) -> None:
    assert list(pickle.loads(pickle.dumps(PathTable(["a", "b"])))) == ["a", "b"] and not folder.exists()


def test_ranks_that_list_the_same_have_one_file_which_goes_with_the_last(folder: Path) -> None:
    one, two = large(), large()
    assert len(list(folder.iterdir())) == 1  # of bytes; ends are small
    del one
    assert len(list(folder.iterdir())) == 1 and two[7] == "photos/0000007/käse.jpg"
    del two
    assert not list(folder.iterdir())


def test_labels_of_many_files_are_in_a_file_as_well(folder: Path) -> None:
    labels = shared.share(np.arange(1 << 18))
    assert len(pickled(labels)) < 1000 and (pickle.loads(pickled(labels)) == np.arange(1 << 18)).all()
    part = pickle.loads(pickled(labels[5:8]))  # no file has it
    assert part.tolist() == [5, 6, 7]
    labels[3] = 9  # of this process alone
    assert pickle.loads(pickled(labels))[3] == 3


def test_a_pickle_that_is_kept_outlives_the_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.pkl").write_bytes(pickle.dumps(large()))
    assert not list(folder.iterdir())  # the table has gone
    table = pickle.loads((tmp_path / "kept.pkl").read_bytes())
    assert len(table) == 60_000 and table[-1] == "photos/0059999/käse.jpg"


def test_a_table_whose_file_was_tidied_away_is_sent_whole(folder: Path) -> None:
    table = large()
    for file in folder.iterdir():
        file.unlink()
    assert list(pickle.loads(pickled(table))) == list(table)


def test_what_a_killed_process_left_behind_goes_when_the_next_table_is_made(folder: Path) -> None:
    program = (
        "import os, signal; from mae_ext.data.sources.path_table import PathTable\n"
        "table = PathTable(f'{i:099d}' for i in range(20000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program])
    assert len(list(folder.iterdir())) == 1
    kept = large()
    assert len(list(folder.iterdir())) == 1 and len(kept) == 60_000


def test_copies_of_a_child_that_was_killed_go_with_the_process_that_had_it(folder: Path) -> None:
    program = (
        "import os, signal; from mae_ext.data.sources import shared\n"
        "child = os.fork()\n"
        "if not child: shared.copied('x', b'a film'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.waitpid(child, 0); print(len(os.listdir(shared._folder())))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "1\n" and not list(folder.iterdir())


def test_a_copy_for_which_there_is_no_room_says_where_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            RunError, match=rf"a.mp4: its copy of 2000 bytes .* to {tmp_path}: File too large; make room"
        ):
            shared.copied("a.mp4", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(folder.iterdir()) and len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("trouble", ["another's folder", "no folder"])
def test_where_no_file_can_be_made_a_table_is_in_memory(folder: Path, trouble: str) -> None:
    if trouble == "no folder":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    table = large()
    assert list(pickle.loads(pickle.dumps(table)))[-1] == table[-1] == "photos/0059999/käse.jpg"


def test_a_disk_that_becomes_full_on_the_way_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = shared.os.write, [1_500_000]

    def full(handle: int, content: memoryview) -> int:
        left[0] -= len(content)
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(handle, content[: max(1, len(content) // 2)])

    monkeypatch.setattr(shared.os, "write", full)
    texts = [f"photos/{i:07d}/käse.jpg" for i in range(90_000)]
    assert list(PathTable(texts)) == texts and not list(folder.iterdir())


def test_a_large_folder_is_listed_as_a_small_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'ab'[i % 2]}/{i:04d}.jpg" for i in range(300)]
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    small = list_items(str(tmp_path / "set"), (".jpg",))
    monkeypatch.setattr(shared, "LEAST", 64)
    listed = list_items(str(tmp_path / "set"), (".jpg",))
    items = pickle.loads(pickle.dumps(listed))
    assert list(items.addresses) == list(small.addresses) and (items.labels == small.labels).all()
