"""What a study is made of: the data on both sides, the arms, the draws; and the trials that come of these."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from mae_ext.config import Config
from mae_ext.data.loading.batches import ModalityData
from mae_ext.engine.checkpoint import is_run, sha256
from mae_ext.engine.evaluation import check_held_out
from mae_ext.engine.start import Named, known_of
from mae_ext.engine.task import task_of
from mae_ext.errors import UserError
from mae_ext.features.shares import Pool
from mae_ext.overrides import configured
from mae_ext.strict_json import dumps
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.worth.arms import LIGHT, Recipe, arms_of, config_of, recipe_of, stepped
from mae_ext.worth.baselines import baseline
from mae_ext.worth.judged import check_any, judged_answers, tested_of
from mae_ext.worth.labels import Labels, Level, Part, check_patients, levels_of
from mae_ext.worth.outcome import CHEAP, Asked, Judged, Outcome, Tested, digest
from mae_ext.worth.probes import Probes
from mae_ext.worth.rates import SIDES, Choice, Rates, side_of, taken
from mae_ext.worth.readable import KNOWN, Readable, check_readable, usable
from mae_ext.worth.trial import Trial, decisive, measured, trained


@dataclass(frozen=True)
class Wish:
    """What somebody wants to know, as the command takes it. Raises UserError for a number of seeds below 1."""

    run: str
    data: str
    test: str
    out: Path
    task: str | None = None
    config: str | None = None
    labels: str | None = None
    arms: str | None = None
    seeds: int = 3
    rates: str = "choose"
    sets: tuple[str, ...] = ()
    pretrained_sets: tuple[str, ...] = ()
    scratch_sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}: expected at least 1")
        for word in [] if self.labels is None else self.labels.split(","):
            Level.of(word)
        if self.rates not in ("choose", "off"):
            raise UserError(
                f"--rates {self.rates}: expected choose, or off; a side's own are given by --pretrained-set and "
                f"--scratch-set train.lr=..."
            )


@dataclass(frozen=True)
class Study:
    """A wish with the data read. recipe: settled, with --data and --test in it. examples: the test's, for judging.

    answers: the identities of what both sources hold, in the keys of trials. weights: of the start.
    """

    wish: Wish
    recipe: Recipe
    arms: tuple[str, ...]
    labels: Labels
    levels: tuple[tuple[Level, str], ...]
    tested: Tested
    examples: Any
    answers: str
    weights: str
    probes: Probes = field(compare=False)

    @property
    def whole(self) -> Part:
        return self.labels.only(range(len(self.labels.kinds)))

    @property
    def probed(self) -> tuple[str, ...]:
        """Arms whose head is a probe of features: of classes all that leave the encoder as it is."""
        light = LIGHT if self.recipe.kind == "classify" else ()
        return tuple(arm for arm in self.arms if arm in (*light, "attentive"))

    @property
    def pools(self) -> dict[str, Pool]:
        """What the heads of probed arms read."""
        return {arm: self.probes.pool(arm) for arm in self.probed}

    @property
    def sides(self) -> list[str]:
        """Those whose rates matter: of the arms that train."""
        arms = [arm for arm in self.arms if arm not in (*CHEAP, *self.probed)]
        return [side for side in SIDES if side in map(side_of, arms)]

    def trials(self, choices: Sequence[Choice]) -> list[Trial]:
        """Seed by seed, so that one that is stopped has whole tables of fewer seeds; the smallest numbers first."""
        return [
            self.trial(Asked(arm, text, len(part.rows), seed), part, choices)
            for seed in range(self.wish.seeds)
            for level, text in self.levels
            if (part := self.whole.drawn(level, seed)) is not None
            for arm in self.arms
        ]

    def trial(self, cell: Asked, part: Part, choices: Sequence[Choice]) -> Trial:
        if cell.arm in CHEAP:
            return self._cheap(cell, part)
        if cell.arm in self.probed:
            return self._probe(cell, part)
        return self.training(cell, part, taken(choices, cell.arm))

    def training(self, cell: Asked, part: Part, rates: Rates, held: Part | None = None) -> Trial:
        """held: samples of the training data to judge on, in the place of the test's."""
        config = config_of(self.recipe, cell.arm, rates)
        config = stepped(config.model_copy(update={"seed": cell.seed}), cell.count, self._total, self.recipe.fixed)
        config = with_data(config, str(self._list(part)), self.wish.test if held is None else str(self._list(held)))
        what = decisive(config) | {"train": self._named(part), "test": self.answers if held is None else _named(held)}
        if config.init is not None:
            what["weights"] = self.weights

        def work(folder: Path) -> Outcome:
            part.written(self._list(part))
            if held is None:
                return trained(config, cell, self.tested.score, self.examples, folder)
            held.written(self._list(held))
            _, examples = examples_of(config)
            return trained(config, cell, self.tested.score, examples, folder)

        judged = len(self.tested.ids) if held is None else len(held.rows)
        steps = config.train.steps or 0
        return Trial(cell, what, self.tested.score, work, steps, judged)

    def _probe(self, cell: Asked, part: Part) -> Trial:
        config = self.probes.config
        what = {k: v for k, v in decisive(config).items() if not k.startswith(("train.", "task.", "seed"))}
        what |= {"precision": config.train.precision, "train": self._named(part), "test": self.answers}
        if (pool := self.probes.pool(cell.arm)) == "moments":
            what["pool"] = pool
        if cell.arm != "random":
            what["weights"] = self.weights
        addresses = [self.labels.items.addresses[row] for row in part.rows]
        work = partial(self.probes.judged, cell.arm, addresses, cell.seed)
        score = self.tested.score
        return Trial(cell, what, score, lambda _: measured(work, cell, score))

    def _cheap(self, cell: Asked, part: Part) -> Trial:
        config = with_data(self.recipe.pretrained, str(self._list(part)), self.wish.test)
        what = {k: v for k, v in decisive(config).items() if not k.startswith(("train.", "model.", "seed"))}
        what |= {"train": self._named(part), "test": self.answers}

        def work(_: Path) -> Outcome:
            part.written(self._list(part))
            train, test = examples_of(config)
            answers = baseline(cell.arm, self.recipe.kind)
            assert not isinstance(answers, str)
            (modality,) = config.modalities.values()

            def judged() -> tuple[float, Judged]:
                return judged_answers(partial(answers, train, test, cell.seed), test, modality.data)

            return measured(judged, cell, self.tested.score)

        return Trial(cell, what, self.tested.score, work)

    @property
    def _total(self) -> int:
        return len(self.labels.kinds)

    def _named(self, part: Part) -> str:
        return digest(_named(part), self.answers)

    def _list(self, part: Part) -> Path:
        return (self.wish.out / "draws" / f"{_named(part)}.csv").absolute()


def _named(part: Part) -> str:
    """Patients are a part of it where there are some: heads that choose a strength hold them out whole."""
    labels, patients = part.labels, part.labels.items.patients
    whose = [] if patients is None else [[patients[row] for row in part.rows]]
    return digest([labels.items.addresses[row] for row in part.rows], [labels.kinds[row] for row in part.rows], *whose)


def study_of(wish: Wish) -> Study:
    """Lists both sources, and settles what the recipe leaves to the data. Raises UserError for whatever is wrong."""
    side_sets = {"pretrained": wish.pretrained_sets, "scratch": wish.scratch_sets}
    recipe = recipe_of(wish.run, wish.task, wish.config, wish.sets, side_sets)
    arms = arms_of(wish.arms, recipe)
    config = configured(recipe.pretrained, wish.data, None, None, wish.test)
    task = task_of(config)
    assert isinstance(task, FineTuning)
    data = task.data(config)
    check_held_out(config, data)
    settled = task.settle(config, data, None)
    recipe = replace(recipe, pretrained=settled, scratch=_settled(recipe.scratch, settled))
    (name, one), *_ = data.items()
    held_out = one.held_out
    assert held_out is not None and held_out.examples is not None
    by_class, classes = recipe.kind == "classify", settled.task.arguments["classes"]
    labels = Labels.of(one.items, name, _unit(settled, name), by_class)
    check_patients(one.items, wish.data)
    check_patients(held_out.examples.items, wish.test)
    check_any(one.examples, wish.data)
    check_any(held_out.examples, wish.test)
    answers, levels = _answers(data), [level for level, _ in levels_of(wish.labels, labels)]
    # Of label maps a task's arguments say where they lie, of which `decisive` says nothing.
    keys = {key: value for key, value in decisive(settled).items() if key.startswith("modalities.")}
    read_as = dumps([keys, settled.task.arguments])
    learned, tested_on = (
        Readable(examples, wish.out / KNOWN, digest(read_as, list(items.addresses), answers))
        for examples, items in ((one.examples, one.items), (held_out.examples, held_out.examples.items))
    )
    encoded = by_class and bool({*LIGHT, "attentive"} & set(arms))
    labels = usable(labels, levels, wish.seeds, wish.rates == "choose", encoded, learned)
    check_readable(labels, learned, tested_on, settled.modalities[name].data)
    tested = tested_of(recipe.kind, held_out.examples, classes)
    probes = Probes(settled, name, tested, len(labels.kinds) + len(tested.ids))
    return Study(
        wish, recipe, arms, labels, tuple(levels_of(wish.labels, labels)),
        tested, held_out.examples, answers, weights_of(str(settled.init)), probes,
    )  # fmt: skip


def place_of(run: str, data: str, test: str, what: str | None, out: str | None) -> Path:
    """`out`, or RUN/worth/NAME, named after the task and the labelled data. Raises UserError where RUN is no run of
    ours, and where `out` is in the data, whose folders it would be taken for."""
    if out is not None:
        for option, source in (("--data", data), ("--test", test)):
            # False of names that no folder can have, of which Path.is_dir raises.
            if os.path.isdir(source) and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(source)):  # noqa: PTH112
                raise UserError(f"--out {out}: is in {option} {source}; a study goes beside its data: name another")
        return Path(out)
    if not is_run(run):
        known_of(run)  # which says so where there is nothing
        raise UserError(f"{run}: is no folder of a run to put results into; give --out FOLDER")
    words = re.sub(r"[^\w.-]+", "-", f"{Path(what or '').stem}-{'-'.join(Path(data).parts[-2:])}").strip("-")
    return Path(run) / "worth" / words


def with_data(config: Config, path: str, test: str) -> Config:
    (name, modality), *_ = config.modalities.items()
    data = modality.data.model_copy(update={"path": path, "test": test})
    return config.model_copy(update={"modalities": {name: modality.model_copy(update={"data": data})}})


def examples_of(config: Config) -> tuple[Any, Any]:
    """What is learned from and what is judged on, of a settled config."""
    task = task_of(config)
    assert isinstance(task, FineTuning)
    train, held_out = task.examples(config, next(iter(config.modalities)))
    assert held_out is not None
    return train, held_out.examples


def weights_of(init: str) -> str:
    """A digest of what a start holds, wherever it lies."""
    named = Named.of(init)
    files = sorted(named.path.rglob("*")) if named.path.is_dir() else [named.path]
    weights = named.path / "model.safetensors"
    chosen = [weights] if named.ours and weights.is_file() else [file for file in files if file.is_file()]
    return digest([sha256(file) for file in chosen], str(named.format), named.hints)


def _settled(scratch: Config, settled: Config) -> Config:
    """Statistics, classes and places of the other side: what is the same on both."""
    (name, modality), *_ = settled.modalities.items()
    own = scratch.modalities[name]
    data = own.data.model_copy(
        update={"statistics": modality.data.statistics, "path": modality.data.path, "test": modality.data.test}
    )
    arguments = {**scratch.task.arguments, "classes": settled.task.arguments["classes"]}
    return scratch.model_copy(
        update={
            "task": type(scratch.task)(name=scratch.task.name, **arguments),
            "modalities": {name: own.model_copy(update={"data": data})},
        }
    )


def _answers(data: dict[str, ModalityData]) -> str:
    """Of what both sources hold: files and labels."""
    (one,) = data.values()
    assert one.held_out is not None and one.held_out.examples is not None and one.examples is not None
    test = one.held_out.examples
    return digest(list(test.items.addresses), test.identity, one.examples.identity)


def _unit(config: Config, name: str) -> str:
    axes = len(config.modalities[name].size)
    if axes == 2:
        return "picture"
    return "clip" if config.modalities[name].data.reader.name == "video" else "scan"
