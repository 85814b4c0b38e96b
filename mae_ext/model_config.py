"""`model:` of a config: the encoder and the decoder that all modalities share."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, model_validator

from mae_ext.sections import Positive, Section

SIZES: dict[str, dict[str, int]] = {
    # width, depth, heads: DeiT (2012.12877) for tiny and small, ViT (2010.11929) for the rest.
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "huge": {"width": 1280, "depth": 32, "heads": 16},
}

Pooled = Literal["mean", "class", "moments"]
"""How a sample's tokens become one vector: their mean, the first class token, or `model.moments` of the last blocks."""

MOST_CLASS_TOKENS = 64


def _one_form(value: Any) -> Any:
    """0 is false and 1 is true, so that a model has one config and not two."""
    if type(value) is int and not 0 <= value <= MOST_CLASS_TOKENS:
        raise ValueError(f"{value}: expected true, false, or how many there are, up to {MOST_CLASS_TOKENS}")
    return bool(value) if type(value) is int and value in (0, 1) else value


class DecoderConfig(Section):
    """MAE's decoder (2111.06377): narrow and shallow, as it is thrown away."""

    width: Positive = 512
    """Numbers in a token, E."""
    depth: Positive = 8
    """Blocks."""
    heads: Positive = 16
    """Of attention; they divide the width."""
    mlp_ratio: Annotated[float, Field(gt=0)] | None = None
    """Width between a block's two layers over that of a token. null is the encoder's ratio."""
    class_token: bool = False
    """A class token of its own, which nothing of the sample is in, instead of the encoder's (MAE-ST, 2205.09113)."""
    fuse: tuple[Positive, ...] = ()
    """Inner blocks of the encoder, counted from 1 and ascending, that the decoder is given beside the last: a linear
    map of each, summed with learned weights (MFF, 2308.00261). What the encoder itself gives stays that of the last."""


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
    """Width between a block's two layers over that of a token; in the decoder, too, where it has none of its own."""
    class_token: Annotated[bool | StrictInt, BeforeValidator(_one_form)] = True
    """A token of no patch before the others, or that many of them (2 to 64), as weights with registers have. The pool
    `class` takes the first."""
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
            own = {k: v for k, v in values.items() if v is not None}
            values = SIZES[values["size"]] | own
        return values

    @model_validator(mode="after")
    def _heads(self) -> "ModelConfig":
        if None in (self.width, self.depth, self.heads):
            raise ValueError("give `size`, or all of `width`, `depth` and `heads`")
        wide = self.decoder
        for name, width, heads, ratio in (
            ("", self.width, self.heads, self.mlp_ratio),
            ("decoder.", wide.width, wide.heads, wide.mlp_ratio or self.mlp_ratio),
        ):
            if width % heads:  # type: ignore[operator]
                raise ValueError(f"{name}heads={heads} does not divide {name}width={width}")
            if width * ratio < 1:  # type: ignore[operator]
                raise ValueError(f"mlp_ratio={ratio:g} leaves nothing of {name}width={width} between two layers")
        # `in` a range asks nothing of its length: a card from outside may declare any depth.
        if sorted({block for block in wide.fuse if block in range(1, self.depth or 1)}) != list(wide.fuse):
            raise ValueError(
                f"decoder.fuse={list(wide.fuse)}: expected some of 1 to {(self.depth or 1) - 1}, each once, ascending; "
                f"the last block, {self.depth}, is in it as it is"
            )
        return self
