"""Settings that are valid one by one and mean nothing together: refused, or said, before a run begins."""

from collections.abc import Mapping

from mae_ext.config import AugmentConfig, Config, ModalityConfig
from mae_ext.data.batch import Batch
from mae_ext.engine.optim import rising, thaw_of
from mae_ext.engine.task import chief_of
from mae_ext.errors import ConfigError
from mae_ext.train_config import TrainConfig

DEFAULT = AugmentConfig()
STARTS = ("init_parts", "init_fit", "init_channels", "init_inflate")


def check_meaning(config: Config) -> None:
    """Raises ConfigError for what cannot have the effect that it asks for."""
    for key in config.train.comparing if config.task.name != "pretrain" else ():
        raise ConfigError(f"train.{key} is of pretraining's loss, and the task is {config.task.name}: set it to 0")
    if config.train.keep_best:
        if not _is_judged(config):
            raise ConfigError(
                "train.keep_best has nothing to judge on: data.test is not set; give --test, or set it to false"
            )
        chief_of(config)


def remarks(config: Config, steps: int, warmup: int) -> list[str]:
    """What to say of settings that are followed to the letter and hardly meant. steps, warmup: of the whole run."""
    train, notes = config.train, []
    if warmup >= steps:
        notes.append(
            f"the warm-up, of {warmup} steps, is no shorter than the run, of {steps}: the learning rate never comes to "
            f"its peak; set train.warmup_steps"
        )
    if thaw_of(train, steps, warmup)[0] >= steps:
        notes.append(f"train.thaw={train.thaw} is no shorter than the run, of {steps} steps: the encoder never learns")
    if remark := rising(config):
        notes.append(remark)
    for key, probe in train.probes.items():
        if probe.every > steps:
            notes.append(f"{key}.every={probe.every} is more than the run's {steps} steps: only begin and end")
    if config.model.drop_path > 0 and config.model.depth == 1:
        notes.append(f"model.drop_path={config.model.drop_path:g} rises from 0 over the blocks, and there is only one")
    notes += _of_judging(config, steps) + _of_the_frozen(config) + _of_the_start(config)
    for name, m in config.modalities.items():
        notes += [f"modalities.{name}.{sentence}" for sentence in _of_a_modality(m, alone=len(config.modalities) < 2)]
    return notes


def of_first_batch(config: Config, batches: Mapping[str, Batch]) -> list[str]:
    """What only samples show: a masker that spreads over the part that counts, where all of them counts."""
    return [
        f"modalities.{name}.{key}: 'foreground' is the random masker where the reader does not say what counts; see "
        f"data.reader.body, or name 'random'"
        for name, m in config.modalities.items()
        for key, spec in (("mask", m.mask), ("decode", m.decode))
        if spec is not None and spec.name == "foreground" and batches[name].mask and batches[name].valid is None
    ]


def _is_judged(config: Config) -> bool:
    return any(m.data.test is not None for m in config.modalities.values())


def _of_judging(config: Config, steps: int) -> list[str]:
    every = config.train.evaluate_every
    if every is None and config.train.keep_best:
        return ["train.keep_best has one checkpoint to choose from, the last: train.evaluate_every is not set"]
    if every is not None and not _is_judged(config):
        return [f"train.evaluate_every={every} has nothing to judge on: data.test is not set"]
    if every is not None and every > steps:
        return [f"train.evaluate_every={every} is more than the run's {steps} steps: only the end"]
    return []


def _of_the_frozen(config: Config) -> list[str]:
    train, notes = config.train, []
    if train.freeze != "none" and config.init is None:
        notes.append(f"train.freeze={train.freeze} keeps weights as they are that have learned nothing: init is none")
    notes += [
        f"train.{key}={value} holds an encoder back that has learned nothing: init is none; see train.scratch"
        for key, value in {"encoder_lr": train.encoder_lr, "thaw": train.thaw}.items()
        if config.init is None and value != TrainConfig.model_fields[key].default
    ]
    if train.freeze == "encoder":
        if train.optimizer == "muon" and config.task.name != "pretrain":
            notes.append("train.optimizer=muon moves the matrices of blocks, and train.freeze=encoder leaves none")
        if train.layer_decay < 1:
            notes.append(f"train.layer_decay={train.layer_decay:g} has no layer to slow: train.freeze=encoder")
        if config.model.drop_path > 0:
            notes.append(
                f"model.drop_path={config.model.drop_path:g} drops parts of an encoder that does not learn (frozen)"
            )
        notes += [f"train.{key}={of:g} moves no encoder: train.freeze=encoder" for key, of in train.comparing.items()]
    return notes


def _of_the_start(config: Config) -> list[str]:
    """Of keys that say how a start is taken, where nothing asks them."""
    keys = [key for key in STARTS if getattr(config, key) != Config.model_fields[key].default]
    if config.init is None:
        why = dict.fromkeys(keys, "init is none")
    elif config.task.name == "pretrain":
        why = {"init_fit": "pretraining always fits"}
    else:
        fitting = {} if config.init_fit else dict.fromkeys(("init_channels", "init_inflate"), "init_fit is false")
        why = {"init_parts": f"{config.task.name} takes the encoder alone", **fitting}
    return [f"{key}={getattr(config, key)} has no effect: {why[key]}" for key in keys if key in why]


def _of_a_modality(m: ModalityConfig, alone: bool) -> list[str]:
    augment, notes = m.data.augment, []
    if alone and m.weight != 1:
        notes.append(f"weight={m.weight:g} weighs one loss against no other")
    if m.decode is not None and m.decode.arguments.get("ratio") == 0:
        notes.append("decode.ratio=0 answers every hidden token, as without decode")
    if m.target.name == "pixel" and m.target.arguments.get("normalize") == "none" and m.target.arguments.get("floor"):
        notes.append("target.floor is of patch-normalised targets, and normalize is none")
    resized = {len(m.size) - 1, len(m.size) - 2} - {axis % len(m.size) for axis in augment.fixed}
    for key in ("scale", "aspect"):
        if getattr(augment, key) != getattr(DEFAULT, key) and (not resized or (key == "aspect" and not augment.scale)):
            why = "all axes it is about are in data.augment.fixed" if not resized else "data.augment.scale is null"
            if getattr(augment, key) is not None:
                notes.append(f"data.augment.{key}={list(getattr(augment, key))} has no effect: {why}")
    return notes
