"""Dataset cards hold facts, in one small schema."""

from pathlib import Path

import numpy as np
import pytest

from mae_ext.cards import load_card, read_card, read_head, shipped
from mae_ext.data.sources.table import list_items
from mae_ext.errors import ConfigError

NAMES = [path.stem for path in shipped("datasets")]

GOOD = """
name: A set
what: Things.
modality: image
licence: CC0 1.0
owner: Somebody
page: https://example.org/set
obtain: Download it.
layout: one folder
read: --data DIR
"""


@pytest.fixture
def card(tmp_path):
    """Text -> Card."""

    def load(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return read_card(path)

    return load


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_card_is_complete(name):
    found = load_card(name)
    assert found.licence
    assert found.layout


def test_the_image_sets_of_the_recipes_have_cards():
    assert {"imagenet1k", "cifar10", "medmnist", "dsb2018_nuclei", "bccd"} <= set(NAMES)


def test_the_video_sets_of_the_recipes_have_cards():
    assert {"kinetics400", "ssv2", "ucf101", "hmdb51"} <= set(NAMES)


def test_the_instructions_on_the_ucf101_card_give_lists_that_can_be_read(tmp_path, monkeypatch):
    """The card's snippet, on files made here in the owner's layout."""
    monkeypatch.chdir(tmp_path)
    names = ["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "YoYo/v_YoYo_g08_c02.avi"]
    for name in names:
        (tmp_path / "UCF-101" / name).parent.mkdir(parents=True)
        (tmp_path / "UCF-101" / name).touch()
    (tmp_path / "ucfTrainTestlist").mkdir()
    (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    (tmp_path / "ucfTrainTestlist" / "testlist01.txt").write_text(f"{names[1]}\n")
    lines = [line for line in load_card("ucf101").read.splitlines() if line.startswith("  ")]
    exec("\n".join(line.removeprefix("  ") for line in lines), {})
    items = list_items("train01.csv", (".avi",))
    assert [Path(a).is_file() for a in items.addresses] == [True, True]
    assert (items.classes, items.labels.tolist()) == (("ApplyEyeMakeup", "YoYo"), [0, 1])
    assert list(list_items("test01.csv", (".avi",)).addresses) == [f"UCF-101/{names[1]}"]


def test_an_unknown_card_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        load_card("cifar")


def test_what_is_not_known_may_be_left_out(card):
    found = card(GOOD)
    assert (found.splits, found.classes, found.statistics) == ({}, (), None)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("liscence: MIT\n", "liscence"),
        ("splits: {train: 0}\n", "splits.train"),
        ("num_classes: 3\nclasses: [a, b]\n", "2 classes are named"),
        ("statistics: {mean: [0.5], std: [0.2]}\n", "come together"),
        ("statistics: {mean: [0.5], std: [0.0]}\nstatistics_source: here\n", "statistics.std"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused_by_key(card, change, named):
    with pytest.raises(ConfigError, match=named):
        card(GOOD + change)


def test_a_card_without_a_licence_is_refused(card):
    with pytest.raises(ConfigError, match="licence"):
        card(GOOD.replace("licence: CC0 1.0\n", ""))


def test_the_instructions_on_the_cifar10_card_give_the_arrays_they_promise(tmp_path, monkeypatch):
    """The card's snippet, on records made here in the owner's layout."""
    monkeypatch.chdir(tmp_path)
    made = np.random.default_rng(0).integers(0, 10, (4, 3073), dtype=np.uint8)
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        made.tofile(name)
    lines = [line for line in load_card("cifar10").read.splitlines() if line.startswith("  ")]
    exec("\n".join(line.removeprefix("  ") for line in lines), {})
    with np.load("cifar10.npz") as arrays:
        assert arrays["train_images"].shape == (20, 32, 32, 3)
        assert arrays["test_labels"].tolist() == made[:, :1].tolist()
        # Row 5, column 7, green: the second plane of the record.
        assert arrays["test_images"][2, 5, 7, 1] == made[2, 1 + 1024 + 5 * 32 + 7]


def test_the_head_of_a_recipe_joins_the_lines_of_a_label_and_ends_where_the_comments_do(tmp_path):
    path = tmp_path / "mine.yaml"
    labels = ("what", "command", "hardware", "time", "expect")
    text = "".join(f"# {label}: {label} it is\n#   and on\n#   it goes\n" for label in labels)
    path.write_text(text + "seed: 1\n# what: a comment further down\n")
    assert read_head(path) == {label: f"{label} it is and on it goes" for label in labels}
    path.write_text(text.replace("# time:", "# when:"))
    with pytest.raises(ConfigError, match="comments on what, command, hardware, when, expect; expected what, command"):
        read_head(path)


def test_as_many_classes_are_named_as_there_are(card):
    assert card(GOOD + "num_classes: 2\nclasses: [a, b]\n").classes == ("a", "b")
    with pytest.raises(ConfigError, match="num_classes=3, but 2 classes are named"):
        card(GOOD + "num_classes: 3\nclasses: [a, b]\n")
    with pytest.raises(ConfigError, match="statistics and statistics_source come together"):
        card(GOOD + "statistics: {mean: [0.5], std: [0.2]}\n")
