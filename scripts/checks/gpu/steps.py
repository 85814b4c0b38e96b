"""Steps of the models that recipes train, on samples that lie on the device: eager, compiled, beside transformers."""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, get_args

import bench_recipe
import bench_step
import torch
from gpu.machine import peak_of
from gpu.results import Check, figure

from mae_ext.config import Config, TrainConfig, load_config
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.estimate import activation_bytes, modality_estimates, state_bytes
from mae_ext.model.mae import MAE

CASES = {
    "ViT-B/16": ("image_in1k_vitb", 256), "ViT-L/16": ("image_in1k_vitl", 192), "ViT-H/14": ("image_in1k_vith", 96),
    "VideoMAE-B": ("video_k400_vitb", 48), "VideoMAE-L": ("video_k400_vitl", 24),
    "CT 16^3": ("volume_ct_vitb", 128), "CT 8^3": ("volume_ct_p8_vitb", 32),
}  # fmt: skip
"""Recipe, and samples of one micro-batch, which fit 80 GB."""

SMALL = {
    "image": ["size=[32,32]", "patch=[8,8]"], "video": ["size=[4,32,32]", "patch=[2,8,8]"],
    "volume": ["size=[16,16,16]", "patch=[8,8,8]"],
}  # fmt: skip


def recipe(name: str, batch: int, tiny: bool, *more: str) -> Config:
    """A recipe with one micro-batch in its modality, whose statistics need no files; tiny: and a model of no size."""
    (modality,) = load_config(name).modalities
    sets = ["train.accumulate=1", f"modalities.{modality}.batch={4 if tiny else batch}"]
    sets += [f"modalities.{modality}.data.statistics=none"]
    if tiny:
        sets += [f"modalities.{modality}.{key}" for key in SMALL[modality]]
        sets += ["model={width: 24, depth: 1, heads: 2, decoder: {width: 16, depth: 1, heads: 2}}"]
    return load_config(name, [*sets, *more])


def times_of(step: Callable[[], object], warm: int, count: int) -> list[float]:
    """Seconds of each of `count` steps. A step returns when its loss has been read back."""
    taken = []
    for turn in range(warm + count):
        began = time.perf_counter()
        step()
        taken += [time.perf_counter() - began] if turn >= warm else []
    return taken


def emptied(device: torch.device) -> int:
    """Bytes on the device once what nobody holds is gone; its peak counts from here."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def use_of(check: Check, config: Config, seconds: float) -> dict[str, float]:
    """Of the FLOPs that `mae-ext plan` counts: per second, over the data sheet's rate, and over the measured one."""
    (row,), (m,) = modality_estimates(config, MAE.from_config(config)), config.modalities.values()
    rate = row.flops * m.batch / seconds
    known = peak_of(torch.cuda.get_device_name()) if check.device == "cuda" else None
    measured = figure(check.journal, "machine", f"product {config.train.precision}", "TFLOP_per_s")
    shares = {"MFU": known, "of_measured": measured and measured * 1e12}
    return {"TFLOP_per_s": round(rate / 1e12, 4)} | {k: round(rate / v, 3) for k, v in shares.items() if v}


def planned_GiB(config: Config) -> float:
    model = MAE.from_config(config)
    states = state_bytes(model, config.train.optimizer)
    return (states + activation_bytes(config, modality_estimates(config, model), 1)) / 2**30


def measured(check: Check, config: Config, compiled: Any, warm: int, count: int) -> dict[str, Any]:
    device = torch.device(check.device)
    before = emptied(device)
    began = time.perf_counter()
    step = bench_recipe.build(config, device, compiled)
    step()
    first = time.perf_counter() - began
    taken = times_of(step, warm, count)
    seconds = statistics.median(taken)
    row: dict[str, Any] = {
        "ms": round(1e3 * seconds, 2), "least_ms": round(1e3 * min(taken), 2), "most_ms": round(1e3 * max(taken), 2),
        "samples_per_s": round(config.samples_per_step / seconds, 1), **use_of(check, config, seconds),
        "first_step_s": round(first, 2),
    }  # fmt: skip
    if device.type == "cuda":
        row["peak_GiB"] = round((torch.cuda.max_memory_allocated(device) - before) / 2**30, 2)
    return row


def eager(check: Check) -> None:
    """ms, samples/s, use of the arithmetic, and memory beside what `mae-ext plan` expects."""
    settle_in()
    failed = []
    for name, (source, batch) in CASES.items():
        if check.left() < 6:
            check.skip(name, f"{check.left():.0f} s were left")
            continue
        config = recipe(source, batch, check.tiny)
        warm, count = (1, 2) if check.tiny else (3, 12)
        planned = round(planned_GiB(config), 2)
        try:
            row = measured(check, config, False, warm, count)
        except Exception as error:  # noqa: BLE001 memory that is short too: the next model has its turn
            failed.append(name)
            check.row(name, batch=batch, plan_GiB=planned, error=f"{type(error).__name__}: {str(error)[:160]}")
            continue
        check.row(name, batch=config.samples_per_step, precision=config.train.precision, **row, plan_GiB=planned)
    if failed:
        raise RuntimeError(f"failed: {', '.join(failed)}")


def ways_to_compile() -> dict[str, list[str]]:
    """Settings by name: those that this version's `train.compile` and `train.compile_mode` have."""
    fields = TrainConfig.model_fields
    values = [
        v for arm in (fields["compile"].annotation, *get_args(fields["compile"].annotation)) for v in get_args(arm)
    ]
    ways: dict[str, Any] = {"off": False, **({w: w for w in ("blocks", "whole") if w in values} or {"whole": True})}
    sets = {name: [f"train.compile={str(value).lower()}"] for name, value in ways.items()}
    if "compile_mode" in fields:
        known = [v for arm in (fields["compile_mode"].annotation, *get_args(fields["compile_mode"].annotation))
                 for v in get_args(arm) if isinstance(v, str)]  # fmt: skip
        last = list(sets)[-1]
        for mode in known:
            if mode not in ("default", "auto"):
                sets[f"{last}, {mode}"] = [*sets[last], f"train.compile_mode={mode}"]
    return sets


@contextmanager
def light_compiler(tiny: bool) -> Iterator[None]:
    """tiny: graphs are captured and differentiated as ever, and run without the code that takes minutes to make."""
    real = torch.compile

    def light(model: Any = None, **options: Any) -> Any:
        kept = {key: value for key, value in options.items() if key in ("fullgraph", "dynamic")}
        return partial(light, **options) if model is None else real(model, backend="aot_eager", **kept)

    if tiny:
        torch.compile = light
    try:
        yield
    finally:
        torch.compile = real


COMPILED = ("ViT-L/16", "ViT-B/16", "VideoMAE-B", "CT 16^3")


def compile(check: Check) -> None:  # noqa: A001 a section's name
    """Off, blocks, whole, and the modes: how much faster, and what the first step takes; graph breaks."""
    settle_in()
    for name in COMPILED[: 1 if check.tiny else None]:
        source, batch = CASES[name]
        for turn, (way, sets) in enumerate(ways_to_compile().items()):
            if check.tiny and turn > 1:
                check.skip(f"{name}, {way}", "off and one way stand for all where it is tiny")
                continue
            if check.left() < 20 and not check.tiny:
                check.skip(f"{name}, {way}", f"{check.left():.0f} s were left")
                continue
            if name != COMPILED[0] and ("," in way):
                continue  # modes are told apart on one model
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            config = recipe(source, batch, check.tiny, *sets)
            try:
                with light_compiler(check.tiny):
                    row = measured(check, config, config.train.compile, *((1, 2) if check.tiny else (3, 12)))
            except Exception as error:  # noqa: BLE001 a mode that fails is a result, and the next has its turn
                check.row(f"{name}, {way}", error=f"{type(error).__name__}: {str(error)[:200]}")
                continue
            counters = torch._dynamo.utils.counters
            row["graph_breaks"] = sum(counters["graph_break"].values())
            row["graphs"] = counters["stats"].get("unique_graphs", 0)
            check.row(f"{name}, {way}", batch=config.samples_per_step, **row)


def peer(check: Check) -> None:
    """transformers' ViTMAE beside ours, alternating, a step each; eager, the same sizes, AdamW fused on both sides."""
    settle_in()
    device = torch.device(check.device)
    bench_step.SHAPES["tiny"] = (24, 1, 2)
    size, batch = ("tiny", 2) if check.tiny else ("large", 64)
    args = argparse.Namespace(size=size, batch=batch, patch=56 if check.tiny else 16, compile=False)
    sides: dict[str, Callable[[], float]] = {}
    memory: dict[str, float] = {}
    builders = {
        "ours": lambda: bench_step.our_step(args, device, "bf16"),
        "transformers": lambda: bench_step.peer_step(args, device, "bf16", fused=True),
    }
    for side, build in builders.items():
        before = emptied(device)
        sides[side] = build()  # type: ignore[no-untyped-call]
        sides[side]()
        if device.type == "cuda":
            memory[side] = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(2 if check.tiny else 15):
        for side, step in sides.items():
            began = time.perf_counter()
            step()
            taken[side] += [time.perf_counter() - began] if turn or check.tiny else []
    median = {side: statistics.median(times) for side, times in taken.items()}
    for side, seconds in median.items():
        row: dict[str, Any] = {"batch": batch, "ms": round(1e3 * seconds, 2)}
        row |= {"samples_per_s": round(batch / seconds, 1), "speed": round(median["transformers"] / seconds, 2)}
        if memory:
            row |= {"peak_GiB": round(memory[side], 2), "memory": round(memory[side] / memory["transformers"], 2)}
        check.row(f"ViTMAE-{size}, {side}", **row)
