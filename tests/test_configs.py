"""Every recipe that ships is valid, says what it costs and what to expect, and can be named without a path."""

import json

import pytest

from mae_ext.cards import HEAD, read_head, shipped
from mae_ext.config import SIZES, find_config, json_schema, load_config, load_values, parse_config
from mae_ext.engine import commit
from mae_ext.engine.optim import peak_lr
from mae_ext.engine.start_config import with_start
from mae_ext.errors import ConfigError

RECIPES = {path.stem: path for path in shipped("configs")}
ON_ANY_RUN = {"finetune_folder": "image_folder", "finetune_scans": "volume_ct_vitb"}
"""They leave the architecture to the run that they start from, here one of another recipe."""
MAE_TABLE_8 = {"vitb": (768, 12, 12, 16), "vitl": (1024, 24, 16, 16), "vith": (1280, 32, 16, 14)}


def test_the_recipes_that_the_documentation_names_ship():
    expected = {"image_demo", "image_folder", "image_cifar10_vitt", *(f"image_in1k_{size}" for size in MAE_TABLE_8)}
    assert expected <= set(RECIPES)


@pytest.mark.parametrize("name", ON_ANY_RUN)
def test_a_recipe_for_ones_own_run_takes_architecture_and_reader_from_it(name, tmp_path):
    pretraining = load_config(ON_ANY_RUN[name])
    saved = commit.save(tmp_path / "checkpoints", 1, pretraining, {"model": {}}, {})
    config = with_start(*load_values(name), tmp_path)
    ((_, tuned),) = config.modalities.items()
    own = pretraining.modalities[next(iter(config.modalities))]
    assert config.init == str(saved.absolute()) and config.model.width == pretraining.model.width
    assert (tuned.size, tuned.patch, tuned.channels, tuned.data.reader) == (
        own.size, own.patch, own.channels, own.data.reader
    )  # fmt: skip
    config.check_plugins()
    with pytest.raises(ConfigError, match=r"patch|model"):  # from nothing, it would have to say what to build
        parse_config(load_values(name)[0], name)


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - ON_ANY_RUN))
def test_a_recipe_loads_by_its_name_alone(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).samefile(RECIPES[name])
    assert load_config(name) == load_config(RECIPES[name])


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - ON_ANY_RUN))
def test_a_limit_of_the_reader_is_set_whether_or_not_a_recipe_names_one(name):
    plain = load_config(name)
    for modality, section in plain.modalities.items():
        reader = section.data.reader
        key = "max_bytes" if reader.name == "volume" else "max_pixels"
        changed = load_config(name, [f"modalities.{modality}.data.reader.{key}=400000000"])
        expected = {"name": reader.name, **reader.arguments, key: 400_000_000}
        assert changed.modalities[modality].data.reader.model_dump() == expected


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_command_hardware_time_and_the_number_to_expect(name):
    head = read_head(RECIPES[name])
    assert tuple(head) == HEAD
    assert name in head["command"] or head["command"].startswith("scripts/")
    assert any(word in head["time"] for word in ("published", "measured"))
    assert any(word in head["expect"] for word in ("published", "measured"))
    for line in (head["time"], head["expect"]):
        # "published" is a claim about a source, so the source stands in the same head.
        assert "not published" in line or "published:" not in line or any(s in str(head) for s in ("paper", "facebook"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_no_data_of_its_own(name):
    """A path in a recipe is a path of somebody else's machine."""
    values, _ = load_values(name)
    assert not [key for m in values["modalities"].values() for key in ("path", "test") if key in m.get("data", {})]


@pytest.mark.parametrize("size", MAE_TABLE_8)
def test_the_imagenet_recipes_are_those_of_the_paper(size):
    config = load_config(f"image_in1k_{size}")
    image, train = config.modalities["image"], config.train
    *encoder, patch = MAE_TABLE_8[size]
    assert [config.model.width, config.model.depth, config.model.heads] == encoder
    assert (image.size, image.patch, image.batch) == ((224, 224), (patch, patch), 4096)
    assert (image.mask.name, image.mask.arguments) == ("random", {"ratio": 0.75})
    assert (image.target.name, image.target.arguments) == ("pixel", {"normalize": "mae"})
    assert (image.data.augment.scale, image.data.augment.flip) == ((0.2, 1.0), (-1,))
    assert (config.model.decoder.width, config.model.decoder.depth, config.model.decoder.heads) == (512, 8, 16)
    assert (train.epochs, train.warmup_epochs, train.lr, train.lr_per) == (800, 40, 1.5e-4, 256)
    assert (train.betas, train.weight_decay, train.min_lr, train.clip) == ((0.9, 0.95), 0.05, 0, None)
    assert config.model.drop_path == 0


@pytest.mark.parametrize(
    ("name", "size", "stride", "flip", "ratio", "batch", "decoder", "epochs", "lr"),
    [
        ("video_k400_vitb", "base", 4, (-1,), 0.9, 2048, (384, 4, 6), 1600, 1.5e-4),
        ("video_k400_vitl", "large", 4, (-1,), 0.9, 512, (512, 12, 8), 1600, 1.5e-4),
        ("video_ssv2_vitb", "base", 2, (), 0.9, 2048, (384, 4, 6), 2400, 1.5e-4),
        ("video_ucf101_vitb", "base", 4, (-1,), 0.75, 192, (384, 4, 6), 3200, 3e-4),
    ],
)
def test_the_videomae_recipes_are_those_of_its_scripts(name, size, stride, flip, ratio, batch, decoder, epochs, lr):
    config = load_config(name)
    video, train = config.modalities["video"], config.train
    assert {"width": config.model.width, "depth": config.model.depth, "heads": config.model.heads} == SIZES[size]
    assert (video.size, video.patch, video.batch) == ((16, 224, 224), (2, 16, 16), batch)
    assert (video.mask.name, video.mask.arguments) == ("tube", {"ratio": ratio})
    assert (video.target.arguments, video.position.name) == ({"normalize": "channel"}, "sequence")
    assert (video.data.reader.arguments["stride"], video.data.augment.flip) == (stride, flip)
    assert (config.model.decoder.width, config.model.decoder.depth, config.model.decoder.heads) == decoder
    # Theirs decodes a film for one clip; ours counts four clips of it in an epoch, as MAE-ST and VideoMAE V2 do.
    assert (video.data.repeats, train.epochs, train.warmup_epochs) == (4, epochs / 4, 10)
    assert (train.lr, train.lr_per) == (lr, 256)
    assert train.min_lr == pytest.approx(1e-5 * batch / 256)
    assert not config.model.class_token


def test_the_mae_st_recipe_counts_its_repeats_where_its_command_does_not():
    config = load_config("video_k400_maest_vitl")
    video = config.modalities["video"]
    assert (video.mask.name, video.mask.arguments, video.data.repeats) == ("random", {"ratio": 0.9}, 4)
    assert (video.position.name, config.train.clip, config.model.class_token) == ("separable", 0.02, True)
    assert peak_lr(config) == pytest.approx(1.6e-3 * 128 / 256)


def test_dual_masking_decodes_half_of_what_is_hidden():
    video = load_config("video_k400_vitb_dual").modalities["video"]
    assert (video.decode.name, video.decode.arguments) == ("running_cell", {"ratio": 0.5})


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("video")])
def test_a_clip_is_as_many_frames_as_the_model_sees(name):
    """Without `fixed: [0]` a clip would be spread over the whole video."""
    assert load_config(name).modalities["video"].data.augment.fixed == (0,)


def test_a_recipe_without_its_head_is_refused(tmp_path):
    bare = tmp_path / "bare.yaml"
    bare.write_text("# what: a recipe that does not say what it costs\nseed: 0\n")
    with pytest.raises(ConfigError, match=r"bare\.yaml.*what; expected what, command"):
        read_head(bare)


def test_the_schema_for_editors_knows_every_section_and_refuses_unknown_keys():
    schema = json.loads(json_schema())
    assert schema["additionalProperties"] is False
    assert {"seed", "modalities", "model", "train"} <= set(schema["properties"])
    assert schema["$defs"]["TrainConfig"]["additionalProperties"] is False
