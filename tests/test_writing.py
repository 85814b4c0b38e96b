"""What cannot be written is said before the work, and a work that fails leaves nothing wrong or empty behind."""

import os
import subprocess
from pathlib import Path

import pytest

from mae_ext.errors import UserError
from mae_ext.writing import NAME_BYTES, blamed_on, clear_leftovers, folder_for, staged

NOWHERE = Path("/proc/self")
"""A folder in which nobody, root included, can make a file."""
linux = pytest.mark.skipif(not NOWHERE.is_dir(), reason="needs /proc")


def there(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fail(result):
    result.write_text("what was done until then")
    raise ValueError("half way")


def test_a_folder_is_made_and_is_gone_again_if_nothing_came_of_it(tmp_path):
    with folder_for(tmp_path / "a" / "b") as out:
        assert out.is_dir() and there(out) == []
    assert there(tmp_path) == ["a", "a/b"]
    with pytest.raises(ValueError, match="the work"), folder_for(tmp_path / "a" / "c" / "d"):
        raise ValueError("the work failed")
    with pytest.raises(ValueError, match="the work"), folder_for(tmp_path / "a" / "b"):
        raise ValueError("the work failed, and the folder was there before")
    assert there(tmp_path) == ["a", "a/b"]
    with pytest.raises(ValueError, match="half"), folder_for(tmp_path / "e" / "f") as out:
        fail(result=out / "result")
    assert there(tmp_path) == ["a", "a/b", "e", "e/f", "e/f/result"]


@linux
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for out in (NOWHERE, NOWHERE / "x", tmp_path / "file", tmp_path / "file" / "x", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=rf"--out {out}: cannot be written to: "), folder_for(out):
            pytest.fail("the work was begun")


def test_staged_files_take_their_places_together_when_all_went_well(tmp_path):
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    b.write_text("old")
    c.write_text("kept")
    with staged(a, b, c) as [new_a, new_b, new_c]:
        new_a.write_text("1")
        new_b.write_text("2")
        new_c.unlink()
        assert b.read_text() == "old" and not a.exists()
    assert (a.read_text(), b.read_text(), c.read_text()) == ("1", "2", "kept")
    assert there(tmp_path) == ["a", "b", "c"]


def test_a_work_that_fails_leaves_what_was_there(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    b.write_text("old")
    with pytest.raises(ValueError, match="half"), staged(a, b) as [new_a, _]:
        fail(result=new_a)
    assert there(tmp_path) == ["b"] and b.read_text() == "old"


@linux
def test_a_file_that_cannot_be_written_is_named_before_the_work_and_nothing_is_left(tmp_path):
    (tmp_path / "folder").mkdir()
    for bad, told in ((NOWHERE / "x", "cannot be written: "), (tmp_path / "folder", "is a folder")):
        with pytest.raises(UserError, match=rf"{bad}: {told}"), staged(tmp_path / "a", bad):
            pytest.fail("the work was begun")
    assert there(tmp_path) == ["folder"]


def test_only_what_writes_is_blamed_on_the_file(tmp_path):
    with pytest.raises(OSError, match="of the work"), staged(tmp_path / "a"):
        raise OSError("of the work itself, as where a scan cannot be opened")
    with pytest.raises(UserError, match=r"a: cannot be written: No space left"), blamed_on(tmp_path / "a"):
        raise OSError(28, os.strerror(28))


def test_a_file_can_have_the_longest_name_there_is(tmp_path):
    paths = [tmp_path / ("ü" * 120 + "x" * 11 + end) for end in (".jpg", ".png")]
    assert len(os.fsencode(paths[0].name)) == NAME_BYTES
    with staged(*paths) as partial:
        for path, beside in zip(paths, partial, strict=True):
            beside.write_text(path.suffix)
    assert [path.read_text() for path in paths] == [".jpg", ".png"] and len(there(tmp_path)) == 2


def test_what_a_process_that_is_gone_was_writing_goes_and_nothing_else(tmp_path):
    gone, long = subprocess.Popen(["true"]), "n" * 250
    gone.wait()
    with staged(tmp_path / long) as [partial]:
        of_a_long_name = partial.name.replace(str(os.getpid()), str(gone.pid))
    left = [tmp_path / name for name in (f"a.tmp-{gone.pid}", of_a_long_name)]
    names = (f"a.tmp-{os.getppid()}", f"a.tmp-{os.getpid()}", f"b.tmp-{gone.pid}", "a.tmp-notes", f"a.tmp-{10**30}")
    stay = [tmp_path / name for name in names]
    for path in (*left, *stay):
        path.write_text("half")
    clear_leftovers([tmp_path / "a", tmp_path / long, tmp_path / "no" / "folder" / "c"])
    assert not any(path.exists() for path in left) and all(path.exists() for path in stay)
