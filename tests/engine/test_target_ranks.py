"""Two ranks with a target that sees the whole picture lose what one does, with whole models and with shares.

scripts/test -m slow -k target_ranks
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from engine.test_distributed import free_port, start_as_ranks, wait_for
from faults.kills import rows, trajectory

pytestmark = pytest.mark.slow

RUNS: dict[str, tuple[int, list[str]]] = {
    "one": (1, []),
    "two": (2, []),
    "shares": (2, ["train.parallel=fsdp", "train.accumulate=2"]),
}
"""Ranks, and what they have besides."""


@pytest.fixture(scope="module")
def done(tmp_path_factory, striped):
    """What one rank and two did: `root / NAME`."""
    root = tmp_path_factory.mktemp("targets")
    config, data = root / "tiny.yaml", ["--data", str(striped / "train"), "--test", str(striped / "test")]
    train = {
        "steps": 4, "lr": 1e-2, "warmup_steps": 1, "precision": "fp32", "device": "cpu", "workers": 0,
        "save_every": 4, "evaluate_every": 2, "tensorboard": False,
    }  # fmt: skip
    model = {"width": 32, "depth": 2, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    image = {"size": [16, 16], "patch": [4, 4], "batch": 8, "data": {}, "target": "means"}
    config.write_text(json.dumps({"modalities": {"image": image}, "model": model, "train": train}))
    info, tests = root / "site" / "means-1.0.dist-info", Path(__file__).parents[1]
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: means\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mae_ext.targets]\nmeans = model.means:Means\n")

    plan = []
    for name, (world, more) in RUNS.items():
        sets = [part for key in more for part in ("--set", key)]
        argv = ["pretrain", str(config), *data, "--out", str(root / name), *sets]
        plan.append({"world": world, "port": free_port(), "argv": argv})
    (root / "runs.json").write_text(json.dumps(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (info.parent, tests, tests.parent))))
        started = start_as_ranks([sys.executable, "-m", "engine.several_runs", str(root / "runs.json")], root / "ranks")
        ended = wait_for(started, 400)
    assert ended == [0, 0], [log.read_text()[-3000:] for _, log in started]
    codes = json.loads(started[0][1].read_text().splitlines()[-1])
    assert codes == [0] * len(plan), [log.read_text()[-3000:] for _, log in started]
    return root


@pytest.mark.parametrize("other", ["two", "shares"])
def test_two_ranks_lose_what_one_does(done, other):
    ours, theirs = (np.array(trajectory(done / name)) for name in ("one", other))
    assert np.abs(ours - theirs).max() < 1e-5
    judged = [[row["loss"] for row in rows(done / name / "evaluations.jsonl")] for name in ("one", other)]
    assert len(judged[0]) == 2 and np.allclose(*judged, atol=1e-5)
