"""First weights."""

from torch import nn


def initialize(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform linear maps, zero biases (facebookresearch/mae, models_mae.py)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
