"""A fine-tuning config on a run: what the run was is taken over, and what contradicts it is refused by name."""

import pytest
import torch

from mae_ext.config import set_value
from mae_ext.engine import checkpoint
from mae_ext.engine.start_config import with_start
from mae_ext.errors import ConfigError
from mae_ext.model.mae import MAE
from mae_ext.tasks.backbone import load_backbone

TRAIN = {"steps": 5, "workers": 0}


def values(model=None, train=None, task="classify", **image):
    found = {"task": task, "modalities": {"image": {"batch": 4, **image}}, "train": TRAIN | (train or {})}
    return found | ({"model": model} if model is not None else {})


def test_what_the_config_leaves_out_is_the_runs(make_run):
    run = make_run(position={"name": "sincos", "unit": 4.0})
    before = checkpoint.read_config(checkpoint.latest(run))
    config = with_start(values(), "config", run)
    one, other = config.modalities["image"], before.modalities["image"]
    for part in ("size", "patch", "channels", "embed", "position"):
        assert getattr(one, part) == getattr(other, part)
    assert one.data.statistics == other.data.statistics and one.data.reader == other.data.reader
    assert one.data.path is None and one.batch == 4
    assert config.model.width == before.model.width and config.train.steps == 5
    assert config.init == str(checkpoint.latest(run).absolute())


def test_what_the_config_says_of_augmentation_counts_and_the_rest_of_it_is_the_runs(make_run):
    run = make_run(data={"augment": {"scale": [0.3, 0.7], "aspect": [0.9, 1.1], "flip": [0]}})
    augment = (
        with_start(values(data={"augment": {"scale": [0.5, 0.9]}}), "config", run).modalities["image"].data.augment
    )
    assert (augment.scale, augment.aspect, augment.flip) == ((0.5, 0.9), (0.9, 1.1), (0,))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": {"width": 48}}, "model.width is 48, and 24 there"),
        ({"model": {"size": "tiny"}}, "model.width is 192, and 24 there"),
        ({"model": {"class_token": False}}, "model.class_token is False, and True there"),
        ({"patch": [4, 4]}, "modalities.image.patch is [4, 4], and [8, 4] there"),
        ({"channels": 1}, "modalities.image.channels is 1, and 3 there"),
        ({"position": "learned"}, "modalities.image.position is {'name': 'learned'}, and {'name': 'sincos'} there"),
        ({"data": {"reader": "video"}}, "modalities.image.data.reader.name is video, and image there"),
        ({"data": {"statistics": {"mean": [0, 0, 0], "std": [1, 1, 1]}}}, "modalities.image.data.statistics is"),
    ],
)
def test_what_contradicts_the_run_is_refused_by_name(make_run, given, told):
    run = make_run()
    with pytest.raises(ConfigError) as info:
        with_start(values(**given), "ft.yaml", run)
    said = str(info.value)
    assert said.startswith(f"ft.yaml: does not fit --init {run}: ") and told in said and "\n" not in said


def test_what_agrees_with_the_run_may_be_said_again(make_run):
    again = {"patch": [8, 4], "channels": 3, "position": "sincos", "size": [24, 16]}
    config = with_start(values(model={"width": 24, "drop_path": 0.2}, **again), "config", make_run())
    assert config.model.drop_path == 0.2


def test_what_a_reader_may_refuse_is_the_configs_and_the_rest_the_runs(make_run):
    """Limits change no sample, and a machine with more memory may read what another could not."""
    reader = {"name": "image", "max_pixels": 1000}
    config = with_start(values(data={"reader": reader}), "config", make_run())
    assert config.modalities["image"].data.reader.arguments == {"max_pixels": 1000}


def test_a_limit_of_the_reader_needs_no_name_of_it(make_run):
    given = values()
    set_value(given, "modalities.image.data.reader.max_pixels=200000000")
    assert with_start(given, "config", make_run()).modalities["image"].data.reader.arguments["max_pixels"] == 2 * 10**8


@pytest.mark.parametrize("position", ["sincos", "sequence", "learned", "separable"])
def test_another_size_is_taken_and_means_what_the_run_s_own_encoder_says_of_it(make_run, position):
    run = make_run(position, position=position)
    config = with_start(values(size=[40, 32]), "config", run)
    assert config.modalities["image"].grid == (5, 8)
    model = MAE(config, decodes=False).eval()
    load_backbone(model, config)
    x = torch.rand(2, 3, 40, 32)
    with torch.no_grad():
        found, own = model.encode(x), checkpoint.load_run(run).model.encode(x)
    torch.testing.assert_close(found, own, atol=2e-6, rtol=0)


def test_another_size_is_refused_where_a_plug_in_s_positions_are_of_one_grid(make_run, monkeypatch):
    run = make_run(position="learned")
    monkeypatch.delattr("mae_ext.model.position.Learned.any_size")
    with pytest.raises(ConfigError, match="positions of 'learned' belong to one grid"):
        with_start(values(size=[40, 32]), "config", run)


def test_a_modality_that_the_run_has_not_is_refused(make_run):
    wrong = {**values(), "modalities": {"imag": {"batch": 4}}}
    with pytest.raises(ConfigError, match=r"modalities\.imag: .* has no such modality, did you mean 'image'\?"):
        with_start(wrong, "config", make_run())


def test_unknown_keys_are_refused_as_everywhere(make_run):
    with pytest.raises(ConfigError, match=r"train\.layer_decya: unknown key, did you mean 'layer_decay'\?"):
        with_start(values(train={"layer_decya": 0.5}), "config", make_run())
    with pytest.raises(ConfigError, match=r"model: Field required"):
        with_start(values(size=[24, 16], patch=[8, 4]), "config", "none")


@pytest.mark.parametrize("left_out", ["size", "patch", "model"])
def test_a_recipe_that_leaves_something_to_a_run_says_so_where_it_is_to_start_from_nothing(make_run, left_out):
    whole = {**values(size=[24, 16], patch=[8, 4]), "model": {"width": 8, "depth": 1, "heads": 1}}
    with_start(whole, "config", "none")
    whole.pop("model") if left_out == "model" else whole["modalities"]["image"].pop(left_out)
    key = "model.size=NAME" if left_out == "model" else rf"'modalities.image.{left_out}=\[...\]'"
    with pytest.raises(ConfigError, match=rf"{left_out}: Field required; with --init RUN these .* --set {key}$"):
        with_start(whole, "config", "none")


def test_what_no_run_would_say_is_not_put_down_to_a_missing_start():
    whole = {**values(size=[24, 16], patch=[8, 4], batch=0), "model": {"width": 8, "depth": 1, "heads": 1}}
    with pytest.raises(ConfigError, match="batch") as info:
        with_start(whole, "config", "none")
    assert "--init RUN" not in str(info.value)
