"""Positions on another grid, of another kind, with other axes: every place reads the one of theirs that it is at."""

from math import prod

import pytest
import torch
from interop.fitted_models import config_of, fit, origin_of

from mae_ext import plugins
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE
from mae_ext.model.position import Learned, SinCos, coordinates_of, resampled

NAME = "modalities.x.position"


def modality(grid, position="learned", spacing=None, **more):
    """Patches of 2 along each axis."""
    reader = {"reader": {"name": "volume", "spacing": spacing}} if spacing else {}
    size = {"size": [2 * extent for extent in grid], "patch": [2] * len(grid), "channels": 1}
    return {**size, "position": position, "data": {"statistics": "none", **reader}, **more}


def everywhere(module, grid):
    with torch.no_grad():
        return module(torch.arange(prod(grid))[None])[0]


def placed(table, theirs, ours):
    """-> (what our position says of each place, its row in the report) where theirs are learned and say `table`."""
    config = config_of(x=theirs)
    origin = origin_of(config, decodes=False)
    width = config.model.width
    weights = {**origin.weights, f"{NAME}.table": torch.nn.functional.pad(table, (0, width - table.shape[1]))}
    model, report = fit(Origin(weights, config, "w", decodes=False), config_of(x=ours), decodes=False)
    made = everywhere(model.modality().position, model.modality().grid)
    rows = {row for name, row in report.rows.items() if name.startswith(NAME)}
    assert len(rows) == 1
    return made[:, : table.shape[1]], *rows


def spanning(have, want):
    """Where the places of one grid are in another that spans the same."""
    scale = torch.tensor([h / w for h, w in zip(have, want, strict=True)])
    return (coordinates_of(want) + 0.5) * scale - 0.5


@pytest.mark.parametrize("kind", ["learned", "separable"])
@pytest.mark.parametrize("want", [(3, 13, 2), (11, 5, 7), (5, 7, 11), (10, 14, 22)], ids=str)
def test_each_place_reads_its_own_coordinates_along_every_axis(kind, want):
    """A table that says where each of its places is, on a grid of three primes."""
    have = (5, 7, 11)
    says, (outcome, how) = placed(coordinates_of(have), modality(have), modality(want, kind))
    limit = torch.tensor(have) - 1.0
    # Torch's cubic kernel (a = -0.75) bends a straight line by up to 0.1 of a step, and by more at the border.
    assert (says - spanning(have, want).clamp(min=0).minimum(limit)).abs().max() < 0.26
    inner = ((spanning(have, want) >= 1) & (spanning(have, want) <= limit - 1)).all(1)
    assert inner.sum() >= 2
    assert (says - spanning(have, want))[inner].abs().max() < 0.11
    if want == have and kind == "learned":
        assert (outcome, how) == ("taken", "") and torch.equal(says, coordinates_of(have))
    else:
        assert outcome == "fitted"


def test_a_place_is_fed_by_the_nearest_of_theirs():
    """The map itself: a table of one-hot rows shows how much each old place counts in each new one."""
    have, want = (2, 3, 5), (3, 7, 2)
    says = resampled(torch.eye(prod(have)), have, want)
    nearest = spanning(have, want).round().long()
    row = (nearest[:, 0] * have[1] + nearest[:, 1]) * have[2] + nearest[:, 2]
    share = says.gather(1, row[:, None])[:, 0]
    torch.testing.assert_close(says.sum(1), torch.ones(prod(want)))
    # Where a place is halfway between two of theirs (1 of 2 axes here), both count the same.
    assert (share >= says.amax(1) - 1e-6).all()
    fit_says, _ = placed(torch.eye(prod(have))[:, :24], modality(have), modality(want))
    torch.testing.assert_close(fit_says, says[:, :24])


def test_a_learned_table_is_resampled_by_pytorchs_bicubic():
    table = torch.randn(15, 24, generator=torch.Generator().manual_seed(0))
    says, row = placed(table, modality((3, 5)), modality((6, 7)))
    picture = table.view(3, 5, 24).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(picture, (6, 7), mode="bicubic", align_corners=False)
    torch.testing.assert_close(says, wanted[0].permute(1, 2, 0).flatten(0, 1))
    assert row == ("fitted", "positions 3x5 -> 6x7, cubic")


def test_a_table_is_repeated_along_a_new_axis_and_the_mean_over_one_that_goes():
    table = torch.randn(15, 24, generator=torch.Generator().manual_seed(0))
    says, row = placed(table, modality((3, 5)), modality((2, 3, 5)))
    assert torch.equal(says, table.repeat(2, 1))
    assert row == ("fitted", "positions 3x5 -> 2x3x5, repeated along axis 0")
    volume = torch.randn(30, 24, generator=torch.Generator().manual_seed(0))
    says, row = placed(volume, modality((2, 3, 5)), modality((3, 5)))
    torch.testing.assert_close(says, volume.view(2, 15, 24).mean(0))
    assert row == ("fitted", "positions 2x3x5 -> 3x5, mean over axis 0")
    says, row = placed(table, modality((3, 5)), modality((2, 3, 10)))
    torch.testing.assert_close(says, resampled(table, (3, 5), (3, 10)).repeat(2, 1))
    assert row == ("fitted", "positions 3x5 -> 2x3x10, cubic, repeated along axis 0")


KINDS = ["sincos", "sequence", "separable", {"name": "sincos", "span": [7, 9]}]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_learned_positions_begin_as_what_any_other_kind_says(kind):
    theirs, ours = (config_of(x=modality((4, 6), position)) for position in (kind, "learned"))
    origin = origin_of(theirs, decodes=True)
    model, report = fit(origin, ours)
    old = MAE(theirs)
    old.load_state_dict(origin.weights)
    for part in ("position", "decoder_position"):
        one, other = (everywhere(getattr(m.modality(), part), (4, 6)) for m in (old, model))
        torch.testing.assert_close(other, one, atol=1e-6, rtol=0)
    name = kind if isinstance(kind, str) else "sincos (span=[7, 9])"
    assert report.rows[f"{NAME}.table"] == ("fitted", f"positions, {name} 4x6 -> learned 4x6")


def test_separable_positions_are_the_means_of_a_table_that_is_no_sum():
    """Grand mean and what each row and column differs from it by: the least squares."""
    table = torch.randn(15, 24, generator=torch.Generator().manual_seed(0))
    says, (outcome, how) = placed(table, modality((3, 5)), modality((3, 5), "separable"))
    cells = table.view(3, 5, 24)
    wanted = cells.mean(1, keepdim=True) + cells.mean(0, keepdim=True) - cells.mean((0, 1))
    torch.testing.assert_close(says, wanted.flatten(0, 1), atol=1e-5, rtol=0)
    kept = ((says - says.mean(0)).square().sum() / (table - table.mean(0)).square().sum()).item()
    assert 0.2 < kept < 0.6
    assert (outcome, how) == (
        "fitted",
        f"positions, learned 3x5 -> separable 3x5, least squares with {kept:.1%} of their variance",
    )


def test_sines_and_cosines_of_separate_axes_are_kept_whole_by_separable_positions():
    theirs, ours = config_of(x=modality((4, 6), "sincos")), config_of(x=modality((4, 6), "separable"))
    model, report = fit(origin_of(theirs, decodes=False), ours, decodes=False)
    torch.testing.assert_close(
        everywhere(model.modality().position, (4, 6)), SinCos((4, 6), 24).table, atol=1e-5, rtol=0
    )
    assert report.rows[f"{NAME}.tables.0"] == ("fitted", "positions, sincos 4x6 -> separable 4x6")


def test_places_are_read_by_millimetres_where_both_readers_state_them():
    """6^3 tokens of 2 voxels of 1 mm, and (8, 4, 3) tokens 2, 4 and 4 mm apart: centre on centre, the border beyond."""
    says, row = placed(
        coordinates_of((6, 6, 6)), modality((6, 6, 6), spacing=[1, 1, 1]), modality((8, 4, 3), spacing=[1, 2, 2])
    )
    each = [[0, 0, 1, 2, 3, 4, 5, 5], [0, 1.5, 3.5, 5], [0.5, 2.5, 4.5]]
    wanted = torch.cartesian_prod(*[torch.tensor(line, dtype=torch.float32) for line in each])
    assert (says - wanted).abs().max() < 0.11 and row == (
        "fitted",
        "positions 6x6x6 -> 8x4x3, by millimetres, cubic",
    )
    exact = says.view(8, 4, 3, 3)[..., 0]
    torch.testing.assert_close(exact, wanted.view(8, 4, 3, 3)[..., 0], atol=1e-5, rtol=0)


def test_the_same_millimetres_on_the_same_grid_are_taken_as_they_are_and_others_are_not():
    table = coordinates_of((4, 4, 4))
    says, row = placed(table, modality((4, 4, 4), spacing=[1, 1, 1]), modality((4, 4, 4), spacing=[1, 1, 1]))
    assert row == ("taken", "") and torch.equal(says, table)
    says, row = placed(table, modality((4, 4, 4), spacing=[1, 1, 1]), modality((4, 4, 4), spacing=[0.5, 1, 1]))
    assert row[0] == "fitted" and (says[:, 0] - (table[:, 0] / 2 + 0.75)).abs().max() < 0.11
    assert torch.equal(says[:, 1:], table[:, 1:])


def test_without_millimetres_on_both_sides_grids_span_the_same():
    says, row = placed(coordinates_of((4, 4, 4)), modality((4, 4, 4), spacing=[1, 1, 1]), modality((2, 4, 4)))
    assert row == ("fitted", "positions 4x4x4 -> 2x4x4, cubic")
    torch.testing.assert_close(says[:, 0].view(2, 16)[:, 0], torch.tensor([0.5, 2.5]), atol=0.2, rtol=0)


def test_positions_in_millimetres_are_read_at_the_readers_spacing_or_not_at_all():
    unit = {"name": "sincos", "unit": 3.0}
    theirs, ours = config_of(x=modality((4, 3, 2), unit, [1, 1.5, 6])), config_of(x=modality((4, 3, 2)))
    model, report = fit(origin_of(theirs, decodes=False), ours, decodes=False)
    step = torch.tensor([[2.0, 3.0, 12.0]])
    wanted = SinCos((4, 3, 2), 24, unit=3.0)(torch.arange(24)[None], step)[0]
    assert torch.equal(model.modality().position.table, wanted)
    _, report = fit(origin_of(config_of(x=modality((4, 3, 2), unit)), decodes=False), ours, decodes=False)
    why = "positions sincos (unit=3.0) 4x3x2 are in mm, and the reader there states no spacing"
    assert report.rows[f"{NAME}.table"] == ("new", why)


@pytest.mark.parametrize(
    ("theirs", "ours", "says"),
    [
        (modality((4, 6), "sincos"), modality((4, 6), "sincos"), None),
        (
            modality((4, 6), "sincos"),
            modality((8, 6), "sincos"),
            "sincos 8x6 here, sincos 4x6 there; {name: sincos, span: [4, 6]} would span the same",
        ),
        (
            modality((4, 6), "sincos"),
            modality((8, 6), {"name": "sincos", "span": [4, 6]}),
            "sincos (span=[4, 6]) 8x6 here, sincos 4x6 there; both span the same",
        ),
        (
            modality((8, 6), {"name": "sincos", "span": [4, 6]}),
            modality((4, 6), "sincos"),
            "sincos 4x6 here, sincos (span=[4, 6]) 8x6 there; both span the same",
        ),
        (
            modality((4, 6), "learned"),
            modality((4, 6), "sincos"),
            "sincos 4x6 here, learned 4x6 there; 'learned' would begin with theirs",
        ),
        (
            modality((4, 6), "sincos"),
            modality((2, 4, 6), "sincos"),
            "sincos 2x4x6 here, sincos 4x6 there; 'learned' would begin with theirs",
        ),
        (
            modality((4, 3, 2), {"name": "sincos", "unit": 3.0}),
            modality((4, 4, 2), {"name": "sincos", "unit": 3.0}),
            "sincos (unit=3.0) 4x4x2 here, sincos (unit=3.0) 4x3x2 there; both are places in mm or seconds",
        ),
    ],
)
def test_fixed_positions_that_differ_are_said_with_what_would_carry_them_over(theirs, ours, says):
    _, report = fit(origin_of(config_of(x=theirs), decodes=False), config_of(x=ours), decodes=False)
    assert report.notes == (() if says is None else (f"{NAME}: {says}",))


def test_a_plug_in_s_own_positions_are_taken_on_their_grid_fitted_by_itself_or_new(monkeypatch):
    monkeypatch.setitem(plugins.positions.builtins, "own", "mae_ext.model.position:Learned")
    origin = origin_of(config_of(x=modality((4, 6), "own")), decodes=False)
    _, report = fit(origin, config_of(x=modality((4, 6), "own")), decodes=False)
    assert report.rows[f"{NAME}.table"] == ("taken", "")
    _, report = fit(origin, config_of(x=modality((8, 3), "own")), decodes=False)
    assert report.rows[f"{NAME}.table"] == ("fitted", "positions 4x6 -> 8x3, cubic")
    monkeypatch.delattr(Learned, "fitted")
    _, report = fit(origin, config_of(x=modality((8, 3), "own")), decodes=False)
    assert report.rows[f"{NAME}.table"] == ("new", "positions own 8x3 cannot be made of own 4x6")


def test_weights_that_are_none_of_the_positions_that_their_config_names_make_new_ones():
    origin = origin_of(config_of(x=modality((4, 6))), decodes=False)
    broken = Origin({**origin.weights, f"{NAME}.table": torch.zeros(5, 24)}, origin.config, "w", decodes=False)
    _, report = fit(broken, config_of(x=modality((2, 6), "separable")), decodes=False)
    outcome, why = report.rows[f"{NAME}.tables.0"]
    assert outcome == "new" and why.startswith("weights there are none of positions learned 4x6: ")
