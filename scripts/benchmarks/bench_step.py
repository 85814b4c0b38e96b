"""Time and memory of one pretraining step beside transformers' ViTMAE, alternating in one run.

    python scripts/benchmarks/bench_step.py  # ViT-B/16, 224, batch 8, fp32 and bf16, on this machine
    python scripts/benchmarks/bench_step.py --size large --batch 64 --compile    # on a GPU

Each side is a process of its own, and they take turns, a step each: the same sizes, data, mask ratio, autocast dtype
and AdamW settings, the loss read back at the end. The peer runs with PyTorch's fused AdamW (what transformers' Trainer
uses) and with PyTorch's default AdamW; ours is the engine's own step, its finite check and gradient norm included. Peak
memory is that of each side's process, with the libraries that it needs: resident on a CPU, allocated on a GPU; on a CPU
what each process held before its model was built is given too.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from turns import serve, take_turns

from mae_ext.config import Config, parse_config
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

SHAPES = {"base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
SIDES = ("ours", "peer", "peer_default_adamw")


def sizes(size: str, patch: int) -> dict[str, object]:
    """The fields of a ViTMAEConfig: the encoder of that size, MAE's decoder."""
    width, depth, heads = SHAPES[size]
    return {
        "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": 4 * width,
        "patch_size": patch, "image_size": 224, "num_channels": 3, "mask_ratio": 0.75, "norm_pix_loss": True,
        "decoder_hidden_size": 512, "decoder_num_hidden_layers": 8, "decoder_num_attention_heads": 16,
        "decoder_intermediate_size": 2048, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "qkv_bias": True,
        "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    }  # fmt: skip


def peer_step(args: argparse.Namespace, device: torch.device, precision: str, fused: bool) -> Callable[[], float]:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining  # here: our side trains without it, as a user does

    torch.manual_seed(0)
    model = ViTMAEForPreTraining(ViTMAEConfig(**sizes(args.size, args.patch))).train().to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True if fused else None
    )
    forward = torch.compile(model) if args.compile else model
    x = torch.randn(args.batch, 3, 224, 224, generator=rng(0, "bench")).to(device)

    def step() -> float:
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            loss = forward(x).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def our_config(args: argparse.Namespace, precision: str) -> Config:
    width, depth, heads = SHAPES[args.size]
    image = {"size": [224, 224], "patch": [args.patch] * 2, "batch": args.batch, "data": {"statistics": "none"}}
    model = {"width": width, "depth": depth, "heads": heads, "norm_eps": 1e-12}
    train = {"steps": 1, "precision": precision, "compile": args.compile}
    return parse_config({"modalities": {"image": image}, "model": model, "train": train}, "bench_step")


def our_step(args: argparse.Namespace, device: torch.device, precision: str) -> Callable[[], float]:
    run = assembled(our_config(args, precision), {}, Ranks(0, 1, device))
    take = Step(run)
    x = torch.randn(args.batch, 3, 224, 224, generator=rng(0, "bench"))
    mask = backbone_of(run.model).modality().draw_mask([rng(0, "bench", i) for i in range(args.batch)])
    batches = {"image": Batch(x, mask).to(device)}

    def step() -> float:
        take(0, [batches], stop=False)
        (taken,) = take.answers(everything=True)
        return taken.losses[0]

    return step


def build(side: str, args: argparse.Namespace, device: torch.device, precision: str) -> Callable[[], float]:
    if side == "ours":
        return our_step(args, device, precision)
    return peer_step(args, device, precision, fused=side == "peer")


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the best large matrix product this machine shows in the dtype, through either CPU library."""
    n = 2048 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, generator=rng(0, "rate", i)).to(device, DTYPES[precision]) for i in range(2))
    products = [lambda: a @ b]
    if device.type == "cpu" and precision == "fp32":
        products.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    best = 0.0
    for product in products:
        for _ in range(40):
            began = time.perf_counter()
            product().flatten()[0].item()
            best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best


def serve_side(args: argparse.Namespace, device: torch.device) -> None:
    if args.side == "ours":
        settle_in()  # as the engine does
    else:
        import transformers.models.vit_mae.modeling_vit_mae  # noqa: F401 so that `before` holds the libraries of both
    serve(lambda: build(args.side, args, device, args.precision), device)


def compare(args: argparse.Namespace, device: torch.device, precision: str) -> dict[str, object]:
    command = [
        sys.executable, __file__, "--size", args.size, "--batch", str(args.batch), "--patch", str(args.patch),
        "--precision", precision, "--device", args.device, *["--compile"] * args.compile,
    ]  # fmt: skip
    sides = take_turns({side: [*command, "--side", side] for side in SIDES}, args.rounds)
    if errors := {side: found["error"] for side, found in sides.items() if "error" in found}:
        raise SystemExit(str(errors))
    median = {side: statistics.median(found["times"]) for side, found in sides.items()}
    peak, before = ({side: found[key] for side, found in sides.items()} for key in ("peak", "before"))
    rate = matmul_rate(device, precision)
    flops = modality_estimates(config := our_config(args, precision), MAE.from_config(config))[0].flops * args.batch
    return {
        "model": f"ViT-{args.size}/{args.patch} 224, batch {args.batch}, {precision}, {device.type}"
        + ", compiled" * args.compile,
        "seconds": {side: round(value, 4) for side, value in median.items()},
        "speedup": {side: round(median[side] / median["ours"], 2) for side in SIDES[1:]},
        "peak_MiB": {side: value >> 20 for side, value in peak.items()},
        "before_MiB": {side: value >> 20 for side, value in before.items()},
        "peak_ratio": round(peak["ours"] / peak["peer"], 3),
        "TFLOP_per_step": round(flops / 1e12, 3),
        "matmul_GFLOP_per_s": round(rate / 1e9),
        "utilisation": round(flops / median["ours"] / rate, 2),
        "rounds": args.rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, default="base")
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="fp32,bf16", help="comma-separated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.side:
        serve_side(args, device)
        return
    for precision in args.precision.split(","):
        print(json.dumps(compare(args, device, precision)), flush=True)


if __name__ == "__main__":
    main()
