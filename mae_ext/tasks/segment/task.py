"""The task of segmentation: a class for every voxel, of crops in training and of whole samples afterwards."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.data.batch import Batch
from mae_ext.data.crops import training_shape
from mae_ext.data.labelmap import Labels
from mae_ext.data.loading.batches import ModalityData, build_reader
from mae_ext.data.loading.examples import HeldOut
from mae_ext.data.loading.slabs import read_slabs, stored_places, within_memory
from mae_ext.data.plan import spread
from mae_ext.data.sample import extent_of
from mae_ext.data.sources.classes import check_apart
from mae_ext.engine.log import warn
from mae_ext.engine.outputs import Results, addresses_of, result_paths
from mae_ext.errors import BadSample, NoneMeasurable, UserError, reasons, some
from mae_ext.progress import Progress
from mae_ext.tasks.finetuning import FineTuning
from mae_ext.tasks.reconstruction import Reconstruction, with_reconstruction
from mae_ext.tasks.segment.heads import HeadName, Segmenter
from mae_ext.tasks.segment.overlap import dice, found_wrongly, loss_of_known, mean_scores, surface_scores
from mae_ext.tasks.segment.pairs import TARGET, PairedExamples, check_extent, label_reader
from mae_ext.tasks.segment.windows import segment

LOOKED_AT = 64
"""Label maps, spread over the training data, of which one has to hold a label; those that hold none are named."""

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".heic", ".heif")


class Segmentation(FineTuning):
    """Fine-tune for a class of every voxel.

    classes: the names of the labels 1, 2, ...; 0 is the background. masks: the label maps, a folder with files of the
    samples' names, a path with {case} for a sample's name, or a .csv with the columns path and mask; test_masks: those
    of the test data, if they are elsewhere.
    foreground: whatever is above 0 is one class, as where numbers are instances. ignore: the number that says that
    nothing is known (255 in VOC and Cityscapes): neither learned, nor judged, nor sought by balance. head: "linear",
    or with so many features "unetr" or the much lighter "upsample", which joins so many `layers` of the encoder.
    balance: the share of crops that are moved onto a label. overlap: of neighbouring windows of a whole sample, 0..1
    (0.5 as in MONAI's UNETR tutorials). distort, strength: as in classification, of values alone. surface: also the
    95th percentile of the Hausdorff distance, and the surface Dice at one voxel (or mm, with a spacing).
    reconstruct, unlabelled, unlabelled_batch: as `Reconstruction` has them.
    """

    chief = ("dice", "most")

    def __init__(
        self,
        classes: Sequence[str],
        masks: str | None = None,
        test_masks: str | None = None,
        foreground: bool = False,
        ignore: int | None = None,
        head: HeadName = "linear",
        features: int = 16,
        layers: int = 1,
        balance: float = 0.5,
        overlap: float = 0.5,
        distort: int = 0,
        strength: float = 0.5,
        surface: bool = False,
        reconstruct: float = 0.0,
        unlabelled: str | None = None,
        unlabelled_batch: int | None = None,
    ) -> None:
        if isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
            raise ValueError(f"classes={classes}: expected a list of different names, of the labels 1, 2, ...")
        if foreground and len(classes) > 1:
            raise ValueError(f"foreground: makes one class of all labels, and classes names {len(classes)}")
        if ignore is not None and (not isinstance(ignore, int) or isinstance(ignore, bool) or ignore < 0):
            raise ValueError(f"ignore={ignore!r}: expected the one number that label maps have where nothing is known")
        if ignore is not None and not foreground and 0 < ignore <= len(classes):
            raise ValueError(f"ignore={ignore}: is the number of '{classes[ignore - 1]}', and no class could be it")
        if head not in get_args(HeadName):
            raise ValueError(f"head={head!r}: expected 'linear', 'unetr' or 'upsample'")
        if not isinstance(layers, int) or layers < 1 or (layers > 1 and head != "upsample"):
            raise ValueError(
                f"layers={layers}: expected a whole number of the encoder's layers, above 1 for head upsample"
            )
        for what, value, most in (("balance", balance, 1.0), ("overlap", overlap, 0.9), ("strength", strength, 1.0)):
            if not 0 <= value <= most:
                raise ValueError(f"{what}={value}: expected 0 to {most:g}")
        if not isinstance(distort, int) or not 0 <= distort < 100 or not 1 <= features <= 1024:
            raise ValueError(f"distort={distort}, features={features}: expected whole numbers, of features 1 at least")
        self.classes, self.masks, self.test_masks, self.foreground = tuple(classes), masks, test_masks, foreground
        self.ignore = ignore
        self.head, self.features, self.layers, self.balance, self.overlap = head, features, layers, balance, overlap
        self.distort, self.strength, self.surface = distort, strength, surface
        self.reconstruction = Reconstruction(reconstruct, unlabelled, unlabelled_batch)

    def examples(self, config: Config, name: str) -> tuple[PairedExamples, HeldOut | None]:
        source, test = config.modalities[name].data.path, config.modalities[name].data.test
        assert source is not None
        train = self._paired(config, name, source, self.masks)
        if test is None:
            return train, None
        judged = self._paired(config, name, test, self.test_masks or self.masks)
        check_apart(train.items, judged.items, source, test)
        return train, HeldOut(judged.items, judged)

    def settle(self, config: Config, data: dict[str, ModalityData], old: Config | None) -> Config:
        if old is not None:
            return super().settle(config, data, old)
        examples = data[self.modality_of(config)[0]].examples
        assert isinstance(examples, PairedExamples)
        looked_at = spread(len(examples.items), LOOKED_AT)
        problems, empty = [], []
        for index in looked_at:
            try:
                if not bool((examples.label_map(index) > 0).any()):
                    empty.append(examples.maps[index])
            except BadSample as error:
                problems.append(error)
        if len(empty) + len(problems) == len(looked_at):
            why = f"; {len(problems)} cannot be used: {reasons(problems)}" if problems else f": {some(empty)}"
            raise NoneMeasurable(
                f"task.masks {self.masks}: no label map that was looked at holds a label above 0{why}",
                [{"modality": examples.name, **error.row} for error in problems],
            )
        if lossy := [path for path in examples.maps if path.lower().endswith(LOSSY)]:
            warn(
                f"task.masks {self.masks}: {len(lossy)} label maps are stored with loss, such as {lossy[0]}: read as "
                f"two numbers, 0 and 255, told apart in the middle; PNG keeps what was drawn"
            )
        if empty:
            warn(
                f"task.masks {self.masks}: {len(empty)} of {len(looked_at)} label maps that were looked at hold no "
                f"label, so their samples teach background alone: {some(empty)}"
            )
        return super().settle(config, data, old)

    def model(self, config: Config) -> nn.Module:
        name, _ = self.modality_of(config)
        return Segmenter(config, name, self.head, 1 + len(self.classes), self.features, self.layers)

    @with_reconstruction
    def loss(self, model: nn.Module, name: str, batch: Batch) -> Tensor:
        from monai.losses.dice import DiceCELoss

        answers, wanted = model(batch.x, name, batch.spacing), batch.targets[TARGET]
        if self.ignore is not None:
            return loss_of_known(answers, wanted)
        measure = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
        if torch.are_deterministic_algorithms_enabled():  # PyTorch's mean over a map is not, on a GPU; a sum of its is
            measure.cross_entropy.reduction = "none"
        loss: Tensor = measure(answers, wanted[:, None]).mean()
        return loss

    def answers(
        self, model: nn.Module, config: Config, examples: PairedExamples, rows: Sequence[int], device: torch.device,
        bad: list[Any],
    ) -> Iterator[tuple[int, dict[str, float]]]:  # fmt: skip
        """The scores of each sample: label maps of all of them would fill the memory."""
        for row in rows:
            address = examples.items.addresses[row]
            try:
                with within_memory(address):
                    wanted = examples.label_map(row, as_stored=True)
                    labels, spacing = self._segmented(model, config, address, device)
                    check_extent(examples.maps[row], wanted, address, labels.shape)
                    scores = dice(labels, wanted, self.classes) | found_wrongly(labels, wanted, self.classes)
                    if self.surface:
                        scores |= surface_scores(labels, wanted, self.classes, spacing)
            except BadSample as error:
                bad.append(error)
                continue
            yield row, scores

    def scores(
        self, examples: PairedExamples, answers: list[tuple[int, dict[str, float]]], bad: list[Any]
    ) -> dict[str, float]:
        return mean_scores([scores for _, scores in answers])

    def predict(
        self, model: nn.Module, config: Config, sources: Sequence[str], out: Path, progress: Progress | None = None
    ) -> list[Path]:
        """A label map for each sample, in its own geometry and under its own name; see `result_paths`, `Results`."""
        name, modality = self.modality_of(config)
        reader = build_reader(modality, f"modalities.{name}.data.reader")
        writer = label_reader(reader, modality.data.reader.name)
        suffixes = tuple(reader.suffixes)
        addresses = addresses_of(sources, suffixes)
        paths = result_paths(addresses, suffixes, out, writer.label_suffix)
        device = next(model.parameters()).device
        try:
            with Results(out, model, config) as results:
                left = results.open(addresses, paths)
                for done, index in enumerate(left):
                    address = addresses[index]
                    try:
                        with within_memory(address):
                            labels, _ = self._segmented(model, config, address, device, results.unfinished)
                            with results.writing(address, paths[index]) as path:
                                writer.write_labels(labels, address, path, as_stored=True)
                    except BadSample as error:
                        results.leave_out(error)
                    if progress is not None:
                        progress(len(addresses) - len(left) + done + 1, len(addresses))
                if len(results.missing) == len(addresses):
                    raise UserError(
                        f"{', '.join(sources)}: none of the {len(addresses)} samples can be read: "
                        f"{reasons(results.missing)}"
                    )
        except OSError as error:
            raise UserError(f"{out}: cannot be written: {error.strerror or error}") from None
        return [path for path in paths if path.exists()]

    def _segmented(
        self, model: nn.Module, config: Config, address: str, device: torch.device, scratch: Path | None = None
    ) -> tuple[Labels, tuple[float, ...] | None]:
        """Labels of a whole sample on the voxels it is stored in, and their spacing. Raises BadSample."""
        assert isinstance(model, Segmenter)
        name, modality = self.modality_of(config)
        extent = extent_of(build_reader(modality, "reader"), address)
        shape = training_shape(modality.data.augment, modality.size, extent.size)
        samples = read_slabs(modality, address, shape, extent.size)
        spacing = samples[0].spacing
        steps = None if spacing is None else torch.tensor(spacing, device=device)

        def answer(windows: Tensor) -> Tensor:
            return model.probabilities(windows, name, None if steps is None else steps.expand(len(windows), -1))

        places = stored_places(extent, shape)
        slabs = [sample.x for sample in samples]
        del samples
        try:
            labels = segment(slabs, modality.size, self.overlap, answer, places, device, scratch)
        except OSError as error:
            raise BadSample(address, "out of memory", f"and no room on disk: {error.strerror or error}") from error
        return labels, extent.stored_spacing

    def _paired(self, config: Config, name: str, source: str, masks: str | None) -> PairedExamples:
        if masks is None:
            raise UserError(
                "task.masks is not set: give --set task.masks=FOLDER, the label maps under the samples' names"
            )
        return PairedExamples(self, config, name, source, masks)
