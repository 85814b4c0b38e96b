"""A run killed at random moments logs the same bits as one that nobody disturbed (FAULTS R1).

In full, 20 kills of 300 steps for each precision, with a table at the end:

    scripts/test -m slow -k kill -s
"""

import pytest
from faults.kills import command, finish, run_with_kills, trajectory


def undisturbed(config, photos, out):
    done = finish(command(config, photos, out, "--set", "train.workers=0"))
    assert done.returncode == 0, done.stderr
    return trajectory(out)


def check(config, photos, tmp_path, steps, kills, seed):
    reference = undisturbed(config, photos, tmp_path / "reference")
    assert [step for step, _, _ in reference] == list(range(1, steps + 1))
    report = run_with_kills(config, photos, tmp_path / "killed", kills, seed)
    assert trajectory(tmp_path / "killed") == reference
    assert len(report.kills) == kills and max(report.kills) > 0
    return report


def test_a_run_killed_twice_logs_the_bits_of_an_undisturbed_one(photos, tiny, tmp_path):
    config = tiny({"train.steps": 60, "train.save_every": 10})
    check(config, photos, tmp_path, steps=60, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twenty_kills_of_300_steps_change_no_bit(photos, tiny, tmp_path, precision):
    config = tiny({"train.steps": 300, "train.save_every": 20, "train.precision": precision, "train.tensorboard": True})
    report = check(config, photos, tmp_path, steps=300, kills=20, seed=2)
    print(
        f"\n{precision}: 20 SIGKILLs after steps {report.kills} with {report.workers} workers: "
        f"300 of 300 losses and gradient norms identical, {report.seconds:.0f} s"
    )
