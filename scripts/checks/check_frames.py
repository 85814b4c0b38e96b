"""Every frame of clips from all over seventy odd films beside the frame that a player shows.

    python scripts/checks/check_frames.py  # makes the films first, with the ffmpeg on the PATH
    python scripts/checks/check_frames.py --films DIR --out t.json   # keeps them for the next time
    python scripts/checks/check_frames.py --root OTHER_CHECKOUT      # of another version of the package

The player is that ffmpeg, which decodes each film from the start, turned as the film asks. Of each film 20 clips of 8
frames, 3 apart, are read at random, by each decoder, without and with a cache. A frame is right if of all frames of the
player's the one with its number is the nearest to it, to within four grey levels (two versions of
FFmpeg convert 10 bits and saturated colours apart by three). Prints a row for each film: frames that
the player shows; then, for each way of reading, "right" or what was wrong.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from make_films import MIDST, make
from numpy.typing import NDArray

LENGTH, STRIDE = 8, 3
TOLERANCE = 4.0
"""Grey levels, on average over a frame, by which two versions of FFmpeg may convert colours apart."""
ENOUGH = 768
"""Pixels, evenly spread, that are looked at first: a sixteenth of the films that are made."""


def player(path: Path) -> NDArray[np.uint8]:
    """(n, H, W, 3)."""
    probe = "-v error -select_streams v:0 -show_entries stream=width,height:stream_side_data=rotation -of json"
    told = json.loads(
        subprocess.run(["ffprobe", *probe.split(), str(path)], check=True, capture_output=True, text=True).stdout
    )
    stream = told["streams"][0]
    width, height = stream["width"], stream["height"]
    if any(abs(int(data.get("rotation", 0))) == 90 for data in stream.get("side_data_list", [])):
        width, height = height, width
    words = ["-v", "quiet", "-i", str(path), "-map", "0:v:0", "-vsync", "passthrough", "-sws_flags", "bilinear"]
    raw = subprocess.run(
        ["ffmpeg", *words, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=False, capture_output=True
    ).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def wrong(true: NDArray[np.uint8], number: int, frame: NDArray[np.uint8]) -> bool:
    """Is another frame nearer to this one, or even the right one too far?"""
    sparse = int((frame.shape[0] * frame.shape[1] / ENOUGH) ** 0.5)
    for step in sorted({max(1, sparse), min(4, max(1, sparse)), 1}, reverse=True):  # what few say is enough where good
        distances = np.abs(true[:, ::step, ::step].astype(np.int16) - frame[::step, ::step].astype(np.int16))
        means = distances.mean((1, 2, 3))
        if means[number] <= min(means.min() + 1e-9, TOLERANCE):
            return False
    return True


def look(
    path: Path, true: NDArray[np.uint8], clips: int, arguments: dict[str, Any], readers: dict[Any, Any]
) -> dict[str, Any]:
    """What came of some clips of a film."""
    from mae_ext.data.sample import Crop
    from mae_ext.data.video.reader import VideoReader
    from mae_ext.errors import BadSample

    size = (LENGTH, *true.shape[1:3])
    reader = readers.setdefault(
        (size, *arguments.values()), VideoReader(size, stride=STRIDE, short_side=0, **arguments)
    )
    found: dict[str, Any] = {"frames": 0, "wrong": 0, "refused": 0, "why": "", "of": len(true), "seconds": 0.0}
    chance, asked = np.random.default_rng(len(path.name)), []

    def crop(extent: tuple[int, ...]) -> Any:
        count = extent[0] - LENGTH + 1
        asked.append((int(chance.integers(count)), count + (LENGTH - 1) * STRIDE))
        return Crop((asked[-1][0], 0, 0), (asked[-1][0] + LENGTH, *extent[1:]), (False,) * 3)

    for _ in range(clips):
        began = time.perf_counter()
        try:
            x = reader.read(str(path), [crop])[0].x.permute(1, 2, 3, 0).numpy()
        except BadSample as error:
            found["refused"] += 1
            found["why"] = f"{error.kind}: {error.detail}"[:80]
            continue
        except Exception as error:  # noqa: BLE001 whatever it is, a run would end with it
            found["why"] = f"ends the run: {error}"[:80]
            break
        finally:
            found["seconds"] += time.perf_counter() - began
        start, count = asked[-1]
        found["of"] = count
        # Of a stream received from its midst on, older decoders also show what lacks the picture it was made from.
        skipped = len(true) - count if path.name in MIDST and len(true) > count else 0
        for i, frame in enumerate(x):
            number = start + i * STRIDE + skipped
            found["frames"] += 1
            found["wrong"] += number >= len(true) or wrong(true, number, frame)
    return found


def peer(path: Path, true: NDArray[np.uint8], clips: int) -> dict[str, Any]:
    """The same of torchcodec by itself, which seeks exactly by its own list of frames. Films as they are stored."""
    from torchcodec.decoders import VideoDecoder

    found: dict[str, Any] = {"frames": 0, "wrong": 0, "refused": 0, "why": "", "of": len(true), "seconds": 0.0}
    chance = np.random.default_rng(len(path.name))
    for _ in range(clips):
        began = time.perf_counter()
        try:
            decoder = VideoDecoder(str(path), num_ffmpeg_threads=1)
            found["of"] = count = len(decoder)
            start = int(chance.integers(max(1, count - (LENGTH - 1) * STRIDE)))
            frames = decoder.get_frames_at([start + i * STRIDE for i in range(LENGTH)]).data.permute(0, 2, 3, 1).numpy()
        except Exception as error:  # noqa: BLE001 it raises several kinds
            found["refused"] += 1
            found["why"] = " ".join(str(error).split())[:80]
            continue
        finally:
            found["seconds"] += time.perf_counter() - began
        skipped = len(true) - count if path.name in MIDST and len(true) > count else 0
        for i, frame in enumerate(frames):
            number = start + i * STRIDE + skipped
            found["frames"] += 1
            fits = frame.shape == true.shape[1:]
            found["wrong"] += not fits or number >= len(true) or wrong(true, number, frame)
    return found


def verdict(found: dict[str, Any], shown: int) -> str:
    told = []
    if found["of"] != shown:
        told.append(f"{found['of']} frames")
    if found["refused"]:
        told.append(f"{found['refused']} refused")
    if found["wrong"]:
        told.append(f"{found['wrong']} of {found['frames']} wrong")
    if found["why"].startswith("ends"):
        told.append("ends the run")
    return ", ".join(told) or "right"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, help="where they are, or shall be")
    parser.add_argument("--only", default="", help="a word of the name")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--decoders", default="auto,decord", help="comma-separated")
    parser.add_argument("--torchcodec", action="store_true", help="torchcodec by itself as well, where it is installed")
    parser.add_argument("--root", type=Path, help="a checkout whose package is used")
    parser.add_argument("--out", type=Path, help="write all that was found there, as JSON")
    args = parser.parse_args()
    if args.root:
        sys.path.insert(0, str(args.root.absolute()))
    with tempfile.TemporaryDirectory() as folder:
        ways = {name: {"decoder": name} for name in args.decoders.split(",")}
        ways["cache"] = {"decoder": args.decoders.split(",")[0], "cache": f"{folder}/cache"}
        names = [*ways, *(["torchcodec alone"] if args.torchcodec else [])]
        totals: dict[str, Counter[str]] = {way: Counter() for way in names}
        rows, readers = [], {}
        print("| film | frames |", " | ".join(names), "|\n|---|---|" + "---|" * len(names))
        for path in make(args.films or Path(folder) / "films", args.only):
            true = player(path)
            found = {way: look(path, true, args.clips, arguments, readers) for way, arguments in ways.items()}
            if args.torchcodec:
                found["torchcodec alone"] = peer(path, true, args.clips)
            for way, row in found.items():
                totals[way].update({k: row[k] for k in ("frames", "wrong", "refused", "seconds")})
                is_shorter = path.name in MIDST and verdict(row, len(true)) == f"{row['of']} frames"
                totals[way]["films right"] += is_shorter or verdict(row, len(true)) == "right"
            rows.append({"film": path.name, "shown": len(true), **found})
            cells = [verdict(row, len(true)) for row in found.values()]
            print("|", path.name, "|", len(true), "|", " | ".join(cells), "|", flush=True)
            for why in {row["why"] for row in found.values()} - {""}:
                print(f"    {why}", file=sys.stderr)
        print(json.dumps({way: {k: round(n, 1) for k, n in total.items()} for way, total in totals.items()}))
        if args.out:
            args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
