"""The model of detection: an encoder, ViTDet's simple feature pyramid over its last map, FCOS's head over it."""

from torch import Tensor, nn

from mae_ext.config import Config
from mae_ext.tasks.detect.fcos import Answers, Head, Places, places_of
from mae_ext.tasks.detect.pyramid import Pyramid
from mae_ext.tasks.reconstruction import backbone_for


class Detector(nn.Module):
    """x -> what each place of the pyramid says.

    channels: of the pyramid's maps. depth: convolutions of each of the head's towers. strides: as Pyramid takes them.
    """

    xy: Tensor
    stride: Tensor
    reach: Tensor

    def __init__(
        self, config: Config, name: str, classes: int, channels: int, depth: int, strides: tuple[int, ...]
    ) -> None:
        super().__init__()
        modality = config.modalities[name]
        assert config.model.width
        self.backbone = backbone_for(config)
        self.pyramid = Pyramid(config.model.width, channels, modality.patch, modality.grid, strides)
        self.head = Head(channels, classes, depth, len(strides))
        places = places_of(self.pyramid.grids, self.pyramid.strides, modality.size)
        for part in ("xy", "stride", "reach"):
            self.register_buffer(part, getattr(places, part), persistent=False)

    @property
    def places(self) -> Places:
        return Places(self.xy, self.stride, self.reach)

    def places_in(self, x: Tensor, name: str) -> Places:
        """Of the answers to (B, C, H, W), which need not be of the size of training."""
        modality = self.backbone.modality(name)
        if (grid := modality.grid_of(x)) == modality.grid:
            return self.places
        places = places_of(self.pyramid.grids_of(grid), self.pyramid.strides, tuple(x.shape[2:]))
        return Places(*(part.to(self.xy.device) for part in (places.xy, places.stride, places.reach)))

    def forward(self, x: Tensor, name: str) -> Answers:
        """(B, C, H, W) in reader units -> Answers in pixels of x."""
        maps = self.pyramid(self.backbone.encode(x, name), self.backbone.modality(name).grid_of(x))
        answers: Answers = self.head(maps, self.pyramid.strides)
        return answers
