"""The masked autoencoder (MAE, 2111.06377) over any number of modalities that share one trunk."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mae_ext.config import Config, DecoderConfig, ModelConfig
from mae_ext.model.filling import filled_in
from mae_ext.model.fuse import Fusion
from mae_ext.model.initial import initialize
from mae_ext.model.mask import Mask
from mae_ext.model.modality import Modality
from mae_ext.model.moments import last_blocks, moments
from mae_ext.model.terms import Seen, terms_of
from mae_ext.model.transformer import Transformer
from mae_ext.model_config import Pooled
from mae_ext.rng import seed_of


class Named(nn.ModuleDict):
    """Modules by name, also by one that ModuleDict has for itself ("type", "keys", "values")."""

    def __setitem__(self, key: str, module: nn.Module) -> None:
        self._modules[key] = module


class Encoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.width and config.depth and config.heads
        self.trunk = Transformer(config.width, config.depth, config.heads, config.mlp_ratio, config.norm_eps)
        self.num_class_tokens = int(config.class_token)
        # One is a vector, not (1, D): so checkpoints have had it since there was no other number.
        shape = (config.width,) if self.num_class_tokens == 1 else (self.num_class_tokens, config.width)
        self.class_token = nn.Parameter(torch.zeros(shape)) if self.num_class_tokens else None
        self.gates: Tensor | None = None
        """(depth, 2, B), drop path of the samples to come (model/transformer.py). Set for the length of a loss by who
        trains, so that nothing between there and here has to hand them on; None drops nothing."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, K, D) -> (B, [c +] K, D), the class tokens first if there are any."""
        out: Tensor = self.trunk(self._with_class_token(tokens), self.gates)
        return out

    def layers(self, tokens: Tensor, taken: Sequence[int]) -> list[Tensor]:
        """(B, N, D) -> [(B, N, D)]: the patch tokens after the blocks `taken`, counted from 1, and the last, normed."""
        return [self.patches(layer) for layer in self.trunk.layers(self._with_class_token(tokens), taken, self.gates)]

    def patches(self, encoded: Tensor) -> Tensor:
        """(B, [c +] K, D) -> (B, K, D): the patch tokens, without the class tokens."""
        return encoded[:, self.num_class_tokens :]

    def _with_class_token(self, tokens: Tensor) -> Tensor:
        if self.class_token is None:
            return tokens
        return torch.cat([self.class_token.expand(tokens.shape[0], self.num_class_tokens, -1), tokens], dim=1)


class Decoder(nn.Module):
    def __init__(self, config: DecoderConfig, encoder_width: int, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.project = nn.Linear(encoder_width, config.width)
        self.mask_token = nn.Parameter(torch.zeros(config.width))
        self.class_token = nn.Parameter(torch.zeros(config.width)) if config.class_token else None
        self.trunk = Transformer(config.width, config.depth, config.heads, config.mlp_ratio or mlp_ratio, eps)
        self.fuse: Fusion | None = None

    def forward(self, encoded: Tensor, keep_places: Tensor, pred_places: Tensor) -> Tensor:
        """(B, [c +] K, D) encoded, (B, K, E) and (B, P, E) positions -> (B, P, E): the predicted tokens, no others.

        The order of tokens means nothing to attention: visible and mask tokens are joined, not scattered into the grid.
        """
        visible = self.project(encoded)
        extra = visible.shape[1] - keep_places.shape[1]  # class tokens have no place in the grid
        first = visible[:, :extra]
        if self.class_token is not None:
            first = self.class_token.to(visible.dtype).expand(len(visible), 1, -1)
        visible = torch.cat([first, visible[:, extra:] + keep_places.to(visible.dtype)], dim=1)
        tokens = torch.cat([visible.to(pred_places.dtype), self.mask_token + pred_places], dim=1)
        out: Tensor = self.trunk(tokens)[:, visible.shape[1] :]
        return out


class MAE(nn.Module):
    """Encoder, decoder, and a dict of modalities. `name` may be left out where there is only one.

    decodes: whether there is a decoder; a task has no use for one. Raises ConfigError for a config that no model can be
    built from. `forward` is the loss, `encode` the tokens, `reconstruct` the picture; only the first and the last mask.

    >>> import mae_ext, torch
    >>> from mae_ext.rng import rng
    >>> config = mae_ext.load_config("image_folder", ["model.size=tiny", "modalities.image.size=[64, 64]"])
    >>> model, x = mae_ext.MAE.from_config(config), torch.rand(2, 3, 64, 64)
    >>> mask = model.modality().draw_mask([rng(0, "mask", i) for i in range(2)])
    >>> mask.keep.shape, model(x, mask).shape, model.encode(x).shape, model.reconstruct(x, mask).shape
    (torch.Size([2, 4]), torch.Size([]), torch.Size([2, 16, 192]), torch.Size([2, 3, 64, 64]))
    """

    def __init__(self, config: Config, decodes: bool = True) -> None:
        super().__init__()
        model = config.model
        assert model.width and model.depth
        # Plug-ins initialise themselves with torch's global generator; a fork makes that a function of the seed too.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(config.seed, "init"))
            self.encoder = Encoder(model)
            self.decoder = Decoder(model.decoder, model.width, model.mlp_ratio, model.norm_eps) if decodes else None
            width = model.decoder.width if decodes else None
            self.modalities = Named({n: Modality(n, m, model.width, width) for n, m in config.modalities.items()})
            self.apply(initialize)
            decoder = [] if self.decoder is None else [self.decoder.mask_token, self.decoder.class_token]
            for token in (self.encoder.class_token, *decoder):
                if token is not None:
                    nn.init.normal_(token, std=0.02)
            # Last, so that all else starts from the same weights with and without them.
            self.terms = terms_of(config).apply(initialize) if decodes else Named()
            if self.decoder is not None and model.decoder.fuse:
                self.decoder.fuse = Fusion(model.decoder.fuse, model.depth, model.width).apply(initialize)
        self.encoder.trunk.checkpointing = config.train.checkpointing
        if self.decoder is not None:
            self.decoder.trunk.checkpointing = config.train.checkpointing

    @classmethod
    def from_config(cls, config: Config) -> "MAE":
        """With the weights that a run of this config starts from."""
        return cls(config)

    def modality(self, name: str | None = None) -> Modality:
        """Embedder, positions, masker, target and statistics of one. Raises ValueError where there are several."""
        if name is None and len(self.modalities) > 1:
            raise ValueError(f"this model has several modalities, name one of: {', '.join(self.modalities)}")
        modality = next(iter(self.modalities.values())) if name is None else self.modalities[name]
        assert isinstance(modality, Modality)
        return modality

    def forward(
        self,
        x: Tensor,
        mask: Mask,
        name: str | None = None,
        valid: Tensor | None = None,
        spacing: Tensor | None = None,
        files: Tensor | None = None,
    ) -> Tensor:
        """(B, C, *S) in reader units -> scalar: the mean over samples of the mean error over valid predicted pixels.

        The encoder sees the patches mask.keep and no others; the decoder predicts mask.pred from what it made of them.
        valid: (B, 1, *S) bool, where the loss counts. Sample by sample, so that the loss of a batch is the mean of its
        parts however it is cut over ranks and accumulation steps. A target's `term`, if it has one, is added, and in
        training those of `terms` (model/terms.py). files: (B,) of which file each sample is.
        """
        modality = self.modality(name)
        modality.check_mask(x, mask)
        x = modality.normalize(x)
        encoded, fused, layers = self._encoded(modality.tokens(x, mask.keep, spacing))
        predicted = self.decode(fused, mask, modality, spacing)
        loss = modality.loss(predicted.float(), x, mask.pred, valid, spacing)
        if (term := getattr(modality.target, "term", None)) is not None:
            loss = loss + term(self.encoder.patches(encoded), predicted, x, mask, valid)
        for one in self.terms.values() if self.training else ():
            loss = loss + one(Seen(self.encoder.patches(encoded), layers, files))
        return loss

    def _encoded(self, tokens: Tensor) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """(B, K, D) -> (B, [c +] K, D) encoded; what of it the decoder is given; {block: (B, K, D)} for `terms`."""
        encoder, fuse = self.encoder, None if self.decoder is None else self.decoder.fuse
        wanted = {number for one in self.terms.values() for number in one.blocks}  # type: ignore[union-attr]
        if fuse is None and not wanted:
            return (encoded := encoder(tokens)), encoded, {}
        taken = sorted(wanted if fuse is None else wanted.union(fuse.blocks))
        *inner, encoded = encoder.trunk.layers(encoder._with_class_token(tokens), taken, encoder.gates)
        stages = dict(zip(taken, inner, strict=True))
        fused = encoded if fuse is None else fuse(stages, encoder.trunk.norm)
        return encoded, fused, {number: encoder.patches(stages[number]) for number in wanted}

    def predict(self, x: Tensor, mask: Mask, modality: Modality, spacing: Tensor | None = None) -> Tensor:
        """(B, C, *S) normalised -> (B, P, pix): the target as predicted for mask.pred."""
        modality.check_mask(x, mask)
        return self.decode(self._encoded(modality.tokens(x, mask.keep, spacing))[1], mask, modality, spacing)

    def decode(self, encoded: Tensor, mask: Mask, modality: Modality, spacing: Tensor | None = None) -> Tensor:
        """(B, [c +] K, D) encoded -> (B, P, pix): the target as predicted for mask.pred."""
        if self.decoder is None or modality.predict is None or modality.decoder_position is None:
            raise ValueError("this model was fine-tuned for a task and has no decoder; give a run of pretraining")
        keep_places, pred_places = (
            modality.placed(modality.decoder_position, index, spacing, mask.grid).to(modality.like.dtype)
            for index in (mask.keep, mask.pred)
        )
        out: Tensor = modality.predict(self.decoder(encoded, keep_places, pred_places))
        return out

    def encode_all(self, x: Tensor, name: str | None = None, spacing: Tensor | None = None) -> Tensor:
        """(B, C, *S) in reader units -> (B, [c +] N, D): every token, class tokens first. Never masks."""
        out: Tensor = self.encoder(self.modality(name).all_tokens(x, spacing))
        return out

    def encode_layers(
        self, x: Tensor, taken: Sequence[int], name: str | None = None, spacing: Tensor | None = None
    ) -> list[Tensor]:
        """(B, C, *S) in reader units -> [(B, N, D)]: patch tokens after each block of `taken`, counted from 1, as they
        are; and the last ones, normed, as `encode` gives them."""
        return self.encoder.layers(self.modality(name).all_tokens(x, spacing), taken)

    def encode(self, x: Tensor, name: str | None = None, spacing: Tensor | None = None) -> Tensor:
        """(B, C, *S) in reader units -> (B, N, D): the patch tokens, row-major over the grid. Never masks."""
        return self.encoder.patches(self.encode_all(x, name, spacing))

    def features(
        self,
        x: Tensor,
        name: str | None = None,
        spacing: Tensor | None = None,
        pool: Pooled = "mean",
    ) -> Tensor:
        """(B, C, *S) in reader units -> (B, D): the mean of the patch tokens, or the class token, the first if there
        are several; or the (B, 2 n D) `moments` of the last n blocks, at most 4."""
        if pool == "moments":
            return moments(self.encode_layers(x, last_blocks(self.encoder.trunk.depth), name, spacing)[:-1])
        if pool == "mean":
            return self.encode(x, name, spacing).mean(1)
        if self.encoder.class_token is None:
            raise ValueError("pool='class', but this model was built without a class token; use pool='mean'")
        return self.encode_all(x, name, spacing)[:, 0]

    @torch.no_grad()
    def reconstruct(
        self,
        x: Tensor,
        mask: Mask,
        name: str | None = None,
        spacing: Tensor | None = None,
        own_statistics: bool = False,
        valid: Tensor | None = None,
    ) -> Tensor:
        """(B, C, *S) in reader units -> (B, C, *S) float32: visible patches as given, all hidden ones predicted.

        A patch-normalised target says nothing of a patch's mean and contrast. They are interpolated from the visible
        patches (weights falling as distance^-4), unless own_statistics: then they are the hidden patches' own, which
        leaks the answer into the picture, and whoever shows it has to say so. valid: (B, 1, *S) bool, as in training;
        where a part of a patch is valid, its mean and contrast are of that part.
        """
        modality = self.modality(name)
        modality.check_mask(x, mask)
        mask = Mask(mask.keep, mask.hidden(), mask.grid)  # all that is hidden is predicted
        predicted = self.predict(modality.normalize(x), mask, modality, spacing).float()
        return filled_in(modality, x, mask, predicted, own_statistics, valid)
