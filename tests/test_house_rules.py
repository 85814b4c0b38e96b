"""Rules that hold for every file of the package, read from its syntax: a rule that nothing checks is a wish."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "mae_ext").rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
ALL = sorted(path for folder in ("mae_ext", "scripts", "tests") for path in (ROOT / folder).rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=NAMES)

MAX_LINES = 350
MAX_PARAMETERS = 9
ALIKE = 6
"""Consecutive lines that two files may not share."""
SAMPLERS = {"rand", "randn", "randint", "randperm", "normal", "multinomial", "bernoulli"}
SAMPLERS |= {f"{name}_like" for name in SAMPLERS}
SEEDED_GLOBALLY = {"model/mae.py", "engine/run.py", "engine/task.py"}  # each says there why
EMPTY_WORDS = {"found", "given", "there", "asked", "told"}
MODALITY = re.compile(r"\b(image|video|clip|volume|ct|mri|scan|slice)s?\b", re.IGNORECASE)


def inside(path):
    return path.relative_to(ROOT / "mae_ext").as_posix()


def dotted(node):
    """torch.random.fork_rng for the expression that reads so."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else "." + ".".join(reversed(parts))


def calls(path):
    return [(dotted(n.func), n) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def global_randomness(path):
    """Lines that draw from, or seed, a generator of the whole process."""
    for name, call in calls(path):
        given = {keyword.arg for keyword in call.keywords}
        if name.startswith("torch.") and name.rpartition(".")[2] in SAMPLERS and "generator" not in given:
            yield f"{call.lineno}: {name} without a generator"
        if name in ("torch.manual_seed", "torch.seed", "torch.cuda.manual_seed_all") or name.endswith("fork_rng"):
            yield f"{call.lineno}: {name}"
        if re.match(r"(np|numpy)\.random\.(?!default_rng|Generator)", name):
            yield f"{call.lineno}: {name}"
        if name in ("np.random.default_rng", "numpy.random.default_rng") and not call.args:
            yield f"{call.lineno}: {name} without a seed"
    if imports(path) & {"random", "secrets"}:
        yield "imports Python's global generator"


@every_file
def test_nothing_draws_from_a_global_generator(path):
    found = list(global_randomness(path))
    if inside(path) in SEEDED_GLOBALLY:
        found = [line for line in found if not line.endswith(("torch.manual_seed", "fork_rng"))]
    assert not found


def test_the_two_documented_places_are_still_the_only_ones():
    assert {inside(path) for path in FILES if list(global_randomness(path))} == SEEDED_GLOBALLY


@pytest.mark.parametrize("name", [n for n in NAMES if n.split("/")[1] in ("model", "engine")])
def test_the_model_and_the_engine_know_no_modality(name):
    """Neither by name nor by the number of axes."""
    tree = ast.parse((ROOT / name).read_text())
    tests = [n.test for n in ast.walk(tree) if isinstance(n, ast.If | ast.IfExp | ast.While | ast.Assert)]
    tests += [condition for n in ast.walk(tree) if isinstance(n, ast.comprehension) for condition in n.ifs]
    tests += [n.subject for n in ast.walk(tree) if isinstance(n, ast.Match)]
    for test in tests:
        written = ast.unparse(test)
        named = re.sub(r"\btrain\.clip\b", "", written)  # the gradient's norm, not a video
        assert not MODALITY.search(named), f"{test.lineno}: {written}"
        # Parameters are told apart by their axes (vectors do not decay); inputs are not.
        counted = re.sub(r"\bparameter\.ndim\b", "", written)
        assert not re.search(r"\bndim\b|\.dim\(\)|len\(\w*\.?(size|grid|patch|shape)\) *[=<>!]=? *[1-9]", counted), (
            f"{test.lineno}: {written}"
        )


@every_file
def test_nothing_is_caught_without_being_named(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), node.lineno
        if isinstance(node, ast.ExceptHandler) and dotted(node.type) == "BaseException":
            passed_on = any(isinstance(n, ast.Name) and n.id == node.name for n in ast.walk(node))
            raised = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            assert passed_on or raised, f"{node.lineno}: swallows even Ctrl-C"


@every_file
def test_weights_are_never_unpickled(path):
    for name, call in calls(path):
        if name in ("torch.load", "torch.serialization.load"):
            safe = [k.value for k in call.keywords if k.arg == "weights_only"]
            assert safe and isinstance(safe[0], ast.Constant) and safe[0].value is True, call.lineno
        if name.endswith(("np.load", "numpy.load", "read_array")):
            allowed = [k.value.value for k in call.keywords if k.arg == "allow_pickle"]
            assert allowed in ([], [False]), call.lineno
        assert name not in ("eval", "exec", "torch.jit.load", "torch.hub.load"), call.lineno


@every_file
def test_pickle_stays_between_a_process_and_its_own_child(path):
    if inside(path) not in ("data/loading/sandbox.py", "data/loading/workers.py", "data/loading/ring.py"):
        assert not imports(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


@every_file
def test_yaml_is_read_in_one_strict_place(path):
    readers = {name for name, _ in calls(path) if re.match(r"yaml\.\w*load", name)}
    assert readers <= ({"yaml.load"} if inside(path) == "strict_yaml.py" else set())


def test_a_file_is_short_enough_to_read():
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in ALL}
    assert len(lines) > 2 * len(FILES)
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}


@every_file
def test_a_file_is_named_for_what_it_holds(path):
    assert path.stem not in ("utils", "util", "misc", "common", "helpers", "helper", "tools")


def code_lines(path):
    """[(number, line)] of code: not blank lines, comments, docstrings, imports and lone brackets."""
    text, skipped = path.read_text(), set()
    for node in ast.walk(ast.parse(text)):
        words = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if words or isinstance(node, ast.Import | ast.ImportFrom):
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    plain = re.compile(r"#.*|[\[\](){},:]*( *# fmt: skip)?")
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if number not in skipped and not plain.fullmatch(line)]


def shared(paths):
    """ "a.py:3 and b.py:7" for each run of `ALIKE` lines of code that stands in two files, where it begins."""
    places = defaultdict(dict)
    for path in paths:
        lines = code_lines(path)
        for i in range(len(lines) - ALIKE + 1):
            run = tuple(line for _, line in lines[i : i + ALIKE])
            places[run].setdefault(path, f"{path.name}:{lines[i][0]}")
    return [" and ".join(where.values()) for where in places.values() if len(where) > 1]


def test_no_six_lines_of_code_stand_in_two_files():
    assert not shared(FILES)


def test_six_equal_lines_are_found_whatever_stands_between_and_five_are_not(tmp_path):
    lines = [f"value_{i} = {i}" for i in range(6)]
    (tmp_path / "a.py").write_text("\n".join(["import os", *lines]))
    (tmp_path / "b.py").write_text("\n\n# why\n".join(["x = 1", *lines[:3], '"""words"""', *lines[3:]]))
    (tmp_path / "c.py").write_text("\n".join([*lines[:5], "y = 1"]))
    paths = sorted(tmp_path.glob("*.py"))
    assert shared(paths) == ["a.py:2 and b.py:4"]
    assert shared([paths[0], paths[2]]) == []


@every_file
def test_a_function_takes_few_things_or_one_that_holds_them(path):
    """Commands and plug-ins aside, whose parameters are what a user can say."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            options = [dotted(d.func) for d in node.decorator_list if isinstance(d, ast.Call)] == ["app.command"]
            named = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            taken = len([name for name in named if name not in ("self", "cls")])
            assert options or node.name == "__init__" or taken <= MAX_PARAMETERS, f"{node.name} takes {taken}"


def empty_words(path):
    """Locals, parameters, attributes and fields that say how they were come by, and not what they hold."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.id if isinstance(node, ast.Name) else node.attr
        else:
            name = node.arg if isinstance(node, ast.arg) else ""
        if name.strip("_") in EMPTY_WORDS:
            yield f"{node.lineno}: {name}"


@every_file
def test_a_name_says_what_it_holds(path):
    assert not list(empty_words(path))


@every_file
def test_names_from_yaml_are_never_imported_as_paths(path):
    """import_module is for literal tables: the built-in plug-ins, and the package's own public names."""
    if inside(path) not in ("plugins.py", "__init__.py"):
        assert not [
            name for name, _ in calls(path) if name in ("import_module", "importlib.import_module", "__import__")
        ]


def test_a_rule_finds_what_it_forbids(tmp_path):
    """The rules above are code as well."""
    bad = tmp_path / "bad.py"
    bad.write_text(
        "import random\nimport torch, numpy as np\ntorch.rand(3)\nnp.random.seed(0)\nnp.random.default_rng()\n"
        "torch.rand(3, generator=g)\nnp.random.default_rng(5)\ntorch.random.fork_rng()\n"
    )
    assert len(list(global_randomness(bad))) == 5
    bad.write_text(
        "found = 1\nclass A:\n    asked: int\n"
        "def f(given, founder):\n    self._told = found\n    for there in found: pass"
    )
    assert sorted(empty_words(bad)) == ["1: found", "3: asked", "4: given", "5: _told", "6: there"]
    assert MODALITY.search("name == 'video'") and MODALITY.search("is_ct or ct") and not MODALITY.search("self.direct")
