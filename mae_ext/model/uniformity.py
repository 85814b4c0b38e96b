"""Against features that all point the same way (dimensional collapse): U-MAE's term beside the reconstruction error."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize


def uniformity(tokens: Tensor) -> Tensor:
    """(B, K, D) -> scalar in 0..1: the squared cosine of the mean tokens of two samples, averaged over all pairs.

    U-MAE (2210.08344), which adds it to MAE's loss with a weight of 0.01. A batch's value is not the mean of its
    samples': it is taken over the samples of all ranks at once, and there is none for a part of a batch.
    """
    pooled = tokens.float().mean(1)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        from torch.distributed.nn.functional import all_gather

        # Its backward sums what every rank wants of a row; the mean over ranks that follows makes one gradient of it.
        pooled = torch.cat(all_gather(pooled))
    directions = normalize(pooled, dim=-1)
    count = len(directions)
    return ((directions @ directions.T).square().sum() - count) / (count * (count - 1))
