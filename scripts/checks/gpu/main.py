"""Everything that only a GPU can show of mae_ext, in one command of at most eight minutes.

    scripts/gpu_check                          # on a machine with one GPU; no network, no decoders of films
    scripts/gpu_check --only eager,compile     # some sections
    scripts/gpu_check --device cpu --tiny      # all of it in half a minute, to find its own mistakes
    scripts/gpu_check --wheels                 # what a bare machine has to be brought

Each section is a process with a time limit of its own; none begins when the minutes are over, and its limit is never
more than what is left. Results are appended to gpu_check.jsonl in --out after each measurement; the last lines are
tables in markdown. What failed, ran out of time or was left out is in them by name. Exit code 1 where a section failed.
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gpu import bare
from gpu.results import Check, append, read, table

LIMITS_S = {
    "machine": 40, "inputs": 60, "every": 90, "syncs": 60, "eager": 110, "peer": 60, "runs": 110, "compile": 140,
    "determinism": 150, "saves": 60, "kills": 160, "profile": 40,
}  # fmt: skip
"""Sections in their order, each a module or a function of one, and the most that it may take."""

PLACES = {
    "inputs": "inputs",
    "compile": "steps",
    "eager": "steps",
    "peer": "steps",
    "syncs": "runs",
    "determinism": "kills",
}
"""Modules of sections that are called otherwise."""

NEED_FILES = {"every", "syncs", "runs", "determinism", "kills"}

LEAST_S = 8.0
"""Of what is left, for a section to begin."""


def section(name: str) -> Callable[[Check], None]:
    function: Callable[[Check], None] = getattr(importlib.import_module(f"gpu.{PLACES.get(name, name)}"), name)
    return function


def settled(tiny: bool) -> None:
    """Imports for all sections at once, which are forks of this process; nothing here may touch the device."""
    for name in LIMITS_S:
        section(name)
    import monai.data.box_utils  # noqa: F401
    import torch

    import mae_ext.engine.train
    import mae_ext.tasks.detect.task  # noqa: F401

    if tiny:
        torch.set_num_threads(1)


def run(name: str, limit_s: float, check: Check) -> bool:
    """In a fork, in a process group of its own; whether it ended well and in time."""
    check.out.mkdir(parents=True, exist_ok=True)
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.setsid()
        log = os.open(check.out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        code = 1
        try:
            section(name)(check)
            code = 0
        except BaseException as error:  # noqa: BLE001 the process ends here, whatever it was
            traceback.print_exc()
            check.row("failed", error=f"{type(error).__name__}: {str(error)[:400]}")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = None
    while status is None and time.monotonic() - began < limit_s:
        pid, ended = os.waitpid(child, os.WNOHANG)
        status = ended if pid else None
        time.sleep(0.02)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check.row("failed", error=f"no end within {limit_s:.0f} s; what it had measured stands above")
    else:
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            check.row("failed", error=f"ended by signal {-code}")
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it left behind
    append(check.journal, {"section": "seconds", "what": name, "seconds": round(time.monotonic() - began, 1)})
    return status == 0


def check_all(args: argparse.Namespace, began: float) -> bool:
    end, journal, well = began + 60 * args.minutes, args.out / "gpu_check.jsonl", True
    asked = args.only or list(LIMITS_S)
    wanted = {*asked, *(["inputs"] if NEED_FILES & {*asked} else [])}
    names = [name for name in LIMITS_S if name in wanted]
    for name in names:
        left = end - time.monotonic()
        limit = min(float(LIMITS_S[name]), left)
        folder = args.out / "sections" / name
        check = Check(name, args.device, args.tiny, folder, args.out / "inputs", journal, time.monotonic() + limit)
        if left < LEAST_S:
            check.skip("all of it", f"{max(0.0, left):.0f} s were left of {args.minutes:g} minutes")
            continue
        well &= run(name, limit, check)
    return well


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    on_gpu = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if on_gpu else "cpu")
    parser.add_argument("--tiny", action="store_true", help="small models and few steps, which measure nothing")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(LIMITS_S)}")
    parser.add_argument("--out", type=Path, default=Path("gpu_check"))
    parser.add_argument("--wheels", action="store_true", help="say what a bare machine has to be brought, and how")
    args = parser.parse_args()
    if args.wheels:
        print(bare.instructions())
        return
    args.only = [name for name in args.only.split(",") if name]
    if unknown := [name for name in args.only if name not in LIMITS_S]:
        parser.error(f"--only: no section {', '.join(unknown)} (there are {', '.join(LIMITS_S)})")
    if lacking := bare.missing():
        print(f"{', '.join(lacking)} cannot be imported here. Bring the wheels:\n\n{bare.instructions()}")
        sys.exit(2)
    args.out = args.out.absolute()
    shutil.rmtree(args.out / "sections", ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu_check.jsonl").unlink(missing_ok=True)
    settled(args.tiny)
    well = check_all(args, began)
    print(table(args.out / "gpu_check.jsonl"))
    failed = [row for row in read(args.out / "gpu_check.jsonl") if row["what"] == "failed"]
    for row in failed:
        print(f"{row['section']} failed: {row['error']} ({args.out}/sections/{row['section']}.log)")
    print(f"{time.monotonic() - began:.0f} s in all; every measurement is in {args.out}/gpu_check.jsonl")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
