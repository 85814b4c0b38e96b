"""Settings that are valid one by one and mean nothing together are refused, or said."""

import pytest

from mae_ext.cli import run
from mae_ext.config import load_config, parse_config
from mae_ext.engine.meaning import check_meaning, of_first_batch, remarks
from mae_ext.errors import ConfigError
from mae_ext.tasks.classify.task import Classification

MASK = "modalities.image.mask"
DECODE = "modalities.image.decode"
AUGMENT = "modalities.image.data.augment"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({MASK: {"name": "random", "ratio": 0}}, f"{MASK}: ratio 0 hides none of 16 tokens"),
        ({MASK: {"name": "block", "ratio": 0.0}}, f"{MASK}: ratio 0 hides none of 16 tokens"),
        ({MASK: {"name": "tube", "ratio": 0}}, f"{MASK}: ratio 0 hides none of 16 tokens"),
        ({DECODE: {"name": "random", "ratio": 0.92}}, f"{DECODE}: of the 12 hidden tokens: mask ratio 0.92 keeps none"),
        ({DECODE: {"name": "random", "ratio": 1.0}}, f"{DECODE}: mask ratio 1.0 is not in"),
        ({DECODE: {"name": "tube", "ratio": 0.5}}, f"{DECODE}: of the 12 hidden tokens: it answers whole groups"),
        (
            {MASK: {"name": "tube", "ratio": 0.5}, DECODE: {"name": "tube", "ratio": 0.3}},
            "hides none of 2 whole groups",
        ),
        ({MASK: {"name": "tube", "ratio": 0.5}, DECODE: {"name": "tube", "ratio": 0.5, "axis": 1}}, "along axis 1"),
        ({f"{AUGMENT}.fixed": [2]}, "data.augment.fixed: axis 2 does not exist, size=[16, 16]"),
        ({f"{AUGMENT}.flip": [1, -1]}, "data.augment.flip=[1, -1] names an axis twice"),
        ({"model.mlp_ratio": 0.01}, "mlp_ratio=0.01 leaves nothing of width=32"),
    ],
)
def test_what_can_answer_nothing_is_no_config(tiny, values, told):
    with pytest.raises(ConfigError) as refused:
        load_config(tiny(values))
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_a_mask_that_a_task_never_draws_is_not_its_affair(tiny):
    assert load_config(tiny({"task": "classify", MASK: {"name": "random", "ratio": 0}})).task.name == "classify"


def test_what_the_task_has_no_use_for_is_refused_before_any_work(tiny, photos, tmp_path, capfd):
    config, told = tiny({"task": "classify", "train.uniformity": 0.1}), "train.uniformity is of pretraining's loss"
    with pytest.raises(ConfigError, match=told):
        check_meaning(load_config(config))
    assert run(["finetune", str(config), "--init", "none", "--data", str(photos), "--out", str(tmp_path / "run")]) == 2
    assert told in capfd.readouterr().err and not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("task", ["pretrain", "classify"])
def test_the_best_of_what_is_never_judged_is_refused(tiny, photos, tmp_path, capfd, task):
    config = tiny({"task": task, "train.keep_best": True})
    verb = ["pretrain", str(config)] if task == "pretrain" else ["finetune", str(config), "--init", "none"]
    assert run([*verb, "--data", str(photos), "--out", str(tmp_path / "run")]) == 2
    assert "train.keep_best has nothing to judge on: data.test is not set" in capfd.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("chief", [None, "loss", ("loss", "lowest"), ("loss",)])
def test_a_task_that_names_no_chief_score_has_no_best_checkpoint(tiny, monkeypatch, chief):
    monkeypatch.setattr(Classification, "chief", chief)
    config = load_config(tiny({"task": "classify", "train.keep_best": True, "modalities.image.data.test": "b"}))
    with pytest.raises(ConfigError, match=r"task classify does not say which of its scores .* \('accuracy', 'most'\)"):
        check_meaning(config)


CLASSIFY = {"task": "classify"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"train.warmup_steps": 60}, "the warm-up, of 60 steps, is no shorter than the run, of 60"),
        ({"train.min_lr": 1.0}, "train.min_lr=1 is above the learning rate at its peak"),
        ({"train.probe": {"every": 99, "train": "a", "test": "b"}}, "train.probe.every=99 is more than the run's 60"),
        ({"train.probe": {"every": 61, "train": "a", "test": "b"}}, "train.probe.every=61 is more than the run's 60"),
        (
            {"train.probe": {"old": {"every": 61, "train": "a", "test": "b"}}},
            "train.probe.old.every=61 is more than the run's 60",
        ),
        (CLASSIFY | {"train.evaluate_every": 61, "modalities.image.data.test": "b"}, "evaluate_every=61 is more than"),
        ({"model.depth": 1}, "model.drop_path=0.1 rises from 0 over the blocks, and there is only one"),
        ({"modalities.image.weight": 2.0}, "modalities.image.weight=2 weighs one loss against no other"),
        ({DECODE: {"name": "random", "ratio": 0}}, "decode.ratio=0 answers every hidden token"),
        ({"modalities.image.target": {"name": "pixel", "normalize": "none", "floor": 0.1}}, "target.floor is of patch"),
        ({f"{AUGMENT}.fixed": [0, 1], f"{AUGMENT}.scale": [0.5, 1.0]}, "augment.scale=[0.5, 1.0] has no effect"),
        ({f"{AUGMENT}.scale": None, f"{AUGMENT}.aspect": [1, 1]}, "aspect=[1.0, 1.0] has no effect: data.augment"),
        (CLASSIFY | {"train.evaluate_every": 5}, "train.evaluate_every=5 has nothing to judge on"),
        (CLASSIFY | {"train.freeze": "encoder"}, "train.freeze=encoder keeps weights as they are that have learned"),
        (CLASSIFY | {"train.freeze": "encoder", "train.layer_decay": 0.7}, "train.layer_decay=0.7 has no layer"),
        (CLASSIFY | {"train.freeze": "encoder"}, "model.drop_path=0.1 drops parts of an encoder that does not learn"),
        ({"train.evaluate_every": 61, "modalities.image.data.test": "b"}, "evaluate_every=61 is more than"),
        ({"train.evaluate_every": 5}, "train.evaluate_every=5 has nothing to judge on"),
        ({"train.keep_best": True, "modalities.image.data.test": "b"}, "keep_best has one checkpoint to choose from"),
        ({"train.freeze": 1}, "train.freeze=1 keeps weights as they are that have learned nothing"),
        ({"train.freeze": "encoder", "train.layer_decay": 0.7}, "train.layer_decay=0.7 has no layer"),
        ({"train.freeze": "encoder", "train.uniformity": 0.1}, "train.uniformity=0.1 moves no encoder"),
        ({"init_parts": "encoder"}, "init_parts=encoder has no effect: init is none"),
        (CLASSIFY | {"init_fit": True}, "init_fit=True has no effect: init is none"),
        ({"init": "run", "init_fit": True}, "init_fit=True has no effect: pretraining always fits"),
        (CLASSIFY | {"init": "run", "init_parts": "encoder"}, "init_parts=encoder has no effect: classify takes"),
        (CLASSIFY | {"init": "run", "init_channels": "first"}, "init_channels=first has no effect: init_fit is false"),
        (CLASSIFY | {"init": "run", "init_inflate": "mean"}, "init_inflate=mean has no effect: init_fit is false"),
    ],
)  # fmt: skip
def test_what_is_followed_to_the_letter_and_hardly_meant_is_said(tiny, values, told):
    config = load_config(tiny(values))
    assert any(told in sentence for sentence in remarks(config, 60, config.train.warmup_steps))
    check_meaning(config)


def test_a_config_that_means_what_it_says_needs_no_remark(tiny):
    assert remarks(load_config(tiny()), 60, 10) == []


@pytest.mark.parametrize(
    "values",
    [
        {"train.warmup_steps": 59},
        {"train.probe": {"every": 60, "train": "a", "test": "b"}},
        {"train.min_lr": 1e-2 * 8 / 256},
        {"model.depth": 1, "model.drop_path": 0.0},
        {DECODE: {"name": "random", "ratio": 0.5}},
        {"modalities.image.target": {"name": "pixel", "floor": 0.1}},
        {f"{AUGMENT}.fixed": [0], f"{AUGMENT}.scale": [0.5, 1.0], f"{AUGMENT}.aspect": [1, 1]},
        {f"{AUGMENT}.fixed": [0, 1], f"{AUGMENT}.scale": None},
        CLASSIFY | {"train.evaluate_every": 60, "modalities.image.data.test": "b"},
        CLASSIFY | {"train.layer_decay": 0.7},
        CLASSIFY | {"init": "run", "train.freeze": "encoder", "model.drop_path": 0.0},
        {"train.evaluate_every": 60, "modalities.image.data.test": "b"},
        {"init": "run", "train.freeze": 1, "train.layer_decay": 0.7},
        {"init": "run", "train.freeze": "encoder", "model.drop_path": 0.0},
        {"init": "run", "init_parts": "all", "init_channels": "repeat", "init_inflate": "mean"},
        CLASSIFY | {"init": "run", "init_fit": True, "init_channels": "first", "init_inflate": "mean"},
    ],
    ids=str,
)
def test_what_is_just_within_its_meaning_needs_none_either(tiny, values):
    config = load_config(tiny(values))
    assert remarks(config, 60, config.train.warmup_steps) == []


def test_the_foreground_masker_without_anything_that_says_what_counts_is_said(tiny, photos, tmp_path, capfd):
    config = tiny({MASK: {"name": "foreground", "ratio": 0.75}, "train.steps": 2, "train.warmup_steps": 1})
    assert run(["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "run")]) == 0
    assert "'foreground' is the random masker where the reader does not say" in capfd.readouterr().err
    assert of_first_batch(parse_config(load_config(tiny()).model_dump(mode="json")), {}) == []


def test_plan_says_the_same_before_anything_is_trained(tiny, capfd):
    assert run(["plan", str(tiny({"train.steps": 4}))]) == 0
    assert "note              the warm-up, of 10 steps, is no shorter than the run, of 4" in capfd.readouterr().out
    assert run(["plan", str(tiny({"train.evaluate_every": 4}))]) == 0
    assert "train.evaluate_every=4 has nothing to judge on" in capfd.readouterr().out
