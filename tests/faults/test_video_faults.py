"""Damage to video files, counted: nothing crashes or hangs, faults have names, no frame comes twice, nothing leaks.

Run in full with `scripts/test -m slow tests/faults/test_video_faults.py -s`, which prints the figures.
"""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
from data.video.numbered_clips import at, numbers, write

from mae_ext.config import parse_config
from mae_ext.data.video.reader import VideoReader
from mae_ext.engine.train import train
from mae_ext.errors import BadSample

CODECS = {"h264.mp4": "libx264", "h264.mkv": "libx264", "mpeg4.avi": "mpeg4", "vp9.webm": "libvpx-vp9"}
COUNT = 60
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The same sixty frames in four files."""
    folder = tmp_path_factory.mktemp("sound")
    return {name: write(folder / name, COUNT, codec) for name, codec in CODECS.items()}


def truncated(content, chance):
    return content[: int(chance.integers(1, len(content)))]


def flipped(bits):
    def damage(content, chance):
        damaged = bytearray(content)
        for place in chance.integers(0, len(content), bits):
            damaged[place] ^= 1 << int(chance.integers(8))
        return bytes(damaged)

    return damage


def zeroed(content, chance):
    length = int(chance.integers(16, len(content) // 4))
    start = int(chance.integers(0, len(content) - length))
    return content[:start] + bytes(length) + content[start + length :]


def dropped(content, chance):
    length = int(chance.integers(1, len(content) // 8))
    start = int(chance.integers(0, len(content) - length))
    return content[:start] + content[start + length :]


DAMAGE = {
    "truncated": truncated, "1 bit": flipped(1), "20 bits": flipped(20), "200 bits": flipped(200), "zeroed": zeroed,
    "a part missing": dropped,
}  # fmt: skip


def verdict(reader, path):
    """ "right", "shorter" (fewer frames, all of them right), "wrong pixels", "a frame twice" or a kind of BadSample.

    And the seconds that it took.
    """
    began = time.monotonic()
    extents = []

    def late(first):
        def crop(extent):
            extents.append(extent[0])
            return at(min(first, extent[0] - 16), (16, 36, 64))(extent)

        return crop

    try:
        samples = reader.read(str(path), [late(0), late(22), late(44)])
    except BadSample as error:
        return error.kind, time.monotonic() - began
    seconds = time.monotonic() - began
    firsts = [min(first, extents[0] - 16) for first in (0, 22, 44)]
    if all(numbers(sample.x) == list(range(k, k + 16)) for k, sample in zip(firsts, samples, strict=True)):
        return "right" if extents[0] == COUNT else "shorter", seconds
    # What damage does to pixels no decoder tells; but no frame may stand in for its neighbour.
    alike = any((sample.x[:, 1:] == sample.x[:, :-1]).all(-1).all(-1).all(0).any() for sample in samples)
    return "a frame twice" if alike else "wrong pixels", seconds


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_and_forty_damaged_files_cost_no_crash_and_no_hang(sound, tmp_path):
    """10 draws of 6 kinds of damage to 4 codecs; and edit lists that hide the first frames."""
    reader = VideoReader((16, 36, 64), stride=1, deadline_s=DEADLINE_S)
    found, slowest = Counter(), 0.0
    for name, path in sound.items():
        content = path.read_bytes()
        for kind, damage in DAMAGE.items():
            for draw in range(10):
                damaged = tmp_path / f"{draw}-{kind.replace(' ', '_')}-{name}"
                damaged.write_bytes(damage(content, np.random.default_rng([draw, len(kind), len(name)])))
                outcome, seconds = verdict(reader, damaged)
                found[kind, outcome] += 1
                slowest = max(slowest, seconds)
                assert seconds < 3 * DEADLINE_S + 5, damaged
    for k in range(1, 11):
        path = write(tmp_path / f"edited{k}.mp4", COUNT, shift=-k)
        try:
            got = numbers(reader.read(str(path), [at(0, (16, 36, 64))])[0].x)
            assert got == list(range(got[0], got[0] + 16)), (k, got)
            found["edit list", "right"] += 1
        except BadSample as error:
            found["edit list", error.kind] += 1
    print(json.dumps({"slowest_s": round(slowest, 2), **{" -> ".join(k): n for k, n in sorted(found.items())}}))
    assert sum(found.values()) == 250
    assert not {kind for _, kind in found} & {"crashed", "out of memory", "a frame twice"}, found
    assert found["1 bit", "right"] + found["1 bit", "wrong pixels"] > 10  # not everything is refused


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_thousand_decodes_leave_memory_where_it_was(sound):
    reader = VideoReader((16, 36, 64), stride=1)
    paths = [str(p) for p in sound.values()]
    process, after = psutil.Process(), {}

    def resident():
        # The child's own maximum varies over its 500 files; ours, and the number of children, may not grow.
        return process.memory_info().rss >> 10, sum(c.memory_info().rss for c in process.children()) >> 10

    for k in range(5000):
        reader.read(paths[k % len(paths)], [at(k % 40, (16, 36, 64))])
        if (k + 1) % 500 == 250:
            after[k + 1] = (*resident(), process.num_fds(), len(process.children()))
    print(json.dumps({f"after {k}": row for k, row in after.items()}), "KiB ours, KiB children, descriptors, children")
    rows = list(after.values())
    slope = (rows[-1][0] - rows[1][0]) / 4  # KiB in 1000 decodes, after the first 750
    assert slope < 1024, slope
    assert abs(rows[-1][1] - rows[1][1]) < 32 << 10
    assert {row[2:] for row in rows[1:]} == {rows[1][2:]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_half_a_percent_of_broken_files_is_listed_and_gives_the_same_samples_twice(sound, tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    content = sound["h264.mp4"].read_bytes()
    for k in range(199):
        write(folder / f"{k:03d}.mp4", 24 + k % 5, size=(36, 64))
    (folder / "100cut.mp4").write_bytes(content[: len(content) // 2])

    def run(workers):
        video = {
            "size": [4, 24, 16], "patch": [2, 8, 4], "batch": 8, "mask": {"name": "tube", "ratio": 0.75},
            "data": {"path": str(folder), "reader": {"name": "video", "stride": 2}, "augment": {"fixed": [0]}},
        }  # fmt: skip
        model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
        settings = {"epochs": 2, "precision": "fp32", "workers": workers, "tensorboard": False}
        out = Path(tmp_path / f"run{workers}")
        train(parse_config({"modalities": {"video": video}, "model": model, "train": settings}), out)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        bad = [json.loads(line) for line in (out / "bad_samples.jsonl").read_text().splitlines()]
        return [row["loss"] for row in rows], [(Path(row["path"]).name, row["kind"]) for row in bad]

    first, second = run(0), run(2)
    assert first == second and len(first[0]) == 50
    assert first[1] == [("100cut.mp4", "truncated")]
