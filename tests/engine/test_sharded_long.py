"""What takes minutes of a model in shares: 200 steps beside DDP, fine-tuning, ten killed ranks. With a table:

scripts/test -m slow -k shares -s
"""

import os
import signal

import numpy as np
import pytest
from engine.test_distributed import ALL_TERMS, alone, check_killed_rank, free_port, start_ranks, wait_for
from faults.kills import command, environment, kill_group, launch, rows, trajectory, wait_until

from mae_ext.engine.failpoint import VARIABLE

SHARES = ("--set", "train.parallel=fsdp")


def losses(config, photos, out, *more, verb="pretrain"):
    started = start_ranks(config, photos, out, *more, verb=verb)
    assert wait_for(started, 800) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    return np.array(trajectory(out))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("sets", "most"),
    [
        ({"train.clip": None}, 0.0),
        ({"train.accumulate": 2}, 1e-5),
        ({"train.precision": "bf16", "train.clip": None}, 1e-5),
        ({"train.precision": "fp16"}, 5e-3),
        (ALL_TERMS, 1e-5),
        ({"train.checkpointing": "selective"}, 1e-5),
    ],
    ids=["plain", "clip and two parts", "bf16", "fp16", "all terms", "selective"],
)
def test_shares_lose_what_the_whole_model_loses_over_200_steps(tiny, photos, tmp_path, sets, most):
    config = tiny({"train.steps": 200, "train.save_every": 100} | sets)
    whole, shares = (losses(config, photos, tmp_path / name, *more) for name, more in (("ddp", ()), ("fsdp", SHARES)))
    assert alone(config, photos, tmp_path / "one") == 0
    one = np.array(trajectory(tmp_path / "one"))
    apart, from_one = np.abs(shares - whole)[:, 1].max(), np.abs(shares - one)[:, 1].max()
    print(f"\n200 steps, {sets}: FSDP and DDP differ by at most {apart:.2g}, FSDP and one process by {from_one:.2g}")
    assert len(shares) == len(whole) == 200
    assert apart <= most


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["layer decay", "frozen blocks"])
def test_shares_fine_tune_as_the_whole_model_does(tiny, striped, tmp_path, how):
    task = {"name": "classify", "mixup": 0.8, "cutmix": 1.0, "distort": 2, "erase": 0.25}
    more = {"train.layer_decay": 0.75} if how == "layer decay" else {"train.freeze": 1}
    config = tiny({"task": task, "train.steps": 20, "train.evaluate_every": 10} | more)
    flags = ("--init", "none", "--test", str(striped / "test"))
    whole, shares = (
        losses(config, striped / "train", tmp_path / name, *flags, *ways, verb="finetune")
        for name, ways in (("ddp", ()), ("fsdp", SHARES))
    )
    np.testing.assert_allclose(shares, whole, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_killed_ranks_of_a_model_in_shares_each_end_the_other(tiny, photos, tmp_path):
    config = tiny({"train.steps": 300, "train.save_every": 20, "train.parallel": "fsdp"})
    assert alone(config, photos, tmp_path / "one") == 0
    waits = [check_killed_rank(config, photos, tmp_path, f"{i}", i % 2, 5 + 20 * i, 300) for i in range(10)]
    print(f"\n10 killed ranks of a model in shares: the other ended within {max(waits):.1f} s, and each run went on")
    assert max(waits) < 60


@pytest.mark.slow
def test_a_rank_that_hangs_while_both_write_a_checkpoint_does_not_keep_the_other(tiny, photos, tmp_path, test_path):
    """Its save would wait for hours, as disks may take; the step says after rank_timeout that a rank is gone."""
    out, values = tmp_path / "run", {"train.steps": 100000, "train.save_every": 100, "train.rank_timeout": 6}
    config, port, started = tiny({**values, "train.parallel": "fsdp"}), free_port(), []
    for rank, broken in ((0, ""), (1, "file.fsynced:1:sleep=600")):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        log, texts = tmp_path / f"{rank}.log", {name: str(value) for name, value in variables.items()}
        started.append((launch(command(config, photos, out), log, environment(**texts, **{VARIABLE: broken})), log))
    (first, said), (second, _) = started
    try:
        assert wait_until(lambda: len(rows(out / "metrics.jsonl")) > 101, first)
        os.kill(second.pid, signal.SIGSTOP)
        assert first.wait(60) == 1
    finally:
        for process, _ in started:
            kill_group(process)
    assert "step 100: its checkpoint was not completed" in said.read_text()
    assert "lost touch with another, which was killed, hung or crashed" in said.read_text()
