"""What a step of a pretraining recipe costs on this machine: time, throughput, memory, and use of its arithmetic.

    python scripts/benchmarks/bench_recipe.py image_in1k_vitb:256 video_k400_vitb:32 volume_ct_vitb:64

RECIPE:BATCH, the samples of one rank's micro-batch. Eager and compiled (`train.compile`) are processes of their own
that take turns, a step each, with the recipe's model, masks, target, precision and clip, and random samples that lie on
the device already: the loader is measured elsewhere (bench_loader.py). The step is the engine's own, its finite check
included, and ends when its loss has been read back. `utilisation` is the FLOPs that `mae-ext plan` counts over those of
the machine's best large matrix product in the same dtype; peak memory is allocated on a GPU, resident on a CPU.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import torch
from bench_step import matmul_rate
from torch import Tensor
from turns import serve, take_turns

from mae_ext.config import Config, load_config
from mae_ext.data.batch import Batch
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.estimate import modality_estimates
from mae_ext.engine.precision import DTYPES
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Step
from mae_ext.engine.task import backbone_of
from mae_ext.model.mae import MAE
from mae_ext.rng import rng

SIDES = ("eager", "compiled")


def recipe(what: str, precision: str | None, checkpointing: bool | None) -> Config:
    """The recipe with one rank's micro-batch in every modality, whose statistics need no files."""
    name, _, batch = what.partition(":")
    sets = ["train.accumulate=1"]
    sets += [f"train.precision={precision}"] if precision else []
    sets += [] if checkpointing is None else [f"train.checkpointing={str(checkpointing).lower()}"]
    for modality, m in load_config(name).modalities.items():
        sets += [f"modalities.{modality}.batch={batch}"] if batch else []
        sets += [f"modalities.{modality}.data.statistics=none"] if m.data.statistics == "measured" else []
    return load_config(name, sets)


def samples(config: Config, model: MAE, device: torch.device) -> dict[str, Batch]:
    """Noise of which all counts; a spacing where positions are physical. Masks are drawn as in training."""
    batches = {}
    for name, m in config.modalities.items():
        x = torch.randn(m.batch, m.channels, *m.size, generator=rng(0, "bench", name))
        mask = model.modality(name).draw_mask([rng(0, "bench", name, slot) for slot in range(m.batch)])
        valid: Tensor | None = None
        spacing: Tensor | None = None
        if m.data.reader.name == "volume":
            valid = torch.ones(m.batch, 1, *m.size, dtype=torch.bool)
            spacing = torch.ones(m.batch, len(m.size))
        batches[name] = Batch(x, mask, valid, spacing).to(device)
    return batches


def build(config: Config, device: torch.device, compiled: bool) -> Callable[[], float]:
    config = config.model_copy(update={"train": config.train.model_copy(update={"compile": compiled})})
    run = assembled(config, {}, Ranks(0, 1, device))
    take, batches = Step(run), samples(config, backbone_of(run.model), device)

    def step() -> float:
        take(0, [batches], stop=False)
        (taken,) = take.answers(everything=True)
        return taken.losses[0]

    return step


def compare(what: str, args: argparse.Namespace, device: torch.device) -> dict[str, object]:
    config = recipe(what, args.precision, args.checkpointing)
    options = ["--device", args.device, *(["--precision", args.precision] if args.precision else [])]
    options += [] if args.checkpointing is None else ["--checkpointing" if args.checkpointing else "--no-checkpointing"]
    found = take_turns(
        {side: [sys.executable, __file__, what, "--side", side, *options] for side in args.sides.split(",")},
        args.rounds,
        warm=4,
    )
    flops = sum(
        row.flops * m.batch
        for row, m in zip(modality_estimates(config, MAE.from_config(config)), config.modalities.values(), strict=True)
    )
    rate = matmul_rate(device, config.train.precision)
    row: dict[str, object] = {"recipe": what, "precision": config.train.precision, "device": args.device}
    row |= {"checkpointing": config.train.checkpointing, "TFLOP_per_step": round(flops / 1e12, 2)}
    row |= {"matmul_TFLOP_per_s": round(rate / 1e12, 2), "rounds": args.rounds}
    for side, got in found.items():
        if "error" in got:
            row[side] = got["error"][:300]
            continue
        seconds = statistics.median(got["times"])
        row[side] = {
            "ms": round(1e3 * seconds, 2), "spread_ms": [round(1e3 * f(got["times"]), 2) for f in (min, max)],
            "samples_per_s": round(config.samples_per_step / seconds, 1), "peak_MiB": got["peak"] >> 20,
            "utilisation": round(flops / seconds / rate, 3),
        }  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE[:BATCH]")
    parser.add_argument("--precision", choices=DTYPES, help="instead of the recipe's")
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, help="instead of the recipe's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sides", default=",".join(SIDES), help="comma-separated")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.side:
        config = recipe(args.recipes[0], args.precision, args.checkpointing)
        settle_in()
        serve(lambda: build(config, device, args.side == "compiled"), device)
        return
    for what in args.recipes:
        print(json.dumps(compare(what, args, device)), flush=True)


if __name__ == "__main__":
    main()
