"""Another's target that has to see the whole picture, as a plug-in would bring it."""

from torch import nn


class Means(nn.Module):
    """The mean of each half of a patch of 4x4 pixels, from a map that is coarser than the picture."""

    def __init__(self, patch, channels):
        super().__init__()
        self.pix = 2 * channels

    def prepare(self, x, valid, spacing):
        return nn.functional.avg_pool2d(x, (4, 2))

    def forward(self, values, weight=None):
        return values

    def error(self, predicted, wanted):
        return (predicted - wanted).square()
