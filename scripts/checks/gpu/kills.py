"""The same run twice, killed and gone on with: losses to the bit, with what makes kernels deterministic, compiled."""

import json
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu.every import cases
from gpu.results import Check
from gpu.training import rows, trained, write

from mae_ext.config import TrainConfig


def trajectory(out: Path) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows(out)]


def reproducible() -> dict[str, Any]:
    """The key of it, where this version has one; else PyTorch is told, for this process and its forks."""
    if "deterministic" in TrainConfig.model_fields:
        return {"deterministic": True}
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    return {}


def forked(work: Callable[[], Any]) -> int:
    """A child that does the work, in a process group of its own; so that no device is met in this process."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def waited(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same_bits(one: list[tuple[int, float, float]], other: list[tuple[int, float, float]]) -> bool:
    return bool(one) and json.dumps(one) == json.dumps(other)


def determinism(check: Check) -> None:
    """Twenty steps of ViT-B, twice, with and without what makes kernels deterministic; and the price."""
    steps, medians = 3 if check.tiny else 30, {}
    for way in ("free", "deterministic"):
        ends = []
        for turn in range(2):
            name = f"{way}{turn}"
            out = check.out / name

            def work(way: str = way, name: str = name, out: Path = out) -> None:
                settings: dict[str, Any] = (
                    {"deterministic": False} if "deterministic" in TrainConfig.model_fields else {}
                )
                settings = reproducible() if way == "deterministic" else settings
                image, model, workers = cases(str(check.inputs / "small"))["images"][1], {}, 0
                if not check.tiny:
                    large = {"size": [224, 224], "patch": [16, 16], "batch": 64}
                    data = {"path": str(check.inputs / "photos"), "statistics": "imagenet"}
                    image, workers = {"image": image["image"] | large | {"data": data}}, 8
                    model = {"model": {"size": "base", "drop_path": 0.1}}
                config = write(check, name, image, {"steps": steps, "workers": workers} | settings, **model)
                trained("pretrain", config, out)

            if code := waited(forked(work)):
                raise RuntimeError(f"{name} ended with {code}")
            ends.append(trajectory(out))
        medians[way] = statistics.median(row["seconds"] for row in rows(check.out / f"{way}1")[steps // 3 :])
        check.row(f"twice, {way}", steps=steps, same_to_the_bit=same_bits(*ends), ms=round(1e3 * medians[way], 2),
                  price=round(medians[way] / medians["free"], 3))  # fmt: skip


def launched(config: Path, out: Path) -> int:
    def work() -> None:
        trained("pretrain", config, out)

    return forked(work)


def kills(check: Check) -> None:
    """SIGKILL in the midst, and gone on with, compiled and deterministic; R13 of the fault list."""
    steps, every = (6, 2) if check.tiny else (40, 10)
    seeds = (1,) if check.tiny else (1, 2)
    if check.tiny:
        check.skip("compiled", "four starts of a compiler are for a GPU; this run is eager")
    settings = reproducible() | {"compile": not check.tiny, "steps": steps, "save_every": every, "precision": "bf16"}
    for seed in seeds:
        modalities = cases(str(check.inputs / "small"))["images"][1]
        config = write(check, f"seed{seed}", modalities, settings)
        config.write_text(config.read_text().replace("seed: 5", f"seed: {seed}"))
        whole, killed = check.out / f"whole{seed}", check.out / f"killed{seed}"
        if code := waited(launched(config, whole)):
            raise RuntimeError(f"the undisturbed run ended with {code}")
        at = []
        for goal in (every + 1,) if check.tiny else (every + 2, 2 * every + 5):
            child = launched(config, killed)
            while len(rows_so_far(killed)) < goal and os.waitpid(child, os.WNOHANG)[0] == 0:
                time.sleep(0.002)
            try:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # it was faster
            at.append(len(rows_so_far(killed)))
        code = waited(launched(config, killed))
        same = code == 0 and same_bits(trajectory(whole), trajectory(killed))
        check.row(
            f"seed {seed}", kills=len(at), after_steps=", ".join(map(str, at)), steps=steps, losses_identical=same
        )


def rows_so_far(out: Path) -> list[str]:
    file = out / "metrics.jsonl"
    return file.read_text().split("\n")[:-1] if file.exists() else []
