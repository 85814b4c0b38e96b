"""Samples inside shards and arrays: each at its own bytes, with its own label, whoever packed them."""

import io
import tarfile
import zipfile

import numpy as np
import pytest

from mae_ext.data.sources.archive import list_npz, list_tar, read_row
from mae_ext.data.sources.passed_over import PassedOver
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, UserError


def shard(path, members, form=tarfile.PAX_FORMAT):
    """members: [(name, bytes)], in this order."""
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)


def listed(path, suffixes=(".jpg", ".png")):
    passed = PassedOver()
    return list(list_tar(path, suffixes, passed)), passed.counts, passed.suffixes


def bytes_at(address):
    path, place, _ = address.split("::", 2)
    offset, size = map(int, place.split("+"))
    with open(path, "rb") as file:  # noqa: PTH123
        file.seek(offset)
        return file.read(size)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_found_behind_headers_of_any_length(tmp_path, form):
    deep = "/".join(["folder" * 8] * 3)  # beyond the 100 characters of a plain header
    members = [("0.jpg", b"a" * 513), (f"{deep}/1.jpg", b"b" * 512), ("2.jpg", b""), ("3.jpg", b"d")]
    rows, _, _ = listed(shard(tmp_path / "a.tar", members, form))
    assert [bytes_at(address) for address, _ in rows] == [content for _, content in members]
    assert rows[1][0].endswith(f"+512::{deep}/1.jpg")


def test_a_class_file_labels_the_sample_of_its_name_wherever_it_stands(tmp_path):
    members = [
        ("a/1.cls", b" 007\n"), ("a/1.jpg", b"1"), ("b/1.jpg", b"2"), ("a/2.jpg", b"3"), ("a/2.cls", b"-1"),
        ("a/3.jpg", b"4"),
    ]  # fmt: skip
    rows, _, _ = listed(shard(tmp_path / "a.tar", members))
    assert [(bytes_at(address), label) for address, label in rows] == [
        (b"1", "7"), (b"2", None), (b"3", "-1"), (b"4", None),
    ]  # fmt: skip


def test_the_first_of_several_files_of_one_key_is_the_sample(tmp_path):
    members = [("1.JPG", b"upper"), ("1.png", b"second"), ("1.seg.png", b"mask"), (".2.jpg", b"hidden"), ("x.txt", b"")]
    rows, ignored, others = listed(shard(tmp_path / "a.tar", members))
    assert [bytes_at(address) for address, _ in rows] == [b"upper"]
    assert ignored == {"hidden": 1, "members of a sample that has its data already": 2} and others == {".txt": 1}


def test_keys_with_more_dots_lose_no_picture_and_have_their_own_class_or_that_of_the_key(tmp_path):
    members = [
        ("./a/s_0.5s.jpg", b"0"), ("s_1.5s.jpg", b"1"), ("s_1.7s.jpg", b"2"), ("s_1.cls", b"4"), ("s_1.7s.cls", b"5"),
        ("1.2.840.png", b"3"), ("2.jpg", b"4"), ("2.5s.cls", b"no class of any picture"),
    ]  # fmt: skip
    rows, ignored, _ = listed(shard(tmp_path / "a.tar", members))
    assert [(bytes_at(address), label) for address, label in rows] == [
        (b"0", None), (b"1", "4"), (b"2", "5"), (b"3", None), (b"4", None),
    ]  # fmt: skip
    assert not ignored


def test_a_member_that_comes_again_is_another_sample_with_the_class_that_stands_by_it(tmp_path):
    members = [("0.jpg", b"a"), ("0.cls", b"1"), ("0.jpg", b"b"), ("0.cls", b"2"), ("1.jpg", b"c"), ("1.jpg", b"d")]
    rows, ignored, _ = listed(shard(tmp_path / "a.tar", members))
    assert [(bytes_at(address), label) for address, label in rows] == [
        (b"a", "1"), (b"b", "2"), (b"c", None), (b"d", None),
    ]  # fmt: skip
    assert not ignored


def test_what_follows_the_key_chooses_which_member_is_the_data(tmp_path):
    members = [
        (f"{i}.{rest}", rest.encode()) for i in range(2) for rest in ("jpg", "seg.png", "RGB.jpg", "json", "cls")
    ]
    path = shard(tmp_path / "a.tar", [(name, b"7" if name.endswith("cls") else content) for name, content in members])
    for only, found in (("seg.png", b"seg.png"), ("rgb.jpg", b"RGB.jpg"), ("jpg", b"jpg")):
        items = list_items(f"{path}::{only}", (".jpg", ".png"))
        assert [bytes_at(address) for address in items.addresses] == [found] * 2
        assert items.classes == ("7",) and not items.ignored
    with pytest.raises(UserError, match=r"'seg\.txt' ends in none of \.jpg \.png"):
        list_items(f"{path}::seg.txt", (".jpg", ".png"))
    with pytest.raises(UserError, match=r"expected members that end in \.depth\.png"):
        list_items(f"{tmp_path}/{{a,a}}.tar::depth.png", (".jpg", ".png"))


@pytest.mark.parametrize("text", [b"1.5", b"cat", b"", b"1 2", b"1" * 10, b"0" * 40])
def test_a_class_that_is_no_integer_of_nine_digits_is_named(tmp_path, text):
    path = shard(tmp_path / "a.tar", [("1.jpg", b"1"), ("1.cls", text)])
    with pytest.raises(UserError, match=r"member '1\.cls' is .*, expected an integer label"):
        listed(path)


IMAGES = np.arange(4 * 2 * 3).reshape(4, 2, 3)


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<f4", ">f4", "|b1", "<i8"])
@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_rows_come_back_whatever_the_byte_order_and_where_their_member_stands(tmp_path, dtype, packed):
    path, images = tmp_path / "m.npz", (IMAGES % 2).astype(dtype) if dtype == "|b1" else IMAGES.astype(dtype)
    with zipfile.ZipFile(path, "w", packed) as zipped:
        for name, array in (("other", np.zeros(99)), ("val_images", images), ("last", np.ones(5))):
            held = io.BytesIO()
            np.save(held, array)
            zipped.writestr(f"{name}.npy", held.getvalue())  # without the extra field that numpy leaves room for
    addresses, labels = list_npz(str(path), "val")
    assert addresses == [f"{path}::val_images::{i}" for i in range(4)] and labels is None
    for i in range(4):
        row = read_row(addresses[i], str(path), "val_images", i, 1000)
        assert row.tolist() == images[i].tolist() and row.dtype == images.dtype
    assert isinstance(row, np.memmap) is (packed == zipfile.ZIP_STORED)  # mapped, and shared by all workers


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([3, 0, 1, 3], np.int64), ["3", "0", "1", "3"]),
        (np.array([[1], [0], [1], [-1]], np.int8), ["1", "0", "1", "-1"]),
        (np.array([True, False, True, False]), ["1", "0", "1", "0"]),
        (np.array([0.0, 1.0, 1.0, 0.0]), ["0", "1", "1", "0"]),
        (np.zeros((4, 2), int), None),
        (np.full((4, 2), "cat"), None),
    ],
)
def test_labels_are_one_whole_number_a_row_or_none(tmp_path, labels, expected):
    np.savez(tmp_path / "m.npz", train_images=IMAGES.astype(np.uint8), train_labels=labels)
    assert list_npz(str(tmp_path / "m.npz"), "train")[1] == expected


@pytest.mark.parametrize(
    ("labels", "has"), [([0, 1, 1], "has 3 rows"), (["a"] * 5, "has 5 rows"), (7, "a single value")]
)
def test_labels_for_another_number_of_rows_are_refused(tmp_path, labels, has):
    np.savez(tmp_path / "m.npz", train_images=IMAGES.astype(np.uint8), train_labels=np.array(labels))
    with pytest.raises(UserError, match=rf"'train_labels' .*{has} and 'train_images' 4; expected one label a row"):
        list_npz(str(tmp_path / "m.npz"), "train")


def test_a_row_takes_as_many_bytes_as_allowed_and_none_more(tmp_path):
    np.savez(tmp_path / "m.npz", train_images=IMAGES.astype(np.uint16))
    where = str(tmp_path / "m.npz")
    assert read_row("a", where, "train_images", 3, 12).nbytes == 12
    with pytest.raises(BadSample, match="12 bytes, the limit is 11"):
        read_row("a", where, "train_images", 3, 11)
    with pytest.raises(BadSample, match="'train_images' has 4 rows"):
        read_row("a", where, "train_images", 4, 12)


def test_arrays_that_hold_no_rows_are_refused(tmp_path):
    for images in (np.zeros(4, np.uint8), np.zeros((0, 2, 2), np.uint8), np.zeros((4, 2, 0), np.uint8)):
        np.savez(tmp_path / "m.npz", train_images=images)
        with pytest.raises(UserError, match="expected rows of at least one value"):
            list_npz(str(tmp_path / "m.npz"), "train")
