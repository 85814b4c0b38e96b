"""What a token is made of, for whatever embeds patches."""

from math import prod

import numpy as np
import torch


def assert_a_token_is_of_its_patch_alone(embed, x, grid, patch):
    """x: (2, C, *S). The gradient of the first, a middle and the last token is their patch, all of it, and no other."""
    x.requires_grad_()
    keep = torch.tensor([[0, prod(grid) // 2, prod(grid) - 1]] * 2)
    for slot, number in enumerate(keep[0].tolist()):
        (gradient,) = torch.autograd.grad(embed(x, keep)[0, slot].sum(), x)
        place = np.unravel_index(number, grid)
        box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
        inside = torch.zeros_like(gradient, dtype=torch.bool)
        inside[(0, slice(None), *box)] = True
        assert torch.equal(gradient != 0, inside)
