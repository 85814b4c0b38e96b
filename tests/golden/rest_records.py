"""Records of a run: journals, ledgers and checkpoints."""

# ruff: noqa: E501
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from golden.rest import Note, area, digest
from golden.rest_config import M
from golden.rest_engine import ONE, given

from mae_ext.config import Config
from mae_ext.data.sources.table import Items, PathTable
from mae_ext.engine import (
    checkpoint,
    commit,
    evaluation,
    log,
    optim,
    resume,
    task,
)
from mae_ext.engine.ledger import Ledger
from mae_ext.model.mae import MAE


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
    return {
        name: SimpleNamespace(items=items, config=config.modalities[name], quarantined={}, examples=None, held_out=None)
    }


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
                    news = [ledger.note(3, [batch])]
                    ledger.share(config, data_of(config, count), 3)
                    news.append(ledger.note(4, [batch]))
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
    return [commit.save(Path(place), s, config, tensors, state) for s in steps]


@area()
def checkpoints(note: Note) -> None:
    config = given({M + "data.statistics": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    for keep in (1, 2, 3, 4):
        shutil.rmtree("c", ignore_errors=True)
        saved(config)
        Path("c/step-00000003.tmp-9").mkdir()
        Path("c/step-x").mkdir()
        commit.prune(Path("c"), keep)
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
    note("again", [commit.save(Path("run/checkpoints"), 9, config, {}, {}).name])
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
    commit.set_aside(paths[1])
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
