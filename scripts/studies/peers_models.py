"""The peers of peers.py: transformers' ViTMAE and VideoMAE, MONAI's MaskedAutoEncoderViT, as their users train them.

Three variants of each. `vitmae`, `monai`, `videomae`: the library's default architecture and recipe. `-sizes`: width,
depth, heads, decoder and batch of our config, the recipe theirs. `-rates`: and our learning rate, betas, weight decay
and crops besides, so that nothing but the engine and the terms of the loss differ; the strongest peer.

What the library leaves open, and is taken in the peer's favour: patches are ours in all variants (16 in a picture of 32
would leave four tokens; MONAI has no default), of VideoMAE's default 2x16x16; size and channels are the data's.
ViTMAE's recipe is that of transformers' example run_mae.py: rate 1e-3 a batch of 256, cosine, 5 % warm-up, AdamW with
betas of 0.9 and 0.999, weight decay 0.05, crops of 0.2 to 1 of the area, bicubic, flips, normalised pixels as the
target, mean and deviation 0.5; a batch of 64, for which its command takes 8 devices. The others have no example: AdamW
at 1.5e-4 a batch of 256, betas 0.9 and 0.95, weight decay 0.05, 5 % warm-up, cosine (VideoMAE's paper, 2203.12602, and
MAE's). VideoMAE hides tubes, 0.9 of them, its crops are 0.66 to 1 of a side. MONAI's loss is written out: the mean
squared error of hidden voxels. transformers 5.23 leaves ViTMAE's position tables at zero; they are filled with sines.
"""

from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from mae_ext.config import Config
from mae_ext.data.sample import Sample
from mae_ext.model.grid import patchify
from mae_ext.model.position import coordinates_of, sincos
from mae_ext.rng import rng

WARMUP = 0.05
"""Of the budget."""


@dataclass(frozen=True)
class Recipe:
    """lr: of a step. scale: share of a picture's area that a crop has; None takes pictures as they are."""

    batch: int
    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.05
    scale: tuple[float, float] | None = None
    flip: bool = True

    def rate(self, share: float) -> float:
        """The learning rate where `share` of the budget is spent: a warm-up, half a cosine to zero."""
        if share < WARMUP:
            return self.lr * share / WARMUP
        return self.lr * (1 + cos(pi * min(1.0, (share - WARMUP) / (1 - WARMUP)))) / 2


def crops(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """(B, C, *, H, W) floats -> the same: a random box of each, of an aspect of 3/4 to 4/3, resized, and flips."""
    if recipe.scale is None:
        return x
    draws = torch.rand(len(x), 5, generator=generator)
    area = recipe.scale[0] + draws[:, 0] * (recipe.scale[1] - recipe.scale[0])
    aspect = (4 / 3) ** (2 * draws[:, 1] - 1)
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)
    centre = (1 - sides) * (2 * draws[:, 2:4] - 1)
    mirrored = torch.where(draws[:, 4] < 0.5, -1.0, 1.0) if recipe.flip else torch.ones(len(x))
    theta = torch.zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = sides[:, 0] * mirrored, sides[:, 1], centre
    flat = x.flatten(1, -3)
    grid = affine_grid(theta, list(flat.shape), align_corners=False)
    mode = "bicubic" if x.ndim == 4 else "bilinear"  # of a clip a third of the time
    return grid_sample(flat, grid, mode=mode, padding_mode="border", align_corners=False).view_as(x)


class Pictures:
    """Batches of decoded pictures or clips that lie in memory as bytes, reshuffled every epoch."""

    def __init__(self, x: Tensor, recipe: Recipe, seed: int = 0) -> None:
        self.x, self.recipe, self.seed = x, recipe, seed
        self.batch, self.order = min(recipe.batch, len(x)), (-1, torch.empty(0))

    def __call__(self, step: int) -> Tensor:
        """-> (B, C, *S), 0..1, a function of the step."""
        epoch, place = divmod(step, len(self.x) // self.batch)
        if self.order[0] != epoch:
            self.order = (epoch, torch.randperm(len(self.x), generator=rng(self.seed, "peer order", epoch)))
        x = self.x[self.order[1][place * self.batch : (place + 1) * self.batch]]
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return crops(x, self.recipe, rng(self.seed, "peer crops", step)).clamp(0, 1)


class Boxes:
    """Batches of boxes at random places of whole scans in memory, mirrored along `flip`."""

    def __init__(
        self, scans: list[Sample], size: tuple[int, ...], batch: int, flip: tuple[int, ...], seed: int = 0
    ) -> None:
        self.size, self.batch, self.flip, self.seed = size, batch, flip, seed
        self.scans = [_padded(scan.x.float(), size) for scan in scans]

    def __call__(self, step: int) -> Tensor:
        """-> (B, C, *size), a function of the step; every scan once before any twice."""
        count = len(self.scans)
        boxes = []
        for slot in range(step * self.batch, (step + 1) * self.batch):
            epoch, place = divmod(slot, count)
            order = torch.randperm(count, generator=rng(self.seed, "peer order", epoch))
            scan, draws = self.scans[int(order[place])], torch.rand(6, generator=rng(self.seed, "peer box", slot))
            for axis, length in enumerate(self.size):
                room = scan.shape[axis + 1] - length
                scan = scan.narrow(axis + 1, int(draws[axis] * (room + 1)), length)
            boxes.append(scan.flip([a + 1 for a in self.flip if draws[3 + a] < 0.5]))
        return torch.stack(boxes)


def _padded(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """(C, *S) -> at least as long as size, zeros evenly on both sides."""
    short = [max(0, length - have) for length, have in zip(size, x.shape[1:], strict=True)]
    sides = [half for lack in reversed(short) for half in (lack // 2, lack - lack // 2)]
    return torch.nn.functional.pad(x, sides)


@dataclass
class Peer:
    """A model that learns: loss(x) of a batch in 0..1 (volumes: reader units), encode as Judge wants it."""

    model: nn.Module
    recipe: Recipe
    grid: tuple[int, ...]
    mean: float | Tensor = 0.5
    std: float | Tensor = 0.5

    def shown(self, x: Tensor) -> Tensor:
        x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
        return (x - self.mean) / self.std

    def loss(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def encode(self, x: Tensor, spacing: Tensor | None) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class ViTMAE(Peer):
    def loss(self, x: Tensor) -> Tensor:
        return self.model(self.shown(x)).loss  # type: ignore[no-any-return]

    def encode(self, x: Tensor, spacing: Tensor | None) -> tuple[Tensor, Tensor | None]:
        encoder = self.model.vit
        ratio, encoder.config.mask_ratio = encoder.config.mask_ratio, 0.0
        try:
            tokens = self.grid[0] * self.grid[1]
            noise = torch.linspace(0, 1, tokens).expand(len(x), -1)  # rising, so that none changes place
            out = encoder(self.shown(x), noise=noise).last_hidden_state
        finally:
            encoder.config.mask_ratio = ratio
        return out[:, 1:], out[:, 0]


class VideoMAE(Peer):
    RATIO = 0.9

    def loss(self, x: Tensor) -> Tensor:
        frames, places = self.grid[0], self.grid[1] * self.grid[2]
        hide = int(self.RATIO * places)
        order = torch.rand(len(x), places).argsort(1)  # of the global generator, as all peers draw
        tube = torch.zeros(len(x), places, dtype=torch.bool).scatter(1, order[:, :hide], True)
        hidden = tube[:, None].expand(-1, frames, -1).flatten(1)
        return self.model(self.shown(x).transpose(1, 2), bool_masked_pos=hidden).loss  # type: ignore[no-any-return]

    def encode(self, x: Tensor, spacing: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.model.videomae(self.shown(x).transpose(1, 2)).last_hidden_state, None


class MonaiMAE(Peer):
    def loss(self, x: Tensor) -> Tensor:
        x = self.shown(x)
        predicted, hidden = self.model(x)
        error = (predicted - patchify(x, self.model.patch_size)).square().mean(-1)
        return (error * hidden).sum() / hidden.sum()

    def encode(self, x: Tensor, spacing: Tensor | None) -> tuple[Tensor, Tensor | None]:
        tokens = self.model.patch_embedding(self.shown(x))
        token = self.model.cls_token.expand(len(x), -1, -1)
        out = self.model.blocks(torch.cat([token, tokens], 1))
        return out[:, 1:], out[:, 0]


def _sizes(config: Config) -> dict[str, int]:
    """Of our model, by the names that transformers has for them."""
    model, decoder = config.model, config.model.decoder
    assert model.width and model.depth and model.heads and decoder.width and decoder.heads
    return {
        "hidden_size": model.width, "num_hidden_layers": model.depth, "num_attention_heads": model.heads,
        "intermediate_size": int(model.mlp_ratio * model.width), "decoder_hidden_size": decoder.width,
        "decoder_num_hidden_layers": decoder.depth, "decoder_num_attention_heads": decoder.heads,
        "decoder_intermediate_size": 4 * decoder.width,
    }  # fmt: skip


def recipe_of(side: str, config: Config) -> Recipe:
    """side: as in the module's docstring."""
    ((_, modality),) = config.modalities.items()
    family, _, variant = side.partition("-")
    train, augment = config.train, modality.data.augment
    scale = {"vitmae": (0.2, 1.0), "videomae": (0.66**2, 1.0), "monai": None}[family]
    base = 1e-3 if family == "vitmae" else 1.5e-4
    batch = modality.batch if variant else 64
    if variant == "rates":
        lr = train.lr * (modality.batch / train.lr_per if train.lr_per else 1)
        flip = len(modality.size) - 1 in {axis % len(modality.size) for axis in augment.flip}
        own = augment.scale if family != "monai" else None
        return Recipe(batch, lr, tuple(train.betas), train.weight_decay, own, flip)
    betas = (0.9, 0.999) if family == "vitmae" else (0.9, 0.95)
    return Recipe(batch, base * batch / 256, betas, scale=scale, flip=family == "vitmae")


def peer_of(side: str, config: Config, seed: int = 0) -> Peer:
    """A new model from a seed. Raises ImportError where its library is missing."""
    ((_, modality),) = config.modalities.items()
    family, _, variant = side.partition("-")
    sizes: dict[str, Any] = _sizes(config) if variant else {}
    recipe, size, patch, grid = recipe_of(side, config), modality.size, modality.patch, modality.grid
    torch.manual_seed(seed)
    if family == "vitmae":
        from transformers import ViTMAEConfig, ViTMAEForPreTraining

        settings = ViTMAEConfig(
            image_size=size[0], patch_size=patch[0], num_channels=modality.channels, norm_pix_loss=True, **sizes
        )
        model = ViTMAEForPreTraining(settings)
        for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
            if not table.any():
                table.data[0, 1:] = sincos(coordinates_of(grid), table.shape[-1])
        return ViTMAE(model, recipe, grid)
    if family == "videomae":
        from transformers import VideoMAEConfig, VideoMAEForPreTraining

        at = {"patch_size": patch[1], "tubelet_size": patch[0]} if variant else {}
        video = VideoMAEConfig(image_size=size[1], num_frames=size[0], num_channels=modality.channels, **at, **sizes)
        grid = (size[0] // video.tubelet_size, size[1] // video.patch_size, size[2] // video.patch_size)
        mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return VideoMAE(VideoMAEForPreTraining(video), recipe, grid, mean, std)
    from monai.networks.nets import MaskedAutoEncoderViT

    names = {"hidden_size": "hidden_size", "intermediate_size": "mlp_dim", "num_hidden_layers": "num_layers"}
    names |= {"num_attention_heads": "num_heads", "decoder_intermediate_size": "decoder_mlp_dim"}
    names |= {"decoder_num_hidden_layers": "decoder_num_layers", "decoder_num_attention_heads": "decoder_num_heads"}
    renamed = {names.get(key, key): value for key, value in sizes.items()}
    net = MaskedAutoEncoderViT(modality.channels, size, patch, qkv_bias=bool(variant), **renamed)
    return MonaiMAE(net, recipe, grid)
