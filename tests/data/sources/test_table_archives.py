"""Members of shards and rows of archives are listed as files are; what is damaged or hides something is refused."""

import io
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data.sources.listings import JPG, LIMIT, kind, refusal

from mae_ext.data.sources.address import fetch, locate
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, UserError


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


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
