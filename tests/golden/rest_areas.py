"""The areas of the wide net: importing this registers them all."""

from golden import (
    rest_config,
    rest_engine,
    rest_model,
    rest_report,
    rest_runs,
    rest_scores,
    rest_surface,
    rest_tasks,
)

LOADED = (rest_surface, rest_config, rest_model, rest_engine, rest_scores, rest_tasks, rest_report, rest_runs)
