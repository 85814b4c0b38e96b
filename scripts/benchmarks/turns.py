"""Sides of a benchmark, each a process of its own: they take turns, a step each, and none sees another's memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_bytes(device: torch.device) -> int:
    """Of this process, since it began: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage: its maximum is inherited from the parent that started us.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) << 10


def serve(build: Callable[[], Callable[[], object]], device: torch.device) -> None:
    """In the process of a side: a line in, a step, [seconds, peak bytes, bytes before the model was built] out.

    The step has to return after the device has finished. An exception is answered {"error": its text}, and is the end.
    """
    before = peak_bytes(device)
    step: Callable[[], object] | None = None
    for _ in sys.stdin:
        try:
            step = step or build()
            began = time.perf_counter()
            step()
            answer: Any = [time.perf_counter() - began, peak_bytes(device), before]
        except Exception as error:  # noqa: BLE001 whatever a peer raises is its result
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def take_turns(commands: dict[str, list[str]], rounds: int, warm: int = 2) -> dict[str, dict[str, Any]]:
    """-> for each side {"times", "peak", "before"}, the first `warm` rounds not timed; or {"error": text}."""
    sides = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    found: dict[str, dict[str, Any]] = {name: {"times": []} for name in sides}
    for turn in range(rounds + warm):
        for name, process in sides.items():
            if "error" in found[name]:
                continue
            assert process.stdin and process.stdout
            process.stdin.write("step\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline() or '{"error": "the process ended"}')
            if isinstance(answer, dict):
                found[name] = answer
                continue
            seconds, found[name]["peak"], found[name]["before"] = answer
            found[name]["times"] += [seconds] if turn >= warm else []
    for process in sides.values():
        process.communicate()
    return found
