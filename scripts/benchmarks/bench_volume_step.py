"""Time and memory of a pretraining step on volumes: beside MONAI's masked autoencoder, and with half of it decoded.

    python scripts/benchmarks/bench_volume_step.py peer  # ViT-B, 96^3, 16^3 patches, fp32 and bf16, on this machine
    python scripts/benchmarks/bench_volume_step.py half  # 8^3 patches: 1728 tokens, all hidden ones decoded, or half

Each side is a process of its own, and they take turns, a step each. peer: monai's MaskedAutoEncoderViT with its loss
written out (it has none); both sides have the same encoder, the decoder that is MONAI's default (with the usual ratio
of 4 in every MLP), batch, mask ratio, autocast dtype and fused AdamW; ours is the engine's own step. Where the peer
raises, its words stand in place of its time. half: ours twice, the second with half of the hidden tokens decoded,
which is another loss. Peak memory is that of each side's process; `before` is what it held before its model was built.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from turns import serve, take_turns

from mae_ext.config import Config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.precision import DTYPES
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Step
from mae_ext.engine.task import backbone_of
from mae_ext.model.grid import patchify
from mae_ext.rng import rng

SHAPES = {"tiny": (48, 2, 4), "base": (768, 12, 12), "large": (1024, 24, 16)}
RATIO = 0.75
SIDES = {"peer": ("ours", "peer"), "half": ("whole", "half")}
PATCH = {"peer": 16, "half": 8}
DECODERS = {"peer": "384,4,12", "half": "512,8,16"}
"""Width, depth, heads: MONAI's default beside MONAI, MAE's own (and ours) alone."""


def decoder_of(args: argparse.Namespace) -> tuple[int, int, int]:
    width, depth, heads = map(int, args.decoder.split(","))
    return width, depth, heads


def our_config(args: argparse.Namespace, half: bool = False) -> Config:
    width, depth, heads = SHAPES[args.size]
    decoder = dict(zip(("width", "depth", "heads"), decoder_of(args), strict=True))
    volume: dict[str, Any] = {
        "size": [args.edge] * 3, "patch": [args.patch] * 3, "channels": 1, "batch": args.batch,
        "mask": {"name": "random", "ratio": RATIO}, "target": {"name": "pixel", "normalize": "none"},
        "decode": {"name": "random", "ratio": 0.5} if half else None, "data": {"statistics": "none"},
    }  # fmt: skip
    model = {"width": width, "depth": depth, "heads": heads, "decoder": decoder}
    return parse_config(
        {"modalities": {"volume": volume}, "model": model, "train": {"steps": 1, "precision": args.precision}}
    )


def scans(args: argparse.Namespace) -> Tensor:
    return torch.randn(args.batch, 1, *[args.edge] * 3, generator=rng(0, "bench"))


def our_step(args: argparse.Namespace, device: torch.device, half: bool = False) -> Callable[[], float]:
    run = assembled(our_config(args, half), {}, Ranks(0, 1, device))
    take = Step(run)
    mask = backbone_of(run.model).modality().draw_mask([rng(0, "bench", i) for i in range(args.batch)])
    batches = {"volume": Batch(scans(args), mask).to(device)}

    def step() -> float:
        take(0, [batches], stop=False)
        (taken,) = take.answers(everything=True)
        return taken.losses[0]

    return step


def peer_model(args: argparse.Namespace) -> torch.nn.Module:
    from monai.networks.nets import MaskedAutoEncoderViT  # here: our side trains without it

    width, depth, heads = SHAPES[args.size]
    decoder_width, decoder_depth, decoder_heads = decoder_of(args)
    return MaskedAutoEncoderViT(
        in_channels=1, img_size=args.edge, patch_size=args.patch, masking_ratio=RATIO, qkv_bias=True,
        hidden_size=width, mlp_dim=4 * width, num_layers=depth, num_heads=heads, decoder_hidden_size=decoder_width,
        decoder_mlp_dim=4 * decoder_width, decoder_num_layers=decoder_depth, decoder_num_heads=decoder_heads,
    )  # fmt: skip


def peer_loss(model: torch.nn.Module, x: Tensor, patch: int) -> Tensor:
    """(B, 1, *S) -> scalar: the mean squared error over hidden patches. MONAI's mask is 1 where a patch is hidden."""
    predicted, hidden = model(x)
    error = (predicted - patchify(x, (patch,) * 3)).square().mean(-1)
    return (error * hidden).sum() / hidden.sum()


def peer_step(args: argparse.Namespace, device: torch.device) -> Callable[[], float]:
    torch.manual_seed(0)
    model = peer_model(args).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    x = scans(args).to(device)

    def step() -> float:
        with torch.autocast(device.type, DTYPES[args.precision], enabled=args.precision != "fp32"):
            loss = peer_loss(model, x, args.patch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def serve_side(args: argparse.Namespace, device: torch.device) -> None:
    if args.side == "peer":
        import monai.networks.nets  # noqa: F401 so that `before` holds the libraries of both
    else:
        settle_in()  # as the engine does
    if args.side == "peer":
        serve(lambda: peer_step(args, device), device)
    else:
        serve(lambda: our_step(args, device, half=args.side == "half"), device)


def compare(args: argparse.Namespace, precision: str) -> dict[str, object]:
    command = [
        sys.executable, __file__, args.what, "--size", args.size, "--edge", str(args.edge), "--patch", str(args.patch),
        "--decoder", args.decoder, "--batch", str(args.batch), "--precision", precision, "--device", args.device,
    ]  # fmt: skip
    sides = take_turns({side: [*command, "--side", side] for side in SIDES[args.what]}, args.rounds)
    tokens = (args.edge // args.patch) ** 3
    result: dict[str, object] = {
        "model": f"ViT-{args.size}, {args.edge}^3, {args.patch}^3 patches ({tokens} tokens), decoder {args.decoder}, "
        f"batch {args.batch}, {precision}, {args.device}",
        "rounds": args.rounds,
    }
    if errors := {side: found["error"] for side, found in sides.items() if "error" in found}:
        result["error"] = errors
    done = {side: found for side, found in sides.items() if side not in errors}
    median = {side: statistics.median(found["times"]) for side, found in done.items()}
    result["seconds"] = {side: round(value, 4) for side, value in median.items()}
    result["peak_MiB"] = {side: found["peak"] >> 20 for side, found in done.items()}
    result["before_MiB"] = {side: found["before"] >> 20 for side, found in done.items()}
    if not errors and args.what == "peer":
        result["speedup"] = round(median["peer"] / median["ours"], 2)
        result["peak_ratio"] = round(done["ours"]["peak"] / done["peer"]["peak"], 3)
    elif not errors:
        result["saved"] = {
            "time": round(1 - median["half"] / median["whole"], 3),
            "peak": round(1 - done["half"]["peak"] / done["whole"]["peak"], 3),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=SIDES)
    parser.add_argument("--size", choices=SHAPES, default="base")
    parser.add_argument("--edge", type=int, default=96, help="of the cube, in voxels")
    parser.add_argument("--patch", type=int, help="default: 16 beside the peer, 8 for half")
    parser.add_argument("--decoder", help="width,depth,heads; default: 384,4,12 beside the peer, 512,8,16 for half")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precision", default="fp32,bf16", help="comma-separated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", choices=[side for pair in SIDES.values() for side in pair], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.patch = args.patch or PATCH[args.what]
    args.decoder = args.decoder or DECODERS[args.what]
    if args.side:
        serve_side(args, torch.device(args.device))
        return
    for precision in args.precision.split(","):
        print(json.dumps(compare(args, precision)), flush=True)


if __name__ == "__main__":
    main()
