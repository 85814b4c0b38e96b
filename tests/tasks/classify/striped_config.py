"""Fine-tuning for the folders of stripes, without a command line."""

import torch

from mae_ext.config import load_config
from mae_ext.engine.distributed import Ranks
from mae_ext.engine.task import task_of

ALONE = Ranks(0, 1, torch.device("cpu"))


def striped_config(tiny, striped, test, **task):
    config = tiny({"task": {"name": "classify", **task}, "modalities.image.data": {"statistics": "none"}})
    paths = {"path": striped / "train", "test": test}
    sets = [f"modalities.image.data.{key}={path}" for key, path in paths.items()]
    loaded = load_config(config, [*sets, "modalities.image.data.max_bad_fraction=0.2"])
    return task_of(loaded), loaded
