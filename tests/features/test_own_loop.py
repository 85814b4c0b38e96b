"""The encoder in a program of one's own: an nn.Module like any other."""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import mae_ext
from mae_ext.data.sample import Sample
from mae_ext.errors import UserError
from mae_ext.features.encoder import FrozenEncoder, load_encoder

MakeRun = Callable[..., Path]
X = torch.randint(0, 256, (3, 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def encoder(make_run: MakeRun) -> FrozenEncoder:
    return load_encoder(make_run(), device="cpu")


def test_calling_it_gives_the_tokens_of_encode_with_gradients_for_all_that_it_uses(encoder: FrozenEncoder) -> None:
    tokens = encoder(X)
    assert tokens.shape == (3, 12, encoder.width) and encoder.grid_of(X) == (3, 4)
    assert torch.equal(tokens.detach(), encoder.encode(X)) and not encoder.training
    tokens.square().mean().backward()
    for name, parameter in encoder.named_parameters():
        used = not name.startswith(("model.decoder", "model.modalities.image.predict"))
        assert parameter.requires_grad == used == (parameter.grad is not None), name
    x = X.float().div(255).requires_grad_()
    encoder(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_what_is_asked_of_earlier_blocks_is_what_they_say_and_last_the_tokens(encoder: FrozenEncoder) -> None:
    first, second, last = encoder.layers(X, [1, 2])
    with torch.no_grad():
        trunk = encoder.model.encoder.trunk
        torch.testing.assert_close(trunk.norm(second), last)
        torch.testing.assert_close(trunk.blocks[1](torch.cat([_class_token(encoder), first], 1))[:, 1:], second)
    assert torch.equal(last, encoder(X))


@pytest.mark.parametrize("number", [0, 3, -1])
def test_a_block_that_there_is_not_is_an_error_with_those_there_are(encoder: FrozenEncoder, number: int) -> None:
    with pytest.raises(UserError, match=rf"layers \[1, {number}\]: there is no block {number}; .* from 1 to 2"):
        encoder.layers(X, [1, number])


def test_what_was_frozen_thaws_without_what_it_does_not_use(encoder: FrozenEncoder) -> None:
    before = {name: parameter.requires_grad for name, parameter in encoder.named_parameters()}
    assert not any(p.requires_grad for p in encoder.requires_grad_(False).parameters())
    encoder.requires_grad_()
    assert {name: parameter.requires_grad for name, parameter in encoder.named_parameters()} == before
    assert set(before.values()) == {True, False}


def _class_token(encoder: FrozenEncoder) -> torch.Tensor:
    """After the first block, which `layers` leaves out."""
    modality, model = encoder.model.modality(), encoder.model.encoder
    tokens = modality.tokens(modality.normalize(X), modality.everything(X), None)
    whole: torch.Tensor = model.trunk.blocks[0](model._with_class_token(tokens))
    return whole[:, :1]


@pytest.mark.parametrize("frozen", ["encode", "pooled"])
def test_a_head_learns_from_frozen_features(encoder: FrozenEncoder, frozen: str) -> None:
    features = encoder.encode(X) if frozen == "encode" else encoder.pooled([Sample(x, "") for x in X])
    assert not features.requires_grad and not features.is_inference()
    head = nn.Linear(encoder.width, 2)
    head(features).sum().backward()
    assert head.weight.grad is not None and head.weight.grad.abs().min() > 0


@pytest.mark.parametrize(
    ("position", "spacing"), [("learned", None), ({"name": "sincos", "unit": 4.0}, torch.tensor([[0.5, 2.0]] * 3))]
)
@pytest.mark.parametrize(("kind", "close"), [(torch.float16, 0.02), (torch.bfloat16, 0.15), (torch.float64, 1e-5)])
def test_in_another_precision_tokens_are_of_it_and_close_and_statistics_stay_exact(
    make_run: MakeRun, kind: torch.dtype, close: float, position: str, spacing: torch.Tensor | None
) -> None:
    # 70 000 is infinite in float16: pixels in 0..1 would all be the same.
    levels = {"mean": [70000.0] * 3, "std": [3e4] * 3}
    encoder = load_encoder(make_run(position=position, data={"statistics": levels}), device="cpu")
    x = torch.rand(3, 3, 24, 16) * 1e5
    plain, moved = encoder(x, spacing), copy.deepcopy(encoder).to(kind)
    found = moved(x, spacing)
    assert found.dtype == kind and (found - plain).abs().max() < close < plain.std()
    mask = moved.model.modality().draw_mask([torch.Generator()] * 3)
    filled = moved.model.reconstruct(x, mask, spacing=spacing)
    torch.testing.assert_close(filled, encoder.model.reconstruct(x, mask, spacing=spacing), rtol=0.1, atol=0.1 * 3e4)
    assert moved.pooled([Sample(x[0], "", None, None if spacing is None else (0.5, 2.0))]).dtype == torch.float32
    again = moved.float()
    assert again(x, spacing).dtype == torch.float32 and again.model.modality().mean.tolist() == levels["mean"]


def test_a_copy_and_what_was_saved_say_the_same_and_share_nothing(encoder: FrozenEncoder) -> None:
    wanted, file = encoder(X), io.BytesIO()
    torch.save(encoder, file)
    file.seek(0)
    copies = [copy.deepcopy(encoder), torch.load(file, weights_only=False)]
    fresh = encoder.randomised(5)
    assert not torch.equal(fresh(X), wanted)
    fresh.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    for one in (*copies, fresh):
        assert torch.equal(one(X), wanted) and one.path == encoder.path


def test_it_can_be_exported_for_any_batch_and_compiled(encoder: FrozenEncoder) -> None:
    rows = torch.export.Dim("rows", min=2, max=64)
    exported = torch.export.export(encoder, (X,), dynamic_shapes=({0: rows},))
    five = torch.cat([X, X[:2]])
    torch.testing.assert_close(exported.module()(five), encoder(five), atol=1e-5, rtol=1e-5)
    compiled = torch.compile(encoder, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), encoder(X), atol=1e-5, rtol=1e-5)


def test_data_parallel_replicas_say_the_same(encoder: FrozenEncoder) -> None:
    """As DataParallel makes them: no parameters, but attributes; on one device here."""

    def replica(module: nn.Module) -> nn.Module:
        found = module._replicate_for_data_parallel()
        for name, child in module._modules.items():
            found._modules[name] = None if child is None else replica(child)
            if child is not None:
                setattr(found, name, found._modules[name])
        for name, parameter in module._parameters.items():
            setattr(found, name, None if parameter is None else parameter.clone())
        for name, buffer in module._buffers.items():
            found._buffers[name] = buffer
        return found

    made = replica(encoder)
    assert not list(made.parameters())
    assert torch.equal(made(X), encoder(X))
    assert torch.equal(nn.DataParallel(encoder)(X), encoder(X))


def test_two_ranks_worth_of_optimiser_leaves_alone_what_it_does_not_use(encoder: FrozenEncoder) -> None:
    before = copy.deepcopy(encoder.state_dict())
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
    encoder.train()(X).square().mean().backward()
    optimizer.step()
    for name, value in encoder.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == name.startswith(("model.encoder", "model.modalities.image.embed")), name


def test_a_recipe_trains_by_its_name_with_what_the_commands_take(photos: Path, tmp_path: Path) -> None:
    small = ["modalities.image.size=[16,16]", "modalities.image.patch=[8,8]", "modalities.image.batch=4"]
    small += ["model.width=16", "model.depth=1", "model.heads=2", "train.workers=0", "train.device=cpu"]
    small += ["model.decoder={width: 8, depth: 1, heads: 2}", "train.tensorboard=false"]
    run = mae_ext.train("image_folder", tmp_path / "run", data=photos, steps=2, sets=small)
    encoder = mae_ext.load_encoder(run, device="cpu")
    assert (encoder.step, encoder.width, encoder.config.modalities["image"].data.path) == (2, 16, str(photos))
    config = mae_ext.load_config("image_folder", small)
    again = mae_ext.train(config, tmp_path / "run2", data=photos, steps=2, sets=["seed=0"])
    assert (again / "metrics.jsonl").read_text().count("\n") == 2
    with pytest.raises(UserError, match=r"modalities\.image\.data\.path is not set: .* in Python data=PATH"):
        mae_ext.train("image_folder", tmp_path / "run3")
    with pytest.raises(UserError, match="did you mean 'image_folder'"):
        mae_ext.train("image_foldr", tmp_path / "run3", data=photos)
