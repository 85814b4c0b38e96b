"""What one of two ranks makes of each term: its value, and the gradient of what made its rows, as ranks average it."""

import json

import torch
import torch.distributed as dist

from mae_ext.config import parse_config
from mae_ext.model.mae import MAE
from mae_ext.model.terms import Seen

FILES = torch.tensor([3, 3, 5, 7, 7, 5, 2, 2])  # one pair is on two ranks
TERMS = {"uniformity": 0.5, "magma": 0.5, "align": {"weight": 0.5, "form": "cosine", "project": [6, 4]}}
FORMS = ("cosine", "contrast")


def values(rank=0, world=1):
    """-> {term: [value, gradients]} of this rank's share of 8 samples, gradients as their mean over ranks."""
    image = {"size": [8, 8], "patch": [4, 4], "batch": 8, "data": {"repeats": 2, "statistics": "none"}}
    model = {"width": 8, "depth": 3, "heads": 2, "decoder": {"width": 8, "depth": 1, "heads": 1}}
    made, generator = {}, torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, 5, generator=generator)
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    for form in FORMS:
        train = {"steps": 1, **TERMS, "align": TERMS["align"] | {"form": form}}
        terms = MAE(parse_config({"modalities": {"image": image}, "model": model, "train": train})).terms
        for name, term in terms.items():
            first, last = (torch.eye(5, 8).requires_grad_() for _ in range(2))
            value = term(Seen(x[mine] @ last, {1: x[mine] @ first}, FILES[mine]))
            value.backward()
            learned = [p.grad for p in (first, last, *term.parameters()) if p.grad is not None]
            gradients = torch.cat([gradient.flatten() for gradient in learned])
            if world > 1:
                dist.all_reduce(gradients)
            made[f"{name}, {form}"] = [value.item(), (gradients / world).tolist()]
    return made


if __name__ == "__main__":
    dist.init_process_group("gloo")
    print(json.dumps(values(dist.get_rank(), dist.get_world_size())))
    dist.barrier()  # who leaves first takes the store along
    dist.destroy_process_group()
