"""Images per second of the loader beside the usual DataLoader + Pillow pipeline, alternating in one run.

    python scripts/benchmarks/bench_loader.py  # JPEGs made from the photos inside the scikit-image wheel
    python scripts/benchmarks/bench_loader.py --data DIR        # your own

Both sides read the same files: random resized crop (.2 to 1) to 224, flip, batches of 64, the same number of worker
processes. The usual pipeline is: open, convert to RGB, crop, bicubic resize, flip, to float32 in 0..1, normalise. Ours
Both sides read the same files: random resized crop (.2 to 1) to 224, flip, batches of 64, the same count of worker
deliver the same tensor. Then the share of a real ViT-B training step that is spent waiting for data.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mae_ext.config import Config, load_config, parse_config
from mae_ext.data.loading.batches import ModalityData, StepData
from mae_ext.data.loading.loader import Loader
from mae_ext.data.loading.statistics import IMAGENET
from mae_ext.engine.cpu import settle_in
from mae_ext.engine.train import train
from mae_ext.model.mae import MAE


class Usual(Dataset[torch.Tensor]):
    """What a training script in this field does with a folder of images."""

    def __init__(self, paths: list[str], length: int) -> None:
        self.paths, self.length = paths, length
        self.mean = torch.tensor(IMAGENET.mean)[:, None, None]
        self.std = torch.tensor(IMAGENET.std)[:, None, None]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.paths[i % len(self.paths)]) as file:
            image = file.convert("RGB")
        width, height = image.size
        share, aspect = float(torch.empty(1).uniform_(0.2, 1)), float(torch.empty(1).uniform_(-0.2877, 0.2877).exp())
        w = min(width, max(1, round((width * height * share * aspect) ** 0.5)))
        h = min(height, max(1, round((width * height * share / aspect) ** 0.5)))
        left, top = (int(torch.randint(0, room + 1, ())) for room in (width - w, height - h))
        image = image.crop((left, top, left + w, top + h)).resize((224, 224), Image.Resampling.BICUBIC)
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).contiguous().float() / 255
        return (x - self.mean) / self.std


def make_jpegs(folder: Path, count: int = 200) -> None:
    """Crops of the photos that scikit-image ships, of the sizes photos on the web have."""
    from skimage import data

    photos = [Image.fromarray(p) for p in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    for i in range(count):
        photo = photos[i % len(photos)]
        width = (375, 500, 640, 1000)[i // len(photos) % 4]
        photo.resize((width, width * 3 // 4)).save(folder / f"{i:04d}.jpg", quality=90)


def ours(config: Config, model: MAE, steps: int) -> Iterator[torch.Tensor]:
    data = {name: ModalityData(config.seed, name, m) for name, m in config.modalities.items()}
    loader = Loader(StepData(data), config, 0, steps, torch.device("cpu"))
    modality = model.modality()
    try:
        for (batches,) in loader:
            yield modality.normalize(batches["image"].x)
    finally:
        loader.close()


def rate(batches: Iterator[torch.Tensor], batch: int, warm: int) -> float:
    """Images per second after `warm` batches, which pay for starting the workers and fill the queues."""
    began, count = 0.0, 0
    for i, _ in enumerate(batches):
        if i == warm:
            began = time.perf_counter()
        count += i > warm
    return count * batch / (time.perf_counter() - began)


def waiting_share(config: Config, folder: Path, steps: int) -> float:
    """Of a real run: time waited / time of the steps, start-up left out."""
    train(config, folder)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][steps // 4 :]
    return sum(r["data_wait"] for r in rows) / sum(r["seconds"] for r in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of images; by default one is made")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settle_in()  # as the engine does; both sides are received by this process
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.data or temporary)
        if not args.data:
            folder = folder / "jpegs"
            folder.mkdir()
            make_jpegs(folder)
        paths = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        values = load_config("image_in1k_vitb").model_dump(mode="json")
        image = values["modalities"]["image"]
        image |= {"batch": args.batch, "data": image["data"] | {"path": str(folder), "statistics": "imagenet"}}
        values["train"] |= {"workers": args.workers, "tensorboard": False}
        values["train"] |= {"epochs": None, "steps": args.steps, "warmup_epochs": None, "warmup_steps": 0}
        config = parse_config(values)
        small = {
            **values,
            "model": {"width": 64, "depth": 1, "heads": 1, "decoder": {"width": 64, "depth": 1, "heads": 1}},
        }
        model = MAE.from_config(parse_config(small))  # only its normalisation is used
        rates: dict[str, list[float]] = {"usual": [], "ours": []}
        for _ in range(args.rounds):
            usual = DataLoader(Usual(paths, args.batch * args.steps), args.batch, num_workers=args.workers)
            rates["usual"].append(rate(iter(usual), args.batch, args.steps // 4))
            rates["ours"].append(rate(ours(config, model, args.steps), args.batch, args.steps // 4))
        median = {side: statistics.median(values) for side, values in rates.items()}
        values["modalities"]["image"]["batch"] = 16
        values["train"] |= {"steps": 12, "save_every": 1000}
        share = waiting_share(parse_config(values), Path(temporary) / "run", 12)
        print(
            json.dumps(
                {
                    "files": len(paths),
                    "workers": args.workers,
                    "images_per_s": {side: round(value) for side, value in median.items()},
                    "speedup": round(median["ours"] / median["usual"], 2),
                    "waiting_share_of_a_vitb_step": round(share, 4),
                }
            )
        )


if __name__ == "__main__":
    main()
