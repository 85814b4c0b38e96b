"""A model in shares over two ranks is the model: the same losses, checkpoints that go on anywhere, whole to lookers-on.

200 steps, fine-tuning and ten killed ranks, with a table at the end, are in test_sharded_long.py.
"""

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine.test_distributed import free_port, start_as_ranks, wait_for
from faults.kills import rows, trajectory

from mae_ext import load_encoder
from mae_ext.engine import checkpoint
from mae_ext.engine.failure import replay
from mae_ext.engine.shards import read_like
from mae_ext.engine.start import opened

STEPS, FIRST, HALF, LATER = 12, 3, 6, 9


@pytest.fixture(scope="module")
def done(tmp_path_factory, striped):
    """What two ranks did in one launch: `out(name)` is the folder of a run, `said` the words of each rank."""
    root = tmp_path_factory.mktemp("shares")
    config = root / "tiny.yaml"
    probe = {"every": HALF, "train": str(striped / "train"), "test": str(striped / "test"), "k": 3}
    # Three class tokens do not split evenly. Uneven widths would round otherwise: weights are not aligned then.
    model = {"width": 32, "depth": 2, "heads": 2, "drop_path": 0.1, "class_token": 3}
    model["decoder"] = {"width": 16, "depth": 1, "heads": 2}
    train = {
        "steps": STEPS, "lr": 1e-2, "warmup_steps": 2, "precision": "fp32", "clip": None, "device": "cpu", "workers": 0,
        "save_every": 3, "keep": 9, "tensorboard": False,
    }  # fmt: skip
    image = {"size": [16, 16], "patch": [4, 4], "batch": 8, "data": {}}
    config.write_text(json.dumps({"seed": 3, "modalities": {"image": image}, "model": model, "train": train}))

    def entry(name, *sets, **more):
        flags = [part for key in sets for part in ("--set", key)]
        data = ["--data", str(striped / "train"), "--out", str(root / name)]
        return {"world": 2, "port": free_port(), "argv": ["pretrain", str(config), *data, *flags], **more}

    judged = [
        f"train.probe={json.dumps(probe)}",
        "train.evaluate_every=6",
        "train.keep_best=true",
        "train.accumulate=2",
    ]
    shares, test = "train.parallel=fsdp", ["--test", str(striped / "test")]
    short = ["train.steps=3", "train.warmup_steps=1", "train.clip=1"]
    still = ["train.steps=6", "train.warmup_steps=1", "train.thaw=[4,1]", "train.accumulate=2", "train.lr=1e-3"]
    muon, lion = "train.optimizer=muon", f"train.optimizer={'lion' if find_spec('lion_pytorch') else 'adamw'}"
    of = {key: str(root / key) for key in ("ddp", "shares", "chain", "many", "one", "lion")}
    plan = [
        entry("ddp", *judged),
        entry("shares", *judged, shares),
        entry("four_parts", *short, "train.accumulate=4", reductions=str(root / "four_parts.txt")),
        entry("one_part", *short, reductions=str(root / "one_part.txt")),
        entry("chain", "train.accumulate=8", world=1, copy=[of["shares"], of["chain"], FIRST]),
        entry("chain", "train.micro_batch=2", shares, copy=[of["chain"], of["chain"], HALF]),
        entry("chain", "train.accumulate=2", world=1, copy=[of["chain"], of["chain"], LATER]),
        entry("forth", shares, copy=[of["ddp"], str(root / "forth"), HALF], short=True),
        entry("muon", muon, *still),
        entry("muon_of_one", muon, *still, world=1),
        entry("lion", lion, shares, *still),
        entry("lion_of_one", lion, *still, world=1),
        entry("lion_on", lion, *still, world=1, copy=[of["lion"], str(root / "lion_on"), FIRST]),
        entry("full", shares, failpoint=[1, "file.fsynced:1:enospc"], full=[1, 3]),
        entry("broken", shares, "train.lr=1e30"),
    ]  # fmt: skip
    for one in plan[:2]:
        one["argv"] += test
    (root / "runs.json").write_text(json.dumps(plan))
    started = start_as_ranks([sys.executable, "-m", "engine.several_runs", str(root / "runs.json")], root / "ranks")
    ended = wait_for(started, 400)
    said = [log.read_text() for _, log in started]
    assert ended == [0, 0], [words[-3000:] for words in said]
    codes = json.loads(said[0].splitlines()[-1])
    assert codes == [0] * (len(plan) - 1) + [1], [words[-3000:] for words in said]
    return SimpleNamespace(out=lambda name: root / name, said=said)


@pytest.fixture(scope="module", autouse=True)
def importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        yield


def losses(run):
    return np.array(trajectory(run))


def apart(one, other):
    """The largest difference of a loss, and of a gradient norm."""
    assert one[:, 0].tolist() == other[:, 0].tolist() == list(range(1, STEPS + 1))
    return np.abs(one[:, 1:] - other[:, 1:]).max(axis=0)


def test_two_ranks_with_shares_lose_what_two_with_the_whole_model_lose_to_the_bit(done):
    loss, norm = apart(losses(done.out("shares")), losses(done.out("ddp")))
    assert loss == 0 and norm < 1e-6


def test_lookers_on_see_the_whole_model(done):
    """Evaluations, of which each rank judges a share, and a probe, which rank 0 does alone."""
    for file in ("evaluations.jsonl", "probes.jsonl"):
        ours, theirs = rows(done.out("shares") / file), rows(done.out("ddp") / file)
        assert len(ours) == len(theirs) == (2 if file[0] == "e" else 3)
        for one, other in zip(ours, theirs, strict=True):
            assert one | {"checkpoint": 0, "seconds": 0} == other | {"checkpoint": 0, "seconds": 0}
    best = [json.loads((done.out(name) / "best.json").read_text()) for name in ("shares", "ddp")]
    assert best[0]["checkpoint"] == best[1]["checkpoint"]


def test_a_checkpoint_has_a_file_of_each_rank_and_nothing_that_is_a_pickle(done):
    path = checkpoint.find(done.out("shares"))
    files = set(checkpoint.verify(path)["files"])
    shard = "shard-0000{}-model-00001-of-00001.safetensors"
    assert files == {
        "config.yaml", "state.json", *(f"{part}/{shard.format(r)}" for part in ("model", "optimizer") for r in (1, 2))
    }  # fmt: skip
    assert {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()} == {*files, "manifest.json"}
    # The two halves: neither rank wrote the model.
    sizes = [(path / "model" / shard.format(r)).stat().st_size for r in (1, 2)]
    whole = (checkpoint.find(done.out("ddp")) / "model.safetensors").stat().st_size
    assert max(sizes) < 0.65 * whole


def test_weights_of_shards_are_read_wherever_weights_are(done):
    ours, theirs = done.out("shares"), done.out("ddp")
    parts = [checkpoint.find(run) / f"{part}.safetensors" for run in (ours, theirs) for part in ("model", "optimizer")]
    model, moments, other, others = map(checkpoint.read_tensors, parts)
    for one, two in ((model, other), (moments, others), (opened(ours).weights, opened(theirs).weights)):
        assert one.keys() == two.keys()
        assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(*(load_encoder(run, device="cpu").encode(pixels) for run in (ours, theirs)))


def test_a_damaged_shard_is_found_and_the_checkpoint_before_is_taken(done, tmp_path):
    run = shutil.copytree(done.out("shares"), tmp_path / "run")
    newest = checkpoint.find(run)
    shard = next((newest / "optimizer").glob("shard-00002*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x7f")
    said = []
    assert checkpoint.latest(run, said.append).name == f"step-{LATER:08d}"
    assert "shard-00002" in said[0] and "is damaged" in said[0]
    shard.unlink()
    assert checkpoint.latest(run).name == f"step-{LATER:08d}"


@pytest.mark.parametrize("name", ["chain", "forth"])
def test_what_two_ranks_saved_goes_on_with_one_and_with_two_in_other_parts_and_ways(done, name):
    """chain: in shares by 2, then by 1 in 8 parts, in shares by 2 in 2, by 1 again; forth: whole by 2, then in shares
    by 2, which wait for each save, as there is no memory for copies."""
    loss, norm = apart(losses(done.out(name)), losses(done.out("ddp")))
    assert loss < 1e-5 and norm < 1e-5
    assert checkpoint.find(done.out(name)).name == f"step-{STEPS:08d}"


def test_two_ranks_and_one_let_an_encoder_stand_still_alike_whatever_the_optimiser(done):
    """Before step 4, where it thaws, only the decoder moves; after a save in shares at 3 one rank goes on. What Muon
    multiplies it rounds to bf16, and Lion takes signs, so that doubts of the last bit grow with them."""
    for one, other in (("muon", "muon_of_one"), ("lion", "lion_of_one"), ("lion", "lion_on")):
        ours, theirs = losses(done.out(one)), losses(done.out(other))
        assert ours.shape == theirs.shape and len(ours) == 6
        assert np.abs(ours[:, 1] - theirs[:, 1]).max() < 1e-5, (one, other)
    path = f"checkpoints/step-0000000{FIRST}/model.safetensors"
    muon, lion = (checkpoint.read_tensors(done.out(name) / path) for name in ("muon", "lion"))
    own = [name for name in muon if name.startswith("encoder.") or ".embed." in name]
    assert len(own) > 20 and all(torch.equal(muon[name], lion[name]) for name in own)
    assert not torch.equal(muon["decoder.mask_token"], lion["decoder.mask_token"])


def test_a_disk_that_is_full_for_one_rank_costs_a_checkpoint_and_no_step(done):
    """At step 3 rank 1 cannot read back what it wrote, at step 6 it cannot write its shard of the model."""
    for step, what in ((3, "file.fsynced"), (6, "a shard")):
        assert done.said[0].count(f"step {step}: could not save a checkpoint: {what}: No space left on device") == 1
    assert "could not save" not in done.said[1]
    names = [path.name for path in checkpoint.steps_of(done.out("full") / "checkpoints")]
    assert names == ["step-00000009", "step-00000012"]
    assert not list((done.out("full") / "checkpoints").glob("*tmp*"))


def test_a_failure_of_a_model_in_shares_is_repeated_by_one_process(done):
    (failure,) = done.out("broken").glob("failure-*")
    record, again = json.loads((failure / "record.json").read_text()), replay(failure)
    assert record["step"] == again["step"] and not np.isfinite(again["losses"]["image"])
    assert len(record["nonfinite_gradients"]) == 10 and again["nonfinite_gradients"] == record["nonfinite_gradients"]
    assert (checkpoint.find(failure) / "model.safetensors").is_file()


def test_gradients_are_exchanged_once_a_step_however_many_parts_it_has(done):
    """Under DDP: a bucket of gradients, and what ranks agree on."""
    four, one = (len(done.out(f"{name}.txt").read_text().splitlines()) for name in ("four_parts", "one_part"))
    assert four == one == 2 * 3, (four, one)


def test_tensors_that_fit_none_are_named_with_their_shapes_and_not_read(done):
    path = checkpoint.find(done.out("shares")) / "model.safetensors"
    own = {"encoder.trunk.norm.weight": torch.zeros(32), "encoder.class_token": torch.zeros(5)}
    read = read_like(own, path)
    assert torch.equal(read["encoder.trunk.norm.weight"], checkpoint.read_tensors(path)["encoder.trunk.norm.weight"])
    assert read["encoder.class_token"].is_meta and read["encoder.class_token"].shape == (3, 32)
