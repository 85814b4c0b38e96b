"""What the arms train: both sides alike but for the start, and wrong wishes refused by name."""

import pytest

from mae_ext.config import parse_config
from mae_ext.engine import commit
from mae_ext.engine.task import build_model
from mae_ext.errors import UserError
from mae_ext.worth.arms import arms_of, config_of, recipe_of, stepped


def of(run, config=None, task=None, sets=(), **sides):
    return recipe_of(str(run), task, config, sets, sides)


def test_both_sides_are_alike_but_for_the_start_and_the_decay(make_run, recipe):
    both = of(make_run(), recipe({"name": "classify"}), sets=["train.layer_decay=0.75"])
    mine, theirs = (config.model_dump() for config in (both.pretrained, both.scratch))
    assert mine["init"] and theirs["init"] is None
    assert (mine["train"].pop("layer_decay"), theirs["train"].pop("layer_decay")) == (0.75, 1.0)
    assert {**mine, "init": None} == {**theirs, "init": None}


def test_sets_are_of_both_sides_or_of_one(make_run, recipe):
    name = recipe({"name": "classify"})
    both = of(make_run(), name, sets=["train.clip=1.0"], pretrained=["train.lr=0.1"], scratch=["train.layer_decay=0.9"])
    assert both.pretrained.train.clip == both.scratch.train.clip == 1.0
    assert (both.pretrained.train.lr, both.scratch.train.lr, both.scratch.train.layer_decay) == (0.1, 0.01, 0.9)
    assert both.settled == {"pretrained", "scratch"} and not both.fixed
    assert of(make_run(), name, sets=["train.steps=3"]).fixed


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_task_is_enough_to_fine_tune_a_run_of_any_modality(make_run, task):
    sets = ["train.steps=5"] if task == "classify" else ["train.steps=5", "task.classes=[a]", "task.masks=m"]
    run = make_run(size=[8, 16, 16], patch=[4, 8, 8])
    config = of(run, task=task, sets=sets).pretrained
    assert (config.task.name, config.modalities["image"].size, config.train.steps) == (task, (8, 16, 16), 5)
    assert config.task.arguments.get("pool", "attentive") == "attentive"  # a mean does not know what moved where
    assert config.task.arguments.get("head", "linear") == "linear"  # patches that are no one power of two


def test_a_light_arm_trains_nothing_of_the_encoder_and_random_has_no_start(make_run, recipe):
    both = of(make_run(), recipe({"name": "segment", "classes": ["a"], "masks": "m"}))
    for arm, begins in (("frozen", True), ("random", False)):
        config = config_of(both, arm, {"train.lr": 0.5})
        assert (config.train.freeze, config.train.lr, config.model.drop_path) == ("encoder", 0.5, 0.0)
        assert (config.init is not None) == begins
    assert config_of(both, "finetuned", {}).train.freeze == "none"


def test_what_holds_back_an_encoder_that_has_learned_is_of_no_other_arm(make_run, recipe):
    name = recipe({"name": "segment", "classes": ["a"], "masks": "m"})
    sets = ["train.thaw=0.3", "train.encoder_lr=0.2", "task.reconstruct=0.1", "train.scratch={lr: 0.7}"]
    both = of(make_run(), name, sets=sets)
    trained = {arm: config_of(both, arm, {}) for arm in ("frozen", "finetuned", "scratch", "random")}
    assert [(c.train.thaw, c.train.encoder_lr) for c in trained.values()] == [(0, 1), (0.3, 0.2), (0, 1), (0, 1)]
    assert [c.task.arguments.get("reconstruct") for c in trained.values()] == [None, 0.1, 0.1, None]
    assert [c.train.lr for c in trained.values()] == [0.01, 0.01, 0.7, 0.01]  # both light heads learn alike
    assert of(make_run("b"), name, sets=sets[:1], scratch=["train.thaw=0.1"]).scratch.train.thaw == 0.1


def test_a_recipe_of_a_frozen_encoder_still_trains_it_where_an_arm_says_so(make_run, recipe):
    name = recipe({"name": "segment", "classes": ["a"], "masks": "m"})
    both = of(make_run(), name, sets=["train.freeze=encoder"])
    freezes = [config_of(both, arm, {}).train.freeze for arm in ("frozen", "finetuned", "scratch", "random")]
    assert freezes == ["encoder", "none", "none", "encoder"]
    first = of(make_run("b"), name, sets=["train.freeze=1"])
    assert [config_of(first, arm, {}).train.freeze for arm in ("finetuned", "scratch")] == [1, "none"]


def test_few_labels_have_fewer_steps_but_not_too_few_and_named_steps_are_kept(make_run, recipe):
    config = of(
        make_run(), recipe({"name": "classify"}), sets=["train.steps=1000", "train.warmup_steps=100"]
    ).pretrained
    steps = [(c.train.steps, c.train.warmup_steps) for c in (stepped(config, n, 200, False) for n in (1, 100, 200))]
    assert steps == [(300, 30), (500, 50), (1000, 100)]
    assert stepped(config, 1, 200, True).train.steps == 1000
    epochs = parse_config({**config.model_dump(), "train": {"epochs": 8, "warmup_epochs": 1}}, "x")
    assert (stepped(epochs, 200, 200, False).train.steps, stepped(epochs, 1, 200, False).train.steps) == (400, 300)


def test_arms_that_are_not_there_are_named_with_those_that_are(make_run, recipe):
    both = of(make_run(), recipe({"name": "classify"}))
    assert arms_of(None, both) == ("frozen", "finetuned", "scratch", "random", "majority", "raw", "mean_image")
    assert arms_of("scratch, finetuned", both) == ("finetuned", "scratch")
    with pytest.raises(UserError, match="no arm 'scrach', did you mean 'scratch'"):
        arms_of("scrach", both)
    segment = of(make_run(), recipe({"name": "segment", "classes": ["a"], "masks": "m"}))
    with pytest.raises(UserError, match="attentive: is a probe of classes, and the task is segment"):
        arms_of("attentive", segment)


def test_a_fine_tuned_run_another_modality_and_a_task_of_no_kind_are_refused(make_run, make_config, recipe, tmp_path):
    run, name = make_run(), recipe({"name": "classify"})
    config = make_config().model_copy(update={"task": parse_config({
        **make_config().model_dump(), "task": {"name": "classify", "classes": ["a", "b"]}}, "x").task})  # fmt: skip
    commit.save(tmp_path / "ft" / "checkpoints", 1, config, {"model": build_model(config).state_dict()}, {})
    with pytest.raises(UserError, match=r"ft: is a fine-tuning run \(task classify\)"):
        of(tmp_path / "ft", name)
    with pytest.raises(UserError, match="no such modality"):
        of(run, "finetune_hippocampus_vitt")
    with pytest.raises(UserError, match=r"what for\? Give --task with one of classify, segment, detect"):
        of(run)
    with pytest.raises(UserError, match="--task paint: expected one of"):
        of(run, task="paint")
    with pytest.raises(UserError, match="is of the task 'classify'; expected segment"):
        of(run, name, "segment")
    with pytest.raises(UserError, match=r"task\.labels: how many labels there are is for --labels to say"):
        of(run, name, sets=["task.labels=10"])
