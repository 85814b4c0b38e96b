"""Strict YAML, errors, plug-ins by name, and processors."""

# ruff: noqa: PT008, PTH208

import errno
import os
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest import mock

from golden.rest import Note, area

from mae_ext import cards, cores, errors, plugins, rng, strict_json, strict_yaml, writing


@area()
def texts(note: Note) -> None:
    deep = "".join(f"{'  ' * i}a:\n" for i in range(40))
    for text in (
        "",
        "a: 1",
        "a: 1e-4",
        "a: 1e5",
        "a: -1.5E+3",
        "a: 1.",
        "a: .5",
        "a: 0x1f",
        "a: yes",
        "a: ~",
        "- 1",
        "a: [1, 2",
        "a: 1\na: 2",
        "1: 2",
        "a: &x 1\nb: *x",
        "a: !!int ''",
        "a: !!bool perhaps",
        "a: !!python/object:os.system x",
        "a: 2020-01-01",
        "a: '1e5'",
        "a: 1_000",
        "a: 12:30",
        "a: null",
        deep,
        "\x00",
        "a: b: c",
        "? [1]\n: 2",
        "true: 1",
        "a: {b: 1, b: 2}",
    ):
        note(f"yaml {text[:40]!r}", lambda text=text: str(strict_yaml.read_yaml(text, "here")))
    for depth in (30, 31, 32, 33):
        note(
            f"yaml depth {depth}",
            lambda depth=depth: len(str(strict_yaml.read_yaml("a: " + "[" * depth + "]" * depth, "here"))),
        )
    for size in ((1 << 20) - 3, (1 << 20) - 2):
        note(f"yaml of {size} letters", lambda size=size: len(strict_yaml.read_yaml("a: " + "b" * (size - 1), "here")))
    note(
        "yaml written",
        strict_yaml.write_yaml({"a": "1e5", "b": 1e-5, "c": "no", "d": [1, "x", None], "é": {"f": True}}),
    )
    for value in (
        float("nan"),
        {"a": [float("inf"), 1.0, (2, float("-inf"))]},
        {"ü": "\ud800"},
        {"b": True, "a": None},
    ):
        note(f"json {value!r}", lambda value=value: strict_json.dumps(value))
    note("json indented", strict_json.dumps({"a": [1]}, 2))
    for key in ((0,), (1,), (0, 1), (0, "1"), (0, "a", 2), (-1, "a"), (2**40, "é")):
        note(f"seed_of {key}", rng.seed_of(*key))
    import torch

    note("rng", torch.rand(3, generator=rng.rng(1, "x", 2)))


@area()
def failures(note: Note) -> None:
    rows = [
        {"path": f"f{i}", "kind": ("a", "b", "a", "c", "b", "a", "d")[i % 7], "detail": f"of {i}\n twice" * (i % 2)}
        for i in range(12)
    ]
    for n in (0, 1, 2, 3, 4, 5, 6, 7, 12):
        note(f"some of {n}", errors.some(range(n)))
        note(f"some of {n} most 2", errors.some(range(n), "; ", 2))
        note(f"reasons of {n}", errors.reasons(rows[:n]))
        for total in (max(n, 1), 2 * max(n, 1), 100):
            for allowed in (0.0, 0.03, 0.5, 1.0):
                note(
                    f"check_bad {n} of {total} allowed {allowed}",
                    lambda n=n, t=total, a=allowed: errors.check_bad(rows[:n], t, a, "here"),
                )
    bad = [errors.BadSample("p", "k", "d"), errors.BadSample("q", "k")]
    note("bad samples", [errors.reasons(bad), *map(str, bad), bad[0].row, errors.reasons(["x", "y"])])
    for number in (
        errno.ENOSPC,
        errno.EACCES,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOENT,
        errno.ENOMEM,
        errno.EIO,
        errno.EBADF,
        None,
    ):
        error = OSError(number, "what", "file") if number else OSError("what")
        note(f"cause {number}", [errors.cause_of(error), errors.of_the_process(error)])
    Path("there").mkdir()
    Path("file").write_text("x")
    for out in ("there", "new/deep", "file", "file/in"):

        def made(out: str = out) -> Any:
            with writing.folder_for(out, "--to") as folder:
                return [folder, sorted(os.listdir(folder))]

        note(f"folder_for {out}", made)

    def nothing_came(name: str) -> Any:
        try:
            with writing.folder_for(name) as folder:
                (folder / "x").write_text("x") if name == "held" else None
                raise RuntimeError
        except RuntimeError:
            return [Path(name).exists(), Path(name.partition("/")[0]).exists()]

    note("nothing came of it", [nothing_came("new2/deep"), nothing_came("held"), nothing_came("there")])

    def staged(*names: str, remove: bool = False, fail: bool = False) -> Any:
        try:
            with writing.staged(*map(Path, names)) as partial:
                for path in partial:
                    path.write_text("new")
                partial[-1].unlink() if remove else None
                if fail:
                    raise RuntimeError
        except RuntimeError:
            pass
        return [Path(n).read_text() if Path(n).is_file() else None for n in names] + sorted(
            p.name for p in Path().glob("*tmp*")
        )

    note(
        "staged",
        [
            lambda: staged("s1", "file"),
            lambda: staged("s2", "file", fail=True),
            lambda: staged("s3", "file", remove=True),
            lambda: staged("there"),
        ][0],
    )
    note("staged fails", lambda: staged("s2", "file", fail=True))
    note("staged removed", lambda: staged("s3", "file", remove=True))
    note("staged folder", lambda: staged("there"))
    note("staged nowhere", lambda: staged("absent/x"))


@area()
def registries(note: Note) -> None:
    for group, registry in plugins.ALL.items():
        note(group, [registry.kind, registry.builtins])
        for name in (*registry.builtins, "unknown", next(iter(registry.builtins))[:-1]):
            note(f"{group} {name}", lambda r=registry, name=name: r.get(name, "there").__name__)
    clash = EntryPoint("random", "mae_ext.model.maskers:BlockMasker", "mae_ext.maskers")
    for points in (
        [],
        [clash],
        [clash, clash],
        [EntryPoint("mine", "mae_ext.model.maskers:BlockMasker", "g")],
        [EntryPoint("mine", "absent:x", "g")],
    ):
        with mock.patch.object(plugins, "entry_points", lambda group, points=points: points):
            for name in ("random", "mine", "block"):
                note(
                    f"published {len(points)} {[p.name + p.value for p in points]} {name}",
                    lambda name=name: [plugins.maskers.get(name, "there").__name__, plugins.maskers.sources()[name]],
                )
    for words in (("rando", ["random", "block"]), ("x", ["random"]), ("", [])):
        note(f"nearest {words}", plugins.nearest(*words))
    for arguments, given in (({}, ("size",)), ({"ratio": 0.5}, ()), ({"ratios": 0.5}, ()), ({}, ())):
        note(
            f"check {arguments} {given}",
            lambda a=arguments, g=given: plugins.maskers.check("random", a, g, "there").__name__,
        )
    for card in cards.shipped("datasets"):
        note(f"card {card.stem}", lambda card=card: str(cards.load_card(card.stem)))
    base = {
        "name": "n",
        "what": "w",
        "modality": "image",
        "licence": "l",
        "owner": "o",
        "page": "https://x",
        "obtain": "o",
        "layout": "l",
        "read": "r",
    }
    for more in (
        {},
        {"page": "http://x"},
        {"name": ""},
        {"modality": "text"},
        {"classes": ["a"]},
        {"classes": ["a"], "num_classes": 1},
        {"num_classes": 0},
        {"classes": ["a", "b"], "num_classes": 1},
        {"statistics": {"mean": [1], "std": [1]}},
        {"statistics_source": "s"},
        {"splits": {"train": 0}},
        {"splits": {"": 1}},
        {"x": 1},
    ):
        Path("card.yaml").write_text(strict_yaml.write_yaml({**base, **more}))
        note(f"card with {more}", lambda: str(cards.read_card(Path("card.yaml"))))
    note("no card", lambda: cards.load_card("cifar"))
    for text in (
        "# what: a\n# command: b\n# hardware: c\n# time: d\n# expect: e\n#   more\nx: 1\n# what: z",
        "# what: a\n# time: b",
        "x: 1",
        "# what: a\n# command: b\n# time: c\n# hardware: d\n# expect: e",
    ):
        Path("head.yaml").write_text(text)
        note(f"head {text[:50]!r}", lambda: cards.read_head(Path("head.yaml")))


def system(files: dict[str, str], name: str) -> Path:
    for place, text in files.items():
        path = Path(name) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Path(name)


@area()
def processors(note: Note) -> None:
    def v2(limit: str, group: str = "a/b/") -> dict[str, str]:
        return {"proc/self/cgroup": "0::/a/b\n", f"sys/fs/cgroup/{group}cpu.max": f"{limit}\n"}

    def v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
        named = {"quota": quota, "period": period}
        limits = {f"sys/fs/cgroup/{folder}/cpu.cfs_{name}_us": f"{value}\n" for name, value in named.items()}
        return {"proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n3:memory:/y\n", **limits}

    tried = {
        "none": {},
        "v2 150000": v2("150000 100000"),
        "v2 140000": v2("140000 100000"),
        "v2 100000": v2("100000 100000"),
        "v2 max": v2("max 100000"),
        "v2 parent": {**v2("300000 100000", group="a/"), **v2("max 100000")},
        "v2 root": v2("210000 100000", group=""),
        "v2 hybrid": v2("250000 100000", group="unified/a/b/"),
        "v2 tiny": v2("10000 100000"),
        "v2 odd": v2("x y"),
        "v2 zero": v2("0 100000"),
        "v1": v1("cpu/docker/x", "420000"),
        "v1 -1": v1("cpu/docker/x", "-1"),
        "v1 joint": v1("cpu,cpuacct", "160000", "50000"),
    }
    with mock.patch.object(cores, "_here", lambda: 8):
        for told, files in tried.items():
            note(f"cores {told}", cores.cores(system(files, told.replace(" ", "-"))))
    for words, here, quota in (
        ({}, 8, 8),
        ({}, 8, 3),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, 8, 3),
        ({"GOMP_SPINCOUNT": "1"}, 8, 8),
        ({"KMP_BLOCKTIME": "1"}, 8, 8),
        ({"OMP_NUM_THREADS": "5"}, 8, 3),
    ):
        with (
            mock.patch.object(cores, "_here", lambda here=here: here),
            mock.patch.object(cores, "cores", lambda quota=quota: quota),
            mock.patch.dict(os.environ, words, clear=True),
        ):
            cores.settle_threads()
            note(f"threads {words} {here} {quota}", dict(sorted(os.environ.items())))
