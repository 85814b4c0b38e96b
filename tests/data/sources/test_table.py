"""Sources: what is listed, in which order, with which label; what is refused, and in which words."""

import io
import os
import pickle
import socket
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mae_ext.data.sources.address import fetch, locate
from mae_ext.data.sources.table import Items, PathTable, list_items
from mae_ext.errors import BadSample, UserError

JPG = (".jpg", ".png")
LIMIT = 1 << 20


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


def names(items: Items, root: Path) -> list[str]:
    return [os.path.relpath(a, root) for a in items.addresses]


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def refusal(path: Path | str, suffixes: tuple[str, ...] = JPG) -> str:
    with pytest.raises(UserError) as caught:
        list_items(str(path), suffixes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kind(address: str, limit: int = LIMIT) -> str:
    with pytest.raises(BadSample) as caught:
        fetch(address, limit)
    assert caught.value.path == address
    return caught.value.kind


@contextmanager
def without_root() -> Iterator[None]:
    """Permissions mean nothing to root; be nobody for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestPathTable:
    def test_any_string_comes_back_as_it_went_in(self) -> None:
        texts = ["a", "", "line\nbreak", "käse 🧀", "undecodable \udcff", "tab\t", "a::b"]
        table = pickle.loads(pickle.dumps(PathTable(texts)))
        assert list(table) == texts
        assert [table[i] for i in range(-7, 0)] == texts
        assert len(table) == 7

    @pytest.mark.parametrize("index", [3, -4])
    def test_an_index_outside_is_an_error(self, index: int) -> None:
        with pytest.raises(IndexError):
            PathTable(["a", "b", "c"])[index]

    def test_holds_no_python_object_per_path(self) -> None:
        table = PathTable(f"/data/{i:07d}.jpg" for i in range(20_000))
        assert len(pickle.dumps(table)) < 20_000 * (len("/data/0000000.jpg") + 8) + 1000


class TestFolder:
    def test_is_listed_recursively_in_sorted_order(self, tmp_path: Path) -> None:
        make(tmp_path, "b/2.jpg", "b/10.jpg", "a.PNG", "c/d/e/x.jpg", "B.jpg", "notes.txt")
        found = names(list_items(str(tmp_path), JPG), tmp_path)
        assert found == ["B.jpg", "a.PNG", "b/10.jpg", "b/2.jpg", "c/d/e/x.jpg"]

    def test_first_level_folders_are_the_classes(self, tmp_path: Path) -> None:
        make(tmp_path, "dog/1.jpg", "cat/deep/2.jpg", "cat/3.jpg", "alone.jpg")
        items = list_items(str(tmp_path), JPG)
        assert items.classes == ("cat", "dog")
        assert dict(zip(names(items, tmp_path), items.labels.tolist(), strict=True)) == {
            "alone.jpg": -1,
            "cat/3.jpg": 0,
            "cat/deep/2.jpg": 0,
            "dog/1.jpg": 1,
        }

    def test_class_folders_that_are_numbers_are_so_many_classes_as_there_are_folders(self, tmp_path: Path) -> None:
        make(tmp_path, "90210/1.jpg", "10115/2.jpg", "10115/3.jpg", "2000/4.jpg")
        items = list_items(str(tmp_path), JPG)
        assert items.classes == ("2000", "10115", "90210")
        assert dict(zip(names(items, tmp_path), items.labels.tolist(), strict=True)) == {
            "10115/2.jpg": 1, "10115/3.jpg": 1, "2000/4.jpg": 0, "90210/1.jpg": 2,
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("folders", "classes"),
        [
            ("0 1 2 10", "0 1 2 10"),
            ("9 10 100", "9 10 100"),
            ("01 1 2", "01 1 2"),
            ("10 9 x", "10 9 x"),
            ("99999 100000", "100000 99999"),
            ("-1 0 1", "-1 0 1"),
        ],
    )
    def test_whole_numbers_are_sorted_as_numbers_and_names_as_text(
        self, tmp_path: Path, folders: str, classes: str
    ) -> None:
        make(tmp_path, *(f"{name}/a.jpg" for name in folders.split()))
        assert list_items(str(tmp_path), JPG).classes == tuple(classes.split())

    def test_without_subfolders_has_no_labels(self, tmp_path: Path) -> None:
        items = list_items(str(make(tmp_path, "1.jpg", "2.jpg")), JPG)
        assert items.labels is None and items.classes == ()

    def test_suffixes_are_the_readers(self, tmp_path: Path) -> None:
        make(tmp_path, "a.nii.gz", "b.gz", "c.jpg")
        assert names(list_items(str(tmp_path), (".nii.gz",)), tmp_path) == ["a.nii.gz"]

    def test_links_that_leave_it_are_passed_over_and_counted(self, tmp_path: Path) -> None:
        inside, outside = make(tmp_path / "in", "a.jpg"), make(tmp_path / "out", "secret.jpg")
        (inside / "file.jpg").symlink_to(outside / "secret.jpg")
        (inside / "folder").symlink_to(outside)
        (inside / "climb.jpg").symlink_to("../out/secret.jpg")
        (inside / "same.jpg").symlink_to("a.jpg")
        items = list_items(str(inside), JPG)
        assert names(items, inside) == ["a.jpg", "same.jpg"]
        assert items.ignored == {"links that leave the folder": 3}

    def test_a_sibling_whose_name_begins_alike_is_outside(self, tmp_path: Path) -> None:
        make(tmp_path, "in/a.jpg", "in2/b.jpg")
        (tmp_path / "in" / "b.jpg").symlink_to(tmp_path / "in2" / "b.jpg")
        assert len(list_items(str(tmp_path / "in"), JPG)) == 1

    def test_a_circle_of_links_ends(self, tmp_path: Path) -> None:
        make(tmp_path, "a/b/x.jpg")
        (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
        (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
        items = list_items(str(tmp_path), JPG)
        assert names(items, tmp_path) == ["a/b/x.jpg"]

    def test_a_folder_that_is_itself_a_link_is_followed(self, tmp_path: Path) -> None:
        make(tmp_path / "real", "a.jpg")
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert len(list_items(str(tmp_path / "link"), JPG)) == 1

    def test_pipes_and_sockets_are_never_opened(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg")
        os.mkfifo(tmp_path / "pipe.jpg")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "socket.jpg"))
        (tmp_path / "folder.jpg").mkdir()
        began = time.monotonic()
        items = list_items(str(tmp_path), JPG)
        assert names(items, tmp_path) == ["a.jpg"] and items.ignored == {"not regular files": 2}
        assert time.monotonic() - began < 1

    def test_resource_forks_of_macos_are_no_images(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg", "._a.jpg", ".cache/b.jpg")
        assert names(list_items(str(tmp_path), JPG), tmp_path) == ["a.jpg"]

    def test_a_newline_in_a_name_is_one_file(self, tmp_path: Path) -> None:
        make(tmp_path, "one\ntwo.jpg")
        items = list_items(str(tmp_path), JPG)
        assert fetch(items.addresses[0], LIMIT) == b"one\ntwo.jpg"

    def test_missing_names_the_part_that_exists(self, tmp_path: Path) -> None:
        message = refusal(tmp_path / "no" / "such")
        assert "no such file or folder" in message and f"'{tmp_path}'" in message

    def test_empty_says_so(self, tmp_path: Path) -> None:
        message = refusal(tmp_path)
        assert "nothing else in it" in message and ".jpg .png" in message

    def test_without_images_says_what_was_found_instead(self, tmp_path: Path) -> None:
        make(tmp_path, "a.txt", "b.txt", "x/c.json", "README")
        message = refusal(tmp_path)
        assert ".jpg .png" in message and "2 .txt" in message and "1 .json" in message and "1 without suffix" in message

    def test_of_links_to_elsewhere_says_that_they_were_passed_over(self, tmp_path: Path) -> None:
        make(tmp_path, "in/readme", "out/a.jpg")
        (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "out" / "a.jpg")
        assert "1 links that leave the folder" in refusal(tmp_path / "in")

    def test_that_cannot_be_read_is_named(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        root = make(tmp_path_factory.mktemp("locked"), "a.jpg", "closed/b.jpg")
        opened = [p for p in root.parents if p.stat().st_uid == os.geteuid() and not p.stat().st_mode & 0o001]
        before = [p.stat().st_mode for p in opened]
        for folder in [root, *opened]:
            folder.chmod(0o755)
        (root / "closed").chmod(0)
        try:
            with without_root():
                message = refusal(root)
        finally:
            (root / "closed").chmod(0o755)
            for folder, mode in zip(opened, before, strict=True):
                folder.chmod(mode)
        assert f"'{root}/closed'" in message and "Permission denied" in message

    def test_a_device_is_refused(self) -> None:
        assert "neither a folder nor a regular file" in refusal("/dev/zero")

    def test_a_nul_in_the_path_is_refused(self) -> None:
        assert "NUL" in refusal("a\0b")


class TestList:
    def test_paths_are_relative_to_the_list_and_labels_follow_a_tab(self, tmp_path: Path) -> None:
        make(tmp_path, "x/a.jpg", "x/b c.jpg")
        absolute = make(tmp_path / "far", "c.jpg") / "c.jpg"
        text = f"\ufeffx/b c.jpg\tdog\r\n\nx/a.jpg\n{absolute}\tcat\n"
        (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
        items = list_items(str(tmp_path / "list.txt"), JPG)
        assert list(items.addresses) == [f"{tmp_path}/x/b c.jpg", f"{tmp_path}/x/a.jpg", str(absolute)]
        assert items.classes == ("cat", "dog") and items.labels.tolist() == [1, -1, 0]

    def test_csv_has_a_header(self, tmp_path: Path) -> None:
        make(tmp_path, "a,1.jpg", "b.jpg")
        (tmp_path / "list.csv").write_text('label,path\n7,"a,1.jpg"\n2,b.jpg\n')
        items = list_items(str(tmp_path / "list.csv"), JPG)
        assert names(items, tmp_path) == ["a,1.jpg", "b.jpg"]
        assert items.labels.tolist() == [1, 0] and items.classes == ("2", "7")

    def test_csv_without_a_path_column_says_what_it_has(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv").write_text("picture,label\na.jpg,1\n")
        assert "['picture', 'label']" in refusal(tmp_path / "list.csv")

    def test_some_missing_files_are_bad_samples_later(self, tmp_path: Path) -> None:
        make(tmp_path, "b.jpg")
        (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
        items = list_items(str(tmp_path / "list.txt"), JPG)
        assert kind(items.addresses[0]) == "no such file"
        assert fetch(items.addresses[1], LIMIT) == b"b.jpg"

    def test_none_that_exists_is_an_error_with_line_numbers(self, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("\na.jpg\nb.jpg\n")
        message = refusal(tmp_path / "list.txt")
        assert "none of its 2 files" in message and "lines 2, 3" in message and f"{tmp_path}/a.jpg" in message

    def test_a_relative_path_that_climbs_out_is_refused(self, tmp_path: Path) -> None:
        make(tmp_path, "in/a.jpg", "out/b.jpg")
        (tmp_path / "in" / "list.txt").write_text("a.jpg\n../out/b.jpg\n")
        assert "line 2: '../out/b.jpg'" in refusal(tmp_path / "in" / "list.txt")

    def test_an_empty_list_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("\n\n")
        assert "the list is empty" in refusal(tmp_path / "list.txt")


class TestTar:
    MEMBERS = {  # noqa: RUF012
        "train/0001.cls": b"3\n",
        "train/0001.jpg": b"one",
        "train/0002.jpg": b"two",
        "train/0002.json": b"{}",
        "val/0001.jpg": b"other folder",
        "._0002.jpg": b"fork",
        "train/0001.png": b"second view",
    }

    def test_groups_members_by_key_and_reads_by_offset(self, tmp_path: Path) -> None:
        items = list_items(str(shard(tmp_path / "a.tar", self.MEMBERS)), JPG)
        assert [fetch(a, LIMIT) for a in items.addresses] == [b"one", b"two", b"other folder"]
        assert items.addresses[0].endswith("+3::train/0001.jpg")
        assert items.labels.tolist() == [0, -1, -1] and items.classes == ("3",)

    @pytest.mark.parametrize("pattern", ["s-{000..002}.tar", "s-*.tar", "s-{000,001,002}.tar", ".", "s-00{0..2}.tar"])
    def test_many_shards_are_named_by_braces_by_glob_or_by_their_folder(self, tmp_path: Path, pattern: str) -> None:
        for i in range(3):
            shard(tmp_path / f"s-{i:03d}.tar", {f"{i}.jpg": bytes([i])})
        items = list_items(str(tmp_path / pattern), JPG)
        assert [fetch(a, LIMIT) for a in items.addresses] == [b"\0", b"\1", b"\2"]

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        shard(tmp_path / "s-0.tar", {"0.jpg": b"0"})
        assert "1 of 2 shards are missing" in refusal(tmp_path / "s-{0..1}.tar")
        assert "no shard matches" in refusal(tmp_path / "t-*.tar")

    def test_a_brace_bomb_is_refused(self, tmp_path: Path) -> None:
        began = time.monotonic()
        assert "at most" in refusal(tmp_path / "{0..999999999}.tar")
        assert "more than" in refusal(tmp_path / "{0..9999}{0..9999}.tar")
        assert time.monotonic() - began < 2

    @pytest.mark.parametrize("name", ["a.zip", "B.7z"])
    def test_an_archive_of_another_kind_is_refused_with_the_way_out(self, tmp_path: Path, name: str) -> None:
        assert "unpack it and give the folder" in refusal(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "b.tar.zst", "A.TAR.GZ"])
    def test_a_compressed_tar_is_refused_with_the_way_out(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"")
        assert f"tar -xf {tmp_path / name}" in refusal(tmp_path / name)

    @pytest.mark.parametrize("damage", ["data cut", "header cut", "between", "text", "header", "empty"])
    def test_a_damaged_shard_is_an_error_at_once(self, tmp_path: Path, damage: str) -> None:
        path = shard(tmp_path / "a.tar", {"0.jpg": bytes(600), "1.jpg": bytes(600)})
        whole = path.read_bytes()  # a member is a header of 512 bytes and 1024 of data
        damaged = {
            "data cut": whole[:1000],
            "header cut": whole[:1700],
            "between": whole[:1536],
            "text": b"hello" * 300,
            "header": whole[:1540] + b"\xff" * 100 + whole[1640:],
            "empty": b"",
        }
        path.write_bytes(damaged[damage])
        assert "tar shard" in refusal(path) and "damaged" in refusal(path)

    def test_a_label_that_is_no_integer_is_named(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "a.tar", {"0.jpg": b"0", "0.cls": b"cat"})
        assert "'0.cls' is 'cat'" in refusal(path)

    def test_without_samples_says_what_was_found_instead(self, tmp_path: Path) -> None:
        assert "found instead: 1 .bmp" in refusal(shard(tmp_path / "a.tar", {"0.orig.bmp": b"0"}))

    def test_a_shard_cut_after_listing_is_a_bad_sample(self, tmp_path: Path) -> None:
        path = shard(tmp_path / "a.tar", {"0.jpg": bytes(600)})
        address = list_items(str(path), JPG).addresses[0]
        assert locate(address) == (str(path), 512, 600)
        path.write_bytes(path.read_bytes()[:700])
        assert kind(address) == "truncated"
        with pytest.raises(BadSample, match="truncated"):
            locate(address)  # for decoders that open the shard themselves

    def test_a_member_name_is_never_a_path(self, tmp_path: Path) -> None:
        (tmp_path / "canary.jpg").write_bytes(b"outside")
        path = shard(tmp_path / "a.tar", {"../canary.jpg": b"inside", str(tmp_path / "x::y\n.jpg"): b"odd"})
        assert [fetch(a, LIMIT) for a in list_items(str(path), JPG).addresses] == [b"inside", b"odd"]

    def test_links_inside_are_passed_over(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, form in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.FIFOTYPE)):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = form, "/etc/passwd"
                tar.addfile(info)
        assert "2 links inside a shard (such as a.jpg)" in refusal(tmp_path / "a.tar")
        assert "1 not regular files (such as c.jpg)" in refusal(tmp_path / "a.tar")


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def save(request: pytest.FixtureRequest) -> Callable[..., None]:
    return request.param


class TestNpz:
    def arrays(self) -> dict[str, np.ndarray]:
        chance = np.random.default_rng(0)
        return {
            "train_images": chance.integers(0, 256, (5, 6, 7, 3), dtype=np.uint8),
            "train_labels": np.array([[2], [0], [1], [2], [0]], dtype=np.uint8),
            "test_images": chance.integers(0, 256, (3, 6, 7), dtype=np.uint8),
        }

    def test_rows_and_labels_of_a_split_come_back(self, tmp_path: Path, save: Callable[..., None]) -> None:
        save(tmp_path / "m.npz", **self.arrays())
        train = list_items(str(tmp_path / "m.npz"), JPG)
        assert train.labels.tolist() == [2, 0, 1, 2, 0] and train.classes == ("0", "1", "2")
        assert train.addresses[3] == f"{tmp_path}/m.npz::train_images::3"
        for i, address in enumerate(train.addresses):
            np.testing.assert_array_equal(fetch(address, LIMIT), self.arrays()["train_images"][i])
        test = list_items(f"{tmp_path}/m.npz::test", JPG)
        assert test.labels is None
        np.testing.assert_array_equal(fetch(test.addresses[2], LIMIT), self.arrays()["test_images"][2])

    def test_rows_are_read_only(self, tmp_path: Path, save: Callable[..., None]) -> None:
        save(tmp_path / "m.npz", **self.arrays())
        row = fetch(list_items(str(tmp_path / "m.npz"), JPG).addresses[0], LIMIT)
        with pytest.raises(ValueError, match="read-only"):
            row[0, 0] = 1

    def test_column_major_arrays_keep_their_meaning(self, tmp_path: Path, save: Callable[..., None]) -> None:
        images = np.asfortranarray(self.arrays()["train_images"])
        save(tmp_path / "m.npz", train_images=images)
        np.testing.assert_array_equal(fetch(f"{tmp_path}/m.npz::train_images::1", LIMIT), images[1])

    def test_a_file_that_was_replaced_is_read_anew(self, tmp_path: Path, save: Callable[..., None]) -> None:
        for value in (1, 2):
            save(tmp_path / "m.npz", train_images=np.full((2, 3, 3), value, np.uint8))
            assert fetch(f"{tmp_path}/m.npz::train_images::1", LIMIT).max() == value

    @pytest.mark.parametrize("kind", [str, "S3", object])
    def test_labels_may_be_text_and_objects_are_refused_with_what_to_save(self, tmp_path: Path, kind: type) -> None:
        labels = np.array(["dog", "cat", "dog"], dtype=kind)
        np.savez(tmp_path / "m.npz", train_images=np.zeros((3, 4, 4), np.uint8), train_labels=labels)
        if kind is object:
            assert "'train_labels' holds objects" in (told := refusal(tmp_path / "m.npz")) and "np.array(" in told
            return
        items = list_items(str(tmp_path / "m.npz"), JPG)
        assert items.classes == ("cat", "dog") and items.labels.tolist() == [1, 0, 1]

    def test_labels_may_be_whole_numbers_as_floats_and_others_are_refused(self, tmp_path: Path) -> None:
        for labels in ([0.0, 1.0, 1.0], [0.0, 1.5, 1.0]):
            np.savez(tmp_path / "m.npz", train_images=np.zeros((3, 4, 4), np.uint8), train_labels=np.array(labels))
            if labels[1] == 1.5:
                assert "not whole numbers alone" in refusal(tmp_path / "m.npz")
            else:
                assert list_items(str(tmp_path / "m.npz"), JPG).labels.tolist() == [0, 1, 1]

    def test_an_unknown_split_lists_those_there_are(self, tmp_path: Path, save: Callable[..., None]) -> None:
        save(tmp_path / "m.npz", **self.arrays())
        assert "splits: test, train" in refusal(f"{tmp_path}/m.npz::val")

    def test_multi_label_tables_are_no_classes_and_that_is_said(
        self, tmp_path: Path, save: Callable[..., None], caplog: pytest.LogCaptureFixture
    ) -> None:
        save(tmp_path / "m.npz", train_images=np.zeros((4, 2, 2), np.uint8), train_labels=np.ones((4, 14), np.uint8))
        assert list_items(str(tmp_path / "m.npz"), JPG).labels is None
        assert "'train_labels' has shape [4, 14]: several numbers a row are no class" in caplog.text

    def test_a_pickle_inside_is_never_loaded(self, tmp_path: Path, save: Callable[..., None]) -> None:
        canary = tmp_path / "canary"

        class Payload:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (canary,)

        for key in ("train_images", "train_labels"):
            arrays = self.arrays() | {key: np.array([Payload()] * 5, dtype=object)}
            save(tmp_path / f"{key}.npz", **arrays)
            assert "never unpickled" in refusal(tmp_path / f"{key}.npz")
        assert not canary.exists()

    def test_one_flipped_byte_is_found(self, tmp_path: Path, save: Callable[..., None]) -> None:
        chance = np.random.default_rng(1)
        path = tmp_path / "m.npz"
        save(path, train_images=chance.integers(0, 256, (50, 8, 8), dtype=np.uint8))
        whole = bytearray(path.read_bytes())
        whole[1000] ^= 4
        path.write_bytes(whole)
        with pytest.raises((UserError, BadSample)):
            fetch(list_items(str(path), JPG).addresses[0], LIMIT)

    def test_a_cut_archive_is_refused(self, tmp_path: Path, save: Callable[..., None]) -> None:
        save(tmp_path / "m.npz", **self.arrays())
        (tmp_path / "m.npz").write_bytes((tmp_path / "m.npz").read_bytes()[:-40])
        assert "damaged" in refusal(tmp_path / "m.npz")

    def test_a_header_that_promises_more_than_there_is_allocates_nothing(self, tmp_path: Path) -> None:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 64, 64)})
        with zipfile.ZipFile(tmp_path / "m.npz", "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("train_images.npy", head.getvalue() + bytes(64))
        assert "says it is" in refusal(tmp_path / "m.npz")

    def test_a_row_above_the_limit_is_refused(self, tmp_path: Path, save: Callable[..., None]) -> None:
        save(tmp_path / "m.npz", **self.arrays())
        assert kind(f"{tmp_path}/m.npz::train_images::0", 100) == "too large"
        assert kind(f"{tmp_path}/m.npz::train_images::9") == "truncated"
        assert kind(f"{tmp_path}/none.npz::train_images::0") == "no such file"


class TestFetch:
    def test_says_of_each_bad_file_what_it_is(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg")
        (tmp_path / "empty.jpg").touch()
        assert kind(str(tmp_path / "none.jpg")) == "no such file"
        assert kind(str(tmp_path / "a.jpg" / "b.jpg")) == "no such file"
        assert kind("a\0.jpg") == "no such file"
        assert kind(str(tmp_path)) == "not a regular file"
        assert kind(str(tmp_path / "empty.jpg")) == "empty"
        assert kind(str(tmp_path / "a.jpg"), limit=3) == "too large"
        assert kind(str(tmp_path / ("x" * 300))) == "unreadable"

    def test_a_pipe_or_device_in_a_files_place_does_not_block(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")
        (tmp_path / "zero.jpg").symlink_to("/dev/zero")
        began = time.monotonic()
        assert kind(str(tmp_path / "pipe.jpg")) == kind(str(tmp_path / "zero.jpg")) == "not a regular file"
        assert kind("/dev/tty") == "not a regular file"
        assert time.monotonic() - began < 1

    def test_leaves_no_file_open(self, tmp_path: Path) -> None:
        make(tmp_path, "a.jpg")
        handles = Path("/proc/self/fd")
        if not handles.exists():
            pytest.skip("open files are counted in /proc")
        before = len(list(handles.iterdir()))
        for _ in range(50):
            fetch(str(tmp_path / "a.jpg"), LIMIT)
            kind(str(tmp_path / "a.jpg"), limit=1)
        assert len(list(handles.iterdir())) == before
