"""An encoder or a classifier as a program that needs no mae_ext: torch.export's .pt2, and ONNX; normalising inside."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae_ext.errors import UserError
from mae_ext.export.subject import Subject
from mae_ext.model.mae import MAE

OPSET = 20
"""Of ONNX: the first with GELU as one operator; onnxruntime reads it since 1.17."""

SUFFIXES = {"torch-export": ".pt2", "onnx": ".onnx"}
"""By name, what a file of it is called."""

Run = Callable[[Tensor, Tensor | None], list[Tensor]]
"""(B, C, *S) in reader units, (B, n) spacing | None -> tokens (B, [1 +] N, D), or logits and probabilities."""


class Program(nn.Module):
    """What is traced: no text among its arguments, and a tuple as its result."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.name = subject.name
        self.model: nn.Module = subject.encoder.model if subject.classifier is None else subject.classifier
        self.training = False

    def forward(self, x: Tensor, spacing: Tensor | None = None) -> tuple[Tensor, ...]:
        if isinstance(self.model, MAE):
            return (self.model.encode_all(x, self.name, spacing),)
        logits = self.model(x, self.name, spacing)
        return logits, logits.softmax(1)


def outputs_of(subject: Subject) -> tuple[str, ...]:
    return ("tokens",) if subject.classifier is None else ("logits", "probabilities")


def inputs_of(subject: Subject) -> tuple[str, ...]:
    return ("x", "spacing") if subject.physical else ("x",)


def check_packages(to: str) -> None:
    """Raises UserError where what writes it is not installed."""
    missing = [package for package in ("onnx", "onnxscript") if to == "onnx" and find_spec(package) is None]
    if missing:
        raise UserError(f"--to onnx needs {' and '.join(missing)}: pip install 'mae-ext[export]'")


def write_program(subject: Subject, to: str, path: Path, facts: Mapping[str, str]) -> None:
    """facts: texts that are kept inside the file, by name. Raises UserError for parts that cannot be traced."""
    x = torch.zeros(2, subject.encoder.modality.channels, *subject.encoder.modality.size)
    inputs = (x, torch.ones(2, x.dim() - 2)) if subject.physical else (x,)
    batch = torch.export.Dim("batch")
    program, sizes = Program(subject), tuple({0: batch} for _ in inputs)
    with _quiet(), torch.no_grad():
        try:
            traced = torch.export.export(program, inputs, dynamic_shapes=sizes, strict=False)
            if to == "torch-export":
                torch.export.save(traced, path, extra_files=dict(facts))
                return
            made = torch.onnx.export(
                traced, inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=sizes, verbose=False,
                input_names=inputs_of(subject), output_names=outputs_of(subject),
            )  # fmt: skip
        except OSError:
            raise
        except Exception as error:  # torch raises whatever its tracer meets in a plug-in's code
            embed, position = subject.encoder.modality.embed.name, subject.encoder.modality.position.name
            raise UserError(
                f"{subject.origin.where}: cannot be traced for {to} (embedder '{embed}', position '{position}'): "
                f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            ) from error
        assert made is not None
        shape = made.model.graph.inputs[0].shape
        assert shape is not None
        made.rename_axes({str(shape[0]): "batch"})
        made.model.metadata_props.update(facts)
        made.save(path)


def open_program(to: str, path: Path) -> Run:
    """A written program, in a fresh object. Raises ImportError where nothing can run it."""
    if to == "torch-export":
        with _quiet():
            module = torch.export.load(path).module()

        def run_traced(x: Tensor, spacing: Tensor | None) -> list[Tensor]:
            with torch.no_grad():
                return list(module(x) if spacing is None else module(x, spacing))

        return run_traced
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(x: Tensor, spacing: Tensor | None) -> list[Tensor]:
        values = {"x": x} if spacing is None else {"x": x, "spacing": spacing}
        outputs: list[Any] = session.run(None, {name: value.numpy() for name, value in values.items()})
        return [torch.from_numpy(output) for output in outputs]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch says of itself while it traces and writes (packages that are not needed, its own old calls)."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
