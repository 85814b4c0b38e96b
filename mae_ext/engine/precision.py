"""In which precision a run computes, and fp16's loss scale, which never makes the host wait for the device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.engine.cpu import settle_in

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


@contextmanager
def as_evaluated(model: nn.Module, config: Config) -> Iterator[None]:
    """Predictions are computed as evaluations are: in the run's precision, and without denormals."""
    settle_in()
    with torch.no_grad(), autocast(next(model.parameters()).device, config.train.precision):
        yield


class LossScale(torch.amp.GradScaler):
    """PyTorch's, of a run in fp16; in any other precision it is 1 and stays so."""

    def __init__(self, device: torch.device, precision: str) -> None:
        super().__init__(device.type, enabled=precision == "fp16")

    def update_unless(self, closed: Tensor) -> None:
        """As `update`, where `closed`, () bool on the device, is false; else nothing. Asks the device nothing."""
        if not self.is_enabled():
            return
        # Without asking, GradScaler itself can only go on.
        assert self._scale is not None and self._growth_tracker is not None
        before = self._scale.clone(), self._growth_tracker.clone()
        self.update()
        for now, was in zip((self._scale, self._growth_tracker), before, strict=True):
            now.copy_(torch.where(closed, was, now))
