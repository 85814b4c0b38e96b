"""Where the time of a step goes: kernels by their share, and how long the device had nothing to do."""

from typing import Any

import bench_recipe
import torch
from gpu.results import Check
from gpu.steps import CASES, recipe
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from mae_ext.engine.cpu import settle_in

TOP = 12


def busy_us(spans: list[tuple[float, float]]) -> float:
    """Microseconds that at least one of them covers."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def is_work(event: Any, cuda: bool) -> bool:
    """A kernel or a copy on a GPU, an operator on a CPU; not a name that a span of time was given."""
    named = getattr(event, "is_user_annotation", False) or event.name.startswith(("ProfilerStep", "Optimizer."))
    return event.time_range is not None and not named and ("cuda" in str(event.device_type).lower()) == cuda


def profile(check: Check) -> None:
    settle_in()
    device, cuda = torch.device(check.device), check.device == "cuda"
    name, batch = CASES["ViT-L/16"]
    step = bench_recipe.build(recipe(name, batch, check.tiny), device, False)
    for _ in range(1 if check.tiny else 4):
        step()
    steps = 1 if check.tiny else 4
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        for _ in range(steps):
            step()
    trace = check.out / "vitl.json.gz"
    seen.export_chrome_trace(str(trace))
    events = [e for e in seen.events() if is_work(e, cuda)]
    spans = [(e.time_range.start, e.time_range.end) for e in events]
    span = max(stop for _, stop in spans) - min(start for start, _ in spans)
    idle = 1 - busy_us(spans) / span
    check.row(
        "steps", count=steps, ms=round(span / steps / 1e3, 2), idle_percent=round(100 * idle, 2), trace=str(trace)
    )

    def own(average: Any) -> float:
        return float(average.self_device_time_total if cuda else average.self_cpu_time_total)

    averages = sorted((a for a in seen.key_averages() if own(a) > 0), key=own, reverse=True)
    total = sum(map(own, averages))
    for average in averages[:TOP]:
        check.row(
            average.key[:80], calls_a_step=round(average.count / steps, 1), ms=round(own(average) / steps / 1e3, 3),
            percent=round(100 * own(average) / total, 1),
        )  # fmt: skip
    if not cuda:
        check.skip("kernels", "these are operators on a CPU; only a GPU shows kernels")
