"""scripts/studies/compare_init.py: the same pretraining from weights and from nothing, seed by seed."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import compare_init
import pytest
import yaml


def test_the_gain_is_taken_seed_by_seed():
    text = compare_init.summary("loss", {"pretrained": [0.8, 0.6], "scratch": [0.7, 0.5]}).splitlines()
    assert [line.split() for line in text] == [
        ["pretrained", "loss", "0.7000", "+-", "0.1414"],
        ["scratch", "loss", "0.6000", "+-", "0.1414"],
        ["gain", "loss", "0.1000", "+-", "0.0000"],
    ]


def test_a_run_is_judged_by_its_end(tmp_path):
    rows = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.5}]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare_init.last_scores(tmp_path)["loss"] == 0.5


def test_each_seed_has_a_list_and_a_pretrained_run_of_its_own_where_asked():
    args = Namespace(config="image_folder", data="few-{seed}.txt", test="test.txt", set=["train.steps=10"])
    words = compare_init.command(args, "runs/a-{seed}", 2, [], Path("out"))
    assert {"pretrain", "few-2.txt", "runs/a-2", "test.txt", "--set=seed=2"} < set(words)


def test_the_last_probe_of_each_set_is_a_score(tmp_path):
    rows = [
        {"step": step, "set": name, "in_training": True, "knn": {"accuracy": step / 10}, "linear": {"accuracy": 0.5}}
        for step in (1, 2)
        for name in ("old", None)
    ]
    rows.append({"step": 3, "knn": {"accuracy": 1.0}, "linear": {"accuracy": 1.0}})  # made by hand, later
    (tmp_path / "evaluations.jsonl").write_text('{"step": 2, "loss": 0.4}\n')
    (tmp_path / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert compare_init.last_scores(tmp_path) == {
        "step": 2, "loss": 0.4, "probe/old/knn": 0.2, "probe/old/linear": 0.5, "probe/knn": 0.2, "probe/linear": 0.5,
    }  # fmt: skip


@pytest.mark.slow
def test_both_sides_of_a_seed_differ_in_the_start_alone(make_run, striped, tiny, tmp_path, monkeypatch, capfd):
    weights = make_run(size=[16, 16], patch=[4, 4])
    made = yaml.safe_load((weights / "config.yaml").read_text())["model"]
    model = {f"model.{key}": made[key] for key in ("width", "depth", "heads", "decoder")}
    config = tiny({**model, "train.steps": 2, "train.warmup_steps": 0})
    words = ["--init", str(weights), "--data", str(striped / "train"), "--test", str(striped / "test")]
    words += ["--out", str(tmp_path / "pays"), "--score", "loss", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["compare_init.py", str(config), *words])
    compare_init.main()
    assert capfd.readouterr().out.splitlines()[-1].startswith("gain")
    for seed in (0, 1):
        pretrained, scratch = (
            yaml.safe_load(Path(tmp_path, "pays", f"{side}-{seed}", "config.yaml").read_text())
            for side in ("pretrained", "scratch")
        )
        assert pretrained["seed"] == scratch["seed"] == seed
        assert pretrained["model"] == scratch["model"] and pretrained["init"] and not scratch["init"]
