"""Which bits a GPU promises: PyTorch's switches, set for the length of a run, and what a checkpoint says of them.

On a CPU nothing is set: its kernels give the same bits each time as they are, and the switches would choose others.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mae_ext.config import Config
from mae_ext.engine.distributed import Ranks
from mae_ext.errors import RunError

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
"""Memory with which cuBLAS gives the same bits on several streams (cuBLAS, "Results Reproducibility")."""

NO_BITS = re.compile(r"(\S+) does not have a deterministic implementation")
"""PyTorch's words, from `alertNotDeterministic` (aten/src/ATen/Context.cpp)."""


@contextmanager
def as_promised(config: Config, device: torch.device) -> Iterator[None]:
    """What `train.deterministic`, `train.matmul` and `train.cudnn_benchmark` say holds inside, on a GPU; after it, what
    was before. Raises RunError, with its name, for an operation that has no deterministic kernel.

    PyTorch is told to refuse such operations rather than to warn of them: of attention, its memory-efficient kernel is
    deterministic in the first case alone, its flash kernel in both.
    """
    if device.type != "cuda":
        yield
        return
    train, cudnn, fill = config.train, torch.backends.cudnn, torch.utils.deterministic
    strict, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    products, was = torch.get_float32_matmul_precision(), (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32)
    filled, workspace = fill.fill_uninitialized_memory, os.environ.get(WORKSPACE[0])  # type: ignore[attr-defined]
    if train.deterministic:
        os.environ.setdefault(*WORKSPACE)
        fill.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing of ours reads such memory
    torch.use_deterministic_algorithms(train.deterministic)
    torch.set_float32_matmul_precision(train.matmul)
    cudnn.deterministic, cudnn.benchmark = train.deterministic, train.cudnn_benchmark
    cudnn.allow_tf32 = train.matmul != "highest"
    try:
        yield
    except RuntimeError as error:
        if (op := NO_BITS.search(str(error))) is None:
            raise
        raise RunError(
            f"task {config.task.name}: {op[1]} has no kernel on a GPU that gives the same bits each time, as "
            f"train.deterministic=true promises; set train.deterministic=false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=only_warns)
        torch.set_float32_matmul_precision(products)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = was
        fill.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        if workspace is None:
            os.environ.pop(WORKSPACE[0], None)


@contextmanager
def as_looked_at() -> Iterator[None]:
    """Inside, operations without a deterministic kernel are allowed: of who looks at a model and changes nothing."""
    strict, only_warns = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=only_warns)


def processor(device: torch.device) -> str:
    """Its kind: "NVIDIA H200", "AMD EPYC 9654 (AVX512)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text(errors="replace")) if info.is_file() else None
    return f"{named[1].strip() if named else 'a CPU'} ({torch.backends.cpu.get_cpu_capability()})"


def standing_of(config: Config, ranks: Ranks, extent: str | None) -> dict[str, Any]:
    """What the last bits of a run depend on, and what it promises of them, for a checkpoint's state.json."""
    train, on_gpu = config.train, ranks.device.type == "cuda"
    return {
        "torch": torch.__version__,
        "processor": processor(ranks.device),
        "ranks": ranks.world,
        "threads": torch.get_num_threads(),
        "compile": extent,
        **({"deterministic": train.deterministic, "matmul": train.matmul} if on_gpu else {}),
    }


def departures(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """What to say where a run goes on under other conditions than its checkpoint was made under; None if there is none.

    before: of a checkpoint; {} of one from before they were kept, of which nothing is said.
    """
    changed = [
        f"{key} {before.get(key)} -> {now.get(key)}" for key in {**before, **now} if before.get(key) != now.get(key)
    ]
    if not before or not changed:
        return None
    return f"samples and masks go on exactly, the last bits of losses do not: {', '.join(changed)}"
