"""Taking weights away: what is written where, what is refused by name, and that nothing is written over."""

import builtins
import json
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from export.tiny_runs import saved, tiny
from PIL import Image
from safetensors.torch import load_file

import mae_ext.export.weights as weights
from mae_ext.cli import run as command
from mae_ext.errors import BadSample, CheckpointError, RunError, UserError
from mae_ext.export.proof import prove_weights
from mae_ext.export.subject import subject_of
from mae_ext.export.weights import export
from mae_ext.interop.card import Card
from mae_ext.interop.format import FORMATS, format_of


def test_a_run_that_was_trained_goes_out_and_through_another_format_on_the_command_line(tmp_path, capfd):
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.new("RGB", (30, 20), (60 * i, 90, 200 - 40 * i)).save(tmp_path / "photos" / f"{i}.png")
    config = tiny("image", data={"path": str(tmp_path / "photos")})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    run, out, sample = str(tmp_path / "run"), tmp_path / "out", str(tmp_path / "photos" / "1.png")
    assert command(["pretrain", str(tmp_path / "config.yaml"), "--out", run, "--set", "train.workers=0"]) == 0
    capfd.readouterr()
    assert command(["export", run, "--to", "torch-export", "--out", str(out / "e.pt2"), "--sample", sample]) == 0
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert lines[:2] == [str(out / "e.pt2"), str(out / "e.pt2.preprocessing.json")]
    assert (
        lines[2].startswith("largest difference ") and "over 1 x 7 x 24 and 3 x 7 x 24 numbers, with torch" in lines[2]
    )
    assert (len(lines), said.err) == (3, "")
    assert command(["export", run, "--to", "safetensors", "--out", str(out / "e.safetensors"), "--sample", sample]) == 0
    assert capfd.readouterr().out.splitlines()[:3] == [
        str(out / f"e.safetensors{end}") for end in ("", ".card.json", ".preprocessing.json")
    ]
    again = f"safetensors:{out / 'e.safetensors'}"
    assert command(["convert", again, "--to", "safetensors", "--out", str(out / "f.safetensors")]) == 0
    assert (out / "e.safetensors").read_bytes() == (out / "f.safetensors").read_bytes()
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_a_decoder_that_is_given_several_blocks_stays_behind_and_it_is_said(tmp_path):
    decoder = {"width": 16, "depth": 1, "heads": 2, "fuse": [1]}
    run = saved(tmp_path / "run", tiny("image", size=[16, 16], model={"decoder": decoder}))
    made = export(run, "mae", tmp_path / "out")
    assert "the encoder alone, without the decoder, which is given several blocks" in "; ".join(made.remarks)
    assert made.proof.holds and not any("decoder" in key for key in load_file(tmp_path / "out" / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"model\.decoder\.fuse\), and theirs the last: it has no decoder"):
        export(run, "monai-mae", tmp_path / "other")
    card = export(run, "safetensors", tmp_path / "own")
    assert not any("decoder" in remark for remark in card.remarks)
    assert "decoder.fuse.weights" in load_file(tmp_path / "own" / "model.safetensors")


def test_onnx_tells_users_nothing_but_what_is_theirs(runs, tmp_path, capfd, recwarn):
    pytest.importorskip("onnxscript", reason="what translates to ONNX, an optional library")
    assert command(["export", str(runs["image"]), "--to", "onnx", "--out", str(tmp_path / "e.onnx")]) == 0
    said = capfd.readouterr()
    assert (len(said.out.splitlines()), said.err) == (3, "")
    assert not recwarn.list


@pytest.mark.parametrize(
    ("to", "out", "message"),
    [
        (
            "onn",
            "e.onnx",
            r"--to onn: no such format, did you mean 'onnx'\? \(there are: dino, .*torch-export, onnx\)",
        ),
        ("onnx", "e.pt2", r"--to onnx writes a file; name it e.pt2.onnx"),
        ("torch-export", "e", r"--to torch-export writes a file; name it e.pt2"),
        ("safetensors", "e.pth", r"--to safetensors writes a file .safetensors, or a folder; name it e.safetensors"),
        (
            "hf-vitmae",
            "e.safetensors",
            r"--to hf-vitmae writes a folder, with model.safetensors in it; give a name without",
        ),
    ],
)
def test_a_format_or_a_path_that_cannot_be_meant_is_refused_before_the_work(tmp_path, to, out, message):
    with pytest.raises(UserError, match=message):
        export(tmp_path / "no run", to, tmp_path / "out" / out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("taken", ["e.safetensors", "e.safetensors.card.json", "e.safetensors.preprocessing.json"])
def test_nothing_is_written_over(runs, tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(
        UserError, match=f"{taken}: is there already, and is not written over; remove it, or name another"
    ):
        export(runs["image"], "safetensors", tmp_path / "e.safetensors")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(taken, "mine")]


def test_a_link_to_nowhere_is_not_written_through(runs, tmp_path):
    (tmp_path / "e.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is there already"):
        export(runs["image"], "safetensors", tmp_path / "e.safetensors")
    assert not (tmp_path / "elsewhere").exists()


def test_an_export_that_cannot_be_read_leaves_no_folder_behind(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    run = saved(tmp_path / "run", tiny("image"))
    with pytest.raises(BadSample, match="not an image"):
        export(run, "safetensors", tmp_path / "new" / "deep" / "e.safetensors", sample=str(tmp_path / "a.png"))
    assert not (tmp_path / "new").exists()


def test_a_package_that_is_missing_is_asked_for_by_its_extra(runs, tmp_path, monkeypatch):
    import mae_ext.export.program as program

    monkeypatch.setattr(program, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r"--to onnx needs onnxscript: pip install 'mae-ext\[export\]'"):
        export(runs["image"], "onnx", tmp_path / "e.onnx")
    assert not list(tmp_path.iterdir())


def test_where_onnxruntime_is_missing_the_file_is_written_and_it_is_said_that_nothing_ran_it(
    runs, tmp_path, monkeypatch
):
    pytest.importorskip("onnxscript", reason="what translates to ONNX, an optional library")
    real = builtins.__import__

    def without(name, *rest, **keys):
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return real(name, *rest, **keys)

    monkeypatch.setattr(builtins, "__import__", without)
    exported = export(runs["image"], "onnx", tmp_path / "e.onnx")
    assert exported.proof.holds and exported.proof.difference is None
    assert exported.proof.words == "not run: No module named 'onnxruntime'; pip install 'mae-ext[export]'"
    assert exported.path.stat().st_size > 10_000


class Wrong(Card):
    """Says something else when it is run elsewhere."""

    def peer(self, written):
        return lambda x: 1e-3 + torch.zeros(len(x), 7, 24)


def test_another_answer_elsewhere_is_an_error_that_removes_nothing(runs, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(FORMATS, "safetensors", "export.test_weights:Wrong")
    out = tmp_path / "e.safetensors"
    assert command(["export", str(runs["image"]), "--to", "safetensors", "--out", str(out)]) == 1
    said = capfd.readouterr().err
    assert "largest difference" in said and "it does not say the same; nothing was removed" in said
    assert out.is_file()


def test_a_file_that_does_not_hold_what_was_written_is_an_error(runs, tmp_path):
    exported = export(runs["image"], "safetensors", tmp_path / "e.safetensors")
    subject, one = subject_of(runs["image"]), Card()
    written = one.write(subject.origin, "image")
    key = "encoder.class_token"
    other = replace(written, weights={**written.weights, key: written.weights[key] + 1e-6})
    with pytest.raises(RunError, match=f"does not hold what was written .{key}."):
        prove_weights(subject, one, other, exported.path, *subject.samples(None))


def test_a_nan_is_no_small_difference(runs, tmp_path, monkeypatch):
    class Silent(Card):
        def peer(self, written):
            return lambda x: torch.full((len(x), 7, 24), float("nan"))

    monkeypatch.setattr(weights, "format_of", lambda name: Silent())
    assert not export(runs["image"], "safetensors", tmp_path / "e.safetensors").proof.holds


def test_the_sample_is_read_as_the_run_reads_and_a_folder_gives_its_first(runs, tmp_path):
    for name, colour in (("b", "black"), ("a", "white")):
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{name}.png")
    x, spacing = subject_of(runs["image"]).samples(str(tmp_path))
    assert spacing is None and torch.equal(x, torch.ones(1, 3, 16, 24))


def test_physical_positions_have_no_place_where_tokens_are_counted(tmp_path):
    run = saved(tmp_path / "run", tiny("image", position={"name": "sincos", "unit": 2.0}))
    with pytest.raises(CheckpointError, match=r"its positions are physical \(unit: 2.0\)"):
        export(run, "timm", tmp_path / "e.safetensors")


def test_of_several_modalities_one_has_to_be_named(tmp_path):
    both = tiny("image").model_dump(mode="json")
    both["modalities"]["other"] = both["modalities"]["image"]
    from mae_ext.config import parse_config

    run = saved(tmp_path / "run", parse_config(both))
    with pytest.raises(UserError, match="there are the modalities image, other; say which one: --modality image"):
        export(run, "safetensors", tmp_path / "e.safetensors")
    exported = export(run, "safetensors", tmp_path / "e.safetensors", name="other")
    assert "modalities.other.mean" in load_file(exported.path) and "modalities.image.mean" not in load_file(
        exported.path
    )
    assert json.loads((tmp_path / "e.safetensors.preprocessing.json").read_text())["modality"] == "other"


def test_a_classifiers_head_is_said_to_stay_behind_where_there_is_no_place_for_it(tmp_path):
    run = saved(tmp_path / "run", tiny("image", {"name": "classify", "classes": ["a", "b"]}))
    exported = export(run, "safetensors", tmp_path / "e.safetensors")
    assert exported.remarks == ("the encoder alone: what classifies goes along with 'torch-export' and 'onnx'",)
    assert not [key for key in load_file(exported.path) if key.startswith("head")]


WIDE = {"width": 48, "heads": 2, "decoder": {"width": 32, "depth": 1, "heads": 2}}
BARE = {**WIDE, "class_token": False}
CAN = {
    **dict.fromkeys(
        ("mae", "timm", "dino", "hf-vitmae", "hf-vit", "hf-dinov2", "hf-pixio", "safetensors"), ("image", {})
    ),
    **dict.fromkeys(("hf-videomae", "videomae"), ("clip", {"position": "sequence", "model": BARE})),
    "mae-st": ("clip", {"size": [4, 32, 32], "position": "separable", "model": WIDE}),
    "omnimae": ("clip", {"size": [4, 32, 32], "position": "sequence", "model": BARE}),
    "monai-vit": ("volume", {"model": {**BARE, "norm_eps": 1e-5}}),
    "monai-mae": ("volume", {"model": {**WIDE, "norm_eps": 1e-5}}),
    "monai-unetr": (
        "volume",
        {"size": [16, 32, 32], "patch": [16, 16, 16], "model": {**BARE, "norm_eps": 1e-5, "depth": 12}},
    ),
    "selfmedmae": ("volume", {"model": WIDE}),
}
"""Of each format a run that it has a place for."""


def test_there_is_a_run_for_every_format():
    assert CAN.keys() == FORMATS.keys()


@pytest.mark.parametrize(("to", "shape"), [(to, "folder" if to.startswith(("hf-", "timm")) else "file") for to in CAN])
def test_every_format_says_the_same_elsewhere_and_has_its_files(tmp_path, to, shape):
    kind, keys = CAN[to]
    run = saved(tmp_path / "run", tiny(kind, **({"size": [16, 16]} if kind == "image" else {}), **keys))
    out = tmp_path / {"file": "e.safetensors", "folder": "folder"}[shape]
    exported = export(run, to, out)
    assert exported.proof.holds and exported.proof.difference < 1e-5
    package = format_of(to).package
    if package is None or find_spec(package) is None:
        assert "read it back in" in exported.proof.words
    else:
        assert f"with {package} " in exported.proof.words
    prefix = "e.safetensors." if shape == "file" else "folder/"
    names = {file.relative_to(tmp_path).as_posix() for file in exported.files}
    assert names >= {"e.safetensors" if shape == "file" else "folder/model.safetensors", f"{prefix}preprocessing.json"}
    if weights.is_of_transformers(format_of(to)):
        assert names >= {"folder/config.json", "folder/preprocessor_config.json"}
    assert {file for file in tmp_path.rglob("*") if file.is_file() and run not in file.parents} == set(exported.files)
    grid = "x".join(map(str, subject_of(run).encoder.modality.grid))
    back = subject_of(f"{to}:{out}" + f"::heads=2,decoder_heads=2,grid={grid}" * (to != "safetensors"))
    assert back.encoder.width == subject_of(run).encoder.width
