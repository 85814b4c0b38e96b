"""Probing a run while it trains: the same training to the last bit, the same numbers as a probe of its checkpoint."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_ext.config import load_config, parse_config
from mae_ext.engine.observe import aside
from mae_ext.engine.train import train
from mae_ext.errors import UserError
from mae_ext.model.mae import MAE
from mae_ext.overrides import configured
from mae_ext.probing.during import ProbesDuring
from mae_ext.probing.probe import probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.report.page import write_report


def rows(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(run: Path):
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows(run / "metrics.jsonl")]


@pytest.fixture
def asked(tiny, striped, tmp_path):
    """A config of 12 steps that is, or is not, probed every 4."""

    def config(probed=True, **more):
        spec = {"every": 4, "train": str(striped / "train"), "test": str(striped / "test"), "k": 3}
        overrides = {"train.steps": 12, "train.save_every": 4, "modalities.image.data.path": str(striped / "train")}
        return load_config(tiny(overrides | ({"train.probe": spec | more} if probed else {})))

    return config


def test_a_probed_run_has_the_same_losses_and_weights_and_rows_like_those_of_a_probe(asked, striped, tmp_path):
    torch.manual_seed(5)
    plain, probed = train(asked(False), tmp_path / "plain"), train(asked(), tmp_path / "probed")
    assert losses(plain) == losses(probed) and len(losses(plain)) == 12
    found = rows(probed / "probes.jsonl")
    assert [row["step"] for row in found] == [0, 4, 8, 12] and all(row["in_training"] for row in found)
    after = probe(probed, ProbeSpec(str(striped / "train"), str(striped / "test"), k=3))
    apart = {"checkpoint", "seconds", "in_training"}
    assert {k: v for k, v in found[-1].items() if k not in apart} == {k: v for k, v in after.items() if k not in apart}
    assert not (plain / "probes.jsonl").exists()


def test_a_probe_sees_the_model_in_eval_mode_and_leaves_it_as_it_was(asked, tmp_path):
    config, seen = asked(), []
    model = MAE.from_config(config).train()
    model.encoder.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    probes = ProbesDuring(**config.train.probe.model_dump())
    probes.open(model, config, tmp_path, 0)
    with aside(model):
        scores = probes(0)
        assert probes(0) == {}  # once is enough
    probes.close()
    assert scores.keys() == {"linear", "knn"} and all(0 <= score <= 1 for score in scores.values())
    assert seen and not any(seen) and model.training and len(rows(tmp_path / "probes.jsonl")) == 1


def test_a_run_that_goes_on_has_each_row_once_and_the_same(asked, tmp_path):
    run = train(asked(), tmp_path / "run")
    whole = rows(run / "probes.jsonl")
    before = losses(run)
    shutil.rmtree(run / "checkpoints" / "step-00000012")  # as if killed between steps 8 and 12
    train(asked(), tmp_path / "run")
    again = rows(run / "probes.jsonl")
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in whole]
    assert losses(run) == before
    train(asked(False), tmp_path / "run")  # to probe or not may change


def test_what_cannot_be_probed_is_refused_before_the_first_step(asked, photos, tmp_path):
    for more, said in (
        ({"test": str(photos)}, r"train\.probe\.test .*no labels"),
        ({"train": str(tmp_path / "nowhere")}, "nowhere"),
        ({"modality": "imag"}, r"train\.probe\.modality 'imag', did you mean|did you mean 'image'"),
    ):
        with pytest.raises(UserError, match=said):
            train(asked(**more), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(UserError, match=r"train\.probe\.evry"):
        asked(evry=3)


def test_a_probe_is_the_observer_of_its_name_and_is_named_once(asked, striped, tmp_path):
    spec = asked().train.probe.model_dump()
    as_observer = configured(asked(False), None, [f"train.observe=[{json.dumps({'name': 'probe', **spec})}]"], None)
    short, long = train(asked(), tmp_path / "short"), train(as_observer, tmp_path / "long")
    apart = {"checkpoint", "seconds"}
    one, other = (
        [{k: v for k, v in row.items() if k not in apart} for row in rows(run / "probes.jsonl")]
        for run in (short, long)
    )
    assert one == other and len(one) == 4
    with pytest.raises(UserError, match=r"observe names 'probe' twice \(train.probe is one\)"):
        configured(as_observer, None, [f"train.probe={json.dumps(spec)}"], None)
    wrong = configured(asked(False), None, ["train.observe=[{name: probe, every: 0, train: a, test: b}]"], None)
    with pytest.raises(UserError, match=r"train\.observe: observer 'probe': every: Input should be greater than"):
        train(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "config.yaml").exists()


@pytest.fixture
def of_sets(asked, striped, tmp_path):
    """A run of 3 steps with the sets "old" and "new", of 6 samples each, with such settings beside."""
    for side in ("train", "test"):
        for kind in ("across", "down"):
            (tmp_path / side / kind).mkdir(parents=True)
            for path in sorted((striped / side / kind).iterdir())[:3]:
                shutil.copy(path, tmp_path / side / kind)

    def config(old, new):
        one = {"every": 2, "train": str(tmp_path / "train"), "test": str(tmp_path / "test"), "k": 1}
        sets = json.dumps({"old": one | old, "new": one | new})
        return configured(asked(False), None, ["train.warmup_steps=1", f"train.probe={sets}"], 3)

    return config


def test_sets_have_names_rows_and_steps_of_their_own(of_sets, tmp_path, capfd):
    config = of_sets({}, {"every": 99})
    run = train(config, tmp_path / "run")
    found = rows(run / "probes.jsonl")
    assert [(row["step"], row["set"]) for row in found] == [(0, "old"), (0, "new"), (2, "old"), (3, "old"), (3, "new")]
    assert f"step 2: probe old: linear {found[2]['linear']['accuracy']:.4f}" in capfd.readouterr().err
    (run / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found[:-1]))  # killed between them
    train(config, run)
    assert [{**row, "seconds": 0} for row in rows(run / "probes.jsonl")] == [{**row, "seconds": 0} for row in found]
    page = write_report(run).read_text()
    titles = re.findall(r"<b>([^<]* on (?:old|new), %)</b>", page)
    assert titles[:2] == ["accuracy on old, %", "accuracy on new, %"] and '<td class="">new: test</td>' in page


def test_what_is_logged_of_a_set_has_its_name_and_a_set_that_breaks_stops_no_other(of_sets, tmp_path, capfd):
    config = of_sets({"test": str(tmp_path / "gone")}, {"every": 3})
    (spec,) = config.train.all_observers
    probes = ProbesDuring(**spec.arguments)
    probes.open(MAE.from_config(config).eval(), config, tmp_path, 0)
    assert [step for step in range(6) if probes.due(step, 5)] == [0, 2, 3, 4, 5]
    assert (
        probes.due(3, 5)
        and set(probes(3)) == {"new/linear", "new/knn"}
        and not capfd.readouterr().err.count("no probe")
    )
    assert probes.due(5, 5) and set(probes(5)) == {"new/linear", "new/knn"}
    assert "step 5: no probe of 'old'" in capfd.readouterr().err
    probes.close()


def test_a_set_that_cannot_be_probed_is_refused_by_its_key(of_sets, photos, tmp_path):
    for old, told in (
        ({"test": str(photos)}, r"probe\.old\.test .*no labels"),
        ({"modality": "x"}, "train.probe.old: no mod"),
    ):
        with pytest.raises(UserError, match=told):
            train(of_sets(old, {}), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    one = {"every": 3, "train": "a", "test": "b"}
    for wrong, said in (
        ({"sets": {"old": one}, "every": 3}, "sets have keys of their own"),
        ({"sets": {"old": {"every": 3, "train": "a"}}}, r"^old\.test: Field required"),
        ({"every": 3, "train": "a"}, "^test: Field required"),
    ):
        with pytest.raises(ValueError, match=said):
            ProbesDuring(**wrong)


def test_a_source_that_vanishes_is_a_warning_and_training_goes_on(asked, striped, tmp_path, capsys):
    shutil.copytree(striped / "test", tmp_path / "test")
    first = tmp_path / "test" / "down" / "100.png"
    config = asked(test=str(tmp_path / "test"))
    first.write_bytes(b"no picture")
    run = train(config, tmp_path / "run")
    assert len(losses(run)) == 12 and rows(run / "probes.jsonl") == []
    assert "no probe" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["clip", "volume"])
def test_clips_and_volumes_are_probed_in_the_same_way(kind, tmp_path):
    if kind == "clip":
        video = pytest.importorskip("av")
        _clips(tmp_path / "data", video)
        modality = {"size": [4, 16, 16], "patch": [2, 8, 8]}
        modality["data"] = {"reader": {"name": "video", "stride": 2}, "augment": {"fixed": [0], "flip": []}}
    else:
        _volumes(tmp_path / "data")
        reader = {"name": "volume", "intensity": "percentile"}
        modality = {"size": [8, 16, 16], "patch": [4, 8, 8], "channels": 1}
        modality["data"] = {"reader": reader, "augment": {"fixed": [0, 1, 2], "flip": []}}
    modality["data"]["path"] = str(tmp_path / "data" / "train")
    spec = {"every": 2, "train": str(tmp_path / "data" / "train"), "test": str(tmp_path / "data" / "test"), "k": 1}
    steps = {"steps": 2, "workers": 0, "precision": "fp32", "tensorboard": False, "device": "cpu"}
    model = {"width": 24, "depth": 1, "heads": 2, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    runs = [
        train(
            parse_config({"modalities": {kind: {**modality, "batch": 2}}, "model": model, "train": {**steps, **more}}),
            tmp_path / name,
        )
        for name, more in (("probed", {"probe": spec}), ("plain", {}))
    ]
    assert losses(runs[0]) == losses(runs[1])
    found = rows(runs[0] / "probes.jsonl")
    assert [row["step"] for row in found] == [0, 2] and found[-1]["n_test"] == 4


def _clips(root: Path, av) -> None:
    for part, count in (("train", 3), ("test", 2)):
        for name, shade in (("dark", 40), ("light", 200)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                with av.open(str(root / part / name / f"{i}.mp4"), "w") as file:
                    stream = file.add_stream("libx264", rate=8)
                    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
                    for t in range(8):
                        frame = np.full((32, 32, 3), shade + 3 * t + i, np.uint8)
                        file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                    file.mux(stream.encode())


def _volumes(root: Path) -> None:
    nib = pytest.importorskip("nibabel")
    for part, count in (("train", 3), ("test", 2)):
        for name, axis in (("along", 0), ("up", 2)):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                ramp = np.moveaxis(np.broadcast_to(np.arange(20.0) + i, (20, 20, 20)), 2, axis)
                nib.Nifti1Image(ramp.astype(np.float32), np.eye(4)).to_filename(root / part / name / f"{i}.nii.gz")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_whatever_a_probe_draws_or_meets_the_model_and_the_generator_are_as_they_were(make_config, training, fails):
    """A reader or an embedder of somebody else's may draw from the global generator."""
    model, state = MAE(make_config()).train(training), torch.get_rng_state()
    with contextlib.suppress(UserError), aside(model):
        assert not model.training
        torch.rand(5)
        if fails:
            raise UserError("of a source")
    assert model.training == training and torch.equal(torch.get_rng_state(), state)
