"""Teachers of targets that have one: read when a run begins or goes on, and no part of what it trains or saves."""

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.engine.checkpoint import load_weights
from mae_ext.engine.cpu import on_device
from mae_ext.engine.start import Named, opened
from mae_ext.errors import CheckpointError, ConfigError
from mae_ext.modality_config import ModalityConfig
from mae_ext.model.mae import MAE
from mae_ext.model.modality import Modality
from mae_ext.model.teacher import TeacherTarget
from mae_ext.sections import PlugIn
from mae_ext.strict_json import dumps

TEACHER = "teacher"
"""What the target is called in a config."""

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""By the number of axes, how a map of tokens is brought to another grid."""


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder, of which one modality is asked. config: of that modality. shape: what the encoder's config says
    of it. where: it is from, for messages."""

    model: MAE
    name: str
    config: ModalityConfig
    shape: dict[str, Any]
    where: str

    @property
    def digest(self) -> str:
        """Of all that its tokens depend on: weights, heads and what else has no weights."""
        tokens = self.config.model_dump(mode="json", include={"size", "patch", "embed", "position"})
        hashed = hashlib.sha256(dumps({**tokens, **self.shape}).encode())
        for name, value in sorted(self.model.state_dict().items()):
            hashed.update(f"{name} {list(value.shape)}".encode())
            hashed.update(value.detach().cpu().contiguous().numpy().tobytes())
        return hashed.hexdigest()[:16]

    def of_student(self, student: Modality, device: torch.device) -> "Pupil":
        return Pupil(on_device(self.model, device), self, student)


@dataclass(frozen=True)
class Pupil:
    """What a target is handed: its teacher, seeing what the student's modality sees."""

    model: MAE
    teacher: Teacher
    student: Modality

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def __call__(self, x: Tensor, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) as the student normalises it, (B, n) | None -> (B, D, *grid of the student) float32."""
        grid, size = self.student.grid_of(x), self.teacher.config.size
        mode = MODES.get(len(size), "none")
        if self.teacher.config.data.statistics != "measured":  # else nobody knows any: it is given what the student is
            x = self.student.denormalize(x)
        if tuple(x.shape[2:]) != size:
            seen = torch.tensor(x.shape[2:], device=x.device) / torch.tensor(size, device=x.device)
            spacing = spacing if spacing is None else spacing * seen
            x = F.interpolate(x, size, mode=mode, align_corners=False)
        tokens = self.model.encode(x, self.teacher.name, spacing).float()
        maps = tokens.transpose(1, 2).unflatten(2, self.teacher.config.grid)
        return maps if maps.shape[2:] == grid else F.interpolate(maps, grid, mode=mode, align_corners=False)


def settled(config: Config, old: Config | None = None) -> Config:
    """The config with the width and the digest of each teacher, and its place as an absolute path.

    old: of the checkpoint that a run goes on from, which knows them where it has the same teacher. Raises UserError
    for a teacher that cannot be read, or is of another kind of sample.
    """
    modalities = dict(config.modalities)
    for name, m in config.modalities.items():
        if m.target.name == TEACHER:
            known = old.modalities[name].target if old is not None and name in old.modalities else None
            modalities[name] = m.model_copy(update={"target": _settled(name, m, known)})
    return config.model_copy(update={"modalities": modalities})


def _settled(name: str, m: ModalityConfig, known: PlugIn | None) -> PlugIn:
    arguments = dict(m.target.arguments)
    arguments["of"] = of = str(Named.of(str(arguments["of"])).absolute())
    if known is not None and known.name == TEACHER and known.arguments.get("of") == of:
        facts = {key: known.arguments.get(key) for key in ("width", "digest")}
    else:
        teacher = teacher_of(name, m)
        facts = {"width": teacher.shape["width"], "digest": teacher.digest}
    return PlugIn(name=TEACHER, **{**facts, **{k: v for k, v in arguments.items() if v is not None}})


def teacher_of(name: str, m: ModalityConfig) -> Teacher:
    """That of a modality. Raises CheckpointError where it cannot be read, ConfigError where it cannot teach this."""
    of = str(m.target.arguments["of"])
    origin, where = opened(of), f"modalities.{name}.target.of={of}"
    names = list(origin.config.modalities)
    if name not in names and len(names) > 1:
        raise ConfigError(f"{where} has no modality '{name}', but {', '.join(names)}; expected one of the same name")
    source = name if name in names else names[0]
    config = origin.config.modalities[source]
    for what, theirs, ours in (("axes", len(config.size), len(m.size)), ("channels", config.channels, m.channels)):
        if theirs != ours:
            raise ConfigError(f"{where} sees samples of {theirs} {what}, and modalities.{name} has {ours}")
    if (config.size, config.grid) != (m.size, m.grid) and len(m.size) not in MODES:
        raise ConfigError(
            f"{where} has size {list(config.size)} and patch {list(config.patch)}; with {len(m.size)} axes both have "
            f"to be the student's, {list(m.size)} and {list(m.patch)}"
        )
    alone = origin.config.model_copy(update={"modalities": {source: config}})
    model = MAE(alone, decodes=False)
    weights = {key: origin.weights[key] for key in model.state_dict() if key in origin.weights}
    load_weights(model, weights, origin.where)
    shape = alone.model.model_dump(mode="json", include={"width", "heads", "norm_eps"})
    return Teacher(model.eval().requires_grad_(False), source, config, shape, of)


def taught(model: nn.Module, config: Config, device: torch.device) -> None:
    """Hands each target of `model` that answers a teacher its own. Raises CheckpointError for one that has changed."""
    for modality in model.modules():
        if isinstance(modality, Modality) and modality.predict and isinstance(modality.target, TeacherTarget):
            teacher = teacher_of(modality.name, config.modalities[modality.name])
            stated = modality.target.digest
            if stated is not None and stated != (digest := teacher.digest):
                raise CheckpointError(
                    f"modalities.{modality.name}.target.of={teacher.where} is not the teacher that this run began with "
                    f"(digest {digest}, then {stated}); bring that one back, or choose another --out and no digest"
                )
            modality.target.features.teacher = teacher.of_student(modality, device)


def same_teachers(of: nn.Module, copy: nn.Module) -> None:
    """Hands the teachers of one model to a copy of it, which has the same modalities in the same order."""
    for own, other in zip(of.modules(), copy.modules(), strict=False):
        if isinstance(own, TeacherTarget) and isinstance(other, TeacherTarget):
            other.features.teacher = own.features.teacher
