"""decord, PyAV and torchcodec as the video reader uses them, in one run: right frames, faults survived, clips a second.

    python scripts/checks/compare_decoders.py --films DIR    # needs ffmpeg on the PATH, and the extra torchcodec
    python scripts/checks/compare_decoders.py --films DIR --rounds 2 --clips 2 --draws 2     # a quick look

frames: of every film in a folder, clips of 8 frames, 3 apart, at random, against the frames that ffmpeg shows from the
start, as `check_frames.py` judges them; and against PyAV's, byte by byte, as they are stored and scaled to a short side
of 100. faults: the 250 damaged files of tests/faults/test_video_faults.py, whose every frame shows its number. speed: a
clip of 16 frames of each of some films, the decoders in turn; and the processor's time of the children, which other
work on the machine moves less. Prints three tables.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from check_frames import player, wrong
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from data.video.numbered_clips import at, numbers, write
from faults.test_video_faults import CODECS, COUNT, DAMAGE, DEADLINE_S, verdict

from mae_ext.data.sample import Crop, CropSampler
from mae_ext.data.video.decoder import Children
from mae_ext.data.video.reader import MAX_PIXELS, MEMORY_BYTES, SUFFIXES, VideoReader
from mae_ext.errors import BadSample

DECODERS = ("pyav", "decord", "torchcodec")
LENGTH, STRIDE = 8, 3
SCALED = 100


def of_films(films: list[Path], clips: int) -> None:
    """Prints a row for each decoder."""
    children = Children(120.0, MEMORY_BYTES, MAX_PIXELS)
    totals: dict[str, Counter[str]] = {name: Counter() for name in DECODERS}
    apart: dict[str, list[float]] = {name: [0.0, 0.0] for name in DECODERS}
    bad = 0
    for film in films:
        try:
            with children.open(str(film), None, "pyav") as opened:
                count = len(opened.clip.times)
        except BadSample as error:
            bad += 1
            print(f"    not good, with any decoder: {error}", file=sys.stderr)
            continue
        true = player(film)
        if true.shape[1:3] != (opened.clip.height, opened.clip.width):
            print(f"    {film.name}: ffmpeg shows another stream of it than the largest; not compared", file=sys.stderr)
            continue
        starts = np.random.default_rng(len(film.name)).integers(max(1, count - LENGTH * STRIDE), size=clips).tolist()
        numbers_of_film = sorted({min(start + i * STRIDE, count - 1) for start in starts for i in range(LENGTH)})
        stored: dict[int | None, NDArray[np.uint8]] = {}
        for name in DECODERS:
            tally = totals[name]
            for side in (None, SCALED):
                try:
                    with children.open(str(film), side, name) as opened:
                        frames, by = opened.frames(numbers_of_film).copy(), opened.clip.decoder
                except BadSample as error:
                    tally["refused"] += 1
                    print(f"    {name}: {error}", file=sys.stderr)
                    continue
                same = stored.setdefault(side, frames)
                off = np.abs(frames.astype(np.int16) - same)
                if side is None:
                    tally["films"] += 1
                    tally["by itself"] += by == name
                    tally["frames"] += len(numbers_of_film)
                    skipped = max(0, len(true) - count)
                    tally["wrong"] += sum(
                        number + skipped >= len(true) or wrong(true, number + skipped, frame)
                        for number, frame in zip(numbers_of_film, frames, strict=True)
                    )
                    tally["bytes differ"] += bool(off.any())
                elif off.any():
                    tally["scaled bytes differ"] += 1
                    apart[name] = [max(apart[name][0], float(off.max())), max(apart[name][1], float(off.mean()))]
    print(f"{len(films) - bad} good films, {bad} that none reads\n")
    print("| decoder | films by itself | frames wrong | refused | other bytes than PyAV | scaled: other bytes |")
    print("|---|---|---|---|---|---|")
    for name, tally in totals.items():
        most, mean = apart[name]
        scaled = f"{tally['scaled bytes differ']}, by {most:g} at most, {mean:.2f} on average of the worst"
        print(
            f"| {name} | {tally['by itself']} of {tally['films']} | {tally['wrong']} of {tally['frames']} | "
            f"{tally['refused']} | {tally['bytes differ']} | {scaled} |",
            flush=True,
        )


def of_faults(draws: int) -> None:
    counted: dict[str, Counter[str]] = {name: Counter() for name in DECODERS}
    slowest = dict.fromkeys(DECODERS, 0.0)
    readers = {name: VideoReader((16, 36, 64), stride=1, decoder=name, deadline_s=DEADLINE_S) for name in DECODERS}
    with tempfile.TemporaryDirectory() as folder:
        sound = {name: write(Path(folder) / name, COUNT, codec) for name, codec in CODECS.items()}
        files = [write(Path(folder) / f"edited{k}.mp4", COUNT, shift=-k) for k in range(1, draws + 1)]
        for name, path in sound.items():
            for kind, damage in DAMAGE.items():
                for draw in range(draws):
                    files.append(Path(folder) / f"{draw}-{kind.replace(' ', '_')}-{name}")
                    chance = np.random.default_rng([draw, len(kind), len(name)])
                    files[-1].write_bytes(damage(path.read_bytes(), chance))
        for reader in readers.values():  # what a child imports first is nobody's fault
            verdict(reader, sound["h264.mp4"])
        for file in files:
            for name, reader in readers.items():
                outcome, seconds = verdict(reader, file)
                if outcome == "wrong pixels" and file.name.startswith("edited"):
                    outcome = "right" if _in_order(reader, file) else outcome
                known = outcome in ("right", "shorter", "wrong pixels", "a frame twice", "crashed", "hung")
                counted[name][outcome if known else "refused by name"] += 1
                slowest[name] = max(slowest[name], seconds)
    columns = ["right", "shorter", "refused by name", "wrong pixels", "a frame twice", "crashed", "hung"]
    print(f"\n{len(files)} damaged files\n\n| decoder | {' | '.join(columns)} | slowest, s |\n|{'---|' * 9}")
    for name, counts in counted.items():
        cells = " | ".join(str(counts[column]) for column in columns)
        print(f"| {name} | {cells} | {slowest[name]:.2f} |", flush=True)


def _in_order(reader: VideoReader, file: Path) -> bool:
    """Of a film whose first frames an edit list hides: do others follow one another?"""
    shown = numbers(reader.read(str(file), [at(0, (16, 36, 64))])[0].x)
    return bool(shown == list(range(shown[0], shown[0] + 16)))


def of_speed(films: list[Path], rounds: int) -> None:
    readers = {name: VideoReader((16, 224, 224), decoder=name) for name in DECODERS}
    walls: dict[str, list[float]] = {name: [] for name in DECODERS}
    busy = dict.fromkeys(DECODERS, 0.0)

    def crop(extent: tuple[int, ...]) -> Crop:
        first = (extent[0] - 16) // 2
        return Crop((first, 0, 0), (first + 16, *extent[1:]), (False,) * 3)

    crops: list[CropSampler] = [crop]
    for reader in readers.values():
        reader.read(str(films[0]), crops)
    for _ in range(rounds):
        for name, reader in readers.items():
            before, began = _cpu(reader), time.perf_counter()
            for film in films:
                reader.read(str(film), crops)
            walls[name].append(time.perf_counter() - began)
            busy[name] += _cpu(reader) - before
    print(f"\n{len(films)} films, {rounds} rounds\n")
    print("| decoder | clips/s, median | processor time a clip, ms |\n|---|---|---|")
    for name in DECODERS:
        rate = len(films) / float(np.median(walls[name]))
        print(f"| {name} | {rate:.1f} | {1000 * busy[name] / rounds / len(films):.0f} |", flush=True)


def _cpu(reader: VideoReader) -> float:
    (child,) = reader.children._idle
    used = psutil.Process(child.process.pid).cpu_times()
    return float(used.user + used.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=Path, required=True, help="a folder, at any depth")
    parser.add_argument("--clips", type=int, default=3, help="of each film")
    parser.add_argument("--draws", type=int, default=10, help="of each damage: 10 are 250 files")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--speed-films", type=int, default=8)
    args = parser.parse_args()
    films = sorted(path for path in args.films.rglob("*") if path.suffix.lower() in SUFFIXES)
    of_faults(args.draws)
    of_films(films, args.clips)
    good = [film for film in films if "corrupt" not in film.name]
    of_speed(good[:: max(1, len(good) // args.speed_films)][: args.speed_films], args.rounds)


if __name__ == "__main__":
    main()
