"""What a save costs, in its parts, and a resume: seconds for a gigabyte."""

import importlib
import importlib.util
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu.machine import synchronize
from gpu.results import Check
from gpu.steps import CASES, recipe

from mae_ext.engine import checkpoint
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.run import Run, assembled


def with_moments(run: Run) -> None:
    """An update without any gradient to speak of, after which the optimiser has its moments."""
    for parameter in run.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)


def clocked(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    synchronize(device)
    began = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - began, result


def saves(check: Check) -> None:
    """Of ViT-L with its optimiser: staged twice (the first takes the memory), committed, verified, resumed."""
    device, folder = torch.device(check.device), check.out / "checkpoints"
    name, batch = CASES["ViT-L/16"]
    config = recipe(name, batch, check.tiny)
    run = assembled(config, {}, Ranks(0, 1, device))
    with_moments(run)
    tensors, state = run.snapshot(0)
    size = sum(t.nbytes for group in tensors.values() for t in group.values()) / 1e9

    def row(what: str, seconds: float) -> None:
        check.row(what, GB=round(size, 3), seconds=round(seconds, 4), seconds_a_GB=round(seconds / size, 4))

    if importlib.util.find_spec("mae_ext.engine.commit"):
        commit = importlib.import_module("mae_ext.engine.commit")
        seconds, staged = clocked(device, lambda: commit.stage(tensors))
        row("stage, the first time", seconds)
        for turn in range(3):
            began = time.perf_counter()
            staged = commit.stage(tensors, staged)
            returned = time.perf_counter() - began
            seconds, _ = clocked(device, staged.wait)
            row(f"stage, again {turn + 1}: what training waits", returned)
            row(f"stage, again {turn + 1}: until copied", returned + seconds)
        seconds, path = clocked(device, lambda: commit.commit(folder, 1, config, staged, state))
        row("commit", seconds)
    else:
        seconds, path = clocked(device, lambda: checkpoint.save(folder, 1, config, tensors, state))
        row("save, all of which training waits", seconds)
    row("verify", clocked(device, lambda: checkpoint.verify(path))[0])
    seconds, again = clocked(device, lambda: assembled(config, {}, Ranks(0, 1, device), checkpoint=path))
    row("resume", seconds)
    pairs = zip(run.model.parameters(), again.model.parameters(), strict=True)
    same = all(torch.equal(one, other) for one, other in pairs)
    check.row("weights are the same to the bit", holds=same)
    shutil.rmtree(folder)
    if not same:
        raise RuntimeError("other weights after a resume")
