"""LMDB: every value is where the library has it, and what is damaged is named."""

import numpy as np
import pytest
from data.sources.encoded import lmdb_of, png

from mae_ext.data.image.reader import ImageReader
from mae_ext.data.sample import whole
from mae_ext.data.sources.address import fetch
from mae_ext.data.sources.table import list_items
from mae_ext.errors import BadSample, UserError

lmdb = pytest.importorskip("lmdb", reason="writes the databases: pip install lmdb")

IMAGES = ImageReader.suffixes


@pytest.mark.parametrize("subdir", [True, False], ids=["folder", "file"])
def test_every_value_is_the_one_that_the_library_gives(tmp_path, subdir):
    # Small values stand in the leaves, large ones on pages of their own, and what is deleted leaves holes.
    values = {f"c{i % 3}/{i:05d}.png".encode(): png(i, 8 if i % 2 else 60) for i in range(120)}
    lmdb_of(tmp_path / "a.lmdb", values, subdir, page_deletes=list(values)[::7])
    items = list_items(str(tmp_path / "a.lmdb"), IMAGES)
    assert items.classes == ("c0", "c1", "c2") and len(items) == 102
    with lmdb.open(str(tmp_path / "a.lmdb"), readonly=True, lock=False, subdir=subdir) as base, base.begin() as reading:
        keys = [address.rpartition("::")[2] for address in items.addresses]
        assert keys == [key.decode() for key, _ in reading.cursor()]
        assert all(fetch(a, 1 << 20) == reading.get(k.encode()) for a, k in zip(items.addresses, keys, strict=True))
    if subdir:
        assert list_items(str(tmp_path), IMAGES).addresses[5] == items.addresses[5]
    assert items.labels is not None and items.labels[0] == 0


def test_values_without_a_suffix_are_samples_where_they_are_pictures(tmp_path, caplog):
    lmdb_of(tmp_path / "a.lmdb", {b"image-1": png(1), b"image-2": png(2), b"label-1": b"cat", b"num-samples": b"2"})
    items = list_items(str(tmp_path / "a.lmdb"), IMAGES)
    assert len(items) == 2 and items.labels is None
    assert "2 values that are no pictures (such as label-1)" in caplog.text
    (sample,) = ImageReader((20, 20)).read(items.addresses[1], [whole])
    expected, _ = ImageReader((20, 20)), (tmp_path / "2.png").write_bytes(png(2))
    assert np.array_equal(sample.x, expected.read(str(tmp_path / "2.png"), [whole])[0].x)


def test_databases_within_it_are_walked_and_a_lock_is_never_taken(tmp_path):
    with lmdb.open(str(tmp_path / "a.lmdb"), map_size=1 << 24, max_dbs=2) as base:
        for name in (b"cats", b"dogs"):
            inner = base.open_db(name)
            with base.begin(write=True) as writing:
                writing.put(b"1.png", png(len(name)), db=inner)
        before = (tmp_path / "a.lmdb" / "lock.mdb").stat().st_mtime_ns
        assert list_items(str(tmp_path / "a.lmdb"), IMAGES).classes == (
            "cats",
            "dogs",
        )  # while it is open to be written
        assert (tmp_path / "a.lmdb" / "lock.mdb").stat().st_mtime_ns == before


def test_an_empty_one_and_one_of_other_things_hold_no_sample(tmp_path):
    lmdb_of(tmp_path / "a.lmdb", {})
    lmdb_of(tmp_path / "b.lmdb", {b"x.json": b"{}", b"y": b"\x80\x04pickle"})
    for name in "ab":
        with pytest.raises(UserError, match="no sample in it"):
            list_items(str(tmp_path / f"{name}.lmdb"), IMAGES)


def test_twenty_damages_are_each_a_line_and_no_crash(tmp_path):
    lmdb_of(tmp_path / "a.lmdb", {f"{i:04d}.png".encode(): png(i) for i in range(40)}, subdir=False)
    content = (tmp_path / "a.lmdb").read_bytes()
    chance = np.random.default_rng(0)
    used = len(content.rstrip(b"\0"))
    variants = [b"", content[:100], content[:4096], content[: used // 2], b"\0" * 8192, b"PK\3\4" * 4000]
    for seed in range(14):
        damaged = bytearray(content)
        for place in chance.integers(0, 8192 if seed % 2 else used, 60):
            damaged[place] = int(chance.integers(256))
        variants.append(bytes(damaged))
    outcomes = []
    for i, variant in enumerate(variants):
        (tmp_path / f"{i}.lmdb").write_bytes(variant)
        try:
            for address in list_items(str(tmp_path / f"{i}.lmdb"), IMAGES).addresses:
                ImageReader((20, 20)).read(address, [whole])
            outcomes.append("good")
        except UserError as error:
            outcomes.append("named" if f"{i}.lmdb" in str(error) else str(error))
        except BadSample as error:
            outcomes.append(error.kind)
    assert outcomes[:6] == ["named"] * 6 and len(outcomes) == 20


def test_a_tree_that_leads_back_to_itself_is_damaged(tmp_path):
    lmdb_of(tmp_path / "a.lmdb", {f"{i:05d}.png".encode(): png(i, 8) for i in range(200)}, subdir=False)
    content = bytearray((tmp_path / "a.lmdb").read_bytes())
    metas = [int.from_bytes(content[at + 144 : at + 152], "little") for at in (0, 4096)]
    meta = 4096 * metas.index(max(metas))
    root = int.from_bytes(content[meta + 128 : meta + 136], "little")
    first = int.from_bytes(content[root * 4096 + 16 : root * 4096 + 18], "little")
    content[root * 4096 + first : root * 4096 + first + 4] = root.to_bytes(4, "little")
    (tmp_path / "b.lmdb").write_bytes(content)
    with pytest.raises(UserError, match=f"damaged: page {root} does not belong where it stands"):
        list_items(str(tmp_path / "b.lmdb"), IMAGES)
