"""What a listing passes over is named once, with how many there are of it and what to do so that it is read."""

import io
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mae_ext.data.image.reader import SUFFIXES as IMAGES
from mae_ext.data.sources.passed_over import PassedOver, beside, readers_of, suffix_of
from mae_ext.data.sources.table import list_items
from mae_ext.data.video.reader import SUFFIXES as VIDEOS
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import UserError

SCANS = VolumeReader.suffixes


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.fixture
def said(caplog):
    """The one warning of a listing, and what it counted."""

    def listed(path, suffixes):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "mae_ext"):
            items = list_items(str(path), suffixes)
        assert len(caplog.messages) == (1 if items.ignored else 0)
        return "".join(caplog.messages), dict(items.ignored)

    return listed


@pytest.mark.parametrize(
    ("suffixes", "good", "others", "counted", "remedy"),
    [
        (SCANS, "a.nii.gz", ["b.vtk", "c.VTK"], {".vtk": 2}, "convert them to .nii.gz"),
        (SCANS, "a.nii.gz", ["b.img", "c.zraw"], {".img": 1, ".zraw": 1}, "with a header beside them"),
        (SCANS, "a.nii.gz", ["d/IM0001", "d/IM0002"], {"without suffix": 2}, ".dcm of DICOM"),
        (SCANS, "a.nii.gz", ["d/1.2.840.113619", "d/1.2.840.5"], {"without suffix": 2}, ".dcm of DICOM"),
        (SCANS, "a.nii.gz", ["b.jpg", "c.png"], {".jpg": 1, ".png": 1}, "use --reader image"),
        (SCANS, "a.nii.gz", ["b.mnc.gz"], {".mnc.gz": 1}, "convert them to .nii.gz"),
        (SCANS, "a.nii.gz", ["b.nii.bz2"], {".nii.bz2": 1}, "convert them to .nii.gz"),
        (IMAGES, "a.jpg", ["b.nii.gz"], {".nii.gz": 1}, "use --reader volume"),
        (IMAGES, "a.jpg", ["b.dcm"], {".dcm": 1}, "use --reader volume"),
        (IMAGES, "a.jpg", ["b.mp4"], {".mp4": 1}, "use --reader video, in a config data.reader: video"),
        (IMAGES, "a.jpg", ["b.jxl", "c.DNG"], {".jxl": 1, ".dng": 1}, "convert them to PNG, JPEG or TIFF"),
        (IMAGES, "a.jpg", ["b.eps", "c.svg"], {".eps": 1, ".svg": 1}, "magick FILE FILE.png"),
        (IMAGES, "a.jpg", ["b", "c/d"], {"without suffix": 2}, ".jpg of JPEG"),
        (IMAGES, "a.jpg", ["b.tar"], {".tar": 1}, "to read shards, name them"),
        (IMAGES, "a.jpg", ["b.npz"], {".npz": 1}, "name the .npz file itself"),
        (IMAGES, "a.jpg", ["b.zip", "c.tar.gz"], {".zip": 1, ".tar.gz": 1}, "unpack the archives first"),
        (IMAGES, "a.jpg", ["b.qqq"], {".qqq": 1}, "does not know the suffix"),
        (VIDEOS, "a.mp4", ["b.mxf"], {".mxf": 1}, "ffmpeg -i FILE FILE.mp4"),
        (VIDEOS, "a.mp4", ["b.jpg"], {".jpg": 1}, "use --reader image"),
        (VIDEOS, "a.mp4", [".b.mp4", ".hidden/c.mp4"], {"hidden": 2}, "without the dot"),
    ],
)
def test_files_of_other_kinds_are_counted_by_kind_with_an_example_and_the_remedy(
    said, tmp_path, suffixes, good, others, counted, remedy
):
    message, ignored = said(make(tmp_path, good, *others), suffixes)
    assert ignored == counted
    assert message.startswith(f"data path '{tmp_path}': passed over: ") and "\n" not in message
    for kind, count in counted.items():
        assert f"{count} {kind} (such as " in message
    assert remedy in message and "such as " + min(others) in message
    assert len(list_items(str(tmp_path), suffixes)) == 1


def test_links_are_named_with_what_can_be_done_about_them(said, tmp_path):
    make(tmp_path / "store", "b.nii.gz", "more/c.nii.gz")
    inside = make(tmp_path / "in", "a.nii.gz", "deep/d.nii.gz")
    (inside / "b.nii.gz").symlink_to(tmp_path / "store" / "b.nii.gz")
    (inside / "folder").symlink_to(tmp_path / "store")
    (inside / "again").symlink_to(inside / "deep")
    (inside / "gone.nii.gz").symlink_to("nowhere.nii.gz")
    (inside / "notes.txt").symlink_to(tmp_path / "store" / "notes.txt")
    message, ignored = said(inside, SCANS)
    assert ignored == {"links that leave the folder": 2, "links to folders": 1, "links to nothing": 1}
    assert "2 links that leave the folder (such as b.nii.gz): no link is followed out of the folder: copy" in message
    assert "a list (.txt, a path a line)" in message
    assert "(such as again): their files are listed where they stand" in message
    assert len(list_items(str(inside), SCANS)) == 2


def test_what_lies_beside_data_is_not_worth_a_word(said, tmp_path):
    beside_it = ("README", "LICENSE", "labels.csv", "a.json", "a.XML", "DICOMDIR", ".DS_Store", ".git/x", "x/notes.txt")
    assert said(make(tmp_path, "a.jpg", *beside_it), IMAGES) == ("", {})


def test_of_a_folder_that_holds_nothing_else_the_message_says_what_to_do(tmp_path):
    make(tmp_path, "a.nii.gz", "b.nii.gz", "notes.txt")
    with pytest.raises(UserError) as refused:
        list_items(str(tmp_path), IMAGES)
    message = str(refused.value)
    assert "found instead: 2 .nii.gz, 1 .txt; passed over: 2 .nii.gz (such as " in message
    assert "use --reader volume" in message and "unpack" not in message


def test_members_of_shards_that_are_no_samples_are_named(said, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("1.jpg", "1.seg.png", "1.json", "2.jxl", "._3.jpg", ".x/5.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("4.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "1.jpg"
        tar.addfile(link)
    message, ignored = said(tmp_path / "a.tar", IMAGES)
    data = "members of a sample that has its data already"
    assert ignored == {data: 1, ".jxl": 1, "hidden": 2, "links inside a shard": 1}
    assert "(such as 1.seg.png): a sample's name ends at the first dot" in message and "x.tar::seg.png" in message
    assert "(such as 4.jpg): pack the files that they mean" in message
    # As the only content of a folder shards are read, and so not passed over; what lies beside them is.
    make(tmp_path, "b.zip")
    _, in_folder = said(tmp_path, IMAGES)
    assert in_folder == {**ignored, ".zip": 1}


def test_what_is_read_and_may_not_have_been_meant_to_be_is_said(caplog, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.jpg", "0.jpg", "s.rgb.jpg", "s.depth.png"):
            tar.addfile(tarfile.TarInfo(name))
    with caplog.at_level(logging.WARNING, "mae_ext"):
        assert len(list_items(str(tmp_path / "a.tar"), IMAGES)) == 4
    (message,) = caplog.messages
    assert "1 members of a name that came before (such as 0.jpg): pack each under a name of its own" in message
    assert "2 members whose names differ after the first dot (such as s.rgb.jpg): to read one kind alone" in message


def test_rows_of_a_list_that_name_no_file_are_counted(said, tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.csv").write_text("path,label\na.jpg,x\n,y\nb.jpg,y\n,x\n")
    message, ignored = said(tmp_path / "list.csv", IMAGES)
    assert ignored == {"rows without a path": 2} and "2 rows without a path" in message and "fill in" in message


def test_all_of_a_source_says_nothing(said, tmp_path):
    np.savez(tmp_path / "a.npz", train_images=np.zeros((2, 4, 4), np.uint8))
    assert said(tmp_path / "a.npz", IMAGES) == ("", {})
    assert said(make(tmp_path / "all", "a.jpg", "b/c.png"), IMAGES) == ("", {})


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.NII.GZ", ".nii.gz"), ("x/a.b/c", "without suffix"), ("a.gz", ".gz"), ("1.2.34.gz", ".gz"),
        ("a.3gp", ".3gp"), ("IM.0001", "without suffix"), ("a.this is no suffix", "without suffix"),
        ("a.verylongending", "without suffix"), ("a.tar.xz", ".tar.xz"), ("", "without suffix"),
    ],
)  # fmt: skip
def test_a_suffix_is_what_names_a_format_and_no_number(name, suffix):
    assert suffix_of(name) == suffix


def test_readers_are_asked_which_suffixes_they_read():
    assert readers_of(".nii.gz") == ["volume"] and readers_of(".dcm") == ["volume"]
    assert readers_of(".gif") == ["image", "video"] and readers_of(".gz") == [] and readers_of(".vtk") == []
    assert beside("x/README.md") and beside("Readme") and not beside("x.vtk") and not beside("IM0001")


def test_a_message_stays_one_line_and_short_whatever_the_names():
    passed = PassedOver()
    for i in range(50):
        passed.other(f"odd\nname.{'abcdefghij'[i % 10]}q{'klmno'[i % 5]}")
    passed.add("hidden", ".x")
    assert "\n" not in str(passed) and "such as odd name" in str(passed)
    for i in range(20):
        passed.add(f"kind {i}", str(Path("a") / str(i)), i + 1)
    assert passed.counts["kind 19"] == 20


def test_features_beside_the_data_are_no_file_without_suffix():
    assert suffix_of("features.safetensors") == ".safetensors" and beside("features.safetensors")
