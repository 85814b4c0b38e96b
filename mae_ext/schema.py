"""The keys of a config, section by section. What a key means stands below it; the reference is made of that."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mae_ext.model.grid import grid_of
from mae_ext.schedule import ProbeConfig

SIZES: dict[str, dict[str, int]] = {
    # width, depth, heads: DeiT (2012.12877) for tiny and small, ViT (2010.11929) for the rest.
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "huge": {"width": 1280, "depth": 32, "heads": 16},
}

Positive = Annotated[int, Field(ge=1, lt=2**31)]
Share = Annotated[float, Field(ge=0, le=1)]
Lengths = tuple[Positive, ...]


class Section(BaseModel):
    """Keys that belong together. A key that is none is an error."""

    # The strings below keys are in the JSON schema then, for editors and for the reference.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _unnamed(cls, values: Any) -> Any:
        """{max_pixels: 1} is about the plug-in that a key has by default, and whose arguments it keeps."""
        for key, default in ((key, f.default) for key, f in cls.model_fields.items() if isinstance(f.default, PlugIn)):
            if isinstance(values, dict) and isinstance(given := values.get(key), dict) and "name" not in given:
                values = {**values, key: {**default.model_dump(), **given}}
        return values


class PlugIn(BaseModel):
    """{name: tube, ratio: 0.9}, or just a name. Everything but the name is an argument of the plug-in."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Named = Annotated[PlugIn, BeforeValidator(_named)]


class DecoderConfig(Section):
    """MAE's decoder (2111.06377): narrow and shallow, as it is thrown away."""

    width: Positive = 512
    """Numbers in a token, E."""
    depth: Positive = 8
    """Blocks."""
    heads: Positive = 16
    """Of attention; they divide the width."""


class ModelConfig(Section):
    """`size` names width, depth and heads; each can be given by itself instead."""

    size: Literal["tiny", "small", "base", "large", "huge"] | None = None
    """A name for width, depth and heads: tiny (192, 12, 3), small (384, 12, 6), base (768, 12, 12), large
    (1024, 24, 16), huge (1280, 32, 16)."""
    width: Positive | None = None
    """Numbers in a token of the encoder, D."""
    depth: Positive | None = None
    """Blocks of the encoder."""
    heads: Positive | None = None
    """Of its attention; they divide the width."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Width between a block's two layers over that of a token, in encoder and decoder."""
    class_token: bool = True
    """A token of no patch before the others, which the pool `class` takes."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth (1603.09382): the chance that a sample skips a half of the last block. Rises over the blocks,
    from 0."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    """What layer norms add to a variance."""
    decoder: DecoderConfig = DecoderConfig()
    """Answers for hidden patches; a task has none."""

    @model_validator(mode="before")
    @classmethod
    def _size(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("size"), str) and values["size"] in SIZES:
            given = {k: v for k, v in values.items() if v is not None}
            values = SIZES[values["size"]] | given
        return values

    @model_validator(mode="after")
    def _heads(self) -> "ModelConfig":
        if None in (self.width, self.depth, self.heads):
            raise ValueError("give `size`, or all of `width`, `depth` and `heads`")
        for name, width, heads in (("", self.width, self.heads), ("decoder.", self.decoder.width, self.decoder.heads)):
            if width % heads:  # type: ignore[operator]
                raise ValueError(f"{name}heads={heads} does not divide {name}width={width}")
            if width * self.mlp_ratio < 1:  # type: ignore[operator]
                raise ValueError(
                    f"mlp_ratio={self.mlp_ratio:g} leaves nothing of {name}width={width} between two layers"
                )
        return self


class Statistics(Section):
    """Per-channel mean and standard deviation in the reader's units (uint8 counts as 0..1)."""

    mean: tuple[float, ...]
    """A number for each channel, or one for all."""
    std: tuple[Annotated[float, Field(gt=0)], ...]
    """Likewise."""

    @model_validator(mode="after")
    def _same_length(self) -> "Statistics":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels and std has {len(self.std)}")
        return self


class AugmentConfig(Section):
    """Random resized crop and flip."""

    scale: tuple[Share, Share] | None = (0.2, 1.0)
    """Share of the source's area that a crop covers, least and most; null is all of it."""
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """Width over height of a crop, least and most, over that of `size`: 1 distorts nothing."""
    fixed: tuple[int, ...] = ()
    """Axes along which a sample is exactly as many of the source's voxels as the model sees, at a random place: time in
    a clip, all three axes of a volume. `scale` and `aspect` are about the last two axes where those are not fixed."""
    flip: tuple[int, ...] = (-1,)
    """Axes flipped with probability 1/2, counted as in Python: -1 is the last (left-right in an image)."""

    @model_validator(mode="after")
    def _ordered(self) -> "AugmentConfig":
        for name, pair in (("scale", self.scale), ("aspect", self.aspect)):
            if pair is not None and not 0 < pair[0] <= pair[1]:
                raise ValueError(f"{name}={list(pair)} must be [low, high] with 0 < low <= high")
        return self


class DataConfig(Section):
    """Which files, and what becomes of them."""

    path: str | None = None
    """A folder, list, shards or .npz; --data sets it."""
    test: str | None = None
    """Held-out data that a task is judged on; pretraining has none."""
    reader: Named = PlugIn(name="image")
    """What reads the files."""
    augment: AugmentConfig = AugmentConfig()
    """How samples are cut in training."""
    statistics: Literal["measured", "imagenet", "none"] | Statistics = "measured"
    """`measured` on the data at the start, `imagenet`'s (RGB), `none` (0 and 1), or numbers."""
    repeats: Positive = 1
    """Samples drawn from one opening of a file (MAE-ST's repeated sampling). They count in batch and epoch."""
    max_bad_fraction: Share = 0.01
    """Share of files that may be bad before a run stops."""


class ModalityConfig(Section):
    """A kind of data, its tokens and its masks."""

    size: Lengths
    """Of what the model sees, slowest axis first: height, width; frames, height, width; depth, height, width."""
    patch: Lengths
    """Of a token, on the same axes, each of which it divides."""
    channels: Positive = 3
    """Of a sample."""
    batch: Positive
    """Samples per optimiser step, over all ranks and accumulation steps."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of its loss, in the sum over modalities."""
    embed: Named = PlugIn(name="patch")
    """From patches to tokens."""
    position: Named = PlugIn(name="sincos")
    """What tokens know of their place."""
    mask: Named = PlugIn(name="random", ratio=0.75)  # type: ignore[call-arg]
    """Which tokens are hidden."""
    decode: Named | None = None
    """A second masker over the hidden tokens: those it hides are not decoded. null decodes them all."""
    target: Named = PlugIn(name="pixel")
    """What is to be answered for a hidden patch, and how the error is counted."""
    data: DataConfig = DataConfig()
    """Files, and how they are read."""

    @property
    def grid(self) -> tuple[int, ...]:
        return grid_of(self.size, self.patch)

    @model_validator(mode="after")
    def _divides(self) -> "ModalityConfig":
        _ = self.grid
        augment, axes = self.data.augment, len(self.size)
        for key, given in (("flip", augment.flip), ("fixed", augment.fixed)):
            for axis in given:
                if not -axes <= axis < axes:
                    raise ValueError(f"data.augment.{key}: axis {axis} does not exist, size={list(self.size)}")
            if len({axis % axes for axis in given}) < len(given):
                raise ValueError(f"data.augment.{key}={list(given)} names an axis twice, size={list(self.size)}")
        return self


class TrainConfig(Section):
    """Give epochs or steps. Per-step numbers are over all ranks and accumulation steps."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the files of the first modality."""
    steps: Positive | None = None
    """Optimiser steps, instead of epochs."""
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    """In which the rate rises from 0 to its peak; half a cosine follows."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same in steps."""
    lr: Annotated[float, Field(gt=0)] = 1.5e-4
    """Base learning rate: the rate used is lr * (samples per step) / lr_per (MAE, appendix A: per 256)."""
    lr_per: Positive | None = 256
    """null: lr is the rate used."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """The rate at the end. It does not follow the batch as lr does."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    """Of AdamW, for matrices; vectors and learned positions have none."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The rate of layer i is this to the power of (depth + 1 - i): embedding 0, blocks 1 to depth, the rest depth + 1
    (BEiT, 2106.08254; MAE, 2111.06377, table 9, fine-tunes with 0.75)."""
    freeze: Literal["none", "encoder"] | Positive = "none"
    """What a task does not train: nothing, all of the encoder, or its embedding and so many of its first blocks."""
    evaluate_every: Positive | None = None
    """Steps between two evaluations on data.test. There is always one at the end."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The most that the gradient's norm may be; null is no limit."""
    uniformity: Annotated[float, Field(ge=0)] = 0.0
    """Weight of U-MAE's term (model/uniformity.py) in the loss; its paper takes 0.01."""
    accumulate: Positive = 1
    """Parts that a batch is computed in, one after the other: less memory, the same recipe."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    """Of what is computed; weights are kept in fp32."""
    compile: bool = False
    """Whether torch.compile makes the step: a start of minutes, then faster on GPUs."""
    checkpointing: bool = False
    """Whether activations are computed twice, to save memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a GPU where there is one."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read files; with 0 the run does."""
    prefetch: Positive = 2
    """Steps that each worker is asked for ahead."""
    worker_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds without a batch after which a worker counts as hung and is replaced."""
    save_every: Positive = 500
    """Steps between two checkpoints."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Checkpoints that are kept, the newest."""
    tensorboard: bool = True
    """Whether curves are written for TensorBoard too."""
    probe: ProbeConfig | None = None
    """Judges the encoder while it trains; changes no loss."""

    @model_validator(mode="after")
    def _length(self) -> "TrainConfig":
        for what in ("epochs", "warmup_epochs"):
            other = what.replace("epochs", "steps")
            if getattr(self, what) is not None and getattr(self, other) is not None:
                raise ValueError(f"give {what} or {other}, not both")
        if self.epochs is None and self.steps is None:
            raise ValueError("give epochs or steps")
        if self.uniformity and self.accumulate > 1:
            raise ValueError(
                f"uniformity={self.uniformity:g} compares the samples of a batch, which accumulate={self.accumulate} "
                f"never has together; set accumulate to 1, and checkpointing to true if memory is short"
            )
        return self
