"""What tasks share: sources listed once in a run, and scores that do not depend on who judged which sample."""

import pickle
from collections import Counter

import pytest
import torch

from mae_ext.config import parse_config
from mae_ext.data.image import boxes
from mae_ext.data.sources import table
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.task import build_model, task_of
from mae_ext.engine.train import train
from mae_ext.errors import ConfigError, UserError
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.tasks.segment import pairs

TASKS = ("classify", "detect", "segment")
every_task = pytest.mark.parametrize("task", TASKS)


@pytest.fixture
def counted(monkeypatch):
    """How often each source is listed, and each table of labels read, by what really does it."""
    counts = Counter()

    def count(module, name, which):
        real = getattr(module, name)

        def counting(*arguments):
            counts[str(arguments[which])] += 1
            return real(*arguments)

        monkeypatch.setattr(module, name, counting)

    count(table, "_list", 0)
    count(boxes, "read_annotations", 0)
    count(pairs, "maps_of", 1)
    return counts


@every_task
def test_sources_and_labels_are_read_once_in_a_run_however_often_it_is_evaluated(
    make, counted, labelled, tmp_path, task
):
    once = {str(labelled / side): 1 for side in ("train", "test")}
    once |= {"classify": {}, "detect": {str(labelled / "boxes.json"): 1}, "segment": {str(labelled / "masks"): 2}}[task]
    out = train(make(task), tmp_path / "run")
    assert len((out / "evaluations.jsonl").read_text().splitlines()) == 3
    assert counted == once
    counted.clear()
    train(make(task, steps=5), out, allow_change=True)
    assert len((out / "evaluations.jsonl").read_text().splitlines()) == 5
    assert counted == once


@every_task
@torch.no_grad()
def test_the_scores_of_two_ranks_are_those_of_one_and_nothing_is_listed_for_them(make, counted, monkeypatch, task):
    config = make(task)
    data = task_of(config).data(config)
    config = task_of(config).settle(config, data, None)
    model, shares, judged = build_model(config).eval(), [], []
    kind = type(task_of(config))
    real = kind.scores

    def scores(self, examples, answers, bad):
        judged.append([row for row, _ in answers])
        return real(self, examples, answers, bad)

    monkeypatch.setattr(kind, "scores", scores)
    counted.clear()

    class Meeting(Ranks):
        """Ranks that come one after the other, the second first, and hear those before them."""

        def gather(self, value):
            shares.append(value)
            return shares

    cpu = torch.device("cpu")
    alone = task_of(config).evaluate(model, config, data, Ranks(0, 1, cpu))
    task_of(config).evaluate(model, config, data, Meeting(1, 2, cpu))
    assert task_of(config).evaluate(model, config, data, Meeting(0, 2, cpu)) == alone and not counted
    assert [[row for row, _ in answers] for answers, _ in shares] == [[1], [0]] and judged == [[0, 1], [1], [0, 1]]


@every_task
def test_workers_get_what_is_learned_from_and_not_what_is_held_out(make, task):
    config = make(task)
    (data,) = task_of(config).data(config).values()
    assert len(data.held_out.listed) == len(data.held_out.examples.items) == 2
    copy = pickle.loads(pickle.dumps(data))
    assert copy.held_out is None and copy.batch(0).x.equal(data.batch(0).x)


@every_task
def test_without_test_data_there_are_no_scores(make, task):
    config = make(task, test=False)
    data = task_of(config).data(config)
    assert data["image"].held_out is None
    assert task_of(config).evaluate(torch.nn.Identity(), config, data, Ranks(0, 1, torch.device("cpu"))) == {}


@every_task
def test_a_task_takes_one_modality_and_wants_its_files_by_name(make, task):
    config = make(task)
    image = config.modalities["image"]
    two = config.model_copy(update={"modalities": {"image": image, "other": image}})
    with pytest.raises(ConfigError, match=f"task {task} takes one modality, and the config has image, other"):
        task_of(config).data(two)
    nameless = image.model_copy(update={"data": image.data.model_copy(update={"path": None})})
    with pytest.raises(UserError, match=r"modalities\.image\.data\.path is not set: give --data PATH"):
        task_of(config).data(config.model_copy(update={"modalities": {"image": nameless}}))


def test_a_fourth_task_is_told_what_is_its_own():
    class Fourth(FineTuning):
        """Nothing yet."""

    with pytest.raises(TypeError, match=r"answers'?, '?examples'?, '?scores"):
        Fourth()


@every_task
def test_a_run_of_pretraining_is_not_gone_on_with_by_a_task_in_the_same_place(make, tmp_path, task):
    values = make("classify", test=False).model_dump(mode="json")
    run = train(parse_config({**values, "task": "pretrain"}), tmp_path / "run")
    with pytest.raises(UserError, match=rf"--out holds a run of the task 'pretrain', and this one is of '{task}'"):
        train(make(task), run)
