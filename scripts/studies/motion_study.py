"""Does a pretrained video encoder use time? On labelled clips of motion, of which single frames say nothing.

    python scripts/studies/make_motion.py --out motion
    mae-ext pretrain video_motion_vitt --data motion/train --out runs/motion
    python scripts/studies/motion_study.py runs/motion --train motion/train --test motion/test

Prints one JSON object: the loss on held-out clips as they are and with their frames shuffled (the same masks), and
probes trained on 50 labelled clips of each class: on the pretrained encoder, on the same with random weights, and on
the pretrained one that is shown the middle frame of each clip, repeated.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_ext.data.sample import stack
from mae_ext.errors import BadSample
from mae_ext.features.encoder import FrozenEncoder, load_encoder
from mae_ext.probing.probe import probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.rng import rng

PROBES = ("knn", "linear", "attentive")


def shuffled(x: Tensor, first: int) -> Tensor:
    """(B, C, T, H, W): the frames of every clip in an order of its own. first: the number of the first clip."""
    orders = [torch.randperm(x.shape[2], generator=rng(0, "shuffle", first + i)) for i in range(len(x))]
    return torch.stack([clip[:, order] for clip, order in zip(x, orders, strict=True)])


def one_frame(x: Tensor) -> Tensor:
    middle = x.shape[2] // 2
    return x[:, :, middle : middle + 1].expand_as(x)


@torch.inference_mode()
def held_out(encoder: FrozenEncoder, source: str) -> dict[str, float]:
    samples = [s for s in encoder.decode(encoder.items(source)) if not isinstance(s, BadSample)]
    model, modality = encoder.model, encoder.model.modality(encoder.name)
    sums = {"ordered": 0.0, "shuffled": 0.0}
    for start in range(0, len(samples), 50):
        x, _ = stack(samples[start : start + 50])
        mask = modality.draw_mask([rng(0, "held-out", start + i) for i in range(len(x))])
        mask = mask.each(lambda t: t.to(encoder.device))
        for name, shown in (("ordered", x), ("shuffled", shuffled(x, start))):
            sums[name] += float(model(shown.to(encoder.device), mask, encoder.name)) * len(x)
    losses = {name: total / len(samples) for name, total in sums.items()}
    return {**losses, "ordered_lower_by": 1 - losses["ordered"] / losses["shuffled"], "clips": len(samples)}


def few(source: str, per_class: int, into: Path) -> str:
    """A list file that names the first clips of each class folder."""
    folders = sorted(path for path in Path(source).iterdir() if path.is_dir())
    rows = [f"{file.absolute()},{folder.name}" for folder in folders for file in sorted(folder.iterdir())[:per_class]]
    into.write_text("\n".join(["path,label", *rows]) + "\n")
    return str(into)


def short(result: dict[str, Any]) -> dict[str, float]:
    return {name: result[name]["accuracy"] for name in PROBES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--labelled", type=int, default=50, help="clips of each class")
    args = parser.parse_args()
    result: dict[str, Any] = {"loss": held_out(load_encoder(args.run), args.test)}
    with tempfile.TemporaryDirectory() as folder:
        train = few(args.train, args.labelled, Path(folder) / "train.csv")
        spec = ProbeSpec(train, args.test, attentive=True)
        result["pretrained"] = short(probe(args.run, spec))
        result["random"] = short(probe(args.run, spec, baseline="random", record=False))
        result["one frame"] = short(probe(args.run, replace(spec, view=one_frame), record=False))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
