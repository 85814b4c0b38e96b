"""scripts/studies/peers.py: both sides have the same samples, and each is charged for its own training and no more."""

import io
import json
import subprocess
import sys
import time

import numpy as np
import peers
import peers_sides
import pytest
import torch
from peers_models import Boxes, Pictures, Recipe, crops, peer_of
from peers_sets import SETS, SetOf, config_of, decoded, only
from peers_sides import SCORES, Clock, Turns, train_ours

from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.batches import build_reader
from mae_ext.data.sample import Sample
from mae_ext.rng import rng

TINY = ["model.width=24", "model.depth=1", "model.heads=2", "model.decoder={width: 24, depth: 1, heads: 2}"]
TINY += ["modalities.image.size=[8, 8]", "modalities.image.channels=1", "modalities.image.batch=4"]
TINY += ["train.workers=0", "train.precision=fp32", "train.epochs=null", "train.warmup_epochs=null"]


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """A set of 12 pictures of 8x8 pixels, as bytes."""
    x = np.random.default_rng(0).integers(256, size=(12, 8, 8), dtype="uint8")
    np.savez(tmp_path / "tiny.npz", train_images=x, train_labels=np.arange(12)[:, None] % 2)
    monkeypatch.setitem(SETS, "tiny", SetOf("image_cifar10_vitt", "images", "tiny.npz", "tiny.npz", "tiny.npz"))


def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        sum(range(1000))


def test_a_peer_has_the_samples_that_our_reader_gives_in_the_same_order(tmp_path):
    _, modality = only(config_of("tiny", tmp_path, None, [*TINY, "train.steps=1", "train.warmup_steps=0"]))
    x, labels = decoded(modality, str(tmp_path / "tiny.npz"))
    reader, crop = build_reader(modality, ""), evaluation_sampler(modality.data.augment, modality.size)
    ours = [reader.read(f"{tmp_path}/tiny.npz::train_images::{i}", [crop])[0].x for i in range(12)]
    assert torch.equal(x, torch.stack(ours))
    assert labels.tolist() == [0, 1] * 6
    batches = Pictures(x, Recipe(batch=4, lr=1.0))
    epoch = torch.cat([batches(step) for step in (3, 4, 5)])
    assert sorted(epoch.flatten(1).tolist()) == sorted((x.float() / 255).flatten(1).tolist())


def test_a_peer_s_boxes_are_cut_from_every_scan_once_before_any_twice():
    scans = [Sample(torch.full((1, 5, 7, 6), float(i)), str(i)) for i in range(6)]
    boxes = Boxes(scans, (4, 8, 4), batch=3, flip=(2,))
    assert boxes(0).shape == (3, 1, 4, 8, 4)  # of a scan that is shorter along one axis
    assert sorted(torch.cat([boxes(0), boxes(1)]).amax((1, 2, 3, 4)).tolist()) == [0, 1, 2, 3, 4, 5]


def test_the_crop_of_all_of_a_picture_is_that_picture():
    x = torch.rand(2, 3, 8, 8, generator=rng(0, "x"))
    whole = crops(x, Recipe(1, 1.0, scale=(2.0, 2.0), flip=False), rng(0, "crop"))
    assert torch.allclose(whole, x, atol=1e-5)


def test_a_clock_counts_a_process_and_its_children_and_not_what_is_set_aside():
    clock = Clock(before=10.0)
    burn(0.1)
    clock.pause()
    burn(0.3)
    clock.go()
    own = clock.seconds()
    assert 10.1 <= own < 10.3
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        running = clock.seconds()
        child.communicate(b"\n")
    assert running >= own + 0.28
    assert clock.seconds() >= running - 0.02  # the kernel counts ended children in hundredths


def talk(*turns):
    return io.StringIO("".join(json.dumps({"seconds": seconds}) + "\n" for seconds in turns)), io.StringIO()


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_side_is_judged_after_its_share_of_the_budget_and_judging_costs_it_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(peers_sides, "LOOK_S", 0.0)

    def judge(encode):
        burn(0.3)
        return {"knn": 0.5}

    turns = Turns(tmp_path, every=0.1, budget=0.25, judge=judge, talk=talk(0.1, 5.0))
    turns.begin(0, 0.0)
    step, goes = 0, True
    while goes:
        if turns.due(last=False):
            goes = turns.look(step, False, lambda x, spacing: (x, None))
        burn(0.01)
        step += 1
    said = [json.loads(line) for line in turns.talk[1].getvalue().splitlines()]
    assert [row["ended"] for row in said] == [False, False, True]
    assert said[0]["seconds"] < 0.1 <= said[1]["seconds"] < 0.25 <= said[2]["seconds"] < 0.4
    seconds = [row["seconds"] for row in rows(tmp_path / SCORES)]
    assert len(seconds) == 3
    assert seconds[0] < 0.2 <= seconds[1] < 0.25 <= seconds[2] < 0.4


def test_our_side_ends_at_its_budget_and_goes_on_with_its_time_where_it_was_stopped(tmp_path):
    judged, out = [], tmp_path / "run"

    def side(budget, *turns):
        return Turns(out, every=100.0, budget=budget, judge=lambda encode: judged.append(1) or {}, talk=talk(*turns))

    config = config_of("tiny", tmp_path, None, [*TINY, "train.steps=100000", "train.warmup_steps=0"])
    first = side(100.0, 0.3)  # one turn, and then whoever gave it is gone
    train_ours(first, config)
    begun, stopped = (json.loads(line) for line in first.talk[1].getvalue().splitlines())
    assert begun["steps"] == 0 and not judged and stopped["steps"] > 0
    second = side(stopped["seconds"] + 0.3, 100.0)
    train_ours(second, config)
    again, ended = (json.loads(line) for line in second.talk[1].getvalue().splitlines())
    assert again["steps"] == stopped["steps"] and abs(again["seconds"] - stopped["seconds"]) < 0.1
    assert ended["ended"] and ended["steps"] > again["steps"] and len(judged) == 1
    assert [row["step"] for row in rows(out / SCORES)] == [ended["steps"]]
    assert peers_sides.TURNS is second


def test_our_side_that_has_taken_all_steps_is_judged_once_however_often_it_is_begun(tmp_path):
    judged = []
    config = config_of("tiny", tmp_path, None, [*TINY, "train.steps=3", "train.warmup_steps=0"])
    for begun_at in (0, 3):
        turns = Turns(tmp_path / "run", 100.0, 100.0, lambda encode: judged.append(1) or {}, talk(100.0))
        train_ours(turns, config)
        said = [json.loads(line) for line in turns.talk[1].getvalue().splitlines()]
        assert said[0]["steps"] == begun_at
        assert said[-1]["ended"] and said[-1]["steps"] == 3
    assert len(judged) == 1


def test_the_time_to_a_score_is_that_of_the_first_probe_that_has_it():
    def row(side, seconds, knn):
        return {"side": side, "seconds": seconds, "steps": 1, "scores": {"knn": knn}}

    theirs = [row("vitmae", 100, 0.30), row("vitmae", 200, 0.42), row("vitmae", 300, 0.40)]
    ours = [row("ours", 50, 0.39), row("ours", 100, 0.41), row("ours", 150, 0.38)]
    (found,) = peers.comparison([*ours, *theirs])
    assert found == {"peer": "vitmae", "score": "knn", "X": 0.40, "peer_s": 200, "ours_s": 100, "ratio": 0.5}
    (missed,) = peers.comparison([ours[0], *theirs])
    assert missed["ours_s"] is None and "not reached" in peers.table("tiny", [ours[0], *theirs])


def test_a_peer_s_frozen_tokens_are_all_of_a_picture_row_by_row(tmp_path):
    pytest.importorskip("transformers")
    config = config_of("tiny", tmp_path, None, [*TINY, "train.steps=1", "train.warmup_steps=0"])
    peer = peer_of("vitmae-sizes", config)
    assert bool(peer.model.vit.embeddings.position_embeddings.any())
    x = torch.rand(2, 1, 8, 8, generator=rng(0, "x"))
    for layer in peer.model.vit.layers:  # without attention a token is its own patch's alone
        layer.attention.forward = lambda states, *args, **kwargs: (torch.zeros_like(states), None)
    with torch.no_grad():
        before, _ = peer.encode(x, None)
        x[:, :, :4, 4:] += 1
        after, token = peer.encode(x, None)
    assert before.shape == (2, 4, 24) and token.shape == (2, 24)
    assert (before != after).any(2).any(0).tolist() == [False, True, False, False]
