"""The term against features that all point the same way."""

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.errors import ConfigError
from mae_ext.model.uniformity import uniformity

IMAGE = {"size": [8, 12], "patch": [4, 4]}


def test_it_is_the_mean_squared_cosine_over_all_pairs():
    tokens = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0))
    pairs = [
        torch.cosine_similarity(tokens[i].mean(0), tokens[j].mean(0), dim=0) ** 2
        for i in range(5) for j in range(5) if i != j
    ]  # fmt: skip
    assert uniformity(tokens).item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)


def test_one_direction_costs_one_and_orthogonal_ones_nothing():
    assert uniformity(torch.ones(4, 3, 8) * torch.tensor([1.0, -2, 3, 4]).view(4, 1, 1)).item() == pytest.approx(1)
    assert uniformity(torch.eye(4)[:, None].expand(-1, 3, -1)).item() == pytest.approx(0, abs=1e-6)


def test_views_of_one_file_are_no_pair_and_distinct_files_change_no_bit():
    tokens = torch.randn(6, 3, 7, generator=torch.Generator().manual_seed(0))
    files = torch.tensor([4, 4, 9, 2, 9, 4])
    pairs = [
        torch.cosine_similarity(tokens[i].mean(0), tokens[j].mean(0), dim=0) ** 2
        for i in range(6) for j in range(6) if files[i] != files[j]
    ]  # fmt: skip
    assert len(pairs) == 22
    assert uniformity(tokens, files).item() == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)
    assert torch.equal(uniformity(tokens, torch.arange(6)), uniformity(tokens))
    assert uniformity(torch.ones(2, 3, 7), torch.zeros(2).long()).item() == pytest.approx(0, abs=1e-6)


def test_no_gradient_pushes_two_views_of_one_file_apart():
    tokens = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0))
    tokens[2:] = torch.tensor([0.0, 0.0, 1.0])
    tokens[:2, :, 2] = 0  # orthogonal to the other file's, and at an angle to each other
    tokens.requires_grad_()
    uniformity(tokens, torch.tensor([0, 0, 1, 1])).backward()
    assert tokens.grad.abs().max() < 1e-7
    tokens.grad = None
    uniformity(tokens).backward()
    assert tokens.grad.abs().max() > 1e-3


def test_following_its_gradient_spreads_the_features():
    tokens = (1 + 0.1 * torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(0))).requires_grad_()
    before = uniformity(tokens)
    before.backward()
    assert uniformity(tokens.detach() - 0.5 * tokens.grad) < before


@pytest.mark.parametrize("class_token", [True, False])
def test_the_loss_takes_it_over_patch_tokens_with_its_weight(build, draw, class_token):
    settings = {"model": {"class_token": class_token}, "image": IMAGE}
    plain, weighted = build(**settings), build(**settings, train={"uniformity": 0.25})
    x, mask = draw(plain.modality(), batch=4)
    modality = plain.modality()
    encoded = plain.encoder(modality.tokens(modality.normalize(x), mask.keep, None))
    expected = plain(x, mask) + 0.25 * uniformity(encoded[:, int(class_token) :])
    assert weighted(x, mask).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("batch", "repeats"), [(1, 1), (4, 4)])
def test_a_batch_of_one_file_is_refused_with_it(batch, repeats):
    values = {
        "modalities": {"image": IMAGE | {"batch": batch, "data": {"repeats": repeats}}}, "model": {"size": "tiny"},
        "train": {"steps": 1, "uniformity": 0.01},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="different files, and modalities"):
        parse_config(values)


def test_a_batch_in_parts_is_refused_with_it():
    values = {
        "modalities": {"image": IMAGE | {"batch": 4}}, "model": {"size": "tiny"},
        "train": {"steps": 1, "uniformity": 0.01, "accumulate": 2},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="never has together"):
        parse_config(values)
