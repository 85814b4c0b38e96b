"""prepare: every file once, bad ones named, nothing twice, and training that no longer decodes."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mae_ext.cli import run
from mae_ext.config import parse_config
from mae_ext.data.loading.batches import ModalityData
from mae_ext.data.loading.prepare import prepare
from mae_ext.errors import ConfigError, UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips and a file that is none."""
    root = tmp_path_factory.mktemp("clips")
    for name in "abc":
        with av.open(str(root / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(20):
                pixels = np.full((48, 64, 3), (12 * i, ord(name), 90), np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = i
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    (root / "d.mp4").write_bytes(b"this is not a video")
    return root


@pytest.fixture
def config(make_config, folder):
    def make(**reader):
        data = {
            "path": str(folder),
            "reader": {"name": "video", "stride": 2} | reader,
            "augment": {"fixed": [0]},
            "statistics": "none",
            "max_bad_fraction": 0.5,
        }
        return make_config(size=[4, 24, 16], patch=[2, 8, 4], data=data)

    return make


def test_every_file_is_kept_once_and_the_bad_one_is_named(config, tmp_path):
    seen = []
    done = prepare(config(), tmp_path, workers=2, progress=lambda n, total: seen.append((n, total)))
    assert (done.files, seen) == (4, [(i, 4) for i in (1, 2, 3, 4)])
    assert [(Path(row["path"]).name, row["kind"]) for row in done.bad] == [("d.mp4", "not a video")]
    assert json.loads((tmp_path / "bad_samples.jsonl").read_text()) == done.bad[0]
    entries = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.array")}
    assert len(entries) == 3 and done.size_bytes > 3 * 20 * 18 * 24 * 3
    assert "4 files, 1 bad (1 not a video" in str(done)
    again = prepare(config(), tmp_path, workers=1)
    assert again == done
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.array")} == entries


def test_training_from_the_cache_sees_the_same_samples_and_decodes_nothing(config, tmp_path):
    prepare(config(), tmp_path, workers=1)
    plain = ModalityData(0, "image", config().modalities["image"])
    kept = ModalityData(0, "image", config(cache=str(tmp_path)).modalities["image"])
    opened = []
    kept.reader.children.open = lambda address, *_: opened.append(address) or plain.reader.children.open(address, *_)
    for step in range(3):
        a, b = plain.batch(step), kept.batch(step)
        assert torch.equal(a.x, b.x) and a.sources == b.sources
    assert {Path(address).name for address in opened} <= {"d.mp4"}


def test_a_reader_without_a_cache_is_refused_by_name(make_config, tmp_path):
    with pytest.raises(ConfigError, match="reader 'image' keeps no cache"):
        prepare(make_config(), tmp_path)


@pytest.fixture
def joint(config, photos):
    """A config of clips, whose reader keeps a cache, and of images, whose reader keeps none."""
    clips = config().model_dump(mode="json")
    image = {"size": [16, 16], "patch": [4, 4], "batch": 4, "data": {"path": str(photos)}}
    return parse_config(clips | {"modalities": {"clips": clips["modalities"]["image"], "pictures": image}})


def test_of_several_modalities_those_are_prepared_that_can_be_and_the_others_are_named(joint, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(joint.to_yaml())
    command = ["prepare", str(tmp_path / "c.yaml"), "--workers", "1", "--out", str(tmp_path / "kept")]
    assert run(command) == 1  # one clip is bad
    said = capsys.readouterr().out
    assert "modality 'pictures' is not prepared: reader 'image' keeps no cache" in said
    assert "--set modalities.clips.data.reader.cache=" in said and "modalities.pictures.data" not in said
    assert len(list((tmp_path / "kept").rglob("*.array"))) == 3
    done = prepare(joint, tmp_path / "kept", workers=1, modality="clips")
    assert (done.modalities, done.without, done.files) == (("clips",), (), 4)
    assert run([*command, "--modality", "pictures"]) == 2
    assert "modalities.pictures.data.reader: reader 'image' keeps no cache" in capsys.readouterr().err
    assert run([*command, "--modality", "clip"]) == 2
    assert "no modality 'clip', did you mean 'clips'?" in capsys.readouterr().err


def test_only_the_modality_that_is_prepared_needs_data(joint, tmp_path):
    values = joint.model_dump(mode="json")
    values["modalities"]["more"] = values["modalities"]["clips"] | {
        "data": values["modalities"]["clips"]["data"] | {"path": None}
    }
    more = parse_config(values)
    assert prepare(more, tmp_path, workers=1, modality="clips").files == 4
    with pytest.raises(
        UserError, match=r"modalities\.more\.data\.path is not set: .*--data NAME=PATH, or --modality NAME"
    ):
        prepare(more, tmp_path, workers=1)


def test_a_cache_that_cannot_be_filled_is_an_error_and_no_success(config, tmp_path):
    """As on a disk that is full: folders of entries cannot be made, though the folder itself can be written to."""
    for name in range(256):
        (tmp_path / f"{name:02x}").touch()
    with pytest.raises(UserError, match=r"cannot be written to: .*make room, and run it again"):
        prepare(config(), tmp_path, workers=1)
    assert not (tmp_path / "bad_samples.jsonl").exists()


def test_what_clips_are_passed_over_is_named(config, folder, tmp_path, caplog):
    (folder / "e.mxf").write_bytes(b"x")
    try:
        prepare(config(), tmp_path, workers=1)
    finally:
        (folder / "e.mxf").unlink()
    assert "passed over: 1 .mxf (such as e.mxf): convert them: ffmpeg" in caplog.text


def test_where_all_files_are_bad_it_says_why(config, tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    for name in "ab":
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(b"this is not a video")
    (tmp_path / "c.yaml").write_text(config().to_yaml())
    command = ["prepare", str(tmp_path / "c.yaml"), "--data", str(tmp_path / "clips"), "--workers", "1"]
    assert run([*command, "--out", str(tmp_path / "kept")]) == 1
    said = capsys.readouterr().out
    assert "2 files, 2 bad (2 not a video (such as " in said and "/a.mp4: begins with" in said


def test_missing_data_and_a_folder_that_cannot_be_written_are_the_users(make_config, config, tmp_path):
    data = {"path": None, "reader": "video"}
    with pytest.raises(UserError, match="give --data"):
        prepare(make_config(size=[4, 24, 16], patch=[2, 8, 4], data=data), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        prepare(config(), tmp_path / "file")


def test_the_command_says_how_to_train_from_it_and_fails_where_files_are_bad(config, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(config().to_yaml())
    assert run(["prepare", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "kept"), "--workers", "1"]) == 1
    assert f"--set modalities.image.data.reader.cache={tmp_path / 'kept'}" in capsys.readouterr().out


def test_films_too_large_to_keep_are_counted_named_and_told_what_would_keep_them(config, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(config(keep_bytes=1000).to_yaml())
    assert run(["prepare", str(tmp_path / "c.yaml"), "--workers", "1", "--out", str(tmp_path / "kept")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "not kept: 3 with more than 9.31e-07 GiB of frames, such as" in said
    assert "a.mp4; their clips are decoded from the files, which have to stay." in said
    assert "--set modalities.image.data.reader.keep_bytes=2000 keeps films of twice that" in said
    assert not list((tmp_path / "kept").rglob("*.array"))
