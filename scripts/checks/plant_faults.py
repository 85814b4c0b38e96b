"""Would the tests notice? One-line faults, planted one at a time in a copy of this checkout, and the tests run on it.

    python scripts/checks/plant_faults.py                  every fault of tests/faults/planted/*.yaml
    python scripts/checks/plant_faults.py --only model     one table, one module (data/plan.py), or one fault by name
    python scripts/checks/plant_faults.py --check          no tests: the faults that do not fit, and where to aim them
    python scripts/checks/plant_faults.py --all-tests      afterwards: the survivors again, under the whole fast suite

A table says which tests judge a module, most telling first, beside tests/x/test_y.py that mirrors mae_ext/x/y.py; and
the faults:

    tests:
      mae_ext/engine/step.py: [tests/engine/test_train.py]
    faults:
      - name: clip-unused                   # unique in all tables
        file: mae_ext/engine/step.py
        what: train.clip is never applied
        old: if train.clip is not None      # once in the file: a line, or as much of it as says where
        new: if False
        tests: [tests/engine/test_train.py::test_x]     # of this fault, instead of its module's

Every worker has a copy of the tracked files, which is what is imported in it and in every process that tests start; no
bytecode is written, so none can hide a change. The tests run unplanted first: what is red then cannot notice anything,
is left out of the planted runs, and is said. A test that notices has to do so twice, or it is passed over: some go by
the clock, and a busy machine is no fault. A run over its time limit counts as noticed, and is named so.

Results go to --out, a JSON line for each fault, and a table with the survivors to summary.md beside it. The same
command goes on where it was interrupted; a fault runs again once its entry, its file or its tests have changed. Exit
code: 0 all noticed, 1 some survived, 2 a table that does not fit the code, or a test that is red by itself.
"""

import argparse
import ast
import hashlib
import json
import os
import queue
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from fault_tables import Fault, digest, planted, read_tables, stale

ROOT = Path(__file__).resolve().parents[2]
UNPLANTED_S = 3600.0
ALL_TESTS = ("tests",)


def copy_tracked(root: Path, to: Path) -> None:
    """The tracked files as they are now, committed or not."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)


class Copy:
    """A copy of the checkout in which tests run, one pytest at a time."""

    def __init__(self, root: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="planted-"))
        self.tree = self.folder / "tree"
        self.group = 0
        copy_tracked(root, self.tree)
        where = "import mae_ext; print(mae_ext.__file__)"
        words = [sys.executable, "-c", where]
        said = subprocess.run(words, cwd="/", env=self._env(), capture_output=True, text=True, check=False)
        if not Path(said.stdout.strip()).is_relative_to(self.tree):
            raise SystemExit(f"the copy is not what is imported, but {said.stdout or said.stderr}")
        words = [sys.executable, __file__, "--serve", str(self.folder / "said")]
        self.server = subprocess.Popen(
            words, cwd=self.tree, env=self._env(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def _env(self) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {"OMP_WAIT_POLICY": "PASSIVE"}
        ours = {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.folder / "tmp")}
        return {**clean, **threads, **ours}

    def pytest(self, arguments: Sequence[str], limit_s: float) -> tuple[int | None, str]:
        """The exit code, None for a run over its limit, and what was said."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        assert self.server.stdin and self.server.stdout
        self.server.stdin.write(json.dumps(["-q", "-p", "no:cacheprovider", "--tb=line", *arguments]) + "\n")
        self.server.stdin.flush()
        self.group = int(self.server.stdout.readline())
        ended, _, _ = select.select([self.server.stdout], [], [], limit_s)
        with suppress(ProcessLookupError):  # it, or whatever it has left behind
            os.killpg(self.group, signal.SIGKILL)
        code, self.group = int(self.server.stdout.readline()), 0
        said = (self.folder / "said").read_text(encoding="utf-8", errors="replace")
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        return (code if ended else None), said

    def judge(self, fault: Fault, tests: Sequence[str], red: Sequence[str], limit_s: float) -> dict[str, Any]:
        """{"outcome": noticed | survived | error, "by": the test that noticed, "seconds"}."""
        path = self.tree / fault.file
        whole = path.read_text(encoding="utf-8")
        began = time.monotonic()
        path.write_text(planted(self.tree, fault), encoding="utf-8")
        passed_over = list(red)
        try:
            while True:
                code, said = self.pytest(["-x", *(f"--deselect={test}" for test in passed_over), *tests], limit_s)
                outcome, by = judged(code, said)
                if not (again := failures(said)[:1]) or judged(*self.pytest(again, limit_s))[0] != "survived":
                    break
                passed_over += again  # a busy machine was what it noticed
        finally:
            path.write_text(whole, encoding="utf-8")
        return {"outcome": outcome, "by": by, "seconds": round(time.monotonic() - began, 1)}

    def remove(self) -> None:
        if self.group:
            with suppress(ProcessLookupError):
                os.killpg(self.group, signal.SIGKILL)
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def stands_on(package: Path) -> set[str]:
    """What the files of a package import when they are imported, but for the package itself."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    return {name for name in found if name.partition(".")[0] not in ("", package.name)}


def serve(said: Path) -> None:
    """In the process of a copy: for each line of pytest's arguments a fork that runs it; its pid, then its exit code.

    What the package stands on is imported once, and nothing of the package: half of a short run would be imports.
    """
    import pytest

    for name in sorted(stands_on(Path("mae_ext"))):
        with suppress(ImportError):
            import_module(name)

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        if not (child := os.fork()):
            os.setsid()
            with said.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(1, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["pytest", *json.loads(line)]
            code = int(pytest.main(sys.argv[1:]))
            sys.stdout.flush()
            os._exit(code)
        print(child, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def failures(said: str) -> list[str]:
    """The tests, or files that could not be imported, of pytest's short summary."""
    return [re.split(r" - ", line, maxsplit=1)[0] for line in re.findall(r"^(?:FAILED|ERROR) (tests/.*)$", said, re.M)]


def judged(code: int | None, said: str) -> tuple[str, str]:
    """pytest's exit code and words -> the outcome, and what says so."""
    if code is None:
        return "noticed", "the time limit"
    if code == 0:
        return "survived", ""
    if code < 0:
        return "noticed", f"the end of pytest by signal {-code}"
    if found := failures(said):
        late = " (timeout)" if re.search(r"Failed: Timeout|^E +Failed: Timeout", said) else ""
        return "noticed", found[0] + late
    return "error", said.strip()[-600:]


def unplanted(copy: Copy, tests: Sequence[str], results: Path) -> list[str]:
    """The tests that are red by themselves. Where none is, that is kept for as long as no file of Python changes."""
    texts = [path.read_bytes() for path in sorted(copy.tree.rglob("*.py"))]
    tree = "unplanted " + hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    if set(tests) <= set(known_results(results).get(tree, {}).get("tests", ())):
        return []
    print(f"unplanted: {len(tests)} files and tests", flush=True)
    code, said = copy.pytest(tests, UNPLANTED_S)
    found = failures(said)
    if code is None or code < 0 or (code and not found):
        raise SystemExit(f"the tests do not run by themselves:\n{said[-2000:]}")
    if not found:
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"digest": tree, "tests": list(tests)}) + "\n")
    return found


def known_results(path: Path) -> dict[str, dict[str, Any]]:
    """digest -> row; the last of each."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be cut
    return {row["digest"]: row for row in map(json.loads, lines)}


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each table, and the survivors."""
    lines = ["| module | faults | noticed | score |", "|---|---|---|---|"]
    tables = sorted({row["table"] for row in rows})
    for name, mine in [*((t, [r for r in rows if r["table"] == t]) for t in tables), ("all", rows)]:
        noticed = sum(row["outcome"] == "noticed" for row in mine)
        lines.append(f"| {name} | {len(mine)} | {noticed} | {noticed / max(len(mine), 1):.0%} |")
    for outcome, title in (("survived", "Not noticed"), ("error", "Not judged")):
        if left := [row for row in rows if row["outcome"] == outcome]:
            lines += ["", f"{title}:", "", *(f"- `{row['name']}` ({row['file']}): {row['what']}" for row in left)]
    return "\n".join(lines) + "\n"


@contextmanager
def closing_at_once(pool: ThreadPoolExecutor) -> Iterator[None]:
    """What is interrupted does not first finish all that waits."""
    try:
        yield
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def run(root: Path, faults: Sequence[Fault], out: Path, jobs: int, limit_s: float, everything: bool) -> int:
    """Judge the faults that have no result yet, print and write the summary. -> the exit code."""
    results = out / "results.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    known = known_results(results)
    of = {f.name: digest(root, f, f.tests) for f in faults}
    if everything:
        survivors = [f for f in faults if known.get(of[f.name], {}).get("outcome") == "survived"]
        of |= {f.name: digest(root, f, ALL_TESTS) for f in survivors}
        due = [f for f in survivors if of[f.name] not in known]
    else:
        due = [f for f in faults if known.get(of[f.name], {}).get("outcome") not in ("noticed", "survived")]
    tests = {f.name: ALL_TESTS if everything else f.tests for f in due}
    red: list[str] = []
    if due:
        copies: queue.Queue[Copy] = queue.Queue()
        made = [Copy(root) for _ in range(min(jobs, len(due)))]
        try:
            red = unplanted(made[0], sorted({test for f in due for test in tests[f.name]}), results)
            for test in red:
                print(f"red by itself, and left out: {test}", flush=True)
            for copy in made:
                copies.put(copy)

            def judge(fault: Fault) -> dict[str, Any]:
                copy = copies.get()
                try:
                    return copy.judge(fault, tests[fault.name], red, limit_s)
                finally:
                    copies.put(copy)

            pool = ThreadPoolExecutor(len(made))
            with closing_at_once(pool), results.open("a", encoding="utf-8") as file:
                waiting = {pool.submit(judge, fault): fault for fault in due}
                for number, done in enumerate(as_completed(waiting), 1):
                    fault = waiting[done]
                    row = {"digest": of[fault.name], "name": fault.name, **done.result()}
                    known[row["digest"]] = row
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    told = f"{row['outcome']} {row['by']} ({row['seconds']} s)"
                    print(f"{number}/{len(due)} {fault.table}: {fault.name}: {told}", flush=True)
        finally:
            for copy in made:
                copy.remove()
    rows = [{**known[of[f.name]], **asdict(f)} for f in faults if of[f.name] in known]
    told = summary(rows)
    (out / "summary.md").write_text(told, encoding="utf-8")
    print(f"\n{told}\nalso in {out / 'summary.md'}")
    if red or any(row["outcome"] == "error" for row in rows):
        return 2
    return int(any(row["outcome"] == "survived" for row in rows))


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a table, a module or a fault")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for the tests of one fault")
    parser.add_argument("--all-tests", action="store_true", help="survivors again, under the whole fast suite")
    parser.add_argument("--check", action="store_true", help="only say which faults no longer fit the code")
    parser.add_argument("--out", type=Path, default=root / "runs" / "planted")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.serve:
        serve(args.serve)
        return 0
    faults = read_tables(root)
    unknown = [name for name in args.only if not any(f.is_named(name) for f in faults)]
    if unknown:
        print(f"--only {', '.join(unknown)}: no such table, module or fault", file=sys.stderr)
        return 2
    faults = [f for f in faults if not args.only or any(f.is_named(name) for name in args.only)]
    if problems := stale(root, faults):
        print(f"{len(problems)} of {len(faults)} faults do not fit the code:", *problems, sep="\n", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that copies and what runs in them go as well
    print(f"{len(faults)} faults fit the code", flush=True)
    if args.check:
        return 0
    return run(root, faults, args.out, args.jobs, args.limit, args.all_tests)


if __name__ == "__main__":
    sys.exit(main())
