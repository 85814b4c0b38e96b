"""Steps: losses, gradients and updates of every setting, and updates that are skipped."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from golden.rest import Note, area
from golden.rest_config import M
from golden.rest_engine import ONE, given
from golden.rest_model import CLIP, config_of, numbers
from torch import nn

from mae_ext import plugins
from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.engine import (
    distributed,
    optim,
    record,
    resume,
    step,
)
from mae_ext.engine.precision import LossScale
from mae_ext.engine.run import Run


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
                count = config.train.accumulate
                parts = [
                    {n: b.rows(p * len(b.x) // count, (p + 1) * len(b.x) // count) for n, b in batches.items()}
                    for p in range(count)
                ]
                take(number, parts, number == 2, number == 1)
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
                take(0, [{"image": Batch(x=numbers(4, 3), mask=None, bad=[])}], False)
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
                take(number, [{"image": Batch(x=numbers(4, 3), mask=None, bad=[])}], False)
                (one,) = take.answers()
                found.append([one.skipped, take.skipped, one.scale])
            return found

        note(told, taken)
