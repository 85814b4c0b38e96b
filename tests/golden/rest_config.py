"""Config: what wrong values are told, and overrides."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

from golden.rest import Note, area

from mae_ext import config, overrides
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
