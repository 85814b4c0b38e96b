"""Small parts say of many inputs and settings what is kept in rest_kept/*.json, to the tolerances of golden/rest.py.

When one fails and the change was meant, `scripts/checks/golden_rest --why "..."` makes the values again.
"""

import pytest
from golden import rest, rest_child

AREAS = rest.load()
MOST_BYTES = 400_000

pytestmark = pytest.mark.timeout(900)  # half a minute of one core, which may be shared
pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")


@pytest.fixture(scope="module")
def found(request):
    """The values of all areas that are asked for, from one process whose environment is fixed."""
    asked = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    return rest_child.run([name for name in AREAS if name in asked])


@pytest.mark.parametrize("name", AREAS)
def test_what_was_kept_of_many_inputs_and_settings_is_what_comes_out(name, found):
    kept = rest.kept(name)
    assert kept is not None, f'no values are kept: scripts/checks/golden_rest --why "..." {name}'
    lines = rest.differences(name, kept, found[name])
    shown = "\n  ".join(lines[:25])
    assert not lines, (
        f"{len(lines)} of {len(kept)} values of '{name}' are others; if meant: scripts/checks/golden_rest --why "
        f'"..." {name}\n  {shown}'
    )


def test_nothing_is_kept_of_areas_that_are_gone():
    assert {path.stem for path in rest.KEPT.glob("*.json")} == set(AREAS)


def test_all_that_is_kept_is_small():
    assert sum(path.stat().st_size for path in rest.KEPT.glob("*.json")) < MOST_BYTES


def test_a_change_of_a_value_a_name_or_an_order_is_noticed():
    near = rest.Area(lambda note: None, 1e-5, 1e-7)
    array = rest.told([float(i * 7 % 11) for i in range(40)])
    swapped = [float(i * 7 % 11) for i in range(40)]
    swapped[3], swapped[4] = swapped[4], swapped[3]
    assert not rest.same(array, rest.told(swapped), near)
    assert rest.same(1.0, 1.000001, near) and not rest.same(1.0, 1.0001, near) and not rest.same(1, True, near)
    assert not rest.same({"a": 1, "b": 2}, {"b": 2, "a": 1}, near) and not rest.same("nan", 1.0, near)


def test_what_raises_is_kept_as_its_message():
    def fails():
        raise ValueError("what\nwhere")

    assert rest.told(rest.outcome(fails)) == "ValueError: what where"
