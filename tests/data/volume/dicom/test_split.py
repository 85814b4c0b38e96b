"""A series whose slices lie in several folders is never taken for several scans."""

import shutil
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("pydicom", reason="DICOM is an optional extra: pip install 'mae-ext[dicom]'")

import pydicom
from data.volume.dicom.dicom_files import classic, series

from mae_ext.cli import run
from mae_ext.data.volume.dicom import split as dicom_split
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import BadSample

PLANES = np.random.default_rng(0).integers(-500, 500, (8, 6, 7)).astype(np.int16)


def halves(root, of, folders=("A", "B")):
    """of: which folder slice z goes to."""
    for z, plane in enumerate(PLANES):
        classic(root / folders[of(z)] / f"{z}.dcm", plane, (0, 0, 2.5 * z), InstanceNumber=z)


def verdict(folder):
    try:
        VolumeReader((4, 4, 4)).describe(f"{folder}/")
    except BadSample as error:
        return error.kind, error.detail
    return "good", ""


@pytest.mark.parametrize(
    ("of", "told"),
    [(lambda z: z % 2, "4 of 8 slices"), (lambda z: int(z > 4), "5 of 8 slices")],
    ids=["every second", "below and above"],
)
@pytest.mark.parametrize("folders", [("A", "B"), ("x/s", "y/s"), ("s", "s/more")], ids="-".join)
def test_each_half_of_a_series_names_the_folder_of_the_other(tmp_path, of, told, folders):
    halves(tmp_path / "scans", of, folders)
    for here, there in (folders, folders[::-1]):
        kind, detail = verdict(tmp_path / "scans" / here)
        assert kind == "split series" and str(tmp_path / "scans" / there) in detail
    assert told in verdict(tmp_path / "scans" / folders[0])[1]


def test_a_deflated_file_in_a_folder_beside_is_not_inflated_to_be_asked_for_its_series(tmp_path):
    halves(tmp_path / "scans", lambda _: 0)
    beside = tmp_path / "scans" / "B" / "0.dcm"
    classic(beside, PLANES[0], (0, 0, 0))
    data = pydicom.dcmread(beside)
    data.PixelData = bytes(200 << 20)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.SeriesInstanceUID = "1.2.4"
    data.save_as(beside, enforce_file_format=True)
    del data
    tracemalloc.start()
    try:
        assert verdict(tmp_path / "scans" / "A")[0] == "good"
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["IM{}", "1.2.840.{}", "{}.dat"])
def test_slices_that_lack_the_suffix_of_the_others_are_not_left_out_of_their_series(tmp_path, name):
    folder = tmp_path / "s"
    (tmp_path / "s").mkdir()
    (folder / "DICOMDIR").write_bytes(b"an index")
    halves(tmp_path, lambda z: 0, ("s",))
    assert verdict(folder) == ("good", "")
    for z in range(0, 8, 2):
        (folder / f"{z}.dcm").rename(folder / name.format(z))
    kind, detail = verdict(folder)
    assert kind == "split series" and "4 of 8 slices" in detail and "without the suffix .dcm" in detail


def test_thirds_of_a_series_are_found_together(tmp_path):
    halves(tmp_path, lambda z: z % 3 if z < 6 else 2 - z % 2, ("A", "B", "C"))
    series(tmp_path / "other", PLANES, SeriesInstanceUID="1.2.4")
    for name in "AB":
        assert verdict(tmp_path / name)[0] in ("split series", "missing slices")
    assert verdict(tmp_path / "other")[0] == "good"


def test_doctor_reads_both_halves_as_the_one_series_that_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    halves(tmp_path / "split", lambda z: z % 2)
    series(tmp_path / "split" / "good", PLANES, SeriesInstanceUID="1.2.4")
    assert run(["doctor", str(tmp_path / "split"), "--reader", "volume"]) == 0
    told = capsys.readouterr().out
    assert told.endswith("2 files, all good\n") and told.count("DICOM series int16 7x6x8") == 2


@pytest.mark.parametrize(
    "change",
    [
        {"SeriesInstanceUID": "1.2.4"}, {"PixelSpacing": [0.7, 0.9]}, {"PatientID": "another"},
        {"FrameOfReferenceUID": "1.2.4"}, {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
    ],
    ids=str,
)  # fmt: skip
def test_folders_that_are_no_volume_together_are_two_scans(tmp_path, change):
    """Some software gives all series one number, so that alone is no reason."""
    halves(tmp_path, lambda z: z % 2)
    for file in sorted((tmp_path / "B").iterdir()):
        z = int(file.stem)
        sideways = "ImageOrientationPatient" in change
        classic(file, PLANES[z], (2.5 * z * sideways, 0, 2.5 * z * (not sideways)), **change)
    assert [verdict(tmp_path / name)[0] for name in "AB"] == ["good", "good"]


def test_scans_at_the_same_places_are_scans_of_their_own(tmp_path):
    series(tmp_path / "A", PLANES)
    shutil.copytree(tmp_path / "A", tmp_path / "B")
    series(tmp_path / "C", PLANES[:5])
    assert [verdict(tmp_path / name)[0] for name in "ABC"] == ["good"] * 3


def test_time_points_in_folders_of_their_own_are_scans(tmp_path):
    for t, name in enumerate("AB"):
        for z, plane in enumerate(PLANES):
            classic(tmp_path / name / f"{z}.dcm", plane, (0, 0, 2.5 * z), InstanceNumber=100 * t + z)
    assert [verdict(tmp_path / name)[0] for name in "AB"] == ["good", "good"]


def test_halves_are_found_beside_a_copy_of_the_whole(tmp_path):
    halves(tmp_path, lambda z: z % 2)
    shutil.copytree(tmp_path / "A", tmp_path / "C")
    shutil.copytree(tmp_path / "B", tmp_path / "C", dirs_exist_ok=True)
    assert [verdict(tmp_path / name)[0] for name in "ABC"] == ["split series", "split series", "good"]


def test_a_neighbour_that_cannot_be_read_is_no_fault_of_a_scan(tmp_path):
    series(tmp_path / "A", PLANES)
    (tmp_path / "B").mkdir()
    (tmp_path / "B" / "x.dcm").write_bytes(b"no scan at all")
    shutil.copytree(tmp_path / "A", tmp_path / "C")
    (tmp_path / "C" / "000.dcm").write_bytes((tmp_path / "A" / "000.dcm").read_bytes()[:200])
    assert verdict(tmp_path / "A")[0] == "good"


def test_only_the_nearest_folders_are_asked_and_both_sides_of_a_name(tmp_path, monkeypatch):
    for number in range(9):
        (tmp_path / f"{number}").mkdir()
    monkeypatch.setattr(dicom_split, "NEAR", 2)
    assert [p.name for p in dicom_split._folders(tmp_path, "4")] == ["2", "3", "5", "6"]
    assert [p.name for p in dicom_split._folders(tmp_path, "0")] == ["1", "2"]
