"""Pictures of what a model answers: visible patches as they are, hidden ones by what they may know."""

import pytest
import torch
from model.painted_patches import CLIP, IMAGE, NORMALIZE, paint, shake

from mae_ext.config import Statistics
from mae_ext.model.grid import nearness, patchify
from mae_ext.model.mask import Mask

# What is reconstructed


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("modality", [IMAGE, CLIP], ids=["image", "clip"])
def test_a_reconstruction_leaves_visible_patches_exactly_as_given(build, draw, modality, normalize, own):
    model = shake(build(any=modality | {"target": {"name": "pixel", "normalize": normalize}}))
    any_ = model.modality()
    any_.set_statistics(Statistics(mean=(0.413, 0.457, 0.481), std=(0.268, 0.261, 0.276)))
    x, mask = draw(any_)
    out = model.reconstruct(x, mask, own_statistics=own)
    assert out.shape == x.shape and out.dtype == torch.float32 and not out.requires_grad
    visible = paint(torch.zeros_like(x), mask.keep, any_, 1.0).bool()
    assert torch.equal(out[visible], x[visible])
    assert (out[~visible] != x[~visible]).float().mean() > 0.99
    bytes_ = (x * 255).byte()
    assert torch.equal(model.reconstruct(bytes_, mask, own_statistics=own)[visible], (bytes_.float() / 255)[visible])


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_reconstruction_knows_nothing_of_what_is_hidden_unless_it_says_so(build, draw, normalize):
    model = shake(build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}}))
    modality = model.modality()
    x, mask = draw(modality)
    honest = model.reconstruct(x, mask)
    for other in (0.0, 1e4, float("nan")):
        assert torch.equal(honest, model.reconstruct(paint(x, mask.pred, modality, other), mask))
    leaky = model.reconstruct(x, mask, own_statistics=True)
    assert torch.allclose(leaky, honest, atol=1e-5) == (normalize == "none")


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_perfect_answer_with_its_own_statistics_is_the_picture(build, draw, normalize):
    """The arithmetic back from targets to pixels, with the right answer in place of the network."""
    model = build(clip=CLIP | {"target": {"name": "pixel", "normalize": normalize}})
    modality = model.modality()
    modality.set_statistics(Statistics(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1)))
    x, mask = draw(modality)
    targets = modality.target(patchify(modality.normalize(x), modality.patch))
    model.predict = lambda x, mask, *_: torch.stack([t[p] for t, p in zip(targets, mask.pred, strict=True)])
    assert torch.allclose(model.reconstruct(x, mask, own_statistics=True), x, atol=1e-5)


def test_all_hidden_patches_are_shown_also_those_that_training_would_not_ask_for(build, draw):
    model = shake(build(image=IMAGE | {"decode": {"name": "random", "ratio": 0.5}}))
    x, mask = draw(model.modality())
    out = model.reconstruct(x, mask)
    assert mask.pred.shape[1] < mask.hidden().shape[1]
    assert torch.equal(out, model.reconstruct(x, Mask(mask.keep, mask.hidden(), mask.grid)))
    hidden = paint(torch.zeros_like(x), mask.hidden(), model.modality(), 1.0).bool()
    assert (out[hidden] != x[hidden]).float().mean() > 0.99


def test_contrast_of_hidden_patches_comes_from_their_nearest_neighbours():
    grid = (3, 5)
    weight = nearness(torch.tensor([[1, 13]]), torch.tensor([[0, 4, 14]]), grid)
    assert weight.shape == (1, 2, 3) and torch.allclose(weight.sum(-1), torch.ones(1, 2))
    # Token 1 is one step from 0, three from 4 and sqrt(4 + 9) from 14.
    by_hand = torch.tensor([1, 1 / 81, 1 / 169])
    assert torch.allclose(weight[0, 0], by_hand / by_hand.sum(), atol=1e-5)
    assert weight[0, 1].argmax() == 2
