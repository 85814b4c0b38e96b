"""A config that cannot mean anything is refused by name, in one line, before any work starts."""

import pytest
from good_config import GOOD, changed, complaint
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_ext.config import parse_config
from mae_ext.errors import ConfigError
from mae_ext.strict_yaml import read_yaml


def refusal(values):
    with pytest.raises(ConfigError) as info:
        parse_config(values)
    message = str(info.value)
    assert "\n" not in message
    return message


def test_a_config_comes_back_from_its_own_yaml():
    config = parse_config(changed(modalities__image__mask={"name": "block", "ratio": 0.5, "aspect": 2.0}))
    assert parse_config(read_yaml(config.to_yaml(), "again")) == config


def test_what_a_config_does_not_say_is_what_maes_recipe_says_or_nothing_special():
    """Runs that do not say it go by it: a default that changes changes them all, and resumed ones are refused."""
    config = parse_config({
        "modalities": {"image": {"size": [32, 48], "patch": [8, 16], "batch": 4}},
        "model": {"width": 12, "depth": 1, "heads": 1}, "train": {"steps": 10},
    }).model_dump()  # fmt: skip
    assert (config["seed"], config["task"], config["init"]) == (0, {"name": "pretrain"}, None)
    assert config["model"] == {
        "size": None, "width": 12, "depth": 1, "heads": 1, "mlp_ratio": 4.0, "class_token": True, "drop_path": 0.0,
        "norm_eps": 1e-6,
        "decoder": {"width": 512, "depth": 8, "heads": 16, "mlp_ratio": None, "class_token": False, "fuse": ()},
    }  # fmt: skip
    image = config["modalities"]["image"]
    assert {k: v for k, v in image.items() if k not in ("size", "patch", "batch", "data")} == {
        "channels": 3, "weight": 1.0, "embed": {"name": "patch"}, "position": {"name": "sincos"},
        "mask": {"name": "random", "ratio": 0.75}, "decode": None, "target": {"name": "pixel"},
    }  # fmt: skip
    assert image["data"] == {
        "path": None, "test": None, "reader": {"name": "image"}, "channels": None, "statistics": "measured",
        "repeats": 1,
        "max_bad_fraction": 0.01,
        "augment": {"scale": (0.2, 1.0), "aspect": (3 / 4, 4 / 3), "fixed": (), "flip": (-1,)},
    }  # fmt: skip
    train = {
        "epochs": None, "steps": 10, "warmup_epochs": None, "warmup_steps": None, "lr": 1.5e-4, "lr_per": 256,
        "min_lr": 0.0, "betas": (0.9, 0.95), "weight_decay": 0.05, "layer_decay": 1.0, "freeze": "none",
        "evaluate_every": None, "clip": None, "uniformity": 0.0, "accumulate": 1, "precision": "bf16",
        "compile": "auto", "checkpointing": False, "device": "auto", "workers": 2, "prefetch": 2,
        "worker_timeout": 120.0, "save_every": 500, "keep": 2, "tensorboard": True, "probe": None,
        "log_every": 1, "loggers": (), "observe": (), "compile_mode": "default", "deterministic": True,
        "matmul": "highest", "cudnn_benchmark": False,
    }  # fmt: skip
    assert {key: config["train"][key] for key in train} == train


@pytest.mark.parametrize("name", ["1e5", "7E10", "2e-3", "007", "7", "no", "null", "12:30", "0x1f", "2020-01-01", "-"])
def test_a_class_comes_back_under_its_name_whatever_else_the_name_could_mean(name):
    config = parse_config(changed(task={"name": "classify", "classes": [name, "other"]}))
    assert read_yaml(config.to_yaml(), "again")["task"]["classes"] == [name, "other"]
    assert parse_config(read_yaml(config.to_yaml(), "again")) == config


def test_a_config_cannot_be_changed_after_it_was_checked():
    config = parse_config(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        config.train.lr = float("nan")


def test_sizes_have_the_published_shapes_and_each_number_can_be_given_instead():
    model = parse_config(GOOD).model
    assert (model.width, model.depth, model.heads) == (192, 12, 3)
    model = parse_config(changed(model__depth=5)).model
    assert (model.width, model.depth, model.heads) == (192, 5, 3)
    # DeiT, table 1; An Image is Worth 16x16 Words, table 1.
    published = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}
    for size, shape in published.items():
        model = parse_config(changed(model__size=size)).model
        assert (model.width, model.depth, model.heads) == shape


def test_the_samples_of_a_step_are_those_of_all_modalities():
    other = {"size": [32, 32], "patch": [8, 8], "batch": 6}
    assert parse_config(changed(modalities__other=other)).samples_per_step == 4 + 6


def test_a_bare_plugin_name_is_a_plugin_without_arguments():
    spec = parse_config(changed(modalities__image__mask="grid")).modalities["image"].mask
    assert (spec.name, spec.arguments) == ("grid", {})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (changed(train__warmup_stps=5), "train.warmup_stps: unknown key, did you mean 'warmup_steps'?"),
        (changed(modalities__image__pach=[8, 8]), "modalities.image.pach: unknown key, did you mean 'patch'?"),
        (changed(modalities__image__data__pth="x"), "modalities.image.data.pth: unknown key, did you mean 'path'?"),
        (changed(modalities__image__data__augment={"flp": []}), "augment.flp: unknown key, did you mean 'flip'?"),
        (changed(model__decoder__widht=8), "model.decoder.widht: unknown key, did you mean 'width'?"),
        (changed(model__decoder={"width:8": None}), "unknown key: YAML has a space after a colon; write 'width: 8'"),
        (changed(sed=1), "sed: unknown key, did you mean 'seed'?"),
        (changed(train__lr=float("nan")), "train.lr: "),
        (changed(train__lr=float("inf")), "train.lr: "),
        (changed(train__lr=0), "train.lr: Input should be greater than 0 (given: 0)"),
        (changed(train__lr="fast"), "train.lr: Input should be a valid number"),
        (changed(train__epochs=2), "give epochs or steps, not both"),
        ({**GOOD, "train": {}}, "train: give epochs or steps"),
        (changed(train__betas=[0.9, 1.0]), "train.betas.1: "),
        (changed(train__accumulate=3), "modalities.image.batch=4 is not a multiple of train.accumulate=3"),
        (changed(modalities__image__data__repeats=3), "batch=4 is not a multiple of data.repeats=3"),
        (changed(model__heads=5), "heads=5 does not divide width=192"),
        (changed(model__decoder__heads=5), "decoder.heads=5 does not divide decoder.width=96"),
        (changed(model__size="gigantic"), "model.size: Input should be 'tiny'"),
        ({**GOOD, "model": {"width": 8}}, "give `size`, or all of `width`, `depth` and `heads`"),
        (
            changed(modalities__image__size=[32, 50]),
            "size [32, 50] is not a multiple of patch [8, 16] on axis 1 (50 / 16)",
        ),
        (changed(modalities__image__size=[32]), "size [32] has 1 axes and patch [8, 16] has 2"),
        (changed(modalities__image__size=[0, 48]), "modalities.image.size.0: "),
        (changed(modalities__image__mask={"name": "random", "ratio": 0.99}), "mask ratio 0.99 keeps none of 12 tokens"),
        (changed(modalities__image__mask={"name": "random", "ratio": 1.0}), "mask ratio 1.0 is not in [0, 1)"),
        (changed(modalities__image__mask={"name": "random", "ratio": -0.1}), "mask ratio -0.1 is not in [0, 1)"),
        (changed(modalities__image__mask={"name": "random", "ratio": float("nan")}), "mask ratio nan is not in [0, 1)"),
        (changed(modalities__image__mask={"name": "random", "ratio": "most"}), "modalities.image.mask: "),
        (changed(modalities__image__mask={"name": "random", "ratio": None}), "modalities.image.mask: "),
        (changed(modalities__image__mask={"name": "random", "rato": 0.5}), "takes no 'rato', did you mean 'ratio'?"),
        (changed(modalities__image__mask="tub"), "modalities.image.mask: unknown masker 'tub'"),
        (changed(modalities__image__decode={"ratio": 0.5}), "modalities.image.decode.name: Field required"),
        (changed(modalities__image__embed={"name": "patch", "width": 3}), "embedder 'patch' takes no 'width'"),
        (changed(modalities__image__data__reader="image.ImageReader"), "unknown reader 'image.ImageReader'"),
        (changed(modalities__image__data__statistics={"mean": [0.5], "std": [0]}), "std.0"),
        (
            changed(modalities__image__data__statistics={"mean": [0.5, 0.5], "std": [1]}),
            "mean has 2 channels and std has 1",
        ),
        (changed(modalities__image__data__augment={"scale": [0.8, 0.2]}), "scale=[0.8, 0.2] must be [low, high]"),
        (changed(modalities__image__size=[10**400, 48]), "modalities.image.size.0: "),
        ({**GOOD, "modalities": {}}, "modalities: "),
        ({**GOOD, "modalities": {"my image": GOOD["modalities"]["image"]}}, "modality 'my image': a name is letters"),
        ({"train": GOOD["train"], "model": GOOD["model"]}, "modalities: Field required"),
        ({**GOOD, "a\nb": 1}, "unknown key"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(values, expected):
    assert expected in refusal(values)


def test_all_faults_are_told_at_once():
    message = refusal(changed(train__lr=-1, train__clip=0, model__norm_eps=0))
    assert all(key in message for key in ("train.lr", "train.clip", "model.norm_eps"))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [
    "seed",
    "model.size",
    "model.width",
    "model.decoder",
    "train.lr",
    "train.betas",
    "modalities",
    "modalities.image",
    "modalities.image.size",
    "modalities.image.patch",
    "modalities.image.channels",
    "modalities.image.mask",
    "modalities.image.mask.name",
    "modalities.image.mask.ratio",
    "modalities.image.decode",
    "modalities.image.embed.name",
    "modalities.image.data.statistics",
    "modalities.image.data.augment.flip",
    "modalities.image.batch",
]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from(PATHS), PLAIN)
def test_any_value_at_any_key_is_a_config_or_a_config_error_of_one_line(path, value):
    values = changed(modalities__image__mask={"name": "block"}, modalities__image__embed={"name": "patch"})
    values["modalities"]["image"]["data"] = {"augment": {}}
    node = values
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    assert len(complaint(lambda: parse_config(values)).splitlines()) <= 1
