"""Positions: MAE's table to the digit, any number of axes, any width, and distances in millimetres."""

import math
from math import prod

import numpy as np
import pytest
import torch

from mae_ext import plugins
from mae_ext.model.position import Learned, Separable, SinCos, coordinates_of, sincos

GRIDS = [(7,), (5, 3), (3, 7, 2), (2, 5, 3, 7)]


def everything(grid, batch=1):
    return torch.arange(prod(grid)).expand(batch, -1)


def test_two_axes_are_maes_table_last_axis_first_sines_before_cosines():
    """Row 2, column 3 of a 4 x 5 grid, 8 wide: two frequencies an axis, 1 and .01. By hand from the definition."""
    row = SinCos((4, 5), 8)(torch.tensor([[2 * 5 + 3]]))[0, 0]
    expected = [
        math.sin(3),
        math.sin(0.03),
        math.cos(3),
        math.cos(0.03),
        math.sin(2),
        math.sin(0.02),
        math.cos(2),
        math.cos(0.02),
    ]
    assert torch.allclose(row, torch.tensor(expected), atol=1e-7)


def test_the_whole_table_agrees_with_loops_over_the_definition():
    grid, width = (3, 5), 24
    table = np.zeros((*grid, width))
    for y, x in np.ndindex(*grid):
        for k in range(6):
            omega = 1 / 10000 ** (k / 6)
            table[y, x, [k, 6 + k, 12 + k, 18 + k]] = (
                np.sin(x * omega),
                np.cos(x * omega),
                np.sin(y * omega),
                np.cos(y * omega),
            )
    ours = SinCos(grid, width)(everything(grid))[0].view(*grid, width)
    assert np.abs(ours.numpy() - table).max() < 1e-7


def test_the_axes_of_a_volume_are_laid_out_last_first_too():
    grid, width = (2, 3, 5), 12
    table = SinCos(grid, width)(everything(grid))[0].view(*grid, width)
    for part, axis in ((slice(0, 4), 2), (slice(4, 8), 1), (slice(8, 12), 0)):
        for other in {0, 1, 2} - {axis}:
            assert (table.diff(dim=other)[..., part] == 0).all()
        assert (table.diff(dim=axis)[..., part] != 0).any()


@pytest.mark.parametrize(
    ("width", "grid", "used"),
    [(1024, (4, 3, 5), 1020), (512, (4, 3, 5), 510), (10, (3, 5), 8), (9, (7,), 8), (64, (2, 3, 2, 5), 64)],
)
def test_a_width_that_the_axes_do_not_divide_leaves_the_rest_zero(width, grid, used):
    table = sincos(coordinates_of(grid), width)
    assert table.shape == (prod(grid), width)
    assert (table[:, used:] == 0).all()
    assert (table[:, :used] != 0).any(0).all()
    # Equal shares: as many cosines, which are 1 at the origin, as sines, which are 0.
    assert table[0].sum() == used // 2


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_two_places_share_a_position(grid):
    table = sincos(coordinates_of(grid), 48)
    distance = torch.cdist(table.double(), table.double()) + torch.eye(len(table))
    assert distance.min() > 0.1


def test_a_width_too_small_for_its_axes_is_refused():
    with pytest.raises(ValueError, match="width of 7 is too small for the positions of 4 axes; it takes at least 8"):
        SinCos((2, 2, 2, 2), 7)


def test_far_tokens_are_exact():
    """In float32 the phase of token 100 003 is off in the third digit of its sine."""
    far = sincos(torch.tensor([[100_003.0]]), 2)
    assert torch.allclose(far, torch.tensor([[math.sin(100_003), math.cos(100_003)]]), atol=1e-7)


@pytest.mark.parametrize("name", sorted(plugins.positions.builtins))
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_each_sample_gets_the_positions_of_its_own_tokens(name, grid):
    position = plugins.positions.build(name, {}, grid=grid, width=16)
    table = position(everything(grid))[0]
    index = torch.tensor([[0, 3, 5], [prod(grid) - 1, 2, 2]])
    assert table.shape == (prod(grid), 16)
    assert torch.equal(position(index), table[index])


def test_physical_positions_are_distances_and_not_token_numbers():
    position = SinCos((4, 3), 16, unit=2.0)
    index = everything((4, 3), batch=2)
    step = torch.tensor([[2.0, 2.0], [4.0, 2.0]])
    placed = position(index, step)
    assert torch.allclose(placed[0], SinCos((4, 3), 16)(index)[0], atol=1e-6)
    # A row that is twice as far apart stands where every other row of the finer scan stands.
    assert torch.allclose(placed[1].view(4, 3, 16)[:2], placed[0].view(4, 3, 16)[::2], atol=1e-6)


def test_physical_positions_without_a_spacing_are_refused():
    with pytest.raises(ValueError, match="needs samples with a spacing"):
        SinCos((4, 3), 16, unit=1.0)(everything((4, 3)))


@pytest.mark.parametrize("unit", [0, -1, float("nan")])
def test_a_unit_that_is_no_length_is_refused(unit):
    with pytest.raises(ValueError, match="must be positive"):
        SinCos((4, 3), 16, unit=unit)


def test_a_grid_that_spans_another_has_the_places_in_between():
    """28 tokens over the extent of 14 stand at -0.25, 0.25, 0.75, ...; each pair's middle is the old place."""
    fine = SinCos((28, 7), 16, span=[14, 14])
    table = fine(everything((28, 7)))[0].view(28, 7, 16)
    rows, columns = torch.arange(28) / 2 - 0.25, 2 * torch.arange(7) + 0.5
    assert torch.equal(table, sincos(torch.cartesian_prod(rows, columns), 16).view(28, 7, 16))
    own = SinCos((4, 3), 16)
    assert torch.equal(SinCos((4, 3), 16, span=[4, 3]).table, own.table)
    # On a grid that is handed to it, the same extent: of its own length, the table itself.
    assert torch.equal(SinCos((8, 5), 16, span=(4, 3))(everything((4, 3)), None, (4, 3)), own(everything((4, 3))))


@pytest.mark.parametrize("span", [[14], [14, 0], [14, -1], [14, float("nan")], [14, float("inf")], 14, "14"], ids=str)
def test_a_span_that_is_no_number_of_tokens_for_each_axis_is_refused(span):
    with pytest.raises(ValueError, match="must be a positive number of tokens for each of the 2 axes"):
        SinCos((4, 3), 16, span=span)


def test_a_span_and_a_unit_are_refused():
    with pytest.raises(ValueError, match="a place has one measure; give one of them"):
        SinCos((4, 3), 16, unit=2.0, span=[4, 3])


def test_fixed_positions_are_neither_trained_nor_saved():
    position = SinCos((4, 3), 16)
    assert not list(position.parameters()) and not position.state_dict()


def test_learned_positions_have_one_vector_a_token_and_separable_ones_one_a_coordinate():
    assert sum(p.numel() for p in Learned((4, 3, 5), 16).parameters()) == 60 * 16
    assert sum(p.numel() for p in Separable((4, 3, 5), 16).parameters()) == 12 * 16
    for kind in (Learned, Separable):
        values = torch.cat([p.flatten() for p in kind((20, 30), 64).parameters()])
        assert 0.018 < values.std() < 0.022 and values.abs().max() < 0.2


def test_a_separable_position_is_the_sum_over_its_coordinates():
    position = Separable((4, 3, 5), 16)
    a, b, c = position.tables
    assert torch.allclose(position(torch.tensor([[2 * 15 + 1 * 5 + 4]]))[0, 0], a[2] + b[1] + c[4])


def test_a_sequence_numbers_tokens_row_by_row_and_interleaves_sines_and_cosines():
    """Token 13 of a 4 x 5 grid, 6 wide: frequencies 1, 10000^(-1/3), 10000^(-2/3). By hand from the definition."""
    row = plugins.positions.build("sequence", {}, grid=(4, 5), width=6)(torch.tensor([[13]]))[0, 0]
    phases = [13 / 10000 ** (2 * k / 6) for k in range(3)]
    expected = [wave(phase) for phase in phases for wave in (math.sin, math.cos)]
    assert torch.allclose(row, torch.tensor(expected), atol=1e-7)
    odd = plugins.positions.build("sequence", {}, grid=(2, 3, 5), width=7)(everything((2, 3, 5)))
    assert odd.shape == (1, 30, 7) and len(odd[0].unique(dim=0)) == 30


def test_axes_in_a_group_share_a_table_of_their_common_places():
    """MAE-ST's: one table for time, one for height and width together. Token (2, 1, 4) of a 4 x 3 x 5 grid."""
    position = plugins.positions.build("separable", {"groups": [[0], [1, 2]]}, grid=(4, 3, 5), width=16)
    time, space = position.tables
    assert (time.shape, space.shape) == ((4, 16), (15, 16))
    assert torch.allclose(position(torch.tensor([[2 * 15 + 1 * 5 + 4]]))[0, 0], time[2] + space[1 * 5 + 4])
    position = Separable((4, 3, 5), 16, groups=[[1, 0], [2]])  # axes of a group in its own order
    one, other = position.tables
    assert torch.allclose(position(torch.tensor([[2 * 15 + 1 * 5 + 4]]))[0, 0], one[1 * 4 + 2] + other[4])


def test_a_table_for_each_axis_is_as_it_was_without_groups():
    torch.manual_seed(0)
    one = Separable((4, 3, 5), 16)
    torch.manual_seed(0)
    other = Separable((4, 3, 5), 16, groups=[[0], [1], [2]])
    assert list(one.state_dict()) == ["tables.0", "tables.1", "tables.2"]
    assert torch.equal(one(everything((4, 3, 5))), other(everything((4, 3, 5))))


def test_a_shared_table_serves_another_grid_as_a_learned_one_of_its_axes_does():
    position, alone = Separable((2, 3, 5), 8, groups=[[0], [1, 2]]), Learned((3, 5), 8)
    alone.table.data.copy_(position.tables[1])
    wider = position(everything((2, 6, 10)), None, (2, 6, 10)).unflatten(1, (2, 60))
    space = alone(everything((6, 10)), None, (6, 10))
    assert torch.allclose(wider, position.tables[0][:, None] + space[:, None], atol=1e-6)
    larger = Separable((2, 6, 10), 8, groups=[[0], [1, 2]])
    assert torch.allclose(larger.fitted("tables.1", position.tables[1], (2, 3, 5)), space[0], atol=1e-6)
    assert torch.equal(larger.fitted("tables.0", position.tables[0], (2, 3, 5)), position.tables[0])


@pytest.mark.parametrize("groups", [[[0], [1]], [[0], [1, 1], [2]], [[0, 1, 2, 3]], [[0, 1, 2], []]], ids=str)
def test_groups_that_do_not_name_each_axis_once_are_refused(groups):
    with pytest.raises(ValueError, match="must name each of the axes 0 to 2 once"):
        Separable((4, 3, 5), 16, groups=groups)
