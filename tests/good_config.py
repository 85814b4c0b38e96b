"""A config with nothing wrong in it, and what is said of one with something."""

import copy

from mae_ext.config import Config
from mae_ext.errors import ConfigError

GOOD = {
    "modalities": {"image": {"size": [32, 48], "patch": [8, 16], "batch": 4, "data": {"path": "photos"}}},
    "model": {"size": "tiny", "decoder": {"width": 96, "depth": 2, "heads": 3}},
    "train": {"steps": 10},
}


def changed(**values):
    """GOOD with dotted__keys set: changed(train__lr=1)."""
    config = copy.deepcopy(GOOD)
    for dotted, value in values.items():
        *parents, last = dotted.split("__")
        node = config
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return config


def complaint(make):
    """What the user is told, or nothing; any exception but a ConfigError comes through."""
    try:
        assert isinstance(make(), Config)
    except ConfigError as error:
        return str(error)
    return ""
