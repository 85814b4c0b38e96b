# ruff: noqa: E501 - tables of inputs, a line for each
"""Lists and folders: what is listed of them, and what messages say."""

import csv
import io
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from recorded.listings import listed, touch
from recorded.record import room

from mae_ext.data.sources import passed_over, shard_names


@room
def data_lists(folder: Path) -> Iterator[tuple[str, Any]]:
    top = touch(
        folder / "top",
        "a.jpg",
        "b.PNG",
        "sub/c.jpg",
        "sub/d e.jpg",
        "sub/deep/f.jpg",
        "images/g.jpg",
        "h.txt.jpg",
        "other/x.png",
        "k.jpg",
        "l.jpg",
    )
    files = ["a.jpg", "b.PNG", "sub/c.jpg", "sub/d e.jpg", "h.txt.jpg", "k.jpg", "l.jpg", "g.jpg"]

    def texts(name: str, text: str) -> Path:
        (top / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        return top / name

    plain = {
        "paths": "a.jpg\nb.PNG\n\nsub/c.jpg\n", "tabs": "a.jpg\tcat\nb.PNG\tdog\nsub/d e.jpg\tcat\n", "spaces": "a.jpg 3\nsub/d e.jpg 12\nb.PNG 3\n", "commas": "a.jpg, 0\nb.PNG,1\n", "semicolons": "a.jpg;x y\nb.PNG; z\n", "no labels": "a.jpg -1\nb.PNG -1\n", "some -1": "a.jpg -1\nb.PNG 1\n", "mae": "a.jpg 0 -1\nb.PNG 0 -1\n", "three": "a.jpg 10 1\nb.PNG 12 0\n", "three words": "a.jpg x y\nb.PNG z w\n", "mixed": "a.jpg 1\nb.PNG 1 2\n", "quoted": '"sub/d e.jpg" 4\n"a.jpg",5\n', "bom": "\ufeffa.jpg 1\nb.PNG 2\n", "crlf": "a.jpg 1\r\nb.PNG 2\r\n", "missing one": "a.jpg\nnone.jpg\n", "missing all": "n1.jpg\nn2.jpg\nn3.jpg\nn4.jpg\nn5.jpg\nn6.jpg\n", "elsewhere": "c.jpg\ndeep/f.jpg\n", "twice": "a.jpg 1\na.jpg 1\n", "contradictory": "a.jpg 1\na.jpg 2\nb.PNG 3\nb.PNG\n", "header": "path label\na.jpg 1\nb.PNG 2\n", "other header": "video,start,label\na.jpg,1,2\n", "name header": "file_name extra class\na.jpg 1 2\nb.PNG 1 3\n", "frames": "sub 10 1\n", "bare": "a 1\nk 2\n", "backslashes": "sub\\c.jpg\n", "empty": "", "blank": " \n\n", "numbers": "a.jpg 10\nb.PNG 9\nk.jpg 100\n", "large numbers": "a.jpg 99999\nb.PNG 5\n", "larger numbers": "a.jpg 100000\nb.PNG 5\n", "leading zeros": "a.jpg 010\nb.PNG 9\n", "labels with commas": "a.jpg big cat, 1\n",
    }  # fmt: skip
    for label, text in plain.items():
        for suffix in ("txt", "lst", "csv", "tsv"):
            path = texts(f"{label}.{suffix}", text)
            for asked in (
                ("",)
                if suffix in ("lst", "tsv")
                else ("", "::columns=path+-+label", "::columns=path+label", "::root=sub")
                if label in ("three", "elsewhere", "mixed", "three words", "spaces", "missing all")
                else ("",)
            ):
                yield f"plain {label}.{suffix}{asked}", lambda p=path, a=asked: listed(f"{p}{a}", here=top)
    for asked in (
        "columns=label+path",
        "columns=path+path",
        "columns=label",
        "columns=path+x",
        "classes=names.txt",
        "classes=none.txt",
        "classes=few.txt",
        "columns=",
        "x=1",
        "split=a",
        "fold=1/2",
        "train",
    ):
        texts("names.txt", "zero\none\ntwo\nthree\n")
        texts("few.txt", "0 zero\n")
        texts("of classes.txt", "a.jpg 1\nb.PNG 3\n")
        yield f"plain of classes::{asked}", lambda a=asked: listed(f"{top}/of classes.txt::{a}", here=top)
    for name, text in (
        ("classInd.txt", "1 Archery\n2 Ball Games\n"),
        ("label_map.txt", "Archery 1\nBall: 2\n"),
        ("classes.txt", "zero\none\ntwo\n"),
        ("classnames.txt", "x\n"),
    ):
        root = touch(folder / f"index {name}", "Archery/a.jpg", "b.jpg")
        (root / name).write_text(text)
        for which, content in (
            ("labelled", "Archery/a.jpg 1\nb.jpg 2\n"),
            ("unlabelled", "Archery/a.jpg\n"),
            ("more", "Archery/a.jpg 1\nb.jpg 9\n"),
        ):
            (root / f"{which}.lst").write_text(content)
            yield f"{which} beside {name}", lambda r=root, w=which: listed(f"{r}/{w}.lst", here=r)
    (folder / "index classes.txt" / "x_test_split1.txt").write_text("b.jpg 1\nArchery/a.jpg 2\n")
    yield "a split of HMDB", lambda: listed(folder / "index classes.txt" / "x_test_split1.txt")

    def sheet(name: str, rows: list[list[str]], delimiter: str = ",") -> Path:
        out = io.StringIO()
        csv.writer(out, delimiter=delimiter).writerows(rows)
        return texts(name, out.getvalue())

    wide = sheet(
        "wide.csv",
        [
            ["path", "label", "patient", "split", "oedema", "mass", "start"],
            *[
                [
                    f,
                    "abc"[i % 3] if i != 4 else "",
                    f"p{i // 2}",
                    ("train", "test")[i % 3 == 2],
                    str(i % 2),
                    ("1", "0", "", "1.0", "0.0")[i % 5],
                    "1",
                ]
                for i, f in enumerate(files[:7])
            ],
        ],
    )
    sheet("several.csv", [["path", "label"], ["a.jpg", "x|y"], ["b.PNG", "|"], ["k.jpg", "y"], ["l.jpg", ""]])
    sheet("ids.csv", [["id", "label"], ["a", "1"], ["k", "2"], ["sub/c", "1"]])
    sheet("semicolon.csv", [["path", "label"], ["a.jpg", "1"], ["b.PNG", "2"]], ";")
    sheet("tab.tsv", [["filename", "label"], ["a.jpg", "1"], ["g.jpg", "2"]], "\t")
    sheet("nameless.csv", [["path", "label"], ["", "1"], ["a.jpg", "2"], ["", "3"]])
    sheet("odd marks.csv", [["path", "u", "v"], ["a.jpg", "1", "2"]])
    sheet("other columns.csv", [["image", "finding"], ["a.jpg", "1"], ["b.PNG", "2"]])
    sheet(
        "no patient.csv", [["path", "label", "patient"], ["a.jpg", "1", "p"], ["b.PNG", "2", ""], ["k.jpg", "1", "q"]]
    )
    sheet("two patients.csv", [["path", "label", "patient"], ["a.jpg", "1", "p"], ["a.jpg", "1", "q"]])
    sheet("header alone.csv", [["path", "label"]])
    (top / "broken.csv").write_text('path,label\n"a.jpg,1\n')
    for name in (
        "several",
        "ids",
        "semicolon",
        "nameless",
        "odd marks",
        "other columns",
        "no patient",
        "two patients",
        "header alone",
        "broken",
    ):
        yield f"{name}.csv", lambda n=name: listed(f"{top}/{n}.csv", here=top)
    yield "tab.tsv", lambda: listed(f"{top}/tab.tsv", here=top)
    for asked in (
        "train",
        "test",
        "val",
        "split=train",
        "split=",
        "label=oedema",
        "label=oedema+mass",
        "label=none",
        "label=mass",
        "patient=label",
        "patient=none",
        "path=label",
        "path=none",
        "fold=1/2",
        "fold=2/2",
        "rest=1/2",
        "rest=2/2",
        "fold=0/2",
        "fold=3/2",
        "fold=1/1",
        "fold=1/9",
        "fold=a",
        "fold=1/2,rest=1/2",
        "split=train,fold=1/3",
        "label=oedema,rest=2/3",
        "label=oedema+mass,fold=1/2",
        "root=sub",
        "root=none",
        "columns=path",
        "classes=names.txt",
        "foo=1",
        "fold=1/2,patient=path",
    ):
        yield f"wide.csv::{asked}", lambda a=asked: listed(f"{wide}::{a}", here=top)
    for name, asked in product(
        ("several", "ids", "no patient", "other columns", "odd marks"),
        ("fold=1/2", "rest=1/3", "label=u+v", "path=image,label=finding"),
    ):
        yield f"{name}.csv::{asked}", lambda n=name, a=asked: listed(f"{top}/{n}.csv::{a}", here=top)
    for path in (
        "",
        " ",
        "a\0b",
        "x.zip",
        "x.tar.gz",
        "x.tgz",
        "none",
        "none/below",
        "a.jpg",
        "h.txt.jpg",
        "wide.txt",
        "x.tar",
        "x-{1..3}.tar",
        "*.tar",
        "x-{3..1}.tar",
        "x-{0..100000}.tar",
        "none.npz",
        "x.tar::none.txt",
        "y" * 300,
        "none.csv::test",
    ):
        yield f"path {path[:20]!r}", lambda p=path: listed(f"{top}/{p}" if p.strip() and "\0" not in p else p, here=top)
    for name in (
        "a-{1..3}.tar",
        "a-{08..11}.tar",
        "{a,b}-{0..1}.tar",
        "a.tar",
        "{a}.tar",
        "{,x}.tar",
        "{1..1}",
        "{2..1}",
        "{01..2}{x,y}",
        "{0..99999}",
        "{0..100000}",
    ):
        yield f"braces {name}", lambda n=name: shard_names._braces([n], "where")
    for suffix in (
        "a.nii.gz",
        "A.JPG",
        "a.tar.gz",
        "a",
        "a.1",
        "a.123",
        "x/a.b/c",
        "a.verylongsuffix",
        "a.b c",
        ".hidden",
        "a.7z",
        "a.json.gz",
        "a.gz",
        "README",
        "readme.md",
        "Thumbs.db",
        "a.mha",
        "a.hdr",
        "a.img.gz",
        "scan.mp4",
        "a.dcm",
        "a.cls",
    ):
        yield (
            f"passed over {suffix}",
            [
                passed_over.suffix_of(suffix),
                passed_over.beside(suffix),
                passed_over.remedy(passed_over.suffix_of(suffix)),
                passed_over.readers_of(passed_over.suffix_of(suffix)),
            ],
        )
    over = passed_over.PassedOver()
    for number in range(12):
        for _ in range(12 - number):
            over.other(f"d/{number}.x{number}y")
    over.hidden("a/.b")
    over.hidden("a/.DS_Store")
    over.add("links inside a shard", "l", 3)
    over.add_read("members of a name that came before", "m")
    yield (
        "all that is passed over",
        [
            str(over),
            over.doubtful(),
            over.instead(),
            passed_over.PassedOver().instead(),
            dict(over.counts),
            dict(over.suffixes),
        ],
    )
