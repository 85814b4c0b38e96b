"""That an export says the same: the other program, opened from what was written, beside ours, on the same samples."""

from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from mae_ext.engine.checkpoint import load_weights, read_tensors
from mae_ext.errors import RunError
from mae_ext.export.program import OPSET, open_program
from mae_ext.export.subject import Subject
from mae_ext.interop.files import read_foreign
from mae_ext.interop.format import Format, Hints, Written
from mae_ext.model.mae import MAE
from mae_ext.rng import rng

WEIGHTS = "model.safetensors"
"""In a folder that transformers opens."""

LIMIT = 1e-4
"""The largest difference that is rounding in fp32, of numbers that are of about 1; of larger ones, in proportion."""


@dataclass(frozen=True)
class Proof:
    """words: for the user. difference: the largest, of any number; None where nothing could be run. limit: allowed."""

    words: str
    difference: float | None = None
    limit: float = LIMIT

    @property
    def holds(self) -> bool:
        return self.difference is None or self.difference <= self.limit


def _compared(ours: list[Tensor], theirs: list[Tensor], by: str) -> Proof:
    shapes = [[list(value.shape) for value in values] for values in (ours, theirs)]
    if shapes[0] != shapes[1]:
        return Proof(f"outputs are {shapes[1]} with {by}, and {shapes[0]} here", float("inf"))
    difference = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    size = max(float(a.square().mean().sqrt()) for a in ours)
    numbers = " and ".join(" x ".join(map(str, shape)) for shape in shapes[0])
    # NaN is no difference that could be small.
    worst = difference if difference == difference else float("inf")
    return Proof(
        f"largest difference {difference:.1e} over {numbers} numbers, with {by}", worst, LIMIT * max(1.0, size)
    )


def prove_program(subject: Subject, to: str, path: Path, x: Tensor, spacing: Tensor | None) -> Proof:
    """On the samples, and on a batch of three of which the first is one of them: batches are of any size."""
    package = "torch" if to == "torch-export" else "onnxruntime"
    try:
        run = open_program(to, path)
    except ImportError as error:
        return Proof(f"not run: {error}; pip install 'mae-ext[export]'")
    noise = torch.randn(2, *x.shape[1:], generator=rng(0, "export", "batch"))
    more = torch.cat([x[:1], subject.encoder.model.modality(subject.name).denormalize(noise)])
    steps = None if spacing is None else spacing[:1].expand(3, -1).contiguous()
    ours, theirs = list[Tensor](), list[Tensor]()
    for batch, step in ((x, spacing), (more, steps)):
        ours += _answers(subject, batch, step)
        theirs += run(batch, step)
    opset = f" (opset {OPSET})" * (to == "onnx")
    return _compared(ours, theirs, f"{package} {_version(package)}{opset}")


def _answers(subject: Subject, x: Tensor, spacing: Tensor | None) -> list[Tensor]:
    if subject.classifier is None:
        return [subject.tokens(x, spacing)]
    with torch.no_grad():
        logits = subject.classifier(x, subject.name, spacing)
    return [logits, logits.softmax(1)]


def prove_weights(
    subject: Subject, one: Format, written: Written, path: Path, x: Tensor, spacing: Tensor | None
) -> Proof:
    """path: the file, or their folder. Their own model where it can be run; else ours, with the weights read back in.

    Raises RunError where the file does not hold, bit for bit, what was written.
    """
    file = path / WEIGHTS if path.is_dir() else path
    held = read_tensors(file)
    wrong = sorted(held.keys() ^ written.weights.keys()) or [
        key for key, weight in written.weights.items() if not torch.equal(held[key], weight)
    ]
    if wrong:
        raise RunError(f"{file}: does not hold what was written ({wrong[0]}): the disk or its file system is at fault")
    ours, normalised = subject.tokens(x, spacing), subject.encoder.model.modality(subject.name).normalize(x)
    try:
        peer = one.peer(replace(written, weights=held))
    except ImportError as error:
        peer, why = None, f"{one.package} is not here ({error})"
    else:
        why = f"no package runs {one.title}" if one.package is None else f"{one.package} is not here"
    with torch.no_grad():
        if peer is not None:
            package = one.package or "mae_ext"
            return _compared([ours], [peer(normalised)], f"{package} {_version(package)}")
        back = _read_back(subject, one, path)
        (name,) = back.modalities
        part = back.modality(name)
        theirs = back.encoder(part.tokens(normalised, part.everything(normalised), spacing))
    proof = _compared([ours], [theirs], "mae-ext, which read it back in")
    return replace(proof, words=f"not run elsewhere, {why}; on the disk bit for bit, {proof.words}")


def _read_back(subject: Subject, one: Format, path: Path) -> MAE:
    """Our model of what was written, taken in as any foreign weights are."""
    modality, config = subject.encoder.modality, subject.encoder.config.model
    hints = Hints(config.heads, config.decoder.heads, modality.grid, modality.size, modality.patch, config.norm_eps)
    origin = one.read(read_foreign(path), Hints() if one.name == "safetensors" else hints)
    model = MAE(origin.config, origin.decodes)
    load_weights(model, origin.weights, str(path))
    return model.eval()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of an unknown version"
