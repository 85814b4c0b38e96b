"""Whatever weight of a format is not of its shape, is no float, or is empty: it is refused by its name."""

import pytest
import torch
from interop import test_maest, test_omnimae, test_selfmedmae, test_videomae_files
from interop.agreement import opened, random_state

from mae_ext.errors import CheckpointError

FILES = {
    "videomae": (test_videomae_files.pretraining(*test_videomae_files.TINY, decoder_depth=2), test_videomae_files.SAID),
    "mae-st": (test_maest.pretraining(**test_maest.TINY), test_maest.HEADS),
    "omnimae": (test_omnimae.pretraining(**test_omnimae.TINY), test_omnimae.SAID),
    "selfmedmae": (test_selfmedmae.pretraining(**test_selfmedmae.TINY), test_selfmedmae.SAID),
}
DAMAGES = {
    "scalar": lambda tensor: torch.tensor(1.0),
    "empty": lambda tensor: tensor[:0],
    "integers": lambda tensor: torch.ones(tensor.shape, dtype=torch.int64),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_every_weight_that_is_a_scalar_empty_or_of_integers_is_named(name, damage):
    shapes, said = FILES[name]
    weights = random_state(shapes)
    for key in (key for key in weights if ".1." not in key):
        with pytest.raises(CheckpointError, match=f"'{key}'".replace(".", r"\.")):
            opened(name, weights | {key: DAMAGES[damage](weights[key])}, **said)
