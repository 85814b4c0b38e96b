"""Parameter groups, and the learning rate as a pure function of the step."""

from math import cos, pi

import torch
from torch import nn

from mae_ext.config import Config, TrainConfig

NO_DECAY = ("position", "decoder_position", "class_token", "mask_token")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices; none for vectors (biases, norms, tokens) and learned positions, as in MAE's recipe."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim <= 1 or any(part in NO_DECAY for part in name.split("."))
            (free if spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def adamw(model: nn.Module, train: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (one pass over memory for each parameter), its moments made now.

    PyTorch makes them in the first step, among activations that are about to go: on a CPU the heap never recovers from
    the holes, and keeps hundreds of megabytes for nothing.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, train.weight_decay), lr=train.lr, betas=train.betas, eps=1e-8, fused=True
    )
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


def lr_at(step: int, peak: float, floor: float, warmup: int, total: int) -> float:
    """Learning rate of step `step` (from 0): linear from 0 to peak over `warmup` steps, then half a cosine to floor."""
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return floor + (peak - floor) * (1 + cos(pi * min(1.0, progress))) / 2


def schedule(config: Config, samples_per_epoch: int) -> tuple[int, int]:
    """-> (steps, warm-up steps). Epochs are those of the first modality."""
    train, batch = config.train, next(iter(config.modalities.values())).batch
    per_epoch = samples_per_epoch / batch

    def steps(epochs: float | None, given: int | None) -> int:
        return given if given is not None else round((epochs or 0) * per_epoch)

    return max(1, steps(train.epochs, train.steps)), steps(train.warmup_epochs, train.warmup_steps)
