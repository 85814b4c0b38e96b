"""Short runs give the values that are kept in kept/*.json: to the bit where they were made, else to a tolerance.

When one fails and the change was meant, `scripts/checks/golden --why "..."` makes them again.
"""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden import make
from golden.cases import CASES
from golden.values import STRAYS, differences, is_leaf, kind, leaves, packed, tolerance, unpacked

ROOT = Path(__file__).parents[2]
KEPT = sorted(path.stem for path in make.KEPT.glob("*.json"))
MOST_BYTES = 20_000

pytestmark = pytest.mark.timeout(900)  # a minute of one core, which may be shared
pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")


@pytest.fixture(scope="module")
def found(request):
    """The values of all cases that this module's tests ask for, from one child whose environment is pinned."""
    here = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    asked = {item.callspec.params.get("case") for item in here}
    return make.run([case for case in CASES if case in asked])


@pytest.mark.parametrize("case", CASES)
def test_a_run_gives_the_values_that_were_kept(case, found):
    kept, values = make.kept(case), found["values"][case]
    assert kept is not None, f'no values are kept: scripts/checks/golden --why "..." {case}'
    exact = kept["made_with"] == found["made_with"]
    wrong = differences(kept["values"], values, exact)
    assert not wrong, told(case, wrong, exact, differences(kept["values"], values, False))


def told(case, wrong, exact, far):
    how = "bit for bit, as they were made with these versions" if exact else "to the tolerances of golden/values.py"
    rounding = ". All are within the tolerances: the order of a sum changed, or less" if exact and not far else ""
    lines = "\n  ".join(wrong[:25])
    return (
        f"{len(wrong)} values of '{case}' are not those that were kept, compared {how}{rounding}:\n  {lines}\n"
        f'If that was meant: scripts/checks/golden --why "..."'
    )


def test_nothing_is_kept_of_cases_that_are_gone():
    assert set(KEPT) == set(CASES)


def test_the_values_were_made_with_the_versions_that_are_pinned():
    """Else the suite, which runs with these, would compare to a tolerance and never to the bit."""
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "scripts" / "constraints.txt").read_text(), re.MULTILINE))
    for case in KEPT:
        record = make.kept(case)["made_with"]
        assert {name: record[name].partition("+")[0] for name in pins if name in record} == {
            name: version for name, version in pins.items() if name in record
        }


def test_every_change_of_the_values_has_a_reason_in_the_log():
    entries = [line for line in make.LOG.read_text().splitlines() if line.startswith("- ")]
    assert entries and all(re.fullmatch(r"- \d{4}-\d\d-\d\d, at [^:]+: .+ \(.+\)", line) for line in entries)
    assert all(any(case in entry for entry in entries) for case in KEPT)


def test_the_files_are_small():
    assert all(path.stat().st_size < MOST_BYTES for path in make.KEPT.glob("*.json"))


# The test of the tests -----------------------------------------------------------------------------------------------


def changed(value, path, exact):
    """The least change that has to be noticed: of the last bit, or of a little more than the tolerance."""
    if path[-2:] == ("predict", "boxes"):
        moved = copy.deepcopy(value)
        for box in moved[: 1 if exact else int(STRAYS * len(value)) + 1]:
            box[4] += 1e-5 if exact else 3e-3
        return moved
    if isinstance(value, dict):
        array = unpacked(value).copy()
        if array.dtype.kind == "f":
            array.flat[-1] += abs(array).max() * (1e-6 if exact else 2e-3)
        else:
            array.flat[: 1 if exact else 1 + array.size // 150] += 1
        return packed(array)
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    near = tolerance(path)
    margin = max(abs(value) * near.relative, near.absolute) or 1e-9
    return value + (abs(value) * 2**-52 or 5e-324 if exact else 1.01 * margin)


def put(tree, path, value):
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return tree


@pytest.mark.parametrize("exact", [True, False], ids=["to the bit", "to a tolerance"])
@pytest.mark.parametrize("case", KEPT)
def test_a_change_of_any_kind_of_value_is_noticed(case, exact):
    values = make.kept(case)["values"]
    assert differences(values, values, exact) == []
    last = {kind(path): (path, value) for path, value in leaves(values)}
    for path, value in last.values():
        if value == "empty" or (path[-1] == "hash" and not exact):
            continue  # a hash says nothing of nearness: numbers stand beside it
        (line,) = differences(values, put(values, path, changed(value, path, exact)), exact)
        assert line.startswith("/".join(map(str, path)))


@pytest.mark.parametrize("exact", [True, False])
def test_a_value_that_is_gone_or_new_is_noticed(exact):
    values = {"curve": {"loss": [1.0, 2.0]}, "bad": []}
    assert len(differences(values, {"curve": {"loss": [1.0]}, "bad": []}, exact)) == 1
    assert len(differences(values, {"curve": {"loss": [1.0, 2.0]}}, exact)) == 1
    assert len(differences(values, {**values, "scores": {"dice": 1.0}}, exact)) == 1
    assert differences({"curve": {"loss": [1.0]}}, {"curve": {"loss": [float("nan")]}}, exact)


def test_every_hash_has_numbers_beside_it():
    for case in KEPT:
        for path, _ in leaves(make.kept(case)["values"]):
            if path[-1] == "hash":
                node = make.kept(case)["values"]
                for key in path[:-1]:
                    node = node[key]
                assert any(not isinstance(v, str) and (is_leaf(v, path) or v) for k, v in node.items() if k != "hash")


@pytest.mark.usefixtures("test_path")
def test_without_a_reason_nothing_is_made():
    for more in ([], ["--why", "  "], ["images"]):
        done = subprocess.run([sys.executable, "-m", "golden.make", *more], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "") and "say why" in done.stderr


def test_a_reason_is_logged_and_only_what_changed_is_written(tmp_path):
    folder, log, record = tmp_path / "kept", tmp_path / "CHANGES.md", {"torch": "1"}
    for case, values in {"a": {"loss": [1.0, 2.0]}, "b": {"loss": [3.0]}, "c": {"loss": [4.0]}}.items():
        make.write(case, record, values, folder)
    before = (folder / "b.json").stat().st_mtime_ns
    new = {"made_with": record, "values": {"a": {"loss": [1.0, 2.5]}, "b": {"loss": [3.0]}}}
    rows = make.renew(new, ["c"], "losses are larger", folder, log)
    assert re.search(r"a +loss/1 +2\.0 -> 2\.5", rows[0]) and re.search(r"c +gone", rows[1])
    assert make.kept("a", folder)["values"] == new["values"]["a"] and make.kept("c", folder) is None
    assert (folder / "b.json").stat().st_mtime_ns == before
    assert make.renew(new, [], "again", folder, log) == []
    (entry,) = [line for line in log.read_text().splitlines() if line.startswith("- ")]
    assert entry.endswith(": losses are larger (a, c)")
    other = make.renew({**new, "made_with": {"torch": "2"}}, [], "a newer torch", folder, log)
    assert len(other) == 2 and make.kept("b", folder)["made_with"] == {"torch": "2"}


def test_kept_files_read_back_as_they_were_written(tmp_path):
    for case in KEPT:
        held = make.kept(case)
        make.write(case, held["made_with"], held["values"], tmp_path)
        assert make.kept(case, tmp_path) == held
