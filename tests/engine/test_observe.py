"""Who looks at a model while it trains: when, at what, and that training takes no notice."""

import pytest
import torch
from faults.kills import trajectory

from mae_ext import plugins
from mae_ext.config import load_config
from mae_ext.engine import checkpoint
from mae_ext.engine.train import train
from mae_ext.errors import RunError, UserError
from mae_ext.sections import PlugIn

TROUBLE = {"user": UserError("a source went"), "run": RunError("no room"), "disk": OSError(5, "a broken disk")}


class Watcher:
    """An observer of somebody else's, which draws from the global generator and notes what it meets."""

    def __init__(self, every=2, refuses=None, raises=None):
        self.every, self.refuses, self.raises, self.seen = every, refuses, raises, []

    def check(self, config):
        if self.refuses:
            raise UserError(self.refuses)
        self.seen.append("checked")

    def due(self, step, total):
        return step % self.every == 0 or step == total

    def open(self, model, config, out, start):
        self.model, self.out = model, out
        self.seen.append(("opened", start))

    def __call__(self, step):
        torch.rand(3)
        assert not self.model.training
        saved = checkpoint.latest(self.out)
        self.seen.append((step, int(saved.name[-8:]) if saved else 0))
        if self.raises:
            raise TROUBLE[self.raises]
        return {"norm": float(sum(p.detach().norm() for p in self.model.parameters()))}

    def sync(self):
        self.seen.append("synced")

    def close(self):
        self.seen.append("closed")


@pytest.fixture
def watch(tiny, photos, monkeypatch):
    """-> the observer, installed as "watcher", and a config of five steps that names it."""
    made = []

    def make(**arguments):
        made.append(Watcher(**arguments))
        return made[-1]

    monkeypatch.setitem(plugins.observers.builtins, "watcher", "mae_ext.engine.observe:Watcher")
    monkeypatch.setattr("mae_ext.engine.observe.Watcher", make, raising=False)

    def config(*observers):
        values = {"train.steps": 5, "train.warmup_steps": 1, "train.save_every": 3}
        values |= {"train.observe": list(observers), "modalities.image.data.path": str(photos)}
        return load_config(tiny(values))

    return made, config


def test_an_observer_looks_at_what_is_due_after_its_step_is_saved_and_changes_nothing(watch, tmp_path):
    made, config = watch
    plain = trajectory(train(config(), tmp_path / "plain"))
    assert trajectory(train(config({"name": "watcher", "every": 2}), tmp_path / "run")) == plain
    assert [seen for seen in made[-1].seen if seen != "synced"] == [
        "checked", ("opened", 0), (0, 0), (2, 2), (4, 4), (5, 5), "closed",
    ]  # fmt: skip
    assert made[-1].seen.count("synced") == 4  # before the checkpoints of steps 2, 3, 4 and 5


@pytest.mark.parametrize("trouble", TROUBLE)
def test_trouble_of_an_observer_is_a_warning_with_its_name(watch, tmp_path, capsys, trouble):
    made, config = watch
    out = train(config({"name": "watcher", "raises": trouble}), tmp_path / "run")
    assert len(trajectory(out)) == 5 and made[-1].seen[-1] == "closed"
    assert f"step 4: no watcher ({TROUBLE[trouble]}); training goes on" in capsys.readouterr().err


def test_what_an_observer_refuses_is_refused_before_anything_is_written(watch, tmp_path):
    _, config = watch
    with pytest.raises(UserError, match="no such source"):
        train(config({"name": "watcher", "refuses": "no such source"}), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


class Leaver(Watcher):
    """One that leaves gradients on the model, and whose end is an error."""

    def __call__(self, step):
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return super().__call__(step)


def test_gradients_that_an_observer_leaves_are_in_no_step(watch, tmp_path, monkeypatch):
    _, config = watch
    plain = trajectory(train(config(), tmp_path / "plain"))
    monkeypatch.setattr("mae_ext.engine.observe.Watcher", Leaver)
    assert trajectory(train(config({"name": "watcher"}), tmp_path / "run")) == plain


def test_an_observer_that_cannot_begin_is_named(watch, tmp_path, monkeypatch):
    class Full(Watcher):
        def open(self, *_):
            raise OSError(28, "No space left on device")

    _, config = watch
    monkeypatch.setattr("mae_ext.engine.observe.Watcher", Full)
    with pytest.raises(RunError, match=r"observer 'watcher' cannot begin: .*No space left"):
        train(config({"name": "watcher"}), tmp_path / "run")


def test_loggers_are_closed_although_an_observer_fails_to(watch, tmp_path, monkeypatch):
    class Unclosed(Watcher):
        def close(self):
            raise ValueError("a bug")

    class Listener:
        closed = False

        def check(self):
            pass

        def open(self, out, config, start):
            pass

        def write(self, step, values):
            pass

        def close(self):
            Listener.closed = True

    _, config = watch
    monkeypatch.setattr("mae_ext.engine.observe.Watcher", Unclosed)
    monkeypatch.setitem(plugins.loggers.builtins, "listener", "mae_ext.engine.loggers:Listener")
    monkeypatch.setattr("mae_ext.engine.loggers.Listener", Listener, raising=False)
    asked = config({"name": "watcher"})
    asked = asked.model_copy(update={"train": asked.train.model_copy(update={"loggers": (PlugIn(name="listener"),)})})
    with pytest.raises(ValueError, match="a bug"):
        train(asked, tmp_path / "run")
    assert Listener.closed
