"""Other sizes, frames and patches: features of the same smooth picture stay what they were, within stated bounds.

Errors are root mean squares over the spread of what they are errors of: of tokens, over all places of all pictures; of
pooled features, over pictures. The pictures are sums of plane waves, none shorter than 12 of the origin's tokens. Grids
are those of real models (14 x 14 for 224 pixels and patches of 16, 6^3 for 96^3), of patches that have fewer pixels.
"""

import pytest
import torch
from interop.fitted_models import config_of, fit, model_of, origin_of, waves

from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE
from mae_ext.model.position import Learned, SinCos, resampled

GRIDS = {
    "224 to 448": ([56, 56], [4, 4], [112, 112], [4, 4]),
    "224 to 160x288": ([56, 56], [4, 4], [40, 72], [4, 4]),
    "16 to 32 frames": ([16, 28, 28], [2, 4, 4], [32, 28, 28], [2, 4, 4]),
    "96^3 to 128x128x64": ([24, 24, 24], [4, 4, 4], [32, 32, 16], [4, 4, 4]),
    "patch 16 to 8 of the same picture": ([112, 112], [16, 16], [112, 112], [8, 8]),
}
PATCHES = {
    "patch 16 to 14": ([112, 112], [16, 16], [98, 98], [14, 14]),
    "patch 16 to 8": ([112, 112], [16, 16], [56, 56], [8, 8]),
    "patch 8 to 16": ([56, 56], [8, 8], [112, 112], [16, 16]),
}
BOUNDS = {
    "224 to 448": (0.12, 0.12),
    "224 to 160x288": (0.09, 0.08),
    "16 to 32 frames": (0.1, 0.09),
    "96^3 to 128x128x64": (0.14, 0.17),
    "patch 16 to 8 of the same picture": (0.17, 0.17),
    "patch 16 to 14": (0.002, 0.002),
    "patch 16 to 8": (0.01, 0.01),
    "patch 8 to 16": (0.015, 0.015),
}
"""(of tokens, of pooled features): a tenth or so above the largest of eight sets of pictures."""


def smooth_origin(size, patch, position):
    """A model whose learned positions are as smooth over the grid as trained ones are."""
    config = config_of(x={"size": size, "patch": patch, "position": position})
    origin = origin_of(config, decodes=False)
    module, grid = MAE(config, decodes=False).modality().position, config.modalities["x"].grid
    weights = dict(origin.weights)
    for seed, (key, value) in enumerate(module.state_dict().items()):
        over = grid if position == "learned" else (len(value),)
        weights[f"modalities.x.position.{key}"] = 0.3 * waves(over, 24, (1.0,) * len(over), 1, seed)[0].flatten(1).T
    return Origin(weights, config, "w", decodes=False)


def errors(origin, model, size):
    """-> those of tokens and of pooled features of `model` against the origin's, of the same four pictures."""
    first = model_of(origin)
    grid, periods = first.modality().grid, tuple(extent / 12 for extent in first.modality().grid)
    with torch.no_grad():
        one, other = (
            first.encode(waves(first.modality().size, 3, periods)),
            model.encode(waves(tuple(size), 3, periods)),
        )
    wanted = torch.stack([resampled(tokens, grid, model.modality().grid) for tokens in one])
    tokens = (other - wanted).square().mean() / (wanted - wanted.mean((0, 1))).square().mean()
    pooled = (other.mean(1) - one.mean(1)).square().mean() / (one.mean(1) - one.mean((0, 1))).square().mean()
    return tokens.sqrt().item(), pooled.sqrt().item()


@torch.no_grad()
def copied(model, origin):
    """In place, what is done without a thought: a table's rows as far as they go and new ones after them, tokens of
    sines numbered on, a filter that is interpolated as a picture."""
    modality, theirs = model.modality(), origin.config.modalities["x"]
    for key, value in modality.position.named_parameters():
        old = origin.weights[f"modalities.x.position.{key}"][: len(value)]
        torch.nn.init.normal_(value, std=0.02, generator=torch.Generator().manual_seed(0))
        value[: len(old)] = old
    if isinstance(modality.position, SinCos):
        modality.position.table.copy_(SinCos(modality.grid, 24).table)
    if theirs.patch != modality.patch:
        weight = origin.weights["modalities.x.embed.project.weight"].unflatten(1, (*theirs.patch, 3)).movedim(-1, 1)
        resized = torch.nn.functional.interpolate(weight, modality.patch, mode="bilinear", align_corners=False)
        modality.embed.project.weight.copy_(resized.movedim(1, -1).flatten(1))


@pytest.mark.parametrize("position", ["learned", "separable", "sincos"])
@pytest.mark.parametrize("case", GRIDS)
def test_features_of_a_smooth_picture_on_another_grid_are_what_they_were(case, position):
    size, patch, other, new = GRIDS[case]
    origin = smooth_origin(size, patch, position)
    span = {"name": "sincos", "span": list(origin.config.modalities["x"].grid)}
    ours = {"size": other, "patch": new, "position": span if position == "sincos" else position}
    model, _ = fit(origin, config_of(x=ours), decodes=False)
    tokens, pooled = errors(origin, model, other)
    assert tokens < BOUNDS[case][0] and pooled < BOUNDS[case][1]
    copied(model, origin)
    assert errors(origin, model, other)[0] > 1.4 * BOUNDS[case][0]


@pytest.mark.parametrize("case", PATCHES)
def test_features_of_a_smooth_picture_with_another_patch_are_what_they_were(case):
    size, patch, other, new = PATCHES[case]
    origin = smooth_origin(size, patch, "learned")
    model, _ = fit(origin, config_of(x={"size": other, "patch": new, "position": "learned"}), decodes=False)
    tokens, pooled = errors(origin, model, other)
    assert tokens < BOUNDS[case][0] and pooled < BOUNDS[case][1]
    copied(model, origin)
    assert errors(origin, model, other)[0] > 10 * BOUNDS[case][0]


@pytest.mark.parametrize(("grid", "bound"), [((28, 28), 0.05), ((10, 18), 0.03), ((16, 16), 0.03), ((24, 24), 0.04)])
def test_a_table_of_vit_b_16_on_another_grid_is_what_its_waves_say_in_between(grid, bound):
    """MAE's own table, 14 x 14 of 768, as a learned one; exact is the same with a span. Numbers of unused waves and
    rows copied as far as they go are off by more than the whole spread."""
    table = SinCos((14, 14), 768).table
    exact = SinCos(grid, 768, span=(14, 14)).table
    resized = Learned(grid, 768).fitted("table", table, (14, 14))
    spread = (exact - exact.mean(0)).square().mean()
    copied = torch.zeros_like(exact)
    rows = min(len(exact), len(table))
    copied[:rows] = table[:rows]
    assert ((resized - exact).square().mean() / spread).sqrt() < bound
    assert ((copied - exact).square().mean() / spread).sqrt() > 1
    likeness = torch.nn.functional.normalize(exact, dim=1) @ torch.nn.functional.normalize(resized, dim=1).T
    assert torch.equal(likeness.argmax(1), torch.arange(len(exact)))
