"""Detection as a task: from images and label files to a trained model, its scores, and what it writes."""

import json
import shutil

import numpy as np
import pytest
import torch
from counted_reads import bytes_read
from PIL import Image

from mae_ext.config import AugmentConfig, parse_config
from mae_ext.data.crops import crop_sampler
from mae_ext.data.image.boxes import BoxTable
from mae_ext.data.plan import Key
from mae_ext.data.sample import Crop
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.task import build_model, task_of
from mae_ext.engine.train import train
from mae_ext.errors import BadSample, ConfigError, RunError, UserError
from mae_ext.model.mae import MAE
from mae_ext.rng import rng
from mae_ext.tasks.detect.fcos import Answers
from mae_ext.tasks.detect.task import NO_OBJECT, BoxExamples, Detection, Detector, check_scale

pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")

KEY = Key(0, 0, 0, 0, 0)
COLOUR = {"bright": 230, "dark": 20}


def square(number):
    """(left, top, side, name): where the only object of a picture of 64x48 (width x height) is."""
    chance = np.random.default_rng(number)
    side = int(chance.integers(12, 24))
    left, top = int(chance.integers(0, 64 - side)), int(chance.integers(0, 48 - side))
    return left, top, side, ("bright", "dark")[number % 2]


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """train/ and test/ with a square on grey in each picture, and labels.json, COCO's, for both."""
    root, images, annotations = tmp_path_factory.mktemp("squares"), [], []
    for split, numbers in (("train", range(8)), ("test", range(50, 54))):
        (root / split).mkdir()
        for number in numbers:
            left, top, side, name = square(number)
            pixels = np.random.default_rng(number).integers(110, 140, (48, 64, 3), dtype=np.uint8)
            pixels[top : top + side, left : left + side] = COLOUR[name]
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 48})
            box = [left, top, side, side]
            annotations.append({"image_id": number, "category_id": 1 + (name == "dark"), "bbox": box})
    categories = [{"id": 1, "name": "bright"}, {"id": 2, "name": "dark"}]
    labels = {"images": images, "annotations": annotations, "categories": categories}
    (root / "labels.json").write_text(json.dumps(labels))
    return root


@pytest.fixture
def make(squares):
    """Arguments of the task and overrides of the modality and the training -> a config."""

    def config(task=None, train=None, **image):
        data = {
            "path": str(squares / "train"), "test": str(squares / "test"), "augment": {"scale": [0.6, 1.0]},
            "statistics": {"mean": [0.5] * 3, "std": [0.25] * 3},
        }  # fmt: skip
        small = {"labels": str(squares / "labels.json"), "channels": 16, "depth": 1, "strides": [4, 8]}
        return parse_config({
            "task": {"name": "detect", **small, **(task or {})},
            "modalities": {"image": {"size": [48, 64], "patch": [8, 8], "batch": 4, "data": data, **image}},
            "model": {"width": 32, "depth": 1, "heads": 2},
            "train": {"steps": 4, "workers": 0, "precision": "fp32", "device": "cpu", **(train or {})},
        })  # fmt: skip

    return config


@pytest.fixture
def settled(make):
    """The same, with the classes of the data; and the data."""

    def settle(**overrides):
        config = make(**overrides)
        data = task_of(config).data(config)
        return task_of(config).settle(config, data, None), data

    return settle


ALONE = Ranks(0, 1, torch.device("cpu"))


def test_a_sample_has_its_boxes_where_its_pixels_are(settled):
    config, data = settled()
    batch = data["image"].batch(0)
    assert config.task.arguments["classes"] == ["bright", "dark"]
    assert {k: tuple(v.shape) for k, v in batch.targets.items()} == {
        "boxes": (4, 1, 4), "labels": (4, 1), "ignored": (4, 1),
    }  # fmt: skip
    for x, boxes, labels in zip(batch.x.float(), batch.targets["boxes"], batch.targets["labels"], strict=True):
        for box, label in zip(boxes, labels, strict=True):
            if label == NO_OBJECT:
                continue
            left, top, right, bottom = box.round().int().tolist()
            inside = x[:, top + 2 : bottom - 2, left + 2 : right - 2]
            wanted = list(COLOUR.values())[label]
            assert inside.numel() == 0 or (inside - wanted).abs().mean() < 12


def test_objects_that_a_crop_shows_too_little_of_are_ignored_and_those_outside_are_gone(settled):
    _, data = settled()
    examples = data["image"].examples
    left, _, side, _ = square(0)
    width = {"most": side, "little": 2, "nothing": -2}
    for shown, columns in width.items():
        cut = left + columns
        if not 4 < cut < 64:
            continue
        (sample,) = examples.read(0, [KEY], [lambda extent, cut=cut: Crop((0, 0), (48, cut), (False, False))])
        labels, ignored = sample.targets["labels"].tolist(), sample.targets["ignored"].tolist()
        expected = {"most": ([0], [False]), "little": ([0], [True]), "nothing": ([NO_OBJECT], [False])}
        assert (labels, ignored) == expected[shown]


def test_distortion_changes_values_and_no_box_and_is_the_same_every_time(settled):
    (plain, distorted, again) = (settled(task={"distort": n})[1]["image"].batch(0) for n in (0, 2, 2))
    assert all(torch.equal(plain.targets[name], distorted.targets[name]) for name in plain.targets)
    assert not torch.equal(plain.x, distorted.x) and torch.equal(distorted.x, again.x)


def test_an_image_of_another_size_than_its_labels_say_is_a_bad_sample(settled, squares, tmp_path):
    labels = json.loads((squares / "labels.json").read_text())
    labels["images"][0]["width"] = 65
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    _, data = settled(task={"labels": str(tmp_path / "labels.json")})
    with pytest.raises(BadSample, match="labels of another size"):
        data["image"].examples.read(0, [KEY], [lambda extent: Crop((0, 0), extent, (False, False))])


def test_answers_cover_every_place_and_every_parameter_is_trained(settled):
    config, data = settled()
    model = build_model(config)
    assert isinstance(model, Detector) and isinstance(model.backbone, MAE)
    answers = model(data["image"].batch(0).x, "image")
    assert answers.logits.shape == (4, 12 * 16 + 6 * 8, 2)
    task_of(config).loss(model, "image", data["image"].batch(0)).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None and "class_token" not in name]


def test_the_loss_of_a_batch_is_the_mean_of_its_parts(settled):
    config, data = settled()
    model, task, batch = build_model(config), task_of(config), data["image"].batch(1)
    with torch.no_grad():
        whole = task.loss(model, "image", batch)
        parts = [task.loss(model, "image", batch.rows(i, i + 1)) for i in range(4)]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_the_model_is_a_function_of_the_config(settled):
    config, _ = settled()
    one, other = build_model(config).state_dict(), build_model(config).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_is_built_without_the_data_at_hand(make):
    """A checkpoint holds the classes; the label file may be gone."""
    config = make(task={"labels": "gone.json", "classes": ["a", "b", "c"]})
    assert build_model(config).head.classify.out_channels == 3


def test_evaluation_gives_scores_for_each_class_and_changes_nothing(settled):
    config, _ = settled()
    model = build_model(config).eval()
    with torch.no_grad():
        torch.nn.init.constant_(model.head.classify.bias, 1.0)
        one, other = (task_of(config).evaluate(model, config, task_of(config).data(config), ALONE) for _ in range(2))
    assert set(one) == {"mAP", "mAP50", "AP/bright", "AP50/bright", "AP/dark", "AP50/dark"} and one == other
    assert all(0 <= value <= 1 for value in one.values())


def test_an_image_is_read_once_to_be_judged_and_twice_to_be_answered_and_drawn(settled, squares, tmp_path, monkeypatch):
    config, _ = settled()
    model, path = build_model(config).eval(), squares / "test" / "50.png"
    with torch.no_grad(), bytes_read(monkeypatch) as of:
        task_of(config).evaluate(model, config, task_of(config).data(config), ALONE)
    assert of(path) == path.stat().st_size
    with torch.no_grad(), bytes_read(monkeypatch) as of:
        task_of(config).predict(model, config, [str(path)], tmp_path / "out")
    assert of(path) == 2 * path.stat().st_size  # the picture is drawn at the image's own size


@pytest.mark.usefixtures("faulty")
def test_a_reader_that_knows_no_extent_gives_the_same_boxes(make):
    """Its crop samplers are asked what they answered, where the samples of other readers say it."""
    faulty = {"name": "faulty", "fault": "bad", "match": "none is called so"}
    config = make()
    data = config.modalities["image"].data.model_dump(include={"path", "augment", "statistics"})
    other = make(data=data | {"reader": faulty})
    keys, crop = [Key(0, 0, 0, 0, 0)], crop_sampler(config.modalities["image"].data.augment, (48, 64), rng(0))
    (one,), (same,) = (task_of(c).data(c)["image"].examples.read(3, keys, [crop]) for c in (config, other))
    assert torch.equal(one.x, same.x) and (one.box, one.extent) == (same.box, same.extent)
    assert torch.equal(one.targets["boxes"], same.targets["boxes"]) and one.targets["labels"].max() >= 0


def test_without_test_data_there_is_nothing_to_evaluate(settled, squares):
    labels = json.loads((squares / "labels.json").read_text())
    labels["images"] = [row for row in labels["images"] if row["id"] < 50]
    labels["annotations"] = [row for row in labels["annotations"] if row["image_id"] < 50]
    (squares / "train.json").write_text(json.dumps(labels))
    data = {"path": str(squares / "train"), "statistics": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    config, _ = settled(task={"labels": str(squares / "train.json")}, data=data)
    assert task_of(config).evaluate(build_model(config), config, task_of(config).data(config), ALONE) == {}


def test_predictions_are_coco_with_scores_and_a_picture_of_each_image(settled, squares, tmp_path):
    config, _ = settled(task={"shown": 0.0})
    model = build_model(config).eval()
    with torch.no_grad():
        torch.nn.init.constant_(model.head.classify.bias, 1.0)
        written = task_of(config).predict(model, config, [str(squares / "test")], tmp_path / "out")
    assert [path.name for path in written] == ["detections.json", "50.png", "51.png", "52.png", "53.png"]
    found = json.loads(written[0].read_text())
    assert [row["name"] for row in found["categories"]] == ["bright", "dark"]
    assert {(row["width"], row["height"]) for row in found["images"]} == {(64, 48)}
    for row in found["annotations"]:
        left, top, width, height = row["bbox"]
        assert min(left, top) >= -0.01 and left + width <= 64.02 and top + height <= 48.02
        assert 0 < row["score"] <= 1 and row["category_id"] in (1, 2)
    assert Image.open(written[1]).size == (64, 48)


def test_predicting_what_cannot_be_read_names_it(settled, tmp_path):
    config, _ = settled()
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(UserError, match=r"none of its 1 images can be read: 1 not an image .*a\.png: begins with"):
        task_of(config).predict(build_model(config), config, [str(tmp_path / "a.png")], tmp_path / "out")


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ({"faulty_boxes": "keep"}, "expected 'refuse' or 'drop'"),
        ({"labels": 0.1}, "labels=0.1: expected a path"),
        ({"channels": 0}, "channels=0"),
        ({"depth": 1.5}, "depth=1.5"),
        ({"threshold": 2}, "threshold=2"),
        ({"chanels": 8}, "did you mean 'channels'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(make, task, fault):
    with pytest.raises(ConfigError, match=fault):
        make(task=task)


def test_data_that_is_not_images_of_two_axes_is_refused(make):
    config = make(size=[2, 48, 64], patch=[2, 8, 8])
    with pytest.raises(ConfigError, match="detect is for images"):
        task_of(config).data(config)


def test_labels_that_are_not_given_are_asked_for(make):
    config = make(task={"labels": None})
    with pytest.raises(UserError, match=r"task\.labels is not set: give --set task\.labels=PATH"):
        task_of(config).data(config)


def test_levels_that_cannot_be_told_apart_are_refused_as_a_setting(settled):
    config, _ = settled(task={"strides": [8, 9]})
    with pytest.raises(ConfigError, match="task: strides="):
        build_model(config)


def test_a_run_that_goes_on_after_a_crash_logs_and_scores_the_bits_of_one_that_did_not_crash(make, tmp_path):
    config = make(train={"steps": 4, "save_every": 2, "evaluate_every": 1, "tensorboard": False})
    train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "crashed")
    shutil.rmtree(tmp_path / "crashed" / "checkpoints" / "step-00000004")
    train(config, tmp_path / "crashed")

    def told(run):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [(row["step"], row["loss"], row["grad_norm"]) for row in rows], (run / "evaluations.jsonl").read_text()

    assert told(tmp_path / "crashed") == told(tmp_path / "whole")
    assert [step for step, _, _ in told(tmp_path / "whole")[0]] == [1, 2, 3, 4]
    assert len(told(tmp_path / "whole")[1].splitlines()) == 4


@pytest.mark.slow
def test_squares_are_found_after_a_minute_of_training(settled):
    config, data = settled(train={"steps": 300})
    model, task = build_model(config), task_of(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(300):
        optimizer.zero_grad()
        task.loss(model, "image", data["image"].batch(step)).backward()
        optimizer.step()
    with torch.no_grad():
        assert task.evaluate(model.eval(), config, task.data(config), ALONE)["mAP50"] > 0.5


def test_examples_are_what_the_loader_expects(settled):
    _, data = settled()
    examples = data["image"].examples
    assert isinstance(examples, BoxExamples) and len(examples.items) == len(examples.table) == 8


def test_an_image_on_both_sides_of_the_split_is_refused(make, squares):
    data = {"path": str(squares / "train"), "test": str(squares / "train"), "statistics": "none"}
    config = make(data=data)
    with pytest.raises(UserError, match="on both sides of the split"):
        task_of(config).data(config)


def test_crops_that_never_show_objects_as_whole_images_do_are_refused_with_what_to_set(make, squares):
    plain = {"path": str(squares / "train"), "test": str(squares / "test"), "statistics": "none"}
    pixels = make(data=plain | {"augment": {"fixed": [0, 1]}}, size=[32, 64])
    with pytest.raises(UserError, match=r"augment\.fixed=\[0, 1\]: .* to size=\[32, 64\].*set .*fixed=\[\] and"):
        task_of(pixels).data(pixels)
    parts = make(data=plain | {"augment": {"scale": [0.1, 0.6]}})
    with pytest.raises(UserError, match=r"augment\.scale=\[0\.1, 0\.6\]: no crop shows all .*scale=\[0\.1, 1\.0\]"):
        task_of(parts).data(parts)
    for allowed in ({"fixed": [0, 1]}, {"scale": [0.6, 1.0]}, {"scale": None}):  # all images are 48x64, as `size` is
        config = make(data=plain | {"augment": allowed})
        task_of(config).data(config)


@pytest.mark.parametrize("odd", [[47, 64], [48, 65], [64, 48]])
@pytest.mark.parametrize("split", ["train", "test"])
def test_one_image_of_another_size_is_enough_for_crops_of_fixed_length_to_be_refused(make, split, odd):
    def table(sizes):
        none = np.zeros(0, np.int64)
        ends, boxes = np.zeros(len(sizes), np.int64), np.zeros((0, 4), np.float32)
        return BoxTable(("a",), ends, np.array(sizes, np.int64), boxes, none, np.zeros(0, np.bool_))

    augment = AugmentConfig(fixed=(0, 1))
    modality = make().modalities["image"]
    modality = modality.model_copy(update={"data": modality.data.model_copy(update={"augment": augment})})
    tables = {name: table([[48, 64]] * 3) for name in ("train", "test")}
    check_scale("image", modality, tables)
    with pytest.raises(UserError, match=r"augment\.fixed"):
        check_scale("image", modality, tables | {split: table([[48, 64], odd, [48, 64]])})


def test_labels_of_the_test_data_go_by_the_classes_of_training_whatever_their_own_file_has(settled, squares, tmp_path):
    """The other file numbers its categories the other way round, and knows one more."""
    labels = json.loads((squares / "labels.json").read_text())
    labels["categories"] = [{"id": 1, "name": "blue"}, {"id": 2, "name": "dark"}, {"id": 3, "name": "bright"}]
    for row in labels["annotations"]:
        row["category_id"] = {1: 3, 2: 2}[row["category_id"]]
    own = tmp_path / "own.json"
    own.write_text(json.dumps(labels | {
        key: [row for row in labels[key] if row.get("image_id", row["id"] if key == "images" else 0) >= 50]
        for key in ("images", "annotations")
    }))  # fmt: skip
    first = json.loads((squares / "labels.json").read_text())
    (tmp_path / "first.json").write_text(json.dumps(first | {
        key: [row for row in first[key] if row.get("image_id", row["id"] if key == "images" else 0) < 50]
        for key in ("images", "annotations")
    }))  # fmt: skip
    task = {"labels": str(tmp_path / "first.json"), "test_labels": str(own)}
    config, _ = settled(task=task)
    assert config.task.arguments["classes"] == ["bright", "dark"]
    with torch.no_grad():
        scores = task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)
    assert scores["AP50/bright"] == pytest.approx(1) and scores["AP50/dark"] == pytest.approx(1)
    labels = json.loads(own.read_text())
    labels["annotations"][-1]["category_id"] = 1
    own.write_text(json.dumps(labels))
    with pytest.raises(UserError, match="test has the classes blue, which what is trained on has not"):
        settled(task=task)


def test_a_prediction_that_was_cut_short_goes_on_to_the_same_file(settled, squares, tmp_path, capfd):
    config, _ = settled(task={"shown": 0.0})
    model = build_model(config).eval()
    torch.nn.init.constant_(model.head.classify.bias, 1.0)
    images = tmp_path / "images"
    shutil.copytree(squares / "test", images)
    (images / "52.png").write_text("no picture")

    def predict():
        with torch.no_grad():
            return task_of(config).predict(model, config, [str(images)], tmp_path / "out")

    assert [path.name for path in predict()] == ["detections.json", "50.png", "51.png", "53.png"]
    assert "1 of 4 samples are missing in" in capfd.readouterr().err
    shutil.copyfile(squares / "test" / "52.png", images / "52.png")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    (tmp_path / "out" / "detections.json").unlink()
    assert [path.name for path in predict()] == ["detections.json", "50.png", "51.png", "52.png", "53.png"]
    assert "3 of 4 samples are done" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with torch.no_grad():
        whole = task_of(config).predict(model, config, [str(images)], tmp_path / "whole")
    assert whole[0].read_bytes() == (tmp_path / "out" / "detections.json").read_bytes()


class Seeing(Detector):
    """A detector that has nothing to learn: it sees the square, and says so at the place in its middle."""

    def forward(self, x, name):
        n, count = len(x), len(self.xy)
        logits, distances = torch.full((n, count, 2), -20.0), torch.ones(n, count, 4)
        for i, pixels in enumerate(x.float().mean(1)):
            label = int((pixels < 60).sum() > (pixels > 190).sum())
            rows, columns = ((pixels < 60) if label else (pixels > 190)).nonzero().unbind(1)
            box = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
            at = int((self.xy - (box[:2] + box[2:]) / 2).square().sum(1).argmin())
            logits[i, at, label] = 6.0
            distances[i, at] = torch.cat([self.xy[at] - box[:2], box[2:] - self.xy[at]])
        return Answers(logits, distances, torch.full((n, count), 6.0))


def seeing(config):
    return Seeing(config, "image", 2, 16, 1, (4, 8)).eval()


def moved(squares, tmp_path, name):
    """labels.json, in which the object of one image is somewhere else."""
    labels = json.loads((squares / "labels.json").read_text())
    for row in labels["annotations"]:
        if f"{row['image_id']}.png" == name:
            row["bbox"] = [0, 0, 5, 5]
    (tmp_path / "moved.json").write_text(json.dumps(labels))
    return str(tmp_path / "moved.json")


@torch.no_grad()
@pytest.mark.parametrize(("size", "least"), [([48, 64], 0.999), ([24, 64], 0.7)])
def test_who_sees_every_object_scores_one_also_where_images_are_stretched(settled, size, least):
    config, _ = settled(size=size)
    scores = task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)
    assert scores["mAP50"] == pytest.approx(1) and scores["mAP"] >= least
    assert scores["AP50/bright"] == pytest.approx(1) and scores["AP50/dark"] == pytest.approx(1)


@torch.no_grad()
def test_every_image_is_judged_against_its_own_labels_the_last_one_too(settled, squares, tmp_path):
    config, _ = settled(task={"labels": moved(squares, tmp_path, "53.png")})
    scores = task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)
    assert scores["AP50/bright"] == pytest.approx(1) and scores["AP50/dark"] < 0.6


@torch.no_grad()
def test_an_image_that_cannot_be_judged_moves_no_other_and_too_many_stop_the_run(settled, squares, tmp_path):
    shutil.copytree(squares / "test", tmp_path / "test")
    (tmp_path / "test" / "50.png").write_text("no picture")
    data = {
        "path": str(squares / "train"), "test": str(tmp_path / "test"), "statistics": "none", "max_bad_fraction": 0.5,
    }  # fmt: skip
    config, _ = settled(data=data)
    assert task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)[
        "mAP50"
    ] == pytest.approx(1)
    config, _ = settled(data=data | {"max_bad_fraction": 0.1})
    with pytest.raises(RunError, match=r"1 of 4 samples cannot be used, more than max_bad_fraction=0\.1: .*50\.png"):
        task_of(config).evaluate(seeing(config), config, task_of(config).data(config), ALONE)


@torch.no_grad()
def test_what_is_written_is_where_the_objects_are(settled, squares, tmp_path):
    for shown in (0.5, 1.0):
        config, _ = settled(task={"shown": shown})
        out = tmp_path / str(shown)
        task_of(config).predict(seeing(config), config, [str(squares / "test")], out)
        found = json.loads((out / "detections.json").read_text())
        for image, row in zip(found["images"], found["annotations"], strict=True):
            number = int(image["file_name"].rpartition("/")[2].removesuffix(".png"))
            left, top, side, name = square(number)
            assert (image["height"], image["width"], row["image_id"]) == (48, 64, image["id"])
            assert row["bbox"] == pytest.approx([left, top, side, side], abs=0.02)
            assert row["area"] == pytest.approx(side**2, abs=1)
            assert found["categories"][row["category_id"] - 1] == {"id": row["category_id"], "name": name}
            drawn = np.asarray(Image.open(out / f"{number}.png").convert("RGB")).astype(int)
            source = np.asarray(Image.open(squares / "test" / f"{number}.png")).astype(int)
            assert (np.abs(drawn - source).max() > 40) == (shown < 1.0)


def test_what_labels_say_to_ignore_is_ignored(settled, squares, tmp_path):
    labels = json.loads((squares / "labels.json").read_text())
    for row in labels["annotations"]:
        row["iscrowd"] = int(row["image_id"] == 1)
    (tmp_path / "crowd.json").write_text(json.dumps(labels))
    _, data = settled(task={"labels": str(tmp_path / "crowd.json")})
    whole = [lambda extent: Crop((0, 0), extent, (False, False))]
    said = [data["image"].examples.read(i, [KEY], whole)[0].targets["ignored"].tolist() for i in (0, 1, 2)]
    assert said == [[False], [True], [False]]


def test_distortion_never_moves_what_boxes_are_about_and_differs_from_view_to_view(settled):
    """Of many draws of one operation each; a shift would move the square out of its box."""
    _, data = settled(task={"distort": 1, "strength": 1.0})
    left, top, side, _ = square(0)
    seen = []
    for repeat in range(24):
        key = Key(0, 0, 0, repeat, 0)
        (sample,) = data["image"].examples.read(0, [key], [lambda extent: Crop((0, 0), extent, (False, False))])
        apart = (sample.x.mean(0) - sample.x.mean(0)[0 if top > 6 else -1, 0]).abs()
        inside = apart[top + 2 : top + side - 2, left + 2 : left + side - 2]
        seen.append(sample.x)
        if apart.max() > 0.2:
            assert inside.min() > 0.5 * inside.max()
    assert len({float(x.double().sum()) for x in seen}) > 5


def test_what_answers_are_decoded_with_is_what_the_task_says():
    decoding = Detection(threshold=0.3, overlap=0.7).decoding
    assert (decoding.threshold, decoding.overlap) == (0.3, 0.7)


@torch.no_grad()
def test_a_large_image_is_drawn_smaller_with_its_boxes_where_its_objects_are(settled, tmp_path, monkeypatch):
    monkeypatch.setattr("mae_ext.tasks.detect.detections.LONGER_SIDE", 320)
    pixels = np.full((480, 640, 3), 125, np.uint8)
    pixels[160:400, 120:520] = COLOUR["bright"]
    Image.fromarray(pixels).save(tmp_path / "large.png")
    config, _ = settled()
    task_of(config).predict(seeing(config), config, [str(tmp_path / "large.png")], tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out" / "large.png").convert("RGB"))
    assert drawn.shape == (240, 320, 3)
    rows, columns = (drawn == [0xE6, 0x9F, 0x00]).all(-1).nonzero()
    # Of the outline; its name stands above it.
    assert abs(columns.min() - 60) <= 2 and abs(columns.max() - 260) <= 2 and abs(rows.max() - 200) <= 2
    row = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"][0]
    assert row["bbox"] == pytest.approx([120, 160, 400, 240], abs=11)
