# ruff: noqa: E501, PLC3002 - tables of inputs, a line for each
"""Shards, arrays and the cache: what is read of them, and what messages say."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from recorded.listings import SUFFIXES, arrays, listed, touch
from recorded.record import digest, each, room

from mae_ext.data.sources import address as addresses
from mae_ext.data.sources import cache, meant
from mae_ext.data.sources import folder as folders
from mae_ext.data.sources import table as source


@room
def data_sources(folder: Path) -> Iterator[tuple[str, Any]]:
    trees = {
        "flat": ("b.jpg", "a.jpg", "c.PNG", "d.txt", "e.bmp"), "classes": ("cat/1.jpg", "cat/x/2.jpg", "dog/3.jpg", "4.jpg"), "numbers": ("10/a.jpg", "9/b.jpg", "100/c.jpg"), "odd numbers": ("10/a.jpg", "09/b.jpg"), "splits": ("train/a/1.jpg", "test/a/2.jpg", "val/b/3.jpg"), "splits below": ("a/train/1.jpg", "a/test/2.jpg", "b/train/3.jpg", "b/test/4.jpg"), "one split": ("train/1.jpg", "cat/2.jpg"), "maps": ("imagesTr/1.jpg", "labelsTr/1.jpg"), "maps and more": ("images/1.jpg", "masks/1.jpg", "more/1.jpg"), "capitals": ("Cat/1.jpg", "cat/2.jpg", "cat /3.jpg"), "one class": ("all/cat/1.jpg", "all/dog/2.jpg"), "hidden": (".a.jpg", "._b.jpg", ".h/c.jpg", "d.jpg", ".DS_Store"), "slices": ("p1/s1/1.dcm", "p1/s1/2.dcm", "p1/s2/1.dcm", "p2/1.DCM", "1.dcm", "p3/a.jpg"), "a run": ("config.yaml", "metrics.jsonl", "pictures/a.jpg", "b.jpg"), "a run within": ("r/config.yaml", "r/checkpoints/x", "r/maps/a.jpg", "b.jpg"), "a cache within": ("c/bad_samples.jsonl", "c/a.jpg", "b.jpg"), "predictions": ("predict.manifest.jsonl", "maps/a.jpg", "b.jpg"), "nothing": ("a.bmp", "b.bmp", "c.nii.gz"), "scans": ("a.nii.gz", "b.mha", "c.img", "c.hdr", "d.zip", "e", "f.npz", "g.npy", "h.mkv", "x.jpg"), "empty": (),
    }  # fmt: skip
    for label, names in trees.items():
        root = folder / label
        root.mkdir()
        touch(root, *names)
        yield f"folder {label}", lambda r=root: listed(r, here=r)
        yield (
            f"classes of {label}",
            lambda r=root: (lambda i: meant.check_classes(i.classes, i.addresses, "P" if "P" in str(r) else str(r)))(
                source.list_items(str(r), SUFFIXES)
            ),
        )
    links = touch(folder / "links", "a.jpg", "sub/b.jpg")
    for name, to in (
        ("in.jpg", links / "sub/b.jpg"),
        ("out.jpg", folder / "flat/a.jpg"),
        ("nothing.jpg", links / "none"),
        ("folder", links / "sub"),
        ("folder out", folder / "flat"),
        ("dir.jpg", links / "sub"),
    ):
        (links / name).symlink_to(to)
    os.mkfifo(links / "pipe.jpg")
    yield "folder links", lambda: listed(links, here=links)
    many = touch(folder / "many", *(f"c{i:02d}/{j}.jpg" for i in range(7) for j in range(1 + i)))
    yield "many classes", lambda: listed(many, here=many)
    for suffixes in ((".dcm",), (".dcm", ".dicom")):
        yield (
            f"members {suffixes}",
            lambda s=suffixes: each(
                *(
                    lambda n=n: [Path(m).name for m in folders.members(f"{folder}/{n}/", s)]
                    for n in ("slices/p1/s1", "slices/p2", "flat", "none")
                )
            ),
        )
    yield from shards(folder)
    yield from arrays(folder)
    yield from caches(folder)


def shards(folder: Path) -> Iterator[tuple[str, Any]]:
    members = {
        "plain": [("a.jpg", b"A"), ("b.jpg", b"BB"), ("c.txt", b"c")], "labelled": [("a.jpg", b"A"), ("a.cls", b"3"), ("b.cls", b" 12\n"), ("b.png", b"B"), ("d.jpg", b"D")], "two kinds": [("a.rgb.jpg", b"A"), ("a.seg.png", b"AA"), ("a.cls", b"1"), ("a.seg.cls", b"2")], "a class of one kind": [("a.rgb.jpg", b"A"), ("a.seg.png", b"AA"), ("a.seg.cls", b"2"), ("b.jpg", b"B"), ("b.x.cls", b"3")],
        "first of two": [("a.jpg", b"A"), ("a.png", b"B"), ("a.x.jpg", b"C")], "folders": [("x/a.jpg", b"A"), ("y/a.jpg", b"B"), ("x/a.cls", b"1"), ("y/a.cls", b"2")], "again": [("a.jpg", b"A"), ("b.jpg", b"B"), ("a.jpg", b"AAA")], "hidden": [(".a.jpg", b"A"), ("x/._b.jpg", b"B"), ("../c.jpg", b"C"), ("d.jpg", b"")], "a word for a class": [("a.jpg", b"A"), ("a.cls", b"cat")], "a large class": [("a.jpg", b"A"), ("a.cls", b"1" * 33)], "a class of 9 digits": [("a.jpg", b"A"), ("a.cls", b"123456789")], "a class of 10 digits": [("a.jpg", b"A"), ("a.cls", b"1234567890")], "a negative class": [("a.jpg", b"A"), ("a.cls", b"-1")], "nothing": [("a.txt", b"x")], "capitals": [("A.JPG", b"A"), ("A.Cls", b"7")], "dots": [("a.b.jpg", b"A"), ("a.c.jpg", b"B")], "dicom": [("a.dcm", b"A"), ("b.jpg", b"B")],
    }  # fmt: skip
    root = folder / "shards"
    root.mkdir()
    for label, rows in members.items():
        with tarfile.open(root / f"{label}.tar", "w") as tar:
            for name, content in rows:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        for only in ("", "::rgb.jpg", "::jpg", "::seg.png") if label in ("two kinds", "plain") else ("",):
            yield (
                f"shard {label}{only}",
                lambda n=label, o=only: [
                    listed(f"{root}/{n}.tar{o}", here=root),
                    [
                        bytes(addresses.fetch(a, 100))
                        for a in source.list_items(f"{root}/{n}.tar{o}", SUFFIXES).addresses
                        if "+0::" not in a
                    ],
                    [
                        list(addresses.locate(a))[1:]
                        for a in source.list_items(f"{root}/{n}.tar{o}", SUFFIXES).addresses
                        if "+0::" not in a
                    ],
                ],
            )
    content = (root / "plain.tar").read_bytes()
    for label, cut in {
        "cut.tar": content[:1200],
        "no end.tar": content[:3072],
        "damaged.tar": content[:600] + b"x" + content[601:],
        "header.tar": content[:512] + b"\0" * 100,
        "none.tar": b"",
    }.items():
        (root / label).write_bytes(cut)
        yield f"shard {label}", lambda n=label: listed(f"{root}/{n}", here=root)
    for name in ("{plain,labelled}.tar", "p*.tar", "{plain,absent}.tar", "z*.tar"):
        yield f"shards {name}", lambda n=name: listed(f"{root}/{n}", here=root)
    only = folder / "only shards"
    only.mkdir()
    for name in ("b.tar", "a.tar"):
        (only / name).write_bytes(content)
    yield "a folder of shards", lambda: listed(only, here=only)
    plain = root / "plain.tar"
    for address in (
        f"{plain}::512+1::a.jpg",
        f"{plain}::512+0::a",
        f"{plain}::512+99999999::a",
        f"{plain}::1536+2::b",
        f"{root}/none.tar",
        f"{root}/absent",
        f"{root}",
        f"{plain}/below",
        f"{folder}/links/pipe.jpg",
        "a\0b",
    ):
        for limit in (1, 2, 100):
            yield (
                f"fetched {address.replace(str(folder), '~')!r}, at most {limit}",
                lambda a=address, m=limit: each(
                    lambda: addresses.fetch(a, m), lambda: addresses.head(a, 3), lambda: list(addresses.locate(a))[1:]
                ),
            )


def caches(folder: Path) -> Iterator[tuple[str, Any]]:
    kept = cache.Cache(folder / "kept")
    for key in ({}, {"a": 1}, {"a": 1, "b": [1.5, None]}, {"b": [1.5, None], "a": 1}, {"a": "1"}):
        yield f"entry of {key} {list(key)}", str(kept.path(key).relative_to(folder / "kept"))
    for label, array in {
        "floats": np.linspace(0, 1, 7),
        "empty": np.zeros((0, 3), np.int16),
        "large": np.arange(5000),
        "turned": np.arange(12).reshape(3, 4).T,
        "objects": np.array([{}], object),
        "one": np.array(3),
    }.items():

        def there_and_back(array: Any = array, label: str = label) -> Any:
            made: list[int] = []
            build = lambda: (made.append(1), cache.Entry(array, {"t": [1, 2]}))[1]  # noqa: E731
            one = kept.get_or_build({"x": label}, build)
            two = cache.Cache(folder / "kept").get_or_build({"x": label}, build)
            path = kept.path({"x": label})
            return [
                len(made),
                digest(two.array, one.array),
                str(two.array.dtype),
                dict(two.meta),
                path.stat().st_size,
                digest(path.read_bytes()),
                two.array.flags.writeable,
            ]

        yield f"kept {label}", there_and_back
    for at, what in ((0, "magic"), (9, "length"), (14, "checksum"), (30, "header"), (-1, "data"), (None, "size")):
        for keeps in ("if possible", "always", "never"):

            def damaged(at: int | None = at, keeps: Any = keeps) -> Any:
                one = cache.Cache(folder / f"damaged {keeps}")
                key = {"k": 1}
                one.get_or_build(key, lambda: cache.Entry(np.arange(2000)))
                path = one.path(key)
                content = bytearray(path.read_bytes())
                if at is None:
                    content += b"x"
                else:
                    content[at] ^= 1
                path.write_bytes(content)
                fresh = cache.Cache(folder / f"damaged {keeps}")
                fresh.keeps = keeps
                read = fresh.get_or_build(key, lambda: cache.Entry(np.arange(3)))
                left = len(path.read_bytes())
                path.unlink()
                return [digest(read.array), left]

            yield f"damaged {what}, kept {keeps}", damaged
    base = bytes(range(256)) * 1200

    def identities() -> Any:
        found = {}
        path = folder / "source.bin"
        for label, at in {
            "same": None,
            "first": 0,
            "in the first": 65535,
            "between": 65536,
            "before the last": len(base) - 65537,
            "in the last": len(base) - 65536,
            "last": len(base) - 1,
        }.items():
            content = bytearray(base)
            if at is not None:
                content[at] ^= 1
            path.write_bytes(content)
            os.utime(path, ns=(10**18, 10**18))
            found[label] = digest(cache.source_identity(str(path)))
        path.write_bytes(base + b"x")
        os.utime(path, ns=(10**18, 10**18))
        found["longer"] = digest(cache.source_identity(str(path)))
        os.utime(path, ns=(10**18, 10**18 + 1))
        found["later"] = digest(cache.source_identity(str(path)))
        np.savez(folder / "ident.npz", a=np.arange(4), b=np.arange(4))
        os.utime(folder / "ident.npz", ns=(10**18, 10**18))
        rows = {
            f"{k} {r}": cache.source_identity(f"{folder}/ident.npz::{k}::{r}").get("row") for k in "ab" for r in (0, 1)
        }
        path.write_bytes(bytes(100))
        os.utime(path, ns=(10**18, 10**18))
        return [found, rows, cache.source_identity(str(path))]

    yield "identities", identities

    def swept() -> Any:
        root = folder / "swept" / "ab"
        root.mkdir(parents=True)
        import time

        for name, age in ((".a.tmp-1", 0), (".b.tmp-1", 23.9), (".c.tmp-1", 24.1), ("d.array", 99), (".e.array", 99)):
            (root / name).write_bytes(b"x")
            os.utime(root / name, (time.time() - age * 3600,) * 2)
        return [cache.Cache(folder / "swept").sweep(), sorted(p.name for p in root.iterdir())]

    yield "swept", swept

    def again() -> Any:
        one, key = cache.Cache(folder / "again"), {"k": 2}
        first = one.get_or_build(key, lambda: cache.Entry(np.arange(9)))
        other = cache.Cache(folder / "again")
        path = one.path(key)
        status = path.stat()
        path.unlink()
        other.get_or_build(key, lambda: cache.Entry(np.arange(9) + 1))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return [digest(first.array), digest(one.get(key).array), one.get({"k": 3}) is None]

    yield "an entry that was made again", again
