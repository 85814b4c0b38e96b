"""What learns, and how fast: groups of parameters, the optimiser, and the learning rate as a function of the step."""

from collections import defaultdict
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.errors import ConfigError
from mae_ext.train_config import TrainConfig

NO_DECAY = ("position", "decoder_position", "class_token", "mask_token")


BACKBONE = "backbone."
"""What a task calls the encoder that it starts from, in the names of its model's parameters."""


def layer_of(name: str, depth: int) -> int:
    """The layer that a parameter belongs to: 0 embeds, 1..depth are the encoder's blocks, depth + 1 is all the rest."""
    first, *rest = name.removeprefix(BACKBONE).split(".")
    if (first == "modalities" and rest[1] in ("embed", "position")) or (first, *rest[:1]) == ("encoder", "class_token"):
        return 0
    if (first, *rest[:2]) == ("encoder", "trunk", "blocks"):
        return 1 + int(rest[2])
    return depth + 1


def _parts(name: str) -> list[str]:
    """Of a parameter's name, without that of its modality, which is the user's choice ("position", say)."""
    first, *rest = name.removeprefix(BACKBONE).split(".")
    return [first, *rest[1:]] if first == "modalities" else [first, *rest]


def depth_of(model: nn.Module) -> int:
    """Blocks of the encoder."""
    return max((layer_of(name, 0) for name, _ in model.named_parameters() if ".trunk.blocks." in name), default=0)


def encoder_of(model: nn.Module) -> set[str]:
    """The names of its parameters: of a task's backbone, or of a model that pretrains, all but a decoder and what
    modalities have for one."""
    names = [name for name, _ in model.named_parameters()]
    start = BACKBONE if any(name.startswith(BACKBONE) for name in names) else ""
    own = [name for name in names if name.startswith(start)]
    return {name for name in own if name.startswith(f"{start}encoder.") or layer_of(name, 0) == 0}


def freeze(model: nn.Module, what: str | int) -> None:
    """Of the encoder, no part ("none"), all ("encoder"), or the embedding and the first `what` blocks learn no more.

    Raises ConfigError for more blocks than there are.
    """
    if what == "none":
        return
    depth = depth_of(model)
    if isinstance(what, int) and what > depth:
        raise ConfigError(
            f"train.freeze={what}: the encoder has {depth} blocks; expected at most so many, or 'encoder'"
        )
    encoder = encoder_of(model)
    for name, parameter in model.named_parameters():
        if name in encoder and (what == "encoder" or layer_of(name, depth) <= int(what)):
            parameter.requires_grad_(False)


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, encoder_lr: float = 1.0, thaws: bool = False
) -> list[dict[str, Any]]:
    """Weight decay for matrices; none for vectors (biases, norms, tokens) and learned positions, as in MAE's recipe.

    With a layer_decay below 1, two groups for each layer, and in `scale` what their learning rate is multiplied by;
    with an encoder_lr, or where it `thaws`, the encoder has groups of its own.
    """
    depth = depth_of(model)
    apart = encoder_of(model) if thaws or encoder_lr != 1 else set()
    groups: dict[tuple[int, bool], tuple[list[nn.Parameter], list[nn.Parameter]]] = defaultdict(lambda: ([], []))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim <= 1 or any(part in NO_DECAY for part in _parts(name))
            layer = layer_of(name, depth) if layer_decay < 1 else depth + 1
            groups[layer, name in apart][spared].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": decay,
            "scale": layer_decay ** (depth + 1 - layer) * (encoder_lr if own else 1.0),
            "thaws": thaws and own,
        }
        for (layer, own), pair in sorted(groups.items())
        for parameters, decay in zip(pair, (weight_decay, 0.0), strict=True)
    ]


def groups_of(model: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    return parameter_groups(model, train.weight_decay, train.layer_decay, train.encoder_lr, train.thaw != 0)


def adamw(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (one pass over memory for each parameter), its moments made now.

    PyTorch makes them in the first step, among activations that are about to go: on a CPU the heap never recovers from
    the holes, and keeps hundreds of megabytes for nothing.
    """
    return adamw_of(groups_of(model, train), train)


def adamw_of(groups: list[dict[str, Any]], train: TrainConfig) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, eps=1e-8, fused=True)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def peak_lr(config: Config) -> float:
    """lr * samples per step / lr_per: the linear rule (1706.02677), over everything that enters one optimiser step."""
    per = config.train.lr_per
    return config.train.lr * config.samples_per_step / per if per else config.train.lr


def rising(config: Config) -> str | None:
    """What to say where min_lr is above the peak: it does not follow the batch as lr does. None where it is not."""
    peak, floor = peak_lr(config), config.train.min_lr
    if floor <= peak:
        return None
    return (
        f"train.min_lr={floor:g} is above the learning rate at its peak, {peak:.3g} with {config.samples_per_step} "
        f"samples a step, so the rate only rises; min_lr does not follow the batch as lr does: set it too"
    )


def thaw_of(train: TrainConfig, steps: int, warmup: int) -> tuple[int, int]:
    """For how many steps the encoder of a run stands still, and over how many its rate rises then."""
    still, rise = train.thaw if isinstance(train.thaw, list) else (train.thaw, warmup if train.thaw else 0)
    thaw, rise = (round(n if n >= 1 else n * steps) for n in (still, rise))
    return thaw, rise


@dataclass(frozen=True)
class Schedule:
    """How many steps a run has, and the learning rate of each: linear from 0 to `peak` over `warmup` steps, then half a
    cosine to `floor`. An encoder that thaws learns from step `thaw` on, at a share of it that rises over `rise` steps.

    spare: whether gradients that nobody asks for are not computed.
    """

    steps: int
    warmup: int
    peak: float
    floor: float
    thaw: int = 0
    rise: int = 0
    spare: bool = False

    @classmethod
    def of(cls, config: Config, samples_per_epoch: int) -> "Schedule":
        """Epochs are those of the first modality."""
        train, batch = config.train, next(iter(config.modalities.values())).batch
        per_epoch = samples_per_epoch / batch

        def steps(epochs: float | None, count: int | None) -> int:
            return count if count is not None else round((epochs or 0) * per_epoch)

        total, warmup = max(1, steps(train.epochs, train.steps)), steps(train.warmup_epochs, train.warmup_steps)
        return cls(total, warmup, peak_lr(config), train.min_lr, *thaw_of(train, total, warmup))

    def lr(self, step: int) -> float:
        """Of step `step`, from 0."""
        if step < self.warmup:
            return self.peak * step / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.floor + (self.peak - self.floor) * (1 + cos(pi * min(1.0, progress))) / 2

    def thawed(self, step: int) -> float:
        """The share of its rate that an encoder which thaws has in step `step`."""
        if step < self.thaw or not self.rise:
            return float(step >= self.thaw)
        return min(1.0, (step - self.thaw) / self.rise)

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Before step `step`: what each group of parameters learns at, its share of the rate (train.layer_decay,
        encoder_lr, thaw)."""
        for group in optimizer.param_groups:
            thaws = group.get("thaws", False)
            group["lr"] = self.lr(step) * group.get("scale", 1.0) * (self.thawed(step) if thaws else 1.0)
            for parameter in group["params"] if thaws and self.spare else ():
                parameter.requires_grad_(step >= self.thaw)

    def let_go(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """After the backward pass: what stands still has no gradient. So it has no part in the norm, and an optimiser
        changes nothing of it, moments neither, which begin when it thaws."""
        for group in optimizer.param_groups if step < self.thaw else ():
            for parameter in group["params"] if group.get("thaws") else ():
                parameter.grad = None
