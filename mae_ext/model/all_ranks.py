"""A batch as all ranks have it together, with gradients."""

import torch
import torch.distributed as dist
from torch import Tensor


def of_all_ranks(rows: Tensor, files: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """(B, D) and (B,) int64 of this rank -> those of all, in the order of ranks. Every rank has to ask.

    A loss that is made of them is each rank's own and the same on all; the mean of its gradients over ranks, which
    follows a backward pass, is that of one process.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows, files
    from torch.distributed.nn.functional import all_gather

    # Its backward sums what every rank wants of a row; the mean over ranks that follows makes one gradient of it.
    rows = torch.cat(all_gather(rows))
    if files is not None:
        everyone = [torch.empty_like(files) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, files)
        files = torch.cat(everyone)
    return rows, files
