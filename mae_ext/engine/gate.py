"""Whether an update goes through: decided on the device, before it, and by all ranks alike."""

import torch
from torch import Tensor

MAX_SKIPPED = 20
"""Updates in a row that fp16's loss scaler may skip. It begins at 2^16 and halves with each: what 16 halvings do not
cure, at any model's start, is not the scale. In a run that is under way one or two in a row are usual."""

SMALLEST_SCALE = 1.0
"""A gradient that is not finite at this scale is so by itself: below it, scaling makes gradients smaller than they are,
and its purpose is the contrary."""


class Gate:
    """Whether updates go through, decided on the device, so that the host need not wait for it before an update.

    closed: () bool, true from the first step on that was not finite: no update goes through any more, however late the
    host reads of it. skipped: () float32, updates in a row that fp16's loss scaler has left out.
    """

    def __init__(self, device: torch.device, skipped: int) -> None:
        self.closed = torch.zeros((), dtype=torch.bool, device=device)
        self.skipped = torch.full((), float(skipped), device=device)

    def __call__(self, unhealthy: Tensor, infinite: Tensor, scale: Tensor) -> Tensor:
        """() bool: a loss, or without fp16 a gradient, is not finite; any gradient is not. () float32: the loss scale.

        -> () float32: 1 where the update must not happen, else 0, as PyTorch's fused optimisers take it.
        """
        self.skipped = (self.skipped + 1) * infinite
        hopeless = infinite & ((self.skipped >= MAX_SKIPPED) | (scale <= SMALLEST_SCALE))
        self.closed = self.closed | unhealthy | hopeless
        return (self.closed | infinite).float()
