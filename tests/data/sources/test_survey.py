"""Which reader a source needs is seen from what is in it: by suffix, and by first bytes where that does not say."""

import gzip
import os
import tarfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from data.volume.dicom.dicom_files import classic
from PIL import Image

from mae_ext.data.sources.folder import walk
from mae_ext.data.sources.kinds import LOOKED_INTO, Few
from mae_ext.data.sources.passed_over import PassedOver
from mae_ext.data.sources.survey import Survey, survey
from mae_ext.data.sources.table import list_items
from mae_ext.data.video.kind import moves
from mae_ext.data.volume.reader import VolumeReader
from mae_ext.errors import UserError

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def put(path: Path, content: bytes = b"\0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(path: Path, form: str | None = None, frames: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(np.roll(GREY, i, 1)).convert("RGB") for i in range(frames)]
    more = {"save_all": True, "append_images": pictures[1:], "duration": 100} if frames > 1 else {}
    pictures[0].save(path, form, **more)
    return path


def dicom(modality: str) -> bytes:
    """What a DICOM file of explicit little endian begins with, up to its modality."""
    element = b"\x08\0\x60\0CS" + len(modality).to_bytes(2, "little") + modality.encode()
    return bytes(128) + b"DICM" + b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + element + bytes(64)


def film() -> bytes:
    return b"\0\0\0\x20ftypisom" + bytes(24)


def kinds(path: Path | str) -> dict[str, int]:
    return {one.taker.name: one.count for one in survey(str(path)).kinds}


def test_suffixes_say_what_a_folder_holds_and_text_and_thumbnails_beside_it_are_nothing(tmp_path):
    for name in (
        "a/1.jpg",
        "a/2.PNG",
        "b/3.tif",
        "table.csv",
        "a/1.xml",
        "Thumbs.db",
        "README",
        ".gitignore",
        "x.json",
    ):
        put(tmp_path / name)
    assert kinds(tmp_path) == {"image": 3}
    assert not survey(str(tmp_path)).passed.counts


def test_of_a_mixed_folder_each_kind_is_counted_and_a_dicom_folder_is_one(tmp_path):
    for name in ("p/1.jpg", "p/2.jpg", "f/1.mp4", "s/a.nii.gz", "s/b.nrrd", "d/1.dcm", "d/2.dcm", "e/1.dcm"):
        put(tmp_path / name)
    assert kinds(tmp_path) == {"volume": 4, "image": 2, "video": 1}
    assert str(survey(str(tmp_path))) == "4 scans (2 folders, 1 .nii.gz, 1 .nrrd), 2 images (.jpg) and 1 film (.mp4)"


@pytest.mark.parametrize("suffix", ["", ".dat", ".0001"])
def test_files_whose_suffix_says_nothing_are_what_they_begin_as(tmp_path, suffix):
    scan = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes()
    for reader, content in {
        "image": picture(tmp_path / "made.png").read_bytes(),
        "video": film(),
        "volume": scan,
    }.items():
        assert kinds(put(tmp_path / reader / f"one{suffix}", content).parent) == {reader: 1}
    for number, content in enumerate((gzip.compress(scan), dicom("CT"), b"NRRD0004\n")):
        assert kinds(put(tmp_path / f"other{number}" / f"one{suffix}", content).parent) == {"volume": 1}


def test_a_picture_in_the_container_of_films_is_a_picture(tmp_path):
    avif = picture(tmp_path / "made" / "a.avif").read_bytes()
    assert kinds(put(tmp_path / "bare" / "a", avif).parent) == {"image": 1}
    assert kinds(put(tmp_path / "heic" / "a", b"\0\0\0\x18ftypheic" + bytes(20)).parent) == {"image": 1}


def test_of_many_files_a_few_are_opened_the_same_every_time(tmp_path, monkeypatch):
    few = Few()
    for number in range(100_000):
        few.add(str(number))
    chosen = list(map(int, few.spread()))
    assert len(chosen) == LOOKED_INTO and chosen[0] == 0 and chosen[-1] > 80_000
    for number in range(300):
        put(tmp_path / f"{number:03}", film())
    opened = []
    monkeypatch.setattr("mae_ext.data.sources.kinds.head", lambda address, _: opened.append(address) or film())
    assert kinds(tmp_path) == {"video": 300} and len(opened) == LOOKED_INTO
    first, opened[:] = list(opened), []
    assert survey(str(tmp_path)).kinds[0].about and opened == first


def test_gifs_that_move_are_films_and_those_that_do_not_are_images(tmp_path):
    picture(tmp_path / "films" / "a.gif", frames=3)
    picture(tmp_path / "stills" / "a.gif")
    assert kinds(tmp_path / "films") == {"video": 1} and kinds(tmp_path / "stills") == {"image": 1}
    assert kinds(tmp_path) == {"video": 1, "image": 1}  # which is a question


@pytest.mark.parametrize(("beside", "reader", "told"), [("1.jpg", "image", True), ("1.mp4", "video", False)])
def test_gifs_beside_others_are_of_their_kind_and_what_is_read_otherwise_is_said(tmp_path, beside, reader, told):
    put(tmp_path / beside)
    picture(tmp_path / "a.gif", frames=3)
    assert kinds(tmp_path) == {reader: 2}
    assert [("read as films" in remark) for remark in survey(str(tmp_path)).remarks] == [True] * told


def test_a_gif_moves_where_a_second_picture_begins(tmp_path):
    moving = picture(tmp_path / "a.gif", frames=2).read_bytes()
    assert moves(moving) and not moves(picture(tmp_path / "b.gif").read_bytes())
    assert moves(moving[:60]) == (b"NETSCAPE" in moving[:60])  # cut short, it is what it says of itself
    assert not moves(b"GIF89a") and not moves(b"GIF89a" + b"\xff" * 40)


@pytest.mark.parametrize(("name", "form"), [("a.webp", "WEBP"), ("a.png", "PNG")])
def test_pictures_that_move_are_images_of_which_the_first_is_read(tmp_path, name, form):
    picture(tmp_path / name, form, frames=2)
    assert kinds(tmp_path) == {"image": 1}
    assert "animated: the first picture of each is read" in survey(str(tmp_path)).remarks[0]


def test_a_tiff_of_many_pages_is_an_image_and_what_becomes_of_its_pages_is_said(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 8, 8), np.uint8))
    assert kinds(tmp_path) == {"image": 1}
    assert "several pages" in survey(str(tmp_path)).remarks[0]
    tifffile.imwrite(tmp_path / "stack.tif", GREY)
    assert not survey(str(tmp_path)).remarks


@pytest.mark.parametrize("modality", ["CR", "DX", "MG"])
def test_radiographs_in_dicom_are_neither_scans_nor_images(tmp_path, modality):
    put(tmp_path / "a" / "1.dcm", dicom(modality))
    put(tmp_path / "b" / "2", dicom(modality))
    made = survey(str(tmp_path))
    assert not made.kinds and made.refused.total() == 2 and "PNG or TIFF" in next(iter(made.refused))


def test_slices_of_a_ct_are_a_scan_also_beside_some_radiographs_which_are_said(tmp_path):
    put(tmp_path / "ct" / "1.dcm", dicom("CT"))
    put(tmp_path / "dx" / "1.dcm", dicom("DX"))
    made = survey(str(tmp_path))
    assert kinds(tmp_path) == {"volume": 2} and "1 of 2 folders looked into: radiographs" in made.remarks[0]


@pytest.mark.parametrize(
    ("shape", "dtype", "readers"),
    [
        ((5, 8, 8), "uint8", {"image"}),
        ((5, 8, 8, 3), "uint8", {"image"}),
        ((5, 64, 64, 12), "uint16", {"image", "volume"}),
        ((5, 8, 8, 8), "uint8", {"volume"}),
        ((5, 4, 8, 8, 3), "uint8", {"video"}),
        ((5, 2, 8, 8, 8), "float32", {"volume"}),
    ],
)
def test_rows_of_an_archive_are_what_their_shape_says(tmp_path, shape, dtype, readers):
    np.savez(tmp_path / "a.npz", train_images=np.zeros(shape, dtype))
    assert set(kinds(tmp_path / "a.npz")) == readers and set(kinds(tmp_path / "a.npz").values()) == {5}


def test_a_tar_shard_and_a_folder_of_them_are_what_their_members_are_called(tmp_path):
    put(tmp_path / "in" / "1.mp4")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(3):
            tar.add(tmp_path / "in" / "1.mp4", f"{number}.mp4")
    (tmp_path / "in" / "1.mp4").unlink()
    for path in (tmp_path / "x.tar", tmp_path, tmp_path / "x{,.}.tar".replace("{,.}", "*")):
        assert kinds(path) == {"video": 3}


def test_a_list_is_what_it_names(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.jpg"):
        put(tmp_path / name)
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\nc.jpg\n")
    assert kinds(tmp_path / "list.txt") == {"video": 2, "image": 1}
    (tmp_path / "list.txt").write_text("gone.mp4\n")
    with pytest.raises(UserError, match="none of its 1 files exists"):
        survey(str(tmp_path / "list.txt"))


def test_one_file_is_looked_at_as_a_folder_of_it_would_be(tmp_path):
    assert kinds(put(tmp_path / "a.nii.gz")) == {"volume": 1}
    assert kinds(put(tmp_path / "scan", dicom("MR"))) == {"volume": 1}
    with pytest.raises(UserError, match="no such file or folder"):
        survey(str(tmp_path / "gone"))


@pytest.mark.parametrize("name", ["film_frame_{:04}.jpg", "frame{}.png", "frm-{}.jpg"])
def test_frames_of_films_are_images_and_it_is_said_that_they_are(tmp_path, name):
    for number in range(5):
        put(tmp_path / "a" / name.format(number))
    assert kinds(tmp_path) == {"image": 5} and "frames of films" in survey(str(tmp_path)).remarks[0]
    put(tmp_path / "b" / "picture_frame_shop.jpg")
    assert not survey(str(tmp_path / "b")).remarks


def test_program_text_is_no_transport_stream(tmp_path):
    put(tmp_path / "a.ts", b"export const x = 1;\n")
    put(tmp_path / "a.jpg")
    assert kinds(tmp_path) == {"image": 1}
    put(tmp_path / "b.ts", (b"\x47" + bytes(187)) * 6)
    assert kinds(tmp_path) == {"image": 1, "video": 2}


def test_the_listing_that_follows_reads_no_folder_again_unless_it_changed(tmp_path, monkeypatch):
    for name in ("a/1.jpg", "b/2.jpg"):
        put(tmp_path / name)
    survey(str(tmp_path))
    scanned, scan = [], os.scandir
    monkeypatch.setattr("os.scandir", lambda path: scanned.append(path) or scan(path))
    put(tmp_path / "b" / "3.jpg")
    os.utime(tmp_path / "b", (1, 1))
    assert len(list_items(str(tmp_path), (".jpg",))) == 3
    assert scanned == [str(tmp_path / "b")]
    assert [Path(entry.path).name for entry in walk(tmp_path, (".jpg",), "", PassedOver())] == [
        "1.jpg",
        "2.jpg",
        "3.jpg",
    ]
    assert len(scanned) == 4


def test_pictures_whose_suffix_says_nothing_are_read_where_there_are_no_others(tmp_path, caplog):
    for number in range(3):
        picture(tmp_path / "cat" / f"{number}.dat", "PNG")
    put(tmp_path / "dog" / "x.bin", b"\1\2\3\4")
    from mae_ext.data.image.reader import ImageReader

    items = list_items(str(tmp_path), ImageReader.suffixes)
    assert len(items) == 3 and items.classes == ("cat",)
    assert "3 files that begin as what is read (.dat)" in caplog.text and "1 .bin" in caplog.text
    with pytest.raises(UserError, match="no file ending in"):
        list_items(str(tmp_path), (".png",))  # which is no reader's


def test_a_source_with_nothing_in_it_has_no_kinds(tmp_path):
    put(tmp_path / "notes.md", b"# notes")
    made = survey(str(tmp_path))
    assert isinstance(made, Survey) and not made.kinds and "1 .md" in made.passed.instead()


def planes(folder: Path, series_uid: str) -> None:
    for z in range(3):
        place = (0, 0, 2.5 * z)
        classic(folder / f"IM{series_uid[-1]}{z}", np.full((4, 4), z, np.int16), place, SeriesInstanceUID=series_uid)


def test_a_series_of_dicom_and_a_list_of_such_are_scans(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    for uid in ("1.2.3.1", "1.2.3.2"):
        planes(tmp_path / "export", uid)
    one, other = list_items(str(tmp_path / "export"), VolumeReader.suffixes).addresses
    assert [(k.taker.name, k.count) for k in survey(one).kinds] == [("volume", 1)]
    (tmp_path / "index.csv").write_text(f"path,patient\n{one},a\n{other},b\n")
    assert [(k.taker.name, k.count) for k in survey(str(tmp_path / "index.csv")).kinds] == [("volume", 2)]


def test_rows_of_parquet_and_values_of_lmdb_are_what_they_begin_as(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lmdb = pytest.importorskip("lmdb")
    encoded = picture(tmp_path / "apart" / "a.png").read_bytes()
    for folder in ("table", "base"):
        (tmp_path / folder).mkdir()
    pq.write_table(pa.table({"image": [encoded] * 3}), tmp_path / "table" / "train-0.parquet")
    with (
        lmdb.open(str(tmp_path / "base" / "p.lmdb"), subdir=False, map_size=1 << 20) as base,
        base.begin(write=True) as t,
    ):
        t.put(b"1", encoded)
        t.put(b"a/2.png", encoded)
    paths = ("table/train-0.parquet", "table/train-*.parquet", "table", "base/p.lmdb", "base")
    seen = {path: [(k.taker.name, k.count) for k in survey(str(tmp_path / path)).kinds] for path in paths}
    assert seen == {path: [("image", 3 if "table" in path else 2)] for path in paths}


def test_an_array_that_is_named_in_its_file_is_what_its_shape_says(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["scans"] = np.zeros((2, 9, 10, 11), np.int16)
        file["photos"] = np.zeros((4, 16, 16, 3), np.uint8)
        file["either"] = np.zeros((9, 10, 11), np.int16)
    np.savez(tmp_path / "b.npz", scan=np.zeros((9, 10, 11), np.int16))
    (tmp_path / "c.zarr").mkdir()
    wanted = {
        "a.h5::scans": [("volume", 2)], "a.h5::photos": [("image", 4)], "a.h5::either": [("image", 9), ("volume", 1)],
        **{p: [("volume", 1)] for p in ("b.npz::scan", "c.zarr", "c.zarr/", "c.zarr::0")},
    }  # fmt: skip
    assert {p: [(k.taker.name, k.count) for k in survey(str(tmp_path / p)).kinds] for p in wanted} == wanted


def test_whole_slides_are_told_from_other_tiffs_by_their_suffix(tmp_path):
    for name in ("a.svs", "b.tif"):
        (tmp_path / name[0]).mkdir()
        tifffile.imwrite(tmp_path / name[0] / name, np.zeros((32, 32, 3), np.uint8))
    assert [survey(str(tmp_path / name)).kinds[0].taker.name for name in "ab"] == ["slide", "image"]
