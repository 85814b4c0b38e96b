"""failure-XXXXXXXX/: what stopped a run in a step, and the state just before it, from which `replay` repeats it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.data.loading.loader import ModalityData
from mae_ext.engine import checkpoint
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import warn
from mae_ext.engine.resume import snapshot
from mae_ext.engine.step import NonFinite
from mae_ext.errors import cause_of
from mae_ext.strict_json import dumps


def record(
    failure: NonFinite, out: Path, config: Config, model: nn.Module, optimizer: torch.optim.AdamW,
    extra: dict[str, Any], data: dict[str, ModalityData], ranks: Ranks,
) -> str:  # fmt: skip
    """Write the folder, on rank 0, and return what to tell the user. extra: as `snapshot` takes it."""
    step = failure.step
    where = _free_for(out / f"failure-{step + 1:08d}", config)
    if ranks.main:
        sources = {
            n: [d.items.addresses[i] for i in dict.fromkeys(k.index for k in d.plan.keys(step))]
            for n, d in data.items()
        }
        try:
            where.mkdir(parents=True, exist_ok=True)
            tensors, state = snapshot(model, optimizer, data, config, extra)
            checkpoint.save(where / "checkpoints", step, config, tensors, state)
            checkpoint.write_durably(where / "record.json", dumps({**failure.record, "files": sources}, indent=1))
        except OSError as error:
            warn(f"the failure record could not be written: {cause_of(error)}")
    return (
        f"step {step + 1}: {failure}. Nothing was updated and every checkpoint is as it was. "
        f"{where}/record.json names the files; `mae-ext replay {where}` repeats the step"
    )


def _free_for(where: Path, config: Config) -> Path:
    """The folder itself, or where another config failed at this step before, the next of its name that is free."""
    known, number, found = config.to_yaml(), 1, where
    while any(path.read_text(encoding="utf-8") != known for path in found.glob("checkpoints/step-*/config.yaml")):
        number += 1
        found = where.with_name(f"{where.name}-{number}")
    return found
