"""An encoder's weights from what a task starts with into its model."""

from mae_ext.config import Config
from mae_ext.engine.start import opened
from mae_ext.interop.fit import STATISTICS, fitted, is_of_decoder, refuse
from mae_ext.interop.origin import Report
from mae_ext.model.mae import MAE


def load_backbone(model: MAE, config: Config) -> Report:
    """Every weight of `model`, an MAE, from what config.init names, in place.

    Raises CheckpointError naming what could only be new: an encoder is loaded whole or not at all. What can be fitted
    (`interop.fit`: positions of another grid, another patch) is. A decoder, where the task's loss asks for one, is
    that of the start, or new where that has none.
    """
    assert config.init is not None
    weights, report = fitted(opened(config.init), model, config)
    new = {n: why for n, (outcome, why) in report.rows.items() if outcome == "new" and not is_of_decoder(n)}
    own = {name: value for name, value in model.state_dict().items() if not is_of_decoder(name)}
    wrong = [f"{name} would be new: {why}" for name, why in new.items() if name.rpartition(".")[2] not in STATISTICS]
    refuse(report.where, "encoder", own, wrong)
    model.load_state_dict(weights)
    return report
