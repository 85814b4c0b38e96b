"""A model in shares over ranks: PyTorch's FSDP2, block by block.

Autocast decides in which precision shares compute, as it does everywhere else: blocks are gathered in fp32 and cast
where they are used, gradients are added up in fp32. FSDP's own policy (param_dtype) would send half the bytes, but cast
what stands outside of products as well, and losses would no longer be those of DDP (docs/architecture.md).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from mae_ext.config import Config
from mae_ext.engine.cpu import on_device
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.shards import read_like
from mae_ext.engine.task import build_model
from mae_ext.errors import UserError
from mae_ext.model.transformer import Block

FORWARDS = ("encode", "encode_all", "encode_layers", "features")
"""Methods of a model besides forward that need its weights, and that the loss of a task may call."""


class Sharded:
    """Every rank has an even share of each weight, gradient and moment; blocks are put together as they are used.

    Memory on a rank: 16 bytes a parameter over the number of ranks, and 4 for a block or two at a time; with
    train.accumulate 4 more for gradients, which are exchanged once a step. `whole` keeps a copy of the weights to look
    at, 4 bytes a parameter: in the host's memory from the first time on, and on the device while it is looked at.
    """

    sharded = True

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.roots, self.copies = ranks, list[FSDPModule](), list[nn.Module]()

    def shard(self, model: nn.Module) -> None:
        """Raises UserError for a weight that has no axis to be shared along."""
        for name, parameter in model.named_parameters():
            if not parameter.ndim:
                raise UserError(f"train.parallel=fsdp shares weights along an axis, and {name} has none: set it to ddp")
        mesh = init_device_mesh(self.ranks.device.type, (self.ranks.world,))
        for block in [module for module in model.modules() if isinstance(module, Block)]:
            fully_shard(block, mesh=mesh)
        self.roots.append(fully_shard(model, mesh=mesh))
        for method in FORWARDS:
            if callable(getattr(model, method, None)):
                register_fsdp_forward_method(model, method)

    def wrap(self, objective: nn.Module, ranks: Ranks) -> nn.Module:
        return objective

    def exchange(self, now: bool) -> None:
        for root in self.roots:
            root.set_requires_gradient_sync(now)

    def norms(self, gradients: list[Tensor]) -> Tensor:
        """From the squares of all shares, added up in fp64: nowhere is a gradient ever whole."""
        shares = torch.stack(torch._foreach_norm([share_of(gradient) for gradient in gradients]))
        return self.ranks.sum(shares.double().square()).sqrt().to(shares.dtype)

    @torch.no_grad()
    def whole(self, model: nn.Module, config: Config) -> nn.Module:
        """A plain model, in eval mode at first."""
        if not self.copies:
            self.copies.append(on_device(build_model(config).eval(), self.ranks.device))
        (copy,) = self.copies
        own = copy.to(self.ranks.device).state_dict()
        for name, weight in model.state_dict().items():
            own[name].copy_(whole_of(weight))
        return copy

    def gathered(self, tensors: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """One after the other, so that no device holds more than one of them."""
        whole: dict[str, dict[str, Tensor]] = {group: {} for group in tensors}
        for group, named in tensors.items():
            for name, tensor in named.items():
                together = whole_of(tensor)
                if self.ranks.main:
                    whole[group][name] = together.cpu()
        return whole

    def park(self) -> None:
        for copy in self.copies:
            copy.to("cpu")

    def read(self, own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
        """Each rank reads its shares and no more."""
        return read_like(own, path)


def whole_of(tensor: Tensor) -> Tensor:
    """A tensor that is in shares, put together, on every rank; else the tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(tensor: Tensor) -> Tensor:
    """This rank's rows of a tensor that is in shares; else the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
