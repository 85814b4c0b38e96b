"""What a study will take, from a few steps of each kind of training that are really taken."""

import contextlib
import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mae_ext.config import parse_config
from mae_ext.engine.checkpoint import write_durably
from mae_ext.engine.task import load_task
from mae_ext.engine.train import train
from mae_ext.errors import RunError, UserError
from mae_ext.probing.scores import DRAWS, MANY
from mae_ext.strict_json import dumps
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.worth.arms import LIGHT, config_of
from mae_ext.worth.judged import judge
from mae_ext.worth.outcome import CHEAP, digest
from mae_ext.worth.study import Study, with_data
from mae_ext.worth.trial import Trial, decisive, logged, unjudged
from mae_ext.writing import blamed_on

TIMED, LOG, BESIDE = "timing.json", "timing.log", "timing.tmp-"
STEPS = 4
"""The first of which, that warms up, is left out."""

LOOKED_AT = 4
"""Test samples that are judged."""

OF_A_SAMPLE = 0.002
"""Seconds that a cheap arm takes of each, for want of anything better: a small picture is decoded in about a tenth."""

OF_AXES = 85 / 6144**3
"""Seconds of a core for the axes of so many numbers, cubed: 6144 took 85 s (`probing.classifiers.WIDE`)."""


@dataclass(frozen=True)
class Speed:
    """Seconds: of a step, and of judging one test sample."""

    step: float
    judged: float


def speeds(study: Study) -> dict[str, Speed]:
    """Of "finetuned", and of "frozen" where an arm trains a head alone; measured once for an --out. Of none where no
    arm runs a network."""
    if not set(study.arms) - set(CHEAP):
        return {}
    arms = ["finetuned", *["frozen"] * bool(set(study.arms) & set(LIGHT) and study.recipe.kind != "classify")]
    key = digest(dumps([decisive(config_of(study.recipe, arm, {})) for arm in arms]))
    path = study.wish.out / TIMED
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["key"] == key:
            return {arm: Speed(**known["speeds"][arm]) for arm in arms}
    log = study.wish.out / LOG
    with blamed_on(log):
        study.wish.out.mkdir(parents=True, exist_ok=True)
        held = log.open("a")
    with held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a second process at the same place waits, and removes nothing that is used
        for left in study.wish.out.glob(f"{BESIDE}*"):  # by one that was killed, or failed
            shutil.rmtree(left, ignore_errors=True)
        measured = {arm: _speed(study, arm) for arm in arms}
    with blamed_on(path):
        write_durably(path, dumps({"key": key, "speeds": {arm: vars(speed) for arm, speed in measured.items()}}))
    return measured


def _speed(study: Study, arm: str) -> Speed:
    """Where it fails its folder stays until the next time, for what it holds says why."""
    with blamed_on(study.wish.out):
        folder = Path(tempfile.mkdtemp(prefix=BESIDE, dir=study.wish.out))
    values = config_of(study.recipe, arm, {}).model_dump(mode="json")
    values["train"] |= {"epochs": None, "warmup_epochs": None, "steps": STEPS, "warmup_steps": 1, "thaw": 0}
    part = study.whole.drawn(study.levels[0][0], 0) or study.whole
    config = with_data(parse_config(values, "worth"), str(part.written(folder / "some.csv")), study.wish.test)
    try:
        with logged(study.wish.out / LOG):
            run = train(unjudged(config), folder / "run")
            task, model, own, _ = load_task(run, config.train.device)
            assert isinstance(task, FineTuning)
            count = min(LOOKED_AT, len(study.tested.ids))
            began, (modality,) = time.perf_counter(), config.modalities.values()
            judge(task, model, own, study.examples, modality.data, count)
            judged = (time.perf_counter() - began) / count
    except (UserError, RunError) as error:
        kind = UserError if isinstance(error, UserError) else RunError
        raise kind(f"while timing '{arm}' for the plan: {error}") from error
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    shutil.rmtree(folder, ignore_errors=True)
    return Speed(median(row["seconds"] for row in rows[1:]), judged)


def minutes(trial: Trial, study: Study, known: Mapping[str, Speed]) -> float:
    """Of one trial, about. A probe's is that of encoding both sources, which the trials of its weights share, and of
    its head."""
    arm, tests = trial.cell.arm, len(study.tested.ids)
    if trial.steps:
        speed = known["frozen" if arm in LIGHT else "finetuned"]
        return (trial.steps * speed.step + trial.judged * speed.judged) / 60
    if arm in CHEAP:
        return (trial.cell.count + tests) * OF_A_SAMPLE / 60
    cells = len(study.levels) * (study.wish.seeds if arm != "random" else 1)
    return ((len(study.labels.kinds) + tests) * known["finetuned"].judged / cells + _head(trial, study)) / 60


def _head(trial: Trial, study: Study) -> float:
    """Seconds of the axes that a linear probe by moments takes, of all samples and of each draw that it holds out."""
    if study.probes.pool(trial.cell.arm) != "moments":
        return 0.0
    numbers, count = study.probes.numbers, trial.cell.count
    fits = 1 + (1 if count >= MANY else DRAWS)
    return fits * OF_AXES * min(count, numbers) ** 2 * numbers
