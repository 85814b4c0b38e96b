"""R6, R7, R8, R12, D7: workers that die or hang, too little shared memory, NaN, golden values, files that are bad."""

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

from engine.test_distributed import start_ranks, wait_for
from fault_list.inputs import TESTS, install_faulty_reader, make_photos, write_config
from fault_list.rows_saves import train
from fault_list.trial import Outcome, Row
from faults.kills import command, environment, rows, trajectory

from mae_ext.engine import checkpoint
from mae_ext.engine.failure import replay
from mae_ext.model.mae import MAE
from mae_ext.strict_json import dumps

PLAIN = {"modalities.image.data.statistics": "none"}
TIMEOUT_S = 3.0


def prepare_workers(shared: Path) -> None:
    photos = make_photos(shared / "photos")
    settings = {"train.steps": 20, "modalities.image.batch": 2, "train.worker_timeout": TIMEOUT_S}
    assert train(write_config(shared, settings | PLAIN), photos, shared / "whole") == 0


def workers_fail(number: int, folder: Path, shared: Path) -> Outcome:
    """Over four files of forty a worker is killed (PNG) or hangs in C (JPEG), once each."""
    install_faulty_reader(folder)
    match = "|".join(f"{n:03d}" for n in range(4 * number, 4 * number + 4))
    reader = {"name": "faulty", "fault": "either", "match": match, "once": str(folder / "marker")}
    settings = {"train.steps": 20, "modalities.image.batch": 2, "train.worker_timeout": TIMEOUT_S, "train.workers": 1}
    config = write_config(folder, settings | PLAIN | {"modalities.image.data.reader": reader})
    code, out = train(config, shared / "photos", folder / "run"), folder / "run"
    hit = len(list(folder.glob("marker.*")))
    said = folder.with_suffix(".log").read_text()
    waited = max((row["data_wait"] for row in rows(out / "metrics.jsonl")), default=0.0)
    lost = [] if code == 0 and trajectory(out) == trajectory(shared / "whole") else [f"ended with {code}, other losses"]
    lost += [] if said.count("starting: ") == 1 and not rows(out / "bad_samples.jsonl") else ["the run began again"]
    lost += [] if waited < 2 * (TIMEOUT_S + 5) else [f"waited {waited:.1f} s"]
    return Outcome(hit, tuple(lost), {"wait s": round(waited, 1)})


SMALL = ((2, 128, 4), (64, 512, 8))
"""MiB of /dev/shm, a picture's side and steps of the trials, of which the quick form is the first."""


def little_memory(number: int, folder: Path, _: Path) -> Outcome:
    """/dev/shm of 64 MiB, in a mount of the process's own, and batches that, asked for ahead, do not fit."""
    photos, (mib, side, steps) = make_photos(folder / "photos"), SMALL[number]
    settings = {"modalities.image.size": [side] * 2, "modalities.image.patch": [side // 8] * 2}
    loading = {"train.workers": 2 + 2 * number, "train.prefetch": 4, "train.steps": steps}
    config = write_config(folder, settings | PLAIN | loading | {"modalities.image.batch": 20 + 20 * number})
    line = f'mount -t tmpfs -o size={mib}m tmpfs /dev/shm && exec "$@"'
    arguments = ["unshare", "-m", "sh", "-c", line, "sh", *command(config, photos, folder / "run")]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False, timeout=200)
    said = done.stderr.splitlines()[-1] if done.stderr else ""
    refused = done.returncode == 2 and "shm" in said.replace("shared memory", "shm") and any(c.isdigit() for c in said)
    done_steps = len(rows(folder / "run" / "metrics.jsonl"))
    ran = done.returncode == 0 and done_steps == steps
    how = {"count refused": 1} if refused else {"count ran, as it did without": 1} if ran else {}
    return Outcome(1, () if how else (f"ended with {done.returncode} after {done_steps} steps: {said[:200]}",), how)


def may_mount() -> str:
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else "mounting takes root"


KINDS = ("input", "loss", "gradient", "one rank")


def prepare_photos(shared: Path) -> None:
    make_photos(shared / "photos")


def not_finite(number: int, folder: Path, shared: Path) -> Outcome:
    kind, draw, out = KINDS[number % 4], number // 4, folder / "run"
    settings: dict[str, object] = {"train.steps": 40}
    if kind in ("input", "one rank"):
        install_faulty_reader(folder)
        fault = ("nan", "inf")[draw % 2]
        settings |= PLAIN | {
            "modalities.image.data.reader": {"name": "faulty", "fault": fault, "match": f"{7 + draw:03d}"}
        }
    elif kind == "loss":
        settings |= {"train.lr": 10.0 ** (28 + draw), "train.lr_per": None, "train.warmup_steps": 0, "train.clip": None}
    else:
        real, steps = MAE.from_config, count(1)

        def poisoned(config: object) -> MAE:
            model = real(config)
            bad = 3 + 4 * draw
            model.encoder.class_token.register_hook(lambda g: g * (float("nan") if next(steps) == bad else 1.0))
            return model

        MAE.from_config = poisoned
    config = write_config(folder, settings)
    if kind == "one rank":
        codes = wait_for(start_ranks(config, shared / "photos", out))
    else:
        codes = [train(config, shared / "photos", out)]
    failures = list(out.glob("failure-*"))
    if set(codes) != {1} or len(failures) != 1:
        return Outcome(1, (f"{kind}: ended with {codes}, {len(failures)} records",))
    record = json.loads((failures[0] / "record.json").read_text())
    weights = checkpoint.read_tensors(checkpoint.find(failures[0]) / "model.safetensors")
    lost = [] if all(tensor.isfinite().all() for tensor in weights.values()) else [f"{kind}: weights are spoilt"]
    if kind in ("input", "loss"):
        again = json.loads(dumps(replay(failures[0])))
        lost += [] if again == {k: v for k, v in record.items() if k != "files"} else [f"{kind}: replayed to {again}"]
    return Outcome(1, tuple(lost))


def golden(_: int, __: Path, ___: Path) -> Outcome:
    """The curves of three modalities, two joint runs and the tasks, compared with what is kept."""
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "golden" / "test_golden.py")]
    done = subprocess.run(line, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()[-1] if done.stdout else ""
    return Outcome(1, () if done.returncode == 0 else (said or done.stderr[-200:],), {"pytest": said.split(" in ")[0]})


SHARES = {0: 1, 1: 4}
"""Bad files of 200 by trial: half a percent, and two, where one percent is allowed."""


def bad_share(number: int, folder: Path, _: Path) -> Outcome:
    photos, bad = make_photos(folder / "photos", 200), SHARES[number]
    for k in range(bad):
        file = photos / f"{20 + 40 * k:03d}.png"
        file.write_bytes(file.read_bytes()[:60])
    settings = PLAIN | {"train.steps": 60, "modalities.image.data.max_bad_fraction": 0.01}
    config, ends = write_config(folder, settings), []
    for workers in (0, 2):
        out = folder / f"run{workers}"
        code = train(config, photos, out, "--set", f"train.workers={workers}")
        ends.append((code, trajectory(out), [row["path"] for row in rows(out / "bad_samples.jsonl")]))
    (code, _, listed), other = ends
    lost = [] if ends[0] == other else ["other keys with other workers"]
    lost += [] if code == (0 if bad == 1 else 1) else [f"{bad} of 200 bad: ended with {code}"]
    lost += [] if (len(listed) == 1 if bad == 1 else len(listed) >= 3) else [f"listed {listed}"]
    return Outcome(1, tuple(lost))


ROWS = (
    Row(
        "R6",
        "loader workers killed, and hung in C, 20 times each: the run goes on, losses to the bit, waits of seconds",
        {"quick": 1, "full": 10}, workers_fail, 300, prepare_workers,
    ),
    Row(
        "R7", "/dev/shm of 64 MiB: refused with the number that is needed, or not needed",
        {"quick": 1, "full": 2}, little_memory, 240, None, may_mount,
    ),
    Row(
        "R8",
        "NaN and infinity in inputs, loss, one gradient, on one rank: weights unchanged, the record repeats itself",
        {"quick": 4, "full": 20}, not_finite, 300, prepare_photos,
    ),
    Row(
        "R12", "curves, weights and scores of whole runs beside those that are kept",
        {"quick": 0, "full": 1}, golden, 3600,
    ),
    Row(
        "D7", "half a percent of bad files: finished, the same keys again; two percent: ended, with the list",
        {"quick": 2, "full": 2}, bad_share, 300,
    ),
)  # fmt: skip
