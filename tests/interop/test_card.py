"""Our own weights as one file with a card: back again bit for bit, and nothing in it of the machine they are from."""

import json

import pytest
import torch
from export.tiny_runs import saved, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mae_ext.config import parse_config
from mae_ext.engine.start import opened
from mae_ext.errors import CheckpointError, UserError
from mae_ext.export.weights import export
from mae_ext.interop.card import Card
from mae_ext.interop.files import read_foreign
from mae_ext.interop.format import Foreign, Hints
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"), tiny("image", data={"path": "/home/me/photos"}))


def carded(run, tmp_path):
    return export(run, "safetensors", tmp_path / "e.safetensors").path


def test_all_weights_come_back_bit_for_bit_with_their_config(run, tmp_path):
    before = opened(run)
    after = Card().read(read_foreign(carded(run, tmp_path)), Hints())
    assert after.kind == "safetensors" and after.decodes
    assert after.weights.keys() == before.weights.keys()
    assert all(torch.equal(after.weights[key], weight) for key, weight in before.weights.items())
    assert after.config.model == before.config.model
    modality = before.config.modalities["image"]
    data = modality.data.model_copy(update={"path": None})
    assert after.config.modalities["image"] == modality.model_copy(update={"data": data})
    MAE(after.config).load_state_dict(dict(after.weights))


def test_the_name_of_a_format_and_a_path_open_it(run, tmp_path):
    assert opened(f"safetensors:{carded(run, tmp_path)}").config.model == opened(run).config.model


def test_nothing_of_the_machine_travels_with_it(run, tmp_path):
    path = carded(run, tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["mae_ext"]).keys() == {"format", "version", "mae_ext", "config"}
    for text in (*metadata.values(), *(file.read_text() for file in tmp_path.glob("*.json"))):
        assert "/home/me" not in text and str(run) not in text


def test_the_card_for_people_says_what_the_encoder_is(run, tmp_path):
    carded(run, tmp_path)
    card = json.loads((tmp_path / "e.safetensors.card.json").read_text())
    assert (card["modality"], card["size"], card["patch"], card["channels"]) == ("image", [16, 24], [8, 8], 3)
    assert card["encoder"] == {
        "width": 24, "depth": 2, "heads": 2, "mlp_ratio": 4.0, "norm_eps": 1e-6, "class_token": True,
    }  # fmt: skip
    assert card["parameters"] == sum(weight.numel() for weight in opened(run).weights.values())


def test_of_several_modalities_the_one_that_is_named_goes():
    one = tiny("image").model_dump(mode="json")
    one["modalities"]["other"] = one["modalities"]["image"]
    config = parse_config(one)
    origin = Origin(MAE(config).state_dict(), config, "both")
    written = Card().write(origin, "other")
    assert not [key for key in written.weights if key.startswith("modalities.image.")]
    back = Card().read(Foreign(written.weights, "a", metadata=written.metadata), Hints())
    assert list(back.config.modalities) == ["other"]
    assert torch.equal(
        back.weights["modalities.other.embed.project.weight"], origin.weights["modalities.other.embed.project.weight"]
    )


def test_an_encoder_without_a_decoder_comes_back_as_one(tmp_path):
    run = saved(tmp_path / "run", tiny("image", {"name": "classify", "classes": ["a", "b"]}))
    back = Card().read(read_foreign(carded(run, tmp_path)), Hints())
    assert not back.decodes and back.config.task.name == "pretrain"
    assert all(torch.equal(back.weights[key], weight) for key, weight in opened(run).weights.items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w, m: m.update(version=2), "a card of version 2; this version of mae-ext reads 1"),
        (lambda w, m: m.pop("config"), "its card: modalities: Field required"),
        (lambda w, m: m.clear(), "a card of version None"),
        (lambda w, m: m.update(config={"modalities": 3}), "modalities: Input should be a valid dictionary"),
        (
            lambda w, m: m["config"]["model"].update(depth=10**9),
            "no weight 'encoder.trunk.blocks.999999999.norm1.weight', which its card speaks of",
        ),
        (
            lambda w, m: w.pop("encoder.trunk.norm.bias"),
            "no weight 'encoder.trunk.norm.bias', which its card speaks of",
        ),
        (lambda w, m: w.update(more=torch.zeros(2)), r"weight 'more' \[2\] is none that its card speaks of"),
        (
            lambda w, m: w.update({"encoder.class_token": torch.zeros(23)}),
            r"weight 'encoder.class_token' \[23\] is none that its card speaks of",
        ),
        (
            lambda w, m: w["encoder.class_token"].fill_(float("nan")),
            "weight 'encoder.class_token' holds numbers that are not finite",
        ),
    ],
)
def test_a_card_that_does_not_fit_its_weights_is_refused_by_name(run, tmp_path, damage, message):
    path = carded(run, tmp_path)
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["mae_ext"])
    weights = load_file(path)
    damage(weights, card)
    save_file(weights, tmp_path / "damaged.safetensors", {"mae_ext": json.dumps(card)})
    with pytest.raises(UserError, match=message) as error:
        opened(f"safetensors:{tmp_path / 'damaged.safetensors'}")
    assert "damaged.safetensors" in str(error.value)


def test_hints_are_refused_for_it_says_all(run, tmp_path):
    with pytest.raises(CheckpointError, match="its card says all of it"):
        opened(f"safetensors:{carded(run, tmp_path)}::heads=3")


def test_weights_of_a_checkpoint_without_its_config_are_known_for_ours(run):
    (weights,) = run.glob("checkpoints/*/model.safetensors")
    assert Card().recognises(read_foreign(weights))
    with pytest.raises(CheckpointError, match="expected the run, or the folder of the checkpoint that they are in"):
        opened(f"safetensors:{weights}")


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_card_that_is_no_card_is_refused(run, tmp_path, text):
    weights = load_file(carded(run, tmp_path))
    save_file(weights, tmp_path / "damaged.safetensors", {"mae_ext": text})
    with pytest.raises(CheckpointError, match="its card"):
        opened(f"safetensors:{tmp_path / 'damaged.safetensors'}")


def test_the_same_weights_are_the_same_bytes(run, tmp_path):
    a, b = (export(run, "safetensors", tmp_path / f"{name}.safetensors").path for name in "ab")
    assert a.read_bytes() == b.read_bytes()
