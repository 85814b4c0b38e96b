"""Features that two ranks compute are those of one process, to the bit; and so is what a probe makes of them."""

import sys

import numpy as np
import pytest
from engine.test_distributed import start_ranks, wait_for
from faults.kills import rows

from mae_ext.cli import run
from mae_ext.engine.checkpoint import read_tensors
from mae_ext.errors import BadSample, RunError, UserError
from mae_ext.features.shares import Wanted, share, together
from mae_ext.features.sharing import opened_run


def without_clocks(table):
    return [{key: value for key, value in row.items() if key not in ("seconds", "checkpoint")} for row in table]


def test_two_ranks_measure_and_probe_as_one_process_does(tiny, striped, tmp_path):
    probe = {"every": 2, "train": str(striped / "train"), "test": str(striped / "test"), "k": 3}
    config = tiny({"train.steps": 2, "train.warmup_steps": 1, "train.probe": {"a": probe, "b": dict(probe)}})
    source = striped / "train"
    assert run(["pretrain", str(config), "--data", str(source), "--out", str(tmp_path / "one")]) == 0
    started = start_ranks(config, source, tmp_path / "two")
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    one, two = ((tmp_path / name / "config.yaml").read_text() for name in ("one", "two"))
    assert one == two  # with the statistics, which were measured
    first, second = (without_clocks(rows(tmp_path / name / "probes.jsonl")) for name in ("one", "two"))
    assert first[:2] == second[:2]  # of the same weights: before the first step
    assert [(row["set"], row["step"]) for row in second] == [("a", 0), ("b", 0), ("a", 2), ("b", 2)]


def test_two_ranks_write_the_file_of_one_process(make_run, striped, tmp_path):
    of, source = make_run(), striped / "test"
    assert run(["embed", str(of), str(source), "--out", str(tmp_path / "one.safetensors")]) == 0
    call = [sys.executable, "-m", "mae_ext", "embed", str(of), str(source), "--out", str(tmp_path / "two.safetensors")]
    started = start_ranks(None, None, tmp_path / "two", call=call)
    assert wait_for(started) == [0, 0], [log.read_text()[-2000:] for _, log in started]
    one, two = (read_tensors(tmp_path / f"{name}.safetensors")["features"] for name in ("one", "two"))
    assert one.equal(two) and len(one) == 12
    assert (tmp_path / "one.jsonl").read_text() == (tmp_path / "two.jsonl").read_text()
    assert [log.read_text().count("two.safetensors") for _, log in started] == [1, 0]


def shares_of(world, bad=()):
    """Of 10 samples in blocks of 3, which are their numbers."""
    wanted = Wanted("files", "mean", 3, None, 0.3, None)

    def outcomes(rank):
        return [(row, BadSample(f"{row}", "empty") if row in bad else row) for row in wanted.rows(10, rank, world)]

    return wanted, [share(wanted, outcomes(rank), np.array, 10) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_blocks_are_the_same_for_any_number_of_ranks_and_come_in_the_order_of_the_source(world):
    wanted, shares = shares_of(world, bad=(4, 9))
    features, bad = together(wanted, shares, 10)
    assert features.tolist() == [0, 1, 2, 3, 5, 6, 7, 8] and list(bad) == [4, 9]
    blocks = {number: rows.tolist() for one in shares for number, rows in one.blocks.items()}
    assert blocks == {0: [0, 1, 2], 1: [3, 5], 2: [6, 7, 8]}


def test_bad_files_are_counted_over_all_ranks():
    wanted, shares = shares_of(3, bad=(0, 1, 4, 9))
    with pytest.raises(RunError, match="4 of 10 samples cannot be used"):
        together(wanted, shares, 10)


def test_features_are_in_the_runs_precision_unless_another_is_named(make_run, striped):
    """`make_run` trains in bf16, as a config that says nothing does."""
    run_of, source = make_run(), str(striped / "test")
    own, named = opened_run(run_of).encoder, opened_run(run_of, precision="fp32").encoder
    assert (own.precision, named.precision) == ("bf16", "fp32")
    halves, whole = own.features(source).features, named.features(source).features
    assert halves.dtype == whole.dtype == np.float32
    assert 0 < np.abs(halves - whole).max() < 0.05 * np.abs(whole).max()
    with pytest.raises(UserError, match="precision 'fp64': expected fp32, bf16, fp16"):
        opened_run(run_of, precision="fp64")
