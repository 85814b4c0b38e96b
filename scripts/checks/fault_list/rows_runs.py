"""R1, R3, R9, R11: runs that are killed, told to stop, lose a rank, or go on for long."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import psutil
from engine.test_distributed import alone, check_killed_rank
from fault_list.inputs import MODALITIES, make_photos, write_config
from fault_list.trial import Outcome, Row
from faults.kills import command, environment, finish, launch, rows, run_with_kills, trajectory, wait_until

from mae_ext.engine.checkpoint import latest

KILLS = 5
"""Of one run."""

STEPS = 120


def undisturbed(config: Path, data: Path, out: Path) -> list[tuple[int, float, float]]:
    done = finish(command(config, data, out, "--set", "train.workers=0"))
    assert done.returncode == 0, done.stderr
    return trajectory(out)


def prepare_kills(shared: Path) -> None:
    for kind, (make, overrides) in MODALITIES.items():
        data = make(shared / kind)
        config = write_config(shared, {"train.steps": STEPS, "train.save_every": 10} | overrides, kind)
        assert len(undisturbed(config, data, shared / f"{kind}-whole")) == STEPS


def killed(number: int, folder: Path, shared: Path) -> Outcome:
    kind = list(MODALITIES)[number % len(MODALITIES)]
    report = run_with_kills(shared / f"{kind}.yaml", shared / kind, folder / "run", KILLS, seed=number)
    same = trajectory(folder / "run") == trajectory(shared / f"{kind}-whole")
    count = len(report.kills)
    return Outcome(count, () if same else (f"{kind}: other losses, killed after steps {report.kills}",) * count)


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PROMPT_S, PATIENT_S = 2.0, 30.0
"""Of a processor, which a busy machine does not stretch, and by the clock."""


def prepare_signals(shared: Path) -> None:
    photos = make_photos(shared / "photos")
    config = write_config(shared, {"train.steps": 900, "train.save_every": 900})
    undisturbed(config, photos, shared / "whole")


def signalled(number: int, folder: Path, shared: Path) -> Outcome:
    """One signal, or, from 60 on, two in a row."""
    chance, twice = random.Random(number), number >= 60
    which, out = SIGNALS[number % 3], folder / "run"
    process = launch(command(shared / "config.yaml", shared / "photos", out), folder / "log")
    step = chance.randrange(1, 300)
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) >= step, process), (folder / "log").read_text()[-500:]
    time.sleep(chance.uniform(0, 0.02))
    if twice:  # stopped, it cannot take the first before the second is there
        process.send_signal(signal.SIGSTOP)
        process.send_signal(which)
        process.send_signal(SIGNALS[(number + 1) % 3])
        which = signal.SIGCONT
    began, before = time.monotonic(), sum(psutil.Process(process.pid).cpu_times()[:2])
    process.send_signal(which)
    _, status, used = os.wait4(process.pid, 0)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    seconds, spent = time.monotonic() - began, used.ru_utime + used.ru_stime - before
    logged, whole, lost = trajectory(out), trajectory(shared / "whole"), []
    if logged != whole[: len(logged)]:
        lost.append("other losses")
    elif twice and not (code > 128 or code < 0):
        lost.append(f"the second signal ended it with {code}")
    elif not twice:
        newest = latest(out)
        if code != 75 or newest is None or newest.name != f"step-{len(logged):08d}":
            lost.append(f"{which.name}: exit {code}, {len(logged)} steps logged, saved {newest}")
    if spent > PROMPT_S or seconds > PATIENT_S:
        lost.append(f"{spent:.1f} s of a processor and {seconds:.1f} s by the clock until it ended")
    return Outcome(1, tuple(lost), {"processor s": round(spent, 2), "clock s": round(seconds, 2)})


RANK_STEPS = 300


def prepare_ranks(shared: Path) -> None:
    photos = make_photos(shared / "photos")
    config = write_config(shared, {"train.steps": RANK_STEPS, "train.save_every": 20})
    assert alone(config, photos, shared / "one") == 0


def rank_killed(number: int, folder: Path, shared: Path) -> Outcome:
    """Of two ranks one is killed; one goes on, and ends as a run that never had two."""
    (folder / "one").symlink_to(shared / "one")
    config, photos = shared / "config.yaml", shared / "photos"
    after = 5 + 25 * (number % 10)
    seconds = check_killed_rank(config, photos, folder, "run", number % 2, after, RANK_STEPS)
    return Outcome(1, () if seconds < 60 else (f"the other waited {seconds:.0f} s",), {"wait s": round(seconds, 1)})


LONG = (300, 10_000)
"""Steps of the trials, of which the quick form is the first."""

FLAT_MIB = 1.0
"""In a thousand steps."""


def prepare_long(shared: Path) -> None:
    photos = make_photos(shared / "photos", 200)
    for number in range(0, 200, 20):
        file = sorted(photos.iterdir())[number]
        file.write_bytes(file.read_bytes()[: 40 + number])


def long(number: int, folder: Path, shared: Path) -> Outcome:
    """Steps over files of which one in twenty is cut off, with two workers."""
    steps = LONG[number]
    overrides = {"train.steps": steps, "train.save_every": 500, "train.workers": 2, "train.log_every": 1}
    image = {"modalities.image.data.max_bad_fraction": 0.2, "modalities.image.data.statistics": "none"}
    config, out = write_config(folder, overrides | image), folder / "run"
    process = launch(command(config, shared / "photos", out), folder / "log", environment())
    seen: list[tuple[int, float, int, int]] = []
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(steps / 5000)
        try:
            state = watched.memory_info().rss / 2**20, watched.num_fds(), watched.num_threads()
        except psutil.Error:
            break
        seen.append((len(rows(out / "metrics.jsonl")), *state))
    assert process.wait(60) == 0, (folder / "log").read_text()[-1000:]
    late = np.array([row for row in seen if steps // 5 < row[0] < steps])  # at the end all is closed
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) * 1000
    bad = len(rows(out / "bad_samples.jsonl"))
    lost = [] if number == 0 or slope < FLAT_MIB else [f"memory grows by {slope:.2f} MiB in 1000 steps"]
    # Files are open for moments: what stays open shows in the median of many looks.
    first, last = (np.median(part[:, 2:], axis=0) for part in (late[: len(late) // 3], late[-len(late) // 3 :]))
    lost += [] if np.abs(first - last).max() <= 2 else [f"descriptors, threads went from {first} to {last}"]
    lost += [] if len(trajectory(out)) == steps and bad == 10 else [f"{len(trajectory(out))} steps, {bad} bad files"]
    return Outcome(1, tuple(lost), {"growth in 1000 steps MiB": round(slope, 3)} if number else {})


ROWS = (
    Row(
        "R1",
        "SIGKILL of all processes at random moments, 5 in a run, other workers at each start, three modalities: losses "
        "are those of an undisturbed run, to the bit",
        {"quick": 3, "full": 30}, killed, 900, prepare_kills,
    ),
    Row(
        "R3",
        "SIGTERM, SIGINT, SIGUSR1: exit 75, saved at the last step, in 2 s of a processor; two in a row: ended at once",
        {"quick": 6, "full": 80}, signalled, 240, prepare_signals,
    ),
    Row(
        "R9",
        "one of two ranks killed: the other ends within 60 s, one rank goes on to the losses of a run of one (to 1e-5)",
        {"quick": 1, "full": 10}, rank_killed, 600, prepare_ranks,
    ),
    Row(
        "R11", "10 000 steps, one file in twenty damaged: memory, descriptors and threads stay",
        {"quick": 1, "full": 2}, long, 7200, prepare_long,
    ),
)  # fmt: skip
