"""The list of faults: each injected so many times, and counted: survived or lost.

    scripts/checks/faults                              # the quick amounts, one trial at a time
    scripts/checks/faults --amount full --jobs 2       # the full ones: hours of two cores
    scripts/checks/faults --amount full --only R1,D3

Results are appended to --out (JSONL) after each trial; the same command goes on where it was stopped. The last lines
are a table. Exit code 1 where anything was lost.
"""

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fault_list import rows_files, rows_pictures, rows_runs, rows_saves, rows_texts, rows_workers
from fault_list.trial import Row, Running, say, start

ROWS = {
    row.name: row
    for module in (rows_runs, rows_saves, rows_workers, rows_files, rows_pictures, rows_texts)
    for row in module.ROWS
}


def order(name: str) -> tuple[str, int]:
    return {"R": "a", "D": "b", "S": "c"}[name[0]] + name[0], int(name[1:])


def read(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def table(results: list[dict[str, object]], names: Iterable[str]) -> str:
    """Of all that was written down, markdown."""
    lines = [
        "| row | injected, and what survives it | injected | survived | lost | figures |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        rows = [r for r in results if r["row"] == name and r["trial"] != -1]
        if not rows:
            continue
        skipped = [str(r["skipped"]) for r in rows if "skipped" in r]
        injected = sum(int(str(r.get("injected", 0))) for r in rows)
        lost = [line for r in rows for line in r.get("lost", [])]  # type: ignore[attr-defined]
        cells = [name, ROWS[name].what, str(injected), str(injected - len(lost)), str(len(lost))]
        lines.append("| " + " | ".join([*cells, skipped[0] if skipped else figures(rows)]) + " |")
    return "\n".join(lines)


def figures(rows: list[dict[str, object]]) -> str:
    """Numbers: the largest of all trials; words: how many trials said so."""
    largest: dict[str, float] = {}
    words: Counter[str] = Counter()
    for row in rows:
        for key, value in row.get("note", {}).items():  # type: ignore[attr-defined]
            if isinstance(value, str):
                words[f"{key} {value}"] += 1
            elif key.endswith(("s", "MiB", "seconds")) and not key.startswith("count "):
                largest[key] = max(largest.get(key, value), value)
            else:
                words[key.removeprefix("count ")] += int(value)
    numbers = [f"{key} at most {value:g}" for key, value in largest.items()]
    return ", ".join([*numbers, *(f"{key}: {count}" for key, count in sorted(words.items()))])


def go(rows: list[Row], amount: str, out: Path, work: Path, jobs: int) -> None:
    done = {(r["row"], r["trial"]) for r in read(out)}
    pending = [(row, n) for row in rows for n in range(row.trials[amount]) if (row.name, n) not in done]
    running: list[Running] = []
    prepared: set[str] = set()
    with out.open("a", encoding="utf-8") as file:

        def note(result: dict[str, object]) -> None:
            file.write(json.dumps(result) + "\n")
            file.flush()
            lost = result.get("lost") or []
            say(f"{result['row']} {result['trial']}: {result.get('seconds', 0)} s{f': LOST {lost}' if lost else ''}")

        while pending or running:
            while pending and len(running) < jobs and not any(trial.number < 0 for trial in running):
                row, number = pending[0]
                if why := row.needs():
                    pending = [p for p in pending if p[0] is not row]
                    note({"row": row.name, "trial": -2, "skipped": f"not run: {why}"})
                    continue
                if row.prepare and row.name not in prepared:
                    if running:
                        break  # it is prepared alone, and its trials wait for it
                    shutil.rmtree(work / row.name, ignore_errors=True)
                    prepared.add(row.name)
                    running.append(start(row, -1, work))
                    break
                pending.pop(0)
                running.append(start(row, number, work))
            for trial in list(running):
                result = trial.ended()
                if result is None:
                    continue
                running.remove(trial)
                if trial.number >= 0 or result["lost"]:
                    note(result | ({"trial": -3} if trial.number < 0 else {}))
                if not result["lost"]:
                    shutil.rmtree(trial.folder, ignore_errors=True)
                elif trial.number < 0:
                    pending = [p for p in pending if p[0] is not trial.row]
            time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"comma-separated, of {', '.join(sorted(ROWS, key=order))}")
    parser.add_argument("--amount", choices=["quick", "full"], default="quick")
    parser.add_argument("--out", type=Path, default=Path("faults.jsonl"))
    parser.add_argument(
        "--work", type=Path, default=Path("/tmp/mae_ext_faults"), help="what trials leave, if they lose"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print the table of what --out holds")
    args = parser.parse_args()
    names = [name for name in args.only.split(",") if name] or sorted(ROWS, key=order)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--only: no row {', '.join(unknown)} (there are {', '.join(sorted(ROWS, key=order))})")
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.table:
        go([ROWS[name] for name in names], args.amount, args.out, args.work, args.jobs)
    results = read(args.out)
    print(table(results, sorted(ROWS, key=order)))
    sys.exit(any(r.get("lost") for r in results if r["row"] in names))


if __name__ == "__main__":
    main()
