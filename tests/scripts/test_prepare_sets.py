import gzip
import io
import tarfile

import numpy as np
import prepare_sets
import pytest
from prepare_sets import COUNTS, made, numbers, split

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sources.table import list_items


def test_every_fifth_of_the_sorted_files_is_held_out_from_the_first_on(tmp_path):
    files = [tmp_path / f"{i:02d}.png" for i in range(12)]
    train, test = split(files[::-1])
    assert [f.stem for f in test] == ["00", "05", "10"]
    assert sorted(train + test) == files


def test_lists_of_few_labels_are_of_each_class_and_the_smaller_is_in_the_larger(tmp_path):
    (tmp_path / "image").mkdir()
    with tarfile.open(tmp_path / "image/cifar10.tar.gz", "w:gz") as archive:
        for part, count in (("train", 12), ("test", 2)):
            for name in ("cat", "dog"):
                for i in range(count):
                    archive.addfile(tarfile.TarInfo(f"cifar10/{part}/{name}/{i:04d}.jpg"), io.BytesIO())
    assert made("cifar10", tmp_path, tmp_path / "sets")
    folder = tmp_path / "sets/cifar10"
    lists = {count: list_items(str(folder / f"few-{count}-0.csv"), ImageReader.suffixes) for count in COUNTS[:4]}
    for count, items in lists.items():
        assert items.classes == ("cat", "dog")
        assert np.bincount(items.labels).tolist() == [count, count]
    for fewer, more in ((1, 3), (3, 5), (5, 10)):
        assert set(lists[fewer].addresses) < set(lists[more].addresses)
    assert (folder / "few-3-0.csv").read_text() != (folder / "few-3-1.csv").read_text()


def test_an_idx_file_has_its_bytes_row_by_row(tmp_path):
    values = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    header = bytes([0, 0, 8, 3]) + np.array(values.shape, ">i4").tobytes()
    (tmp_path / "x.gz").write_bytes(gzip.compress(header + values.tobytes()))
    assert (numbers(tmp_path / "x.gz") == values).all()


def test_a_set_whose_source_lacks_is_named_and_leaves_nothing(tmp_path, capsys):
    assert not made("nuclei", tmp_path, tmp_path / "sets")
    assert "image/dsb2018_nuclei" in capsys.readouterr().err
    assert not list((tmp_path / "sets").iterdir())


def test_a_set_that_was_stopped_is_made_anew(tmp_path, monkeypatch):
    def stopped(source, into):
        (into / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(prepare_sets.SETS, "nuclei", stopped)
    with pytest.raises(KeyboardInterrupt):
        made("nuclei", tmp_path, tmp_path)
    monkeypatch.setitem(prepare_sets.SETS, "nuclei", lambda source, into: (into / "whole").touch())
    assert made("nuclei", tmp_path, tmp_path)
    assert [f.name for f in (tmp_path / "nuclei").iterdir()] == ["whole"]
