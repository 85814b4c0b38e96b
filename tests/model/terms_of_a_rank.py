"""What one of two ranks makes of uniformity: its value, and the gradient of what made its rows, as ranks average it."""

import json

import torch
import torch.distributed as dist

from mae_ext.model.terms import Seen, Uniformity

FILES = torch.tensor([3, 3, 5, 7, 7, 5, 2, 2])  # one pair is on two ranks


def value(rank=0, world=1):
    """-> value, gradient of this rank's share of 8 samples, the gradient as its mean over ranks."""
    x = torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(0))
    mine, made = slice(rank * 8 // world, (rank + 1) * 8 // world), torch.eye(5, 8).requires_grad_()
    loss = Uniformity(0.5)(Seen(x[mine] @ made, {}, FILES[mine]))
    loss.backward()
    gradient = made.grad.flatten()
    if world > 1:
        dist.all_reduce(gradient)
    return loss.item(), (gradient / world).tolist()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(json.dumps(value(dist.get_rank(), dist.get_world_size())))
    dist.barrier()  # who leaves first takes the store along
    dist.destroy_process_group()
