"""Engine: groups, rates of every step, freezing, remarks and estimates."""

from types import SimpleNamespace
from typing import Any

import torch
from golden.rest import Note, area, digest
from golden.rest_config import BASE, M, put
from golden.rest_model import CLIP, IMAGE, config_of
from torch import nn

from mae_ext.config import Config, parse_config
from mae_ext.engine import (
    distributed,
    estimate,
    meaning,
    optim,
)
from mae_ext.model.mae import MAE

ONE = distributed.Ranks(0, 1, torch.device("cpu"))


def given(changes: dict[str, Any], base: dict[str, Any] = BASE) -> Config:
    for key, value in changes.items():
        base = put(base, key, value)
    return parse_config(base)


class Backboned(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.backbone = MAE(config, decodes=False)
        self.head = nn.Linear(12, 3)


@area()
def optimisers(note: Note) -> None:
    config = config_of(
        {"position": {**IMAGE, "position": "learned"}, "video": {**CLIP, "position": "separable"}}, depth=3
    )
    models = {"mae": MAE.from_config(config), "task": Backboned(config)}
    for told, model in models.items():
        names = {id(p): n for n, p in model.named_parameters()}
        note(f"{told} depth", optim.depth_of(model))
        note(
            f"{told} layers",
            {n: optim.layer_of(n, 3) for n in names.values() if n.endswith(("bias", "token")) or "position" in n},
        )
        for decay in (1.0, 0.75, 0.5):
            for freeze in ("none", "encoder", 1, 2, 3, 4):

                def made(model: Any = model, decay: float = decay, freeze: Any = freeze, names: Any = names) -> Any:
                    for p in model.parameters():
                        p.requires_grad_(True)
                    optim.freeze(model, freeze)
                    groups = optim.parameter_groups(model, 0.05, decay)
                    free = [n for n, p in model.named_parameters() if p.requires_grad]
                    return [
                        len(free),
                        digest(free),
                        [
                            [
                                g["weight_decay"],
                                g["scale"],
                                len(g["params"]),
                                digest([names[id(p)] for p in g["params"]]),
                            ]
                            for g in groups
                        ],
                    ]

                note(f"{told} layer_decay {decay} freeze {freeze}", made)
    for p in models["mae"].parameters():
        p.requires_grad_(True)
    settings = config_of(
        {"image": IMAGE}, {"steps": 1, "betas": [0.8, 0.7], "weight_decay": 0.2, "lr": 0.1, "layer_decay": 0.9}
    ).train
    adam = optim.adamw(models["mae"], settings)
    note(
        "adamw",
        [adam.defaults["betas"], adam.defaults["eps"], adam.defaults["lr"], adam.defaults["fused"], len(adam.state)],
    )


@area()
def rates(note: Note) -> None:
    for peak, floor, warmup, total in (
        (1.0, 0.0, 0, 8),
        (1.0, 0.1, 3, 8),
        (0.5, 0.5, 1, 4),
        (1.0, 0.0, 8, 8),
        (1.0, 0.2, 9, 8),
        (0.1, 0.3, 2, 6),
        (1.0, 0.0, 0, 1),
        (1.0, 0.0, 7, 8),
    ):
        note(
            f"lr peak {peak} floor {floor} warmup {warmup} of {total}",
            {s: optim.Schedule(total, warmup, peak, floor).lr(s) for s in range(total + 2)},
        )
    for changes in (
        {"train": {"steps": 5}},
        {"train": {"epochs": 2}},
        {"train": {"epochs": 2.5, "warmup_epochs": 0.3}},
        {"train": {"epochs": 0.01}},
        {"train": {"steps": 9, "warmup_steps": 3}},
        {"train": {"steps": 9, "warmup_epochs": 1}},
        {"train": {"epochs": 3, "warmup_steps": 2}},
        {"train": {"epochs": 1, "warmup_epochs": 1.37}},
    ):
        for samples in (4, 10, 13, 1000):

            def planned(changes: Any = changes, samples: int = samples) -> Any:
                schedule = optim.Schedule.of(given(changes), samples)
                return schedule.steps, schedule.warmup

            note(f"schedule {changes} {samples}", planned)
    for changes in (
        {},
        {"train.lr_per": None},
        {"train.lr_per": 4, "train.lr": 0.5},
        {M + "batch": 16},
        {"train.accumulate": 2},
        {"train.min_lr": 1.0},
        {"train.lr": 1.0, "train.lr_per": None, "train.min_lr": 1.0},
        {"train.lr": 1.0, "train.lr_per": None, "train.min_lr": 1.01},
        {"modalities.video": {**CLIP, "batch": 8}},
    ):
        config = given(changes)
        note(f"peak {changes}", [optim.peak_lr(config), optim.rising(config)])


MEANT: list[dict[str, Any]] = [
    {},
    {"init": "x"},
    {"train.freeze": "encoder"},
    {"train.freeze": 1},
    {"train.evaluate_every": 2},
    {M + "data.test": "t"},
    {"train.uniformity": 0.1},
    {"train.min_lr": 1.0},
    {"train.probe": {"every": 4, "train": "a", "test": "b"}},
    {"train.probe": {"every": 5, "train": "a", "test": "b"}},
    {"train.probe": {"every": 3, "train": "a", "test": "b"}},
    {"model.drop_path": 0.1},
    {"model.drop_path": 0.1, "model.depth": 1},
    {"model.depth": 1},
    {M + "weight": 2.0},
    {M + "weight": 2.0, "modalities.video": {**CLIP, "batch": 2}},
    {M + "decode": {"name": "random", "ratio": 0}},
    {M + "decode": {"name": "random", "ratio": 0.5}},
    {M + "target": {"normalize": "none", "floor": 0.1}},
    {M + "target": {"normalize": "none"}},
    {M + "target": {"floor": 0.1}},
    {M + "data.augment.scale": [0.3, 1.0]},
    {M + "data.augment": {"scale": [0.3, 1.0], "fixed": [0, 1]}},
    {M + "data.augment": {"scale": [0.3, 1.0], "fixed": [0]}},
    {M + "data.augment": {"scale": [0.3, 1.0], "fixed": [-1, -2]}},
    {M + "data.augment": {"aspect": [1.0, 1.0], "scale": None}},
    {M + "data.augment": {"aspect": [1.0, 1.0], "fixed": [0, 1]}},
    {M + "data.augment": {"scale": None, "fixed": [0, 1]}},
    {M + "data.augment.aspect": [1.0, 1.0]},
    {"task": "classify"},
    {"task": "classify", "train.uniformity": 0.1},
    {"task": "classify", "train.evaluate_every": 2},
    {"task": "classify", "train.evaluate_every": 2, M + "data.test": "t"},
    {"task": "classify", "train.evaluate_every": 4, M + "data.test": "t"},
    {"task": "classify", "train.evaluate_every": 5, M + "data.test": "t"},
    {"task": "classify", "train.freeze": "encoder"},
    {"task": "classify", "train.freeze": 1, "init": "x"},
    {"task": "classify", "train.freeze": "encoder", "init": "x", "train.layer_decay": 0.5, "model.drop_path": 0.1},
    {"task": "classify", "train.freeze": 1, "init": "x", "train.layer_decay": 0.5, "model.drop_path": 0.1},
    {"task": "classify", M + "weight": 2.0, "init": "x"},
    {"task": "classify", "init": "x", M + "mask": {"name": "foreground"}},
]


@area()
def meanings(note: Note) -> None:
    for changes in MEANT:
        config = given(changes)
        note(f"check {changes}", lambda config=config: meaning.check_meaning(config))
        note(f"remarks {changes}", lambda config=config: meaning.remarks(config, 4, 1))
    for steps, warmup in ((1, 0), (4, 3), (4, 4), (4, 5), (1, 1)):
        note(f"warm-up {warmup} of {steps}", meaning.remarks(given({}), steps, warmup))
    for name in ("foreground", "random"):
        for mask, valid in (((1,), None), ((), None), ((1,), 1)):
            batch: Any = {"image": SimpleNamespace(mask=mask, valid=valid)}
            for decode in (None, {"name": "foreground", "ratio": 0.4}):
                changes = {M + "mask": {"name": name, "ratio": 0.5}, M + "decode": decode}
                note(f"first batch {name} {mask} {valid} {decode}", meaning.of_first_batch(given(changes), batch))
    for world in (1, 2, 3, 4):
        for changes in (
            {},
            {"train.accumulate": 2},
            {M + "data.repeats": 2},
            {"train.accumulate": 4, M + "data.repeats": 2},
            {M + "batch": 6, "train.accumulate": 2},
            {M + "batch": 12, "train.accumulate": 6},
        ):
            note(f"split {world} {changes}", lambda w=world, c=changes: distributed.check_split(given(c), w))


@area()
def estimates(note: Note) -> None:
    for tokens, width, hidden in ((1, 2, 3), (10, 4, 16), (7, 1, 1)):
        note(f"block {tokens} {width} {hidden}", estimate.block_flops(tokens, width, hidden))
    for changes in (
        {},
        {"model.class_token": False},
        {"train.accumulate": 2},
        {"train.checkpointing": True},
        {"train.precision": "fp32"},
        {M + "mask": {"name": "tube", "ratio": 0.5}},
        {"model.mlp_ratio": 2.5},
        {M + "decode": {"name": "random", "ratio": 0.5}},
        {"modalities.video": {**CLIP, "batch": 8, "mask": {"name": "tube", "ratio": 0.6}}},
        {"train": {"epochs": 3, "warmup_epochs": 1}},
        {"train.lr_per": None},
        {M + "data.repeats": 2, "train": {"epochs": 3}},
        {"model.decoder.width": 24, "model.decoder.depth": 3},
        {"train": {"steps": 10, "warmup_steps": 10}},
        {"init": "x"},
    ):
        config = given({**changes, "model.width": 24}) if "model.width" not in changes else given(changes)
        for world in (1, 2):
            rows = estimate.modality_estimates(config, MAE.from_config(config))
            note(
                f"estimate {changes} {world}",
                [[*map(str, (r.tokens, r.kept, r.decoded)), float(r.flops)] for r in rows]
                + [estimate.activation_bytes(config, rows, world)],
            )
            for files in ({}, {"image": 10}):

                def lines(config: Config = config, files: Any = files, world: int = world) -> Any:
                    return [line[:60] for line in estimate.describe(config, files, world).splitlines()]

                note(f"plan {changes} {world} {files}", digest(lines))
    note(
        "plan",
        estimate.describe(
            given({M + "mask": {"name": "tube", "ratio": 0.6}, "train": {"epochs": 3}}), {"image": 10}, 2
        ).splitlines(),
    )
