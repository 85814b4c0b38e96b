"""Do runs of another version of the package go on here, to the same bits?

    git worktree add ../before HEAD~1
    python scripts/checks/go_on.py --before ../before          # two minutes

The runs of the golden cases (tests/golden: every modality, joint, every task) are made by the other checkout, with a
checkpoint every five steps. Each is cut at its middle checkpoint and goes on by the same command, once by the other
checkout and once by this one. Weights and moments of every checkpoint have to be equal to the bit, and so do rows of
losses and scores, apart from times. Exit code: 0 all equal, 1 some differ, which are named.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OF_THE_CLOCK = ("seconds", "samples_per_s", "data_wait")

MAKE = """
import json
from pathlib import Path
from golden import case, cases, inputs

config, command, commands = case.config, case.command, []
often = {"save_every": 5, "keep": 50}

def kept_often(name, values):
    return config(name, {**values, "train": {**values["train"], **often}})

def noted(*words):
    if words[0] in ("pretrain", "finetune"):
        commands.append([str(word) for word in words])
    return command(*words)

for module in (case, *cases.LOADED):
    module.config, module.command = kept_often, noted
inputs.make(Path("inputs"))
for name in cases.CASES:
    cases.made(name)
Path("commands.json").write_text(json.dumps(commands))
"""

GO_ON = """
import json, shutil
from pathlib import Path
from golden.case import command

for words in json.loads(Path("commands.json").read_text()):
    checkpoints = Path(words[words.index("--out") + 1]) / "checkpoints"
    steps = sorted(checkpoints.glob("step-*"))
    for step in steps[len(steps) // 2 :]:
        shutil.rmtree(step)
    command(*words)
"""


def child(code: str, checkout: Path, folder: Path) -> None:
    path = os.pathsep.join(map(str, (checkout, ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)


def rows(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK and not k.startswith("loader/")} for row in rows]


def differences(ours: Path, theirs: Path) -> list[str]:
    """What of a run is not the same in both, by name."""
    from safetensors.numpy import load_file

    found = [name for name in ("metrics.jsonl", "evaluations.jsonl") if rows(ours / name) != rows(theirs / name)]
    for checkpoint in sorted((theirs / "checkpoints").glob("step-*")):
        for name in ("model.safetensors", "optimizer.safetensors"):
            one, other = (load_file(run / "checkpoints" / checkpoint.name / name) for run in (ours, theirs))
            if one.keys() != other.keys() or any(one[key].tobytes() != other[key].tobytes() for key in one):
                found.append(f"{checkpoint.name}/{name}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the other version")
    before = parser.parse_args().before.resolve()
    with tempfile.TemporaryDirectory() as kept:
        # Runs name the folder that they are in, so each goes on in the folder where it was made.
        made, folder = Path(kept) / "made", Path(kept) / "folder"
        folder.mkdir()
        child(MAKE, before, folder)
        shutil.copytree(folder, made)
        gone_on = {}
        for name, checkout in (("before", before), ("here", ROOT)):
            shutil.rmtree(folder)
            shutil.copytree(made, folder)
            child(GO_ON, checkout, folder)
            gone_on[name] = folder.rename(Path(kept) / name)
            folder.mkdir()
        failed = 0
        for run in sorted((gone_on["before"] / "runs").iterdir()):
            other = differences(gone_on["here"] / "runs" / run.name, run)
            failed += bool(other)
            print(f"{run.name:16}", "; ".join(other) or "the same bits")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
