"""Pictures of maps show a sample as it is."""

from types import SimpleNamespace

import torch

from mae_ext.restored.pictured import Thumb
from mae_ext.restored.rows import Rows


def test_a_photo_beside_its_error_has_its_own_colours():
    colours, mean, std = torch.rand(4, 5, 3), torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.3])
    nothing = torch.zeros(4, 5)
    thumb = Thumb(SimpleNamespace(shape=(4, 5)), "image", mean, std)
    thumb.add(Rows((colours - mean) / std, torch.zeros(4, 5, 3), nothing, nothing, nothing == 0), None)
    (_, shown), (_, restored), *_ = thumb.panel([], unusual=False).columns
    torch.testing.assert_close(shown, colours.movedim(-1, 0))
    torch.testing.assert_close(restored, colours.movedim(-1, 0))
