"""Weights taken away: opened, written for another program, described, and run there to be compared."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from mae_ext import plugins
from mae_ext.errors import CheckpointError, UserError
from mae_ext.export.folder import processor
from mae_ext.export.preprocessing import preprocessing
from mae_ext.export.program import SUFFIXES, check_packages, write_program
from mae_ext.export.proof import WEIGHTS, Proof, prove_program, prove_weights
from mae_ext.export.subject import Subject, subject_of
from mae_ext.interop.format import Format, Written, format_of
from mae_ext.plugins import nearest
from mae_ext.strict_json import dumps
from mae_ext.writing import assembled, blamed_on

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Exported:
    """path: the file or folder that was asked for. files: all that were written. remarks: what is not as it was."""

    path: Path
    files: tuple[Path, ...]
    remarks: tuple[str, ...]
    proof: Proof


def export(
    what: str | Path, to: str, out: str | Path, name: str | None = None, sample: str | None = None,
    encoder_only: bool = False,
) -> Exported:  # fmt: skip
    """Write the encoder of `what`, and what of it the format has a place for, to `out`, which must not be there yet.

    what: as `engine.start.opened` takes it. to: a name of interop.format.FORMATS, "torch-export" or "onnx". out: a
    file, by its suffix, or a folder, without one: transformers has folders, programs are files, others are either.
    sample: a file on which the two are compared. Raises UserError for whatever cannot be written, before anything is,
    and RunError where the file is not what was written. Whether the other program says the same is for the caller to
    ask (`Exported.proof.holds`): the files stay either way.
    """
    out = Path(out)
    one = _format(to, out)
    check_packages(to)
    with assembled(out, as_folder=not out.suffix) as beside:
        subject = subject_of(what, name, encoder_only)
        x, spacing = subject.samples(sample)
        if one is None:
            remarks = _write_program(subject, to, beside, out)
        else:
            written = _in_their_names(subject, one)
            remarks = _write_weights(subject, one, written, beside, out)
        files = [file.name for file in sorted(beside.iterdir(), key=lambda file: (file.suffix == ".json", file.name))]
    where = out if out.is_dir() else out.parent
    if one is None:
        proof = prove_program(subject, to, out, x, spacing)
    else:
        proof = prove_weights(subject, one, written, out, x, spacing)
    return Exported(out, tuple(where / file for file in files), remarks, proof)


def _format(to: str, out: Path) -> Format | None:
    """None for a program. Raises UserError for a name that is none, and for a path that cannot be meant."""
    known = [*plugins.formats.sources(), *SUFFIXES]
    if to not in known:
        raise UserError(f"--to {to}: no such format{nearest(to, known)} (there are: {', '.join(known)})")
    one = None if to in SUFFIXES else format_of(to)
    if one is not None and not hasattr(one, "write"):
        raise UserError(f"--to {to}: {one.title} can be read, and not be written")
    if one is None and out.suffix != SUFFIXES[to]:
        raise UserError(f"--out {out}: --to {to} writes a file; name it {out.name}{SUFFIXES[to]}")
    if one is not None and out.suffix and is_of_transformers(one):
        raise UserError(f"--out {out}: --to {to} writes a folder, with {WEIGHTS} in it; give a name without a point")
    if one is not None and out.suffix not in ("", SUFFIX):
        raise UserError(f"--out {out}: --to {to} writes a file {SUFFIX}, or a folder; name it {out.stem}{SUFFIX}")
    return one


def is_of_transformers(one: Format) -> bool:
    """Whether its `from_pretrained` opens it: a folder, never a file alone."""
    return one.name.startswith("hf-")


def _in_their_names(subject: Subject, one: Format) -> Written:
    if subject.physical and one.name != "safetensors":
        unit = subject.encoder.modality.position.arguments.get("unit")
        raise CheckpointError(
            f"{subject.origin.where}: its positions are physical (unit: {unit}), and {one.title} counts tokens; "
            f"'torch-export', 'onnx' and 'safetensors' keep them as they are"
        )
    origin, notes = subject.origin, list[str]()
    if origin.decodes and origin.config.model.decoder.fuse and one.name != "safetensors":
        why = "without the decoder, which is given several blocks (model.decoder.fuse), and theirs the last"
        origin = replace(origin, decodes=False, where=f"{origin.where}, {why}")
        notes.append(f"the encoder alone, {why}")
    written = one.write(origin, subject.name)
    if subject.classifier is not None:
        notes.append("the encoder alone: what classifies goes along with 'torch-export' and 'onnx'")
    return replace(written, notes=(*written.notes, *notes))


def _write_program(subject: Subject, to: str, beside: Path, out: Path) -> tuple[str, ...]:
    facts = preprocessing(subject, to, subject.remarks)
    texts = {"preprocessing.json": dumps(facts, indent=1)}
    if subject.classes:
        texts["classes"] = dumps(subject.classes)
    with blamed_on(out):
        write_program(subject, to, beside / out.name, texts)
        _describe(beside / f"{out.name}.preprocessing.json", facts)
    return subject.remarks


def _write_weights(subject: Subject, one: Format, written: Written, beside: Path, out: Path) -> tuple[str, ...]:
    remarks, start = (*subject.remarks, *written.notes), f"{out.name}." if out.suffix else ""
    tensors = {key: weight.detach().contiguous().clone() for key, weight in written.weights.items()}
    with blamed_on(out):
        if is_of_transformers(one):
            part = subject.encoder.model.modality(subject.name)
            values, remark = processor(subject.encoder.modality, part.mean.tolist(), part.std.tolist())
            remarks = remarks if remark is None else (*remarks, remark)
            _describe(beside / "preprocessor_config.json", values)
        try:
            save_file(tensors, beside / (out.name if out.suffix else WEIGHTS), dict(written.metadata))
        except SafetensorError as error:
            raise UserError(f"{out}: cannot be written: {error}") from None
        if written.config:
            kind = "card" if one.name == "safetensors" else "config"
            _describe(beside / f"{start}{kind}.json", dict(written.config))
        _describe(beside / f"{start}preprocessing.json", preprocessing(subject, one.name, remarks))
    return remarks


def _describe(file: Path, values: dict[str, Any]) -> None:
    file.write_text(dumps(values, indent=1) + "\n", encoding="utf-8")
