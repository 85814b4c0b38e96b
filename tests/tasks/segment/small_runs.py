"""Small runs on discs and on boxes: configs, what a command said last, and a model with nothing to learn."""

import torch

from mae_ext.tasks.segment.heads import Segmenter

IMAGE = {
    "size": [16, 16], "patch": [4, 4], "batch": 4,
    "data": {"augment": {"fixed": [0, 1], "flip": [0, 1]}, "max_bad_fraction": 0.3},
}  # fmt: skip
VOLUME = {
    "size": [8, 8, 8], "patch": [4, 4, 4], "channels": 1, "batch": 2,
    "data": {"reader": {"name": "volume", "intensity": "zscore"}, "augment": {"fixed": [0, 1, 2], "flip": []}},
}  # fmt: skip
SHORT = {"train.steps": 6, "train.warmup_steps": 1, "train.save_every": 3, "train.lr": 0.1}


def nuclei(blobs, **more):
    masks = {"masks": str(blobs / "train" / "masks"), "test_masks": str(blobs / "test" / "masks")}
    return {"classes": ["nucleus"], "foreground": True, **masks, **more}


def complaint(capfd):
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said.splitlines()[-1]


class Bright(Segmenter):
    """A model that has nothing to learn: class 1 where a voxel is bright. `backbone` is what its device is told by."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.backbone, self.seen = torch.nn.Linear(1, 1), []

    def probabilities(self, x, name, spacing=None):
        self.seen.append((x, spacing))
        return torch.stack([0 * x[:, 0], 20 * (x[:, 0] - 0.5)], -1).softmax(-1)
