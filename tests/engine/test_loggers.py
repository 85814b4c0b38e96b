"""Who is told of a run's numbers beside metrics.jsonl, and that a run needs none of them."""

import json
from importlib.util import find_spec

import pytest
import torch
from faults.kills import rows, trajectory

from mae_ext import plugins
from mae_ext.cli import run
from mae_ext.config import load_config
from mae_ext.engine.loggers import Loggers, MLflow
from mae_ext.engine.train import train
from mae_ext.errors import RunError, UserError
from mae_ext.overrides import configured

SIX = {"train.steps": 6, "train.warmup_steps": 1, "train.save_every": 3}


@pytest.fixture
def told(tiny, photos):
    """A config of six steps with such loggers."""

    def config(*loggers, **more):
        values = {"train.loggers": list(loggers), "modalities.image.data.path": str(photos)}
        return load_config(tiny(SIX | values | more))

    return config


class Listener:
    """A logger of somebody else's."""

    def __init__(self, breaks=None):
        self.breaks, self.heard = breaks, []

    def check(self):
        self.heard.append("checked")

    def open(self, out, config, start):
        self.heard.append(("opened", out.name, config.train.steps, start))
        if self.breaks == "open":
            raise ConnectionError("no network")

    def write(self, step, values):
        if self.breaks == step:
            raise ConnectionError("no network")
        self.heard.append((step, dict(values)))

    def close(self):
        self.heard.append("closed")
        if self.breaks == "close":
            raise ConnectionError("no network")


@pytest.fixture
def listen(monkeypatch):
    """Make `Listener`, or one that breaks at such a step, a logger that is installed as "listener"."""

    def install(breaks=None):
        one = Listener(breaks)
        monkeypatch.setitem(plugins.loggers.builtins, "listener", "mae_ext.engine.loggers:Listener")
        monkeypatch.setattr("mae_ext.engine.loggers.Listener", lambda: one, raising=False)
        return one

    return install


def test_a_logger_hears_of_every_step_what_metrics_jsonl_holds(told, listen, tmp_path):
    listener = listen()
    out = train(told("listener"), tmp_path / "run")
    first, opened, *steps, last = listener.heard
    assert (first, opened, last) == ("checked", ("opened", "run", 6, 0), "closed")
    assert [{"step": step, **values} for step, values in steps] == rows(out / "metrics.jsonl") and len(steps) == 6
    assert not (out / "tensorboard").exists()  # the config says so


@pytest.mark.parametrize("breaks", [3, "close"])
def test_a_logger_that_breaks_is_a_warning_and_the_run_goes_on(told, listen, tmp_path, capsys, breaks):
    plain = trajectory(train(told(), tmp_path / "plain"))
    listener = listen(breaks)
    assert trajectory(train(told("listener"), tmp_path / "run")) == plain
    said = capsys.readouterr().err
    assert "logger 'listener'" in said and "ConnectionError: no network" in said and said.count("no network") == 1
    assert [heard[0] for heard in listener.heard if heard[0] in range(7)] == list(range(1, 3 if breaks == 3 else 7))


def test_a_logger_that_cannot_be_opened_ends_the_run_before_its_first_step(told, listen, tmp_path):
    listen("open")
    with pytest.raises(RunError, match="logger 'listener' cannot be opened: ConnectionError: no network; mend it"):
        train(told("listener"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_those_already_open_are_closed_when_another_cannot_be_opened(tmp_path, told):
    one, other = Listener(), Listener("open")
    with pytest.raises(RunError, match="logger 'b'"):
        Loggers({"a": one, "b": other}, tmp_path, told(), 0)
    assert one.heard[-1] == "closed"


def test_a_run_that_goes_on_tells_a_logger_where_and_what_it_makes_again(told, listen, tmp_path):
    import shutil

    out = train(told(), tmp_path / "run")
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    listener = listen()
    train(told("listener"), out)  # who listens may change
    assert listener.heard[1] == ("opened", "run", 6, 3) and [heard[0] for heard in listener.heard[2:-1]] == [4, 5, 6]


def test_scores_and_what_observers_saw_are_told_as_well(told, listen, striped, tmp_path):
    listener = listen()
    spec = {"every": 6, "train": str(striped / "train"), "test": str(striped / "test"), "k": 3}
    train(told("listener", **{"train.probe": spec}), tmp_path / "run")
    numbers = [values for step, values in listener.heard[2:-1] if step in (0, 6)]
    assert [set(values) & {"loss", "probe/knn", "probe/linear"} for values in numbers] == [
        {"probe/knn", "probe/linear"}, {"loss"}, {"probe/knn", "probe/linear"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "told_of"),
    [
        (["train.loggers=[wandbb]"], "unknown logger 'wandbb', did you mean 'wandb'"),
        (["train.loggers=[{name: wandb, projekt: x}]"], "takes no 'projekt', did you mean 'project'"),
        (["train.loggers=[{name: wandb, mode: ofline}]"], "mode='ofline': expected one of online, offline, disabled"),
        (["train.loggers=[mlflow, mlflow]"], "loggers names 'mlflow' twice"),
        (["train.loggers=[tensorboard]"], "tensorboard is false, and loggers names it"),
        (["train.observe=[probing]"], "unknown observer 'probing', did you mean 'probe'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(told, tmp_path, sets, told_of):
    with pytest.raises(UserError, match="train") as refused:
        train(configured(told(), None, sets, None), tmp_path / "run")
    assert told_of in str(refused.value) and not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("library", ["wandb", "mlflow"])
def test_a_library_that_is_missing_is_named_with_how_to_install_it(told, tmp_path, library, capfd, monkeypatch, tiny):
    monkeypatch.setattr("mae_ext.engine.loggers.find_spec", lambda name: None if name == library else find_spec(name))
    config = tiny(
        SIX | {"train.loggers": [library], "modalities.image.data.path": told().modalities["image"].data.path}
    )
    assert run(["pretrain", str(config), "--out", str(tmp_path / "run")]) == 2
    remedy = f"pip install 'mae-ext[{library}]', or take the logger out"
    assert capfd.readouterr().err == f"mae-ext: train.loggers: '{library}' is not installed: {remedy}\n"
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_tensorboard_has_one_door_with_two_handles(told, tmp_path):
    """true, and its name in the list, are one logger; the list may give it arguments."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for loggers in ((), ("tensorboard",)):
        config = told(*loggers, **{"train.tensorboard": True})
        assert [spec.name for spec in config.train.all_loggers] == ["tensorboard"]
    out = train(config, tmp_path / "run")
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(rows(out / "metrics.jsonl")[0]) - {"step"}
    for event, row in zip(events.Scalars("loss"), rows(out / "metrics.jsonl"), strict=True):
        assert event.step == row["step"] and event.value == torch.tensor(row["loss"]).item()


def test_mlflow_holds_the_run_in_its_folder_and_goes_on_with_the_same(told, tmp_path, monkeypatch):
    import shutil

    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'mae-ext[mlflow]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = train(told({"name": "mlflow", "experiment": "tried"}), tmp_path / "run")
    client, known = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}"), (out / "mlflow.id").read_text()
    found = client.get_run(known)
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.params["train.steps"] == "6" and found.data.params["modalities.image.patch"] == "[4, 4]"
    history = [(m.step, m.value) for m in client.get_metric_history(known, "loss")]
    assert history == [(row["step"], row["loss"]) for row in rows(out / "metrics.jsonl")]
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    train(told({"name": "mlflow", "experiment": "tried"}), out)
    assert (out / "mlflow.id").read_text() == known and len(client.search_runs([found.info.experiment_id])) == 1
    assert {m.step for m in client.get_metric_history(known, "loss")} == set(range(1, 7))


def test_mlflow_is_sent_many_numbers_at_a_time_and_all_of_them_in_the_end():
    sent = []

    class Client:
        def log_batch(self, _, metrics):
            sent.append(len(metrics))

        def set_terminated(self, _):
            sent.append("end")

    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'mae-ext[mlflow]'")
    logger = MLflow()
    logger.client, logger.id, logger.waiting, logger.sent = Client(), "a", [], float("inf")
    for step in range(7):
        logger.write(step, {f"{key}": 1.0 for key in range(100)})
    logger.close()
    assert sent == [500, 200, "end"]


def test_wandb_keeps_the_run_in_its_folder_and_goes_on_with_the_same(told, tmp_path, monkeypatch):
    import shutil

    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'mae-ext[wandb]'")
    monkeypatch.setenv("WANDB_SILENT", "true")
    spec = {"name": "wandb", "project": "tried", "mode": "offline"}
    out = train(told(spec), tmp_path / "run")
    known = (out / "wandb.id").read_text()
    (kept,) = (out / "wandb").glob("offline-run-*")
    assert kept.name.endswith(known) and b"samples_per_s" in (kept / f"run-{known}.wandb").read_bytes()
    shutil.rmtree(out / "checkpoints" / "step-00000006")
    train(told(spec), out)
    assert (out / "wandb.id").read_text() == known


def test_settings_of_loggers_are_no_reason_to_refuse_a_run_elsewhere(told, tmp_path, listen, monkeypatch):
    """Where a run is used, who was told of it need not be installed."""
    from mae_ext.features.encoder import load_encoder

    listen()
    out = train(told("listener"), tmp_path / "run")
    monkeypatch.undo()
    assert "listener" not in plugins.loggers.builtins
    assert load_encoder(out).step == 6
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6
