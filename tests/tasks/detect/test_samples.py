"""What detection reads: boxes where the pixels are, whatever is drawn, distorted or ignored of an image."""

import json

import numpy as np
import pytest
import torch
from tasks.detect.squares import COLOUR, KEY, square

from mae_ext.config import AugmentConfig
from mae_ext.data.crops import crop_sampler
from mae_ext.data.image.boxes import BoxTable
from mae_ext.data.plan import Key
from mae_ext.data.sample import Crop
from mae_ext.engine.task import task_of
from mae_ext.errors import BadSample, UserError
from mae_ext.rng import rng
from mae_ext.tasks.detect.task import NO_OBJECT, BoxExamples, check_scale

pytest.importorskip("pycocotools", reason="pip install 'mae-ext[detect]'")


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
