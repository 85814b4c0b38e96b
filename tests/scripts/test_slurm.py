"""The Slurm scripts, run by bash with a scheduler that starts tasks as Slurm does, on this machine."""

import os
import signal
import subprocess
import sys

import pytest
from faults.kills import ROOT, environment, rows, wait_until

SCRIPTS = sorted((ROOT / "scripts" / "slurm").glob("*.sbatch"))

SRUN = """#!/bin/bash
# Starts the tasks of this step beside each other, hands signals on, and ends as the worst of them ends.
while [[ $1 == --* ]]; do shift; done
pids=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids+=($!)
done
echo "${pids[@]}" > "$HERE/tasks"
trap 'kill -TERM "${pids[@]}"' TERM
worst=0
for pid in "${pids[@]}"; do
    wait "$pid"; code=$?
    while kill -0 "$pid" 2> /dev/null; do wait "$pid"; code=$?; done
    ((code > worst)) && worst=$code
done
exit $worst
"""

SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then echo 127.0.0.1; else echo "$@" >> "$HERE/scontrol"; fi
"""


@pytest.fixture
def cluster(tmp_path):
    """-> the environment of a job of two tasks."""
    programs = tmp_path / "bin"
    programs.mkdir()
    python = sys.executable
    for name, text in (
        ("srun", SRUN), ("scontrol", SCONTROL), ("mae-ext", f'#!/bin/bash\nexec {python} -m mae_ext "$@"\n'),
        ("torchrun", f'#!/bin/bash\nexec {python} -m torch.distributed.run "$@"\n'),
    ):  # fmt: skip
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    job = {"SLURM_JOB_ID": f"{os.getpid()}", "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1"}
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return environment(**job, SLURM_NTASKS="2", GPUS_PER_NODE="2", HERE=str(tmp_path), PATH=path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True).stderr == b""
    assert script.stat().st_mode & 0o111


def test_a_job_whose_time_ends_saves_and_goes_back_into_the_queue(tiny, photos, tmp_path, cluster):
    config, out = tiny({"train.steps": 5000, "train.save_every": 5000}), tmp_path / "run"
    call = ["bash", str(ROOT / "scripts/slurm/train.sbatch"), str(config), "--data", str(photos), "--out", str(out)]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(call, env=cluster, stdout=log, stderr=log)
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) >= 3, job), (tmp_path / "log").read_text()
    for task in (tmp_path / "tasks").read_text().split():  # as --signal without B: does
        os.kill(int(task), signal.SIGUSR1)
    assert job.wait(120) == 75
    done = len(rows(out / "metrics.jsonl"))
    assert (out / "checkpoints" / f"step-{done:08d}").is_dir()
    assert (tmp_path / "scontrol").read_text() == f"requeue {cluster['SLURM_JOB_ID']}\n"


def test_a_job_that_cannot_work_is_not_put_back(tmp_path, cluster):
    call = ["bash", str(ROOT / "scripts/slurm/train.sbatch"), "no_such_recipe", "--out", str(tmp_path / "run")]
    ended = subprocess.run(call, env=cluster, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "no_such_recipe" in ended.stderr
    assert not (tmp_path / "scontrol").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_elastic_job_whose_time_ends_saves_and_goes_back_into_the_queue(tiny, photos, tmp_path, cluster):
    config, out = tiny({"train.steps": 5000, "train.save_every": 5000}), tmp_path / "run"
    call = ["bash", str(ROOT / "scripts/slurm/elastic.sbatch"), str(config), "--data", str(photos), "--out", str(out)]
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(call, env={**cluster, "SLURM_NTASKS": "1"}, stdout=log, stderr=log)
    assert wait_until(lambda: len(rows(out / "metrics.jsonl")) >= 3, job), (tmp_path / "log").read_text()
    job.send_signal(signal.SIGUSR1)
    job.wait(180)
    done = len(rows(out / "metrics.jsonl"))
    assert (out / "checkpoints" / f"step-{done:08d}").is_dir(), (tmp_path / "log").read_text()
    assert (tmp_path / "scontrol").read_text() == f"requeue {cluster['SLURM_JOB_ID']}\n"
