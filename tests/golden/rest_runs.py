"""Short runs: what is saved before it is judged, what goes on, features, probes, pictures and answers with each option."""

# ruff: noqa: E501

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from golden import inputs
from golden.rest import Note, area, digest
from golden.rest_engine import given
from PIL import Image
from safetensors.numpy import load_file

from mae_ext.config import Config
from mae_ext.engine import train as loop
from mae_ext.engine.observe import aside
from mae_ext.features.embed import embed
from mae_ext.features.encoder import load_encoder
from mae_ext.probing.during import ProbesDuring
from mae_ext.probing.probe import probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.report import pictures

IMAGE = "modalities.image."


def pictures_of(root: Path, count: int = 4, bad: bool = True) -> None:
    """Two classes of grey pictures, and one file that is cut short."""
    for number, kind in enumerate(("down", "across")):
        (root / kind).mkdir(parents=True)
        for key in range(count):
            plain = inputs.picture(kind, key + 10 * number)[:20, :18]
            Image.fromarray(plain).save(root / kind / f"{key}.png")
    if bad:
        (root / "across" / "00.png").write_bytes((root / "down" / "0.png").read_bytes()[:60])


def config_of(**changes: Any) -> Config:
    plain = {
        "modalities.image": {
            "size": [8, 8],
            "patch": [4, 4],
            "batch": 4,
            "data": {"path": "train", "max_bad_fraction": 0.2, "augment": {"scale": [0.4, 1.0]}},
        },
        "train": {
            "steps": 5,
            "precision": "fp32",
            "device": "cpu",
            "workers": 0,
            "tensorboard": False,
            "save_every": 2,
            "lr": 0.1,
        },
    }
    return given({**plain, **changes})


def rows(path: str) -> list[dict[str, Any]]:
    clock = ("seconds", "samples_per_s", "data_wait", "checkpoint", "tflops", "mfu", "memory")
    text = Path(path).read_text().splitlines() if Path(path).is_file() else []
    return [
        {k: v for k, v in json.loads(line).items() if k not in clock and not k.startswith("loader/")} for line in text
    ]


def steps(run: str) -> list[str]:
    return sorted(p.name[-2:] for p in Path(run, "checkpoints").iterdir())


def compact(row: dict[str, Any]) -> list[Any]:
    return [list(v.values()) if isinstance(v, dict) else v for k, v in row.items() if k not in ("train", "test")]


@area(relative=5e-3, absolute=2e-3)
def runs(note: Note) -> None:
    pictures_of(Path("train"))
    pictures_of(Path("test"), 3, bad=False)
    seen: list[Any] = []
    judged = ProbesDuring.__call__

    def asked(self: Any, step: int) -> dict[str, float]:
        seen.append([step, steps("run") if step else []])
        return judged(self, step)

    probing = {"train.probe": {"every": 3, "train": "test", "test": "test", "k": 3}}
    with mock.patch.object(ProbesDuring, "__call__", asked):
        loop.train(config_of(**probing), "run")
    note("probed when saved", seen)
    note("rows", [list(r.values()) for r in rows("run/metrics.jsonl")])
    note("bad", rows("run/bad_samples.jsonl"))
    note("probes", [compact(r) for r in rows("run/probes.jsonl")])
    note("kept", steps("run"))
    note(
        "the same again",
        lambda: [
            loop.train(config_of(**probing), "run"),
            len(rows("run/metrics.jsonl")),
            len(rows("run/probes.jsonl")),
        ],
    )
    note("longer", lambda: loop.train(config_of(**{"train.steps": 7}), "run"))
    encoder = load_encoder("run")
    note(
        "encoder",
        [
            encoder.name,
            encoder.step,
            encoder.width,
            encoder.config.seed,
            sorted(n for n, p in encoder.model.named_parameters() if p.requires_grad)[:3],
        ],
    )
    note(
        "trained and not", [len([p for p in encoder.parameters() if p.requires_grad]), len(list(encoder.parameters()))]
    )
    for pool in ("mean", "class", "tokens", "x"):
        for allowed in (None, 0.0, 0.05, 0.5):
            note(
                f"features {pool} {allowed}",
                lambda p=pool, a=allowed: (
                    (f := encoder.features("train", p, 3, max_bad_fraction=a))
                    and [f.features.astype(float), f.labels, digest(f.sources), f.bad]
                ),
            )
    note("random weights", [encoder.randomised(seed).features("test").features for seed in (0, 1)])
    torch.manual_seed(4)
    model = encoder.model.train()
    with aside(model):
        drawn_inside = [torch.rand(3), model.training]
    note("aside", [drawn_inside, torch.rand(3), model.training])
    model.eval()
    Path("out").mkdir()
    for told, more in (
        ("plain", {}),
        ("class", {"pool": "class"}),
        ("map", {"with_map": True, "neighbours": 2}),
        ("too many", {"neighbours": 99}),
    ):

        def embedded(told: str = told, more: Any = more) -> Any:
            out = embed("run", "train", f"out/{told}.safetensors", **more)
            return [
                load_file(out)["features"],
                rows(f"out/{told}.jsonl")[:2],
                sorted(p.name for p in Path("out").glob(f"{told}*")),
            ]

        note(f"embed {told}", embedded)
    for name in ("7", "12"):
        Path("numbered", name).mkdir(parents=True)
        Path("numbered", name, "a.png").write_bytes(Path("train/down/0.png").read_bytes())
    note(
        "numbered classes",
        lambda: rows(str(embed("run", "numbered", "out/numbered.safetensors").with_suffix(".jsonl"))),
    )
    note("embed elsewhere", lambda: embed("run", "train", "absent/x.safetensors"))
    note("embed other name", lambda: embed("run", "train", "out/x.npy"))
    for baseline, more in (
        (None, {}),
        ("random", {"seed": 1}),
        (None, {"mirror": True}),
        (None, {"test": None, "folds": 2}),
        (None, {"max_bad_fraction": 0.0}),
        (None, {"pool": "class", "k": 2}),
    ):
        asked_for = {**({} if baseline is None else {"baseline": baseline}), **more}
        note(
            f"probe {asked_for}",
            lambda baseline=baseline, more=more: compact(
                {
                    k: v
                    for k, v in probe(
                        "run",
                        ProbeSpec("train", **{"test": "test", "k": 3, "epochs": 3, **more}),
                        record=False,
                        baseline=baseline,
                    ).items()
                    if k not in ("seconds", "checkpoint")
                }
            ),
        )
    for more in ({}, {"seed": 1}, {"own_statistics": True}, {"limit": 9}, {"limit": 0}):

        def drawn(more: Any = more) -> Any:
            paths = pictures.reconstruct("run", ["train"], "pictures", **{"limit": 2, **more})
            return [
                [p.name for p in paths],
                *(np.asarray(Image.open(p).convert("L").resize((12, 9))).astype(float) for p in paths[-2:]),
            ]

        note(f"reconstruct {more}", drawn)
    wide = [replace(s, x=s.x.float() / 255 * 5 - 2) for s in encoder.decode(encoder.items("test"))][:3]
    note(
        "pictures of other units",
        [x for panel in pictures._panels(encoder, wide, False, 0, 2) for _, x in panel.columns],
    )
    with mock.patch.object(pictures, "BATCH", 2):
        note("masks of batches", [np.asarray(x.columns[1][1]) for x in pictures.panels_of(encoder, ["test"], limit=5)])
