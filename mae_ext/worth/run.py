"""A study from its plan to its table: rates first, then every trial that is not there yet, then what came of it."""

import contextlib
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mae_ext.engine.checkpoint import write_durably
from mae_ext.strict_json import dumps
from mae_ext.worth.intervals import Estimates
from mae_ext.worth.labels import Level
from mae_ext.worth.outcome import Asked, Outcome
from mae_ext.worth.rates import SIDES, Choice, Rates, best, grid, untried
from mae_ext.worth.sentence import NAMES, findings, points
from mae_ext.worth.study import Study, Wish
from mae_ext.worth.timing import Speed, minutes, speeds
from mae_ext.worth.trial import Diverged, Trial, spent
from mae_ext.writing import blamed_on

VERSION = 1
RESULT, PAGE = "worth.json", "worth.html"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Trying:
    """Rates that a side may have, and the trials that decide between them; or why there are none."""

    side: str
    options: tuple[tuple[Rates, Trial], ...]
    held: int
    labels: str
    why: str = ""

    def chosen(self, make: Callable[[Trial], Outcome]) -> list[Choice]:
        if self.why:
            return [untried(self.side, self.why)]
        tried = list[tuple[Rates, float | None]]()
        for rates, trial in self.options:
            try:
                tried.append((rates, make(trial).value))
            except Diverged:  # which says enough of a rate
                tried.append((rates, None))
        return best(self.side, tried, self.held, self.labels)


def tryings(study: Study) -> list[Trying]:
    """One for each side, with the labels of the largest number that is not all, and seed 0."""
    if study.wish.rates == "off":
        return [Trying(side, (), 0, "", "as the recipe and the command say: --rates off") for side in study.sides]
    split = study.whole.held_back()
    level, text = _middle(study.levels)
    part = None if split is None else split[0].drawn(level, 0)
    if split is not None and part is None:  # what is left beside the part that is held back has not as many
        part = split[0].drawn(Level(None, 1.0), 0)
        assert part is not None
        text = f"{len(part.rows)} {study.labels.unit}s"
    each = []
    for side in study.sides:
        if ("scratch" if side == "scratch" else "pretrained") in study.recipe.settled:
            each.append(Trying(side, (), 0, "", "as the command says"))
        elif split is None or part is None:
            each.append(Trying(side, (), 0, "", "as the recipe says: too few labels to hold some back"))
        else:
            cell = Asked(SIDES[side], text, len(part.rows), 0)
            lr = (study.recipe.scratch if side == "scratch" else study.recipe.pretrained).train.lr
            options = tuple((rates, study.training(cell, part, rates, split[1])) for rates in grid(side, lr))
            each.append(Trying(side, options, len(split[1].rows), text))
    return each


def _middle(levels: Sequence[tuple[Level, str]]) -> tuple[Level, str]:
    return levels[-2] if len(levels) > 1 and levels[-1][0].share == 1 else levels[-1]


@dataclass(frozen=True)
class Planned:
    """Trials by what they are for, those that are made already left out, and how long each takes, about."""

    tryings: tuple[Trying, ...]
    left: tuple[tuple[Trial, float], ...]
    trials: int

    def text(self, study: Study) -> str:
        """Of all that is left, summed up by arm and number of labels."""
        lines, rows = [], dict[tuple[str, str, bool], list[float]]()
        tried = {trial.key for trying in self.tryings for _, trial in trying.options}
        for trial, one in self.left:
            rows.setdefault((trial.cell.arm, trial.cell.labels, trial.key in tried), []).append(one)
        for (arm, labels, trying), each in rows.items():
            what = "rates of " if trying else ""
            runs = f"{len(each):3} run{'s' * (len(each) > 1)}"
            lines.append(f"{what + NAMES[arm]:34} {labels:12} {runs:9} {_duration(sum(each))}")
        total = sum(one for _, one in self.left)
        before = self.trials - len(self.left)
        sources = f"{len(study.labels.kinds)} labelled {study.labels.unit}s, {len(study.tested.ids)} to be judged on"
        known = f", {before} are there already" if before else ""
        runs = "run" if len(self.left) == 1 else "runs"
        return "\n".join([sources, *lines, f"{len(self.left)} {runs} to make{known}; {_duration(total)} in all"])


def planned(study: Study) -> Planned:
    """Before rates are chosen trials have the recipe's, which takes as long."""
    before, choices = tryings(study), list[Choice]()
    outcomes = {trial.key: trial.done(study.wish.out) for trying in before for _, trial in trying.options}
    made = {key: outcome for key, outcome in outcomes.items() if outcome is not None}
    if len(made) == len(outcomes):
        choices = [choice for trying in before for choice in trying.chosen(lambda trial: made[trial.key])]
    all_of = [trial for trying in before for _, trial in trying.options] + study.trials(choices)
    once = {trial.key: trial for trial in all_of}
    left = [trial for trial in once.values() if trial.done(study.wish.out) is None]
    known: dict[str, Speed] = speeds(study) if left else {}
    return Planned(tuple(before), tuple((trial, minutes(trial, study, known)) for trial in left), len(once))


def worth(study: Study, plan: Planned, say: Say) -> dict[str, Any]:
    """Makes what is left and writes OUT/worth.json -> what it says. For whoever holds OUT alone. Raises UserError,
    RunError, Stopped; the same command then goes on."""
    out, left = study.wish.out, sum(one for _, one in plan.left)
    tried = {trial.key for trying in plan.tryings for _, trial in trying.options}

    def what(trial: Trial) -> str | Asked:
        """Cells keep their place in the plan when another rate than the recipe's is taken, which makes another key."""
        return trial.key if trial.key in tried else trial.cell

    estimated, took = {what(trial): one for trial, one in plan.left}, dict[str, float]()

    def make(trial: Trial) -> Outcome:
        nonlocal left
        if (before := trial.done(out)) is not None:
            took[trial.key] = before.minutes
            return before
        say(f"{trial.name} ({trial.folder(out)})")
        left = max(0.0, left - estimated.get(what(trial), 0.0))
        try:
            outcome = trial.made(out)
        except Diverged:
            took[trial.key] = spent(trial.folder(out) / "run") / 60
            raise
        took[trial.key] = outcome.minutes
        say(f"  {outcome.score} {outcome.value:.4f} in {_duration(outcome.minutes)}; {_duration(left)} left, about")
        return outcome

    choices = [choice for trying in plan.tryings for choice in trying.chosen(make)]
    for choice in choices:
        if choice.taken:
            say(f"rates of {choice.side}: {', '.join(choice.row()['sets']) or 'the recipe'} ({choice.why})")
    trials = study.trials(choices)
    outcomes = [make(trial) for trial in trials]
    result = record(study, choices, trials, outcomes, sum(took.values()))
    for before, now in kept_aside(out, {trial.key for trial in trials}):
        say(f"{before}: was not of this study, or of more than this; it is {now} now")
    with blamed_on(out / RESULT):
        write_durably(out / RESULT, dumps(result, indent=1) + "\n")
    return result


def kept_aside(out: Path, keys: set[str]) -> list[tuple[Path, Path]]:
    """Gives the results that lie in `out` another name, unless all that is in them is among what comes now: the same
    study again, or one that grew. -> [(its name before, and now)]."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        if {row["key"] for row in json.loads((out / RESULT).read_text(encoding="utf-8"))["rows"]} <= keys:
            return []
    paths = [path for path in (out / PAGE, out / RESULT) if path.exists()]
    number = next(n for n in count(1) if not any(_beside(path, n).exists() for path in (out / PAGE, out / RESULT)))
    moved = [(path, _beside(path, number)) for path in paths]
    for path, to in moved:
        with blamed_on(path):
            path.rename(to)
    return moved


def _beside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def record(
    study: Study, choices: Sequence[Choice], trials: Sequence[Trial], outcomes: Sequence[Outcome], minutes_: float
) -> dict[str, Any]:
    """What worth.json holds. minutes_: of all that was made, trials of rates with it."""
    tested, estimates = study.tested, Estimates(study.tested, outcomes)
    said = findings(estimates)
    table = [
        {"labels": labels, "count": estimates.count(labels), "arm": arm, "minutes": estimates.minutes(arm, labels)}
        | asdict(score)
        for labels in estimates.labels
        for arm in study.arms
        if (score := estimates.score(arm, labels)) is not None
    ]
    rows = [
        {**asdict(o.cell), "value": o.value, "minutes": o.minutes, "key": trial.key}
        for trial, o in zip(trials, outcomes, strict=True)
    ]
    config = study.recipe.pretrained
    return {
        "version": VERSION,
        "run": {"path": str(Path(study.wish.run).absolute()), "start": config.init, "weights": study.weights},
        "source": {"path": study.wish.data, "samples": len(study.labels.kinds), "unit": study.labels.unit},
        "tested": {
            "path": study.wish.test,
            "samples": len(tested.ids),
            "groups": None if tested.groups is None else len(set(tested.groups)),
        },
        "kind": tested.kind,
        "score": tested.score,
        "classes": list(tested.classes),
        "config": config.model_dump(mode="json"),
        "pools": study.pools,
        "rates": [choice.row() for choice in choices],
        "rows": rows,
        "table": table,
        "findings": said.to_json(),
        "sentence": said.sentences[0],
        "minutes": minutes_,
        "command": command(study.wish),
    }


def command(wish: Wish) -> str:
    """What makes the same study, to be pasted into a shell."""
    named = {"--task": wish.task, "--config": wish.config, "--labels": wish.labels, "--arms": wish.arms}
    words = ["mae-ext", "worth", wish.run, "--data", wish.data, "--test", wish.test, "--out", str(wish.out)]
    words += [word for option, value in named.items() if value is not None for word in (option, value)]
    words += ["--seeds", str(wish.seeds), "--rates", wish.rates]
    several = {"--set": wish.sets, "--pretrained-set": wish.pretrained_sets, "--scratch-set": wish.scratch_sets}
    return shlex.join([*words, *(word for option, sets in several.items() for one in sets for word in (option, one))])


def printed(result: dict[str, Any]) -> str:
    """Labels by arms, mean and spread over seeds, and the sentence."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in result["rows"]:
        values.setdefault((row["labels"], row["arm"]), []).append(row["value"])
    arms, labels = dict.fromkeys(arm for _, arm in values), dict.fromkeys(text for text, _ in values)
    wide = max(len(NAMES[arm]) for arm in arms)
    head = f"{result['score']:{wide}}  " + "  ".join(f"{text:>15}" for text in labels)
    lines = [
        f"{NAMES[arm]:{wide}}  " + "  ".join(f"{_cell(values.get((text, arm), [])):>15}" for text in labels)
        for arm in arms
    ]
    return "\n".join([head, *lines, "", *result["findings"]["sentences"], *result["findings"]["warnings"]])


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{points(mean(values)) / 100:.3f}" + (f" +- {stdev(values):.3f}" if len(values) > 1 else "")


def _duration(minutes_: float) -> str:
    if minutes_ < 1:
        return f"{60 * minutes_:.0f} s" if minutes_ * 60 >= 1 else "under a second"
    if minutes_ < 1.5:
        return "1 minute"
    return f"{minutes_:.0f} minutes" if minutes_ < 120 else f"{minutes_ / 60:.1f} hours"
