"""The loss of pretraining on held-out data, as curves beside the loss in training."""

import numpy as np

from mae_ext.report.curves import Series
from mae_ext.report.history import History


def held_out_losses(history: History) -> tuple[list[Series], list[Series]]:
    """To be drawn with the loss, and with the losses by modality; none of a task, which is judged by another loss.

    The sum is drawn where it is over the same modalities as in training.
    """
    if history.config is None or history.config.task.name != "pretrain":
        return [], []
    scores = history.evaluations
    steps, prefix = scores.get("step", np.empty(0)), "loss/"
    each = [
        Series(f"{name.removeprefix(prefix)}, held out", steps, values)
        for name, values in scores.items()
        if name.startswith(prefix)
    ]
    whole = "loss" in scores and len(history.config.modalities) in (1, len(each))
    return [Series("held out", steps, scores["loss"])] if whole else [], each
