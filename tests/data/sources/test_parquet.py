"""Parquet with a column of images: the bytes of every row, labels as of lists, and what is damaged is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from data.sources.encoded import png

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import whole
from mae_ext.data.sources import cells
from mae_ext.data.sources.address import fetch, locate
from mae_ext.data.sources.cache import source_identity
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, UserError

pa = pytest.importorskip("pyarrow", reason="pip install 'mae-ext[parquet]'")
pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'mae-ext[parquet]'")

IMAGES = ImageReader.suffixes
BLOBS = [png(i) for i in range(30)]
NAMED = {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}


def table(struct=True, **columns):
    images = [{"bytes": blob, "path": f"{i}.png"} for i, blob in enumerate(BLOBS)] if struct else BLOBS
    return pa.table({"image": images, **columns})


def write(path, made=None, **how):
    pq.write_table(table() if made is None else made, path, **{"row_group_size": 7, **how})
    return str(path)


@pytest.mark.parametrize("struct", [True, False], ids=["struct", "bytes"])
@pytest.mark.parametrize("how", [{}, {"use_dictionary": False, "compression": "zstd"}, {"compression": "none"}])
def test_every_row_is_the_one_that_was_written(tmp_path, struct, how):
    items = list_items(write(tmp_path / "a.parquet", table(struct), **how), IMAGES)
    order = np.random.default_rng(0).permutation(30)
    assert all(fetch(items.addresses[i], 1 << 20) == BLOBS[i] for i in order)
    address = items.addresses[29]
    assert address == f"{tmp_path}/a.parquet::image::29"
    path, offset, size = locate(address)
    assert Path(path).read_bytes()[offset : offset + size] == BLOBS[29]
    assert ImageReader((20, 20)).read(address, [whole])[0].x.shape == (3, 20, 20)
    assert source_identity(address) != source_identity(items.addresses[28])


def test_groups_too_large_to_keep_are_read_up_to_the_row(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "GROUP_BYTES", 10)
    items = list_items(write(tmp_path / "a.parquet", use_dictionary=False), IMAGES)
    assert [fetch(items.addresses[i], 1 << 20) for i in (29, 3, 13)] == [BLOBS[i] for i in (29, 3, 13)]
    monkeypatch.setattr(cells, "MOST_GROUP_BYTES", 100)
    with pytest.raises(BadSample, match="row_group_size=100"):
        fetch(items.addresses[0], 1 << 20)


def test_labels_patients_and_splits_are_those_of_lists(tmp_path):
    made = table(
        label=[i % 2 if i else None for i in range(30)], patient=[f"p{i // 2}" for i in range(30)],
        split=["train" if i < 20 else "test" for i in range(30)], tags=[["a", "b"], ["b"], []] * 10,
        finding=["cyst|mass"] * 30,
    )  # fmt: skip
    path = write(tmp_path / "a.parquet", made.replace_schema_metadata({"huggingface": json.dumps(NAMED)}))
    items = list_items(path, IMAGES)
    assert items.classes == ("cat", "dog") and items.labels is not None and items.labels[:4].tolist() == [-1, 1, 0, 1]
    assert items.patients is not None and items.patients[29] == "p14"
    assert len(list_items(f"{path}::test", IMAGES)) == 10
    fold, rest = (list_items(f"{path}::{key}=1/5", IMAGES) for key in ("fold", "rest"))
    assert len(fold) + len(rest) == 30 and not {*fold.patients} & {*rest.patients}
    several = list_items(f"{path}::label=tags", IMAGES)
    assert several.classes == ("a", "b") and several.marks[:3].tolist() == [[1, 1], [0, 1], [0, 0]]
    assert list_items(f"{path}::label=finding,split=test", IMAGES).classes == ("cyst", "mass")
    with pytest.raises(UserError, match="expected a first line with the columns nothing"):
        list_items(f"{path}::label=nothing", IMAGES)


def test_the_column_of_images_is_seen_or_asked_for(tmp_path):
    made = pa.table({"left": BLOBS, "right": BLOBS[::-1], "label": [1] * 30})
    path = write(tmp_path / "a.parquet", made)
    with pytest.raises(UserError, match="several columns hold bytes: left, right"):
        list_items(path, IMAGES)
    items = list_items(f"{path}::path=right", IMAGES)
    assert fetch(items.addresses[0], 1 << 20) == BLOBS[29]
    with pytest.raises(UserError, match="no column holds encoded images"):
        list_items(write(tmp_path / "b.parquet", pa.table({"label": [1, 2]})), IMAGES)


def test_files_are_one_after_the_other_and_splits_are_not_mixed(tmp_path):
    for name in ("train-0", "train-1", "test-0"):
        write(tmp_path / f"{name}.parquet")
    items = list_items(f"{tmp_path}/train-*.parquet", IMAGES)
    assert len(items) == 60 and items.addresses[30] == f"{tmp_path}/train-1.parquet::image::0"
    with pytest.raises(UserError, match=r"several splits \(1 of test split, 2 of train split\); name those"):
        list_items(str(tmp_path), IMAGES)
    (tmp_path / "test-0.parquet").unlink()
    assert len(list_items(str(tmp_path), IMAGES)) == 60


def test_rows_without_bytes_and_rows_that_are_gone_are_bad(tmp_path):
    made = pa.table({"image": [{"bytes": None, "path": "a.png"}, {"bytes": BLOBS[0], "path": None}]})
    items = list_items(write(tmp_path / "a.parquet", made), IMAGES)
    for address, kind in (
        (items.addresses[0], "empty"), (f"{tmp_path}/a.parquet::image::2", "truncated"),
        (f"{tmp_path}/b.parquet::image::0", "no such file"),
    ):  # fmt: skip
        with pytest.raises(BadSample) as caught:
            fetch(address, 1 << 20)
        assert caught.value.kind == kind
    with pytest.raises(BadSample, match="the limit is 10"):
        fetch(items.addresses[1], 10)


def test_a_word_that_stands_in_every_row_takes_its_memory_once(tmp_path):
    word, rows = bytes(1 << 20), pa.array([0] * 3000, pa.int32())
    made = pa.table({"image": pa.DictionaryArray.from_arrays(rows, pa.array([word], pa.binary()))})  # 3 GB, written out
    for number, stored in enumerate((True, False)):  # whether Arrow's own types are in the file
        path = write(tmp_path / f"{number}.parquet", made, row_group_size=3000, store_schema=stored)
        assert fetch(list_items(path, IMAGES).addresses[2999], 1 << 20) == word
    assert pa.default_memory_pool().max_memory() < 64 << 20


def test_twenty_damages_are_each_a_line(tmp_path):
    content = Path(write(tmp_path / "a.parquet")).read_bytes()
    chance, outcomes = np.random.default_rng(0), []
    variants = [b"", content[:3], content[: len(content) // 2], content[:-1], b"PAR1" * 9]
    for _ in range(15):
        damaged = bytearray(content)
        for place in chance.integers(0, len(content), 40):
            damaged[place] = int(chance.integers(256))
        variants.append(bytes(damaged))
    for i, variant in enumerate(variants):
        (tmp_path / f"{i}.parquet").write_bytes(variant)
        try:
            for address in list_items(str(tmp_path / f"{i}.parquet"), IMAGES).addresses:
                ImageReader((20, 20)).read(address, [whole])
            outcomes.append("good")
        except (UserError, BadSample) as error:
            outcomes.append("named" if f"{i}.parquet" in str(error) else str(error))
    assert outcomes == ["named"] * 20
