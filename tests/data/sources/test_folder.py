"""A folder that is one sample: which files are its members, in which order, and when it is refused."""

import pytest

from mae_ext.data.sources import folder
from mae_ext.data.sources.folder import members
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample

SLICES = (".dcm", ".ima")
SUFFIXES = (".nii", *(f"{suffix}/" for suffix in SLICES))


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_members_are_its_files_of_the_kind_by_name_and_no_leftovers(tmp_path):
    make(tmp_path, "b.dcm", "a.DCM", "c.ima", "._a.dcm", "notes.txt", "deep/d.dcm")
    (tmp_path / "folder.dcm").mkdir()
    assert members(f"{tmp_path}/", SLICES) == [f"{tmp_path}/{name}" for name in ("a.DCM", "b.dcm", "c.ima")]


def test_a_folder_without_members_one_that_is_gone_and_one_with_too_many_are_refused(tmp_path, monkeypatch):
    make(tmp_path, "a/notes.txt", "b/1.dcm", "b/2.dcm", "b/3.dcm")
    for address, told in ((f"{tmp_path}/a/", "no file ending in .dcm .ima"), (f"{tmp_path}/gone/", "No such file")):
        with pytest.raises(BadSample, match=told) as refused:
            members(address, SLICES)
        assert (refused.value.path, refused.value.kind) == (address, "no such file")
    monkeypatch.setattr(folder, "MAX_MEMBERS", 3)
    assert len(members(f"{tmp_path}/b/", SLICES)) == 3
    monkeypatch.setattr(folder, "MAX_MEMBERS", 2)
    with pytest.raises(BadSample, match="3 files in one folder, the limit is 2"):
        members(f"{tmp_path}/b/", SLICES)


def test_a_series_is_listed_once_and_its_own_folder_is_no_class(tmp_path):
    """scans/s1/*.dcm are patients and no classes; scans/ill/s1/*.dcm are; beside series there may be single files."""
    make(tmp_path, "flat/s1/1.dcm", "flat/s1/2.dcm", "flat/s2/1.dcm")
    flat = list_items(str(tmp_path / "flat"), SUFFIXES)
    assert list(flat.addresses) == [f"{tmp_path}/flat/s1/", f"{tmp_path}/flat/s2/"] and flat.labels is None
    make(tmp_path, "deep/ill/s1/1.dcm", "deep/ill/s1/2.dcm", "deep/well/s2/x/1.dcm", "deep/well/a.nii", "deep/b.nii")
    deep = list_items(str(tmp_path / "deep"), SUFFIXES)
    found = {
        address.removeprefix(f"{tmp_path}/deep/"): label
        for address, label in zip(deep.addresses, deep.labels, strict=True)
    }
    assert deep.classes == ("ill", "well")
    assert found == {"b.nii": -1, "ill/s1/": 0, "well/a.nii": 1, "well/s2/x/": 1}


def test_odd_entries_of_a_folder_cost_no_picture_and_are_counted(tmp_path, caplog):
    make(
        tmp_path,
        "in/a.JPG",
        "in/x.jpg/b.jpg",
        "in/x.jpg/c.tiff",
        "in/bare",
        "in/._a.JPG",
        "in/.cache/d.jpg",
        "out/e.jpg",
    )
    inside = tmp_path / "in"
    (inside / "loop.jpg").symlink_to("loop.jpg")
    (inside / "gone.jpg").symlink_to("nowhere.jpg")
    (inside / "round").symlink_to(inside)
    (inside / "again.jpg").symlink_to("a.JPG")
    (inside / "left.jpg").symlink_to(tmp_path / "out" / "e.jpg")
    items = list_items(str(inside), (".jpg", ".tiff"))
    found = [address.removeprefix(f"{inside}/") for address in items.addresses]
    assert found == ["a.JPG", "again.jpg", "x.jpg/b.jpg", "x.jpg/c.tiff"]
    links = {"links to nothing": 2, "links to folders": 1, "links that leave the folder": 1}
    assert items.ignored == {**links, "hidden": 2, "without suffix": 1}
    assert "2 links to nothing (such as gone.jpg): make them again" in caplog.text
