"""scripts/gpu_check, all of it, on a CPU and without what a bare machine lacks: so that no minute of a GPU is lost."""

import argparse
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from gpu import bare, main
from gpu.results import Check, read, table

ROOT = Path(__file__).parents[2]

BLOCKER = """
from importlib.machinery import PathFinder

real = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in {names} else real(name, *more)
"""


@pytest.fixture
def without(tmp_path):
    """An environment in whose interpreters, also those of workers, some modules are not there."""

    def make(names):
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKER.format(names=set(names)))
        path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    return make


def not_on_a_bare_machine():
    """Modules of all that is installed here and is none of mae_ext's dependencies, nor what the check compares with."""
    allowed = bare.closure([*bare.PRESENT, *bare.CARRIED, "transformers", "packaging"])
    modules = metadata.packages_distributions()
    return [name for name, of in modules.items() if not {bare.canonical(one) for one in of} & {*allowed, "mae-ext"}]


def check(env, out, *arguments):
    command = [ROOT / "scripts" / "gpu_check", "--out", out, *arguments]
    return subprocess.run(command, env=env | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=280)


def test_all_sections_run_on_a_cpu_without_decoders_and_whatever_else_a_bare_machine_lacks(without, tmp_path):
    blocked = not_on_a_bare_machine()
    assert {"av", "decord", "pydicom", "pytest"} <= set(blocked) and not {"torch", "monai", "pydantic"} & set(blocked)
    done = check(without(blocked), tmp_path / "out", "--device", "cpu", "--tiny")
    rows = read(tmp_path / "out" / "gpu_check.jsonl")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    sections = list(dict.fromkeys(row["section"] for row in rows if row["section"] != "seconds"))
    assert sections == list(main.LIMITS_S)
    by = {(row["section"], row["what"]): row for row in rows}
    assert by["kills", "seed 1"]["losses_identical"] is True and by["kills", "seed 1"]["kills"] == 1
    assert by["determinism", "twice, deterministic"]["same_to_the_bit"] is True
    assert by["saves", "weights are the same to the bit"]["holds"] is True
    assert all(by["every", name]["steps"] == 2 for name in ("clips", "segment volumes", "detect"))
    assert by["runs", "JPEG"]["workers"] == 1 and by["compile", "ViT-L/16, off"]["ms"] > 0
    skipped = {key: row["skipped"] for key, row in by.items() if "skipped" in row}
    assert all("only a GPU shows" in skipped[key] for key in (("syncs", "counts"), ("profile", "kernels")))
    assert "### eager" in done.stdout and "| VideoMAE-L |" in done.stdout


def test_what_is_missing_is_said_with_the_wheels_to_bring(without, tmp_path):
    done = check(without(["monai", "nibabel"]), tmp_path / "out", "--device", "cpu", "--tiny")
    assert done.returncode == 2
    assert done.stdout.startswith("monai, nibabel cannot be imported here") and " nibabel==" in done.stdout


def test_every_dependency_is_taken_to_be_there_or_brought_or_of_no_use_to_the_check():
    assert sorted(bare.dependencies()) == sorted([*bare.PRESENT, *bare.CARRIED, *bare.NOT_NEEDED])
    names = [wheel.partition("==")[0] for wheel in bare.wheels()]
    assert names == ["annotated-types", "monai", "nibabel", "pydantic", "pydantic-core", "typing-inspection"]
    assert all(wheel in bare.instructions() for wheel in bare.wheels())


@pytest.fixture
def given(tmp_path):
    return Check("eager", "cpu", True, tmp_path / "eager", tmp_path, tmp_path / "rows.jsonl", time.monotonic() + 9)


def hangs(check):
    check.row("measured", ms=1.5)
    time.sleep(60)


def breaks(check):
    check.row("measured", ms=1.5)
    raise ValueError("no such kernel")


@pytest.mark.parametrize(("work", "told"), [(hangs, "no end within 0 s"), (breaks, "ValueError: no such kernel")])
def test_a_section_that_hangs_or_breaks_costs_no_measurement_and_is_named(given, monkeypatch, work, told):
    monkeypatch.setattr(main, "section", lambda _: work)
    assert main.run("eager", 0.4, given) is False
    first, second, last = read(given.journal)
    assert first["ms"] == 1.5 and told in second["error"] and last["section"] == "seconds"
    assert "| measured | 1.5 |" in table(given.journal)


def test_when_the_minutes_are_over_no_section_begins_and_each_says_so(tmp_path):
    args = argparse.Namespace(minutes=0.05, only=[], device="cpu", tiny=True, out=tmp_path)
    assert main.check_all(args, time.monotonic()) is True
    rows = read(tmp_path / "gpu_check.jsonl")
    assert [row["section"] for row in rows] == list(main.LIMITS_S)
    assert all("s were left of 0.05 minutes" in row["skipped"] for row in rows)
