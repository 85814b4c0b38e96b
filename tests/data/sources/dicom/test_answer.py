"""What a listing made of a folder is kept, and the same as from nothing whatever happened to its files."""

import multiprocessing
import os
import shutil

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic  # noqa: E402

from mae_ext.data.sources.dicom import answer, copies, export, keyed  # noqa: E402
from mae_ext.data.sources.dicom.grouping import SUFFIXES  # noqa: E402
from mae_ext.data.sources.dicom.looked_at import LookedAt, home, kept_for  # noqa: E402
from mae_ext.data.sources.table import list_items  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402


def series(root, uid, name="{}", count=3):
    for z in range(count):
        classic(
            root / name.format(f"IM{uid}{z}"), np.full((4, 5), z, np.int16), (0, 0, 2.5 * z),
            SeriesInstanceUID=f"1.2.{uid}", SOPInstanceUID=f"1.2.3.{uid}.{z + 1}", PatientID=f"P{uid}",
        )  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """Two series in one flat folder, one in folders of its own, a copy, and what is no DICOM."""
    series(tmp_path / "data" / "flat", 1)
    series(tmp_path / "data" / "flat", 2)
    series(tmp_path / "data" / "own", 3, "{}.dcm")
    shutil.copy(tmp_path / "data" / "flat" / "IM10", tmp_path / "data" / "flat" / "copy")
    (tmp_path / "data" / "notes").write_bytes(bytes(300))
    return tmp_path / "data"


def listed(root):
    """All that a listing says, and which files each scan has."""
    items = list_items(str(root), VolumeReader.suffixes)
    patients = None if items.patients is None else list(items.patients)
    addresses = list(items.addresses)
    labels = None if items.labels is None else items.labels.tolist()
    return addresses, patients, items.classes, labels, dict(items.ignored), [
        export.files_of(a, SUFFIXES) for a in addresses
    ]  # fmt: skip


def from_nothing(root):
    kept = home()
    kept.rename(kept.with_name("aside"))
    try:
        return listed(root)
    finally:
        shutil.rmtree(kept)
        kept.with_name("aside").rename(kept)


@pytest.fixture
def groupings(monkeypatch):
    """How often files were grouped."""
    times, inner = [], export.grouped
    monkeypatch.setattr(export, "grouped", lambda *rest: times.append(1) or inner(*rest))
    return times


def replaced(file, other):
    """By another of the same size and time."""
    status = file.stat()
    beside = file.with_name("beside")
    shutil.copy(other, beside)
    assert beside.stat().st_size == status.st_size
    os.utime(beside, ns=(status.st_atime_ns, status.st_mtime_ns))
    beside.replace(file)


CHANGES = {
    "added": lambda root: series(root / "flat", 4),
    "added to a series": lambda root: series(root / "flat", 2, count=4),
    "removed": lambda root: (root / "flat" / "IM12").unlink(),
    "a series removed": lambda root: [p.unlink() for p in (root / "flat").glob("IM2*")],
    "touched": lambda root: os.utime(root / "flat" / "IM11", (5, 5)),
    "renamed": lambda root: (root / "flat" / "IM11").rename(root / "flat" / "A"),
    "moved": lambda root: (root / "flat" / "IM11").rename(root / "own" / "IM11"),
    "replaced": lambda root: replaced(root / "flat" / "IM11", root / "flat" / "IM21"),
    "cut off": lambda root: os.truncate(root / "flat" / "IM11", 200),
    "a folder of one series joined by another": lambda root: series(root / "own", 5, "{}.dcm"),
    "no DICOM added": lambda root: (root / "flat" / "more").write_bytes(bytes(300)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_seen_and_the_listing_is_that_from_nothing(root, groupings, change):
    before = listed(root)
    assert len(groupings) == 1
    assert listed(root) == before and len(groupings) == 1
    CHANGES[change](root)
    after = listed(root)
    assert len(groupings) == 2
    assert listed(root) == after and len(groupings) == 2
    assert after == from_nothing(root)
    assert (after == before) == (change == "touched")


def test_a_table_that_was_brought_up_is_as_one_from_nothing(root):
    def table():
        return LookedAt.read(kept_for(str(root), keyed.key()).with_suffix(".npz"))

    listed(root)
    for change in ("a series removed", "added", "touched", "cut off"):
        CHANGES[change](root)
        listed(root)
        grown = table()
        shutil.rmtree(home())
        listed(root)
        new = table()
        assert (grown.names, grown.kinds) == (new.names, new.kinds)
        for name in ("versions", "kind", "instances", "numbers"):
            np.testing.assert_array_equal(getattr(grown, name), getattr(new, name))


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-5], lambda c: b"", lambda c: c[:-9] + b"X" + c[-8:], lambda c: b"{}\n"]
)
@pytest.mark.parametrize("suffix", [".answer", ".series"])
def test_what_is_damaged_is_made_again(root, groupings, suffix, damage):
    before = listed(root)
    kept = kept_for(str(root), keyed.key()).with_suffix(suffix)
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert listed(root) == before and len(groupings) == 2 and kept.read_bytes() == whole


def test_another_text_of_this_program_groups_again(root, groupings, monkeypatch):
    listed(root)
    monkeypatch.setattr(answer, "_program", lambda: b"of tomorrow")
    listed(root)
    assert len(groupings) == 2


def test_a_copy_that_could_not_be_read_for_once_is_asked_again(root, groupings, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(copies, "pixels_of", lambda file: (_ for _ in ()).throw(OSError("the disk is away")))
        copies._shown.cache_clear()
        assert "copies of DICOM images" not in list_items(str(root), VolumeReader.suffixes).ignored
    assert listed(root)[4]["copies of DICOM images"] == 1 and len(groupings) == 2


def test_a_cache_that_cannot_be_written_to_is_survived_with_a_line(root, groupings, monkeypatch, caplog):
    before = listed(root)
    kept = kept_for(str(root), keyed.key())
    kept.with_suffix(".answer").unlink()

    def refuse(path, write):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(answer, "replace", refuse)
    assert listed(root) == before and "the next run groups again" in caplog.text
    assert listed(root) == before and len(groupings) == 3


def test_several_processes_at_once_leave_one_answer(root, groupings):
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=lambda: [listed(root) for _ in range(3)]) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * 3
    assert len(listed(root)[0]) == 3 and not groupings
    assert {p.suffix for p in home().iterdir()} == {".answer", ".lock", ".npz", ".series"}


def test_what_is_kept_names_nobody(root):
    listed(root)
    content = kept_for(str(root), keyed.key()).with_suffix(".answer")
    assert content.stat().st_mode & 0o077 == 0
    assert not any(word in content.read_bytes() for word in (b"P1", b"P2", b"1.2.3", b"IM1"))
