"""Against features that all point the same way (dimensional collapse): U-MAE's term beside the reconstruction error."""

from torch import Tensor
from torch.nn.functional import normalize

from mae_ext.model.all_ranks import of_all_ranks


def uniformity(tokens: Tensor, files: Tensor | None = None) -> Tensor:
    """(B, K, D), (B,) int64 | None -> scalar in 0..1: the mean squared cosine of the mean tokens of two samples.

    Over all pairs of different files; None is a file for each sample. Views of one file are meant to be alike.
    U-MAE (2210.08344), which adds it to MAE's loss with a weight of 0.01. A batch's value is not the mean of its
    samples': it is taken over the samples of all ranks at once, and there is none for a part of a batch.
    """
    pooled, files = of_all_ranks(tokens.float().mean(1), files)
    directions = normalize(pooled, dim=-1)
    count = len(directions)
    squares, pairs = (directions @ directions.T).square(), count * (count - 1)
    if files is None:
        return (squares.sum() - count) / pairs
    alike = (files[:, None] == files).fill_diagonal_(False)
    return ((squares * ~alike).sum() - count) / (pairs - alike.sum()).clamp(min=1)
