"""What is taken away: one modality's encoder, of whatever `opened` takes, and the classifier of a run that has one."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mae_ext.config import one_modality
from mae_ext.data.sample import stack
from mae_ext.data.sources.path_table import PathTable
from mae_ext.data.sources.table import Items
from mae_ext.engine.checkpoint import find, load_weights, read_config, read_tensors
from mae_ext.engine.outputs import addresses_of
from mae_ext.engine.start import Named, opened
from mae_ext.engine.task import build_model
from mae_ext.errors import BadSample
from mae_ext.features.encoder import FrozenEncoder
from mae_ext.interop.origin import Origin
from mae_ext.model.mae import MAE
from mae_ext.model.units import in_units
from mae_ext.rng import rng
from mae_ext.tasks.classify.task import Classifier
from mae_ext.tasks.reconstruction import without_decoder

UNKNOWN = "mean and std are not known: nobody measured them; the model takes values as they come"


@dataclass(frozen=True)
class Subject:
    """origin: as opened. encoder: of one modality and without a decoder, plain PyTorch on the CPU, in eval mode.

    classifier: of a run of classification, with the names of its classes; else None and (). remarks: for the user.
    """

    origin: Origin
    encoder: FrozenEncoder
    classifier: Classifier | None = None
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the modality."""
        return self.encoder.name

    @property
    def physical(self) -> bool:
        """Whether its positions are in mm or seconds, so that a sample's spacing is an input as well."""
        return getattr(self.encoder.model.modality(self.name).position, "unit", None) is not None

    def tokens(self, x: Tensor, spacing: Tensor | None) -> Tensor:
        """(B, C, *S) in reader units -> (B, [1 +] N, D)."""
        with torch.no_grad():
            return self.encoder.model.encode_all(x, self.name, spacing)

    def samples(self, file: str | None) -> tuple[Tensor, Tensor | None]:
        """(B, C, *S) float32 in reader units and (B, n) spacing: the file as the run's reader and evaluation have it.

        The first of a folder. Without one, two samples of noise with the data's mean and deviation, voxels 1 apart.
        Raises UserError for a source without samples, BadSample for one that cannot be read.
        """
        if file is not None:
            first = addresses_of([file], tuple(self.encoder.reader().suffixes))[:1]
            (outcome,) = self.encoder.decode(Items(PathTable(first)), threads=1)
            if isinstance(outcome, BadSample):
                raise outcome
            x, spacing = stack([outcome])
            return in_units(x), spacing if self.physical else None
        modality = self.encoder.model.modality(self.name)
        noise = torch.randn(2, modality.channels, *modality.size, generator=rng(0, "export"))
        return modality.denormalize(noise), torch.ones(2, len(modality.size)) if self.physical else None


def subject_of(what: str | Path, name: str | None = None, encoder_only: bool = False) -> Subject:
    """what: a run, a checkpoint, a foreign file or folder, FORMAT:PATH. Raises CheckpointError, UserError."""
    origin, named = opened(what), Named.of(what)
    name = one_modality(name, origin.config, str(what))
    config = origin.config.model_copy(update={"modalities": {name: origin.config.modalities[name]}})
    model = MAE(config, decodes=False)
    weights = {key: origin.weights[key] for key in model.state_dict() if key in origin.weights}
    load_weights(model, weights, origin.where)
    remarks = (*origin.notes, *([UNKNOWN] if config.modalities[name].data.statistics == "measured" else []))
    subject = Subject(origin, FrozenEncoder(model.eval(), config, name, 0, Path(origin.where)), remarks=remarks)
    task = config.task.name
    if not named.ours or task == "pretrain" or encoder_only:
        return subject
    path = find(named.path)
    whole = build_model(read_config(path))
    if isinstance(whole, Classifier):
        load_weights(whole, read_tensors(path / "model.safetensors"), str(path))
        without_decoder(whole.backbone)
        return replace(subject, classifier=whole.eval(), classes=tuple(config.task.arguments["classes"]))
    remark = f"the encoder alone: of the task '{task}' nothing but the encoder can be taken along"
    return replace(subject, remarks=(*subject.remarks, remark))
