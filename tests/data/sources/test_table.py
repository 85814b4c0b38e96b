"""Sources: what is listed, in which order, with which label; what is refused, and in which words."""

import os
import pickle
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from data.sources.listings import JPG, LIMIT, kind, make, names, refusal

from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.table import PathTable, list_items


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
