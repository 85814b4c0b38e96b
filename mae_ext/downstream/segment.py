"""The task of segmentation: a class for every voxel, of crops in training and of whole samples afterwards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mae_ext.config import Config, ModalityConfig
from mae_ext.data.labelmap import Labels, Recorded
from mae_ext.data.loader import ModalityData, build_reader
from mae_ext.data.sample import Batch, read_checked
from mae_ext.data.statistics import resolve_statistics, spread
from mae_ext.downstream.backbone import load_backbone
from mae_ext.downstream.classes import check_apart
from mae_ext.downstream.heads import Segmenter
from mae_ext.downstream.outputs import addresses_of, result_paths
from mae_ext.downstream.pairs import TARGET, PairedExamples, check_extent, label_reader
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.log import warn
from mae_ext.engine.pretrain import with_statistics
from mae_ext.engine.task import Progress
from mae_ext.errors import BadSample, ConfigError, UserError, check_bad, some

LOOKED_AT = 64
"""Label maps, spread over the training data, of which one has to hold a label; those that hold none are named."""

WINDOWS = 4
"""Windows of a whole sample that are answered together."""


class Segmentation:
    """Fine-tune for a class of every voxel.

    classes: the names of the labels 1, 2, ...; 0 is the background. masks: the label maps, a folder with files of the
    samples' names, or a .csv with the columns path and mask; test_masks: those of the test data, if they are elsewhere.
    foreground: whatever is above 0 is one class, as where numbers are instances. head: "linear", or "unetr" with so
    many features. balance: the share of crops that are moved onto a label. overlap: of neighbouring windows of a whole
    sample, 0..1 (0.5 as in MONAI's UNETR tutorials). distort, strength: as in classification, of values alone. surface:
    also the 95th percentile of the Hausdorff distance, and the surface Dice at one voxel (or mm, with a spacing).
    """

    def __init__(
        self,
        classes: Sequence[str],
        masks: str | None = None,
        test_masks: str | None = None,
        foreground: bool = False,
        head: Literal["linear", "unetr"] = "linear",
        features: int = 16,
        balance: float = 0.5,
        overlap: float = 0.5,
        distort: int = 0,
        strength: float = 0.5,
        surface: bool = False,
    ) -> None:
        if isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes={classes}: expected a list of different names, of the labels 1, 2, ...")
        if foreground and len(classes) > 1:
            raise ValueError(f"foreground: makes one class of all labels, and classes names {len(classes)}")
        if head not in ("linear", "unetr"):
            raise ValueError(f"head={head!r}: expected 'linear' or 'unetr'")
        for what, value, most in (("balance", balance, 1.0), ("overlap", overlap, 0.9), ("strength", strength, 1.0)):
            if not 0 <= value <= most:
                raise ValueError(f"{what}={value}: expected 0 to {most:g}")
        if not isinstance(distort, int) or not 0 <= distort < 100 or not 1 <= features <= 1024:
            raise ValueError(f"distort={distort}, features={features}: expected whole numbers, of features 1 at least")
        self.classes, self.masks, self.test_masks, self.foreground = tuple(classes), masks, test_masks, foreground
        self.head, self.features, self.balance, self.overlap = head, features, balance, overlap
        self.distort, self.strength, self.surface = distort, strength, surface

    def data(self, config: Config, rank: int = 0, world: int = 1) -> dict[str, ModalityData]:
        name, modality = self._modality(config)
        examples = self._examples(config, modality.data.path, self.masks, "data.path", "--data")
        if modality.data.test is not None:
            assert modality.data.path is not None
            check_apart(examples.items, self._held_out(config).items, modality.data.path, modality.data.test)
        return {name: ModalityData(config.seed, name, modality, rank, world, examples)}

    def settle(self, config: Config, data: Mapping[str, ModalityData], old: Config | None) -> Config:
        if old is not None:
            return with_statistics(config, old)
        examples = next(iter(data.values())).examples
        assert isinstance(examples, PairedExamples)
        looked_at = spread(len(examples.items), LOOKED_AT)
        problems, empty = [], []
        for index in looked_at:
            try:
                if not bool((examples.label_map(index) > 0).any()):
                    empty.append(examples.maps[index])
            except BadSample as error:
                problems.append(str(error))
        if len(empty) + len(problems) == len(looked_at):
            told = f"; {len(problems)} cannot be read, the first: {problems[0]}" if problems else ""
            raise UserError(f"task.masks {self.masks}: no label map that was looked at holds a label above 0{told}")
        if empty:
            warn(
                f"task.masks {self.masks}: {len(empty)} of {len(looked_at)} label maps that were looked at hold no "
                f"label, so their samples teach background alone: {some(empty)}"
            )
        return resolve_statistics(config, data)

    def model(self, config: Config) -> nn.Module:
        name, _ = self._modality(config)
        return Segmenter(config, name, self.head, 1 + len(self.classes), self.features)

    def start(self, model: nn.Module, config: Config) -> None:
        assert isinstance(model, Segmenter) and config.init is not None
        load_backbone(model.backbone, config.init)

    def loss(self, model: nn.Module, name: str, batch: Batch, gates: Tensor | None) -> Tensor:
        from monai.losses.dice import DiceCELoss

        measure = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
        loss: Tensor = measure(model(batch.x, name, batch.spacing, gates), batch.targets[TARGET][:, None])
        return loss

    def evaluate(self, model: nn.Module, config: Config, ranks: Ranks) -> dict[str, float]:
        from mae_ext.downstream.overlap import dice, mean_scores, surface_scores

        _, modality = self._modality(config)
        if modality.data.test is None:
            return {}
        examples = self._held_out(config)
        rows: list[tuple[int, dict[str, float]]] = []
        bad: list[str] = []
        for index in range(ranks.rank, len(examples.items), ranks.world):
            try:
                labels = examples.label_map(index)
                found, spacing = self._segmented(model, config, examples.items.addresses[index], ranks.device)
                check_extent(examples.maps[index], labels, examples.items.addresses[index], found.shape)
            except BadSample as error:
                bad.append(str(error))
                continue
            scores = dice(found, labels, self.classes)
            rows.append(
                (index, scores | (surface_scores(found, labels, self.classes, spacing) if self.surface else {}))
            )
        parts = ranks.gather((rows, bad))
        wrong = [problem for _, problems in parts for problem in problems]
        check_bad(wrong, len(examples.items), modality.data.max_bad_fraction, modality.data.test)
        # In the order of the list, so that the sums are the same for any number of ranks.
        everyone = sorted((row for found, _ in parts for row in found), key=lambda row: row[0])
        return mean_scores([scores for _, scores in everyone])

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Progress | None = None
    ) -> list[Path]:
        """A label map for each sample, in its own geometry and under its own name; see `result_paths`."""
        name, modality = self._modality(config)
        reader = build_reader(modality, f"modalities.{name}.data.reader")
        writer = label_reader(reader, modality.data.reader.name)
        suffixes = tuple(reader.suffixes)
        addresses = addresses_of(sources, suffixes)
        paths = result_paths(addresses, suffixes, out, writer.label_suffix)
        device = next(model.parameters()).device
        written: list[Path] = []
        try:
            for done, (address, path) in enumerate(zip(addresses, paths, strict=True)):
                try:
                    found, _ = self._segmented(model, config, address, device)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer.write_labels(found, address, path)
                except BadSample as error:
                    warn(f"left out: {error}")
                    continue
                written.append(path)
                if progress is not None:
                    progress(done + 1, len(addresses))
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
        if not written:
            raise UserError(f"{', '.join(sources)}: none of the {len(addresses)} samples can be read")
        return written

    def _segmented(
        self, model: nn.Module, config: Config, address: str, device: torch.device
    ) -> tuple[Labels, tuple[float, ...] | None]:
        """(*extent) labels of a whole sample, by windows of the model's size, and its spacing. Raises BadSample."""
        from monai.inferers.utils import sliding_window_inference

        name, modality = self._modality(config)
        seen = Recorded()
        read_checked(build_reader(modality, "reader"), address, [seen])
        whole = modality.model_copy(update={"size": seen.extent})
        sample = read_checked(build_reader(whole, "reader"), address, [Recorded()])[0]
        x = sample.x[None].float() / 255 if sample.x.dtype == torch.uint8 else sample.x[None]
        spacing = None if sample.spacing is None else torch.tensor(sample.spacing, device=device)

        def answer(windows: Tensor) -> Tensor:
            steps = None if spacing is None else spacing.expand(len(windows), -1)
            logits: Tensor = model(windows, name, steps)
            return logits.softmax(1)

        # Windows are answered on the device; what adds up to the whole, a float for each voxel and class, is not.
        scores = sliding_window_inference(
            x, modality.size, WINDOWS, answer, overlap=self.overlap, mode="gaussian", cval=float(x.min()),
            sw_device=device, device=torch.device("cpu"),
        )  # fmt: skip
        assert isinstance(scores, Tensor)
        return scores[0].argmax(0).numpy().astype(np.int32), sample.spacing

    def _held_out(self, config: Config) -> PairedExamples:
        _, modality = self._modality(config)
        return self._examples(config, modality.data.test, self.test_masks or self.masks, "data.test", "--test")

    def _examples(self, config: Config, path: str | None, masks: str | None, key: str, option: str) -> PairedExamples:
        name, _ = self._modality(config)
        if path is None:
            raise UserError(f"modalities.{name}.{key} is not set: give {option} PATH")
        if masks is None:
            raise UserError(
                "task.masks is not set: give --set task.masks=FOLDER, the label maps under the samples' names"
            )
        return PairedExamples(self, config, name, path, masks)

    def _modality(self, config: Config) -> tuple[str, ModalityConfig]:
        if len(config.modalities) > 1:
            raise ConfigError(f"task segment takes one modality, and the config has {', '.join(config.modalities)}")
        return next(iter(config.modalities.items()))
