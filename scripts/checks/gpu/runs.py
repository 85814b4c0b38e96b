"""Real runs from files, with their wait for data; what in a run makes the host wait for the device."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from gpu.every import each, taken
from gpu.results import Check
from gpu.steps import recipe
from gpu.training import summary, trained

RUNS = {
    "JPEG": ("image_in1k_vitb", 256, "photos", 60), "clips from arrays": ("video_k400_vitb", 48, "clips/clips.npz", 60),
    "volumes from NIfTI": ("volume_ct_vitb", 128, "scans", 30),
}  # fmt: skip
"""By name: recipe, batch, data and steps."""


def runs(check: Check) -> None:
    """ViT-B from JPEG, clips and scans on the fly, as the recipes have it."""
    cores = max(1, min(14, len(os.sched_getaffinity(0)) - 2))
    for name, (source, batch, data, count) in RUNS.items():
        if check.left() < 15 and not check.tiny:
            check.skip(name, f"{check.left():.0f} s were left")
            continue
        steps = 3 if check.tiny else count
        workers = (1 if name == "JPEG" else 0) if check.tiny else cores
        config = recipe(source, batch, check.tiny, "train.epochs=null", "train.warmup_epochs=null",
                        f"train.steps={steps}", f"train.workers={workers}", "train.tensorboard=false",
                        "train.save_every=100000", f"train.device={check.device}", "train.precision=bf16")  # fmt: skip
        path = check.out / f"{source}.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        rows = trained("pretrain", path, check.out / source, "--data", str(check.inputs / data))
        more = {key: value for key, value in rows[-1].items() if key.endswith("_s") or key in ("mfu", "peak_memory")}
        more.pop("samples_per_s", None)
        check.row(name, recipe=source, workers=workers, **summary(rows, config.samples_per_step), **more)


@contextmanager
def counted(device: str, places: Counter[str]) -> Iterator[None]:
    """What made the host wait for the device, by file and line; on a CPU nothing does."""

    def note(message: Warning | str, _: Any, file: str, line: int, *__: Any) -> None:
        if "synchroniz" in str(message):
            where = Path(file)
            parts = where.parts[-3:] if "mae_ext" in where.parts else where.parts[-2:]
            places[f"{'/'.join(parts)}:{line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")


def syncs(check: Check) -> None:
    """Places that are met in every step, told from those of a start by runs of 10 and of 30 steps."""
    short, long = (2, 3) if check.tiny else (10, 30)
    if check.device != "cuda":
        check.skip("counts", "a CPU has nobody to wait for: only a GPU shows waits; the runs below count none")

    def waits(name: str) -> dict[str, Any]:
        seen: dict[int, Counter[str]] = {}
        for steps in (short, long):
            places: Counter[str] = Counter()
            with counted(check.device, places):
                taken(_named(check, f"{steps}"), name, steps)
            seen[steps] = places
        per_step = {p: (n - seen[short][p]) / (long - short) for p, n in seen[long].items()}
        met = {p: round(n, 2) for p, n in sorted(per_step.items(), key=lambda item: -item[1]) if n > 0.05}
        where = "; ".join(f"{place} ({count:g})" for place, count in list(met.items())[:6])
        return {
            "waits_per_step": round(sum(met.values()), 2),
            "at_the_start": sum(seen[short].values()),
            "where": where,
        }

    some = ("images", "segment volumes") if check.tiny else ()
    if some:
        check.skip("other modalities and tasks", "two stand for all where it is tiny")
    each(check, waits, some)


def _named(check: Check, name: str) -> Check:
    folder = check.out / name
    folder.mkdir(parents=True, exist_ok=True)
    return Check(check.section, check.device, check.tiny, folder, check.inputs, check.journal, check.until)
