"""Does it pay to see all of a scan? A label that is seen in a part of it only: windowed probes beside the middle crop.

    python scripts/studies/windows_study.py runs/hippocampus --train train.txt --test test.txt \\
        --adrenal adrenalmnist3d_64.npz

Each scan is smooth noise of --side voxels with one thing added to it at a place that chance says: the middle of a real
hippocampus, or an adrenal gland's shape (AdrenalMNIST3D), brought to the noise's spread and fading out at its edges,
so that neither brightness nor the faces of a box give it away. Which of the two it is, a linear probe of the run's
frozen encoder has to say, on scans with other hippocampi and glands. Places: anywhere, of which the middle crop often
sees a part; outside, where it sees nothing of it. Things of training and test are from the run's own lists.

Ways: middle, the middle crop; mean, max, weighted, of the windows that cover the scan; attentive, a gate and a linear
layer that learn which windows count (`task.windows: attentive`, on frozen features, 300 steps); nearest, the one window
whose middle is nearest to the thing, which no user knows: what dilution costs. Prints one JSON object: the accuracy on
test, mean and standard deviation over seeds of what is added where, of the run and of random weights; chance is 0.5.
seconds: processor time a scan, of windows and of the middle crop.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn.functional import one_hot

from mae_ext.data.sources.table import list_items
from mae_ext.features.encoder import FrozenEncoder, load_encoder
from mae_ext.features.windowed import Windows, pooled
from mae_ext.probing.classifiers import linear_votes
from mae_ext.probing.scores import accuracy
from mae_ext.rng import rng
from mae_ext.tasks.classify.bags import Bags, Gate, bag_loss, joined

THING = 24
FADES = 4
"""Voxels at each end over which a thing fades out."""
STEPS, RATE, DECAY = 300, 3e-3, 0.1
"""Of the gate; not chosen by any score."""

Block = NDArray[np.float32]


def hippocampi(source: str) -> list[Block]:
    scans = [np.asarray(nib.load(path).dataobj, np.float32) for path in list_items(source, (".nii.gz",)).addresses]
    return [
        faded(scan[tuple(slice((n - THING) // 2, (n + THING) // 2) for n in scan.shape)])
        for scan in scans
        if min(scan.shape) >= THING
    ]


def adrenals(shapes: NDArray[np.uint8]) -> list[Block]:
    """(n, 64, 64, 64) of 0 and 1: the middle 48 at half their scale."""
    halves = shapes.squeeze()[:, 8:56, 8:56, 8:56].reshape(len(shapes), THING, 2, THING, 2, THING, 2)
    return [faded(one) for one in halves.mean((2, 4, 6), dtype=np.float32)]


def faded(block: Block) -> Block:
    """Mean 0 and deviation 1 before it fades."""
    ramp = np.minimum(1, (np.minimum(np.arange(THING), np.arange(THING)[::-1]) + 1) / (FADES + 1))
    fades = ramp[:, None, None] * ramp[:, None] * ramp
    return ((block - block.mean()) / max(float(block.std()), 1e-6) * fades).astype(np.float32)


def places(side: int, window: tuple[int, ...], outside: bool, chance: np.random.Generator) -> tuple[int, ...]:
    """Where a thing begins; outside: it shares no voxel with the middle window, whichever way its axes are ordered."""
    first, last = (side - max(window)) // 2, (side + max(window)) // 2
    while True:
        at = tuple(int(a) for a in chance.integers(0, side - THING + 1, 3))
        if not outside or any(a + THING <= first or a >= last for a in at):
            return at


def make(
    root: Path, things: dict[str, dict[str, list[Block]]], wanted: argparse.Namespace, outside: bool,
    window: tuple[int, ...], seed: int,
) -> dict[str, tuple[float, ...]]:  # fmt: skip
    """root/train and root/test, with a folder for each class -> of each file where its thing is, mm."""
    chance, middles = np.random.default_rng([seed, outside]), {}
    for part, classes in things.items():
        for name, group in classes.items():
            (root / part / name).mkdir(parents=True)
            taken = chance.permutation(len(group))
            for n in range(wanted.each):
                volume = gaussian_filter(chance.normal(size=(wanted.side,) * 3), 2)
                volume = (volume / volume.std()).astype(np.float32)
                at = places(wanted.side, window, outside, chance)
                volume[tuple(slice(a, a + THING) for a in at)] += wanted.strength * group[taken[n % len(group)]]
                path = root / part / name / f"{n:03d}.nii"
                nib.save(nib.nifti1.Nifti1Image(volume, np.eye(4)), path)
                middles[str(path)] = tuple(a + (THING - 1) / 2 for a in at)
    return middles


def seen(encoder: FrozenEncoder, source: Path, middles: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    """Features (n, D) of each way, windows (n, W, D), labels, and the processor's seconds a scan."""
    began = time.process_time()
    middle = encoder.features(str(source), threads=1)
    between = time.process_time()
    whole = encoder.features(str(source), Windows(pool=None, batch=25))
    ended = time.process_time()
    bags = [whole.features[whole.features["sample"] == n] for n in range(len(whole.sources))]
    ways = {"middle": middle.features}
    for pool in ("mean", "max", "weighted"):
        ways[pool] = np.stack([pooled(bag["features"], bag["weight"], pool) for bag in bags])
    ways["nearest"] = np.stack([
        bag["features"][np.linalg.norm(bag["place"] - middles[name], axis=1).argmin()]
        for bag, name in zip(bags, whole.sources, strict=True)
    ])  # fmt: skip
    assert middle.sources == whole.sources and whole.labels is not None
    return {
        "ways": {name: torch.from_numpy(x) for name, x in ways.items()},
        "windows": torch.from_numpy(np.stack([bag["features"] for bag in bags])),
        "labels": torch.from_numpy(whole.labels),
        "seconds": ((ended - between) / len(bags), (between - began) / len(bags)),
    }


def attentive(x: Tensor, y: Tensor, x_test: Tensor, seed: int) -> Tensor:
    """(n, W, D), (n,), (m, W, D) -> (m, classes)."""
    mean, std = x.mean((0, 1)), x.std((0, 1)).clamp(min=1e-6)
    x, x_test = (x - mean) / std, (x_test - mean) / std
    head = nn.Linear(x.shape[2], int(y.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    gate = Gate(x.shape[2], rng(seed, "init", "gate"))
    bags, files = Bags("attentive", 0.25), torch.arange(len(x)).repeat_interleave(x.shape[1])
    targets = one_hot(y).float().repeat_interleave(x.shape[1], 0)
    optimizer = torch.optim.AdamW([*head.parameters(), *gate.parameters()], lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        rows = x.flatten(0, 1)
        bag_loss(torch.cat([head(rows), gate(rows)], 1), targets, files, None, bags).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        return torch.stack([joined(head(bag), gate(bag)[:, 0], None, "attentive") for bag in x_test])


def scores(encoder: FrozenEncoder, root: Path, middles: dict[str, tuple[float, ...]], seed: int) -> dict[str, Any]:
    train, test = (seen(encoder, root / part, middles) for part in ("train", "test"))
    votes = {
        name: linear_votes(x, train["labels"], test["ways"][name], seed=seed)[0] for name, x in train["ways"].items()
    }
    votes["attentive"] = attentive(train["windows"], train["labels"], test["windows"], seed)
    right = {name: accuracy(each.argmax(1), test["labels"]) for name, each in votes.items()}
    return {"right": right, "windows": test["windows"].shape[1], "seconds": test["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--train", required=True, help="scans of hippocampi that the run has seen")
    parser.add_argument("--test", required=True, help="and that it has not")
    parser.add_argument("--adrenal", type=Path, required=True)
    parser.add_argument("--each", type=int, default=50, help="scans of each class, for training and for test")
    parser.add_argument("--side", type=int, default=80, help="voxels")
    parser.add_argument("--strength", type=float, default=1.0, help="of a thing, in deviations of the noise")
    parser.add_argument("--seeds", type=int, default=3)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder(wanted.run, device="cpu")
    with np.load(wanted.adrenal) as kept:
        glands = {part: adrenals(kept[f"{part}_images"]) for part in ("train", "test")}
    things = {
        part: {"adrenal": glands[part], "hippocampus": hippocampi(source)}
        for part, source in (("train", wanted.train), ("test", wanted.test))
    }
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in range(wanted.seeds):
        for where in ("anywhere", "outside"):
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                middles = make(root, things, wanted, where == "outside", tuple(encoder.modality.size), seed)
                for weights, one in (("pretrained", encoder), ("random", encoder.randomised(seed))):
                    results.setdefault(f"{where}, {weights}", []).append(row := scores(one, root, middles, seed))
                    print(f"seed {seed}, {where}, {weights}: {row}", file=sys.stderr, flush=True)
    rows = [row for group in results.values() for row in group]
    print(json.dumps({
        "settings": {k: str(v) for k, v in vars(wanted).items()},
        "step": encoder.step,
        "windows_of_a_scan": rows[0]["windows"],
        "cpu_seconds_a_scan": {
            what: round(statistics.median(row["seconds"][i] for row in rows), 4)
            for i, what in enumerate(("windows", "middle crop"))
        },
        "accuracy, mean and sd": {
            name: {
                way: [round(f([row["right"][way] for row in group]), 3) for f in (statistics.fmean, statistics.pstdev)]
                for way in group[0]["right"]
            }
            for name, group in results.items()
        },
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
