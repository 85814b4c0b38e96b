"""Registries: what a name stands for, and what is said when it stands for nothing."""

import inspect
import re
import sys

import pytest

from mae_ext import plugins
from mae_ext.errors import ConfigError
from mae_ext.plugins import ALL, Registry, maskers

KINDS = ("embedder", "position", "masker", "reader", "target", "task", "format", "observer", "logger")
BUILTINS = [(registry, name) for registry in ALL.values() for name in registry.builtins]


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Real distributions on the path: publish("pkg", "mae_ext.maskers", "stripes", "pkg:Stripes", source)."""

    def add(package, group, name, value, source):
        (tmp_path / f"{package}.py").write_text(source)
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value}\n")
        monkeypatch.delitem(sys.modules, package, raising=False)

    monkeypatch.syspath_prepend(str(tmp_path))
    return add


STRIPES = """
class Stripes:
    def __init__(self, ratio=0.5, width: int = 1):
        self.ratio, self.width = ratio, width
"""


@pytest.mark.parametrize(("registry", "name"), BUILTINS, ids=lambda v: v if isinstance(v, str) else v.kind)
def test_every_builtin_can_be_imported(registry, name):
    assert callable(registry.get(name))


DEFAULTS = {
    "masker": {
        "random": {"ratio": 0.75},
        "block": {"ratio": 0.5, "min_share": 0.05, "max_share": 0.3, "aspect": 3.0},
        "grid": {"ratio": 0.75},
        "foreground": {"ratio": 0.75, "body_ratio": None, "min_share": 0.0},
        "tube": {"ratio": 0.9, "axis": 0},
        "frame": {"ratio": 0.75, "axis": 0},
        "causal": {"ratio": 0.5, "axis": 0},
        "running_cell": {"ratio": 0.5, "axis": 0},
    },
    "position": {"sincos": {"unit": None}},
    "target": {"pixel": {"normalize": "mae", "floor": 0.0, "loss": "mse"}},
    "reader": {
        "volume": {
            "channels": 1, "spacing": None, "intensity": "zscore", "channel_axis": None, "time_axis": None,
            "time": "mean", "body": None, "min_body": 0.0, "min_finite": 0.999, "array_spacing": (1.0, 1.0, 1.0),
            "cache": None,
        },
    },
    "task": {
        "classify": {
            "pool": "mean", "labels": 1.0, "smoothing": 0.0, "mixup": 0.0, "cutmix": 0.0, "distort": 0,
            "strength": 0.5, "erase": 0.0,
        },
        "detect": {
            "faulty_boxes": "refuse", "channels": 256, "depth": 4, "strides": (4, 8, 16, 32), "threshold": 0.05,
            "overlap": 0.6, "shown": 0.5, "distort": 0, "strength": 0.5, "test_labels": None,
        },
        "segment": {
            "foreground": False, "head": "linear", "features": 16, "balance": 0.5, "overlap": 0.5, "distort": 0,
            "strength": 0.5, "surface": False, "test_masks": None,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, known in DEFAULTS.items() for name in known])
def test_what_is_not_said_to_a_builtin_is_what_its_documentation_says(kind, name):
    """Of papers, or nothing done; a config that does not say it goes by it."""
    given = inspect.signature(ALL[f"mae_ext.{kind}s"].get(name)).parameters
    wanted = DEFAULTS[kind][name]
    assert {key: given[key].default for key in wanted} == wanted


def test_groups_are_named_as_the_documentation_names_them():
    assert set(ALL) == {f"mae_ext.{kind}s" for kind in KINDS}


def test_a_misspelt_name_is_answered_with_the_nearest_and_with_all_there_are():
    with pytest.raises(ConfigError, match=r"^a\.mask: unknown masker 'randm', did you mean 'random'\?") as info:
        maskers.get("randm", "a.mask")
    assert all(name in str(info.value) for name in maskers.builtins)


def test_a_dotted_path_is_a_name_like_any_other_and_never_imported(tmp_path, monkeypatch):
    (tmp_path / "danger.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("danger:run", "danger.run", "os:system", "builtins:eval"):
        with pytest.raises(ConfigError, match="unknown masker"):
            maskers.get(name)
    assert "danger" not in sys.modules


def test_a_misspelt_argument_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"masker 'block' takes no 'aspct', did you mean 'aspect'\?"):
        maskers.check("block", {"aspct": 2})


def test_what_the_framework_gives_cannot_be_given_by_the_user():
    with pytest.raises(ConfigError, match="embedder 'patch' takes no 'width'"):
        plugins.embedders.check("patch", {"width": 3}, ("size", "patch", "channels", "width"), "embed")


def test_a_missing_argument_is_refused_before_the_call():
    with pytest.raises(ConfigError, match="missing a required argument: 'channels'"):
        plugins.targets.check("pixel", {}, ("patch",), "target")


def test_a_value_that_the_plugin_refuses_is_an_error_of_the_config():
    with pytest.raises(ConfigError, match=r"modalities\.a\.mask: masker 'block': block aspect must be at least 1"):
        maskers.build("block", {"aspect": 0.5}, "modalities.a.mask")


def test_a_third_party_is_found_listed_and_built(publish):
    publish("stripes_pkg", "mae_ext.maskers", "stripes", "stripes_pkg:Stripes", STRIPES)
    assert maskers.sources()["stripes"] == "stripes_pkg 1.2"
    assert maskers.build("stripes", {"ratio": 0.25, "width": 3}).width == 3
    with pytest.raises(ConfigError, match=r"takes no 'wdth', did you mean 'width'"):
        maskers.check("stripes", {"wdth": 3})


OLDER = """
class Again:
    def data(self, config, rank=0, world=1): ...
    def settle(self, config, data, old): ...
    def model(self, config): ...
    def start(self, model, config): ...
    def loss(self, model, name, batch, gates): ...
    def evaluate(self, model, config, ranks): ...
    def predict(self, model, config, sources, out, progress=None): ...

class Quiet:
    def check(self): ...
"""


def test_a_task_of_an_older_contract_is_refused_by_the_method_that_could_not_be_called(publish):
    publish("older_pkg", "mae_ext.tasks", "again", "older_pkg:Again", OLDER)
    with pytest.raises(ConfigError) as info:
        plugins.tasks.build("again", {}, "task")
    assert str(info.value) == (
        "task: task 'again' from older_pkg 1.2 cannot be called as loss(model, name, batch): missing a required "
        "argument: 'gates'; mae_ext.engine.task:Task is what it has to be"
    )


@pytest.mark.parametrize("registry", [plugins.observers, plugins.loggers], ids=lambda r: r.kind)
def test_an_observer_or_logger_that_lacks_a_method_is_refused_before_anything_is_read(publish, registry):
    publish("quiet_pkg", registry.group, "quiet", "quiet_pkg:Quiet", OLDER)
    with pytest.raises(ConfigError, match=r"'quiet' from quiet_pkg 1.2 cannot be called as (check\(config\)|open\()"):
        registry.build("quiet", {}, "train.observe")


def test_two_packages_with_one_name_are_refused_only_when_that_name_is_asked_for(publish):
    publish("one_pkg", "mae_ext.maskers", "stripes", "one_pkg:Stripes", STRIPES)
    publish("two_pkg", "mae_ext.maskers", "stripes", "two_pkg:Stripes", STRIPES)
    assert maskers.get("random")
    with pytest.raises(ConfigError, match="published more than once") as info:
        maskers.get("stripes")
    assert "one_pkg 1.2" in str(info.value) and "two_pkg 1.2" in str(info.value)


def test_a_plugin_cannot_take_the_place_of_a_builtin(publish):
    publish("rogue_pkg", "mae_ext.maskers", "random", "rogue_pkg:Stripes", STRIPES)
    with pytest.raises(ConfigError, match=r"'random' is published more than once \(mae_ext and rogue_pkg 1.2\)"):
        maskers.get("random")
    assert maskers.get("block")


def test_a_plugin_that_fails_at_import_hurts_only_the_run_that_names_it(publish):
    publish("broken_pkg", "mae_ext.maskers", "broken", "broken_pkg:Thing", "raise RuntimeError('no licence')")
    assert maskers.sources()["broken"] == "broken_pkg 1.2"
    assert maskers.get("random")
    with pytest.raises(ConfigError, match=re.escape("fails at import: RuntimeError('no licence')")):
        maskers.get("broken")


def test_registries_do_not_see_each_others_groups(publish):
    publish("stripes_pkg", "mae_ext.targets", "stripes", "stripes_pkg:Stripes", STRIPES)
    assert "stripes" not in maskers.sources()
    assert "stripes" in plugins.targets.sources()


def test_a_builtin_is_imported_only_when_asked_for():
    lazy = Registry("test", {"absent": "a_library_that_nobody_has:Thing"})
    assert lazy.sources() == {"absent": "mae_ext"}
    with pytest.raises(ModuleNotFoundError):
        lazy.get("absent")
    assert lazy.group == "mae_ext.tests"
