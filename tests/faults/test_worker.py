"""Loader workers that are killed or that hang cost time, and change no bit of what the run logs (FAULTS R6).

20 killed and 20 hung in one run, with a line that counts them:

    scripts/test -m slow -k worker -s
"""

import pytest
from faults.kills import rows, trajectory

from mae_ext.cli import run

pytestmark = pytest.mark.usefixtures("faulty")
TIMEOUT_S = 3.0


def compare(tiny, photos, tmp_path, capfd, match, steps, workers, batch=8):
    """-> (longest wait for data in s, files that failed, workers replaced), once the losses are found the same."""
    values = {
        "train.steps": steps,
        "modalities.image.batch": batch,
        "train.worker_timeout": TIMEOUT_S,
        "modalities.image.data.statistics": "none",
    }
    reader = {"name": "faulty", "fault": "either", "match": match, "once": str(tmp_path / "marker")}

    def train(name, overrides):
        config = tiny(values | overrides, name)
        return run(["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / name)])

    quiet = reader | {"match": "nothing"}
    assert train("undisturbed", {"modalities.image.data.reader": quiet, "train.workers": 0}) == 0
    capfd.readouterr()
    assert train("disturbed", {"modalities.image.data.reader": reader, "train.workers": workers}) == 0
    said = capfd.readouterr().err
    assert trajectory(tmp_path / "disturbed") == trajectory(tmp_path / "undisturbed")
    assert said.count("starting: ") == 1 and "Traceback" not in said
    assert rows(tmp_path / "disturbed" / "bad_samples.jsonl") == []
    hit = len(list(tmp_path.glob("marker.*")))
    replaced = said.count("a loader worker was replaced")
    # Two workers can fail at once, and are then replaced together.
    assert 1 <= replaced <= hit
    return max(row["data_wait"] for row in rows(tmp_path / "disturbed" / "metrics.jsonl")), hit, replaced


def test_a_run_whose_workers_are_killed_and_hang_logs_the_same_losses(tiny, photos, tmp_path, capfd):
    # One PNG, on which the worker is killed, and one JPEG, on which it hangs.
    wait, hit, _ = compare(tiny, photos, tmp_path, capfd, match="06|07", steps=12, workers=1)
    assert hit == 2 and wait < 2 * TIMEOUT_S + 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_killed_and_twenty_hung_workers_change_no_loss(tiny, photos, tmp_path, capfd):
    # Batches of two, as a batch that fails more than three times ends a run.
    wait, hit, replaced = compare(tiny, photos, tmp_path, capfd, match=".", steps=60, workers=1, batch=2)
    with capfd.disabled():
        print(
            f"\n{replaced} workers replaced, 20 killed and 20 hung, in one run of 60 steps: losses identical, run not "
            f"restarted, longest wait {wait:.1f} s with worker_timeout={TIMEOUT_S:g}"
        )
    assert hit == replaced == 40
    assert wait < 2 * (TIMEOUT_S + 5)  # each, and a step has two files
