"""From tokens to a class for every voxel: a linear head, UNETR's decoder with MONAI's blocks, or a light one."""

from collections.abc import Sequence
from math import prod
from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from mae_ext.config import Config, ModalityConfig
from mae_ext.errors import ConfigError
from mae_ext.model.grid import unpatchify
from mae_ext.tasks.reconstruction import backbone_for
from mae_ext.tasks.segment.upsample import UpsampleHead

HeadName = Literal["linear", "unetr", "upsample"]

MANY = 32
"""Classes from which on a head's answers are transposed before they are put into place."""


class LinearHead(nn.Module):
    """Each token answers for its own patch: one linear layer, after a norm."""

    def __init__(self, width: int, patch: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.patch, self.classes = patch, classes
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, prod(patch) * classes)
        nn.init.xavier_uniform_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, ...], x: Tensor) -> Tensor:
        """layers: (B, N, D) each, the last one normed. -> (B, classes, *S)."""
        y = self.predict(self.norm(layers[-1])).float()
        if self.classes < MANY:
            return unpatchify(y, grid, self.patch)
        # The same numbers. A transpose of all at once first: the direct copy goes through memory in steps of `classes`,
        # and takes more than twice as long for 61 of them.
        first = y.view(-1, self.classes).t().contiguous().view(self.classes, len(y), len(y[0]), -1)
        return (
            unpatchify(rearrange(first, "c b n pix -> (c b) n pix"), grid, self.patch)
            .view(self.classes, len(y), *(g * p for g, p in zip(grid, self.patch, strict=True)))
            .transpose(0, 1)
        )

    def probabilities(self, layers: Sequence[Tensor], grid: tuple[int, ...], x: Tensor) -> Tensor:
        """As forward -> (B, *S, classes) of sum 1; where there are many, without a step in which they lie apart."""
        if self.classes < MANY:
            return self.forward(layers, grid, x).softmax(1).movedim(1, -1)
        y = self.predict(self.norm(layers[-1])).float().unflatten(2, (-1, self.classes)).softmax(3)
        # A voxel's classes are moved as one: its last axis is cut into patches of 1.
        whole = unpatchify(y.flatten(2), (*grid, 1), (*self.patch, self.classes))
        return whole[:, 0]


class UnetrHead(nn.Module):
    """UNETR (2103.10504): convolutions that go up by 2 from the last tokens, joined by earlier ones and by the input.

    For patches of one power of two on all axes; with 16 and a depth of 12 it is the paper's, from layers 3, 6 and 9.
    features: channels at full resolution (the paper's 16), doubled with each level.
    """

    def __init__(self, width: int, patch: tuple[int, ...], channels: int, classes: int, features: int = 16) -> None:
        super().__init__()
        from monai.networks.blocks.dynunet_block import UnetOutBlock
        from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        edge = patch[0]
        if set(patch) != {edge} or edge < 2 or edge & (edge - 1):
            raise ConfigError(
                f"task.head=unetr goes up by 2, so its patches are one power of two on all axes, not {list(patch)}; "
                f"use head: linear"
            )
        self.levels = edge.bit_length() - 1
        spatial, norm = len(patch), "instance"
        self.stem = UnetrBasicBlock(spatial, channels, features, 3, 1, norm, res_block=True)
        self.skips = nn.ModuleList(
            UnetrPrUpBlock(
                spatial, width, features << level, self.levels - level - 1, 3, 1, 2, norm, conv_block=True,
                res_block=True,
            )
            for level in range(1, self.levels)
        )  # fmt: skip
        self.ups = nn.ModuleList(
            UnetrUpBlock(
                spatial, width if level == self.levels - 1 else features << (level + 1), features << level, 3, 2, norm,
                res_block=True,
            )
            for level in reversed(range(self.levels))
        )  # fmt: skip
        self.out = UnetOutBlock(spatial, features, classes)

    def forward(self, layers: Sequence[Tensor], grid: tuple[int, ...], x: Tensor) -> Tensor:
        """layers: `levels` x (B, N, D), the last one normed. x: (B, C, *S) normalised. -> (B, classes, *S)."""
        *early, last = (layer.transpose(1, 2).unflatten(2, grid) for layer in layers)
        skips = [self.stem(x), *(skip(layer) for skip, layer in zip(self.skips, early, strict=True))]
        y = last
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            y = up(y, skip)
        out: Tensor = self.out(y)
        return out.float()

    def probabilities(self, layers: Sequence[Tensor], grid: tuple[int, ...], x: Tensor) -> Tensor:
        """As forward -> (B, *S, classes) of sum 1."""
        return self.forward(layers, grid, x).softmax(1).movedim(1, -1)


class Segmenter(nn.Module):
    """An encoder without a decoder, and a head. classes: with the background, which is class 0. layers: as UpsampleHead
    takes them."""

    def __init__(
        self, config: Config, name: str, head: HeadName, classes: int, features: int = 16, layers: int = 1
    ) -> None:
        super().__init__()
        modality: ModalityConfig = config.modalities[name]
        assert config.model.width and config.model.depth
        self.backbone = backbone_for(config)
        depth, shape = config.model.depth, (config.model.width, modality.patch)
        self.head: LinearHead | UnetrHead | UpsampleHead
        match head:
            case "linear":
                self.head, levels = LinearHead(*shape, classes), 1
            case "upsample":
                if layers > depth:
                    raise ConfigError(f"task.layers={layers}: the encoder has {depth} blocks; expected at most so many")
                self.head, levels = UpsampleHead(*shape, modality.channels, classes, features, layers), layers
            case "unetr":
                self.head = UnetrHead(*shape, modality.channels, classes, features)
                levels = self.head.levels
        self.taken = [max(1, round(depth * level / levels)) for level in range(1, levels)]
        """After which blocks earlier tokens are taken, counted from 1."""

    def forward(self, x: Tensor, name: str, spacing: Tensor | None = None) -> Tensor:
        """(B, C, *S) in reader units -> (B, classes, *S) float32 logits."""
        out: Tensor = self.head(*self._seen(x, name, spacing))
        return out

    def probabilities(self, x: Tensor, name: str, spacing: Tensor | None = None) -> Tensor:
        """(B, C, *S) in reader units -> (B, *S, classes) float32, of sum 1."""
        return self.head.probabilities(*self._seen(x, name, spacing))

    def _seen(self, x: Tensor, name: str, spacing: Tensor | None) -> tuple[list[Tensor], tuple[int, ...], Tensor]:
        """What a head is given: layers, the grid, and the normalised input."""
        modality, encoder = self.backbone.modality(name), self.backbone.encoder
        x = modality.normalize(x)
        layers = encoder.layers(modality.tokens(x, modality.everything(x), spacing), self.taken)
        return layers, modality.grid_of(x), x.to(modality.like.dtype)
