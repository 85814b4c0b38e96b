"""Does it pay to see all of a scan? A label that is seen in a part of it only: windowed probes beside the middle crop.

Each volume is smooth noise of 64 voxels a side with one implant at a random place: a block of a real hippocampus, or
an adrenal gland's shape (AdrenalMNIST3D) of the same mean and spread. An encoder of 32 voxels a side, trained for
`--steps` on such volumes without labels (0: random weights), is probed on which implant it is: on the middle crop, on
the mean of all windows and on their largest features. Prints one JSON object: the linear probe's accuracy on test.

    python scripts/studies/windows_study.py --hippocampus DIR --adrenal adrenalmnist3d_64.npz
"""

import argparse
import json
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

import mae_ext
from mae_ext.features.encoder import FrozenEncoder, load_encoder
from mae_ext.features.windowed import Windows
from mae_ext.probing.probe import probe_encoder
from mae_ext.probing.spec import ProbeSpec

SIDE, IMPLANT = 64, 24


def blocks(hippocampus: Path, adrenal: Path, count: int) -> dict[str, list[np.ndarray]]:
    """(IMPLANT,) * 3 float32 of mean 0 and deviation 1, by class."""
    scans = [
        np.asarray(nib.load(path).dataobj, np.float32)
        for path in sorted(hippocampus.rglob("*.nii.gz"))
        if "label" not in str(path).lower() and not path.name.startswith(".")
    ]
    scans = [scan for scan in scans if scan.ndim == 3 and min(scan.shape) >= IMPLANT][:count]
    with np.load(adrenal) as kept:
        shapes = kept["train_images"][:count].astype(np.float32).squeeze()
    shapes = shapes[:, 8:56, 8:56, 8:56].reshape(len(shapes), IMPLANT, 2, IMPLANT, 2, IMPLANT, 2).mean((2, 4, 6))
    middles = [scan[tuple(slice((n - IMPLANT) // 2, (n + IMPLANT) // 2) for n in scan.shape)] for scan in scans]
    return {
        name: [(b - b.mean()) / max(b.std(), 1e-6) for b in group]
        for name, group in (("hippocampus", middles), ("adrenal", list(shapes)))
    }


def make(root: Path, implants: dict[str, list[np.ndarray]], each: int) -> None:
    """root/train and root/test, with a folder for each class; no implant is in both."""
    chance = np.random.default_rng(0)
    for name, group in implants.items():
        half = len(group) // 2
        for part, some in (("train", group[:half]), ("test", group[half:])):
            (root / part / name).mkdir(parents=True)
            for n in range(each):
                volume = gaussian_filter(chance.normal(size=(SIDE,) * 3), 2)
                volume = (volume / volume.std()).astype(np.float32)
                at = tuple(slice(a, a + IMPLANT) for a in chance.integers(0, SIDE - IMPLANT + 1, 3))
                volume[at] = some[n % len(some)]
                nib.save(nib.Nifti1Image(volume, np.eye(4)), root / part / name / f"{n:03d}.nii")


def encoder_of(root: Path, steps: int) -> FrozenEncoder:
    data = {
        "path": str(root / "train"), "reader": {"name": "volume", "intensity": "zscore"}, "statistics": "none",
        "augment": {"fixed": [0, 1, 2], "flip": []}, "repeats": 4,
    }  # fmt: skip
    config = mae_ext.parse_config({
        "modalities": {"volume": {"size": [32] * 3, "patch": [8] * 3, "channels": 1, "batch": 16, "data": data}},
        "model": {"width": 96, "depth": 4, "heads": 3, "decoder": {"width": 48, "depth": 1, "heads": 3}},
        "train": {"steps": max(1, steps), "workers": 0, "precision": "fp32", "lr": 1e-3, "device": "cpu"},
    })  # fmt: skip
    encoder = load_encoder(mae_ext.train(config, root / "run"), device="cpu")
    return encoder if steps else encoder.randomised()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hippocampus", type=Path, required=True)
    parser.add_argument("--adrenal", type=Path, required=True)
    parser.add_argument("--each", type=int, default=30, help="volumes of each class, for train and for test")
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, blocks(args.hippocampus, args.adrenal, 60), args.each)
        encoder = encoder_of(root, args.steps)
        scores = {}
        for pool in ("mean", Windows(0.5, "mean"), Windows(0.5, "max")):
            spec = ProbeSpec(str(root / "train"), str(root / "test"), k=5, pool=pool)
            scores[str(pool)] = probe_encoder(encoder, spec, "pretrained")["linear"]["accuracy"]
    print(json.dumps({"volumes": 2 * args.each, "steps": args.steps, "linear_accuracy": scores}))


if __name__ == "__main__":
    main()
