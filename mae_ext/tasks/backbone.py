"""An encoder's weights from what a task starts with into its model."""

from mae_ext.config import Config
from mae_ext.engine.start import opened
from mae_ext.interop.fit import STATISTICS, fitted, refuse
from mae_ext.interop.origin import Report
from mae_ext.model.mae import MAE


def load_backbone(model: MAE, config: Config) -> Report:
    """Every weight of `model`, an MAE that decodes nothing, from what config.init names, in place.

    Raises CheckpointError naming what could only be new: an encoder is loaded whole or not at all. What can be fitted
    (`interop.fit`: positions of another grid, another patch) is.
    """
    assert config.init is not None
    weights, report = fitted(opened(config.init), model, config)
    new = {name: why for name, (outcome, why) in report.rows.items() if outcome == "new"}
    own = model.state_dict()
    wrong = [f"{name} would be new: {why}" for name, why in new.items() if name.rpartition(".")[2] not in STATISTICS]
    refuse(report.where, "encoder", own, wrong)
    model.load_state_dict(weights)
    return report
