"""failure-XXXXXXXX/: what stopped a run in a step, and the state just before it, from which `replay` repeats it."""

from pathlib import Path
from typing import Any

import torch

from mae_ext.config import Config
from mae_ext.data.loading.batches import StepData
from mae_ext.engine import checkpoint, commit
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import warn
from mae_ext.engine.resume import Standing
from mae_ext.engine.run import Run, assembled
from mae_ext.engine.step import Step
from mae_ext.engine.task import task_of
from mae_ext.errors import NonFinite, UserError, cause_of
from mae_ext.strict_json import dumps


def recorded(failure: NonFinite, run: Run, skipped: int, out: Path) -> str:
    """Write the folder, on rank 0 -> what to tell the user. skipped: as `Run.snapshot` takes it, of the step before."""
    step = failure.step
    where = _free_for(out / f"failure-{step + 1:08d}", run.config)
    tensors, state = run.snapshot(skipped)
    tensors = run.parallel.gathered(tensors)
    if run.ranks.main:
        sources = {
            n: [d.items.addresses[i] for i in dict.fromkeys(k.index for k in d.plan.keys(step))]
            for n, d in run.data.items()
        }
        try:
            where.mkdir(parents=True, exist_ok=True)
            commit.save(where / "checkpoints", step, run.config, tensors, state)
            checkpoint.write_durably(where / "record.json", dumps({**failure.record, "files": sources}, indent=1))
        except OSError as error:
            warn(f"the failure record could not be written: {cause_of(error)}")
    return (
        f"step {step + 1}: {failure}. Nothing was updated and every checkpoint is as it was. "
        f"{where}/record.json names the files; `mae-ext replay {where}` repeats the step"
    )


def replay(failure: str | Path) -> dict[str, Any]:
    """Repeat the step of a failure record, bit for bit: the losses and gradient norm, finite or not."""
    path = checkpoint.find(failure)
    if not (Path(failure) / "record.json").is_file():
        raise UserError(f"{failure} is not the folder of a failure: it has no record.json")
    settle_in()
    config, at = checkpoint.read_config(path), Standing.read(path)
    data = task_of(config).data(config)
    at.set_aside(data)
    step = Step(assembled(config, data, Ranks(0, 1, torch.device("cpu")), at, path))
    try:
        step(at.step, StepData(data, config.train.accumulate)[at.step], False)
        (taken,) = step.answers(everything=True)
    except NonFinite as again:
        return again.record
    losses = dict(zip(data, taken.losses, strict=True))
    return {"step": at.step, "losses": losses, "grad_norm": taken.norm}


def _free_for(where: Path, config: Config) -> Path:
    """The folder itself, or where another config failed at this step before, the next of its name that is free."""
    known, number, free = config.to_yaml(), 1, where
    while any(path.read_text(encoding="utf-8") != known for path in free.glob("checkpoints/step-*/config.yaml")):
        number += 1
        free = where.with_name(f"{where.name}-{number}")
    return free
