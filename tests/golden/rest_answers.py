"""Answers of tasks: label maps and classes, and what is refused of them."""

# ruff: noqa: PTH103, PERF102, B007

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from golden.rest import Note, area, digest
from golden.rest_config import M
from golden.rest_engine import given
from PIL import Image

from mae_ext import plugins
from mae_ext.config import Config
from mae_ext.data.sample import Crop
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.engine import outputs
from mae_ext.errors import BadSample
from mae_ext.tasks.segment import pairs


class Maps:
    """Label maps in memory, by name."""

    label_suffix = ".png"

    def __init__(self, maps: dict[str, np.ndarray]) -> None:
        self.maps = maps

    def label_map(self, address: str, like: str, as_stored: bool) -> np.ndarray:
        return self.maps[address]


@area()
def labelling(note: Note) -> None:
    base = np.arange(12).reshape(3, 4) % 4
    maps = {
        "some": base,
        "void": np.where(base == 3, 255, base),
        "one": np.minimum(base, 1),
        "two voids": np.where(base == 3, 254, np.where(base == 2, 255, base)),
        "far": np.where(base == 3, 150, base),
        "next": np.where(base == 3, 102, base),
        "many": base * 2,
        "none": base * 0,
        "just": np.where(base == 3, 101, base),
    }
    for kind, table in maps.items():
        for count in (1, 2, 3, 4):
            for foreground in (False, True):

                def read(ignore: Any, kind: str = kind, count: int = count, foreground: bool = foreground) -> Any:
                    return pairs.read_labels(Maps(maps), kind, "like", count, foreground, False, ignore)

                every = {ignore: digest(lambda ignore=ignore, read=read: read(ignore)) for ignore in (None, 0, 3, 255)}
                note(f"labels {kind} of {count} foreground {foreground}", digest(every))
                if kind in ("some", "void", "far") and not foreground:
                    note(f"labels {kind} of {count} foreground {foreground} told", lambda read=read: read(None))
    Path("masks").mkdir()
    Path("samples").mkdir()
    for name in ("a.png", "b.png", "b.jpg", "c_mask.png", "d.txt"):
        Path("masks", name).write_bytes(b"x")
    Path("list.csv").write_text(
        "path,mask\nsamples/a.png,masks/a.png\nsamples/b.png,masks/b.png\n,\nsamples/c.png,masks/c_mask.png\n"
    )
    Path("twice.csv").write_text("path,mask\nsamples/a.png,masks/a.png\nsamples/a.png,masks/b.png\n")
    Path("again.csv").write_text(
        "path,mask\nsamples/a.png,masks/a.png\nsamples/a.png,masks/a.png\nsamples/b.png,masks/a.png\n"
    )
    Path("empty.csv").write_text("x,y\n1,2\n")
    for addresses in (
        ["samples/a.png"],
        ["samples/a.jpg"],
        ["samples/a.png", "samples/a.jpg"],
        ["samples/b.png"],
        ["samples/b.bmp"],
        ["samples/c.png"],
        ["samples/d.png"],
        ["masks/a.png"],
        ["samples/a.png", "samples/b.png"],
    ):
        for masks in ("masks", "list.csv", "twice.csv", "again.csv", "empty.csv", "absent"):
            note(
                f"maps of {addresses} in {masks}",
                lambda a=addresses, m=masks: pairs.maps_of(Items(PathTable(a)), m, (".png", ".jpg", ".bmp")),
            )
    note(
        "extent",
        [lambda: pairs.check_extent("m", base, "a", (3, 4)), lambda: pairs.check_extent("m", base, "a", (4, 3))],
    )
    for balance, strength in ((0.0, 0.5), (0.3, 0.5), (1.0, 0.5), (0.3, 1.0)):

        def read(balance: float = balance, strength: float = strength) -> Any:
            Image.fromarray((np.arange(20 * 24).reshape(20, 24) % 251).astype(np.uint8)).save("samples/p.png")
            lone = np.zeros((20, 24), np.uint8)
            lone[15:18, 19:22] = 1
            Path("lone").mkdir(exist_ok=True)
            Image.fromarray(lone).save("lone/p.png")
            config = given(
                {
                    "task": {
                        "name": "segment",
                        "classes": ["x"],
                        "balance": balance,
                        "distort": 1,
                        "strength": strength,
                    },
                    M + "channels": 1,
                }
            )
            task = plugins.tasks.build("segment", config.task.arguments, "task")
            Path("only").mkdir(exist_ok=True)
            Path("samples/p.png").replace("only/p.png")
            examples = pairs.PairedExamples(task, config, "image", "only", "lone")
            keys: list[Any] = [SimpleNamespace(epoch=e, index=0, repeat=r, slot=0) for e in (0, 1, 2) for r in (0, 1)]
            crops = [lambda extent, i=i: Crop((i, 2), (8, 8), (False, i % 2 == 0)) for i in range(6)]
            return [
                [s.x.float() / 255, digest(s.targets[pairs.TARGET]), int(s.targets[pairs.TARGET].sum())]
                for s in examples.read(0, keys, crops)
            ] + [examples.summary, examples.identity]

        note(f"examples balance {balance} strength {strength}", read)


@area()
def naming(note: Note) -> None:
    suffixes = (".nii.gz", ".png", ".jpg", ".nii")
    for addresses in (
        ["x/a.png"],
        ["x/a.png", "y/a.png"],
        ["x/a.png", "x/a.jpg"],
        ["x/a.png", "x/a.jpg", "y/a.png"],
        ["x/1/ct.nii.gz", "x/2/ct.nii.gz"],
        ["x/a.b.nii.gz", "x/b"],
        ["t.npz::3", "t.npz::4"],
        ["x/a.png", "x/a.png.png"],
        ["x/y/", "x/z"],
    ):
        for suffix in (".png", ".nii.gz"):
            note(
                f"results {addresses} {suffix}",
                lambda a=addresses, s=suffix: outputs.result_paths(a, suffixes, Path("out"), s),
            )
    model: Any = torch.nn.Linear(2, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.5)
    config, other = given({}), given({"seed": 1})
    same = outputs.model_identity(model, config)
    changed = torch.nn.Linear(2, 2)
    note(
        "identity",
        [
            same == outputs.model_identity(model, config),
            same == outputs.model_identity(model, other),
            same == outputs.model_identity(changed, config),
        ],
    )
    for name in ("s/a", "s/b", "t/a", "t/c"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("same" if name in ("s/a", "t/c") else name)

    def go(
        out: str,
        addresses: list[str],
        what: Any = model,
        settings: Config = config,
        skip: tuple[str, ...] = (),
        summary: str = "sum",
        text: str = "told",
        files: bool = True,
    ) -> Any:
        os.makedirs(out, exist_ok=True)
        paths = [Path(out) / (Path(a).name + ".r") for a in addresses] if files else []
        with outputs.Results(Path(out), what, settings) as results:
            left = results.open(addresses, paths, [Path(out) / summary])
            for i in left:
                if addresses[i] in skip:
                    results.leave_out(BadSample(addresses[i], "k"))
                    continue
                if files:
                    with results.writing(addresses[i], paths[i], {"n": i}) as path:
                        path.write_text(f"of {addresses[i]}")
                else:
                    results.record({addresses[i]: [i]})
            results.summary(Path(out) / summary, text)
            return [left, [results.row(a) for a in addresses], results.total, len(results.missing)]

    def there(out: str) -> list[str]:
        return sorted(p.name for p in Path(out).iterdir())

    note("first", lambda: [go("o1", ["s/a", "s/b"]), there("o1")])
    note("again", lambda: go("o1", ["s/a", "s/b"]))
    note("other model", lambda: go("o1", ["s/a"], changed))
    note("other config", lambda: go("o1", ["s/a"], settings=other))
    note("fewer", lambda: go("o1", ["s/a"]))
    note("namesake", lambda: go("o1", ["t/a", "s/b"], summary="sum2"))
    Path("s/b").write_text("another content")
    note("changed sample", lambda: go("o1", ["s/a", "s/b"]))
    Path("o1/a.r").write_text("by hand")
    note("changed by hand", lambda: go("o1", ["s/a", "s/b"]))
    Path("o1/a.r").unlink()
    note("removed", lambda: go("o1", ["s/a", "s/b"]))
    note("skipped", lambda: [go("o2", ["s/a", "s/b"], skip=("s/b",)), there("o2")])
    note("skipped again", lambda: go("o2", ["s/a", "s/b"]))
    note("no summary", lambda: [go("o2", ["s/a", "s/b"], text=""), there("o2")])
    note("nothing", lambda: [go("o3", ["s/a"], skip=("s/a",), text=""), there("o3")])
    Path("o4").mkdir()
    Path("o4/a.r").write_text("mine")
    note("not ours", lambda: go("o4", ["s/a"]))
    note("rows", lambda: [go("o5", ["s/a", "s/b"], files=False), go("o5", ["s/b", "s/a"], files=False), there("o5")])
    with Path("o5/predict.manifest.jsonl").open("a") as file:
        file.write('{"cut')
    note(
        "cut off",
        lambda: [go("o5", ["s/a", "s/b"], files=False), Path("o5/predict.manifest.jsonl").read_text().count("\n")],
    )
    Path("o5/predict.manifest.jsonl").write_text('{"x": 1}\n')
    note("no manifest", lambda: go("o5", ["s/a"], files=False))
    Path("many").mkdir()
    for name in ("b.png", "a.png", "c.txt"):
        Path("many", name).write_text("x")
    note("addresses", outputs.addresses_of(["many/b.png", "many", "many/a.png"], (".png",)))
