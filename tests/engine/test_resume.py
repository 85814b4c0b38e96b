"""A run goes on exactly where it stopped, and only as the run that it was (FAULTS R10)."""

import json
import shutil

import pytest
import torch
from faults.kills import rows, trajectory

from mae_ext.cli import run
from mae_ext.config import load_config
from mae_ext.engine import checkpoint
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import Journal
from mae_ext.engine.record import Clock, Record
from mae_ext.engine.resume import Standing
from mae_ext.engine.run import assembled
from mae_ext.engine.step import Taken
from mae_ext.engine.stop import StopFlag
from mae_ext.engine.task import task_of


@pytest.fixture
def half(tiny, photos, tmp_path_factory):
    """A run of 40 steps of which the second half is missing; -> (config, folder, what the whole run logged)."""
    config, out = tiny({"train.steps": 40}), tmp_path_factory.mktemp("half") / "run"
    assert run(["pretrain", str(config), "--data", str(photos), "--out", str(out)]) == 0
    whole = trajectory(out)
    shutil.rmtree(out / "checkpoints" / "step-00000040")
    return config, out, whole


@pytest.fixture
def go_on(half, photos, capfd):
    def go(*more, config=half[0], data=photos):
        capfd.readouterr()
        code = run(["pretrain", str(config), "--data", str(data), "--out", str(half[1]), *more])
        said = capfd.readouterr().err
        assert "Traceback" not in said
        return code, said

    return go


def test_going_on_repeats_the_missing_half_bit_for_bit(half, go_on):
    assert go_on()[0] == 0
    assert trajectory(half[1]) == half[2]


@pytest.mark.parametrize(
    "free",
    ["train.workers=2", "train.save_every=7", "train.keep=5", "train.prefetch=5", "train.worker_timeout=9",
     "train.tensorboard=true", "train.device=auto", "train.log_every=3"],
)  # fmt: skip
def test_what_changes_no_sample_and_no_update_may_change(half, go_on, free):
    assert go_on("--set", free)[0] == 0
    assert trajectory(half[1]) == half[2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("seed=4", "seed: 3 -> 4"),
        ("modalities.image.batch=16", "modalities.image.batch: 8 -> 16"),
        ("train.lr=0.1", "train.lr: 0.01 -> 0.1"),
        ("train.steps=50", "train.steps: 40 -> 50"),
        ("train.precision=bf16", "train.precision: fp32 -> bf16"),
        ("train.clip=0.5", "train.clip: 1.0 -> 0.5"),
        ("modalities.image.mask.ratio=0.5", "modalities.image.mask.ratio: 0.75 -> 0.5"),
        ("modalities.image.data.augment.flip=[]", "modalities.image.data.augment.flip: [-1] -> []"),
        ("model.width=48", "model.width: 32 -> 48"),
    ],
)
def test_a_changed_setting_is_refused_by_name_and_nothing_is_touched(half, go_on, change, told):
    before = {p: p.read_bytes() for p in half[1].rglob("*") if p.is_file() and p.name != ".lock"}
    code, said = go_on("--set", change)
    assert code == 2
    assert len(said.splitlines()) == 1 and told in said and "--allow-change" in said and "another --out" in said
    assert {p: p.read_bytes() for p in half[1].rglob("*") if p.is_file() and p.name != ".lock"} == before


@pytest.mark.parametrize("change", ["seed=4", "modalities.image.batch=16", "train.lr=0.1", "train.steps=30"])
def test_allow_change_goes_on_with_the_new_setting(half, go_on, change):
    code, said = go_on("--set", change, "--allow-change")
    assert code == 0 and "going on from step 20" in said
    now = trajectory(half[1])
    assert now[:20] == half[2][:20]
    assert now[20:] != half[2][20 : len(now)]


GIVEN = "modalities.image.data.statistics={mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (GIVEN, "modalities.image.data.statistics.mean: ["),
        ("modalities.image.data.statistics=imagenet", "-> [0.485, 0.456, 0.406]"),
        ("modalities.image.data.statistics=none", "-> [0.0, 0.0, 0.0]"),
    ],
)
def test_other_statistics_than_those_that_were_measured_are_refused_and_used_where_they_are_allowed(
    half, go_on, change, told
):
    code, said = go_on("--set", change)
    assert code == 2 and told in said and "--allow-change" in said
    assert go_on("--set", change, "--allow-change")[0] == 0
    now = checkpoint.load_run(half[1])
    wanted = {"imagenet": 0.485, "none": 0.0}.get(change.rpartition("=")[2], 0.5)
    assert now.model.modality().mean[0].item() == pytest.approx(wanted)
    assert now.config.modalities["image"].data.statistics.mean[0] == wanted
    assert trajectory(half[1])[:20] == half[2][:20] and trajectory(half[1])[20:] != half[2][20:]


def test_statistics_that_were_given_are_not_measured_without_a_word_in_the_run_that_goes_on(
    tiny, photos, tmp_path, capfd
):
    config = tiny({"train.steps": 4, "train.warmup_steps": 1, "train.save_every": 2})
    start = ["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "run")]
    assert run([*start, "--set", "modalities.image.data.statistics=imagenet"]) == 0
    capfd.readouterr()
    assert run(start) == 2
    assert "modalities.image.data.statistics: imagenet -> measured" in capfd.readouterr().err
    assert run([*start, "--allow-change", "--steps", "6"]) == 0
    measured = checkpoint.load_run(tmp_path / "run").model.modality().mean
    assert not torch.allclose(measured, torch.tensor([0.485, 0.456, 0.406]), atol=1e-3)
    # From then on they are the run's; also its own config, which has them as numbers, says the same.
    assert run([*start, "--steps", "6"]) == 0
    assert run(["pretrain", str(tmp_path / "run" / "config.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert run([*start, "--steps", "6"]) == 0


def test_fewer_steps_than_are_done_is_no_error_and_no_step(half, go_on):
    code, said = go_on("--set", "train.steps=10", "--allow-change")
    assert code == 0, said


@pytest.mark.parametrize(
    "change", ["model.width=48", "model.depth=3", "modalities.image.patch=[8,8]", "model.class_token=false"]
)
def test_another_architecture_is_refused_also_with_allow_change(half, go_on, change):
    code, said = go_on("--set", change, "--allow-change")
    assert code == 2
    assert len([line for line in said.splitlines() if line.startswith("mae-ext: ")]) == 1
    assert "of another architecture" in said


def test_a_changed_list_of_files_is_refused_and_a_folder_that_moved_is_not(half, go_on, photos, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    (moved / "00.png").rename(moved / "99.png")
    code, said = go_on(data=moved)
    assert code == 2 and "files of image: 40 files, " in said
    (moved / "99.png").rename(moved / "00.png")
    assert go_on(data=moved)[0] == 0
    assert trajectory(half[1]) == half[2]


def test_a_list_of_other_files_is_refused_and_one_of_files_that_moved_is_not(tiny, photos, tmp_path, capfd):
    moved = tmp_path / "another" / "folder"
    shutil.copytree(photos, moved)
    names = sorted(p.name for p in photos.iterdir())

    def start(name, folder, files):
        path = tmp_path / name
        path.write_text("".join(f"{folder / file}\n" for file in files))
        capfd.readouterr()
        code = run(["pretrain", str(config), "--data", str(path), "--out", str(tmp_path / "run")])
        return code, capfd.readouterr().err

    config = tiny({"train.steps": 4})
    assert start("files.txt", photos, names[:20])[0] == 0
    code, said = start("a_list_with_a_longer_name.txt", photos, [*names[:19], names[30]])
    assert code == 2 and "files of image: 20 files, " in said
    code, said = start("the_same_in_another_order.txt", photos, names[19::-1])
    assert code == 2 and "files of image: 20 files, " in said
    assert start("moved.txt", moved, names[:20])[0] == 0


@pytest.mark.usefixtures("faulty")
def test_another_version_of_a_plug_in_is_refused_by_name(tiny, photos, tmp_path, faulty, capfd):
    reader = {"name": "faulty", "fault": "bad", "match": "nothing"}
    config = tiny({"train.steps": 4, "modalities.image.data.reader": reader})
    start = ["pretrain", str(config), "--data", str(photos), "--out", str(tmp_path / "run")]
    assert run(start) == 0
    metadata = faulty / "faulty_reader-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "2.0"))
    capfd.readouterr()
    assert run(start) == 2
    assert "plug-in image.data.reader faulty: faulty-reader 1.0 -> faulty-reader 2.0" in capfd.readouterr().err
    assert run([*start, "--allow-change"]) == 0


@pytest.mark.usefixtures("faulty")
def test_a_file_that_was_set_aside_stays_so_in_the_run_that_goes_on(tiny, photos, tmp_path):
    reader = {"name": "faulty", "fault": "kill", "match": "07."}
    values = {"train.steps": 20, "train.save_every": 10, "train.workers": 1, "modalities.image.data.reader": reader}
    config, out = tiny(values | {"modalities.image.data.max_bad_fraction": 0.05}), tmp_path / "run"
    start = ["pretrain", str(config), "--data", str(photos), "--out", str(out)]
    assert run(start) == 0
    whole = trajectory(out)
    shutil.rmtree(out / "checkpoints" / "step-00000020")
    # Without workers nothing would protect the run from this file, if it were read again.
    assert run([*start, "--set", "train.workers=0"]) == 0
    assert trajectory(out) == whole
    assert [row["kind"] for row in rows(out / "bad_samples.jsonl")] == ["crashed"]


def test_moments_and_weights_come_back_to_the_bit(half, go_on, tmp_path):
    one = checkpoint.find(half[1] / "checkpoints" / "step-00000020")
    moments = checkpoint.read_tensors(one / "optimizer.safetensors")
    kinds = {name.partition("/")[0] for name in moments}
    assert kinds == {"exp_avg", "exp_avg_sq", "step"}
    assert all(value.item() == 20 for name, value in moments.items() if name.startswith("step/"))
    assert any(value.abs().max() > 0 for name, value in moments.items() if name.startswith("exp_avg/"))
    assert torch.tensor([len(moments)]) % 3 == 0


def test_a_line_that_a_kill_cut_off_is_written_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.30000000000000004}\n{"step": 3, "lo')
    journal = Journal(path, step=2)
    journal.write({"step": 3, "loss": 0.7})
    journal.close()
    assert path.read_text().splitlines() == [
        '{"step": 1, "loss": 0.1}', '{"step": 2, "loss": 0.30000000000000004}', '{"step": 3, "loss": 0.7}',
    ]  # fmt: skip


def test_updates_that_were_skipped_are_counted_from_the_beginning_of_a_run_that_goes_on(tiny, photos, tmp_path):
    config = load_config(tiny({"train.precision": "fp16", "modalities.image.data.path": str(photos)}))
    going_on = assembled(config, task_of(config).data(config), Ranks(0, 1, torch.device("cpu")), Standing(step=4))
    row = {"loss": 1.0, "samples_per_s": 1.0, "data_wait": 0.0, "seconds": 1.0}
    lines = [json.dumps(row | {"step": step, "skipped": skipped}) for step, skipped in enumerate((1, 0, 1, 1, 1), 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    record = Record(going_on, tmp_path, StopFlag())
    assert record.skipped == 3  # the fifth will be made again
    record.clocks[4] = Clock(began=1.0, waited=0.5, stages={}, ended=3.0)
    assert not record.write([Taken(4, [1.0], 2.0, stopping=False, skipped=True, scale=8.0)])
    record.close()
    assert record.skipped == 4 and len(rows(tmp_path / "metrics.jsonl")) == 5
    last = rows(tmp_path / "metrics.jsonl")[-1]
    assert (last["step"], last["seconds"], last["data_wait"], last["samples_per_s"]) == (5, 2.0, 0.5, 4.0)
