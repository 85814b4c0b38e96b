"""A config that cannot mean anything is refused by name, in one line, before any work starts."""

import copy

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mae_ext.config import Config, load_config, parse_config, set_value
from mae_ext.errors import ConfigError
from mae_ext.strict_yaml import MAX_BYTES, read_yaml

GOOD = {
    "modalities": {"image": {"size": [32, 48], "patch": [8, 16], "batch": 4, "data": {"path": "photos"}}},
    "model": {"size": "tiny", "decoder": {"width": 96, "depth": 2, "heads": 3}},
    "train": {"steps": 10},
}


def changed(**values):
    """GOOD with dotted__keys set: changed(train__lr=1)."""
    config = copy.deepcopy(GOOD)
    for dotted, value in values.items():
        *parents, last = dotted.split("__")
        node = config
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return config


@pytest.fixture
def load(tmp_path):
    def from_text(text, sets=()):
        file = tmp_path / "config.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(file, sets)

    return from_text


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
        "norm_eps": 1e-6, "decoder": {"width": 512, "depth": 8, "heads": 16},
    }  # fmt: skip
    image = config["modalities"]["image"]
    assert {k: v for k, v in image.items() if k not in ("size", "patch", "batch", "data")} == {
        "channels": 3, "weight": 1.0, "embed": {"name": "patch"}, "position": {"name": "sincos"},
        "mask": {"name": "random", "ratio": 0.75}, "decode": None, "target": {"name": "pixel"},
    }  # fmt: skip
    assert image["data"] == {
        "path": None, "test": None, "reader": {"name": "image"}, "statistics": "measured", "repeats": 1,
        "max_bad_fraction": 0.01,
        "augment": {"scale": (0.2, 1.0), "aspect": (3 / 4, 4 / 3), "fixed": (), "flip": (-1,)},
    }  # fmt: skip
    train = {
        "epochs": None, "steps": 10, "warmup_epochs": None, "warmup_steps": None, "lr": 1.5e-4, "lr_per": 256,
        "min_lr": 0.0, "betas": (0.9, 0.95), "weight_decay": 0.05, "layer_decay": 1.0, "freeze": "none",
        "evaluate_every": None, "clip": None, "uniformity": 0.0, "accumulate": 1, "precision": "bf16",
        "compile": False, "checkpointing": False, "device": "auto", "workers": 2, "prefetch": 2,
        "worker_timeout": 120.0, "save_every": 500, "keep": 2, "tensorboard": True, "probe": None,
        "log_every": 1, "loggers": (), "observe": (),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nmodel: {}\nseed: 2\n", "line 3: 'seed' is given twice"),
        ("train:\n  lr: 1\n  lr: 2\n", "line 3: 'lr' is given twice"),
        ("a: &x [1]\nb: *x\n", "line 2: YAML aliases are not read"),
        ("a: {b: 1}\n<<: {c: 2}\n", "not valid YAML"),
        ("seed: !!python/object/apply:os.system ['echo broken']\n", "could not determine a constructor"),
        ("seed: !!python/object:mae_ext.config.Config {}\n", "could not determine a constructor"),
        ("seed: !!python/name:os.system\n", "could not determine a constructor"),
        ("seed: " + "[" * 5000, "nested more than 32 deep"),
        ("a: " + "{b: " * 40 + "1" + "}" * 40, "nested more than 32 deep"),
        ("seed: \0\n", "not valid YAML"),
        ("", "expected keys and values, found NoneType"),
        ("- 1\n", "expected keys and values, found list"),
        ("just text", "expected keys and values, found str"),
        ("1: 2\n", "line 1: key 1 is not text"),
        ("? [1, 2]\n: 3\n", "is not text"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: [1\n", "not valid YAML"),
        ('a: !!int ""\n', "not valid YAML"),
        ("a: !!float ''\n", "not valid YAML"),
        ("a: !!bool perhaps\n", "not valid YAML"),
        ("a: !!map [1]\n", "not valid YAML"),
        ("a: !!map text\n", "not valid YAML"),
        ("a: !!timestamp never\n", "not valid YAML"),
        ("a: 2001-99-99\n", "not valid YAML"),
        ("a: 1" + ":1" * 300 + ".5\n", "not valid YAML"),
        ("a: " + "9" * 5000 + "\n", "not valid YAML"),
        ("a: \udc80\n", "not valid YAML"),
    ],
)
def test_text_that_is_not_a_plain_mapping_is_refused(text, expected):
    with pytest.raises(ConfigError, match="here") as info:
        read_yaml(text, "here")
    assert expected in str(info.value) and "\n" not in str(info.value)


def test_a_file_of_two_mebibytes_is_not_a_config_and_is_not_parsed():
    with pytest.raises(ConfigError, match=f"larger than {MAX_BYTES} bytes"):
        read_yaml("a: [" + "1," * (1 << 20) + "]", "here")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"seed: \x80\n"])
def test_a_file_that_is_not_text_is_named(load, content):
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read as text"):
        load(content)


@pytest.mark.parametrize("name", ["no_such_recipe", "", ".", "/", "a" * 5000, "a\0b", "configs/no/such"])
def test_a_config_that_does_not_exist_is_named(name):
    with pytest.raises(ConfigError, match="no such file, nor a recipe"):
        load_config(name)


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "1E-4", "+1e-4", "0.0001", ".0001"])
def test_every_way_to_write_a_small_number_is_a_number(text):
    """YAML 1.1 reads 1e-4 as text."""
    assert read_yaml(f"lr: {text}", "here") == {"lr": pytest.approx(1e-4)}


def test_a_name_that_looks_a_little_like_a_number_stays_text():
    assert read_yaml("a: 1e\nb: e4\nc: 12e4x\nd: '1e-4'", "here") == {"a": "1e", "b": "e4", "c": "12e4x", "d": "1e-4"}


def test_overrides_reach_any_key_and_are_read_as_yaml(load):
    text = yaml.safe_dump(changed(modalities__image__mask="random"))
    sets = [
        "train.lr=2e-3",
        "modalities.image.mask.ratio=0.5",
        "modalities.image.size=[16, 16]",
        "train.clip=1",
        "modalities.image.data.augment.scale=null",
        "model.class_token=no",
    ]
    config = load(text, sets)
    image = config.modalities["image"]
    assert (config.train.lr, config.train.clip, config.model.class_token) == (2e-3, 1.0, False)
    assert (image.mask.name, image.mask.arguments, image.size) == ("random", {"ratio": 0.5}, (16, 16))
    assert image.data.augment.scale is None


def test_arguments_without_a_name_are_of_the_plug_in_that_is_there_by_default(load):
    text = yaml.safe_dump(changed())
    image = load(text, ["modalities.image.mask.ratio=0.5", "modalities.image.data.reader.max_pixels=7"]).modalities[
        "image"
    ]
    assert (image.mask.name, image.mask.arguments) == ("random", {"ratio": 0.5})
    assert (image.data.reader.name, image.data.reader.arguments) == ("image", {"max_pixels": 7})
    assert load(text, ["modalities.image.mask={}"]).modalities["image"].mask.arguments == {"ratio": 0.75}
    with pytest.raises(ConfigError, match="reader 'image' takes no 'max_pixel', did you mean 'max_pixels'"):
        load(text, ["modalities.image.data.reader.max_pixel=7"])


def test_a_later_override_wins():
    values = {}
    set_value(values, "train.steps=1")
    set_value(values, "train.steps=2")
    assert values == {"train": {"steps": 2}}


def test_a_value_may_contain_the_equals_sign():
    values = {}
    set_value(values, "a=b=c")
    assert values == {"a": "b=c"}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.lr", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("train.lr.x=1", "is a value, not a section"),
        ("modalities.image.size.0=8", "'size' is a value, not a section"),
        ("train.lr=[1", "not valid YAML"),
        ("train.lr=!!python/name:os.system", "not valid YAML"),
        ("train.lr=-1", "train.lr: Input should be greater than 0 (given: -1)"),
        ("train.lrr=1", "did you mean 'lr'"),
        ("modalities.image.mask.rato=0.5", "takes no 'rato'"),
    ],
)
def test_an_override_that_cannot_be_is_refused(load, assignment, expected):
    text = yaml.safe_dump(changed(train__lr=1e-4, modalities__image__mask="random"))
    with pytest.raises(ConfigError) as info:
        load(text, [assignment])
    assert expected in str(info.value)


def complaint(make):
    """What the user is told, or nothing; any exception but a ConfigError comes through."""
    try:
        assert isinstance(make(), Config)
    except ConfigError as error:
        return str(error)
    return ""


# Text that reaches the corners: YAML's own punctuation, tags and the keys of the schema.
WORDS = st.sampled_from(
    [
        "seed",
        "modalities",
        "model",
        "train",
        "image",
        "size",
        "patch",
        "mask",
        "ratio",
        "lr",
        "steps",
        ":",
        ": ",
        "\n",
        "\n  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "&a ",
        "*a",
        "<<",
        "!!int ",
        "!!float ",
        "!!map ",
        "!!set ",
        "!!omap ",
        "!!binary ",
        "!!str ",
        "!!timestamp ",
        "!!python/object:os ",
        "? ",
        "| ",
        "> ",
        "'",
        '"',
        "#",
        "%YAML 1.1\n",
        "---",
        "...",
        "0",
        "1e-4",
        ".nan",
        ".inf",
        "0x_",
        "1:1.5",
        "2001-02-30",
        "=",
        "~",
        "\0",
        "\ufeff",
        "\u2028",
        "\t",
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=25).map("".join)))
@example("!!map [a]")
@example("{? {a: 1} : 2}")
@example('{"a\\nb": 1, "a\\nb": 2}')
def test_any_text_at_all_is_a_config_or_a_config_error_of_one_line(text):
    assert len(complaint(lambda: parse_config(read_yaml(text, "here"), "here")).splitlines()) <= 1


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
