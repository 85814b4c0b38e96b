"""What a kill, a failing disk or a damaged file costs a run that saves beside its training (FAULTS R2, R4, R5).

The full amounts, with a line for each:

    scripts/test -m slow -k saving -s
"""

import subprocess
import sys

import numpy as np
import pytest
from faults.kills import environment
from PIL import Image


@pytest.fixture
def trials(tiny, photos, tmp_path, test_path):
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (18, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(held_out / f"{number}.png")

    def go(values, *counts):
        judged = {"modalities.image.data.test": str(held_out), "train.keep_best": True}
        config = tiny({"train.workers": 0, **judged, **values})
        script = [sys.executable, "-m", "faults.saving", str(config), str(photos), str(tmp_path / "runs"), *counts]
        done = subprocess.run(script, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout

    return go


SHORT = {"train.steps": 12, "train.save_every": 4, "train.evaluate_every": 6}


@pytest.mark.timeout(600)
def test_saving_that_is_killed_or_fails_or_is_damaged_later_costs_no_run(trials):
    lines = trials(SHORT, "--kills", "2", "--errors", "1", "--damages", "10", "--resumed", "0").splitlines()
    assert [line.split(":")[0] for line in lines] == ["damaged", "disk errors", "killed"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_saving_is_killed_50_times_damaged_100_times_and_fails_30_times(trials):
    long = {"train.steps": 60, "train.save_every": 20, "train.evaluate_every": 15}
    print("\n" + trials(long, "--kills", "60", "--errors", "10", "--damages", "100", "--resumed", "5"))
