"""The input's own pixels beside a pyramid of tokens: what is no larger than a patch is in no token by itself."""

from math import log2

from torch import Tensor, nn

from mae_ext.tasks.detect.pyramid import ChannelNorm


class Stem(nn.Module):
    """Convolutions of stride 2 from the pixels down to the finest level of a pyramid, to whose map theirs is added.

    channels: of the input; features: of every convolution but the last, which has those of the pyramid, `out`. stride:
    of the finest level, in pixels (down, across). As the convolutions that stand before a ViT's blocks (2106.14881) are
    for all of it; here the encoder's weights stay what they were. Raises ValueError for strides that halving never
    comes to.
    """

    def __init__(self, channels: int, features: int, out: int, stride: tuple[float, float]) -> None:
        super().__init__()
        steps = round(log2(stride[0]))
        if stride[0] != stride[1] or stride[0] != 2**steps or steps < 1:
            raise ValueError(
                f"stem={features}: halves the image down to the finest level, whose places are {stride[0]:g} x "
                f"{stride[1]:g} pixels apart; expected one power of two, as with patches of 8 or 16, or stem=0"
            )
        layers: list[nn.Module] = []
        for i in range(steps):
            inputs = features if i else channels
            layers += [nn.Conv2d(inputs, features, 3, 2, 1, bias=False), ChannelNorm(features), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(features, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) normalised -> (B, out, rows, columns) of the finest level."""
        y: Tensor = self.layers(x)
        return y
