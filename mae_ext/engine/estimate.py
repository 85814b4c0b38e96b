"""What a config costs, by arithmetic, before anything is trained."""

from dataclasses import dataclass
from math import prod

import torch
from torch import nn

from mae_ext.config import Config
from mae_ext.engine.meaning import check_meaning, remarks
from mae_ext.engine.micro_batch import with_parts
from mae_ext.engine.optim import Schedule, peak_lr
from mae_ext.engine.optimizers import moments_of
from mae_ext.model.mae import MAE

FLOATS_PER_TOKEN = 16
"""Activations a block keeps for its backward pass, in widths per token: two residuals, two norms, qkv (3), the attended
values, and the MLP's two hidden tensors of 4 widths each. Attention keeps no N x N matrix (SDPA)."""

FLOATS_KEPT: dict[bool | str, int] = {False: FLOATS_PER_TOKEN, "selective": 10, True: 1}
"""The same by train.checkpointing; `selective` keeps what enters the block, qkv (3), the attended values, their
projection, and one hidden tensor of 4 widths."""


@dataclass(frozen=True)
class ModalityEstimate:
    name: str
    tokens: int
    kept: int
    decoded: int
    flops: float
    """Multiply-adds counted as two, forward and backward (3x forward), for one sample."""


def block_flops(tokens: int, width: int, hidden: int) -> float:
    """Forward pass of one pre-norm block: four D x D maps, the MLP, and the two attention products."""
    return 2 * tokens * (4 * width * width + 2 * width * hidden) + 4 * tokens * tokens * width


def modality_estimates(config: Config, model: MAE) -> list[ModalityEstimate]:
    shape, rows = config.model, []
    assert shape.width and shape.depth
    wide = shape.decoder
    for name, m in config.modalities.items():
        modality = model.modality(name)
        mask = modality.draw_mask([torch.Generator()])
        kept, decoded, pix = mask.keep.shape[1], mask.pred.shape[1], prod(m.patch) * m.channels
        extra = int(shape.class_token)
        forward = shape.depth * block_flops(kept + extra, shape.width, int(shape.width * shape.mlp_ratio))
        first, hidden = int(wide.class_token) or extra, int(wide.width * (wide.mlp_ratio or shape.mlp_ratio))
        forward += wide.depth * block_flops(kept + first + decoded, wide.width, hidden)
        forward += 2 * (
            kept * pix * shape.width
            + (kept + extra) * shape.width * wide.width
            + decoded * wide.width * modality.target.pix
        )
        forward += 2 * len(wide.fuse) * (kept + extra) * shape.width * shape.width
        rows.append(ModalityEstimate(name, prod(m.grid), kept, decoded, 3 * forward))
    return rows


def state_bytes(model: nn.Module, optimizer: str) -> int:
    """Of fp32 weights, gradients and an optimiser's moments, where all of the model learns."""
    return 4 * (2 * sum(p.numel() for p in model.parameters()) + moments_of(model, optimizer))


def step_flops(config: Config, rows: list[ModalityEstimate]) -> float:
    """Of a step, forward and backward over all ranks. rows: as `modality_estimates` has them."""
    return sum(row.flops * m.batch for row, m in zip(rows, config.modalities.values(), strict=True))


def activation_bytes(config: Config, rows: list[ModalityEstimate], world: int) -> float:
    """Of one micro-batch on one rank. bf16 and fp16 halve most of it."""
    shape, train = config.model, config.train
    assert shape.width and shape.depth
    total = 0.0
    for row, m in zip(rows, config.modalities.values(), strict=True):
        samples = m.batch / world / train.accumulate
        enc, dec = row.kept * shape.width, (row.kept + row.decoded) * shape.decoder.width
        per_sample = enc * shape.depth + dec * shape.decoder.depth
        total += samples * per_sample * FLOATS_KEPT[train.checkpointing]
    return total * (4 if train.precision == "fp32" else 2.5)


def describe(config: Config, files: dict[str, int], world: int = 1) -> str:
    """The text of `mae-ext plan`. files: how many each modality has; those not known are left out of the schedule."""
    config = with_parts(config, world)
    check_meaning(config)
    model = MAE.from_config(config)
    sizes = {part: sum(p.numel() for p in module.parameters()) for part, module in model.named_children()}
    count = {part: size for part, size in sizes.items() if size}
    rows = modality_estimates(config, model)
    lines = [f"parameters        {sum(count.values()):,} ({', '.join(f'{k} {v:,}' for k, v in count.items())})"]
    for row in rows:
        m = config.modalities[row.name]
        size, patch, grid = (" x ".join(map(str, extents)) for extents in (m.size, m.patch, m.grid))
        hidden, ratio = 1 - row.kept / row.tokens, getattr(model.modality(row.name).masker, "ratio", 0.0)
        # A masker that hides whole groups of tokens cannot meet every ratio: then it keeps no floor(N * (1 - ratio)).
        floored = -1 < row.kept - row.tokens * (1 - ratio) < 1e-4
        rounded = "" if floored else f"; {hidden:.3g} hidden, {ratio:g} asked"
        lines += [
            f"{row.name}",
            f"  sample          {m.channels} x {size}, patch {patch}",
            f"  tokens          {row.tokens} (grid {grid}), {row.kept} kept, {row.decoded} decoded{rounded}",
            f"  FLOPs/sample    {row.flops / 1e9:.2f} G, forward and backward",
        ]
    shares = world if config.train.parallel == "fsdp" else 1
    states = state_bytes(model, config.train.optimizer) / shares / 2**30
    activations = activation_bytes(config, rows, world) / 2**30
    samples, train, tflop = config.samples_per_step, config.train, step_flops(config, rows) / 1e12
    lines += [
        f"memory per rank   about {states:.2f} GiB (weights, gradients, moments) + {activations:.2f} GiB (activations)",
        f"effective batch   {samples} samples a step ({tflop:.3f} TFLOP): {world} ranks x {train.accumulate}",
        f"learning rate     {peak_lr(config):.3g} at its peak ({train.lr:g} x {samples} / {train.lr_per or samples})",
    ]
    first, m = next(iter(config.modalities.items()))
    if first in files:
        schedule = Schedule.of(config, files[first] * m.data.repeats)
        steps, warmup = schedule.steps, schedule.warmup
        lines.append(f"steps             {steps} ({warmup} of warm-up) for {files[first]} files of {first}")
    elif config.train.steps:
        steps, warmup = config.train.steps, config.train.warmup_steps or 0
        lines.append(f"steps             {config.train.steps}")
    else:
        steps, warmup = 2**31, 0  # not known, and no reason for a remark
        lines.append(f"steps             {config.train.epochs:g} epochs; give --data to count the files")
    return "\n".join([*lines, *(f"note              {remark}" for remark in remarks(config, steps, warmup))])
