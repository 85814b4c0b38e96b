"""Runs whose samples grow: exact after a stop, planned, compiled, placed, and refused where they mean nothing."""

import json
import shutil

import pytest
import torch
from engine.test_estimate import config as config_of
from faults.kills import trajectory

import mae_ext
from mae_ext.config import load_config, parse_config
from mae_ext.data.batch import Batch
from mae_ext.data.crops import evaluation_sampler
from mae_ext.data.loading.batches import ModalityData
from mae_ext.engine import compiling
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.efficiency import Efficiency
from mae_ext.engine.estimate import describe, modality_estimates
from mae_ext.engine.failure import replay
from mae_ext.engine.held_out import held_out, held_out_losses
from mae_ext.engine.meaning import check_meaning, remarks
from mae_ext.engine.phases import phases
from mae_ext.engine.pretrain import Pretraining
from mae_ext.engine.run import assembled
from mae_ext.engine.start import load_start
from mae_ext.engine.start_config import with_start
from mae_ext.engine.step import Step
from mae_ext.errors import ConfigError, WrongShape
from mae_ext.model.mae import MAE
from mae_ext.model.mask import from_scores
from mae_ext.model.mask_content import ContentMasker
from mae_ext.model.position import SinCos, sincos
from mae_ext.rng import rng
from mae_ext.strict_json import dumps

SIZES = "modalities.image.sizes"
GROWING = [[0, [8, 8]], [0.4, [12, 12]], [0.7, [16, 16]]]
IMAGE = {"size": [16, 16], "patch": [4, 4], "batch": 8, "sizes": GROWING}
ALONE = Ranks(0, 1, torch.device("cpu"))


def test_a_run_that_was_stopped_at_any_size_goes_on_to_the_same_bits(tiny, train, tmp_path):
    values = {
        SIZES: GROWING,
        "train.steps": 10,
        "train.save_every": 1,
        "train.keep": 20,
        "modalities.image.data.repeats": 2,
    }
    values |= {"modalities.image.data.augment": {"distort": 4, "grey": 0.2}, "train.log_every": 1}
    values |= {"modalities.image.mask": {"name": "content", "ratio": 0.5, "unit": [1, 1]}}
    config = tiny(values)
    assert train(config) == 0
    whole = trajectory(tmp_path / "run")
    assert len(whole) == 10
    for step in (3, 8):
        again = tmp_path / f"from {step}"
        shutil.copytree(tmp_path / "run", again)
        for checkpoint in (again / "checkpoints").glob("step-*"):
            if int(checkpoint.name[5:]) > step:
                shutil.rmtree(checkpoint)
        assert train(config, out=again.name) == 0
        assert trajectory(again) == whole


def test_other_sizes_are_another_run(tiny, train, tmp_path, capfd):
    assert train(tiny({SIZES: GROWING, "train.steps": 2})) == 0
    assert train(tiny({SIZES: [[0, [8, 8]], [0.5, [16, 16]]], "train.steps": 2})) == 2
    assert "modalities.image.sizes: " in capfd.readouterr().err


def test_phases_are_shares_of_the_steps_over_all_modalities():
    clip = {"size": [2, 16, 16], "patch": [2, 4, 4], "batch": 4, "sizes": [[0, [2, 8, 8]], [0.5, [2, 16, 16]]]}
    made = phases(config_of(image=IMAGE, clip=clip))
    assert [round(share, 6) for share, _ in made] == [0.4, 0.1, 0.2, 0.3]
    sides = [[m.size[-1] for m in config.modalities.values()] for _, config in made]
    assert sides == [[8, 8], [12, 8], [12, 16], [16, 16]]
    plain = config_of(image={**IMAGE, "sizes": None})
    assert [share for share, _ in phases(plain)] == [1.0]


def test_the_plan_sums_the_sizes_and_its_memory_is_of_the_largest():
    growing, plain = config_of(image=IMAGE), config_of(image={**IMAGE, "sizes": None})
    model, flops = MAE(growing), []
    for side in (8, 12, 16):
        one = growing.modalities["image"].model_copy(update={"size": (side, side)})
        (row,) = modality_estimates(growing.model_copy(update={"modalities": {"image": one}}), model)
        assert row.tokens == (side // 4) ** 2
        flops.append(8 * row.flops)
    text, before = (describe(config, {"image": 80}) for config in (growing, plain))
    assert "8 x 8 from 0% of the steps on, 12 x 12 from 40% of the steps on, 16 x 16 from 70%" in text
    mean = 0.4 * flops[0] + 0.3 * flops[1] + 0.3 * flops[2]
    assert f"({mean / 1e12:.3f} TFLOP, over all sizes)" in text and "over all sizes" not in before
    (memory,) = {line for one in (text, before) for line in one.splitlines() if line.startswith("memory")}
    efficiency = Efficiency(assembled(growing, {}, ALONE))
    rows = [efficiency.row(1.0, step)["tflops"] * 1e12 for step in (0, 39, 40, 69, 70, 99)]
    assert rows == pytest.approx([flops[0], flops[0], flops[1], flops[1], flops[2], flops[2]])
    assert efficiency.steps == 100 and memory


def test_a_token_of_a_smaller_grid_stands_in_the_middle_of_those_that_it_covers():
    small = MAE(config_of(image=IMAGE)).modality()
    place = small.placed(small.position, torch.tensor([[0, 1, 2, 3]]), None, (2, 2))
    middles = torch.tensor([[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]])
    torch.testing.assert_close(place[0], sincos(middles, 24))
    own = small.placed(small.position, torch.arange(16)[None], None, (4, 4))
    assert torch.equal(own[0], SinCos((4, 4), 24).table)  # at the last size nothing is different


def test_one_graph_is_made_for_each_size_and_no_more(monkeypatch):
    made = []
    monkeypatch.setattr(compiling, "BACKEND", lambda graph, inputs: made.append(graph) or graph.forward)
    torch._dynamo.reset()
    small = {"width": 8, "depth": 1, "heads": 1, "decoder": {"width": 8, "depth": 1, "heads": 1}}
    train = {"steps": 4, "compile": "whole", "precision": "fp32"}
    image = {**IMAGE, "sizes": [[0, [8, 8]], [0.5, [16, 16]]]}
    settings = parse_config({"modalities": {"image": image}, "model": small, "train": train})
    trained = assembled(settings, {}, ALONE)
    take = Step(trained)
    for step in range(4):
        size = settings.modalities["image"].size_at(step, 4)
        x = torch.rand(8, 3, *size, generator=rng(step))
        mask = trained.model.modality().draw_mask([rng(step, slot) for slot in range(8)], tuple(s // 4 for s in size))
        take(step, [{"image": Batch(x, mask)}], stop=False)
        assert len(made) == 1 + (step >= 2)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([], "at least 1 item"),
        ([[0.1, [16, 16]]], "shares of the steps begin at 0 and rise, below 1, and 0.1 does not"),
        ([[0, [8, 8]], [0, [16, 16]]], "begin at 0 and rise, below 1, and 0 does not"),
        ([[0, [8, 8]], [1, [16, 16]]], "begin at 0 and rise, below 1, and 1 does not"),
        ([[0, [16, 16]], [0.5, [8, 8]]], "sizes: the last is [8, 8]; expected size=[16, 16]"),
        ([[0, [32, 32]], [0.5, [16, 16]]], "sizes: [32, 32] is larger than size=[16, 16]"),
        ([[0, [10, 8]], [0.5, [16, 16]]], "size [10, 8] is not a multiple of patch [4, 4] on axis 0"),
        ([[0, [4, 4]], [0.5, [16, 16]]], "keeps none of 1 tokens; it may be at most 0 (at [4, 4] of sizes)"),
    ],
)
def test_sizes_that_cannot_be_are_refused_by_name(tiny, sizes, told):
    with pytest.raises(ConfigError) as refused:
        load_config(tiny({SIZES: sizes}))
    assert "modalities.image" in str(refused.value) and told in str(refused.value)


def test_positions_and_embedders_of_one_size_are_refused_by_name(tiny, monkeypatch):
    with pytest.raises(ConfigError, match=r"modalities\.image\.sizes: positions of 'sequence'"):
        load_config(tiny({SIZES: GROWING, "modalities.image.position": "sequence"}))
    monkeypatch.setattr(SinCos, "any_size", False)
    with pytest.raises(WrongShape, match=r"SinCos is of size \[16, 16\] alone; leave modalities\.image\.sizes out"):
        MAE(load_config(tiny({SIZES: GROWING})))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({SIZES: GROWING}, "modalities.image.sizes is of pretraining, and the task is classify"),
        ({"modalities.image.data.augment": {"distort": 2}}, "distort and grey are of pretraining, and the task is"),
        ({"modalities.image.data.augment": {"grey": 0.2}}, "set them to 0, and see task.distort"),
    ],
)
def test_what_is_of_pretraining_is_refused_of_a_task(tiny, values, told):
    with pytest.raises(ConfigError, match=told):
        check_meaning(load_config(tiny({"task": "classify", **values})))


def test_a_strength_without_an_operation_and_grey_without_colours_are_said_to_do_nothing(tiny):
    grey = {"modalities.image.channels": 1, "modalities.image.data.augment": {"grey": 0.2}}
    (said,) = remarks(load_config(tiny(grey)), 60, 10)
    assert said.endswith("data.augment.grey=0.2 has no effect: it is of RGB, and channels is 1")
    config = load_config(tiny({"modalities.image.data.augment": {"strength": 0.9}}))
    assert "modalities.image.data.augment.strength=0.9 has no effect: data.augment.distort is 0" in remarks(
        config, 60, 10
    )


@pytest.mark.parametrize("fits", [False, True])
def test_a_task_takes_over_the_places_of_a_run_that_grew_and_not_its_jitter(make_run, fits):
    sizes = [[0, [16, 8]], [0.5, [24, 16]]]
    trained = make_run(sizes=sizes, data={"augment": {"distort": 4, "grey": 0.2, "flip": [0]}})
    values = {"task": "classify", "modalities": {"image": {"batch": 4}}, "train": {"steps": 5}, "init_fit": fits}
    (image,) = with_start(values, "config", trained).modalities.values()
    assert image.sizes is None and image.position.arguments == {"span": [3, 4]}
    augment = image.data.augment
    assert (augment.distort, augment.grey, augment.flip) == (0, 0.0, (0,))
    check_meaning(with_start(values, "config", trained))


@pytest.mark.usefixtures("faulty")
def test_a_step_that_failed_while_samples_were_small_is_replayed_as_small(tiny, train, tmp_path):
    reader = {"name": "faulty", "fault": "nan", "match": "11."}
    image = {"modalities.image.data.statistics": "none", "modalities.image.data.reader": reader, SIZES: GROWING}
    assert train(tiny(image)) == 1
    (failure,) = (tmp_path / "run").glob("failure-*")
    record = json.loads((failure / "record.json").read_text())
    assert record["step"] < 24  # of 60, so still 8 x 8
    assert json.loads(dumps(replay(failure))) == {key: value for key, value in record.items() if key != "files"}


def test_held_out_samples_are_masked_by_what_they_hold_at_their_full_size(tiny, photos):
    masker = {"name": "content", "ratio": 0.75, "mix": 0.3, "keep": "low"}
    paths = {"path": str(photos), "test": str(photos), "statistics": "none"}
    config = load_config(tiny({"modalities.image.mask": masker, "modalities.image.data": paths, SIZES: GROWING}))
    image = config.modalities["image"]
    data, model, losses = ModalityData(3, "image", image, held_out=held_out(config)["image"]), MAE(config).eval(), []
    crop = evaluation_sampler(image.data.augment, image.size)
    for index, address in enumerate(data.held_out.listed.addresses):
        (sample,) = data.reader.read(address, [crop])
        content = ContentMasker().content_of(sample.x.float() / 255, (4, 4))
        scores = ContentMasker(**{k: v for k, v in masker.items() if k != "name"}).scores(
            (4, 4), rng(3, "held-out", "image", index), None, content
        )
        losses.append(model(sample.x[None], from_scores(scores[None], 4)).item())
    assert len(losses) == 40
    judged = held_out_losses(Pretraining().loss, model, config, {"image": data}, ALONE)
    assert judged["loss"] == pytest.approx(sum(losses) / 40, rel=1e-5)


def test_weights_of_a_run_that_grew_are_those_of_a_model_of_one_size_with_its_places(make_run):
    sizes = [[0, [16, 8]], [0.5, [24, 16]]]
    trained = make_run(sizes=sizes)
    values = {"seed": 5, "modalities": {"image": {"batch": 4}}, "train": {"steps": 5}}
    config = with_start(values, "config", trained)
    model = MAE(config)
    report = load_start(model, config)
    assert report.count("taken") == len(report.rows) > 0
    x = torch.rand(2, 3, 16, 8, generator=rng(0, "x"))
    encoded = mae_ext.load_encoder(trained).model.encode(x)  # by the blocks of a CPU
    torch.testing.assert_close(model.eval().encode(x), encoded, rtol=1e-5, atol=1e-5)
