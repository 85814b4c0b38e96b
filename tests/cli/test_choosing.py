"""Commands without --reader, without a recipe and without --modality: what they see, say and ask."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_ext.cli import run
from mae_ext.cli.choosing import by_reader, chosen, modality_for
from mae_ext.config import load_config
from mae_ext.errors import UserError

FILES = {"image": "a.jpg", "video": "a.mp4", "volume": "a.nii.gz"}
CALLED = {"image": "images", "video": "films", "volume": "scans"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of each kind, in a folder each; that of images can be read."""
    monkeypatch.chdir(tmp_path)
    for kind, name in FILES.items():
        (tmp_path / "all" / kind).mkdir(parents=True)
        (tmp_path / "all" / kind / name).write_bytes(b"\0")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "all" / "image" / "a.jpg")
    return tmp_path / "all"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(words) == 2
    *_, line = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("kind", FILES)
def test_the_doctor_reads_a_folder_as_what_is_in_it(folder, kind, capsys):
    assert run(["doctor", f"all/{kind}"]) == (kind != "image")
    assert f"{kind}: 1 file of all/{kind}" in capsys.readouterr().err


def test_the_doctor_asks_which_of_several_kinds_is_meant_and_says_what_to_type(folder, capsys):
    line = refused(capsys, "doctor", "all")
    for told in ("1 image (.jpg)", "1 film (.mp4)", "1 scan (.nii.gz)", "--reader image or --reader video or --reader"):
        assert told in line
    assert run(["doctor", "all", "--reader", "image"]) == 0


def test_folders_of_different_kinds_are_each_read_as_they_are(folder):
    assert by_reader(["all/image", "all/volume", "all/image/a.jpg"]) == {
        "image": ["all/image", "all/image/a.jpg"], "volume": ["all/volume"],
    }  # fmt: skip


def test_of_a_source_that_no_reader_takes_the_doctor_says_what_they_take(folder, capsys):
    (folder / "image" / "a.jpg").rename(folder / "image" / "a.xyz").write_bytes(b"\0\1")
    line = refused(capsys, "doctor", "all/image")
    assert "image: .jpg" in line and "volume: .nii" in line and "1 .xyz" in line
    assert "no such file" in refused(capsys, "doctor", "gone")


@pytest.mark.parametrize("kind", FILES)
def test_the_recipe_for_a_folder_of_ones_own_is_taken_where_none_is_named(folder, kind, capsys):
    name = f"{kind}_folder"
    assert chosen("pretrain", None, f"all/{kind}") == name
    said = capsys.readouterr().err
    assert f"recipe: {name}, as all/{kind} holds {CALLED[kind]}" in said and f"{name}.yaml" in said
    assert load_config(name).modalities[kind].data.reader.name == kind
    assert chosen("pretrain", "image_demo", f"all/{kind}") == "image_demo"


def test_plan_needs_data_alone(folder, capsys):
    assert run(["plan", "--data", "all/image"]) == 0
    out = capsys.readouterr()
    assert "recipe: image_folder" in out.err and "effective batch   256" in out.out


def test_of_several_kinds_each_has_its_command_and_a_joint_run_is_named(folder, capsys):
    line = refused(capsys, "pretrain", "--data", "all")
    for kind in FILES:
        assert f"`mae-ext pretrain {kind}_folder --data all` for the {CALLED[kind]}" in line
    pairs = re.search(r"--data (\S+)$", line)[1]
    assert sorted(pairs.split(",")) == ["image=all", "video=all", "volume=all"]


def test_without_recipe_and_data_a_command_says_what_to_give(capsys):
    assert "give CONFIG" in refused(capsys, "pretrain") and "--data PATH" in refused(capsys, "plan")


def test_a_folder_in_the_place_of_a_recipe_is_taken_for_data_and_said(folder, capsys):
    assert refused(capsys, "pretrain", "all/image").endswith("data are named by --data all/image")


@pytest.mark.parametrize("kind", FILES)
def test_finetune_takes_the_recipe_of_its_kind_or_says_that_there_is_none(folder, kind):
    tuning = {"image": "finetune_folder", "volume": "finetune_scans"}
    if kind in tuning:
        assert chosen("finetune", None, f"all/{kind}", tuning=True) == tuning[kind]
    else:
        with pytest.raises(UserError, match="holds films, and no recipe is general enough"):
            chosen("finetune", None, f"all/{kind}", tuning=True)


@pytest.mark.parametrize("command", ["plan", "pretrain"])
@pytest.mark.parametrize(("recipe", "kind"), [("image_folder", "volume"), ("volume_folder", "video")])
def test_a_recipe_of_another_kind_is_said_and_one_that_fits_is_named(folder, command, recipe, kind, capsys):
    words = [command, recipe, "--data", f"all/{kind}", *(["--out", "run"] if command == "pretrain" else [])]
    line = refused(capsys, *words)
    own = CALLED[recipe.removesuffix("_folder")]
    assert f"this reads {own}, and all/{kind} holds 1 {CALLED[kind][:-1]} (" in line
    assert line.endswith(f"recipes for that: {kind}_folder") and "they are for another reader" in line


def test_of_a_run_with_several_modalities_the_one_is_taken_whose_reader_takes_the_source(folder, capsys):
    (folder.parent / "run").mkdir()
    sections = {
        "photo": "size: [16, 16], patch: [8, 8], batch: 4",
        "scan": "size: [16, 16, 16], patch: [8, 8, 8], channels: 1, batch: 4, data: {reader: volume}",
    }
    text = "".join(f"  {name}: {{{section}}}\n" for name, section in sections.items())
    config = f"modalities:\n{text}model: {{size: tiny}}\ntrain: {{steps: 1}}\n"
    Path("run/config.yaml").write_text(config)
    assert modality_for("run", None, ["all/volume"]) == "scan" and modality_for("run", None, ["all/image"]) == "photo"
    assert "modality: scan, whose reader takes what all/volume holds" in capsys.readouterr().err
    assert modality_for("run", "photo", ["all/volume"]) == "photo"
    assert modality_for("run", None, ["all/video"]) is None and modality_for("gone", None, ["all"]) is None
    with pytest.raises(UserError, match="--modality scan"):
        modality_for("run", None, ["all"])
