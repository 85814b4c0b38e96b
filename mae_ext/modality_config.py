"""`modalities:` of a config: for each its files, its tokens and its masks."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr, model_validator

from mae_ext.sections import Lengths, Named, PlugIn, Positive, Section, Share, grid_of

Channel = Annotated[StrictInt, Field(ge=0)] | Annotated[StrictStr, Field(min_length=1)]


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
    """Held-out data: a task is judged on it, and of pretraining it is the loss that is taken on it."""
    reader: Named = PlugIn(name="image")
    """What reads the files."""
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)] | None = None
    """Which channels of a file, in this order: by number from 0, or by name where files name them (OME-TIFF, GeoTIFF).
    null takes all, which have to be as many as the model's. It is kept as the reader's `bands`, and counts first."""
    augment: AugmentConfig = AugmentConfig()
    """How samples are cut in training."""
    statistics: Literal["measured", "imagenet", "none"] | Statistics = "measured"
    """`measured` on the data at the start, `imagenet`'s (RGB), `none` (0 and 1), or numbers."""
    repeats: Positive = 1
    """Samples drawn from one opening of a file (MAE-ST's repeated sampling). They count in batch and epoch."""
    max_bad_fraction: Share = 0.01
    """Share of files that may be bad before a run stops."""

    @model_validator(mode="after")
    def _picked(self) -> "DataConfig":
        """Said to the reader, and there alone: whatever is done with a reader's arguments is done with these."""
        if self.channels is not None:
            bands = {"bands": list(self.channels)}
            object.__setattr__(self, "reader", PlugIn(name=self.reader.name, **{**self.reader.arguments, **bands}))
            object.__setattr__(self, "channels", None)
        return self


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
        for key, named in (("flip", augment.flip), ("fixed", augment.fixed)):
            for axis in named:
                if not -axes <= axis < axes:
                    raise ValueError(f"data.augment.{key}: axis {axis} does not exist, size={list(self.size)}")
            if len({axis % axes for axis in named}) < len(named):
                raise ValueError(f"data.augment.{key}={list(named)} names an axis twice, size={list(self.size)}")
        return self
