"""What each arm trains: the config of a fine-tuning, made from a run as `mae-ext finetune` makes it."""

import inspect
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mae_ext import plugins
from mae_ext.config import Config, load_values, one_modality, parse_config, set_value
from mae_ext.engine.optim import Schedule, thaw_of
from mae_ext.engine.start import known_of
from mae_ext.engine.start_config import check_task, with_start
from mae_ext.errors import UserError
from mae_ext.worth.baselines import baseline
from mae_ext.worth.outcome import ARMS, CHEAP, KINDS

LIGHT = ("frozen", "random")
"""Arms that probe where samples have classes, and elsewhere train a light head over an encoder that stays as it is."""

RECIPES = {"classify": "finetune_folder", "segment": "finetune_scans", "detect": "finetune_bccd"}
"""What is fine-tuned with where no config is named; size, patch and augmentation are then the run's."""

SPARING: dict[str, Any] = {"freeze": "none", "thaw": 0, "encoder_lr": 1.0, "layer_decay": 1.0}
"""Of `train`: what spares an encoder that has learned would only hold a beginner back; these do not."""

RATES = ("train.lr", "train.layer_decay", "train.encoder_lr")
LEAST = 300
"""Steps with few labels, at most as many as with all."""

PLAIN: dict[str, Any] = {
    "evaluate_every": None, "keep_best": False, "tensorboard": False, "loggers": [], "observe": [], "probe": None,
}  # fmt: skip
"""A trial is judged once, at its end, and nobody looks on."""


OURS = r"seed|init|modalities\.[^.]+\.data\.(path|test)"
"""Keys that a study sets itself."""

SHAPES = r"modalities\.[^.]+\.(size|patch|channels)"
"""Keys that no side has of its own: it would be another network."""

TEACHING = {"reconstruct", "unlabelled", "unlabelled_batch"}
"""Of a task: a loss of which a head learns nothing."""


@dataclass(frozen=True)
class Recipe:
    """Configs of both sides, and what was said beside them. pretrained: on the start. scratch: the same without it.

    fixed: whether the number of steps was named, and is that of every trial. settled: sides whose rates were named.
    """

    pretrained: Config
    scratch: Config
    fixed: bool
    settled: frozenset[str]

    @property
    def kind(self) -> str:
        return self.pretrained.task.name

    @property
    def modality(self) -> str:
        return next(iter(self.pretrained.modalities))


def recipe_of(
    run: str, task: str | None, config: str | None, sets: Sequence[str],
    side_sets: Mapping[str, Sequence[str]],
) -> Recipe:  # fmt: skip
    """side_sets: of "pretrained" and "scratch", beside `sets`, which are of both.

    Raises UserError: a run that is fine-tuned, one without the modality, a task that is none of KINDS, no task.
    """
    start = known_of(run)
    if start.config.task.name != "pretrain":
        raise UserError(
            f"{run}: is a fine-tuning run (task {start.config.task.name}), and what is asked is what pretraining is "
            f"worth; give the run of pretraining that it started from"
        )
    _check_keys(sets, side_sets)
    values, where = _values(task, config, start.config, run)
    for assignment in sets:
        set_value(values, assignment)
    sides = {
        side: _of_steps(_with(values, side_sets.get(side, ()), f"--{side}-set")) for side in ("pretrained", "scratch")
    }
    check_task(sides["pretrained"], where)
    pretrained = with_start(sides["pretrained"], where, run)
    if pretrained.task.name not in KINDS or (task is not None and task != pretrained.task.name):
        raise UserError(f"{where}: is of the task '{pretrained.task.name}'; expected {task or ', '.join(KINDS)}")
    if pretrained.task.arguments.get("labels", 1.0) != 1.0 and pretrained.task.name == "classify":
        raise UserError("task.labels: how many labels there are is for --labels to say; remove the key")
    begun = _without_start(with_start(sides["scratch"], where, run))
    own = _keys(side_sets.get("scratch", ()))
    begun["train"] |= {key: value for key, value in SPARING.items() if f"train.{key}" not in own}
    named = {side: _keys([*sets, *side_sets.get(side, ())]) for side in sides}
    settled = frozenset(side for side, keys in named.items() if keys & set(RATES))
    fixed = any("train.steps" in keys for keys in named.values())
    return Recipe(pretrained, parse_config(begun, where), fixed, settled)


def arms_of(text: str | None, recipe: Recipe) -> tuple[str, ...]:
    """Raises UserError for arms that there are not, or not for this task."""
    classes = recipe.kind == "classify"
    if text is None:
        attends = recipe.pretrained.task.arguments.get("pool") == "attentive"
        chosen = [arm for arm in ARMS if arm != "attentive" or (classes and attends)]
        return tuple(arm for arm in chosen if arm not in CHEAP or not isinstance(baseline(arm, recipe.kind), str))
    arms = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise UserError(
            f"--arms: no arm '{unknown[0]}'{plugins.nearest(unknown[0], list(ARMS))} (there are: {', '.join(ARMS)})"
        )
    if "attentive" in arms and not classes:
        raise UserError(f"--arms attentive: is a probe of classes, and the task is {recipe.kind}")
    for arm in set(arms) & set(CHEAP):
        if isinstance(why := baseline(arm, recipe.kind), str):
            raise UserError(f"--arms {arm}: of the task {recipe.kind} it is {why}")
    return tuple(arm for arm in ARMS if arm in arms)


def config_of(recipe: Recipe, arm: str, rates: Mapping[str, float]) -> Config:
    """Of an arm that trains. rates: values of keys that were chosen for its side."""
    values = (recipe.scratch if arm == "scratch" else recipe.pretrained).model_dump(mode="json")
    if arm == "random":  # whose head learns as that of `frozen`, whatever suits what is trained whole from nothing
        values = _without_start(recipe.pretrained)
        values["train"]["scratch"] = {}
    values["train"] |= PLAIN
    if arm == "finetuned" and values["train"]["freeze"] == "encoder":  # which is the arm `frozen`
        values["train"]["freeze"] = "none"
    if arm in LIGHT:
        values["train"] |= SPARING | {"freeze": "encoder"}
        values["model"]["drop_path"] = 0.0
        for key in TEACHING & values["task"].keys():
            del values["task"][key]
        if recipe.kind == "segment":
            values["task"]["head"] = light_head()
    for key, value in rates.items():
        values["train"][key.removeprefix("train.")] = value
    return parse_config(values, f"the arm {arm}")


def light_head() -> str:
    """The head of segmentation that adds least to a frozen encoder."""
    parameters = inspect.signature(plugins.tasks.get("segment")).parameters
    return "upsample" if "upsample" in str(parameters["head"].annotation) else "linear"


def stepped(config: Config, count: int, total: int, fixed: bool) -> Config:
    """With the steps that so many labels of `total` get: their share of those of all, at least LEAST or all of these.

    fixed: as many as the config says, whatever the labels. A `thaw` in steps shrinks as they do. Raises UserError where
    it leaves none in which the encoder learns.
    """
    values = config.model_dump(mode="json")
    repeats = next(iter(config.modalities.values())).data.repeats
    whole = Schedule.of(config, total * repeats)
    share = round(whole.steps * count / total)
    steps = whole.steps if fixed else max(1, min(whole.steps, max(LEAST, share)))
    warmup = whole.warmup * steps // whole.steps if whole.warmup < whole.steps else steps // 10
    save_every = max(1, min(config.train.save_every, -(-steps // 4)))
    values["train"] |= {"epochs": None, "warmup_epochs": None, "steps": steps, "warmup_steps": warmup}
    values["train"] |= {"save_every": save_every, "thaw": _thaw(config.train.thaw, whole.steps, steps)}
    trained = parse_config(values, "worth")
    if thaw_of(trained.train, steps, warmup)[0] >= steps:
        raise UserError(
            f"train.thaw={config.train.thaw} is no shorter than a training, of {steps} steps: its encoder would never "
            f"learn; lower it, or give more train.steps"
        )
    return trained


def _thaw(thaw: float | Sequence[float], of: int, steps: int) -> Any:
    """Steps (1 or more) of a run of `of` steps -> their share of `steps`; shares stay as they are."""
    if not isinstance(thaw, Sequence):
        return thaw * steps // of if thaw >= 1 else thaw
    return [_thaw(one, of, steps) for one in thaw]


def _values(task: str | None, config: str | None, start: Config, run: str) -> tuple[dict[str, Any], str]:
    if config is not None:
        return load_values(config)
    if task is None:
        raise UserError(f"what for? Give --task with one of {', '.join(KINDS)}, or --config RECIPE")
    if task not in KINDS:
        raise UserError(f"--task {task}: expected one of {', '.join(KINDS)}")
    values, where = load_values(RECIPES[task])
    name = one_modality(None, start, run, "--config RECIPE, of the modality {}")
    (section,) = values["modalities"].values()
    axes, patch = len(start.modalities[name].size), start.modalities[name].patch
    batch = section["batch"] if task != "classify" or axes == 2 else 16  # as many voxels as so many pictures
    augment = section["data"]["augment"] if axes == 2 and task != "segment" else {}
    values["modalities"] = {name: {"batch": batch, "data": {"augment": augment}}}
    values["model"] = {"drop_path": values["model"]["drop_path"]}
    if task == "classify" and axes != 2:
        values["task"] |= {"pool": "attentive"}  # a mean of tokens does not know what moved where
    if task == "segment" and (len(set(patch)) > 1 or patch[0] & (patch[0] - 1)):
        values["task"]["head"] = "linear"
    if task == "segment" and axes == 2:
        values["train"] |= {"steps": 2000, "warmup_steps": 100}
    return values, f"{where} for {run}"


def _without_start(config: Config) -> dict[str, Any]:
    values = config.model_dump(mode="json")
    started = [key for key in values if key == "init" or key.startswith("init_")]
    return {**values, **{key: Config.model_fields[key].default for key in started}}


def _with(values: Mapping[str, Any], sets: Sequence[str], option: str) -> dict[str, Any]:
    own = deepcopy(dict(values))
    for assignment in sets:
        set_value(own, assignment, option)
    return own


def _of_steps(values: dict[str, Any]) -> dict[str, Any]:
    """Steps that were named take the place of a recipe's epochs."""
    train = values.get("train")
    if isinstance(train, dict) and train.get("steps") is not None:
        train |= {"epochs": None, "warmup_epochs": None}
        train.setdefault("warmup_steps", train["steps"] // 10 if isinstance(train["steps"], int) else None)
    return values


def _check_keys(sets: Sequence[str], side_sets: Mapping[str, Sequence[str]]) -> None:
    """Raises UserError for what is not for a --set to say, of both sides or of one."""
    for option, own in {"--set": sets, **{f"--{side}-set": each for side, each in side_sets.items()}}.items():
        for assignment in own:
            key = assignment.partition("=")[0].strip()
            if re.fullmatch(OURS, key):
                raise UserError(
                    f"{option} {assignment}: a study sets it by itself, from RUN, --data, --test and --seeds"
                )
            if option != "--set" and re.fullmatch(SHAPES, key):
                raise UserError(f"{option} {assignment}: sides would not be the same network; give it to --set")


def _keys(sets: Sequence[str]) -> set[str]:
    return {assignment.partition("=")[0].strip() for assignment in sets}
