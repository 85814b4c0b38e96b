"""Text becomes the config that it says, overrides included, or an error of one line."""

import pytest
import yaml
from good_config import changed, complaint
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mae_ext.config import load_config, parse_config, set_value
from mae_ext.errors import ConfigError
from mae_ext.strict_yaml import MAX_BYTES, read_yaml


@pytest.fixture
def load(tmp_path):
    def from_text(text, sets=()):
        file = tmp_path / "config.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(file, sets)

    return from_text


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
