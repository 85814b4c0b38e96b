"""A run killed at random moments logs the same bits as one that nobody disturbed (FAULTS R1).

In full, 20 kills of 300 steps, on images in each precision, on clips and on volumes, with a line at the end of each:

    scripts/test -m slow -k kill -s
"""

import json
import threading

import nibabel as nib
import numpy as np
import pytest
import torch
from fault_list.inputs import make_clips, make_scans
from faults.kills import command, finish, run_with_kills, trajectory
from PIL import Image

from mae_ext.config import load_config
from mae_ext.engine import checkpoint
from mae_ext.interop.format import format_of
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE


def undisturbed(config, photos, out):
    done = finish(command(config, photos, out, "--set", "train.workers=0"))
    assert done.returncode == 0, done.stderr
    return trajectory(out)


def check(config, photos, tmp_path, steps, kills, seed):
    reference = undisturbed(config, photos, tmp_path / "reference")
    assert [step for step, _, _ in reference] == list(range(1, steps + 1))
    report = run_with_kills(config, photos, tmp_path / "killed", kills, seed)
    assert trajectory(tmp_path / "killed") == reference
    assert len(report.kills) == kills and max(report.kills) > 0
    return report


def test_a_run_killed_twice_logs_the_bits_of_an_undisturbed_one(photos, tiny, tmp_path):
    config = tiny({"train.steps": 60, "train.save_every": 10})
    check(config, photos, tmp_path, steps=60, kills=2, seed=1)


def check_from_weights(photos, tiny, tmp_path, steps, kills):
    """Another program's weights, which are gone when the first checkpoint is there."""
    config = tiny({"train.steps": steps, "train.save_every": 10})
    loaded = load_config(config)
    origin = Origin(MAE(loaded.model_copy(update={"seed": 99})).state_dict(), loaded, "random")
    file = tmp_path / "theirs.pth"
    torch.save({"model": dict(format_of("mae").write(origin, "image").weights)}, file)
    heads, decoder_heads = loaded.model.heads, loaded.model.decoder.heads
    more = ("--init", f"{file}::heads={heads},decoder_heads={decoder_heads}")
    whole, killed = tmp_path / "reference", tmp_path / "killed"
    done = finish(command(config, photos, whole, "--set", "train.workers=0", *more))
    assert done.returncode == 0, done.stderr
    scratch = finish(command(config, photos, tmp_path / "scratch", "--set", "train.workers=0", "--steps", "1"))
    assert scratch.returncode == 0 and trajectory(tmp_path / "scratch")[0] != trajectory(whole)[0]
    over = threading.Event()

    def removes():
        while not over.wait(0.005):
            if any((killed / "checkpoints").glob("step-*/manifest.json")):
                file.unlink()
                return

    watcher = threading.Thread(target=removes)
    watcher.start()
    try:
        report = run_with_kills(config, photos, killed, kills, seed=7, more=more)
    finally:
        over.set()
        watcher.join()
    assert trajectory(killed) == trajectory(whole) and not file.exists()
    last = f"checkpoints/step-{steps:08d}/model.safetensors"
    assert (killed / last).read_bytes() == (whole / last).read_bytes()
    return report


def test_a_run_from_other_programs_weights_killed_twice_needs_them_no_more(photos, tiny, tmp_path):
    check_from_weights(photos, tiny, tmp_path, steps=40, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_kills_of_a_run_from_other_programs_weights_change_no_bit(photos, tiny, tmp_path):
    report = check_from_weights(photos, tiny, tmp_path, steps=300, kills=5)
    print(f"\nfrom weights: 5 SIGKILLs after steps {report.kills}: 300 of 300 losses identical, {report.seconds:.0f} s")


def test_a_killed_run_has_the_held_out_losses_and_the_best_checkpoint_of_an_undisturbed_one(striped, tiny, tmp_path):
    values = {"steps": 40, "save_every": 20, "evaluate_every": 5, "keep_best": True, "lr": 0.5}
    config, runs = tiny({f"train.{key}": value for key, value in values.items()}), []
    more = ("--test", str(striped / "test"))
    done = finish(command(config, striped / "train", tmp_path / "whole", "--set", "train.workers=0", *more))
    assert done.returncode == 0, done.stderr
    run_with_kills(config, striped / "train", tmp_path / "killed", 1, seed=5, more=more)
    for run in (tmp_path / "whole", tmp_path / "killed"):
        files = [(run / name).read_bytes() for name in ("evaluations.jsonl", "best.json")]
        runs.append([trajectory(run), *files, [path.name for path in checkpoint.steps_of(run / "checkpoints")]])
        checkpoint.best(run)
    assert runs[0] == runs[1] and runs[0][2] and len(runs[0][3]) >= 2


CLASSIFY = {
    "task": {"name": "classify", "smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "distort": 2, "erase": 0.25},
    "train.layer_decay": 0.75, "train.evaluate_every": 10,
}  # fmt: skip


def check_fine_tuning(config, train, test, tmp_path, kills):
    """With everything that draws numbers: losses and scores of the killed run are those of an undisturbed one."""
    more, whole, killed = ("--init", "none", "--test", str(test)), tmp_path / "reference", tmp_path / "killed"
    done = finish(command(config, train, whole, "--set", "train.workers=0", *more, verb="finetune"))
    assert done.returncode == 0, done.stderr
    report = run_with_kills(config, train, killed, kills, seed=4, more=more, verb="finetune")
    assert trajectory(killed) == trajectory(whole) and len(trajectory(whole)) > 0
    scores = (whole / "evaluations.jsonl").read_bytes()
    assert scores and (killed / "evaluations.jsonl").read_bytes() == scores
    return report


def test_a_fine_tuning_killed_twice_logs_and_scores_the_bits_of_an_undisturbed_one(striped, tiny, tmp_path):
    config = tiny(CLASSIFY | {"train.steps": 40, "train.save_every": 10})
    check_fine_tuning(config, striped / "train", striped / "test", tmp_path, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_of_a_fine_tuning_change_no_bit(striped, tiny, tmp_path):
    config = tiny(CLASSIFY | {"train.steps": 300, "train.save_every": 20})
    report = check_fine_tuning(config, striped / "train", striped / "test", tmp_path, kills=20)
    print(f"\nfine-tuning: 20 SIGKILLs after steps {report.kills}: 300 of 300 losses identical, {report.seconds:.0f} s")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_kills_of_a_segmentation_change_no_bit(scans, tiny, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in scans.iterdir():
        scan = nib.load(path)
        bright = (np.asarray(scan.dataobj) > 200).astype(np.uint8)
        nib.Nifti1Image(bright, scan.affine).to_filename(masks / path.name)
    lists = [tmp_path / "train.txt", tmp_path / "test.txt"]
    for listed, numbers in zip(lists, (range(8), (8, 9)), strict=True):
        listed.write_text("".join(f"{scans / f'{n}.nii.gz'}\n" for n in numbers))
    task = {"name": "segment", "classes": ["ball"], "masks": str(masks), "head": "linear", "distort": 1}
    config = tiny(
        {"modalities": {"volume": {k: v for k, v in SCANS.items() if k not in ("mask", "target")}}, "task": task,
         "train.steps": 60, "train.save_every": 10, "train.evaluate_every": 20}
    )  # fmt: skip
    report = check_fine_tuning(config, *lists, tmp_path, kills=5)
    print(f"\nsegmentation: 5 SIGKILLs after steps {report.kills}: 60 of 60 losses identical, {report.seconds:.0f} s")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_kills_of_a_detection_change_no_bit(tiny, tmp_path):
    pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")
    images, boxes = [], []
    for number in range(10):
        left, top, side = 3 * number, 2 * number, 12 + number % 5
        pixels = np.random.default_rng(number).integers(100, 140, (48, 64, 3), dtype=np.uint8)
        pixels[top : top + side, left : left + side] = 230
        folder = tmp_path / ("train" if number < 8 else "test")
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
        boxes.append({"image_id": number, "category_id": 1, "bbox": [left, top, side, side]})
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "square"}]}))
    config = tiny(
        {"modalities.image": {"size": [48, 64], "patch": [8, 8], "batch": 4, "data": {"augment": {"scale": [0.6, 1]}}},
         "task": {"name": "detect", "labels": str(labels), "channels": 16, "depth": 1, "strides": [4, 8], "distort": 1},
         "train.steps": 60, "train.save_every": 10, "train.evaluate_every": 20}
    )  # fmt: skip
    report = check_fine_tuning(config, tmp_path / "train", tmp_path / "test", tmp_path, kills=5)
    print(f"\ndetection: 5 SIGKILLs after steps {report.kills}: 60 of 60 losses identical, {report.seconds:.0f} s")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_kills_of_a_start_with_all_that_pretraining_can_have_change_no_bit(photos, tiny, tmp_path):
    first = tmp_path / "first"
    done = finish(command(tiny({"train.steps": 2}), photos, first))
    assert done.returncode == 0, done.stderr
    config = tiny(
        {"init": str(first),
         "modalities.image.mask": {"name": "block", "ratio": 0.75},
         "modalities.image.data.repeats": 2, "model.decoder.fuse": [1], "init_parts": "encoder",
         "train.uniformity": 0.1, "train.optimizer": "muon", "train.encoder_lr": 0.5, "train.thaw": [0.2, 0.1],
         "train.steps": 60, "train.save_every": 10}
    )  # fmt: skip
    report = check(config, photos, tmp_path, steps=60, kills=5, seed=4)
    print(f"\nall of it: 5 SIGKILLs after steps {report.kills}: 60 of 60 losses identical, {report.seconds:.0f} s")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twenty_kills_of_300_steps_change_no_bit(photos, tiny, tmp_path, precision):
    config = tiny({"train.steps": 300, "train.save_every": 20, "train.precision": precision, "train.tensorboard": True})
    report = check(config, photos, tmp_path, steps=300, kills=20, seed=2)
    print(
        f"\n{precision}: 20 SIGKILLs after steps {report.kills} with {report.workers} workers: "
        f"300 of 300 losses and gradient norms identical, {report.seconds:.0f} s"
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return make_scans(tmp_path_factory.mktemp("scans"))


CLIPS = {
    "size": [4, 16, 16], "patch": [2, 4, 4], "batch": 8, "mask": {"name": "tube", "ratio": 0.75},
    "decode": {"name": "running_cell", "ratio": 0.5},
    "data": {"reader": {"name": "video", "stride": 2}, "repeats": 2, "augment": {"fixed": [0]}},
}  # fmt: skip
SCANS = {
    "size": [8, 16, 16], "patch": [2, 4, 4], "channels": 1, "batch": 8, "mask": {"name": "foreground", "ratio": 0.75},
    "position": {"name": "sincos", "unit": 8.0}, "target": {"name": "pixel", "normalize": "layernorm", "floor": 0.05},
    "data": {
        "reader": {"name": "volume", "spacing": [1.0, 1.0, 1.0], "body": "otsu", "intensity": "percentile"},
        "repeats": 2, "augment": {"fixed": [0, 1, 2], "flip": [2]},
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "modality"), [("clips", {"video": CLIPS}), ("scans", {"volume": SCANS})])
def test_twenty_kills_change_no_bit_of_a_run_on_clips_or_volumes(kind, modality, tiny, tmp_path, request):
    config = tiny({"modalities": modality, "train.steps": 300, "train.save_every": 20})
    report = check(config, request.getfixturevalue(kind), tmp_path, steps=300, kills=20, seed=5)
    print(
        f"\n{kind}: 20 SIGKILLs after steps {report.kills} with {report.workers} workers: "
        f"300 of 300 losses and gradient norms identical, {report.seconds:.0f} s"
    )
