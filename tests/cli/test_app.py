"""Whatever the command: names come out as they went in, what is passed over is named, reasons are given."""

import codecs
import json
import os
import sys
from copy import deepcopy
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mae_ext.cli import main, run
from mae_ext.cli.app import as_it_came
from mae_ext.overrides import configured

IMAGE = {"size": [16, 16], "patch": [4, 4], "batch": 4, "data": {"max_bad_fraction": 0.5}}


@pytest.fixture
def typed(monkeypatch):
    """The command line on streams of an encoding that refuses what it cannot say: (exit code, stdout, stderr)."""

    def go(*arguments, encoding="utf-8"):
        streams = {name: TextIOWrapper(BytesIO(), encoding=encoding, errors="strict") for name in ("stdout", "stderr")}
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        monkeypatch.setattr(sys, "argv", ["mae-ext", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        for stream in streams.values():
            stream.flush()
        return ended.value.code, *(stream.buffer.getvalue() for stream in streams.values())

    return go


@pytest.fixture
def latin(tmp_path):
    """Class folders and files named in Latin-1, which is no UTF-8; one file is bad, one is of another format."""
    root = tmp_path / "photos"
    for folder in (b"caf\xe9", b"th\xe9"):
        place = root / os.fsdecode(folder)
        place.mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / os.fsdecode(b"na\xefve%d.png" % i))
    (root / os.fsdecode(b"caf\xe9/bad\xff.png")).write_bytes(b"x")
    (root / os.fsdecode(b"caf\xe9/scan\xff.vtk")).write_bytes(b"x")
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_name_that_is_no_text_is_printed_byte_for_byte_whatever_the_encoding(typed, latin, encoding):
    code, out, err = typed("doctor", latin, encoding=encoding)
    assert code == 1
    assert os.fsencode(latin) + b"/caf\xe9/bad\xff.png: not an image" in out
    assert b"(such as caf\xe9/scan\xff.vtk)" in err
    # The commands that only name it in an error do so too.
    code, _, err = typed("doctor", latin / os.fsdecode(b"gone\xe9"), encoding=encoding)
    assert code == 2 and b"gone\xe9': no such file" in err


def test_other_signs_are_escaped_where_the_encoding_lacks_them():
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    codecs.register_error("as_it_came", as_it_came)
    stream.reconfigure(errors="as_it_came")
    stream.write("a\udce9\u00e9\u6f22\ud800b")
    stream.flush()
    assert stream.buffer.getvalue() == b"a\xe9\\xe9\\u6f22\\ud800b"
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("ascii", "as_it_came")


def test_every_step_of_the_work_goes_through_with_names_that_are_no_text(typed, latin, tiny, tmp_path):
    """Train, go on, look at features, fine-tune, predict: each result names its files so that they are found again."""
    made = os.fsdecode(bytes(tmp_path) + b"/r\xe9sultats")
    Path(made).mkdir()
    config = tiny({"modalities": {"image": IMAGE}, "train.steps": 1, "train.warmup_steps": 0})
    pretrain = ("pretrain", config, "--data", latin, "--out", f"{made}/run")
    for _ in range(2):
        assert typed(*pretrain)[0] == 0
    code, out, _ = typed("embed", f"{made}/run", latin, "--out", f"{made}/f.safetensors", "--map", "--neighbours", 2)
    assert code == 0 and out == os.fsencode(made) + b"/f.safetensors\n"
    rows = [json.loads(line) for line in Path(f"{made}/f.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and all(Path(row["path"]).exists() for row in rows)
    assert os.fsencode(rows[0]["class"]) == b"caf\xe9"
    code, out, _ = typed("reconstruct", f"{made}/run", latin, "--out", f"{made}/pictures", "--limit", 2)
    assert code == 0 and out.startswith(os.fsencode(made) + b"/pictures/0000_na_ve0.png\n")
    assert typed("report", f"{made}/run")[0] == 0
    task = {"modalities": {"image": IMAGE}, "task": "classify", "train.steps": 1, "train.warmup_steps": 0}
    finetune = ("finetune", tiny(task, "task"), "--init", f"{made}/run", "--data", latin, "--out", f"{made}/ft")
    assert typed(*finetune)[0] == 0
    code, out, _ = typed("predict", f"{made}/ft", latin, "--out", f"{made}/said")
    assert code == 0 and out.splitlines()[0] == os.fsencode(made) + b"/said/predictions.jsonl"
    rows = [json.loads(line) for line in Path(f"{made}/said/predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and {os.fsencode(c) for c in rows[0]["probabilities"]} == {b"caf\xe9", b"th\xe9"}


@pytest.fixture
def odd(striped, tmp_path):
    """Labelled pictures, with a link out, a scan, and a photo of another format among them."""
    root = tmp_path / "odd"
    for path in sorted((striped / "test").rglob("*.png")):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    (root / "down" / "out.png").symlink_to(striped / "train" / "down" / "000.png")
    (root / "scan.nii.gz").write_bytes(b"x")
    (root / "photo.jxl").write_bytes(b"x")
    return root


PASSED = (
    "1 links that leave the folder (such as down/out.png)",
    "1 .nii.gz (such as scan.nii.gz): they are for another reader: use --reader volume",
    "1 .jxl (such as photo.jxl): convert them",
)


def test_every_command_that_lists_a_folder_names_what_it_passes_over_once(
    odd, striped, tiny, make_run, tmp_path, capsys
):
    base = make_run()
    config = str(tiny({"modalities": {"image": IMAGE}, "train.steps": 1, "train.warmup_steps": 0}))
    task = {"modalities": {"image": IMAGE}, "task": "classify", "train.steps": 1, "train.warmup_steps": 0}
    tuned, ft = str(tiny(task, "task")), str(tmp_path / "ft")
    data, out = str(odd), str(tmp_path / "out")
    commands = [
        ["doctor", data, "--reader", "image"],  # there is a scan, too
        ["probe", str(base), "--train", data, "--test", data],
        ["plan", config, "--data", data],
        ["pretrain", config, "--data", data, "--out", str(tmp_path / "trained")],
        ["embed", str(base), data, "--out", f"{out}.safetensors"],
        ["reconstruct", str(base), data, "--out", f"{out}_pictures", "--limit", "1"],
        ["finetune", tuned, "--init", "none", "--data", data, "--out", ft],
        ["finetune", tuned, "--init", "none", "--data", str(striped / "train"), "--test", data, "--out", f"{ft}2"],
        ["predict", ft, data, "--out", f"{out}_said"],
    ]
    for command in commands:
        capsys.readouterr()
        assert run(command) == 0, command
        lines = [line for line in capsys.readouterr().err.splitlines() if "such as photo.jxl" in line]
        assert len(lines) == 1 and lines[0].startswith(f"warning: data path '{data}': passed over: "), command
        assert all(part in lines[0] for part in PASSED), (command, lines)


def test_other_ranks_leave_it_to_the_first(odd, make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run(["reconstruct", str(make_run()), str(odd), "--out", str(tmp_path / "pictures")]) == 0
    assert "passed over" not in capsys.readouterr().err


def test_where_all_files_are_bad_every_command_says_why(striped, tiny, make_run, tmp_path, capsys):
    bad = tmp_path / "bad"
    for name, content in (("a/1.png", b""), ("a/2.png", b"text"), ("b/3.png", b"text"), ("b/4.png", b"text")):
        (bad / name).parent.mkdir(parents=True, exist_ok=True)
        (bad / name).write_bytes(content)
    image = {**IMAGE, "data": {"max_bad_fraction": 1.0, "statistics": "imagenet"}}
    config = str(tiny({"modalities": {"image": image}, "train.steps": 1, "train.warmup_steps": 0}))
    task = {"modalities": {"image": image}, "task": "classify", "train.steps": 1, "train.warmup_steps": 0}
    assert run(["finetune", str(tiny(task, "task")), "--init", "none", "--data", str(striped / "test"),
                "--out", str(tmp_path / "ft")]) == 0  # fmt: skip
    data, base, everything = str(bad), str(make_run()), ("--max-bad-fraction", "1")
    commands = {
        2: [
            ["embed", base, data, "--out", str(tmp_path / "f.safetensors"), *everything],
            ["probe", base, "--train", data, "--folds", "2", *everything],
            ["reconstruct", base, data, "--out", str(tmp_path / "pictures")],
            ["predict", str(tmp_path / "ft"), data, "--out", str(tmp_path / "said")],
        ],
        1: [["pretrain", config, "--data", data, "--out", str(tmp_path / "trained")]],
    }
    for code, row in commands.items():
        for command in row:
            capsys.readouterr()
            assert run(command) == code, command
            (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mae-ext: ")]
            assert "3 not an image (such as " in line and "begins with b'text'" in line, command
            assert f"1 empty (such as {bad}/a/1.png: 0 bytes)" in line, command
    ledger = [json.loads(line) for line in (tmp_path / "trained" / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted((row["path"][-5:], row["kind"]) for row in ledger) == [
        ("1.png", "empty"), ("2.png", "not an image"), ("3.png", "not an image"), ("4.png", "not an image"),
    ]  # fmt: skip
    # Nothing wrong or empty was left where results would have been.
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"f.safetensors", "f.jsonl", "pictures", "said"} and not any(".tmp-" in name for name in left)


def test_what_a_probe_is_asked_for_is_what_it_does(make_run, striped, capsys):
    source = str(striped / "test")
    asked = ["--folds", "2", "--k", "3", "--pool", "class", "--mirror", "--random-weights"]
    assert run(["probe", str(make_run()), "--train", source, *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["train"], found["test"], found["folds"], found["pool"]) == (source, source, 2, "class")
    assert (found["weights"], found["mirrored"]) == ("random", True)
    assert [fold["k"] for fold in found["knn"]["folds"]] == [3, 3] and "attentive" not in found


def test_what_pictures_and_features_are_asked_for_is_what_they_are(make_run, striped, tmp_path):
    base, source = str(make_run()), str(striped / "test")

    def drawn(name, *more):
        assert run(["reconstruct", base, source, "--out", str(tmp_path / name), *more]) == 0
        return [path.read_bytes() for path in sorted((tmp_path / name).iterdir())]

    plain, again, seeded = (
        drawn("a", "--limit", "1"),
        drawn("b", "--limit", "1"),
        drawn("c", "--limit", "1", "--seed", "1"),
    )
    own = drawn("d", "--limit", "1", "--own-statistics")
    assert plain == again and len({plain[0], seeded[0], own[0]}) == 3 and len(plain) == 2  # and the overview
    assert len(drawn("e", "--limit", "3")) == 4

    def features(name, *more):
        assert run(["embed", base, source, "--out", str(tmp_path / f"{name}.safetensors"), *more]) == 0
        return load_file(tmp_path / f"{name}.safetensors")["features"]

    assert not np.allclose(features("mean"), features("class", "--pool", "class"))
    features("drawn", "--map", "--neighbours", "2")
    assert {"drawn.map.png", "drawn.neighbours.png"} <= {path.name for path in tmp_path.iterdir()}


def test_which_of_several_modalities_is_meant_can_be_said_as_the_message_says(tiny, make_run, tmp_path, capsys):
    both = deepcopy({"one": IMAGE}) | deepcopy({"two": IMAGE})
    config = str(tiny({"modalities": both}))
    assert run(["doctor", str(tmp_path), "--config", config]) == 2
    assert "say which one: --modality one or --modality two" in capsys.readouterr().err
    assert run(["pretrain", config, "--data", str(tmp_path), "--out", str(tmp_path / "trained")]) == 2
    assert "give NAME=PATH,NAME=PATH with names from ['one', 'two']" in capsys.readouterr().err


@pytest.mark.parametrize(("steps", "warmup"), [(11, 10), (10, 1), (4, 0)])
def test_fewer_steps_leave_no_warm_up_that_is_longer_than_the_run(tiny, steps, warmup):
    """The config warms up for 10 steps of 60; a run that is shorter does so for a tenth of it."""
    train = configured(str(tiny()), None, None, steps).train
    assert (train.steps, train.epochs, train.warmup_steps, train.warmup_epochs) == (steps, None, warmup, None)


def test_a_recipe_of_pretraining_is_no_task_to_fine_tune_for_whatever_the_start(make_run, striped, tmp_path, capsys):
    out = tmp_path / "out"
    asked = ["finetune", "image_folder", "--init", str(make_run()), "--data", str(striped / "train"), "--out", str(out)]
    assert run(asked) == 2
    assert "image_folder.yaml: no task to fine-tune for; expected task" in capsys.readouterr().err
    assert not out.exists()
