"""Terms of pretraining's loss: each beside plain loops in float64, and what is asked of all of them."""

import math

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.errors import ConfigError
from mae_ext.model.align import agreement, contrast
from mae_ext.model.magma import LEAST, magma
from mae_ext.model.terms import Seen, Term

IMAGE = {"size": [8, 12], "patch": [4, 4], "data": {"statistics": "none", "repeats": 2}}
ALL = {"uniformity": 0.1, "magma": 0.5, "align": {"weight": 0.25, "project": [8, 6]}}
FILES = torch.tensor([4, 4, 9, 2, 9, 4])


def rows(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return (sum(p * q for p, q in zip(a, b, strict=True)) / a.norm() / b.norm()).item()


def test_magma_is_the_trace_over_the_normalised_laplacian_of_what_the_inner_block_finds_alike():
    inner, last = rows(5, 3) * 7 + 100, rows(5, 4, seed=1)
    far = [[(a - b).square().sum().item() for b in inner] for a in inner]
    pairs = [far[i][j] for i in range(5) for j in range(5) if i != j]
    mean = sum(pairs) / 20
    spread = math.sqrt(sum((d - mean) ** 2 for d in pairs) / 19 + (mean / 100) ** 2)
    near = torch.tensor(
        [[math.exp(-far[i][j] / spread) * (i != j) for j in range(5)] for i in range(5)], dtype=torch.float64
    )
    scale = torch.diag((LEAST + near.sum(1)) ** -0.5)
    laplacian = torch.eye(5) - scale @ near @ scale
    expected = torch.trace(last.T @ laplacian @ last) / 25
    assert magma(inner, last).item() == pytest.approx(expected.item(), rel=1e-9)
    assert magma(inner.float(), last.float()).item() == pytest.approx(magma(inner, last).item(), rel=1e-5)
    assert magma(3 * inner + 5, last).item() == pytest.approx(magma(inner, last).item(), rel=1e-9)


def test_magma_has_the_gradient_that_it_says_and_none_along_the_scale_of_the_inner_block():
    inner, last = rows(5, 3).requires_grad_(), rows(5, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(magma, (inner, last))
    magma(inner, last).backward()
    assert inner.grad.norm() > 1e-3 and (inner.grad * inner).sum().abs() < 1e-9


@pytest.mark.parametrize(
    "inner", [torch.ones(4, 3), torch.eye(4), torch.zeros(2, 3), torch.eye(2), 1e-20 * torch.eye(4)]
)
def test_magma_is_finite_where_all_are_equally_far_or_the_same(inner):
    inner, last = inner.clone().requires_grad_(), torch.ones(len(inner), 2, requires_grad=True)
    value = magma(inner, last)
    value.backward()
    assert value.isfinite() and inner.grad.isfinite().all() and last.grad.isfinite().all()


def test_agreement_is_one_less_the_mean_cosine_of_views_of_one_file():
    x = rows(6, 3)
    cosines = [cosine(x[i], x[j]) for i in range(6) for j in range(6) if i != j and FILES[i] == FILES[j]]
    assert len(cosines) == 8
    assert agreement(x, FILES).item() == pytest.approx(1 - sum(cosines) / 8, abs=1e-12)
    assert agreement(x, torch.arange(6)).item() == 0
    assert agreement(torch.ones(6, 3), FILES).item() == pytest.approx(0, abs=1e-6)


def test_contrast_is_the_cross_entropy_of_a_view_of_the_same_file_among_those_of_others():
    x, each = rows(6, 3), []
    for i in range(6):
        for j in range(6):
            if i != j and FILES[i] == FILES[j]:
                positive = math.exp(cosine(x[i], x[j]) / 0.2)
                others = sum(math.exp(cosine(x[i], x[k]) / 0.2) for k in range(6) if FILES[k] != FILES[i])
                each.append(-math.log(positive / (positive + others)))
    assert contrast(x, FILES, 0.2).item() == pytest.approx(sum(each) / 8, abs=1e-12)
    alone = rows(4, 3).requires_grad_()
    contrast(alone, torch.zeros(4).long(), 0.2).backward()  # no other file: nothing to tell it from
    assert contrast(alone, torch.zeros(4).long(), 0.2).item() == 0 and alone.grad.abs().max() == 0


def test_two_views_are_nt_xent_as_pytorch_computes_it():
    x, files = rows(8, 5), torch.arange(4).repeat_interleave(2)
    unit = torch.nn.functional.normalize(x, dim=1)
    logits = (unit @ unit.T / 0.5).masked_fill(torch.eye(8, dtype=torch.bool), float("-inf"))
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(8) ^ 1)
    assert contrast(x, files, 0.5).item() == pytest.approx(expected.item(), abs=1e-12)


def terms(model, x, mask, files):
    """The value of each term, of the encoder's own layers."""
    modality = model.modality()
    *inner, tokens = model.encoder.layers(modality.tokens(modality.normalize(x), mask.keep, None), [1, 2, 3])
    seen = Seen(tokens, dict(enumerate(inner, 1)), files)
    return {name: term(seen) for name, term in model.terms.items()}


@pytest.mark.parametrize("class_token", [True, False])
def test_training_adds_each_with_its_weight_over_mean_patch_tokens_and_judging_none(build, draw, class_token):
    plain, model = (
        build(image=IMAGE, model={"depth": 4, "class_token": class_token}, train=t) for t in ({}, ALL)
    )  # fmt: skip
    (x, mask), files = draw(plain.modality(), batch=6), FILES
    values, modality = terms(model, x, mask, files), model.modality()
    block, tokens = model.encoder.layers(modality.tokens(modality.normalize(x), mask.keep, None), [2])  # depth - 2
    assert values["magma"].item() == pytest.approx(0.5 * magma(block.mean(1), tokens.mean(1)).item())
    first, _, second = model.terms["align"].project
    through = second(torch.nn.functional.gelu(first(tokens.mean(1))))
    assert values["align"].item() == pytest.approx(0.25 * agreement(through, files).item())
    expected = plain(x, mask) + sum(values.values())
    assert model(x, mask, files=files).item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.equal(model.eval()(x, mask, files=files), plain.eval()(x, mask))


@pytest.mark.parametrize("train", [{"magma": 0.5}, {"align": {}}, {"align": {"form": "contrast"}}])
def test_each_reaches_the_first_block_in_fp32_under_autocast(build, draw, train):
    model = build(image=IMAGE, model={"depth": 3}, train=train)
    x, mask = draw(model.modality(), batch=6)
    with torch.autocast("cpu", torch.bfloat16):
        (value,) = terms(model, x, mask, FILES).values()
    value.backward()
    assert value.dtype == torch.float32
    assert model.encoder.trunk.blocks[0].mlp.up.weight.grad.abs().max() > 0


def test_magma_grows_over_its_warm_up_as_a_function_of_how_much_of_the_run_is_over(build, draw):
    model = build(image=IMAGE, model={"depth": 4}, train={"magma": 0.5, "magma_warmup": 0.2})
    (x, mask), term = draw(model.modality(), batch=6), model.terms["magma"]
    (whole,) = terms(model, x, mask, None).values()
    for share, strength in ((0.9, 1), (0.05, 0.25), (0.0, 0), (0.2, 1), (1.0, 1)):
        term.at(share)
        (value,) = terms(model, x, mask, None).values()
        assert value.item() == pytest.approx(strength * whole.item())
    assert not any("strength" in key for key in model.state_dict())


def test_a_term_of_somebody_elses_is_given_the_blocks_that_it_names(build, draw):
    class Small(Term):
        blocks = (1,)

        def forward(self, seen):
            return seen.layers[1].square().mean() + 0 * seen.tokens.sum()

    model = build(image=IMAGE)
    x, mask = draw(model.modality())
    before, modality = model(x, mask), model.modality()
    model.terms["small"] = Small()
    first, _ = model.encoder.layers(modality.tokens(modality.normalize(x), mask.keep, None), [1])
    assert (model(x, mask) - before).item() == pytest.approx(first.square().mean().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("train", "image", "message"),
    [
        ({"align": {}}, {"data": {"repeats": 1}}, r"repeats=1 has one of each: set it to 2, or train\.align to null"),
        ({"align": {}}, {"batch": 2}, r"train\.align\.weight compares samples of different files"),
        ({"align": {}, "accumulate": 2}, {}, r"align\.weight=0\.5 compares .* never has together"),
        ({"magma": 0.5, "accumulate": 2}, {}, r"magma=0\.5 compares .* never has together"),
        ({"magma": 0.5, "micro_batch": 2}, {}, r"magma=0\.5 compares .* in one part then"),
        ({"align": {"weight": 1}, "micro_batch": "auto"}, {}, r"align\.weight=1 compares .* in one part then"),
        ({"align": {"form": "cosines"}}, {}, "form"),
        ({"align": {"temperature": 0}}, {}, "temperature"),
        ({"align": {"project": [8]}}, {}, "project"),
        ({"magma": -1}, {}, "magma"),
        ({"magma_warmup": 1.5}, {}, "magma_warmup"),
    ],
)
def test_what_cannot_be_is_refused_by_name(train, image, message):
    values = {
        "modalities": {"image": IMAGE | {"batch": 4} | image}, "model": {"size": "tiny"},
        "train": {"steps": 1} | train,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        parse_config(values)


def test_magma_needs_a_block_before_the_last(build):
    with pytest.raises(ConfigError, match=r"model\.depth is 1: set it to 0"):
        build(image=IMAGE, model={"depth": 1}, train={"magma": 0.5})


def test_aligning_without_files_says_what_to_give(build, draw):
    model = build(image=IMAGE, train={"align": {}})
    with pytest.raises(ValueError, match="give `files`"):
        model(*draw(model.modality()))
