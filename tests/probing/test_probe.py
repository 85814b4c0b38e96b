"""A probe from a run and its sources to a JSON object: who teaches, who is judged, and what is counted."""

import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mae_ext.data.sample import Sample
from mae_ext.data.sources.table import Items
from mae_ext.errors import BadSample, RunError, UserError
from mae_ext.features.encoder import FrozenEncoder, load_encoder
from mae_ext.features.windowed import Windows
from mae_ext.probing.classifiers import linear_votes, neighbour_votes, whitened
from mae_ext.probing.labelled import Labelled
from mae_ext.probing.probe import Reading, Sides, _neighbours, _record, _scored, probe
from mae_ext.probing.spec import ProbeSpec
from mae_ext.rng import rng

MakeRun = Callable[..., Path]


def test_a_probe_is_one_json_object_and_the_same_twice(make_run: MakeRun, striped: Path) -> None:
    run, sources = make_run(), (str(striped / "train"), str(striped / "test"))
    first, again = probe(run, ProbeSpec(*sources, k=3)), probe(run, ProbeSpec(*sources, k=3))
    assert json.loads(json.dumps(first)) == first
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    assert (first["step"], first["n_train"], first["n_test"], first["n_classes"]) == (7, 36, 12, 3)
    assert first["chance"] == pytest.approx(1 / 3)
    # Random weights tell directions of stripes apart, well above chance: the probe sees features in line with labels.
    assert first["linear"]["accuracy"] > 0.6


def test_an_attentive_probe_stands_beside_the_others(make_run: MakeRun, striped: Path) -> None:
    run, sources = make_run(), (str(striped / "train"), str(striped / "test"))
    both, plain = probe(run, ProbeSpec(*sources, k=3, attentive=True)), probe(run, ProbeSpec(*sources, k=3))
    assert "attentive" not in plain
    assert both["linear"] == plain["linear"]
    assert both["attentive"]["accuracy"] > 0.6
    with pytest.raises(UserError, match="attentive=True"):
        probe(run, ProbeSpec(*sources, pool="tokens"))


def test_neighbours_by_moments_are_sought_in_whitened_features(make_run: MakeRun, striped: Path) -> None:
    run, sources = make_run(), (str(striped / "train"), str(striped / "test"))
    plain, moments = probe(run, ProbeSpec(*sources)), probe(run, ProbeSpec(*sources, pool="moments"))
    in_windows = probe(run, ProbeSpec(*sources, pool=Windows(tokens="moments")))
    assert "whitened" not in plain["knn"] and moments["knn"]["whitened"] and in_windows["knn"]["whitened"]
    assert moments["pool"] == "moments" and {"accuracy", "accuracy_ci"} <= moments["linear"].keys()


def test_the_votes_of_neighbours_are_those_in_whitened_features_for_moments_and_plain_ones_for_the_mean() -> None:
    y = torch.arange(12) % 2
    x = torch.randn(12, 5, generator=rng(0, "mixed")) * 10 ** torch.arange(-2.0, 3)
    train = Labelled("a", x, y, ("a", "b"), tuple(map(str, range(12))), None, 0)
    test = train.rows(torch.arange(4))
    for pool, (one, other) in (("mean", (x, x[:4])), ("moments", whitened(x, x[:4]))):
        votes, _ = _neighbours(train, test, ProbeSpec("a", "b", k=5, pool=pool))
        assert torch.equal(votes, neighbour_votes(one, y, other, 5)[0])
    assert not torch.allclose(neighbour_votes(x, y, x[:4], 5)[0], votes)


def test_mirror_images_teach_and_are_judged_beside_samples(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    run, train, test = make_run(), str(striped / "train"), str(striped / "test")
    plain = probe(run, ProbeSpec(train, test))
    mirrored = probe(run, ProbeSpec(train, test, mirror=True, attentive=True))
    assert mirrored["mirrored"] and "mirrored" not in plain
    assert (mirrored["n_train"], mirrored["n_test"]) == (plain["n_train"], plain["n_test"])
    as_is, flipped = tmp_path / "as_is", tmp_path / "flipped"
    for path in sorted((striped / "train").rglob("*.png")):
        # Of the model's own size: the middle of a larger one may be half a pixel off, and then mirrored it is another.
        picture = Image.open(path).crop((0, 0, 16, 24))
        for folder, saved in ((as_is, picture), (flipped, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            saved.save(folder / path.parent.name / path.name)
    reading = Reading(load_encoder(run), ProbeSpec(str(as_is), str(flipped)))
    sides = reading.sides("mean")
    both = reading.and_mirrored(sides, "mean")
    learned = both.train.x
    images = learned[len(sides.train.x) :]
    assert torch.equal(learned[: len(images)], sides.train.x)
    assert torch.allclose(images, sides.test.x, atol=1e-4)
    assert not torch.allclose(images, sides.train.x, atol=1e-2)
    # What is judged was saved mirrored, so that its mirror images are the samples to learn from.
    assert both.mirrored and torch.equal(both.test.x[:, 0], sides.test.x)
    assert torch.allclose(both.test.x[:, 1], sides.train.x, atol=1e-4)


@pytest.mark.parametrize("folds", [None, 3])
def test_a_sample_is_judged_by_the_mean_of_the_votes_for_it_and_for_its_mirror_image(folds: int | None) -> None:
    votes = torch.tensor([[[0.4, 0.6], [0.9, 0.1]], [[0.4, 0.6], [0.5, 0.5]], [[0.3, 0.7], [0.6, 0.4]]])
    both = Labelled("list.csv", votes, torch.tensor([0, 1, 1]), ("a", "b"), ("a.png", "b.png", "c.png"), None, 0)
    fold = None if folds is None else torch.arange(3)
    found = _scored(lambda _, test: (test.x, {}), Sides(both, both, fold, mirrored=True), 0)
    assert found["accuracy"] == 1.0  # by the samples alone 2 of 3, by their mirror images alone 1 of 3
    other = replace(both, x=torch.tensor([[[0.6, 0.4], [0.1, 0.9]], *votes[1:].tolist()]))
    found = _scored(lambda _, test: (test.x, {}), Sides(other, other, fold, mirrored=True), 0)
    assert found["accuracy"] == pytest.approx(2 / 3)


def test_neighbours_are_counted_over_both_of_a_sample_and_its_mirror_image() -> None:
    train = Labelled("train.csv", torch.eye(2), torch.tensor([0, 1]), ("a", "b"), ("a.png", "b.png"), None, 0)
    seen = torch.tensor([[0.3, 1.0], [1.0, 0.1], [1.0, 0.4], [0.0, 1.0]])  # the nearer of the two decides
    votes, settings = _neighbours(train, replace(train, x=seen), ProbeSpec("a", "b", k=1))
    assert len(votes) == 4 and settings["majority_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("failing", "where"), [((1, 2, 4), "test"), ((3,), "train"), ((2, 4), "test"), ((1,), "train")]
)
def test_files_that_can_be_read_at_one_pass_only_are_not_put_beside_others(
    make_run: MakeRun, striped: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[int, ...], where: str
) -> None:
    """Passes: over train, over test, over both again for mirror images; another file fails in each."""
    real, passes = FrozenEncoder.decode, iter(range(1, 9))

    def decode(self: FrozenEncoder, items: Items, *more: Any) -> Iterator[Sample | BadSample]:
        number = next(passes)
        for row, sample in enumerate(real(self, items, *more)):
            fails = number in failing and row == number
            yield BadSample(items.addresses[row], "damaged", "for a while") if fails else sample

    monkeypatch.setattr(FrozenEncoder, "decode", decode)
    spec = ProbeSpec(str(striped / "train"), str(striped / "test"), mirror=True, max_bad_fraction=0.5)
    with pytest.raises(RunError, match=rf"{where}.*could be read at one of two passes.*leave --mirror out"):
        probe(make_run(), spec, record=False)


def test_a_mirror_image_is_in_the_fold_of_its_sample(make_run: MakeRun, tmp_path: Path) -> None:
    # Pictures of noise: a nearest neighbour knows one only by its own mirror image, which its fold must not learn from.
    for number in range(40):
        folder = tmp_path / "noise" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        half = np.random.default_rng(number).integers(0, 256, (16, 8, 3), dtype=np.uint8)
        Image.fromarray(np.concatenate([half, half[:, ::-1]], 1)).save(folder / f"{number}.png")
    result = probe(make_run(), ProbeSpec(str(tmp_path / "noise"), folds=4, k=1, mirror=True))
    assert result["n_test"] == 40 and result["knn"]["accuracy"] < 0.9


def test_the_random_baseline_says_so_and_both_are_kept_for_the_report(make_run: MakeRun, striped: Path) -> None:
    run, sources = make_run(), (str(striped / "train"), str(striped / "test"))
    probe(run, ProbeSpec(*sources))
    probe(run, ProbeSpec(*sources, seed=3), baseline="random")
    probe(run, ProbeSpec(*sources), record=False)
    lines = [json.loads(line) for line in (run / "probes.jsonl").read_text().splitlines()]
    assert [(line["weights"], line["step"]) for line in lines] == [("pretrained", 7), ("random", 0)]


def test_classes_are_matched_by_name_not_by_number(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    """Leaving the first class out of test renumbers the others there."""
    fewer = tmp_path / "fewer"
    for name in ("down", "slanted"):
        shutil.copytree(striped / "train" / name, fewer / name)
    result = probe(make_run(), ProbeSpec(str(striped / "train"), str(fewer), k=1))
    assert result["knn"]["accuracy"] == 1.0  # each picture's nearest neighbour is itself


def test_a_class_seen_only_in_test_is_named(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    for name in ("down", "slanted"):
        shutil.copytree(striped / "train" / name, fewer / name)
    with pytest.raises(UserError, match=r"'across'.*not in the training data"):
        probe(make_run(), ProbeSpec(str(fewer), str(striped / "test")))


def test_sources_that_cannot_be_probed_are_the_users_errors(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(UserError, match="no labels"):
        probe(run, ProbeSpec(str(striped / "train" / "down"), str(striped / "test")))
    shutil.copytree(striped / "train" / "down", tmp_path / "one" / "down")
    with pytest.raises(UserError, match="at least two"):
        probe(run, ProbeSpec(str(tmp_path / "one"), str(tmp_path / "one")))
    with pytest.raises(UserError, match="k=0"):
        probe(run, ProbeSpec(str(striped / "train"), str(striped / "test"), k=0))
    with pytest.raises(UserError, match=r"'imagenet'.*'random'"):
        probe(run, ProbeSpec(str(striped / "train"), str(striped / "test")), baseline="imagenet")  # type: ignore[arg-type]


def test_unlabelled_and_bad_files_are_counted(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    train = tmp_path / "train"
    shutil.copytree(striped / "train", train)
    Image.new("RGB", (20, 20)).save(train / "loose.png")
    (train / "down" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = probe(make_run(), ProbeSpec(str(train), str(striped / "test"), max_bad_fraction=0.1))
    assert (result["n_train"], result["unlabelled"]["train"], result["bad"]["train"]) == (36, 1, 1)


def index(root: Path, rows: list[str], header: str = "path,label,patient,split") -> str:
    (root / "index.csv").write_text("\n".join([header, *rows]) + "\n")
    return str(root / "index.csv")


@pytest.fixture
def listed(striped: Path, tmp_path: Path) -> str:
    """An index.csv of the striped pictures: three a patient, the split in a column."""
    rows = [
        f"{file},{file.parent.name},{part}{file.parent.name}{i // 3},{part}"
        for part in ("train", "test")
        for name in ("across", "down", "slanted")
        for i, file in enumerate(sorted((striped / part / name).glob("*.png")))
    ]
    return index(tmp_path, rows)


def test_a_split_in_a_list_is_probed_like_two_folders_with_intervals_by_patient(
    make_run: MakeRun, striped: Path, listed: str
) -> None:
    run = make_run()
    by_list = probe(run, ProbeSpec(f"{listed}::train", f"{listed}::test", k=3))
    by_folder = probe(run, ProbeSpec(str(striped / "train"), str(striped / "test"), k=3))
    assert by_list["knn"]["accuracy"] == by_folder["knn"]["accuracy"]
    assert by_list["patients"]["test"] == {"count": 6, "classes": {"across": 2, "down": 2, "slanted": 2}}
    assert "patients" not in by_folder
    for part in ("knn", "linear"):
        for score in ("accuracy", "balanced_accuracy", "auroc"):
            low, high = by_list[part][f"{score}_ci"]
            assert 0 <= low <= by_list[part][score] <= high <= 1
    with pytest.raises(UserError, match="are in both"):
        probe(run, ProbeSpec(listed, f"{listed}::test"))


def test_folds_judge_every_sample_once_on_what_other_patients_taught(make_run: MakeRun, listed: str) -> None:
    run = make_run()
    result = probe(run, ProbeSpec(f"{listed}::train", k=3, folds=4))
    assert result["n_test"] == 36 and result["n_test_of_fold"] == [9, 9, 9, 9]
    each = [fold["accuracy"] for fold in result["linear"]["folds"]]
    assert result["linear"]["accuracy"] == pytest.approx(np.mean(each)) and result["linear"]["accuracy"] > 0.6
    assert json.loads(json.dumps(result)) == result
    with pytest.raises(UserError, match=r"either test \(--test\), .* or folds \(--folds\)"):
        probe(run, ProbeSpec(listed))


def test_several_labels_are_judged_class_by_class(make_run: MakeRun, striped: Path, tmp_path: Path) -> None:
    """A slanted stripe counts as both; the classes are told apart by each one's own regression."""
    names = {"across": "across", "down": "down", "slanted": "across|down"}
    lists = {}
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        rows = [f"{f},{names[f.parent.name]}" for f in sorted((striped / part).rglob("*.png"))]
        lists[part] = index(tmp_path / part, rows, "path,label")
    run = make_run()
    result = probe(run, ProbeSpec(lists["train"], lists["test"], k=3))
    assert result["chance"] is None and result["n_classes"] == 2
    for part in ("knn", "linear"):
        found = result[part]
        assert found["auroc"] > 0.6 and found["average_precision"] > 0.6 and len(found["auroc_ci"]) == 2
        assert {c: v["positives"] for c, v in found["classes"].items()} == {"across": 8, "down": 8}
    assert set(result["linear"]) >= {"l2", "train_auroc", "held_out_auroc"}
    assert json.loads(json.dumps(result)) == result
    with pytest.raises(UserError, match="attentive probe does not do; leave it out"):
        probe(run, ProbeSpec(lists["train"], lists["test"], attentive=True))


def test_no_fold_learns_from_its_own_samples_or_from_their_mirror_images() -> None:
    fold = torch.tensor([2, 0, 1, 1, 0, 2, 0])
    names = tuple(f"{i}.png" for i in range(7))
    data = Labelled("list.csv", torch.arange(14.0).view(7, 2), torch.arange(7) % 2, ("a", "b"), names, None, 0)
    seen = []

    def votes(train: Labelled, test: Labelled) -> tuple[Tensor, dict[str, int]]:
        assert not set(train.paths) & set(test.paths)
        assert len(train.y) == copies * (7 - len(test.y))
        seen.append(test.paths)
        return torch.nn.functional.one_hot(test.y, 2).double(), {"learned": len(train.y)}

    for copies, learn in ((1, data), (2, data.and_mirrored(-data.x))):
        seen.clear()
        found = _scored(votes, Sides(learn, data, fold), 0)
        # Every sample is judged once, by the fold that holds it, and put where it stands.
        assert seen == [("1.png", "4.png", "6.png"), ("2.png", "3.png"), ("0.png", "5.png")]
        assert found["accuracy"] == 1.0
        assert [part["learned"] for part in found["folds"]] == [4 * copies, 5 * copies, 5 * copies]
        assert "accuracy_ci" in found and "accuracy_ci" not in found["folds"][0]


def test_a_result_that_does_not_fit_on_the_disk_spoils_no_other(make_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    path.write_text('{"step": 1}\n')
    _record(path, {"step": 2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limit[1]))
    try:
        _record(path, {"step": 3, "linear": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    _record(path, {"step": 4})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 4]


def test_a_result_counts_what_each_side_has_and_patients_are_witnesses_everywhere(
    make_run: MakeRun, striped: Path, tmp_path: Path
) -> None:
    """Test is one patient, who has three samples of one class and one of another: nothing can be said of intervals."""
    rows = {"train": [], "test": []}
    for part, names in (("train", ("across", "down")), ("test", ("across", "down"))):
        for name in names:
            for i, file in enumerate(sorted((striped / part / name).glob("*.png"))[: 8 if part == "train" else 3]):
                if (part, name, i) not in (("test", "down", 1), ("test", "down", 2)):
                    rows[part].append(f"{file},{name},{'q' if part == 'test' else f'{name}{i // 2}'}")
    (tmp_path / "loose.png").write_bytes((striped / "test" / "down" / "100.png").read_bytes())
    rows["train"].append(f"{tmp_path / 'loose.png'},,")
    for part in rows:
        (tmp_path / part).mkdir()
    lists = {part: index(tmp_path / part, rows[part], "path,label,patient") for part in rows}
    run = make_run()
    result = probe(run, ProbeSpec(lists["train"], lists["test"], k=3))
    assert (result["n_train"], result["n_test"], result["n_classes"]) == (16, 4, 2)
    assert result["unlabelled"] == {"train": 1, "test": 0} and result["chance"] == 0.75
    assert result["patients"]["train"] == {"count": 8, "classes": {"across": 4, "down": 4}}
    assert result["patients"]["test"] == {"count": 1, "classes": {"across": 1, "down": 1}}
    assert result["knn"]["accuracy_ci"] is None and result["linear"]["accuracy_ci"] is None
    learn = Reading(load_encoder(run), ProbeSpec(lists["train"], lists["test"])).sides("mean").train
    _, settings = linear_votes(learn.x, learn.y, learn.x[:1], groups=learn.groups)
    assert result["linear"]["held_out_accuracy"] == settings["held_out_accuracy"]


def test_no_probe_chooses_its_setting_by_patients_that_it_learns_from(make_run: MakeRun, tmp_path: Path) -> None:
    """Noise, each picture of one patient and there twice: a copy would be known by the other, a patient is a guess."""
    rows = []
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 16, 3), dtype=np.uint8)
        for copy in "ab":
            Image.fromarray(pixels).save(tmp_path / f"{number}{copy}.png")
            rows.append(f"{number}{copy}.png,{'xy'[number % 2]},{'train' if number < 20 else 'test'},P{number}")
    (tmp_path / "known.csv").write_text("\n".join(["path,label,split,patient", *rows]) + "\n")
    unknown = [row.rpartition(",")[0] for row in rows]
    (tmp_path / "unknown.csv").write_text("\n".join(["path,label,split", *unknown]) + "\n")
    usual = {}
    for name in ("known", "unknown"):
        source = f"{tmp_path / name}.csv"
        found = probe(make_run(), ProbeSpec(f"{source}::train", f"{source}::test", attentive=True))
        for kind in ("linear", "attentive"):
            usual[name, kind] = np.mean(list(found[kind]["held_out_accuracy"].values()))
    for kind in ("linear", "attentive"):
        assert usual["known", kind] < 0.65 < 0.75 < usual["unknown", kind]
