"""How many graphs torch.compile makes of a step, where it breaks, and what later steps make anew, case by case.

    python scripts/checks/graphs.py             # a minute or two; a table
    python scripts/checks/graphs.py --blocks    # of blocks compiled by themselves

Three steps each, of another batch and other masks, on a CPU, by a compiler that runs what it is given. Pretraining
should have one graph, no break and none made anew. Exit code: 0 where that is so, else 1.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch._dynamo.utils import counters

from mae_ext.config import Config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine import compiling
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Step
from mae_ext.engine.task import backbone_of
from mae_ext.rng import rng

IMAGE = {"size": [16, 16], "patch": [4, 4], "batch": 4, "data": {"statistics": "none"}}
CLIP = IMAGE | {"size": [4, 16, 16], "patch": [2, 4, 4], "mask": {"name": "tube", "ratio": 0.75}}
HALF = CLIP | {"mask": {"name": "tube", "ratio": 0.5}, "decode": {"name": "running_cell", "ratio": 0.5}}
VOLUME = IMAGE | {"size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1}
PAIRS = IMAGE | {"data": {"statistics": "none", "repeats": 2}}
TWO = {"classes": ["a", "b"]}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "images": ({"image": IMAGE}, {}, {}),
    "images, bf16": ({"image": IMAGE}, {"precision": "bf16"}, {}),
    "images, drop path": ({"image": IMAGE}, {}, {"drop_path": 0.2}),
    "images, uniformity": ({"image": IMAGE}, {"uniformity": 0.01}, {}),
    "images, uniformity and fused blocks": (
        {"image": PAIRS},
        {"uniformity": 0.01},
        {"decoder": {"width": 16, "depth": 2, "heads": 2, "fuse": [1, 2]}},
    ),
    "images, in parts": ({"image": IMAGE}, {"accumulate": 2}, {}),
    "images, checkpointing": ({"image": IMAGE}, {"checkpointing": True}, {}),
    "clips": ({"clip": CLIP}, {}, {}),
    "clips, half decoded": ({"clip": HALF}, {}, {}),
    "volumes, a part valid": ({"volume": VOLUME}, {}, {}),
    "joint": ({"image": IMAGE, "clip": CLIP, "volume": VOLUME}, {}, {}),
    "classify": ({"image": IMAGE}, {"task": {"name": "classify", **TWO}}, {}),
    "classify, attentive": ({"image": IMAGE}, {"task": {"name": "classify", "pool": "attentive", **TWO}}, {}),
    "segment": ({"image": IMAGE}, {"task": {"name": "segment", **TWO}}, {}),
    "segment by UNETR": ({"volume": VOLUME}, {"task": {"name": "segment", "head": "unetr", **TWO}}, {}),
    "segment by upsampling": ({"volume": VOLUME}, {"task": {"name": "segment", "head": "upsample", **TWO}}, {}),
    "classify, reconstruct": ({"image": IMAGE}, {"task": {"name": "classify", "reconstruct": 0.1, **TWO}}, {}),
    "detect": ({"image": IMAGE}, {"task": {"name": "detect", "channels": 16, "depth": 1, **TWO}}, {}),
}
"""modalities, train (and the task), model."""


def config_of(case: str, extent: str) -> Config:
    modalities, train, model = CASES[case]
    task = train.get("task", {"name": "pretrain"})
    rest = {key: value for key, value in train.items() if key != "task"}
    small = {"width": 24, "depth": 3, "heads": 2, "decoder": {"width": 16, "depth": 2, "heads": 2}}
    return parse_config(
        {
            "modalities": modalities, "model": small | model, "task": task,
            "train": {"steps": 3, "precision": "fp32", "compile": extent, **rest},
        }
    )  # fmt: skip


def targets_of(task: str, size: tuple[int, ...], batch: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    if task == "classify":
        return {"classes": torch.eye(2)[torch.randint(2, (batch,), generator=generator)]}
    if task == "segment":
        return {"labels": torch.randint(3, (batch, *size), generator=generator)}
    if task == "detect":
        corner = torch.rand(batch, 3, 2, generator=generator) * 6
        labels = torch.randint(-1, 2, (batch, 3), generator=generator)
        return {"boxes": torch.cat([corner, corner + 6], -1), "labels": labels, "ignored": labels > 0}
    return {}


def count(case: str, extent: str) -> tuple[int, int, int, float]:
    """-> graphs of the first step, graph breaks, graphs of later steps, seconds."""
    made: list[object] = []

    def compiler(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    counters.clear()
    compiling.BACKEND = compiler  # type: ignore[assignment]
    run = assembled(config_of(case, extent), {}, Ranks(0, 1, torch.device("cpu")))
    take, began, first = Step(run), time.perf_counter(), 0
    for step in range(3):
        batches = {}
        for name, m in run.config.modalities.items():
            each = [rng(step, name, i) for i in range(m.batch)]
            x = torch.rand(m.batch, m.channels, *m.size, generator=each[0])
            valid = torch.rand(m.batch, 1, *m.size, generator=each[0]) > 0.2 if name == "volume" else None
            masked = run.config.task.name == "pretrain" or "reconstruct" in run.config.task.arguments
            mask = backbone_of(run.model).modality(name).draw_mask(each) if masked else None
            targets = targets_of(run.config.task.name, m.size, m.batch, each[0])
            files = torch.arange(m.batch) // m.data.repeats if run.config.train.comparing else None
            batches[name] = Batch(x, mask, valid, targets=targets, files=files)
        count = run.config.train.accumulate
        sizes = {name: len(batch.x) // count for name, batch in batches.items()}
        take(
            step,
            [{n: b.rows(i * sizes[n], (i + 1) * sizes[n]) for n, b in batches.items()} for i in range(count)],
            False,
        )
        list(take.answers(everything=True))
        first = first or len(made)
    return first, sum(counters["graph_break"].values()), len(made) - first, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--case", choices=CASES, action="append")
    args = parser.parse_args()
    wrong = 0
    print("| case | graphs | breaks | made anew | s |\n|---|---|---|---|---|")
    for case in args.case or CASES:
        graphs, breaks, anew, seconds = count(case, "blocks" if args.blocks else "whole")
        print(f"| {case} | {graphs} | {breaks} | {anew} | {seconds:.1f} |", flush=True)
        wrong += bool(breaks or anew or (graphs > 1 and not args.blocks)) and "task" not in CASES[case][1]
    sys.exit(int(wrong > 0))


if __name__ == "__main__":
    main()
