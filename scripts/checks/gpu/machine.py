"""Versions, and the ceilings that all else is measured against: products of matrices, and copies."""

import os
import platform
import time
from collections.abc import Callable

import torch
from bench_step import matmul_rate
from gpu.results import Check
from torch import Tensor

from mae_ext.config import TrainConfig
from mae_ext.rng import rng

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""FLOP/s of dense bf16 products, as NVIDIA's data sheets have it, by a word of the card's name."""

NEW_KEYS = ("compile", "compile_mode", "deterministic", "matmul", "parallel", "micro_batch")
"""Keys of `train` that sections use where there are any."""


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, times: int = 7) -> float:
    """The median of some runs, after two that do not count."""
    taken = []
    for _ in range(times + 2):
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return sorted(taken[2:])[times // 2]


def product_rate(device: torch.device, dtype: torch.dtype, tf32: bool, side: int) -> float:
    """FLOP/s of large products of noise: on zeros a card runs faster than on anything that is computed with it."""
    a, b = (torch.randn(side, side, generator=rng(0, "rate", i)).to(device, dtype) for i in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return 2 * side**3 / seconds_of(lambda: a @ b, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def copies(check: Check, device: torch.device, bytes_each: int) -> None:
    """On the device (bytes read and written), and between it and memory that is pinned, and is not."""

    def timed(what: str, source: Tensor, target: Tensor, counted: int) -> None:
        seconds = seconds_of(lambda: target.copy_(source, non_blocking=True), device)
        check.row(what, GB_per_s=round(counted * source.nbytes / seconds / 1e9, 1), MB=source.nbytes / 1e6)

    there = torch.empty(bytes_each, dtype=torch.uint8, device=device)
    timed("copy on the device", there, torch.empty_like(there), 2)
    if device.type != "cuda":
        check.skip("pinned copies", "there is no device to copy to; only a GPU shows it")
        return
    small = there[: bytes_each // 4]
    for pinned in (True, False):
        here = torch.empty(len(small), dtype=torch.uint8, pin_memory=pinned)
        word = "pinned" if pinned else "pageable"
        timed(f"{word} to the device", here, small, 1)
        timed(f"the device to {word}", small, here, 1)


def peak_of(name: str) -> float | None:
    return next((peak for word, peak in PEAKS.items() if word in name), None)


def machine(check: Check) -> None:
    device = torch.device(check.device)
    keys = [key for key in NEW_KEYS if key in TrainConfig.model_fields]
    check.row(
        "versions", python=platform.python_version(), torch=torch.__version__, cores=len(os.sched_getaffinity(0)),
        memory_GB=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9), keys=", ".join(keys),
    )  # fmt: skip
    if device.type == "cuda":
        props = torch.cuda.get_device_properties(device)
        check.row(
            "device", name=props.name, cuda=torch.version.cuda, GB=round(props.total_memory / 1e9, 1),
            capability=f"{props.major}.{props.minor}", multiprocessors=props.multi_processor_count,
            data_sheet_TFLOP_per_s=(peak_of(props.name) or 0) / 1e12,
        )  # fmt: skip
        ways = {"bf16": (torch.bfloat16, False), "fp32": (torch.float32, False), "tf32": (torch.float32, True)}
        for name, (dtype, tf32) in ways.items():
            rate = product_rate(device, dtype, tf32, 8192)
            check.row(f"product {name}", TFLOP_per_s=round(rate / 1e12, 1))
    else:
        check.skip("product tf32", "a CPU has none; only a GPU shows it")
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
            rate = product_rate(device, dtype, False, 256) if check.tiny else matmul_rate(device, name)
            check.row(f"product {name}", TFLOP_per_s=round(rate / 1e12, 4))
    copies(check, device, 1 << 22 if check.tiny else 4 << 30)
