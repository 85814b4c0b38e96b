"""The sets and lists of files that docs/results.md was measured on, made from data at hand. Nothing is downloaded.

    python scripts/studies/prepare_sets.py ../shared/data --out sets              # all of them
    python scripts/studies/prepare_sets.py ../shared/data --out sets --only cifar10 hippocampus

DIR has image/cifar10.tar.gz, image/medical_mnist.tar.gz, image/dsb2018_nuclei, image/bccd_blood_cells and
volume/hippocampus; fashion comes from Debian (apt-get install dataset-fashion-mnist), motion from make_motion.py. What
--out then has:

    cifar10, medical_mnist, motion    train/ and test/, a folder for each class
    fashion                           fashion.npz (another part: fashion.npz::test), 28x28, one channel
    hippocampus, nuclei, bccd         train.txt and test.txt, a path on each line, where the files are now

Of nuclei and bccd every fifth of the sorted files is held out, from the first on; of hippocampus the fifth that
volume_study.py draws (43 of 217), on which all its figures rest. Few labels: few-N-S.txt has N of the lines of
train.txt that seed S draws, and few-N-S.csv N of each class folder of train/; a seed's smaller lists are in its larger
ones. For fashion, few-N-S.npz. A
set that is there is left as it is; one that was stopped is made anew.
"""

import argparse
import gzip
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mae_ext.rng import rng

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
COUNTS = (1, 3, 5, 10, 20, 50)
SEEDS = (0, 1, 2)


def drawn(total: int, seed: int, *key: object) -> list[int]:
    """0..total-1 in the order of a seed."""
    return torch.randperm(total, generator=rng(seed, "few", *map(str, key))).tolist()


def split(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """-> for training, held out: every fifth of the sorted files, from the first on."""
    files = sorted(files)
    return [f for i, f in enumerate(files) if i % 5], files[::5]


def few_lines(folder: Path) -> None:
    """few-N-S.txt of folder/train.txt, in the order of the list."""
    lines = (folder / "train.txt").read_text(encoding="utf-8").splitlines()
    for seed in SEEDS:
        order = drawn(len(lines), seed)
        for count in (c for c in COUNTS if c < len(lines)):
            chosen = "".join(f"{lines[i]}\n" for i in sorted(order[:count]))
            (folder / f"few-{count}-{seed}.txt").write_text(chosen, encoding="utf-8")


def few_of_each(folder: Path) -> None:
    """few-N-S.csv of the class folders in folder/train: paths as seen from the list."""
    classes = {c.name: sorted(c.iterdir()) for c in sorted((folder / "train").iterdir())}
    for seed in SEEDS:
        orders = {name: drawn(len(files), seed, name) for name, files in classes.items()}
        for count in (c for c in COUNTS if c < min(map(len, classes.values()))):
            rows = [
                f"{files[i].relative_to(folder)},{name}"
                for name, files in classes.items()
                for i in sorted(orders[name][:count])
            ]
            (folder / f"few-{count}-{seed}.csv").write_text("\n".join(["path,label", *rows, ""]), encoding="utf-8")


def class_folders(archive: str) -> Callable[[Path, Path], None]:
    """archive: a .tar.gz of NAME/train/CLASS/FILE and NAME/test/CLASS/FILE."""

    def make(source: Path, into: Path) -> None:
        with tarfile.open(source / archive) as file:
            file.extractall(into, filter="data")
        (inner,) = into.iterdir()
        for part in ("train", "test"):
            (inner / part).rename(into / part)
        shutil.rmtree(inner)
        few_of_each(into)

    return make


def fifth(images: str, suffix: str) -> Callable[[Path, Path], None]:
    def make(source: Path, into: Path) -> None:
        files = [f.absolute() for f in (source / images).iterdir() if f.name.endswith(suffix)]
        if not files:
            raise FileNotFoundError(source / images / f"*{suffix}")
        for name, part in zip(("train", "test"), split(files), strict=True):
            (into / f"{name}.txt").write_text("".join(f"{f}\n" for f in part), encoding="utf-8")
        few_lines(into)

    return make


def hippocampus(source: Path, into: Path) -> None:
    from volume_study import make_split

    make_split(str(source / "volume/hippocampus/images"), into / "train.txt", into / "test.txt")
    few_lines(into)


def motion(_: Path, into: Path) -> None:
    maker = Path(__file__).with_name("make_motion.py")
    subprocess.run([sys.executable, maker, "--out", into, "--train", "600", "--test", "50"], check=True)
    few_of_each(into)


def numbers(file: Path) -> np.ndarray:
    """A gzipped IDX file of bytes: two zeros, the type (8), the number of axes, their lengths, the values."""
    content = gzip.decompress(file.read_bytes())
    axes = content[3]
    lengths = np.frombuffer(content, ">i4", axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(lengths)


def fashion(_: Path, into: Path) -> None:
    """MedMNIST's layout: {train,test}_images (n, 28, 28), {train,test}_labels (n, 1), all bytes."""
    arrays = {
        f"{part}_{kind}": numbers(DEBIAN / f"{name}-{kind}-idx{axes}-ubyte.gz")
        for part, name in (("train", "train"), ("test", "t10k"))
        for kind, axes in (("images", 3), ("labels", 1))
    }
    images, labels = arrays["train_images"], arrays["train_labels"]
    tests = {"test_images": arrays["test_images"], "test_labels": arrays["test_labels"][:, None]}
    np.savez(into / "fashion.npz", train_images=images, train_labels=labels[:, None], **tests)
    for seed in SEEDS:
        rows = {label: np.flatnonzero(labels == label) for label in np.unique(labels)}
        orders = {label: where[drawn(len(where), seed, label)] for label, where in rows.items()}
        for count in COUNTS:
            chosen = np.sort(np.concatenate([where[:count] for where in orders.values()]))
            few = {"train_images": images[chosen], "train_labels": labels[chosen][:, None]}
            np.savez(into / f"few-{count}-{seed}.npz", **few)


SETS: dict[str, Callable[[Path, Path], None]] = {
    "cifar10": class_folders("image/cifar10.tar.gz"),
    "medical_mnist": class_folders("image/medical_mnist.tar.gz"),
    "nuclei": fifth("image/dsb2018_nuclei/images", ".png"),
    "bccd": fifth("image/bccd_blood_cells/JPEGImages", ".jpg"),
    "hippocampus": hippocampus,
    "fashion": fashion,
    "motion": motion,
}


def made(name: str, source: Path, out: Path) -> bool:
    """Whether it is there, now or before; where a file of its source lacks, says which."""
    if (out / name).exists():
        print(f"{out / name}: is there")
        return True
    part = out / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        SETS[name](source, part)
    except FileNotFoundError as error:
        shutil.rmtree(part)
        print(f"{name}: left out, there is no {error.filename or error}", file=sys.stderr)
        return False
    part.rename(out / name)
    print(f"{out / name}: made")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(f"{args.data}: no such folder")
    every = [made(name, args.data, args.out) for name in args.only]
    if not all(every):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
