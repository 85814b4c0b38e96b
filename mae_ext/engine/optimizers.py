"""Optimisers by name (train.optimizer), each as a step, a checkpoint and a plan need it: torch's AdamW and Muon, and
Lion of the package lion-pytorch."""

from typing import Any

import torch
from torch import Tensor, nn

from mae_ext.engine.optim import adamw, adamw_of, groups_of
from mae_ext.errors import UserError
from mae_ext.train_config import TrainConfig

MOMENTUM = 0.95
"""Of Muon, with Nesterov's correction (Muon's post and torch's default)."""


def optimizer_of(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """What train.optimizer names, with its state made now (`adamw` says why). Raises UserError without its package."""
    if train.optimizer == "adamw":
        return adamw(model, train)
    groups = groups_of(model, train)
    if train.optimizer == "lion":
        return Together(_lion(groups, train))
    matrices = {id(p) for name, p in model.named_parameters() if is_hidden(name, p)}
    hidden = [_of(group, [p for p in group["params"] if id(p) in matrices]) for group in groups]
    rest = [_of(group, [p for p in group["params"] if id(p) not in matrices]) for group in groups]
    # The rate and decay of AdamW serve: its matrices move as far in a step as AdamW would move them (2502.16982).
    settings: dict[str, Any] = {"momentum": MOMENTUM, "nesterov": True, "adjust_lr_fn": "match_rms_adamw"}
    muon = torch.optim.Muon(hidden, lr=train.lr, **settings)
    _prepare(muon, "momentum_buffer")
    return Together(muon, adamw_of(rest, train))


def is_hidden(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves it: the matrices of blocks. Embeddings, heads, vectors and kernels of convolutions are AdamW's
    (Muon's post)."""
    return parameter.ndim == 2 and ".blocks." in name


def moments_of(model: nn.Module, optimizer: str) -> int:
    """How many numbers an optimiser keeps of what learns: two a weight, or one (Lion, and Muon of what it moves)."""
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return sum(
        p.numel() * (1 if optimizer == "lion" or (optimizer == "muon" and is_hidden(name, p)) else 2)
        for name, p in learning
    )


class Together(torch.optim.Optimizer):
    """Optimisers with parts of one model, as one, which steps where `found_inf` is not set, or else changes nothing.

    Fused AdamW by itself decides that on the device. These are told by the host, which waits for it once a step.
    """

    found_inf: Tensor | None = None

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        """The groups and states are those of the parts, not copies."""
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            self.state.update(part.state)

    def step(self, closure: Any = None) -> None:  # type: ignore[override] # nothing here has a closure
        if self.found_inf is None or not self.found_inf:
            for part in self.parts:
                part.step()


def _of(group: dict[str, Any], parameters: list[nn.Parameter]) -> dict[str, Any]:
    return {**group, "params": parameters}


def _prepare(optimizer: torch.optim.Optimizer, moment: str) -> None:
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter] = {moment: torch.zeros_like(parameter)}


def _lion(groups: list[dict[str, Any]], train: TrainConfig) -> torch.optim.Optimizer:
    try:
        from lion_pytorch import Lion
    except ImportError:
        raise UserError(
            "train.optimizer=lion: 'lion-pytorch' is not installed: pip install 'mae-ext[lion]', or name another"
        ) from None
    lion: torch.optim.Optimizer = Lion(groups, lr=train.lr, betas=train.betas)
    _prepare(lion, "exp_avg")
    return lion
