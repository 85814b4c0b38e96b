"""Studies from end to end: what is made, what is made again, what is refused; each kind of task once."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mae_ext.engine.checkpoint import sha256
from mae_ext.errors import RunError, UserError
from mae_ext.probing.probe import probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.report.worth import write_worth
from mae_ext.worth import probes
from mae_ext.worth.intervals import rescored
from mae_ext.worth.outcome import from_json
from mae_ext.worth.rates import best
from mae_ext.worth.run import planned, printed, worth
from mae_ext.worth.study import study_of


def made(study):
    """(worth.json but for minutes, how many runs it took)."""
    said = []
    result = worth(study, planned(study), said.append)
    return json.loads(json.dumps(result)), sum("trials/" in line for line in said)


def timeless(result):
    rows = [{**row, "minutes": 0} for row in (*result["rows"], *result["table"])]
    return {**result, "minutes": 0, "rows": rows, "table": [], "run": {}, "command": ""}  # it names the folder


def test_a_study_has_every_arm_and_is_not_made_again_but_where_it_grows(wish):
    first = wish(arms="frozen,finetuned,scratch,random,majority", seeds=1, labels="1")
    result, runs = made(study_of(first))
    assert runs == 5 and [row["arm"] for row in result["rows"]] == [
        "frozen",
        "finetuned",
        "scratch",
        "random",
        "majority",
    ]
    assert all(row["labels"] == "1 a class" and row["count"] == 3 for row in result["rows"])
    assert result["score"] == "accuracy" and result["tested"] == {"path": first.test, "samples": 12, "groups": None}
    assert result["sentence"] and printed(result).startswith("accuracy")
    again, runs = made(study_of(first))
    assert runs == 0 and again == result
    grown = wish(run=first.run, arms="scratch,majority", seeds=2, labels="1,all")
    assert planned(study_of(grown)).text(study_of(grown)).endswith(" in all") and planned(study_of(grown)).trials == 8
    more, runs = made(study_of(grown))
    assert runs == 6 and [row for row in more["rows"] if row in result["rows"]] == result["rows"][2::2]


def test_frozen_and_random_weights_are_what_a_probe_by_moments_says_of_them(wish, monkeypatch):
    one = wish(labels="all", arms="frozen,random")
    study = study_of(one)
    rows = {row["arm"]: row for row in made(study)[0]["rows"]}
    assert study.probes.encoded.keys() == {(None, "moments"), (0, "moments")}
    assert "under a light head, on moments of the last blocks" in write_worth(one.out).read_text()
    for arm, baseline in (("frozen", None), ("random", "random")):
        spec = ProbeSpec(one.data, one.test, pool="moments")
        probed = probe(one.run, spec, baseline=baseline, record=False)
        assert rows[arm]["value"] == pytest.approx(probed["linear"]["accuracy"]), arm
    # Where moments would take too much memory it is mean tokens, and another trial.
    monkeypatch.setattr(probes, "MOST", 1000)
    means = {row["arm"]: row for row in made(study_of(one))[0]["rows"]}
    assert all(means[arm]["key"] != rows[arm]["key"] for arm in rows)
    assert "under a light head, on the mean of its tokens" in write_worth(one.out).read_text()
    probed = probe(one.run, ProbeSpec(one.data, one.test), record=False)
    assert means["frozen"]["value"] == pytest.approx(probed["linear"]["accuracy"])


def test_a_judged_trial_scores_the_same_again_and_leaves_no_checkpoint(study):
    one = study(arms="finetuned", labels="3")
    (row,) = made(one)[0]["rows"]
    folder = one.wish.out / "trials" / row["key"]
    outcome = from_json(json.loads((folder / "outcome.json").read_text()))
    assert (
        outcome.value == row["value"]
        and float(rescored(one.tested, outcome.judged, torch.ones(1, 12))) == outcome.value
    )
    assert not (folder / "run" / "checkpoints").exists() and "done: 2 steps" in (folder / "log.txt").read_text()


def test_sides_of_one_seed_see_the_same_labels_and_the_test_decides_nothing(study):
    one = study(arms="finetuned,scratch", labels="3")
    made(one)
    runs = [yaml.safe_load(path.read_text()) for path in (one.wish.out / "trials").glob("*/run/config.yaml")]
    mine, theirs = (run["modalities"]["image"]["data"] for run in runs)
    assert mine["path"] == theirs["path"] and mine["test"] is theirs["test"] is None
    assert [run["seed"] for run in runs] == [0, 0] and {run["init"] is None for run in runs} == {True, False}


def test_rates_are_chosen_on_training_data_that_is_held_back(wish, striped):
    one = study_of(wish(arms="finetuned,scratch", labels="1,all", rates="choose"))
    plan = planned(one)
    assert [len(trying.options) for trying in plan.tryings] == [3, 3] and plan.trials == 10
    trials = [trial for trying in plan.tryings for _, trial in trying.options]
    result, runs = made(one)
    assert runs == 10 and sum(row["taken"] for row in result["rates"]) == 2
    assert [row["side"] for row in result["rates"]] == ["pretrained"] * 3 + ["scratch"] * 3
    for taken in (row for row in result["rates"] if row["taken"]):
        assert taken["value"] == max(r["value"] for r in result["rates"] if r["side"] == taken["side"])
        assert "held back from the training data" in taken["why"]
    for trial in trials:
        assert trial.judged == 8 and trial.done(one.wish.out) is not None
    lists = "".join(path.read_text() for path in (one.wish.out / "draws").iterdir())
    assert str(striped / "test") not in lists


def test_a_side_whose_rate_is_named_is_not_tried(study):
    one = study(arms="finetuned,scratch", rates="choose", pretrained_sets=("train.lr=0.02",))
    assert [(trying.side, len(trying.options)) for trying in planned(one).tryings] == [
        ("pretrained", 0),
        ("scratch", 3),
    ]


def test_label_maps_are_judged_sample_by_sample(wish, recipe, maps):
    task = {"name": "segment", "classes": ["square"], "masks": str(maps / "masks"), "overlap": 0.0}
    sources = {"data": str(maps / "train"), "test": str(maps / "test"), "config": recipe(task)}
    one = study_of(wish(**sources, labels="1", arms="frozen,finetuned,random,majority"))
    assert [text for _, text in one.levels] == ["1 picture"] and one.sides == ["pretrained", "frozen"]
    result, runs = made(one)
    assert runs == 4 and result["score"] == "dice"
    for row in result["rows"]:
        outcome = from_json(json.loads((one.wish.out / "trials" / row["key"] / "outcome.json").read_text()))
        assert outcome.judged["dice"].shape == (3, 1)
        assert float(rescored(one.tested, outcome.judged, torch.ones(1, 3))) == pytest.approx(outcome.value)


def test_boxes_are_judged_match_by_match(wish, recipe, make_run, tmp_path):
    images, annotations = [], []
    for split, numbers in (("train", range(4)), ("test", range(7, 10))):
        (tmp_path / split).mkdir()
        for number in numbers:
            grey = np.full((32, 32, 3), 90, np.uint8)
            grey[4 : 4 + 2 * number, 6:20] = 220
            Image.fromarray(grey).save(tmp_path / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 32})
            box = [6, 4, 14, max(2, 2 * number)]
            annotations.append({"image_id": number, "category_id": 1, "bbox": box})
    labels = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bar"}]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    task = {"name": "detect", "labels": str(tmp_path / "labels.json"), "channels": 8, "depth": 0, "strides": [8]}
    augment = {"scale": [0.9, 1.0], "aspect": [1.0, 1.0]}
    sources = {"data": str(tmp_path / "train"), "test": str(tmp_path / "test")}
    run = str(make_run("boxes", size=[32, 32], patch=[8, 8]))
    name = recipe({**task, "threshold": 0.0}, data={"augment": augment})
    one = study_of(wish(run=run, config=name, **sources, labels="all", arms="frozen,scratch,majority"))
    result, _ = made(one)
    assert result["score"] == "mAP50" and [row["arm"] for row in result["rows"]] == ["frozen", "scratch", "majority"]
    for row in result["rows"]:
        outcome = from_json(json.loads((one.wish.out / "trials" / row["key"] / "outcome.json").read_text()))
        assert outcome.judged["objects"].tolist() == [[1], [1], [1]]
        assert float(rescored(one.tested, outcome.judged, torch.ones(1, 3))) == pytest.approx(outcome.value)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"test": "train"}, "36 files on both sides of the split"),
        ({"data": "train/down"}, "no labels|all samples are of one class"),
        ({"labels": "13"}, "class 'across' has 12 labelled pictures; ask for fewer"),
        ({"seeds": 0}, "--seeds 0: expected at least 1"),
        ({"data": "nowhere"}, "no such file or folder"),
        ({"arms": "finetuned,best"}, "no arm 'best'"),
        ({"sets": ("train.stepss=3",)}, "train.stepss: unknown key"),
        ({"run": "nothing"}, "no such file or folder"),
        ({"rates": "guess"}, "--rates guess: expected choose, or off"),
        ({"labels": ""}, "--labels: '' is no number of labels"),
        ({"labels": "٣ %"}, "--labels: '٣ %' is no number of labels"),
        ({"sets": ("seed=5",)}, "--set seed=5: a study sets it by itself, from RUN"),
        ({"sets": ("modalities.image.data.test=x",)}, "--set modalities.image.data.test=x: a study sets it by itself"),
        ({"pretrained_sets": ("init=none",)}, "--pretrained-set init=none: a study sets it by itself"),
        ({"scratch_sets": ("train.lr",)}, "--scratch-set train.lr: expected KEY=VALUE"),
        (
            {"scratch_sets": ("modalities.image.size=[9,9]",)},
            r"--scratch-set .*size=.*: sides would not be",
        ),
    ],
)
def test_what_cannot_be_studied_is_said_in_one_line(study, striped, more, says):
    paths = {k: str(striped / v) if k in ("test", "data") else v for k, v in more.items()}
    with pytest.raises(UserError, match=says) as error:
        study(**paths)
    assert "\n" not in str(error.value)


def test_a_patient_on_both_sides_and_one_without_a_name_are_refused(study, striped, tmp_path):
    rows = [f"{path},{path.parent.name},p{i}" for i, path in enumerate(sorted(striped.glob("*/*/*.png")))]
    both, nameless = f"{rows[1].rpartition(',')[0]},p0", rows[3].rpartition("p")[0]
    for name, chosen in (("a", rows[::2]), ("b", [both, *rows[3::2]]), ("c", [rows[1], nameless, *rows[5::2]])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["path,label,patient", *chosen]))
    with pytest.raises(UserError, match=r"1 patient on both sides of the split.*'p0'"):
        study(data=str(tmp_path / "a.csv"), test=str(tmp_path / "b.csv"))
    with pytest.raises(UserError, match="png has no patient; where a list has the column, every row needs one"):
        study(data=str(tmp_path / "a.csv"), test=str(tmp_path / "c.csv"))


def test_a_test_set_without_a_label_is_refused_before_anything_is_trained(wish, recipe, maps):
    for number in (20, 21, 22):
        Image.fromarray(np.zeros((24, 16), np.uint8)).save(maps / "masks" / f"{number}.png")
    task = {"name": "segment", "classes": ["square"], "masks": str(maps / "masks"), "overlap": 0.0}
    sources = {"data": str(maps / "train"), "test": str(maps / "test"), "config": recipe(task)}
    with pytest.raises(UserError, match="test: none of its 3 samples has a label of square; give samples where"):
        study_of(wish(**sources, labels="1", arms="finetuned"))


def test_a_test_set_without_a_box_is_refused_before_anything_is_trained(wish, recipe, make_run, tmp_path):
    annotations = [{"image_id": number, "category_id": 1, "bbox": [6, 4, 14, 8]} for number in (0, 1)]
    for number, split in enumerate(("train", "train", "test")):
        (tmp_path / split).mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / split / f"{number}.png")
    images = [{"id": number, "file_name": f"{number}.png", "width": 32, "height": 32} for number in range(3)]
    labels = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bar"}]}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    name = recipe({"name": "detect", "labels": str(tmp_path / "labels.json"), "channels": 8, "strides": [8]})
    run = str(make_run("boxes", size=[32, 32], patch=[8, 8]))
    with pytest.raises(UserError, match="test: none of its 1 samples has a label of bar; give samples where"):
        study_of(wish(run=run, config=name, data=str(tmp_path / "train"), test=str(tmp_path / "test"), labels="all"))


def test_an_outcome_that_is_no_outcome_is_said_by_name_and_a_broken_timing_is_measured_again(study):
    one = study(arms="majority,finetuned", labels="1")
    made(one)
    (one.wish.out / "timing.json").write_text('{"key": ')
    (one.wish.out / "timing.tmp-of-one-that-was-killed" / "run").mkdir(parents=True)
    (trial,) = one.trials(())[:1]
    whole = (trial.folder(one.wish.out) / "outcome.json").read_bytes()
    (trial.folder(one.wish.out) / "outcome.json").unlink()
    assert made(one)[1] == 1 and json.loads((one.wish.out / "timing.json").read_text())["key"]
    assert not list(one.wish.out.glob("timing.tmp-*"))
    (trial.folder(one.wish.out) / "outcome.json").write_bytes(whole[:40])
    with pytest.raises(UserError, match=rf"{trial.key}/outcome.json: is no outcome of a trial.*; remove the folder"):
        planned(one)


def test_an_error_of_one_trial_names_it_and_keeps_what_was_made(study):
    one = study(arms="finetuned,scratch", labels="1", scratch_sets=("train.lr=1e30", "train.clip=null"))
    with pytest.raises(RunError, match=r"scratch, 1 a class, seed 0 .*trials/\w+\): .*losses .*nan"):
        made(one)
    assert len(list(one.wish.out.glob("trials/*/outcome.json"))) == 1


def test_a_rate_that_diverges_is_not_taken(study):
    one = study(arms="scratch", labels="3", rates="choose")
    trying = planned(one).tryings[0]
    hot = replace(
        trying.options[1][1], work=one.training(trying.options[1][1].cell, one.whole, {"train.lr": 1e30}).work
    )
    choices = replace(trying, options=((trying.options[1][0], hot), trying.options[2])).chosen(
        lambda t: t.made(one.wish.out)
    )
    assert [(choice.taken, choice.value is None) for choice in choices] == [(False, True), (True, False)]
    rows = [choice.row() for choice in best("scratch", [({}, None), ({"train.lr": 3.0}, 0.2)], 8, "3 a class")]
    assert [(row["taken"], row["value"]) for row in rows] == [(False, None), (True, 0.2)]
    assert rows[0]["why"] == "not finite"


def command(one, *more):
    words = [one.run, "--data", one.data, "--test", one.test, "--out", str(one.out), "--config", one.config]
    words += ["--labels", one.labels, "--seeds", str(one.seeds), "--rates", one.rates, "--arms", one.arms]
    return [sys.executable, "-m", "mae_ext", "worth", *words, *more]


def killed(one, point):
    plan = {**os.environ, "MAE_EXT_FAILPOINT": point}
    return subprocess.run(command(one), env=plan, capture_output=True, text=True, check=False).returncode


def test_a_study_that_is_killed_ends_as_one_that_was_not(wish, tmp_path):
    whole = wish(arms="finetuned,majority", labels="1")
    result, _ = made(study_of(whole))
    broken = wish(run=whole.run, arms="finetuned,majority", labels="1", out=tmp_path / "broken")
    assert killed(broken, "folder.verified:3") == -9  # after the timing's save, in the training
    assert list(broken.out.glob("trials/*/run")) and not list(broken.out.glob("trials/*/outcome.json"))
    again, _ = made(study_of(broken))
    assert timeless(again) == timeless(result)


@pytest.mark.slow
def test_a_study_that_is_killed_three_times_has_the_same_table_to_the_bit(wish, tmp_path):
    arms = {"arms": "frozen,finetuned,scratch,majority", "labels": "1,all", "seeds": 2, "rates": "choose"}
    whole = wish(**arms)
    result, _ = made(study_of(whole))
    broken = wish(**arms, run=whole.run, out=tmp_path / "broken")
    for point in ("manifest.write:4", "journal.write:20", "text.written:30"):
        assert killed(broken, point) == -9
    done = subprocess.run(command(broken), capture_output=True, text=True, check=True)
    assert done.stdout == printed(result) + "\n"
    assert timeless(json.loads((broken.out / "worth.json").read_text())) == timeless(result)


def test_the_same_weights_elsewhere_are_the_same_start(wish, tmp_path):
    first = wish(arms="finetuned", labels="1")
    result, _ = made(study_of(first))
    (tmp_path / "run").rename(tmp_path / "moved")
    again, runs = made(study_of(wish(run=str(tmp_path / "moved"), arms="finetuned", labels="1")))
    assert runs == 0 and again["rows"] == result["rows"]
    assert len(sha256(next((tmp_path / "moved").rglob("model.safetensors")))) == 64
