"""Engine: groups, rates of every step, freezing, remarks, estimates, ledgers, journals, checkpoints, resuming, steps."""
# ruff: noqa: E501

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from golden.rest import Note, area, digest
from golden.rest_config import BASE, M, put
from golden.rest_model import CLIP, IMAGE, config_of, numbers
from torch import nn

from mae_ext import plugins
from mae_ext.config import Config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.engine import (
    checkpoint,
    distributed,
    estimate,
    evaluation,
    failure,
    log,
    meaning,
    optim,
    record,
    resume,
    step,
    task,
)
from mae_ext.engine.ledger import Ledger
from mae_ext.engine.precision import LossScale
from mae_ext.engine.run import Run
from mae_ext.errors import cause_of
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


@area()
def journals(note: Note) -> None:
    lines = '{"step": 1}\n{"step": 2, "skipped": 1}\n[1]\nnot json\n\n{"nothing": 1}\n{"step": 3, "skipped": 1}\n{"step": 4}\n{"ste'
    for at in (0, 1, 2, 3, 4, 9):
        Path("j.jsonl").write_text(lines)
        note(f"rows until {at}", log.rows_until(Path("j.jsonl"), at))
        journal = log.Journal(Path("j.jsonl"), at)
        journal.write({"step": at + 1, "x": float("nan")})
        journal.sync()
        journal.close()
        note(f"journal at {at}", Path("j.jsonl").read_text())
        shutil.rmtree("o", ignore_errors=True)
        Path("o").mkdir()
        Path("o/metrics.jsonl").write_text(lines)
        # What a record does on rank 0.
        metrics, terminal = log.Journal(Path("o/metrics.jsonl"), at), log.Terminal(40, at)
        row = {"step": at + 1, "loss": 1.0, "samples_per_s": 2.0, "data_wait": 0.1, "seconds": 1.0, "skipped": 1}
        metrics.write(row)
        terminal.show(row)
        skipped = sum(row.get("skipped", 0) for row in metrics.rows) + 1
        note(f"log at {at}", [skipped, terminal.every, Path("o/metrics.jsonl").read_text()])
        metrics.close()
        terminal.close()
    note("no rows", log.rows_until(Path("absent"), 3))
    note("by modality", log._by_modality({"loss/a": 1.0, "loss": 2.0, "loss/b": 0.25}))
    for total in (1, 19, 20, 39, 40, 100):
        note(f"terminal {total}", log.Terminal(total, 0).every)
    for every in (None, 1, 3, 5):
        for known in ("", '{"step": 3}\n{"step": 6}\n'):
            for start in (0, 3):
                shutil.rmtree("e", ignore_errors=True)
                Path("e").mkdir()
                if known:
                    Path("e/evaluations.jsonl").write_text(known)
                found = evaluation.Evaluations(Path("e"), start, every, 7, ONE)
                due = [s for s in range(9) if found.due(s)]
                found.write(7, {"a": 1.0} if every else {})
                note(
                    f"evaluations every {every} known {known!r} start {start}",
                    [due, Path("e/evaluations.jsonl").read_text() if Path("e/evaluations.jsonl").exists() else None],
                )
                found.close()


def data_of(config: Config, count: int, name: str = "image") -> dict[str, Any]:
    items = Items(PathTable(f"d/{i}.png" for i in range(count)))
    return {name: SimpleNamespace(items=items, config=config.modalities[name], quarantined={}, examples=None)}


@area()
def ledgers(note: Note) -> None:
    for count in (1, 2, 10, 11, 20):
        for limit in (0.0, 0.1, 0.5, 1.0):
            for bad in (0, 1, 2, 3):

                def met(count: int = count, limit: float = limit, bad: int = bad) -> Any:
                    shutil.rmtree("l", ignore_errors=True)
                    Path("l").mkdir()
                    config = given({M + "data.max_bad_fraction": limit})
                    ledger = Ledger(Path("l"), 0, ONE)
                    rows = [
                        {"modality": "image", "path": f"d/{i}.png", "kind": "k", "detail": "d" * (i % 2)}
                        for i in range(bad)
                    ]
                    batch: Any = {"image": SimpleNamespace(bad=[*rows, *rows[:1]])}
                    news = [ledger.note(3, batch)]
                    ledger.share(config, data_of(config, count), 3)
                    news.append(ledger.note(4, batch))
                    ledger.close()
                    return [
                        news,
                        digest(Path("l/bad_samples.jsonl").read_text())
                        if Path("l/bad_samples.jsonl").exists()
                        else None,
                    ]

                if bad <= count:
                    note(f"{bad} bad of {count}, {limit} allowed", met)
    shutil.rmtree("l", ignore_errors=True)
    Path("l").mkdir()
    Path("l/bad_samples.jsonl").write_text(
        '{"step": 2, "modality": "image", "path": "a", "kind": "k", "detail": ""}\n{"step": 5, "modality": "image", "path": "b", "kind": "k", "detail": ""}\n'
    )
    Path("l/bad_samples.1.jsonl").write_text(
        '{"step": 2, "modality": "image", "path": "c", "kind": "k", "detail": ""}\n{"step": 2, "modality": "image", "path": "a", "kind": "k", "detail": ""}\n'
    )
    ledger = Ledger(Path("l"), 3, ONE)
    ledger.last_words(
        4,
        [
            {"modality": "image", "path": "a", "kind": "k", "detail": ""},
            {"modality": "video", "path": "a", "kind": "k", "detail": ""},
        ],
    )
    ledger.close()
    note(
        "of all ranks",
        [
            sorted(p.name for p in Path("l").iterdir()),
            Path("l/bad_samples.jsonl").read_text(),
            digest(list(ledger.known.values())),
        ],
    )


def saved(config: Config, place: str = "c", steps: tuple[int, ...] = (2, 10, 9)) -> list[Path]:
    model = task.build_model(config)
    optimizer = optim.adamw(model, config.train)
    tensors = {"model": dict(model.state_dict()), "optimizer": resume.optimizer_tensors(model, optimizer)}
    state = {
        "files": {},
        "quarantined": {"image": {"1": "slow"}},
        "scaler": {},
        "plugins": resume.plugin_versions(config),
        "skipped": 4,
        "statistics": {"image": "measured"},
    }
    return [checkpoint.save(Path(place), s, config, tensors, state) for s in steps]


@area()
def checkpoints(note: Note) -> None:
    config = given({M + "data.statistics": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    for keep in (1, 2, 3, 4):
        shutil.rmtree("c", ignore_errors=True)
        saved(config)
        Path("c/step-00000003.tmp-9").mkdir()
        Path("c/step-x").mkdir()
        checkpoint.prune(Path("c"), keep)
        note(
            f"prune {keep}",
            [sorted(p.name for p in Path("c").iterdir()), [p.name for p in checkpoint.steps_of(Path("c"))]],
        )
    shutil.rmtree("c")
    paths = saved(config, "run/checkpoints")
    note("files", sorted(f.name for f in paths[0].iterdir()))
    note(
        "manifest",
        [
            sorted(checkpoint.verify(paths[0])),
            checkpoint.verify(paths[0])["step"],
            checkpoint.verify(paths[0])["format"],
        ],
    )
    note("state", checkpoint.read_state(paths[0]))
    (Path("run") / "config.yaml").write_text(config.to_yaml())
    note("is_run", [checkpoint.is_run("run"), checkpoint.is_run(paths[0]), checkpoint.is_run("absent")])
    for words in ("run", str(paths[0]), "absent", "run/checkpoints"):
        note(f"find {words}", lambda words=words: checkpoint.find(words).name)
    note("load_run", lambda: [checkpoint.load_run("run").step, checkpoint.load_run("run").config == config])
    note("again", [checkpoint.save(Path("run/checkpoints"), 9, config, {}, {}).name])
    (paths[1] / "state.json").write_text("{}")
    said: list[str] = []
    note("damaged state", [checkpoint.latest(Path("run"), said.append), said])
    note("damaged verify", lambda: checkpoint.verify(paths[1]))
    content = (paths[2] / "config.yaml").read_bytes()
    (paths[2] / "config.yaml").write_bytes(content[:-2] + b"#\n")
    note("same size", lambda: checkpoint.verify(paths[2]))
    manifest = json.loads((paths[0] / "manifest.json").read_text())
    for told, changed in (
        ("format 2", {"format": 2}),
        ("elsewhere", {"files": {"../x": {"bytes": 1, "sha256": ""}}}),
        ("empty", {"files": None}),
        ("gone", {"files": {"x": {"bytes": 1, "sha256": ""}}}),
    ):
        (paths[0] / "manifest.json").write_text(json.dumps({**manifest, **changed}))
        note(f"manifest {told}", lambda: checkpoint.verify(paths[0]))
    note("none whole", lambda: checkpoint.latest(Path("run")))
    note("none", checkpoint.latest(Path("absent")))
    checkpoint.set_aside(paths[1])
    note("aside", sorted(p.name for p in Path("run/checkpoints").iterdir()))
    model = MAE(config)
    own = model.state_dict()
    for told, weights in (
        ("whole", own),
        ("lacks", {k: v for k, v in own.items() if "predict" not in k}),
        ("unknown", {**own, "x": own["encoder.class_token"], "y": own["encoder.class_token"]}),
        ("shape", {k: v[:1] if k == "encoder.class_token" else v for k, v in own.items()}),
        ("all", {}),
        ("many", {**own, **dict.fromkeys("abcd", own["encoder.class_token"])}),
    ):
        note(f"load_weights {told}", lambda weights=weights: checkpoint.load_weights(model, weights, "here"))
    note("is_text", [checkpoint.is_text(Path("a")), checkpoint.is_text(Path("a\udc80")), checkpoint.is_text(Path("é"))])


@area()
def resuming(note: Note) -> None:
    base = given({M + "data.statistics": {"mean": [0.5] * 3, "std": [0.25] * 3}, M + "data.path": "d"})
    (path,) = saved(base, "r/checkpoints", (5,))
    data = data_of(base, 6)
    files = {"image": resume.fingerprint(data["image"])}
    at = resume.Standing(
        5,
        files,
        plugins=resume.plugin_versions(base),
        statistics={"image": "measured"},
        quarantined={"image": {"1": "slow"}},
    )
    keys = [
        "seed",
        *(
            f"train.{k}"
            for k in type(base.train).model_fields
            if k not in ("epochs", "warmup_epochs", "probe", "steps", "log_every", "loggers", "observe")
        ),
        M + "weight",
        M + "channels",
        M + "data.repeats",
        M + "data.max_bad_fraction",
        M + "data.path",
        M + "data.test",
        "model.drop_path",
        "model.norm_eps",
        M + "data.augment.flip",
        M + "data.augment.scale",
    ]
    other = {
        "seed": 9,
        "train.warmup_steps": 1,
        "train.lr": 1e-3,
        "train.lr_per": 8,
        "train.min_lr": 1e-5,
        "train.betas": [0.9, 0.9],
        "train.weight_decay": 0.1,
        "train.layer_decay": 0.9,
        "train.freeze": "encoder",
        "train.evaluate_every": 3,
        "train.clip": 1.0,
        "train.uniformity": 0.1,
        "train.accumulate": 2,
        "train.precision": "fp32",
        "train.compile": True,
        "train.checkpointing": True,
        "train.device": "cpu",
        "train.workers": 0,
        "train.prefetch": 3,
        "train.worker_timeout": 3.0,
        "train.save_every": 3,
        "train.keep": 3,
        "train.tensorboard": False,
        M + "weight": 2.0,
        M + "channels": 1,
        M + "data.repeats": 2,
        M + "data.max_bad_fraction": 0.5,
        M + "data.path": "e",
        M + "data.test": "t",
        "model.drop_path": 0.1,
        "model.norm_eps": 1e-5,
        M + "data.augment.flip": [],
        M + "data.augment.scale": [0.3, 1.0],
    }
    start = base.model_dump(mode="json")
    for key in keys:
        config = parse_config(put(start, key, other[key]))
        note(
            f"with another {key}",
            lambda config=config: resume.check_same(config, path, at, data, False, {"image": "measured"}),
        )
    more = {
        "train.steps": 9,
        M + "data.reader": {"name": "image", "max_pixels": 5},
        "train.probe": {"every": 1, "train": "a", "test": "b"},
        M + "mask": {"name": "random", "ratio": 0.5},
        "task": "classify",
    }
    for key, value in more.items():
        config = parse_config(put(start, key, value))
        note(
            f"with another {key}",
            lambda config=config: resume.check_same(config, path, at, data, False, {"image": "measured"}),
        )
        note(
            f"with another {key} allowed",
            lambda config=config: resume.check_same(config, path, at, data, True, {"image": "measured"}),
        )
    for told, changed in (("files", data_of(base, 7)), ("no files", data_of(base, 0)), ("same", data_of(base, 6))):
        note(
            f"other {told}",
            lambda changed=changed: resume.check_same(base, path, at, changed, False, {"image": "measured"}),
        )
        note(f"other {told} aside", changed["image"].quarantined)
    for before in ("measured", "imagenet", "none", "given"):
        for now in ("measured", "imagenet", "given"):
            progress = resume.Standing(5, files, plugins=at.plugins, statistics={"image": before})
            note(
                f"statistics {before} then {now}",
                [
                    resume.to_measure({"image": now}, progress),
                    lambda p=progress, n=now: resume.check_same(base, path, p, data, False, {"image": n}),
                ][0],
            )
            note(
                f"statistics {before} then {now} same",
                lambda p=progress, n=now: resume.check_same(base, path, p, data, False, {"image": n}),
            )
    plugged = resume.Standing(
        5, files, plugins={**at.plugins, "task pretrain": "other 1.0"}, statistics={"image": "measured"}
    )
    note("other plug-in", lambda: resume.check_same(base, path, plugged, data, False, {"image": "measured"}))
    note("plug-ins", resume.plugin_versions(given({M + "decode": {"name": "random", "ratio": 0.3}})))
    note(
        "asked",
        [
            resume.asked_statistics(given({M + "data.statistics": v}))
            for v in ("measured", "imagenet", "none", {"mean": [1], "std": [1]})
        ],
    )
    note(
        "kept",
        [
            resume.kept_statistics(base, path),
            resume.kept_statistics(given({M + "data.statistics": "none"}), path),
            resume.kept_statistics(given({"modalities": {"x": start["modalities"]["image"]}}), path),
        ],
    )
    note("flat", resume.flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}))
    for addresses in (["d/a", "d/b"], ["d/b", "d/a"], ["e/a", "e/b"], ["e/a", "e/c/b"], ["x/a", "y/b"], ["d/a"], []):
        held: Any = SimpleNamespace(
            items=Items(PathTable(addresses)), config=base.modalities["image"], quarantined={}, examples=None
        )
        note(f"fingerprint {addresses}", lambda held=held: resume.fingerprint(held))
        if addresses:
            held.examples = SimpleNamespace(identity=b"x")
            note(f"fingerprint {addresses} of a task", resume.fingerprint(held))
    note("progress", resume.Standing.read(path))
    for told, text in (
        ("lacks", '{"step": 3}'),
        ("no step", "{}"),
        ("no json", "x"),
        ("old", '{"step": 3, "files": {}, "quarantined": {}, "scaler": {}, "plugins": {}}'),
    ):
        (path / "state.json").write_text(text)
        note(f"progress {told}", lambda: resume.Standing.read(path))
    model = task.build_model(base)
    optimizer = optim.adamw(model, base.train)
    with torch.no_grad():
        for p in model.parameters():
            optimizer.state[p]["exp_avg"].fill_(7.0)
            p.fill_(1.0)
    scaler: Any = SimpleNamespace(load_state_dict=lambda s: note("scaler", s))
    resume.restore(path, base, model, optimizer, scaler, resume.Standing(scaler={"scale": 3.0}))
    note(
        "restored",
        [
            float(sum(p.abs().sum() for p in model.parameters())),
            float(sum(s["exp_avg"].sum() for s in optimizer.state.values())),
        ],
    )
    note("restored statistics", [model.modality().mean, model.modality().std])
    wrong = task.build_model(given({"train.freeze": "none", "model.depth": 2}))
    frozen = optim.adamw(wrong, base.train)
    frozen.state.pop(next(iter(wrong.parameters())))
    note("restore wrong", lambda: resume.restore(path, base, wrong, frozen, scaler, resume.Standing()))
    tensors, state = resume.snapshot(model, optimizer, data, base, {"skipped": 2})
    note(
        "snapshot",
        [sorted(tensors), digest(sorted(tensors["optimizer"])), state["files"], state["quarantined"], state["skipped"]],
    )
    raised = step.NonFinite(4, {"image": 1.0}, 2.0, ["a"], (20, 1.0))
    note("non-finite", [str(raised), raised.record, str(step.NonFinite(4, {"image": 1.0}, 2.0, []))])
    note("free", [failure._free_for(Path("r/failure-1"), base).name, cause_of(OSError("x"))])


class Plain(nn.Module):
    """One parameter, whose gradient is its data: what a step does to it is arithmetic."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2, 2), start))
        self.bias = nn.Parameter(torch.zeros(2))
        self.encoder = nn.Module()
        self.encoder.class_token = nn.Parameter(torch.full((2,), start))


class Summed:
    def loss(self, model: Any, name: str, batch: Batch) -> Any:
        drawn = 1.0 if batch.gates is None else batch.gates.permute(1, 2, 0).contiguous().mean()
        return (
            (batch.x.mean() * model.weight.sum() + model.bias.sum() + model.encoder.class_token.sum())
            * drawn
            * (2.0 if name == "video" else 1.0)
        )


class Rising(optim.Schedule):
    def lr(self, number: int) -> float:
        return 0.1 * (number + 1)


def run_of(config: Config, model: Any, task: Any, rates: Any, scale: float = 2.0**16, skipped: int = 0) -> Run:
    scaler = LossScale(ONE.device, config.train.precision)
    if config.train.precision == "fp16":
        scaler.load_state_dict({**scaler.state_dict(), "scale": scale})
    counted: Any = {n: SimpleNamespace(plan=SimpleNamespace(samples_per_epoch=10)) for n in config.modalities}
    at = resume.Standing(skipped=skipped)
    return Run(config, task, counted, ONE, model, optim.adamw(model, config.train), scaler, rates, at)


@area(relative=2e-4)
def steps(note: Note) -> None:
    for changes in (
        {},
        {"train.clip": 0.1},
        {"train.clip": 100.0},
        {"train.accumulate": 2},
        {"train.accumulate": 4},
        {M + "weight": 3.0},
        {"model.drop_path": 0.5},
        {"model.drop_path": 0.5, "train.accumulate": 2},
        {"train.layer_decay": 0.5},
        {"train.weight_decay": 0.5},
        {"train.betas": [0.5, 0.5]},
        {"modalities.video": {**CLIP, "batch": 2, "weight": 0.5}},
        {"train.precision": "bf16"},
        {"model.drop_path": 0.5, "seed": 3},
    ):

        def taken(changes: dict[str, Any] = changes) -> Any:
            config = given({"train.precision": "fp32", **changes})
            model: Any = Plain(0.5)
            whole = run_of(config, model, Summed(), Rising(4, 0, 0.1, 0.0))
            take = step.Step(whole)
            found = []
            for number in range(3):
                batches = {
                    n: Batch(x=numbers(m.batch, 3, seed=number), mask=None, bad=[])
                    for n, m in config.modalities.items()
                }
                take(number, batches, number == 2, number == 1)
                (one,) = take.answers()
                row = {**record.row_of(whole, one, 0.5, 2.0), "lr": 0.1}
                found.append(
                    [
                        one.losses,
                        one.norm,
                        one.stopping,
                        one.skipped,
                        one.scale,
                        model.weight.sum().item(),
                        model.bias.sum().item(),
                        model.encoder.class_token.sum().item(),
                        row,
                    ]
                )
            return found

        note(f"steps {changes}", taken)
    dropped = given({"model.drop_path": 0.5, M + "batch": 8})
    for rank in (0, 1):
        ranks = distributed.Ranks(rank, 1, torch.device("cpu"))
        model_: Any = Plain(0.5)
        take = step.Step(replace(run_of(dropped, model_, Summed(), Rising(4, 0, 0.1, 0.0)), ranks=ranks))
        drawn = [take._gates("image", number, 4) for number in (0, 1)]
        note(f"gates of rank {rank}", [None if g is None else g.permute(1, 2, 0).contiguous() for g in drawn])
    config = config_of({"video": {**CLIP, "position": {"name": "sincos", "unit": 3.0}}}, {"uniformity": 0.3})
    pretraining = plugins.tasks.build("pretrain", {}, "task")
    model = pretraining.model(config)
    x = numbers(3, 1, 4, 8, 8)
    whole = {
        "mask": model.modality().draw_mask([torch.Generator().manual_seed(i) for i in range(3)]),
        "valid": torch.arange(x.numel()).view(x.shape) % 3 > 0,
        "spacing": numbers(3, 3).abs() + 1,
        "files": torch.tensor([0, 0, 1]),
    }
    for lacks in ("nothing", "valid", "files", "gates"):
        parts = {k: v for k, v in whole.items() if k != lacks}
        gates = None if lacks == "gates" else torch.arange(12.0).view(2, 2, 3) / 6
        model.encoder.gates = gates
        note(f"pretraining without {lacks}", pretraining.loss(model, "video", Batch(x=x, **parts)))
    for start in (float("nan"), float("inf")):
        for precision in ("fp32", "bf16"):

            def broken(start: float = start, precision: str = precision) -> Any:
                config = given({"train.precision": precision})
                model: Any = Plain(start)
                take = step.Step(run_of(config, model, Summed(), Rising(4, 0, 0.1, 0.0)))
                take(0, {"image": Batch(x=numbers(4, 3), mask=None, bad=[])}, False)
                return list(take.answers())

            note(f"starts {start} {precision}", broken)


class Overflowing:
    """Gradients that are not finite, with a loss that is, in chosen steps."""

    def __init__(self, bad: list[bool]) -> None:
        self.bad = bad

    def loss(self, model: Any, name: str, batch: Batch) -> Any:
        return (model.weight.sum().sqrt() if self.bad.pop(0) else model.weight.sum()) + model.bias.sum()


@area()
def skipping(note: Note) -> None:
    for told, pattern, before, scale in (
        ("now and then", [1, 0, 1, 0], 0, 2.0**16),
        ("once more", [1], 18, 2.0**16),
        ("too often", [1], 19, 2.0**16),
        ("in a row", [1] * 22, 0, 2.0**30),
        ("smallest", [1], 0, 1.0),
        ("small", [1], 0, 2.0),
        ("good", [0], 19, 2.0**16),
    ):

        def taken(pattern: Any = pattern, before: int = before, scale: float = scale) -> Any:
            config = given({"train.precision": "fp16"})
            model: Any = Plain(0.0)
            task = Overflowing([bool(b) for b in pattern])
            take = step.Step(run_of(config, model, task, optim.Schedule(4, 0, 0.0, 0.0), scale, before))
            found = []
            for number in range(len(pattern)):
                take(number, {"image": Batch(x=numbers(4, 3), mask=None, bad=[])}, False)
                (one,) = take.answers()
                found.append([one.skipped, take.skipped, one.scale])
            return found

        note(told, taken)
