"""Config: what wrong values are told, overrides, strict YAML and JSON, cards, plug-ins, errors, writing, processors."""
# ruff: noqa: PT008, PTH208

import copy
import errno
import os
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from unittest import mock

from golden.rest import Note, area

from mae_ext import cards, config, cores, errors, overrides, plugins, rng, strict_json, strict_yaml, writing
from mae_ext.config import load_config, parse_config

BASE: dict[str, Any] = {
    "modalities": {"image": {"size": [8, 8], "patch": [4, 4], "batch": 4}},
    "model": {"width": 12, "depth": 2, "heads": 2, "decoder": {"width": 12, "depth": 1, "heads": 2}},
    "train": {"steps": 4},
}
M = "modalities.image."
VALUES: dict[str, list[Any]] = {
    "seed": [1, "x", 1.5, None],
    "task": ["pretrain", "nothing", {"name": "classify", "labels": 1}, {"name": "segment"}],
    "init": ["x", 3],
    "modalities": [{}, None, {"a-b": BASE["modalities"]["image"]}, {"type": BASE["modalities"]["image"]}],
    M + "size": [[8], [8, 9], [8, 0], [8, -8], [8, 8, 8], "8", 2**31, [4, 4]],
    M + "patch": [[3, 4], [8, 8], [0, 4], [4]],
    M + "channels": [0, 1, -1, 2.5],
    M + "batch": [0, 1, 3, None],
    M + "weight": [0, -1, 0.5, "a"],
    M + "position": ["sincos", "sine", {"name": "sincos", "unit": 0}, {"unit": 2.0}, {"name": "learned", "x": 1}],
    M + "embed": ["patch", "path", {"name": "patch", "x": 1}],
    M + "mask": [
        "random",
        "randon",
        {"ratio": 1},
        {"ratio": 0},
        {"ratio": 0.99},
        {"ratio": 0.75},
        {"ratio": "a"},
        {"name": "tube"},
        {"name": "tube", "ratio": 0.5},
        {"name": "tube", "axis": 2},
        {"name": "block", "aspect": 0.5},
        {"name": "block", "x": 3},
    ],
    M + "decode": [
        "random",
        {"name": "random", "ratio": 0.9},
        {"name": "random", "ratio": 0.5},
        {"name": "tube", "ratio": 0.5},
        None,
    ],
    M + "target": ["pixel", "pixels", {"normalize": "x"}, {"floor": -1}, {"loss": "l2"}, {"loss": "l1"}],
    M + "data.path": ["x", 1],
    M + "data.test": ["x"],
    M + "data.reader": ["image", "video", "imag", {"max_pixels": 1}, {"name": "image", "x": 1}],
    M + "data.augment.scale": [None, [0, 1], [0.5, 0.4], [0.5, 0.5], [0.1, 1.0], [0.1, 1.1], [0.5]],
    M + "data.augment.aspect": [[1, 1], [2, 1], [0, 1]],
    M + "data.augment.flip": [[], [0, 1], [2], [-3], [-2], [-1, 1], [0, 0]],
    M + "data.augment.fixed": [[0], [2], [-2, 0], [-2, -1]],
    M + "data.statistics": [
        "measured",
        "imagenet",
        "none",
        "x",
        {"mean": [1], "std": [1]},
        {"mean": [1], "std": [0]},
        {"mean": [1, 2], "std": [1]},
    ],
    M + "data.repeats": [0, 1, 2, 3, 4],
    M + "data.max_bad_fraction": [0, 1, -0.1, 1.1],
    "model.size": ["tiny", "small", "base", "large", "huge", "giant", None],
    "model.width": [None, 13, 0, 2],
    "model.depth": [0, 1, None],
    "model.heads": [0, 5, 12, 13],
    "model.mlp_ratio": [0, 0.05, 0.1, 1],
    "model.class_token": [False, "no", 1],
    "model.drop_path": [0, 1, 0.5, -0.1],
    "model.norm_eps": [0, 1e-5, -1],
    "model.decoder.width": [0, 13],
    "model.decoder.heads": [5, 12],
    "model.decoder.depth": [0],
    "model.decoder": [None, {}],
    "train": [{}, {"epochs": 1, "steps": 1}, {"epochs": 2}, {"steps": 1, "warmup_epochs": 1, "warmup_steps": 1}],
    "train.epochs": [0, 1],
    "train.steps": [0, 1, None, 2**31 - 1, 2**31],
    "train.warmup_epochs": [-1, 0],
    "train.warmup_steps": [-1, 0, 10],
    "train.lr": [0, -1, 1e-9],
    "train.lr_per": [None, 0, 1],
    "train.min_lr": [-1, 0],
    "train.betas": [[0, 0], [0.9, 1], [0.9]],
    "train.weight_decay": [-1, 0],
    "train.layer_decay": [0, 1, 1.1],
    "train.freeze": ["none", "encoder", "all", 0, 1, 9],
    "train.evaluate_every": [0, 1],
    "train.clip": [0, None, 0.1],
    "train.uniformity": [-1, 0, 0.1],
    "train.accumulate": [0, 2, 3, 4],
    "train.precision": ["fp32", "bf16", "fp16", "fp64"],
    "train.compile": [True, "x"],
    "train.checkpointing": [True],
    "train.device": ["auto", "cpu", "cuda", "gpu"],
    "train.workers": [-1, 0],
    "train.prefetch": [0, 1],
    "train.worker_timeout": [0, 1],
    "train.save_every": [0, 1],
    "train.keep": [1, 2],
    "train.tensorboard": [False],
    "train.probe": [
        {},
        {"every": 0, "train": "a", "test": "b"},
        {"every": 1, "train": "a", "test": "b"},
        {"every": 1, "train": "a", "test": "b", "pool": "x"},
    ],
    "train.stepz": [1],
    "modle": [1],
    "model.widht": [1],
    M + "bach": [1],
    M + "data.augment.flipp": [1],
    M + "data.reeder": ["a"],
}


def put(values: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    node, (*parents, last) = values, key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return values


def shown(values: dict[str, Any]) -> Any:
    """Only what differs from the plain config."""
    plain, found = _plain(), _flat(parse_config(values).model_dump(mode="json"))
    return {key: found.get(key, "gone") for key in {**plain, **found} if plain.get(key) != found.get(key)}


@cache
def _plain() -> dict[str, Any]:
    return _flat(parse_config(BASE).model_dump(mode="json"))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        return {k: v for key, value in values.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix: values}


@area()
def values(note: Note) -> None:
    for key, tried in VALUES.items():
        for value in tried:
            note(f"{key}={str(value)[:60]}", lambda key=key, value=value: shown(put(BASE, key, value)))
    pairs = [
        {"train.uniformity": 0.1, "train.accumulate": 2},
        {"train.uniformity": 0.1, M + "batch": 1},
        {"train.uniformity": 0.1, M + "batch": 2},
        {"train.uniformity": 0.1, M + "batch": 2, M + "data.repeats": 2},
        {"train.uniformity": 0.1, M + "data.repeats": 2},
        {"train.accumulate": 4, M + "data.repeats": 4},
        {"model.size": "tiny", "model.width": 96},
        {"model.size": "small", "model.heads": 12},
        {M + "mask": {"name": "random", "ratio": 0.5}, M + "decode": {"name": "random", "ratio": 0.5}},
        {M + "mask": {"name": "random", "ratio": 0.5}, M + "decode": {"name": "random", "ratio": 0.51}},
        {"x": 1, "train.y": 2},
        {
            M + "size": [4, 8, 8],
            M + "patch": [2, 4, 4],
            M + "mask": {"name": "tube", "ratio": 0.5},
            M + "decode": {"name": "tube", "ratio": 0.5},
        },
        {"task": "classify", M + "mask": {"name": "random", "ratio": 0}},
    ]
    for pair in pairs:
        given = BASE
        for key, value in pair.items():
            given = put(given, key, value)
        note(str(pair)[:170], lambda given=given: shown(given))
    two = put(BASE, "modalities.video", {"size": [4, 8, 8], "patch": [2, 4, 4], "batch": 2})
    both = parse_config(two)
    note("samples per step", both.samples_per_step)
    for name in (None, "image", "imag", "x"):
        note(f"one_modality {name} of two", lambda name=name: config.one_modality(name, both, "here", "--m={}"))
        note(f"one_modality {name}", lambda name=name: config.one_modality(name, parse_config(BASE), "here"))
    cached = parse_config(put(BASE, M + "data.reader", {"name": "video", "cache": "c", "stride": 3}) | {"seed": 5})
    note("uncached", config.uncached(cached).modalities["image"].data.reader.arguments)
    note("to_yaml", parse_config(two).to_yaml())
    note("schema", config.json_schema())
    for file in sorted((Path(config.__file__).parents[1] / "configs").glob("*.yaml")):
        note(f"recipe {file.stem}", lambda file=file: load_config(file.stem).to_yaml())
    for name in ("image_folder.yaml", "configs/image_folder", "elsewhere/image_folder", "imagefolder", "x" * 300):
        note(f"find_config {name[:40]}", lambda name=name: config.find_config(name).name)


@area()
def assignments(note: Note) -> None:
    for words in (
        "train.steps=7",
        "train.steps",
        "=3",
        "a..b=3",
        "train.lr=1e-4",
        "model.class_token=false",
        "seed='3'",
        "task=classify",
        "task.pool=class",
        "modalities.image.mask.ratio=0.5",
        "modalities.image.data.path=a=b",
        "train.steps.x=3",
        "modalities.image.size=[4, 4]",
        "train.probe=null",
        "train.clip=",
        "modalities.image.data.path='1e5'",
        "x: y=3",
        "train.steps= 8",
        " seed =2",
    ):

        def given(words: str = words) -> Any:
            values = copy.deepcopy(BASE)
            config.set_value(values, words)
            return shown(values)

        note(f"--set {words}", given)
    one, two = (
        parse_config(BASE),
        parse_config(put(BASE, "modalities.video", {"size": [4, 8, 8], "patch": [2, 4, 4], "batch": 2})),
    )
    warm = [
        parse_config(put(BASE, "train", t))
        for t in ({"steps": 100, "warmup_steps": 20}, {"epochs": 3, "warmup_epochs": 1}, {"epochs": 2})
    ]
    for number, base in enumerate((one, two, *warm)):
        for data, sets, steps, test in (
            (None, None, None, None),
            ("d", None, 30, "t"),
            ("image=a,video=b", ["seed=4"], None, None),
            ("image=a", None, 20, None),
            ("image=a,x=b", None, None, None),
            ("image=", None, 21, None),
            (None, None, 19, "video=t"),
            (None, ["train.lr"], None, None),
        ):
            note(
                f"configured {number} {data} {sets} {steps} {test}",
                lambda b=base, d=data, s=sets, n=steps, t=test: shown(
                    overrides.configured(b, d, s, n, t).model_dump(mode="json")
                ),
            )
    cached = parse_config(put(BASE, M + "data.reader", {"name": "video", "cache": "c"}))
    note(
        "a cache is absolute",
        lambda: overrides.configured(cached, None, None).modalities["image"].data.reader.arguments,
    )


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
