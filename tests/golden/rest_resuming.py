"""Going on: what may not have changed, and what is restored."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from golden.rest import Note, area, digest
from golden.rest_config import M, put
from golden.rest_engine import given
from golden.rest_records import data_of, saved

from mae_ext.config import parse_config
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.engine import (
    failure,
    optim,
    resume,
    step,
    task,
)
from mae_ext.errors import cause_of


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
            if k
            not in ("epochs", "warmup_epochs", "probe", "steps", "log_every", "loggers", "observe", "cudnn_benchmark")
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
        "train.optimizer": "muon",
        "train.encoder_lr": 0.5,
        "train.thaw": 0.2,
        "train.freeze": "encoder",
        "train.scratch": {"layer_decay": 0.8},
        "train.evaluate_every": 3,
        "train.keep_best": True,
        "train.clip": 1.0,
        "train.uniformity": 0.1,
        "train.accumulate": 2,
        "train.micro_batch": 2,
        "train.precision": "fp32",
        "train.parallel": "fsdp",
        "train.compile": True,
        "train.compile_mode": "max-autotune",
        "train.deterministic": False,
        "train.matmul": "high",
        "train.rank_timeout": 5.0,
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
    tensors, state = resume.snapshot(model, optimizer, data, resume.lasting(data, base) | {"skipped": 2})
    note(
        "snapshot",
        [sorted(tensors), digest(sorted(tensors["optimizer"])), state["files"], state["quarantined"], state["skipped"]],
    )
    raised = step.NonFinite(4, {"image": 1.0}, 2.0, ["a"], (20, 1.0))
    note("non-finite", [str(raised), raised.record, str(step.NonFinite(4, {"image": 1.0}, 2.0, []))])
    note("free", [failure._free_for(Path("r/failure-1"), base).name, cause_of(OSError("x"))])
