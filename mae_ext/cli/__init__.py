"""The commands, a family in each file. Thin: each reads its arguments, calls the library, and prints what it returns.

Exit codes: 0 done, 1 failed, 2 the input is wrong (one line), 75 stopped by a signal after saving.
"""

# Each module adds its commands to `app`, and `--help` lists them in this order.
# isort: off
from mae_ext.cli import training, worth, runs, anomaly, weights, data, listing  # noqa: F401
# isort: on

from mae_ext.cli.app import app, main, run

__all__ = ["app", "main", "run"]
