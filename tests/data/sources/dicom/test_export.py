"""A folder as a PACS exports it: any names, any depth, many series, and what is among them that is no scan."""

import csv
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

from data.volume.dicom.dicom_files import classic, enhanced, frame, series  # noqa: E402

from mae_ext.cli import run  # noqa: E402
from mae_ext.data.sample import whole  # noqa: E402
from mae_ext.data.sources.classes import check_apart  # noqa: E402
from mae_ext.data.sources.dicom import index, keyed  # noqa: E402
from mae_ext.data.sources.dicom.export import _place, difference, files_of, is_series  # noqa: E402
from mae_ext.data.sources.dicom.looked_at import home  # noqa: E402
from mae_ext.data.sources.meant import opening  # noqa: E402
from mae_ext.data.sources.table import list_items  # noqa: E402
from mae_ext.data.volume.reader import VolumeReader  # noqa: E402
from mae_ext.errors import BadSample, UserError  # noqa: E402

SHAPE = (6, 5, 4)
READER = VolumeReader(SHAPE, intensity="none")


def planes(seed):
    return np.random.default_rng(seed).integers(-500, 500, SHAPE).astype(np.int16)


def flat(root, folder, name="IM{:04d}"):
    """All files of a folder into root, by numbers that say nothing."""
    root.mkdir(exist_ok=True)
    start = len(list(root.iterdir()))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for n, file in enumerate(files[::-1], start):
        shutil.move(file, root / name.format(n))


def listed(root, reader=READER):
    items = list_items(str(root), reader.suffixes)
    return items, {address: reader.formats.declared(address) for address in items.addresses}


def refused(root):
    """The reasons, of those that are."""
    kinds = []
    for address in list_items(str(root), READER.suffixes).addresses:
        try:
            READER.formats.declared(address)
        except BadSample as error:
            kinds.append(error.kind)
    return kinds


@pytest.fixture
def two(tmp_path):
    """Two series of two patients in one flat folder, without suffixes."""
    for n in (1, 2):
        series(tmp_path / f"s{n}", planes(n), SeriesInstanceUID=f"1.2.{n}", PatientID=f"P{n}")
        flat(tmp_path / "export", tmp_path / f"s{n}")
    return tmp_path / "export"


@pytest.mark.parametrize("name", ["IM{:04d}", "{:04d}.dcm", "1.2.840.{:d}", "{:d}.img", "z/{:d}/x/y"])
def test_series_of_one_folder_are_told_apart_whatever_the_files_are_called(tmp_path, name):
    for n in (1, 2):
        series(tmp_path / f"s{n}", planes(n), SeriesInstanceUID=f"1.2.{n}", PatientID=f"P{n}")
        for z, file in enumerate(sorted((tmp_path / f"s{n}").iterdir())):
            target = tmp_path / "export" / name.format(10 * (z % 6) + n)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(file, target)
    items, scans = listed(tmp_path / "export")
    assert len(scans) == 2 and all(map(is_series, scans)) and items.ignored == {}
    found = sorted((scan.load() for scan in scans.values()), key=lambda v: v.tolist())
    np.testing.assert_array_equal(found, sorted([planes(1), planes(2)], key=lambda v: v.tolist()))
    assert items.patients is not None and len(set(items.patients)) == 2 and items.labels is None


def test_files_without_preamble_and_implicit_ones_are_read_as_the_others(tmp_path):
    series(tmp_path / "s", planes(1))
    for n, file in enumerate(sorted((tmp_path / "s").iterdir())):
        if n % 2:
            file.write_bytes(file.read_bytes()[132:])
        else:
            data = pydicom.Dataset(pydicom.dcmread(file))
            pydicom.dcmwrite(file, data, implicit_vr=True, little_endian=True)
    flat(tmp_path / "export", tmp_path / "s")
    _, scans = listed(tmp_path / "export")
    (scan,) = scans.values()
    np.testing.assert_array_equal(scan.load(), planes(1))


def test_a_folder_that_is_one_series_stays_a_sample_by_itself(tmp_path):
    for name in ("ill/a", "well/b"):
        series(tmp_path / name, planes(1), SeriesInstanceUID=f"1.2.{len(name)}")
    (tmp_path / "ill" / "a" / "DICOMDIR").write_bytes(b"an index")
    items, _ = listed(tmp_path)
    assert list(items.addresses) == [f"{tmp_path}/ill/a/", f"{tmp_path}/well/b/"]
    assert items.patients is None and items.classes == ("ill", "well")


def test_echoes_phases_and_kernels_of_one_series_are_scans_of_their_own(tmp_path):
    kinds = [
        {"EchoTime": 5, "Modality": "MR"}, {"EchoTime": 20, "Modality": "MR"},
        {"EchoTime": 5, "Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
        {"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"},
    ]  # fmt: skip
    for n, tags in enumerate(kinds):
        series(tmp_path / f"s{n}", planes(n), **tags)
        flat(tmp_path / "export", tmp_path / f"s{n}")
    items, scans = listed(tmp_path / "export")
    whole = {scan.load().tobytes() for scan in scans.values()}
    assert whole == {planes(n).tobytes() for n in range(5)} and len(items) == 5
    assert sorted(filter(None, map(difference, items.addresses))) == ["echo 20", "echo 5"]


def test_a_reader_with_a_time_axis_keeps_the_volumes_of_one_place_together(tmp_path):
    for t in range(3):
        for z, plane in enumerate(planes(1)):
            classic(tmp_path / "e" / f"{t}_{z}", plane + t, (0, 0, 2.0 * z), InstanceNumber=t * 10 + z)
    apart, scans = listed(tmp_path / "e")
    assert [difference(a) for a in apart.addresses] == ["volume 1", "volume 2", "volume 3"]
    np.testing.assert_array_equal([scan.load() for scan in scans.values()], [planes(1) + t for t in range(3)])
    _, scans = listed(tmp_path / "e", VolumeReader(SHAPE, intensity="none", time_axis=3))
    assert [scan.shape for scan in scans.values()] == [(4, 5, 6, 3)]


def test_what_is_no_scan_is_left_out_by_count_and_reason_and_the_scan_is_whole(tmp_path, two):
    root = "1.2.840.10008.5.1.4.1.1."
    classic(two / "r", planes(3)[0], (0, 0, 0), SOPClassUID=f"{root}88.11", SeriesInstanceUID="1.2.7")
    classic(two / "c", planes(3)[0], (0, 0, 0), SOPClassUID=f"{root}7", SeriesInstanceUID="1.2.8")
    classic(two / "one", planes(3)[0], (0, 0, 0), SeriesInstanceUID="1.2.9")
    for n, turn in enumerate([(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)]):
        classic(two / f"l{n}", planes(3)[0], (0, 0, n), turn, SeriesInstanceUID="1.2.10", SeriesDescription="SCOUT")
    again = pydicom.dcmread(two / "IM0003")
    shutil.copyfile(two / "IM0003", two / "copy")
    again.InstitutionName = "written anew"
    again.save_as(two / "rewritten")
    (two / "notes").write_bytes(bytes(500))
    items, scans = listed(two)
    assert {scan.load().tobytes() for scan in scans.values()} == {planes(n).tobytes() for n in (1, 2)}
    assert dict(items.ignored) == {
        "DICOM reports": 1, "secondary captures": 1, "single pictures": 1, "localizers": 2, "copies of DICOM images": 2,
        "without suffix": 1,
    }  # fmt: skip


def test_one_image_that_shows_two_things_makes_its_series_unusable_by_name(two):
    data = pydicom.dcmread(two / "IM0000")
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(two / "other")
    assert refused(two) == ["repeated slices"]


def test_a_missing_slice_is_named(two):
    (two / "IM0002").unlink()
    assert refused(two) == ["missing slices"]


def test_enhanced_objects_of_one_series_are_a_scan_each(tmp_path):
    for n in range(2):
        frames = [frame(p, z) for z, p in enumerate(planes(n))]
        enhanced(tmp_path / f"{n}", frames, InstanceNumber=n + 1)
    items, scans = listed(tmp_path)
    assert len(items) == 2
    np.testing.assert_array_equal(
        [s.load().swapaxes(-1, -2) for s in scans.values()], (planes(0) * 2 - 1024, planes(1) * 2 - 1024)
    )


def test_an_address_means_the_same_after_the_cache_is_gone_and_more_series_came(two):
    items = list_items(str(two), READER.suffixes)
    before = {address: files_of(address, ()) for address in items.addresses}
    shutil.rmtree(home())
    series(two.parent / "new", planes(5), SeriesInstanceUID="1.2.50")
    flat(two, two.parent / "new", "A{:03d}")
    assert {address: files_of(address, ()) for address in items.addresses} == before


def test_another_key_does_not_know_the_address(two, monkeypatch):
    (first, _) = list_items(str(two), READER.suffixes).addresses
    monkeypatch.setenv(keyed.VARIABLE, "quite another key of letters")
    with pytest.raises(UserError, match="another key"):
        list_items(first, READER.suffixes)


def test_only_what_changed_is_looked_into_again(two, monkeypatch):
    list_items(str(two), READER.suffixes)
    looked = []
    inner = index.look
    monkeypatch.setattr(index, "look", lambda root, names, secret: looked.append(names) or inner(root, names, secret))
    list_items(str(two), READER.suffixes)
    assert looked == []
    (two / "IM0004").touch()
    os.utime(two / "IM0004", (time.time(), time.time() + 5))
    list_items(str(two), READER.suffixes)
    assert looked == [["IM0004"]]


def test_a_damaged_index_is_made_again(two):
    before = list(list_items(str(two), READER.suffixes).addresses)
    for file in home().iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    assert list(list_items(str(two), READER.suffixes).addresses) == before


NAMES = [f"IM{n:04d}" for n in range(12)]


def test_children_see_what_is_seen_here(two, monkeypatch):
    here = index._look(str(two), NAMES, keyed.key())
    monkeypatch.setattr(index, "FEW", 1)
    monkeypatch.setattr(index, "AT_A_TIME", 2)
    monkeypatch.setattr(index, "cores", lambda: 2)
    assert str(index._look(str(two), NAMES, keyed.key())) == str(here)


def test_nothing_is_written_into_the_data_folder(two, monkeypatch, capsys):
    before = sorted(two.iterdir())
    monkeypatch.chdir(two)
    assert run(["doctor", ".", "--reader", "volume"]) == 0
    assert sorted(two.iterdir()) == before and "no index.csv is written into the data folder" in capsys.readouterr().out


def test_doctor_says_a_line_of_each_series_and_writes_a_list_that_is_read(two, monkeypatch, capsys):
    monkeypatch.chdir(two.parent)
    assert run(["doctor", "export", "--reader", "volume"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "patient" in line]
    assert "DICOM series int16 4x5x6, 0.8 x 0.7 x 2.5 mm, LPS; patient " in lines[0] and "in the body (HU)" in lines[0]
    rows = list(csv.DictReader((two.parent / "index.csv").open()))
    items = list_items("index.csv", READER.suffixes)
    assert [row["path"] for row in rows] == list(items.addresses) and [row["files"] for row in rows] == ["6", "6"]
    assert list(items.patients) == [row["patient"] for row in rows] and len({row["patient"] for row in rows}) == 2
    samples = [READER.read(address, [whole]) for address in items.addresses]
    assert [sample.x.shape for (sample,) in samples] == [(1, *SHAPE)] * 2
    monkeypatch.chdir(two)
    assert len(list_items("../index.csv", READER.suffixes)) == 2


def test_the_index_of_a_mixed_folder_says_what_is_not_in_it(two, monkeypatch, capsys):
    np.savez(two / "a.npz", np.ones(SHAPE, np.float32) + np.arange(SHAPE[2]))
    monkeypatch.chdir(two.parent)
    assert run(["doctor", "export", "--reader", "volume"]) == 0
    assert "(without the 1 good ones that are no DICOM)" in capsys.readouterr().out
    assert len(list_items("index.csv", READER.suffixes)) == 2


def test_names_of_a_scans_files_are_those_of_the_list_that_is_there_now(two):
    items = list_items(str(two), READER.suffixes)
    names = {address: files_of(address, ()) for address in items.addresses}
    place = _place(str(two), keyed.key(), False)
    before = place.read_bytes()
    begin = before.index(b"\n") + 1
    for content, change in ((before[:begin] + before[begin:].swapcase(), str.swapcase), (before, str)):
        place.with_suffix(".new").write_bytes(content)  # as long as the other
        place.with_suffix(".new").replace(place)
        for address in items.addresses:
            assert [Path(n).name for n in files_of(address, ())] == [change(Path(n).name) for n in names[address]]


def test_a_list_of_another_kind_is_not_written_over(two, monkeypatch, capsys):
    monkeypatch.chdir(two.parent)
    (two.parent / "index.csv").write_text("path,label\n")
    assert run(["doctor", "export", "--reader", "volume"]) == 2
    assert (two.parent / "index.csv").read_text() == "path,label\n" and "--index" in capsys.readouterr().err


def test_the_index_has_no_name_number_or_date_of_a_header(tmp_path):
    who = {"PatientName": "PLANTED^NAME", "PatientID": "PLANTED-ID", "StudyDate": "19770707", "StudyID": "PLANTED"}
    series(tmp_path / "s", planes(1), SeriesInstanceUID="1.2.34567.89", **who)
    series(tmp_path / "t", planes(1), SeriesInstanceUID="1.2.34567.80", **who)
    flat(tmp_path / "export", tmp_path / "s")
    flat(tmp_path / "export", tmp_path / "t")
    list_items(str(tmp_path / "export"), READER.suffixes)
    content = b"".join(file.read_bytes() for file in home().iterdir())
    # Whole ones: four digits also turn up in the times and inodes of files that an index has.
    assert content and not any(word in content for word in (b"PLANTED", b"19770707", b"1.2.34567"))
    assert {file.stat().st_mode & 0o077 for file in home().glob("*.npz")} == {0}


@pytest.mark.parametrize("shared", [False, True], ids=["a folder", "a series of a folder"])
@pytest.mark.parametrize("where", ["header", "pixels"])
def test_what_is_wrong_with_one_file_of_a_series_is_said_of_the_series_and_then_of_the_file(
    tmp_path, monkeypatch, shared, where
):
    root = tmp_path / "export" / "ct"
    series(root, planes(1))
    if shared:
        series(tmp_path / "export" / "ct" / "other", planes(2), SeriesInstanceUID="1.2.9", PatientID="P2")
        (root / "other" / "000.dcm").rename(root / "stray.dcm")
    file = root / "002.dcm"
    data = pydicom.dcmread(file)
    if where == "header":
        data.RescaleSlope = 0
    else:
        data.PixelData = data.PixelData[:-4]
    data.save_as(file)
    of = list_items(str(tmp_path / "export"), READER.suffixes)
    bad = []
    for address in of.addresses:
        try:
            READER.read(address, [whole])
        except BadSample as error:
            bad.append(error)
    (error,) = [e for e in bad if "002.dcm" in e.detail]
    assert error.path in list(of.addresses) and is_series(error.path) == shared
    assert error.detail.startswith("ct/002.dcm: " if shared else "002.dcm: ") and str(root) not in error.detail
    assert error.kind == {"header": "scaling", "pixels": "truncated"}[where]


def test_patients_are_known_where_a_folder_holds_other_files_as_well(two, tmp_path):
    import nibabel as nib

    for name in ("0.nii.gz", "zz.nii.gz"):
        nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_filename(two / name)
    items, _ = listed(two)
    whose = dict(zip(items.addresses, items.patients, strict=True))
    own = {str(two / name) for name in ("0.nii.gz", "zz.nii.gz")}
    assert len(whose) == 4 and {a for a, patient in whose.items() if a == patient} == own
    patients = {patient for a, patient in whose.items() if is_series(a)}
    assert len(patients) == 2 and patients == set(list_items(str(two), (".dcm/",)).patients) and not patients & own
    assert "of 2 patients and 2 that name none" in opening(items, str(two), "volume")
    (tmp_path / "apart").mkdir()
    for path in (next(iter(own)), *two.glob("IM*")):
        shutil.copy(path, tmp_path / "apart")
    with pytest.raises(UserError, match="2 patients on both sides of the split"):
        check_apart(items, list_items(str(tmp_path / "apart"), READER.suffixes), "a", "b")
